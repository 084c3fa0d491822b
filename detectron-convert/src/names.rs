//! The encoder inside a Detectron2 file, by torchvision's names.
//!
//! A pickle for pretraining has bare names (`stem.conv1.weight`, `res2.0.conv1.weight`). A trained detector
//! keeps the encoder below `backbone.` (C4) or `backbone.bottom_up.` (FPN), and C4 has its last stage at
//! `roi_heads.res5.`.

use std::collections::{BTreeMap, BTreeSet};

use occlude_checkpoint::{Checkpoint, LoadReport, MisShaped, Tensor};
use occlude_encoder::{Arch, Graph, Param, ParamKind, detectron};

use crate::error::Error;
use crate::recipe::detectrons;

/// Where the encoder's names can sit, the longer ones first; and what the rest must begin with.
const PLACES: [(&str, &str); 4] =
    [("backbone.bottom_up.", ""), ("backbone.", ""), ("roi_heads.", "res5."), ("", "")];

/// The tensors of a file that are an encoder's, and the others.
pub(crate) struct Named<'a> {
    /// By torchvision's names.
    pub(crate) encoder: BTreeMap<String, Tensor<'a>>,
    /// What is no encoder parameter, as the file names it.
    pub(crate) others: Vec<&'a str>,
}

/// A file held against an architecture.
pub(crate) struct Match {
    pub(crate) arch: Arch,
    /// By torchvision's names, which are what `missing` and `unused` list.
    pub(crate) report: LoadReport,
}

impl<'a> Named<'a> {
    /// Sorts the tensors of a file.
    ///
    /// # Errors
    /// [`Error::TwoNames`] where two tensors would be one parameter, as in a file with two detectors.
    pub(crate) fn of(checkpoint: &'a Checkpoint) -> Result<Self, Error> {
        let mut encoder: BTreeMap<String, Tensor<'a>> = BTreeMap::new();
        let mut others = Vec::new();
        for tensor in checkpoint.tensors() {
            let Some(name) = torchvision_name(tensor.name) else {
                others.push(tensor.name);
                continue;
            };
            if let Some(first) = encoder.insert(name.clone(), tensor) {
                let path = checkpoint.path().to_owned();
                let (first, second) = (first.name.to_owned(), tensor.name.to_owned());
                return Err(Error::TwoNames { path, name, first, second });
            }
        }
        Ok(Self { encoder, others })
    }

    /// Against the architecture that was asked for, or else the one that fits best.
    pub(crate) fn against(&self, asked: Option<Arch>) -> Match {
        let fits = |&arch: &Arch| {
            let report = self.compare(arch);
            report.missing.len() + report.mis_shaped.len() + report.unused.len()
        };
        let known = || Arch::ALL.into_iter().filter(|&arch| detectrons(arch).is_ok());
        let arch = asked.or_else(|| known().min_by_key(fits)).unwrap_or(Arch::ResNet50);
        Match { arch, report: self.compare(arch) }
    }

    fn compare(&self, arch: Arch) -> LoadReport {
        let params = Graph::new(arch).params();
        let mut report = LoadReport::default();
        for param in &params {
            match self.encoder.get(&param.name) {
                Some(tensor) if has_shape(param, tensor.shape) => report.matched += 1,
                Some(tensor) => report.mis_shaped.push(MisShaped {
                    name: param.name.clone(),
                    expected: param.shape.clone(),
                    got: tensor.shape.to_vec(),
                }),
                // Files of old PyTorch have no counters, and nothing depends on them.
                None if param.kind == ParamKind::BnCount => {}
                None => report.missing.push(param.name.clone()),
            }
        }
        let own: BTreeSet<&str> = params.iter().map(|p| p.name.as_str()).collect();
        report.unused = self.encoder.keys().filter(|name| !own.contains(name.as_str())).cloned().collect();
        report
    }
}

/// A counter may also be one element instead of a scalar.
fn has_shape(param: &Param, shape: &[usize]) -> bool {
    param.shape == shape || (param.kind == ParamKind::BnCount && shape == [1])
}

/// torchvision's name of a tensor of a Detectron2 file, `None` where it is not the encoder's.
fn torchvision_name(name: &str) -> Option<String> {
    PLACES.iter().find_map(|(prefix, then)| {
        let rest = name.strip_prefix(prefix)?;
        rest.starts_with(then).then(|| detectron::to_torchvision(rest)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place() {
        for name in ["", "backbone.", "backbone.bottom_up.", "roi_heads."] {
            let found = torchvision_name(&format!("{name}res5.0.conv1.norm.bias"));
            assert_eq!(found.as_deref(), Some("layer4.0.bn1.bias"), "{name}");
        }
        assert_eq!(torchvision_name("backbone.stem.conv1.weight").as_deref(), Some("conv1.weight"));
    }

    #[test]
    fn the_detector_is_not_the_encoder() {
        for name in [
            "backbone.fpn_lateral2.weight",
            "roi_heads.res5.norm.weight",
            "roi_heads.res4.0.conv1.weight",
            "roi_heads.box_head.conv1.weight",
            "proposal_generator.rpn_head.conv.weight",
            "stem.fc.0.weight",
            "optimizer.res5.0.conv1.weight",
        ] {
            assert_eq!(torchvision_name(name), None, "{name}");
        }
    }
}
