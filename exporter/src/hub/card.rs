//! The page of a model: what it is, how it was trained, how it is loaded.
//!
//! <https://huggingface.co/docs/hub/model-cards>

use std::fmt::Write as _;

use occlude_checkpoint::Encoder;
use occlude_encoder::Graph;
use occlude_preprocess::{Fit, Preprocess};
use serde_json::Value;

use super::Model;

/// What a page says besides what the encoder does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// The title.
    pub title: String,
    /// Licence of the weights, as SPDX names it.
    pub licence: Option<String>,
    /// How the weights came about: (what, value).
    pub facts: Vec<(String, String)>,
    /// Figures by where they come from: results of evaluations, numbers of the run.
    pub figures: Vec<(String, Value)>,
    /// The models of ONNX beside the weights.
    pub models: Vec<Model>,
}

impl Card {
    /// The page. `timm` is the folder of timm's layout below the model's, if there is one.
    pub(super) fn text(&self, encoder: &Encoder<'_>, contract: &Preprocess, timm: Option<&str>) -> String {
        let mut out = self.head();
        let dim = encoder.arch.feature_dim();
        let count: usize = Graph::new(encoder.arch)
            .params()
            .iter()
            .filter(|p| p.kind.trainable())
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        let _ = writeln!(
            out,
            "# {}\n\nAn image encoder ({}, {:.1} million parameters) that was written by Occlude. Its embedding has {dim} numbers; it is meant for \
             search, nearest neighbours and as a backbone, and has no classifier.\n",
            self.title,
            encoder.arch,
            count as f64 / 1e6
        );
        let sides = match contract.fit {
            Fit::Short => "short side",
            Fit::Squash => "both sides",
        };
        let size = format!("{sides} to {} px, centre {} px", contract.resize, contract.crop);
        let prepared =
            [("pictures", size), ("mean", numbers(contract.mean)), ("deviation", numbers(contract.std))];
        let facts = self.facts.iter().cloned();
        let rows = facts.chain(prepared.map(|(name, value)| (name.to_owned(), value)));
        table(&mut out, ["", ""], rows.collect());
        for (from, figures) in &self.figures {
            let _ = writeln!(out, "\n## Figures: {from}\n");
            table(&mut out, ["figure", "value"], flat(figures));
        }
        out + &usage(encoder, timm, &self.models)
    }

    /// What hubs read.
    fn head(&self) -> String {
        let licence = self.licence.iter().map(|licence| format!("license: {}\n", licence.to_lowercase()));
        format!(
            "---\n{}library_name: transformers\npipeline_tag: image-feature-extraction\ntags:\n- onnx\n- occlude\n---\n\n",
            licence.collect::<String>()
        )
    }
}

fn numbers(values: [f32; 3]) -> String {
    values.map(|value| value.to_string()).join(", ")
}

fn table(out: &mut String, head: [&str; 2], rows: Vec<(String, String)>) {
    // neither a bar nor an end of line may end a cell
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let [left, right] = head;
    let _ = writeln!(out, "| {left} | {right} |\n|---|---|");
    for (name, value) in rows {
        let _ = writeln!(out, "| {} | {} |", cell(&name), cell(&value));
    }
}

/// The numbers and words of an object, those of objects inside of it below their names.
fn flat(value: &Value) -> Vec<(String, String)> {
    let Value::Object(all) = value else { return vec![] };
    let row = |(key, value): (&String, &Value)| match value {
        Value::Object(_) => {
            flat(value).into_iter().map(|(inner, value)| (format!("{key}: {inner}"), value)).collect()
        }
        Value::Number(number) => vec![(key.clone(), number.to_string())],
        Value::String(text) => vec![(key.clone(), text.clone())],
        Value::Null | Value::Bool(_) | Value::Array(_) => vec![],
    };
    all.iter().flat_map(row).collect()
}

fn usage(encoder: &Encoder<'_>, timm: Option<&str>, models: &[Model]) -> String {
    let pooled = match encoder.arch.vit() {
        Some(_) => "the class token",
        None => "the mean over the last feature map",
    };
    let mut out = format!(
        "\n## Use\n\nThe embedding is {pooled}, scaled to length one. With transformers (`FOLDER` is this folder):\n\n```python\nfrom PIL import Image\n\
         from transformers import AutoImageProcessor, AutoModel\n\nprocessor = AutoImageProcessor.from_pretrained(FOLDER)\n\
         model = AutoModel.from_pretrained(FOLDER).eval()\npixels = processor(Image.open(\"photo.jpg\").convert(\"RGB\"), \
         return_tensors=\"pt\")\nembedding = model(**pixels).pooler_output.flatten(1)\nembedding = embedding / embedding.norm(dim=1, keepdim=True)\n```\n"
    );
    if let Some(folder) = timm {
        let _ = writeln!(
            out,
            "\nWith timm:\n\n```python\nimport timm\n\nmodel = timm.create_model(f\"local-dir:{{FOLDER}}{folder}\", pretrained=True).eval()\n\
             transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n```"
        );
    }
    let names: Vec<String> = models.iter().map(|model| format!("`{}`", model.path().display())).collect();
    let _ = writeln!(
        out,
        "\nIn ONNX Runtime: {} take `pixel_values` and give `embedding`, of length one, and `saliency`, a map of where the object is. \
         `occlude-serve --model` serves them.",
        names.join(", ")
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_flat_rows_of_numbers_and_words() {
        let rows = flat(&json!({"knn": {"k=1": 45.5}, "task": "a|b\nc", "list": [1], "done": true}));
        assert_eq!(rows, [("knn: k=1".into(), "45.5".into()), ("task".into(), "a|b\nc".into())]);
        let mut out = String::new();
        table(&mut out, ["a", "b"], rows);
        assert!(out.ends_with("| knn: k=1 | 45.5 |\n| task | a\\|b c |\n"), "{out}");
    }

    #[test]
    fn the_licence_is_what_hubs_read() {
        let card = Card { licence: Some("MIT".to_owned()), ..Card::default() };
        assert!(card.head().starts_with("---\nlicense: mit\n"));
        assert!(!Card::default().head().contains("license"));
    }
}
