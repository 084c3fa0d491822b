//! Measures each step of loading the pictures of a folder, on one thread, in CPU time where the
//! system tells it (Linux):
//! `cargo run --release -p occlude-preprocess --example speed -- FOLDER [COUNT]`.

use std::sync::LazyLock;
use std::time::Instant;

use occlude_preprocess::{CropBox, HighPass, Interpolation, Limits, Preprocess, decode, files, resize_crop};

/// Seconds of CPU time of this thread, else of wall time.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |n| n / 1e9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let folder = args.next().ok_or("usage: speed FOLDER [COUNT]")?;
    let count = args.next().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(500);
    let listing = files::list(folder.as_ref())?;
    let step = (listing.samples.len() / count).max(1);
    let files: Vec<Vec<u8>> = listing
        .samples
        .iter()
        .step_by(step)
        .take(count)
        .map(|s| std::fs::read(&s.path))
        .collect::<Result<_, _>>()?;
    let limits = Limits::default();
    let report = |what: &str, n: usize, start: f64| {
        println!("{what:<44} {:>8.0} images/s", n as f64 / (seconds() - start));
    };

    let start = seconds();
    let pictures: Vec<_> =
        files.iter().map(|f| decode(f, &limits).map(|d| d.image)).collect::<Result<_, _>>()?;
    report("decode", files.len(), start);
    let pixels: u64 = pictures.iter().map(|p| u64::from(p.width) * u64::from(p.height)).sum();
    println!("  ({} files of {} kilopixels on average)", files.len(), pixels / 1000 / files.len() as u64);

    let contract = Preprocess::imagenet(224);
    let start = seconds();
    let crops: Vec<_> = pictures.iter().map(|p| contract.pixels(p)).collect();
    report("resize 256, centre crop 224", crops.len(), start);

    for (side, how) in
        [(224, Interpolation::Bilinear), (224, Interpolation::Bicubic), (64, Interpolation::Bilinear)]
    {
        let start = seconds();
        for p in &pictures {
            let (w, h) = (f64::from(p.width), f64::from(p.height));
            let crop = CropBox {
                left: (w * 0.2).floor(),
                top: (h * 0.1).floor(),
                width: (w * 0.6).floor(),
                height: (h * 0.7).floor(),
            };
            resize_crop(p, crop, side, side, how);
        }
        report(&format!("resized crop to {side}, {how:?}"), pictures.len(), start);
    }

    let mut out = vec![0.0; 3 * 224 * 224];
    let start = seconds();
    crops.iter().for_each(|c| contract.tensor_into(c, &mut out));
    report("tensor 224", crops.len(), start);
    let filtered = Preprocess { high_pass: Some(HighPass { kernel: 11, sigma: 5.0 }), ..contract };
    let start = seconds();
    crops.iter().for_each(|c| filtered.tensor_into(c, &mut out));
    report("tensor 224 with high-pass 11", crops.len(), start);
    Ok(())
}
