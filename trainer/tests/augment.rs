//! Views against torchvision's: every operation on the same pixels with the same parameters, and the distributions
//! that parameters are drawn from.

use std::path::Path;
use std::process::Command;

use occlude_preprocess::{HighPass, Limits, Preprocess, Rgb};
use occlude_train::augment::{Augmenter, HighPassFilter};
use occlude_train::config::{Config, Recipe};
use occlude_train::data::{Photometric, View, ViewSpec};
use occlude_train::rng::{Domain, stream};
use occlude_views::{Cut, ViewDecoder, ViewSize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Largest difference of a value in 0..1 after normalisation: rounding of float32 through seven operations. A hue turns
/// on the largest of three channels, so that it amplifies rounding.
const SAME_PIXELS: f64 = 2e-4;
/// Levels of 255, at most and in the mean: both sides round after each of two passes, and not in the same order.
const SAME_CROP: (f64, f64) = (2.0, 0.4);
/// Two samples of 10,000 of one distribution differ by more with a probability of 1e-4 (Kolmogorov-Smirnov).
const KOLMOGOROV: f64 = 0.0315;

const SIDE: usize = 32;
const SIGMA: [f64; 2] = [0.1, 2.0];

/// Runs `augment.py`; its answer.
fn torchvision(folder: &Path, task: &str, question: &Value) -> Value {
    let interpreter = std::env::var_os("OCCLUDE_PYTHON").unwrap_or_default();
    assert!(Path::new(&interpreter).exists(), "no Python environment; hint: run `cargo xtask setup`");
    let file = folder.join("question.json");
    std::fs::write(&file, question.to_string()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/augment.py");
    let out = Command::new(interpreter).arg(script).arg(task).arg(&file).output().expect("Python starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

/// A picture with smooth parts, edges, greys and full colours.
fn picture(width: u32, height: u32, seed: u32) -> Rgb {
    let pixel = |x: u32, y: u32, c: u32| -> u8 {
        let wave = ((x * (c + 2) + seed * 7) as f64 * 0.11).sin() + ((y * (5 - c)) as f64 * 0.07).cos();
        let edge = if (x / 9 + y / 7 + c * seed).is_multiple_of(4) { 90.0 } else { 0.0 };
        if (x / 16 + y / 16).is_multiple_of(5) {
            (y * 7 % 256) as u8
        } else {
            (wave * 60.0 + 90.0 + edge) as u8
        }
    };
    let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| [0, 1, 2].map(|c| pixel(x, y, c))));
    Rgb { width, height, data: data.collect() }
}

/// All 24 orders of the four jitters.
fn orders() -> Vec<[u8; 4]> {
    let all = (0..256u32).map(|i| [i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6].map(|v| v as u8));
    all.filter(|o| (0..4).all(|v| o.contains(&v))).collect()
}

#[test]
fn colours_equal_torchvisions_in_every_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cases = vec![
        Photometric::NONE,
        Photometric { gray: true, ..Photometric::NONE },
        Photometric { solarize: true, ..Photometric::NONE },
        Photometric { blur: 0.1, ..Photometric::NONE },
        Photometric { blur: 2.0, ..Photometric::NONE },
    ];
    for (i, order) in orders().into_iter().enumerate() {
        // factors from one end of the range to the other, for strengths of 0.4 and 0.8
        let t = i as f32 / 23.0 * 2.0 - 1.0;
        let jitter = [1.0 + 0.8 * t, 1.0 - 0.4 * t, 1.0 + 0.4 * t, 0.2 * t];
        let both = i.is_multiple_of(3);
        cases.push(Photometric {
            jitter,
            order,
            jittered: true,
            gray: both,
            blur: if both { 1.0 } else { 0.0 },
            ..Photometric::NONE
        });
        cases.push(Photometric { jitter, order, jittered: true, solarize: true, ..Photometric::NONE });
    }
    assert_eq!(cases.len(), 5 + 48);
    // planes of three pictures, one after another
    let pixels: Vec<u8> = (0..cases.len() as u32)
        .flat_map(|i| {
            let p = picture(SIDE as u32, SIDE as u32, i % 3);
            (0..3).flat_map(move |c| p.data.iter().skip(c).step_by(3).copied().collect::<Vec<_>>())
        })
        .collect();
    let contract = Preprocess::imagenet(SIDE as u32);
    let augmenter = Augmenter::new(&contract, SIDE, SIGMA[1], Device::Cpu);
    let ours = augmenter.apply(&View {
        size: SIDE,
        pixels: pixels.clone(),
        placed: Vec::new(),
        photometric: cases.clone(),
    });
    let side = SIDE as i64;
    let tensor = Tensor::from_slice(&pixels).view([-1, 3, side, side]);
    let by_operators = augmenter.on_device(&tensor, &cases);
    let filter = HighPass { kernel: 11, sigma: 5.0 };
    let filtered = HighPassFilter::new(SIDE, &filter, Device::Cpu).apply(&ours);
    let rows: Vec<Value> = cases
        .iter()
        .map(|p| json!({ "jitter": p.jitter, "order": p.order, "jittered": p.jittered, "gray": p.gray, "blur": p.blur, "solarize": p.solarize }))
        .collect();
    let question = json!({ "side": SIDE, "pixels": pixels, "cases": rows, "reach": (3.0 * SIGMA[1]).ceil() as i64, "mean": contract.mean, "std": contract.std });
    let answer = torchvision(folder.path(), "colours", &question);
    for (name, ours) in [("views", &ours), ("views", &by_operators), ("high_pass", &filtered)] {
        let theirs = Tensor::from_slice(&numbers(&answer[name])).view(ours.size().as_slice());
        let worst = (ours.to_kind(Kind::Double) - theirs).abs().flatten(1, -1).amax([1i64].as_slice(), false);
        for (i, case) in cases.iter().enumerate() {
            let error = worst.double_value(&[i as i64]);
            assert!(error < SAME_PIXELS, "{name}, case {i}: {error:.1e}; {case:?}");
        }
        println!("{name}: largest difference {:.1e}", worst.max().double_value(&[]));
    }
}

/// RandomResizedCrop's second half: the crop, resized with antialiasing, and the flip.
#[test]
fn crops_equal_pillows() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = picture(150, 110, 1);
    let spec = ViewSpec { size: SIDE, augment: Config::new(Recipe::MocoV2).views.remove(0).augment };
    let mut rng = stream(3, Domain::View, 0, 0);
    let crops: Vec<_> = (0..40).map(|_| spec.draw(picture.width, picture.height, &mut rng).0.crop).collect();
    let boxes: Vec<[f64; 4]> = crops.iter().map(|c| [c.left, c.top, c.width, c.height]).collect();
    let question = json!({ "width": picture.width, "height": picture.height, "pixels": picture.data, "side": SIDE, "boxes": boxes });
    let answer = torchvision(folder.path(), "crops", &question);
    let theirs = numbers(&answer["crops"]);
    let mut png = std::io::Cursor::new(Vec::new());
    let image =
        image::RgbImage::from_raw(picture.width, picture.height, picture.data.clone()).expect("a picture");
    image.write_to(&mut png, image::ImageFormat::Png).expect("encoded");
    let mut decoder = ViewDecoder::new(Limits::default());
    let (per, area) = (3 * SIDE * SIDE, SIDE * SIDE);
    let mut views = vec![0; per];
    for (i, crop) in crops.iter().enumerate() {
        let size = ViewSize { side: SIDE, least_area: spec.augment.crop_min };
        let cut = Cut { crop: *crop, flip: i % 2 == 1 };
        let opened = decoder.open(png.get_ref()).expect("a picture");
        decoder.views(&opened, &[size], &[cut], &mut [&mut views]).expect("decoded");
        let (mut worst, mut sum) = (0.0f64, 0.0);
        for (at, theirs) in theirs[i * per..(i + 1) * per].iter().enumerate() {
            // theirs are pixel by pixel and not mirrored, ours plane by plane
            let (x, y, c) = (at / 3 % SIDE, at / 3 / SIDE, at % 3);
            let x = if cut.flip { SIDE - 1 - x } else { x };
            let error = (f64::from(views[c * area + y * SIDE + x]) - theirs).abs();
            (worst, sum) = (worst.max(error), sum + error);
        }
        let mean = sum / per as f64;
        assert!(worst <= SAME_CROP.0 && mean <= SAME_CROP.1, "{crop:?}: {worst}, mean {mean}");
    }
}

