//! Which input takes the picture, and which output is the embedding.

use occlude_contract::{InputKind, output};
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::proto::read::{BFLOAT16, FLOAT, FLOAT16, Value, element_name};
use crate::refusal::Refusal;

/// What of a model's answer the embedding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token of `last_hidden_state`, the class token
    Cls,
    /// The mean of the tokens of `last_hidden_state`, or of a feature map (N, C, h, w)
    Mean,
    /// `pooler_output`
    Pooler,
}

/// The output that transformers calls pooled.
const POOLER: &str = "pooler_output";

/// What the embedding is made of, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Input of the original that takes the picture.
    pub input: String,
    /// Output of the original.
    pub output: String,
    /// What of it; `None` where it is a vector already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pooling>,
    /// Tokens at the beginning that the mean leaves out.
    #[serde(default)]
    pub skip: usize,
    /// Scaled to length one.
    pub normalize: bool,
}

/// What the user says about it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name of the output.
    pub output: Option<String>,
    /// What of it.
    pub pool: Option<Pooling>,
    /// Tokens at the beginning that the mean leaves out.
    pub skip: usize,
    /// Leave the length as it is.
    pub keep_length: bool,
}

/// A choice with what the graph says about both ends.
pub(super) struct Chosen {
    pub(super) choice: Choice,
    /// Whether the original takes a fixed number of pictures.
    pub(super) fixed: bool,
    /// Sides of the output behind the batch: 1 for vectors, 2 for tokens, 3 for maps.
    pub(super) rank: usize,
    /// Length of the embedding, where the graph says it.
    pub(super) dim: Option<usize>,
}

/// Type and sides of a value; a side is `None` where it is not fixed.
struct Tensor {
    element: i32,
    sides: Vec<Option<i64>>,
}

impl Tensor {
    fn of(value: &Value) -> Self {
        let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        let sides = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.sides.as_slice()).unwrap_or_default();
        // Some exporters write -1 for any.
        let sides = sides.iter().map(|side| side.number.filter(|n| *n > 0)).collect();
        Self { element: tensor.map_or(0, |t| t.element), sides }
    }

    fn text(&self) -> String {
        let sides = self.sides.iter().map(|s| s.map_or("any".to_owned(), |n| n.to_string()));
        format!("{} ({})", element_name(self.element), sides.collect::<Vec<_>>().join(", "))
    }
}

