//! What cannot be written.

use occlude_encoder::Graph;
use occlude_saliency::MapRule;

use super::{Network, OnnxOptions, OutputKind, Pool, Precision, Projection, source};
use crate::Error;

/// What is said of pictures that patches do not fill.
pub(crate) const NO_WHOLE_PATCHES: &str =
    "the picture's side is not a multiple of the patch's; hint: `--image-size`";

/// What vision transformers cannot do, and ResNets.
fn check_arch(network: Network<'_>, options: &OnnxOptions) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Options { reason });
    let Some(vit) = network.encoder.arch.vit() else {
        return match options {
            OnnxOptions { pool: Pool::Mean | Pool::Both, .. } => refuse(
                "`--pool` is for vision transformers: a ResNet's embedding is the mean of its last map",
            ),
            OnnxOptions { outputs, .. } if outputs.contains(&OutputKind::Tokens) => {
                refuse("only vision transformers have the output `tokens`; hint: `res5`")
            }
            _ => Ok(()),
        };
    };
    if !(network.contract.crop as usize).is_multiple_of(vit.patch) {
        return refuse(NO_WHOLE_PATCHES);
    }
    if !options.fold {
        return refuse("a vision transformer has no batch normalisation; hint: leave out `--no-fold`");
    }
    if options.outputs.contains(&OutputKind::Projection) && options.pool != Pool::Class {
        return refuse("the projection head uses the class token; hint: leave out `--pool`");
    }
    if network.encoder.whitening.is_some() && options.pool != Pool::Class {
        return refuse("the checkpoint's whitening uses the class token; hint: leave out `--pool`");
    }
    if options.saliency.rule == MapRule::Alignment || options.outputs.contains(&OutputKind::Alignment) {
        return refuse("only ResNets have alignment maps; hint: `--saliency attention`");
    }
    Ok(())
}

/// What a map has to be made of.
fn check_map(network: Network<'_>, options: &OnnxOptions) -> Result<(), Error> {
    let graph = Graph::new(network.encoder.arch);
    let side = source(&graph, options.saliency)?.side(network.contract.crop as usize);
    let compared = matches!(options.saliency.rule, MapRule::Border | MapRule::Object);
    match compared && side < 3 && !options.dynamic_size {
        true => Err(Error::Options {
            reason: "a map of fewer than 3x3 cells has no middle; hint: use a smaller `--saliency-stage`, a larger `--image-size`, or `--saliency sum`",
        }),
        false => Ok(()),
    }
}

/// What excludes each other, and what the encoder cannot give.
pub(super) fn check(network: Network<'_>, options: &OnnxOptions) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Options { reason });
    if !options.fold && options.precision != Precision::Fp32 {
        return refuse("batch normalisation can only stay unfolded in fp32; hint: leave out `--no-fold`");
    }
    if options.outputs.is_empty() {
        return refuse("a model needs at least one output; hint: `--outputs embedding,saliency`");
    }
    check_arch(network, options)?;
    if options.outputs.contains(&OutputKind::Saliency) {
        check_map(network, options)?;
    }
    if network.projection.is_none() && options.outputs.contains(&OutputKind::Projection) {
        return refuse("the output `projection` needs the checkpoint's projection head");
    }
    let aligned = options.outputs.contains(&OutputKind::Alignment)
        || (options.outputs.contains(&OutputKind::Saliency) && options.saliency.rule == MapRule::Alignment);
    if aligned && network.projection.and_then(Projection::alignment).is_none() {
        return refuse(
            "alignment maps need the projection head of a method that makes them (LEWEL); hint: `--saliency object`",
        );
    }
    if options.saliency.rule == MapRule::Alignment && options.saliency.stage != 5 {
        return refuse("alignment maps come from stage 5; hint: leave out `--saliency-stage`");
    }
    Ok(())
}
