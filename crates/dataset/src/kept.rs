//! Shards of buckets that are kept on this machine, in a folder that does not outgrow its bound.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use occlude_objects::{Ranged, Stat};
use occlude_output::Draft;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::Error;

/// A file in the making that nobody has written to for so long is left over from a process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// Which shards of a data set are kept, and where.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: Option<PathBuf>,
    room: u64,
    /// Of every shard.
    files: Vec<Option<PathBuf>>,
    bytes: Vec<u64>,
}

impl Kept {
    /// The first shards that fit into `room` bytes: pictures are drawn from all of them alike, so that it makes no
    /// difference which. A shard that is replaced in its bucket is another.
    pub(crate) fn choose(cache: Option<&Path>, room: u64, root: &Path, shards: &[(PathBuf, Stat)]) -> Self {
        let folder = cache.map(|cache| cache.join("shards"));
        let mut left = room;
        let file = |(path, stat): &(PathBuf, Stat)| {
            let folder = folder.as_ref()?;
            left = left.checked_sub(stat.bytes)?;
            Some(folder.join(name(&root.join(path), stat)))
        };
        let files = shards.iter().map(file).collect();
        Self { folder, room, files, bytes: shards.iter().map(|(_, stat)| stat.bytes).collect() }
    }

    /// Fetches what is not there yet, several at a time; where each shard that is kept lies. Room is made by deleting what
    /// other data sets have not used for longest.
    ///
    /// # Errors
    /// [`Error::Store`] where a shard cannot be read. One that cannot be written is not kept, which is told.
    pub(crate) fn fetch(
        &self,
        root: &Path,
        stream: &(dyn Fn(usize) -> Option<Ranged> + Sync),
        tell: fn(&str),
    ) -> Result<Vec<Option<PathBuf>>, Error> {
        let missing: Vec<usize> = (0..self.files.len()).filter(|&i| self.is_missing(i)).collect();
        self.make_room(missing.iter().filter_map(|&i| self.bytes.get(i)).sum());
        if !missing.is_empty() {
            tell(&self.plan(root, missing.len()));
        }
        let fetched = missing.par_iter().map(|&i| Ok((i, self.fetch_one(root, i, stream)?)));
        let fetched = fetched.collect::<Result<Vec<_>, Error>>()?;
        let mut files = self.files.clone();
        let mut unwritten: Option<io::Error> = None;
        for (i, written) in fetched {
            if let (Err(reason), Some(file)) = (written, files.get_mut(i)) {
                *file = None;
                unwritten = Some(reason);
            }
        }
        if let (Some(reason), Some(folder)) = (unwritten, &self.folder) {
            let (kept, all) = (files.iter().flatten().count(), files.len());
            tell(&format!(
                "note: cannot keep shards in `{}`: {reason}; {} of {all} are read from the bucket picture by picture",
                folder.display(),
                all - kept
            ));
        }
        Ok(files)
    }

    fn is_missing(&self, i: usize) -> bool {
        let length = |path: &PathBuf| fs::metadata(path).map(|meta| meta.len()).ok();
        let file = self.files.get(i).and_then(Option::as_ref);
        file.is_some_and(|path| length(path) != self.bytes.get(i).copied())
    }

    fn plan(&self, root: &Path, missing: usize) -> String {
        let kept = |i: &usize| self.files.get(*i).is_some_and(Option::is_some);
        let sum = |which: &dyn Fn(&usize) -> bool| -> u64 {
            (0..self.bytes.len()).filter(which).filter_map(|i| self.bytes.get(i)).sum()
        };
        let count = self.files.iter().flatten().count();
        let mut text = format!(
            "note: `{}`: fetching {missing} of {} shards; {count} of them, {}, are kept in `{}`",
            root.display(),
            self.files.len(),
            size(sum(&kept)),
            self.folder.as_deref().unwrap_or(Path::new("")).display()
        );
        if count < self.files.len() {
            text += &format!(
                ", where there is room for {}; the other {} are read picture by picture; hint: \
                 `OCCLUDE_SHARD_CACHE` sets the room",
                size(self.room),
                size(sum(&|i| !kept(i)))
            );
        }
        text
    }

