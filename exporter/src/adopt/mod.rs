//! Models of other projects, made into models as the server takes them.
//!
//! The graph and its weights pass through byte by byte (`source`, `write`); added are the operations between one of
//! its outputs and an embedding (`nodes`), the contract, and the golden picture with the model's own answer, which is
//! accepted only if it does not depend on what else is in a batch (`check`). What cannot be honoured exactly is refused
//! ([`Refusal`]).

mod check;
mod choice;
mod nodes;
mod plain;
mod source;
mod wire;
mod write;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use occlude_contract::{Golden, key};
use occlude_preprocess::{ContractFileError, Preprocess};
use sha2::{Digest, Sha256};

pub use choice::{Asked, Choice, Pooling};
pub(crate) use plain::embeddings;

use crate::Error;
use crate::onnx::{MAX_MESSAGE, data_file};
use crate::proto::Message;
use crate::refusal::{OPSETS, Refusal};
use source::{Files, Source};
use write::{Draft, Pieces};

/// Told apart from other hashes, and from later definitions of these.
const FINGERPRINT: &str = "occlude.adopted 1";

/// Bytes that golden data may take: a picture of 640 pixels, and an embedding.
const GOLDEN_ROOM: u64 = 1 << 22;

/// The folder in which hubs keep ONNX files, below the processor.
const ONNX_FOLDER: &str = "onnx";

/// How to take a model over.
#[derive(Clone, Debug, Default)]
pub struct AdoptOptions {
    /// A file with a contract in it, or the name of one; default: `preprocessor_config.json` beside the model, or above
    /// its folder `onnx`.
    pub contract: Option<String>,
    /// Which output, and what of it.
    pub asked: Asked,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// Weights into a file of their own, also where one file would do.
    pub external_data: bool,
    /// Replace what is there.
    pub force: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What the embedding is made of.
    pub choice: Choice,
    /// How its pictures are prepared.
    pub contract: Preprocess,
    /// The file of its weights, where they are not in the model's.
    pub data: Option<PathBuf>,
    /// Numbers of an embedding.
    pub dim: usize,
    /// `fp32`, `fp16` or `int8`.
    pub precision: &'static str,
    /// Whether the original took a fixed number of pictures, and this one takes any.
    pub freed: bool,
    /// Hash over the original and the contract.
    pub fingerprint: String,
    /// Hash over that and what the embedding is made of.
    pub identity: String,
}

/// Writes the model at `path` to `out` as a model of ours.
///
/// # Errors
/// [`Error::Adopt`] for what cannot be honoured exactly, and [`Error`] where a file cannot be read or written or there is
/// no ONNX Runtime. Nothing is written then.
pub fn adopt(path: &Path, out: &Path, options: &AdoptOptions) -> Result<Adopted, Error> {
    let files = Files::open(path)?;
    let inputs = files.paths();
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    occlude_output::check(&[out], &inputs, options.force)?;
    let source = files.read()?;
    fit(&source).map_err(|reason| Error::refused(path, reason))?;
    let contract = contract(path, options.contract.as_deref())?;
    let chosen = choice::choose(&source, contract.crop, &options.asked);
    let chosen = chosen.map_err(|reason| Error::refused(path, reason))?;
    let fingerprint = fingerprint(&files, &source, &contract);
    let identity = identity(&fingerprint, &chosen.choice);
    let hashes = [fingerprint.as_str(), identity.as_str()];
    let metadata = properties(path, &contract, options, (&chosen.choice, source.precision, hashes));
    let draft = Draft { source: &source, chosen: &chosen, crop: contract.crop, metadata };
    let large = draft.model(None).len() + GOLDEN_ROOM > MAX_MESSAGE;
    let apart = !source.external.is_empty() && (options.external_data || large);
    let data = apart.then(|| data_file(out));
    if let Some(data) = &data {
        occlude_output::check(&[data], &[&inputs[..], &[out]].concat(), options.force)?;
    }
    let scratch = Scratch::beside(out)?;
    scratch.write(&draft, data.as_deref())?;
    let subject = check::Subject { contract: &contract, fixed: chosen.fixed, precision: source.precision };
    let golden = check::golden(&scratch.path(out), &subject)?;
    let golden = golden.map_err(|reason| Error::refused(path, reason))?;
    scratch.append(&golden)?;
    scratch.place(data.as_deref())?;
    Ok(Adopted {
        dim: golden.embedding.len(),
        precision: source.precision,
        freed: chosen.fixed,
        choice: chosen.choice,
        contract,
        data,
        fingerprint,
        identity,
    })
}

/// What can be said before the contract is known.
fn fit(source: &Source<'_>) -> Result<(), Refusal> {
    if source.metadata.iter().any(|(key, _)| key == key::PREPROCESS) {
        return Err(Refusal::Ours);
    }
    match OPSETS.contains(&source.opset) {
        true => Ok(()),
        false => Err(Refusal::Opset { found: source.opset }),
    }
}

