//! From the pictures of a shard to the rows of its table, in the shard's order: one thread reads, several decode, the
//! model's own encode, and the calling one writes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use occlude_preprocess::decode;
use parking_lot::Mutex;

use super::gate::Gate;
use super::source::{Class, Content, Item, Source};
use crate::config::Limits;
use crate::inference::batcher::Reply;
use crate::inference::bulk::submit;
use crate::inference::encode::{EncodeError, NOT_FINITE, Wants};
use crate::inference::model::Model;
use crate::tools::table::Row;
use crate::tools::{ToolError, file_error};

/// What became of the pictures of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All of them.
    pub(super) rows: usize,
    /// Those that have a reason in place of an embedding.
    pub(super) broken: usize,
    /// Those that have the embedding of an earlier one with the same bytes.
    pub(super) copied: usize,
    /// What is wrong with the first broken one.
    pub(super) first_broken: Option<String>,
}

/// Why a shard was not embedded.
pub(super) enum Stopped {
    /// It cannot be read.
    Shard(String),
    /// Nothing can go on.
    Everything(ToolError),
}

/// What is known of a picture.
enum Answer {
    Coming(Reply),
    Embedding(Vec<f32>),
    Same(u64),
    Broken(String),
}

struct Done {
    number: u64,
    path: String,
    class: Class,
    answer: Answer,
}

/// What encodes.
pub(super) struct Encoder<'a> {
    pub(super) model: &'a Model,
    pub(super) limits: &'a Limits,
}

impl Encoder<'_> {
    /// Embeds a shard and hands its rows to `keep`. With `once`, pictures with equal bytes are encoded once.
    pub(super) fn embed(
        &self,
        mut source: Source<'_>,
        once: bool,
        keep: &mut dyn FnMut(Row) -> Result<(), ToolError>,
    ) -> Result<Counts, Stopped> {
        let gate = source.gate;
        source.remembered = once.then(HashMap::new);
        let (items, decoders) = sync_channel(self.limits.decode_threads);
        let (done, receiver) = sync_channel(4 * self.limits.max_batch);
        let decoders = Mutex::new(decoders);
        let kept = once.then(|| Kept::new(self.model.info.dim)).transpose();
        let kept = kept.map_err(|e| Stopped::Everything(lost(e)))?;
        let (read, written) = std::thread::scope(|scope| {
            let reader = scope.spawn(move || source.read(&mut |item| items.send(item).is_ok()));
            for _ in 0..self.limits.decode_threads {
                let (done, decoders) = (done.clone(), &decoders);
                scope.spawn(move || self.decode(gate, decoders, &done));
            }
            drop(done);
            let mut writer =
                Writer { gate, kept, waiting: BTreeMap::new(), next: 0, counts: Counts::default(), keep };
            let written = writer.write(receiver);
            // who still reads or decodes is not heard any more
            gate.stop();
            let read = reader.join().unwrap_or_else(|_| Err(Some("the reader has stopped".to_owned())));
            (read, written.map(|()| writer.counts))
        });
        match (read, written) {
            (_, Err(error)) => Err(Stopped::Everything(error)),
            (Err(Some(reason)), _) => Err(Stopped::Shard(reason)),
            (Ok(()) | Err(None), Ok(counts)) => Ok(counts),
        }
    }

    fn decode(&self, gate: &Gate, items: &Mutex<Receiver<Item>>, done: &SyncSender<Done>) {
        loop {
            // one of them waits in the lock for the others
            let next = items.lock().recv();
            let Ok(Item { number, path, class, content, weight }) = next else { return };
            let answer = match content {
                _ if gate.is_stopped() => Answer::Broken(String::new()),
                Content::Same(first) => Answer::Same(first),
                Content::Broken(reason) => Answer::Broken(reason),
                Content::Bytes(bytes) => {
                    let announced = self.model.batcher.announce();
                    match decode(&bytes, &self.limits.decode()) {
                        Ok(decoded) => {
                            let pixels = self.model.info.contract.pixels(&decoded.image);
                            Answer::Coming(submit(&self.model.batcher, announced, &pixels, Wants::default()))
                        }
                        Err(error) => Answer::Broken(error.to_string()),
                    }
                }
            };
            gate.release(weight);
            // where nobody writes any more the reader still has to be relieved of what it sends
            let _ = done.send(Done { number, path, class, answer });
        }
    }
}