    /// The inner result is that of writing.
    fn fetch_one(
        &self,
        root: &Path,
        i: usize,
        stream: &(dyn Fn(usize) -> Option<Ranged> + Sync),
    ) -> Result<io::Result<()>, Error> {
        let (Some(Some(path)), Some(mut from)) = (self.files.get(i), stream(i)) else { return Ok(Ok(())) };
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut draft = match fs::create_dir_all(folder).and_then(|()| Draft::beside(path)) {
            Ok(draft) => draft,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut piece = vec![0; PIECE];
        loop {
            let lost = |reason| Error::Store { name: root.display().to_string(), reason };
            let read = from.read(&mut piece).map_err(lost)?;
            if read == 0 {
                break;
            }
            if let Err(reason) = draft.write_all(piece.get(..read).unwrap_or_default()) {
                return Ok(Err(reason));
            }
        }
        // what a power cut spoils has another length, or is found to be no tar
        Ok(draft.finish_unflushed())
    }

    /// Deletes what was not used for longest until `more` bytes fit as well, but nothing of this data set.
    fn make_room(&self, more: u64) {
        let now = SystemTime::now();
        let mut others = Vec::new();
        let mut taken = more;
        let entries = self.folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        for (path, meta) in entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))) {
            let used = meta.modified().unwrap_or(now);
            let in_the_making = path.extension().is_some_and(|ending| ending == "tmp");
            if self.files.iter().flatten().any(|own| *own == path) {
                taken += meta.len();
                // what tells the next one that it was used
                let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(now));
            } else if !in_the_making || now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                taken += meta.len();
                others.push((used, meta.len(), path));
            }
        }
        others.sort();
        for (_, bytes, path) in others {
            if taken <= self.room {
                break;
            }
            // who has it open reads on; who has not reads it from the bucket
            if fs::remove_file(path).is_ok() {
                taken -= bytes;
            }
        }
    }
}

/// A name for one version of one shard.
fn name(address: &Path, stat: &Stat) -> String {
    let hash = Sha256::new_with_prefix(address.as_os_str().as_encoded_bytes());
    let hash = hash.chain_update([0]).chain_update(stat.tag.as_deref().unwrap_or_default());
    let hash = hash.chain_update([0]).chain_update(stat.bytes.to_le_bytes()).finalize();
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.tar")
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(bytes: u64) -> Stat {
        Stat { bytes, tag: Some("\"a\"".to_owned()) }
    }

    #[test]
    fn as_many_shards_are_kept_as_there_is_room_for() {
        let shards: Vec<_> = [50, 70, 30, 20].map(|n| (PathBuf::from(format!("{n}.tar")), stat(n))).into();
        let kept = |room, cache| -> Vec<bool> {
            let kept = Kept::choose(cache, room, Path::new("s3://b"), &shards);
            kept.files.iter().map(Option::is_some).collect()
        };
        let cache = Some(Path::new("/c"));
        assert_eq!(kept(100, cache), [true, false, true, true], "50 + 30 + 20");
        assert_eq!(kept(0, cache), [false; 4]);
        assert_eq!(kept(1000, None), [false; 4], "nowhere to keep them");
        let other = Stat { tag: Some("\"b\"".to_owned()), ..stat(50) };
        assert_ne!(name(Path::new("s3://b/x.tar"), &stat(50)), name(Path::new("s3://b/x.tar"), &other));
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("shards");
        fs::create_dir(&folder).expect("made");
        let old = SystemTime::now() - 2 * ABANDONED;
        let put = |name: &str, bytes: usize, age: u32| {
            fs::write(folder.join(name), vec![0; bytes]).expect("written");
            let file = File::options().write(true).open(folder.join(name)).expect("opened");
            file.set_modified(old + Duration::from_secs(60) * (100 - age)).expect("set");
        };
        let shards = [(PathBuf::from("own.tar"), stat(40)), (PathBuf::from("new.tar"), stat(30))];
        let kept = Kept::choose(Some(dir.path()), 100, Path::new("s3://b"), &shards);
        let own = kept.files[0].as_ref().and_then(|path| path.file_name()).expect("kept").to_owned();
        put(&own.to_string_lossy(), 40, 99);
        put("a.tar", 20, 1);
        put("b.tar", 20, 2);
        put(".c.tar.1.0.tmp", 20, 100);
        fs::write(folder.join(".d.tar.2.0.tmp"), [0; 20]).expect("written");
        kept.make_room(30);
        let mut left: Vec<_> = fs::read_dir(&folder)
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        let mut expected =
            [".d.tar.2.0.tmp".to_owned(), "a.tar".to_owned(), own.to_string_lossy().into_owned()];
        expected.sort();
        assert_eq!(left, expected, "40 of its own, 30 to come, 20 of another, and what is in the making");
    }
}