/// 10,000 draws beside 10,000 of torchvision's, each quantity by itself.
#[test]
fn parameters_are_distributed_as_torchvisions() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut augment = Config::new(Recipe::MocoV2).views.remove(0).augment;
    augment.solarize_p = 0.2;
    let spec = ViewSpec { size: 224, augment: augment.clone() };
    let (n, width, height) = (10_000, 500, 375);
    let mut rng = stream(4, Domain::View, 0, 0);
    let draws: Vec<_> = (0..n).map(|_| spec.draw(width, height, &mut rng)).collect();
    let of = |f: &dyn Fn(&(occlude_train::data::Geometry, Photometric)) -> f64| {
        draws.iter().map(f).collect::<Vec<_>>()
    };
    let jittered = |i: usize| -> Vec<f64> {
        draws.iter().filter(|d| d.1.jittered).map(|d| f64::from(d.1.jitter[i])).collect()
    };
    let ours = [
        ("area", of(&|d| d.0.crop.width * d.0.crop.height)),
        ("ratio", of(&|d| d.0.crop.width / d.0.crop.height)),
        ("left", of(&|d| d.0.crop.left)),
        ("top", of(&|d| d.0.crop.top)),
        ("brightness", jittered(0)),
        ("contrast", jittered(1)),
        ("saturation", jittered(2)),
        ("hue", jittered(3)),
        ("sigma", draws.iter().map(|d| f64::from(d.1.blur)).filter(|&s| s > 0.0).collect()),
    ];
    let question = json!({ "n": n, "width": width, "height": height, "crop": [augment.crop_min, augment.crop_max], "jitter": augment.jitter, "sigma": augment.blur_sigma });
    let answer = torchvision(folder.path(), "draws", &question);
    for (name, ours) in ours {
        let distance = kolmogorov(ours, numbers(&answer[name]));
        // fewer of ours where the operation was not drawn
        assert!(distance < KOLMOGOROV * 1.25, "{name}: {distance}");
        println!("{name}: {distance:.4}");
    }
    let share = |f: &dyn Fn(&(occlude_train::data::Geometry, Photometric)) -> bool| {
        draws.iter().filter(|d| f(d)).count() as f64 / n as f64
    };
    let mut shares = vec![
        (share(&|d| d.0.flip), 0.5),
        (share(&|d| d.1.jittered), 0.8),
        (share(&|d| d.1.gray), 0.2),
        (share(&|d| d.1.blur > 0.0), 0.5),
        (share(&|d| d.1.solarize), 0.2),
    ];
    shares.extend(orders().into_iter().map(|o| (share(&|d| d.1.order == o), 1.0 / 24.0)));
    for (found, p) in shares {
        assert!((found - p).abs() < 4.0 * (p * (1.0 - p) / n as f64).sqrt(), "{found} for {p}");
    }
}

/// Largest difference of the two empirical distribution functions.
fn kolmogorov(mut a: Vec<f64>, mut b: Vec<f64>) -> f64 {
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let at = |v: &[f64], x: f64| v.partition_point(|&y| y <= x) as f64 / v.len() as f64;
    a.iter().chain(&b).map(|&x| (at(&a, x) - at(&b, x)).abs()).fold(0.0, f64::max)
}
