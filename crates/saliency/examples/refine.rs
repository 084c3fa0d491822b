//! Time of [`occlude_saliency::refine`] on one core: `cargo run --release --example refine -p occlude-saliency [SIDE]`.

use std::time::Instant;

use occlude_saliency::{Guide, Guided, Map, refine, unit, upsample};

const RUNS: usize = 20;

fn main() -> Result<(), occlude_saliency::Error> {
    let side = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(256usize);
    let grid: Vec<f32> = (0..49).map(|i| (i * 37 % 11) as f32).collect();
    let bytes: Vec<u8> = (0..side * side * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    let how = Guided::for_cells(side as f64 / 7.0);
    let median = |work: &dyn Fn() -> Result<(), occlude_saliency::Error>| {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            work()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        Ok::<_, occlude_saliency::Error>(times[RUNS / 2])
    };
    let coarse = || Ok::<_, occlude_saliency::Error>(upsample(Map::new(7, 7, &grid)?, side, side));
    let colour = median(&|| {
        let coarse = coarse()?;
        refine(Map::new(side, side, &coarse)?, Guide::Colour(&unit(&bytes)), how).map(drop)
    })?;
    let grey = median(&|| {
        let coarse = coarse()?;
        refine(Map::new(side, side, &coarse)?, Guide::Grey(&unit(&bytes[..side * side])), how).map(drop)
    })?;
    println!(
        "{side} x {side}, radius {}: colour {colour:.1} ms, grey {grey:.1} ms (median of {RUNS})",
        how.radius
    );
    Ok(())
}