/// The contract that is asked for, else the processor's beside the model.
fn contract(path: &Path, asked: Option<&str>) -> Result<Preprocess, Error> {
    let found = match asked {
        Some(asked) => Some(Preprocess::named_or_read_exactly(asked)?),
        None => beside(path)?,
    };
    let contract = found.ok_or_else(|| Error::refused(path, Refusal::NoContract))?;
    match contract.high_pass {
        Some(_) => Err(Error::refused(path, Refusal::HighPass)),
        None => Ok(contract),
    }
}

/// Beside the file or, where that is a link, beside what it leads to: the caches of hubs have the contents elsewhere and no
/// processor there, other links have theirs.
fn beside(path: &Path) -> Result<Option<Preprocess>, ContractFileError> {
    match in_folder_of(path)? {
        None => path.canonicalize().map_or(Ok(None), |target| in_folder_of(&target)),
        found => Ok(found),
    }
}

fn in_folder_of(path: &Path) -> Result<Option<Preprocess>, ContractFileError> {
    // A bare file name does not show what its folder is called.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = folder.canonicalize() else { return Ok(None) };
    let above = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == ONNX_FOLDER));
    match Preprocess::of_folder_exactly(&folder)? {
        None => above.map_or(Ok(None), Preprocess::of_folder_exactly),
        found => Ok(found),
    }
}

/// Over the original as it is, with the weights beside it, and the contract.
pub(crate) fn fingerprint_of(original: &Path, contract: &Preprocess) -> Result<String, Error> {
    let files = Files::open(original)?;
    Ok(fingerprint(&files, &files.read()?, contract))
}

fn fingerprint(files: &Files, source: &Source<'_>, contract: &Preprocess) -> String {
    let mut hash = Sha256::new_with_prefix(FINGERPRINT);
    let json = contract.to_json();
    hash.update((json.len() as u64).to_le_bytes());
    hash.update(json);
    files.hash(source, &mut hash);
    hexadecimal(hash)
}

/// Over that and what the embedding is made of: what decides the numbers.
fn identity(fingerprint: &str, choice: &Choice) -> String {
    let mut hash = Sha256::new_with_prefix(FINGERPRINT);
    hash.update(fingerprint);
    hash.update(serde_json::json!(choice).to_string());
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the file says about itself, but for the golden picture.
fn properties(
    path: &Path,
    contract: &Preprocess,
    options: &AdoptOptions,
    (choice, precision, [fingerprint, identity]): (&Choice, &str, [&str; 2]),
) -> Vec<(String, String)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pairs = [
        (key::PREPROCESS, Some(contract.to_json())),
        (key::ENCODER, Some("onnx".to_owned())),
        (key::FINGERPRINT, Some(fingerprint.to_owned())),
        (key::IDENTITY, Some(identity.to_owned())),
        (key::CHECKPOINT, Some(name)),
        (key::LICENCE, options.licence.clone()),
        (key::NORMALIZED, Some(choice.normalize.to_string())),
        (key::PRECISION, Some(precision.to_owned())),
        (key::ADOPTED, Some(serde_json::json!(choice).to_string())),
        (key::VERSION, Some(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// A folder beside the target, in which the model is tried before it takes the target's name; it goes with this value.
struct Scratch {
    folder: PathBuf,
    target: PathBuf,
}

impl Scratch {
    fn beside(target: &Path) -> Result<Self, Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let folder = target.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        fs::create_dir(&folder).map_err(unwritten(target))?;
        Ok(Self { folder, target: target.to_owned() })
    }

    /// Where a file of that name is meanwhile.
    fn path(&self, file: &Path) -> PathBuf {
        self.folder.join(file.file_name().unwrap_or_default())
    }

    /// Writes the model, and its weights where they have a file of their own.
    fn write(&self, draft: &Draft<'_, '_>, data: Option<&Path>) -> Result<(), Error> {
        let name = data.map(|data| data.file_name().unwrap_or_default().to_string_lossy().into_owned());
        if let Some(data) = data {
            self.file(data, &draft.data())?;
        }
        self.file(&self.target, &draft.model(name.as_deref()))
    }

    fn file(&self, file: &Path, pieces: &Pieces<'_>) -> Result<(), Error> {
        let written = || {
            let mut out = BufWriter::new(File::create(self.path(file))?);
            pieces.write_to(&mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
        };
        written().map_err(unwritten(file))
    }

    /// Golden data goes behind the model: repeated fields may stand anywhere in a message.
    fn append(&self, golden: &Golden) -> Result<(), Error> {
        let field = |m: Message<'static>, (key, value): (&str, String)| {
            m.message(source::number::METADATA as u32, Message::default().text(1, key).text(2, &value))
        };
        let bytes = Message::default().each(golden.properties(), field).bytes();
        let appended = || {
            let mut out = File::options().append(true).open(self.path(&self.target))?;
            out.write_all(&bytes)?;
            out.sync_all()
        };
        appended().map_err(unwritten(&self.target))
    }

    /// Gives the files their names; the model, which names the other, comes last.
    fn place(&self, data: Option<&Path>) -> Result<(), Error> {
        for file in data.into_iter().chain([self.target.as_path()]) {
            fs::rename(self.path(file), file).map_err(unwritten(file))?;
        }
        let folder = self.folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritten(&self.target))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn unwritten(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |reason| Error::Write { path: path.clone(), reason }
}
