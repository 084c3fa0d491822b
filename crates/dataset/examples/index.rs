//! Seconds that indexing takes; `cargo xtask bench index` runs it.
//!
//! `index make FOLDER CLASSES COUNT` makes a tree of empty files, named as ImageNet's; `index open
//! FOLDER CACHE` opens it and prints one JSON object. The cache is a folder, or `-` for none.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use occlude_dataset::{Cache, Dataset, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", folder, classes, count] => make(folder.as_ref(), classes.parse()?, count.parse()?),
        ["open", folder, cache] => open(folder.as_ref(), cache),
        _ => Err("expected `make FOLDER CLASSES COUNT` or `open FOLDER CACHE`".into()),
    }
}

fn make(folder: &Path, classes: u32, count: u32) -> Result<(), Box<dyn std::error::Error>> {
    for class in 0..classes {
        let name = format!("n{:08}", 1_440_764 + class * 37);
        let dir = folder.join(&name);
        fs::create_dir_all(&dir)?;
        for i in 0..count {
            File::create(dir.join(format!("{name}_{}.JPEG", i * 7)))?;
        }
    }
    Ok(())
}

fn open(folder: &Path, cache: &str) -> Result<(), Box<dyn std::error::Error>> {
    let cache = if cache == "-" { Cache::Off } else { Cache::Folder(cache.into()) };
    let began = Instant::now();
    let data = Dataset::open(folder, &Options { cache, ..Options::default() })?;
    let seconds = began.elapsed().as_secs_f64();
    let (pictures, classes) = (data.len(), data.classes().len());
    println!(r#"{{"seconds": {seconds}, "pictures": {pictures}, "classes": {classes}, "peak": {}}}"#, peak());
    Ok(())
}

/// The largest resident set so far, bytes; 0 where the system does not tell.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
