//! The pictures of a shard, one after the other.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use occlude_dataset::{MAX_PICTURE_BYTES, Part, parts};
use occlude_objects::Ranged;
use occlude_preprocess::names;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::input::{Input, Known, Shard, What, folder_class};

/// Files that are read side by side.
const AHEAD: usize = 16;
/// Most pictures of one sample of a tar. They wait for its class, and fewer of them may wait than the gate lets in.
const MAX_OF_SAMPLE: usize = 1000;
/// Pictures that are remembered by their content, about 50 bytes each.
const MAX_REMEMBERED: usize = 1 << 20;

/// The class of a picture, once it is known.
pub(super) type Class = Arc<OnceLock<Option<String>>>;

/// What there is of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Its file.
    Bytes(Bytes),
    /// The number of an earlier picture with the same bytes.
    Same(u64),
    /// Why it cannot be read.
    Broken(String),
}

/// A picture that was read.
pub(super) struct Item {
    /// Its number in the shard.
    pub(super) number: u64,
    pub(super) path: String,
    pub(super) class: Class,
    pub(super) content: Content,
    /// What the gate counts for it.
    pub(super) weight: u64,
}

/// Why a shard cannot be read to its end: nothing where the reader was stopped.
pub(super) type Ended = Option<String>;

/// Reads a shard.
pub(super) struct Source<'a> {
    pub(super) input: &'a Input,
    pub(super) shard: &'a Shard,
    pub(super) known: &'a Known,
    pub(super) runtime: &'a Handle,
    pub(super) gate: &'a Gate,
    /// Pictures by their content, where equal ones are encoded once.
    pub(super) remembered: Option<HashMap<[u8; 16], u64>>,
}

impl Source<'_> {
    /// Hands every picture to `send`, in order, until it says false.
    pub(super) fn read(mut self, send: &mut dyn FnMut(Item) -> bool) -> Result<(), Ended> {
        match &self.shard.what {
            What::Tar(path) => self.tar(path, send),
            What::Pictures(range) => self.pictures(range.clone(), send),
        }
    }

    fn tar(&mut self, path: &Path, send: &mut dyn FnMut(Item) -> bool) -> Result<(), Ended> {
        let Some(Some(stat)) = self.known.stats.first() else { return Err(Some("it is gone".to_owned())) };
        let store = Arc::clone(&self.input.store);
        let reader = Ranged::new(store, path.to_owned(), stat.clone(), self.runtime.clone());
        let (mut class, mut of_sample) = (Class::default(), 0);
        let mut stopped = false;
        let read = parts(reader, stat.bytes, |part| {
            let (name, len, content) = match part {
                Part::Class(text) => {
                    // a cell of its own for each sample: it is empty
                    let _ = class.set(text.map(|text| self.input.class(text)));
                    (class, of_sample) = (Class::default(), 0);
                    return Ok(());
                }
                Part::Picture { name, len, content, .. } => (name, len, content),
            };
            of_sample += 1;
            if of_sample > MAX_OF_SAMPLE {
                return Err(format!("a sample with more than {MAX_OF_SAMPLE} pictures"));
            }
            let weight = if len > MAX_PICTURE_BYTES { 0 } else { len };
            let number = self.gate.admit(weight);
            let Some(number) = number else {
                stopped = true;
                return Err(String::new());
            };
            let content = self.content(number, len, || whole(content, len)).map_err(|e| e.to_string())?;
            let path = format!("{}:{}", self.shard.name, names::escape(name));
            stopped = !send(Item { number, path, class: Arc::clone(&class), content, weight });
            if stopped { Err(String::new()) } else { Ok(()) }
        });
        read.map(drop).map_err(|reason| (!stopped).then_some(reason))
    }

    /// The content of a picture of `len` bytes, remembered by them where that is wanted.
    fn content(
        &mut self,
        number: u64,
        len: u64,
        read: impl FnOnce() -> io::Result<Bytes>,
    ) -> io::Result<Content> {
        if len > MAX_PICTURE_BYTES {
            return Ok(Content::Broken(format!(
                "{len} bytes: pictures may have at most {MAX_PICTURE_BYTES}"
            )));
        }
        let bytes = read()?;
        let Some(remembered) = &mut self.remembered else { return Ok(Content::Bytes(bytes)) };
        let hash = Sha256::digest(&bytes);
        let key = hash.first_chunk().copied().unwrap_or_default();
        if let Some(&first) = remembered.get(&key) {
            return Ok(Content::Same(first));
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(key, number);
        }
        Ok(Content::Bytes(bytes))
    }

    fn pictures(&mut self, range: Range<usize>, send: &mut dyn FnMut(Item) -> bool) -> Result<(), Ended> {
        let mut ahead = VecDeque::new();
        for (i, stat) in range.zip(&self.known.stats) {
            let Some(object) = self.input.pictures.get(i) else { break };
            let len = stat.as_ref().map_or(0, |stat| stat.bytes);
            let weight = if len > MAX_PICTURE_BYTES { 0 } else { len };
            // what waits here must go on before the gate can have room
            while ahead.len() >= AHEAD || !self.gate.fits(weight) {
                let Some(asked) = ahead.pop_front() else { break };
                self.pass_on(asked, send)?;
            }
            let number = self.gate.admit(weight).ok_or(None)?;
            let asked = stat.clone().filter(|_| len <= MAX_PICTURE_BYTES).map(|stat| {
                let (store, path) = (Arc::clone(&self.input.store), object.path.clone());
                self.runtime.spawn_blocking(move || store.read(&path, &stat, 0..stat.bytes))
            });
            ahead.push_back(Asked { number, i, len, weight, gone: stat.is_none(), asked });
        }
        ahead.into_iter().try_for_each(|asked| self.pass_on(asked, send))
    }

    fn pass_on(&mut self, asked: Asked, send: &mut dyn FnMut(Item) -> bool) -> Result<(), Ended> {
        let Asked { number, i, len, weight, gone, asked } = asked;
        let Some(object) = self.input.pictures.get(i) else { return Ok(()) };
        let runtime = self.runtime;
        let got = match asked {
            Some(asked) => runtime.block_on(asked).unwrap_or_else(|e| Err(io::Error::other(e))),
            None if gone => Err(io::ErrorKind::NotFound.into()),
            None => Ok(Bytes::new()),
        };
        let content = match self.content(number, len, || got) {
            Ok(content) => content,
            Err(e) if is_its_own(&e) => Content::Broken(e.to_string()),
            // a store that is gone says nothing about its pictures
            Err(e) => return Err(Some(format!("`{}`: {e}", self.input.store.name(&object.path)))),
        };
        let class = Class::default();
        // it is new, thus empty
        let _ = class.set(folder_class(&object.path));
        let path = names::relative(Path::new(""), &object.path);
        if send(Item { number, path, class, content, weight }) { Ok(()) } else { Err(None) }
    }
}

/// A file that is being read.
struct Asked {
    number: u64,
    i: usize,
    len: u64,
    weight: u64,
    gone: bool,
    asked: Option<JoinHandle<io::Result<Bytes>>>,
}

/// Whether a failure is a file's own, and will be the same next time.
fn is_its_own(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotFound, PermissionDenied, UnexpectedEof};
    matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | InvalidInput | UnexpectedEof)
}

fn whole(content: &mut dyn Read, len: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    content.take(len).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
