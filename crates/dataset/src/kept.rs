//! Shards of buckets that are kept on this machine, in a folder that does not outgrow its bound.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use occlude_objects::{Ranged, Stat};
use occlude_output::Draft;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::Error;

/// A file that nobody has opened or written to for so long is not in use; one in the making is left over from a process that
/// was killed.
const IDLE: Duration = Duration::from_secs(3600);
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// Bytes of a name's hash.
const HASH: usize = 16;

/// Which shards of a data set are kept, and where.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: Option<PathBuf>,
    room: u64,
    /// Of every shard.
    files: Vec<Option<PathBuf>>,
    bytes: Vec<u64>,
}

/// A file of the folder that is one of ours.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    /// Whether it is in use, by this process or another: used lately, or in the making.
    busy: bool,
}

impl Kept {
    /// The first shards that fit into `room` bytes beside those of other data sets that are in use: pictures are drawn from
    /// all of them alike, so that it makes no difference which. A shard that is replaced in its bucket is another.
    pub(crate) fn choose(cache: Option<&Path>, room: u64, root: &Path, shards: &[(PathBuf, Stat)]) -> Self {
        let folder = cache.map(|cache| cache.join("shards"));
        let place =
            |(path, stat): &(PathBuf, Stat)| Some(folder.as_ref()?.join(name(&root.join(path), stat)));
        let places: Vec<Option<PathBuf>> = shards.iter().map(place).collect();
        let own: HashSet<&PathBuf> = places.iter().flatten().collect();
        let others =
            held(folder.as_deref()).into_iter().filter(|file| file.busy && !own.contains(&file.path));
        let mut left = room.saturating_sub(others.map(|file| file.bytes).sum());
        let fits = |(place, (_, stat)): (&Option<PathBuf>, &(PathBuf, Stat))| {
            let place = place.clone()?;
            left = left.checked_sub(stat.bytes)?;
            Some(place)
        };
        let files = places.iter().zip(shards).map(fits).collect();
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
        let _alone = self.alone();
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

    /// Waits for other processes that make room or fetch; they may be about to fetch the same. Where there are no locks, none
    /// is waited for, and the bound may be exceeded by what they fetch.
    fn alone(&self) -> Option<File> {
        let folder = self.folder.as_ref().filter(|_| self.files.iter().any(Option::is_some))?;
        fs::create_dir_all(folder).ok()?;
        let file = File::options().write(true).create(true).truncate(false).open(folder.join("lock")).ok()?;
        file.lock().ok()?;
        Some(file)
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
        Ok(draft.finish())
    }

    /// Deletes what was not used for longest until `more` bytes fit as well, but nothing that is in use.
    fn make_room(&self, more: u64) {
        let now = SystemTime::now();
        let own: HashSet<&PathBuf> = self.files.iter().flatten().collect();
        let mut taken = more;
        let mut idle = Vec::new();
        for file in held(self.folder.as_deref()) {
            taken += file.bytes;
            if own.contains(&file.path) {
                // what tells others that it is in use
                let _ = File::options().write(true).open(&file.path).and_then(|file| file.set_modified(now));
            } else if !file.busy {
                idle.push((file.used, file.bytes, file.path));
            }
        }
        idle.sort();
        for (_, bytes, path) in idle {
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

/// The files of the folder that have names of ours; whatever else lies there is the user's.
fn held(folder: Option<&Path>) -> Vec<Held> {
    let now = SystemTime::now();
    let entries = folder.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let look = |entry: fs::DirEntry| {
        is_ours(entry.file_name().to_str()?).then_some(())?;
        let meta = entry.metadata().ok()?;
        let used = meta.modified().unwrap_or(now);
        let busy = !now.duration_since(used).is_ok_and(|age| age >= IDLE);
        Some(Held { path: entry.path(), bytes: meta.len(), used, busy })
    };
    entries.filter_map(look).collect()
}

/// Whether a file is a shard that was kept, or one in the making.
fn is_ours(name: &str) -> bool {
    let hash = |name: &str| name.len() == 2 * HASH && name.bytes().all(|b| b.is_ascii_hexdigit());
    let draft =
        name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).and_then(|n| n.split_once(".tar."));
    name.strip_suffix(".tar").is_some_and(hash) || draft.is_some_and(|(name, _)| hash(name))
}

/// A name for one version of one shard.
fn name(address: &Path, stat: &Stat) -> String {
    let hash = Sha256::new_with_prefix(address.as_os_str().as_encoded_bytes());
    let hash = hash.chain_update([0]).chain_update(stat.tag.as_deref().unwrap_or_default());
    let hash = hash.chain_update([0]).chain_update(stat.bytes.to_le_bytes()).finalize();
    let hex: String = hash.iter().take(HASH).map(|byte| format!("{byte:02x}")).collect();
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

    /// In `cache`, of that many bytes, used so many hours ago.
    fn put(cache: &Path, name: &str, bytes: usize, hours: u32) {
        let folder = cache.join("shards");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(name), vec![0; bytes]).expect("written");
        let file = File::options().write(true).open(folder.join(name)).expect("opened");
        file.set_modified(SystemTime::now() - IDLE * hours).expect("set");
    }

    fn left(cache: &Path) -> Vec<String> {
        let entries = fs::read_dir(cache.join("shards")).expect("listed");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = |letter: &str| format!("{}.tar", letter.repeat(2 * HASH));
        let draft = |letter: &str| format!(".{}.1.0.tmp", ours(letter));
        let shards = [(PathBuf::from("own.tar"), stat(40)), (PathBuf::from("new.tar"), stat(30))];
        let own = name(Path::new("s3://b/own.tar"), &shards[0].1);
        for (name, bytes, hours) in [
            (own.as_str(), 40, 99),
            (&ours("a"), 20, 3),
            (&ours("b"), 20, 4),
            (&draft("c"), 20, 100),
            (&draft("d"), 10, 0),
            ("the user's own.tar", 500, 100),
        ] {
            put(dir.path(), name, bytes, hours);
        }
        let kept = Kept::choose(Some(dir.path()), 100, Path::new("s3://b"), &shards);
        assert_eq!(kept.files.iter().flatten().count(), 2);
        kept.make_room(30);
        let mut expected = [own, ours("a"), draft("d"), "the user's own.tar".to_owned()];
        expected.sort();
        assert_eq!(left(dir.path()), expected, "40 of its own, 30 to come, 10 in the making, 20 of another");
    }

    /// Two data sets of one command share the room, whatever the order in which its processes open them.
    #[test]
    fn what_is_in_use_is_not_deleted() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = |root: &str, bytes: u64| {
            let shards = [(PathBuf::from("x.tar"), stat(bytes))];
            let kept = Kept::choose(Some(dir.path()), 100, Path::new(root), &shards);
            kept.make_room(bytes);
            for path in kept.files.iter().flatten() {
                fs::write(path, vec![0; bytes as usize]).expect("written");
            }
            kept.files.iter().flatten().count()
        };
        put(dir.path(), "the user's own.tar", 1, 0);
        assert_eq!((open("s3://b/train", 90), open("s3://b/val", 20)), (1, 0));
        assert_eq!((open("s3://b/val", 20), open("s3://b/train", 90)), (0, 1), "as before");
        assert_eq!(open("s3://b/other", 10), 1);
    }
}