fn names(values: &[Value]) -> String {
    let all: Vec<String> = values.iter().map(|v| format!("`{}`", v.name)).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// Finds both ends.
///
/// # Errors
/// [`Refusal`] where they are not what a model of ours has, or in doubt.
pub(super) fn choose(source: &Source<'_>, crop: u32, asked: &Asked) -> Result<Chosen, Refusal> {
    let [input] = source.inputs.as_slice() else {
        return Err(Refusal::Inputs { found: names(&source.inputs) });
    };
    let fixed = picture(input, crop)?;
    let output = output(&source.outputs, asked)?;
    let tensor = Tensor::of(output);
    let (rank, pool) = pooled(&output.name, &tensor, asked)?;
    let width = if rank == 3 { tensor.sides.get(1) } else { tensor.sides.last() };
    let dim = width.copied().flatten().and_then(|n| usize::try_from(n).ok());
    let choice = Choice {
        input: input.name.clone(),
        output: output.name.clone(),
        pool,
        skip: asked.skip,
        normalize: !asked.keep_length,
    };
    free(source, &choice)?;
    Ok(Chosen { choice, fixed, rank, dim })
}

/// Whether the input takes a fixed number of pictures.
fn picture(input: &Value, crop: u32) -> Result<bool, Refusal> {
    let tensor = Tensor::of(input);
    let refuse = |hint| Err(Refusal::Input { name: input.name.clone(), found: tensor.text(), crop, hint });
    match tensor.element {
        FLOAT => {}
        FLOAT16 | BFLOAT16 => {
            return refuse("take the file in single precision, or one that keeps its inputs in it");
        }
        _ => return refuse("the input has to be a normalised picture"),
    }
    let &[batch, channels, height, width] = tensor.sides.as_slice() else {
        return refuse("the input has to be a picture of four sides");
    };
    if width == Some(3) && channels != Some(3) {
        return refuse("export it with the channels first");
    }
    if channels.is_some_and(|n| n != 3) {
        return refuse("only models of RGB pictures can be served");
    }
    let (side, same) = (i64::from(crop), |n: Option<i64>| n.is_none_or(|n| n == i64::from(crop)));
    if !same(height) || !same(width) {
        return refuse(match (height, width) {
            (Some(h), Some(w)) if h != w && h != side => "pictures that are not square are not supported",
            _ => "give the contract that the model was trained with, by `--contract`",
        });
    }
    Ok(batch.is_some())
}

/// The output that is meant.
fn output<'s>(outputs: &'s [Value], asked: &Asked) -> Result<&'s Value, Refusal> {
    let named = |name: &str| outputs.iter().find(|o| o.name == name);
    let missing = |name: &str| Refusal::NoOutput { name: name.to_owned(), found: names(outputs) };
    if let Some(name) = &asked.output {
        return named(name).ok_or_else(|| missing(name));
    }
    if asked.pool == Some(Pooling::Pooler) {
        return named(POOLER).ok_or_else(|| missing(POOLER));
    }
    // The mean and the class token are of tokens or maps, whatever vectors stand beside them.
    let fits = |o: &&Value| asked.pool.is_none() || Tensor::of(o).sides.len() > 2;
    let fitting: Vec<_> = outputs.iter().filter(fits).collect();
    match fitting.as_slice() {
        &[one] => Ok(one),
        [] => Err(Refusal::NoOutput { name: "last_hidden_state".to_owned(), found: names(outputs) }),
        several => {
            let each = several.iter().map(|o| format!("`{}`, {}", o.name, Tensor::of(o).text()));
            let candidates = each.collect::<Vec<_>>().join(" or ");
            let pool = if named(POOLER).is_some() { ", `--pool pooler` its `pooler_output`" } else { "" };
            Err(Refusal::Ambiguous { candidates, pool })
        }
    }
}

/// How many sides an output has behind the batch, and what of it is the embedding.
fn pooled(name: &str, tensor: &Tensor, asked: &Asked) -> Result<(usize, Option<Pooling>), Refusal> {
    let refuse =
        |expected, hint| Err(Refusal::Output { name: name.to_owned(), found: tensor.text(), expected, hint });
    if tensor.element != FLOAT {
        return refuse("floats of 32 bits", "take the file in single precision");
    }
    let vector = "a vector per picture";
    let asked_pool = asked.pool.filter(|pool| *pool != Pooling::Pooler);
    let skips = asked.skip > 0 && (tensor.sides.len() != 3 || asked_pool != Some(Pooling::Mean));
    if skips {
        return refuse("tokens and `--pool mean`", "`--skip-tokens` says what the mean of tokens leaves out");
    }
    match (tensor.sides.len(), asked_pool) {
        (2, None) => Ok((1, None)),
        (2, Some(_)) => refuse("tokens or a map", "leave out `--pool`: it is a vector already"),
        (3, Some(pool)) => Ok((2, Some(pool))),
        (3, None) => {
            refuse(vector, "these are tokens: `--pool cls` takes the first, `--pool mean` their mean")
        }
        (4, Some(Pooling::Mean)) => Ok((3, Some(Pooling::Mean))),
        (4, _) => refuse(vector, "this is a map: `--pool mean` takes its mean"),
        (0, _) => refuse(
            "a shape in the graph",
            "`onnx.shape_inference.infer_shapes` finds it, or `--output` names another one",
        ),
        _ => refuse("a vector, tokens or a map per picture", "`--output` names another one"),
    }
}

/// The names that a model of ours has must be free in the graph, unless they mean the same.
fn free(source: &Source<'_>, choice: &Choice) -> Result<(), Refusal> {
    for (name, what, same) in [
        (InputKind::Float.name(), "the input", &choice.input),
        (output::EMBEDDING, "the output", &choice.output),
    ] {
        if same != name && (source.values.contains(name) || source.inputs.iter().any(|i| i.name == name)) {
            return Err(Refusal::Name { name, what });
        }
    }
    Ok(())
}
