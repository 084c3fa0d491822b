//! Packing a data set into tar shards (WebDataset's convention).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use occlude_preprocess::files::is_picture;
use rayon::prelude::*;

use super::output::{Durable, Staging, write_whole};
use super::subset::rank;
use crate::dataset::Dataset;
use crate::shards::CLASSES;
use crate::{Error, Progress};

/// Pictures read at a time.
const BATCH: usize = 64;
/// Longest part of a file's name in a key: longer names take a header of their own in a tar file.
const MAX_STEM: usize = 64;
/// Unit of a tar file.
const BLOCK: u64 = 512;

/// How to pack.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Most bytes of a shard, unless a single picture is larger.
    pub size: u64,
    /// Seed of a random order; `None` keeps the order.
    pub shuffle: Option<u64>,
}

/// What [`pack`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Files.
    pub shards: usize,
    /// Pictures in them.
    pub pictures: usize,
    /// Size of all.
    pub bytes: u64,
}

/// Writes `out/shard-000000.tar` and so on, with `key.jpg` (or png, webp; bytes as they are) and
/// `key.cls` (the number of its class) for each picture, and the names of the classes in
/// `out/classes.txt`. The same data set gives the same bytes.
///
/// # Errors
/// [`Error::Exists`], [`Error`] of reading and writing; [`Error::Unsuitable`] for names of classes that
/// a line cannot hold.
pub fn pack(
    data: &Dataset,
    out: &Path,
    options: &PackOptions,
    progress: &dyn Progress,
) -> Result<Packed, Error> {
    let staging = Staging::beside(out)?;
    write_classes(data, staging.path())?;
    let mut order: Vec<usize> = (0..data.len()).collect();
    if let Some(seed) = options.shuffle {
        order.sort_by_cached_key(|&i| rank(data, i, seed));
    }
    progress.begin(order.len() as u64, "pictures");
    let mut writer = Writer { folder: staging.path(), limit: options.size, shard: None, shards: 0, bytes: 0 };
    let mut number = 0;
    for batch in order.chunks(BATCH) {
        let read = |&i: &usize| {
            let mut bytes = Vec::new();
            data.read(i, &mut bytes).map(|()| (i, bytes))
        };
        for (i, bytes) in batch.par_iter().map(read).collect::<Result<Vec<_>, _>>()? {
            writer.add(&key(number, data, i), &extension(data, i), &bytes, data.class(i))?;
            number += 1;
            progress.advance(1);
        }
    }
    writer.close()?;
    let packed = Packed { shards: writer.shards, pictures: number, bytes: writer.bytes };
    staging.finish()?;
    Ok(packed)
}

fn write_classes(data: &Dataset, folder: &Path) -> Result<(), Error> {
    let holds = |name: &&String| !name.is_empty() && name.trim() == *name && !name.contains(['\n', '\r']);
    if let Some(name) = data.classes().iter().find(|name| !holds(name)) {
        return Err(Error::Unsuitable {
            what: format!("the class `{}` cannot be written as a line", name.escape_debug()),
            hint: "rename its folder",
        });
    }
    if data.classes().is_empty() {
        return Ok(());
    }
    let text = data.classes().join("\n") + "\n";
    write_whole(&folder.join(CLASSES), Durable::Now, |out| out.write_all(text.as_bytes()))
}

/// A number, which makes it unique, and what a reader recognises.
fn key(number: usize, data: &Dataset, i: usize) -> String {
    let name = data.file_name(i).to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or_default();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{number:08}-{}", stem.chars().map(plain).take(MAX_STEM).collect::<String>())
}

/// That of the file where readers of shards know it, which lists do not ask for: `1.jpeg?w=640`, `scan.2019`.
fn extension(data: &Dataset, i: usize) -> String {
    let name = Some(data.file_name(i)).filter(|name| is_picture(name)).map(Path::new);
    let extension = name.and_then(Path::extension).unwrap_or("jpg".as_ref());
    extension.to_string_lossy().to_ascii_lowercase()
}

struct Writer<'a> {
    folder: &'a Path,
    limit: u64,
    shard: Option<Shard>,
    shards: usize,
    bytes: u64,
}

struct Shard {
    builder: tar::Builder<BufWriter<File>>,
    path: std::path::PathBuf,
    size: u64,
}

impl Writer<'_> {
    fn add(&mut self, key: &str, extension: &str, bytes: &[u8], class: Option<u32>) -> Result<(), Error> {
        let class = class.map(|class| class.to_string());
        let taken = |n: usize| BLOCK + (n as u64).next_multiple_of(BLOCK);
        let needed = taken(bytes.len()) + class.as_ref().map_or(0, |class| taken(class.len()));
        // the end of an archive is two empty blocks
        if self.shard.as_ref().is_some_and(|shard| shard.size + needed + 2 * BLOCK > self.limit) {
            self.close()?;
        }
        let shard = match self.shard.take() {
            Some(shard) => shard,
            None => self.open()?,
        };
        let shard = self.shard.insert(shard);
        let mut append = || {
            append(&mut shard.builder, &format!("{key}.{extension}"), bytes)?;
            class
                .as_ref()
                .map_or(Ok(()), |class| append(&mut shard.builder, &format!("{key}.cls"), class.as_bytes()))
        };
        append().map_err(|e| Error::write(&shard.path, e))?;
        shard.size += needed;
        Ok(())
    }

    fn open(&mut self) -> Result<Shard, Error> {
        let path = self.folder.join(format!("shard-{:06}.tar", self.shards));
        let file = File::create_new(&path).map_err(|e| Error::write(&path, e))?;
        self.shards += 1;
        Ok(Shard { builder: tar::Builder::new(BufWriter::with_capacity(1 << 20, file)), path, size: 0 })
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        self.bytes += shard.size + 2 * BLOCK;
        let finish = |builder: tar::Builder<BufWriter<File>>| builder.into_inner()?.flush();
        finish(shard.builder).map_err(|e| Error::write(&shard.path, e))
    }
}

/// Appends a file without owner and time, so that the same pictures are the same bytes.
fn append(builder: &mut tar::Builder<BufWriter<File>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, name, bytes)
}
