//! A file of a store as a stream, a few megabytes at a time, the next ones on their way.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::{Stat, Store};

/// Bytes of one request.
const CHUNK: u64 = 8 << 20;

/// Reads a file in ranges: no connection is held open between them.
pub struct Ranged {
    store: Arc<dyn Store>,
    path: PathBuf,
    stat: Stat,
    runtime: Handle,
    at: u64,
    /// What is held, and where it begins.
    held: (u64, Bytes),
    /// What is on its way, and where that begins.
    next: Option<(u64, JoinHandle<io::Result<Bytes>>)>,
}

impl Ranged {
    /// The file as `stat` says it is.
    pub fn new(store: Arc<dyn Store>, path: PathBuf, stat: Stat, runtime: Handle) -> Self {
        Self { store, path, stat, runtime, at: 0, held: (0, Bytes::new()), next: None }
    }

    fn ask(&self, start: u64) -> JoinHandle<io::Result<Bytes>> {
        let (store, path, stat) = (Arc::clone(&self.store), self.path.clone(), self.stat.clone());
        let end = start.saturating_add(CHUNK).min(stat.bytes);
        self.runtime.spawn_blocking(move || store.read(&path, &stat, start..end))
    }

    /// What is held from here on.
    fn here(&self) -> &[u8] {
        let offset = self.at.checked_sub(self.held.0).and_then(|n| usize::try_from(n).ok());
        offset.and_then(|n| self.held.1.get(n..)).unwrap_or_default()
    }

    fn fetch(&mut self) -> io::Result<()> {
        let asked = match self.next.take() {
            Some((start, asked)) if start == self.at => asked,
            _ => self.ask(self.at),
        };
        let bytes = self.runtime.block_on(asked).map_err(io::Error::other)??;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = self.at + bytes.len() as u64;
        self.held = (self.at, bytes);
        if end < self.stat.bytes {
            self.next = Some((end, self.ask(end)));
        }
        Ok(())
    }
}

impl Read for Ranged {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.at >= self.stat.bytes {
            return Ok(0);
        }
        if self.here().is_empty() {
            self.fetch()?;
        }
        let read = self.here().read(buf)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Ranged {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.stat.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