fn lost(reason: io::Error) -> ToolError {
    file_error(Path::new("a temporary file"))(reason)
}

/// Puts rows in order.
struct Writer<'a> {
    gate: &'a Gate,
    kept: Option<Kept>,
    waiting: BTreeMap<u64, Done>,
    next: u64,
    counts: Counts,
    keep: &'a mut dyn FnMut(Row) -> Result<(), ToolError>,
}

impl Writer<'_> {
    #[allow(clippy::needless_pass_by_value, reason = "where this fails, who sends has to hear of it")]
    fn write(&mut self, receiver: Receiver<Done>) -> Result<(), ToolError> {
        for mut done in &receiver {
            if let Answer::Coming(reply) = done.answer {
                let gone = |_| EncodeError::Runtime("the worker has stopped".to_owned());
                let encoded = reply.blocking_recv().map_err(gone).and_then(|reply| reply)?;
                done.answer = match encoded.embedding.iter().all(|v| v.is_finite()) {
                    true => Answer::Embedding(encoded.embedding),
                    false => Answer::Broken(NOT_FINITE.to_owned()),
                };
            }
            self.waiting.insert(done.number, done);
            self.drain()?;
        }
        // the last sample's class is known since
        self.drain()
    }

    fn drain(&mut self) -> Result<(), ToolError> {
        while let Some(entry) = self.waiting.first_entry() {
            let ready = *entry.key() == self.next && entry.get().class.get().is_some();
            if !ready {
                break;
            }
            let Done { number, path, class, answer } = entry.remove();
            self.row(number, path, class.get().cloned().flatten(), answer)?;
            self.next += 1;
            self.gate.written();
        }
        Ok(())
    }

    fn row(
        &mut self,
        number: u64,
        path: String,
        class: Option<String>,
        answer: Answer,
    ) -> Result<(), ToolError> {
        let mut copied = false;
        let found = match (answer, &self.kept) {
            (Answer::Embedding(embedding), _) => Ok(embedding),
            (Answer::Same(first), Some(kept)) => {
                copied = true;
                let again = || format!("the same bytes as row {first} of this file, counted from 0");
                kept.get(first).map_err(lost)?.ok_or_else(again)
            }
            (Answer::Broken(reason), _) => Err(reason),
            (Answer::Coming(_) | Answer::Same(_), _) => Err("it was not encoded".to_owned()),
        };
        if let (false, Some(kept)) = (copied, &self.kept) {
            kept.put(number, found.as_deref().ok()).map_err(lost)?;
        }
        self.counts.rows += 1;
        self.counts.copied += usize::from(copied && found.is_ok());
        let (embedding, reason) = match found {
            Ok(embedding) => (embedding, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        if let Some(reason) = &reason {
            self.counts.broken += 1;
            self.counts.first_broken.get_or_insert_with(|| format!("`{path}`: {reason}"));
        }
        (self.keep)(Row { path, class, embedding, reason })
    }
}

/// The embeddings so far, in a file without a name: a place of the same length for each row.
struct Kept {
    file: File,
    dim: usize,
}

impl Kept {
    fn new(dim: usize) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, dim })
    }

    fn at(&self, row: u64) -> u64 {
        row * (1 + 4 * self.dim as u64)
    }

    fn put(&self, row: u64, embedding: Option<&[f32]>) -> io::Result<()> {
        let mut bytes = vec![u8::from(embedding.is_some())];
        embedding.unwrap_or_default().iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        bytes.resize(1 + 4 * self.dim, 0);
        self.file.write_all_at(&bytes, self.at(row))
    }

    /// Nothing where the picture is broken.
    fn get(&self, row: u64) -> io::Result<Option<Vec<f32>>> {
        let mut bytes = vec![0; 1 + 4 * self.dim];
        self.file.read_exact_at(&mut bytes, self.at(row))?;
        let (there, numbers) = bytes.split_first().unwrap_or((&0, &[]));
        let float = |b: &[u8]| b.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b));
        Ok((*there == 1).then(|| numbers.chunks_exact(4).map(float).collect()))
    }
}
