//! What the suites share: Python, where a test compares with it, and a test picture.
#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::process::Command;

use occlude_preprocess::Rgb;

/// Runs `script` with `args` in the project's Python environment and returns its stdout.
///
/// # Panics
/// When the environment is missing or the script fails.
pub fn python(script: &Path, args: &[&Path]) -> String {
    let interpreter = std::env::var_os("OCCLUDE_PYTHON").unwrap_or_default();
    assert!(
        Path::new(&interpreter).exists(),
        "this test compares with Pillow and torchvision, but there is no Python at `{}`; hint: run cargo xtask setup",
        interpreter.display()
    );
    let out = Command::new(&interpreter).arg(script).args(args).output().expect("python starts");
    assert!(out.status.success(), "{} failed:\n{}", script.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// A picture with gradients, edges and some noise, the same every time.
pub fn picture(width: u32, height: u32) -> Rgb {
    let mut noise = 12345u32;
    let mut data = Vec::new();
    for y in 0..height {
        for x in 0..width {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (noise >> 28) as u8;
            let edge = if (x / 9 + y / 7) % 3 == 0 { 90 } else { 0 };
            data.extend([
                (x * 160 / width) as u8 + n,
                (y * 150 / height) as u8 + edge,
                ((x + y) * 200 / (width + height)) as u8 + n,
            ]);
        }
    }
    Rgb { width, height, data }
}

/// Mean and maximum of the absolute differences.
///
/// # Panics
/// When the lengths differ.
pub fn differences(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (a, b): (Vec<f64>, Vec<f64>) = (a.into_iter().collect(), b.into_iter().collect());
    assert_eq!(a.len(), b.len());
    let diffs = a.iter().zip(&b).map(|(x, y)| (x - y).abs());
    (diffs.clone().sum::<f64>() / a.len().max(1) as f64, diffs.fold(0.0, f64::max))
}
