//! Checkpoints.

use occlude_checkpoint::{
    Checkpoint, Encoder, EncoderData, LoadOptions, check_values, load_encoder_as_is, meta,
};
use occlude_encoder::{Graph, Param, layout};
use serde_json::{Value, json};

use super::{Inspection, Lines, size};
use crate::{ContractOverrides, Error, contract_of};

/// Encoders that the text form lists; a hostile file can have any number.
const LISTED: usize = 16;

pub(super) fn look(file: &Checkpoint, options: &LoadOptions) -> Result<Inspection, Error> {
    let contract = Contract::of(file);
    let encoder = load_encoder_as_is(file, options);
    let mut lines = Lines::default();
    lines.add(
        "file",
        format!("{} ({}, {})", file.path().display(), size(file.file_len() as u64), file.format()),
    );
    match &encoder {
        Ok(encoder) => {
            lines.add("encoder", format!("{} from {}: {}", encoder.arch, encoder.layout, encoder.report));
            encoder.whitening.iter().for_each(|whitening| lines.add("embeddings", whitening));
            if let Ok(Contract { json, .. }) = &contract {
                lines.add("fingerprint", fingerprint_text(file, encoder, json));
            }
            for problem in value_problems(file, encoder) {
                lines.add("values", problem);
            }
        }
        Err(reason) => lines.add("encoder", format!("none: {reason}")),
    }
    let found: Vec<String> = layout::candidates(file.names()).into_iter().map(|l| l.to_string()).collect();
    if found.len() > 1 {
        let more = found.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more; see --json") } else { String::new() };
        lines.add("encoders", found.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ") + &more);
    }
    lines.add(
        "contract",
        match &contract {
            Ok(Contract { json, assumed: true }) => format!("{json} (assumed: the file has none)"),
            Ok(Contract { json, assumed: false }) => json.clone(),
            Err(reason) => format!("none: {reason}"),
        },
    );
    for (key, value) in file.metadata() {
        lines.add_cut("metadata", &format!("{key} = {value}"));
    }
    for skipped in file.skipped() {
        lines.add("not read", format!("{}: {}", skipped.name, skipped.reason));
    }
    let values: usize = file.tensors().map(|t| t.len()).sum();
    lines.add("tensors", format!("{} with {values} values", file.names().count()));
    let row = |t: occlude_checkpoint::Tensor<'_>| [t.name.to_owned(), t.dtype.to_string(), shape(t.shape)];
    lines.table(["name", "type", "shape"], &file.tensors().map(row).collect::<Vec<_>>());
    Ok(Inspection { text: lines.0, json: json(file, &encoder, &contract) })
}

/// How pictures are prepared, as the other commands take it where nothing else is asked for.
struct Contract {
    json: String,
    /// Nothing says it.
    assumed: bool,
}

impl Contract {
    /// One that cannot be read, whose reason this gives, hides nothing of the rest of a checkpoint.
    fn of(file: &Checkpoint) -> Result<Self, String> {
        match contract_of(file, &ContractOverrides::default()) {
            Ok((contract, note)) => Ok(Self { json: contract.to_json(), assumed: note.is_some() }),
            // Without its hint, which is about a flag of other commands.
            Err(Error::ContractFile(reason)) => {
                Err(format!("{reason}; hint: `occlude-export onnx --contract` takes another one"))
            }
            Err(reason) => Err(reason.to_string()),
        }
    }
}

/// Parameters with values for which no command would take the encoder.
fn value_problems(file: &Checkpoint, encoder: &Encoder<'_>) -> Vec<String> {
    let check = |param: &Param| match &encoder.tensors.get(&param.name)?.data {
        EncoderData::Stored(tensor) => check_values(file.path(), param.kind, tensor).err(),
        _ => None,
    };
    Graph::new(encoder.arch).params().iter().filter_map(check).map(|error| error.to_string()).collect()
}

fn shape(sides: &[usize]) -> String {
    let sides: Vec<String> = sides.iter().map(usize::to_string).collect();
    format!("({})", sides.join(", "))
}

/// The fingerprint, and whether the file agrees.
fn fingerprint_text(file: &Checkpoint, encoder: &Encoder<'_>, contract: &str) -> String {
    let computed = encoder.fingerprint(contract);
    match file.metadata().get(meta::FINGERPRINT) {
        None => computed,
        Some(stored) if *stored == computed => format!("{computed} (as in the metadata)"),
        Some(stored) => format!("{computed} (the metadata says {stored})"),
    }
}

fn json(
    file: &Checkpoint,
    encoder: &Result<Encoder<'_>, occlude_checkpoint::Error>,
    contract: &Result<Contract, String>,
) -> Value {
    let said = contract.as_ref().ok();
    let encoder = match encoder {
        Ok(e) => json!({
            "arch": e.arch.name(),
            "prefix": e.layout.prefix,
            "project": e.layout.project(),
            "matched": e.report.matched,
            "missing": e.report.missing,
            "unused": e.report.unused,
            "surplus": e.report.surplus,
            "bad_values": value_problems(file, e),
            "embedding": e.embedding_dim(),
            "whitening": e.whitening.as_ref().map(|w| json!({
                "from": w.inputs(), "to": w.outputs(), "center_only": w.weight().is_none(), "info": w.info(),
            })),
            "fingerprint": said.map(|contract| e.fingerprint(&contract.json)),
        }),
        Err(reason) => json!({ "error": reason.to_string() }),
    };
    let tensors = file.tensors().map(
        |t| json!({ "name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape, "bytes": t.byte_len() }),
    );
    let skipped = file.skipped().iter().map(|s| json!({ "name": s.name, "reason": s.reason }));
    let prefixes = layout::candidates(file.names()).into_iter().map(|l| l.prefix);
    json!({
        "kind": "checkpoint",
        "path": file.path().display().to_string(),
        "bytes": file.file_len(),
        "format": file.format().to_string(),
        "encoder": encoder,
        "encoders": prefixes.collect::<Vec<_>>(),
        "contract": said.map(|contract| serde_json::from_str::<Value>(&contract.json).unwrap_or_default()),
        "contract_assumed": said.is_some_and(|contract| contract.assumed),
        "contract_error": contract.as_ref().err(),
        "metadata": file.metadata(),
        "skipped": skipped.collect::<Vec<_>>(),
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_checkpoint::{TensorOut, save_safetensors};
    use std::collections::BTreeMap;

    #[test]
    fn a_contract_that_cannot_be_read_is_a_line_of_the_report() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let tensors = [TensorOut::f32("conv1.weight", [1], &[1.0])];
        save_safetensors(&path, &tensors, &BTreeMap::new()).expect("written");
        let look = || {
            let file = Checkpoint::open(&path).expect("opens");
            super::look(&file, &LoadOptions::default()).expect("looked into")
        };
        assert_eq!(look().json()["contract_assumed"], true);
        let processor = folder.path().join("preprocessor_config.json");
        std::fs::write(processor, r#"{"image_mean": [0, 0, 0], "do_pad": true}"#).expect("written");
        let found = look();
        for part in ["contract     none: `", "`do_pad` is true", "1 with 1 values", "conv1.weight"] {
            assert!(found.to_string().contains(part), "no `{part}` in {found}");
        }
        let json = found.json();
        assert!(json["contract"].is_null() && json["contract_assumed"] == false, "{json}");
        assert!(json["contract_error"].as_str().is_some_and(|e| e.contains("`do_pad` is true")), "{json}");
    }
}
