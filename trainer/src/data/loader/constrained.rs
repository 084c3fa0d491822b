//! Test of crops that have to hold a share of the foreground.

use super::*;
use crate::config::{Config, Recipe};
use crate::share::Share;
use occlude_dataset::{Dataset, Options};

/// Every view of every picture holds its share, where ten crops have one that does.
#[test]
fn both_crops_hold_their_share_of_the_foreground() {
    let dir = tempfile::tempdir().expect("a folder");
    let inside = |x: u32, y: u32, i: u32| (x / 8 + i).is_multiple_of(5) && (y / 8).abs_diff(6) < 3;
    for i in 0..8u32 {
        let picture = image::RgbImage::from_fn(96, 112, |x, y| {
            image::Rgb(if inside(x, y, i) { [230, 40, 40] } else { [40, 120, 200] })
        });
        picture.save(dir.path().join(format!("{i}.png"))).expect("written");
    }
    let dataset = Dataset::open(dir.path(), &Options::default()).expect("listed");
    let store = Arc::new(Store::new(dataset, 0));
    let mut augment = Config::new(Recipe::MocoV2).views.remove(0).augment;
    augment.crop_foreground = 0.4;
    let view = ViewSpec { size: 32, augment };
    let spec = LoaderSpec {
        batch_size: 4,
        share: Share::ALL,
        views: vec![view; 2],
        keep_last: false,
        seed: 3,
        workers: 1,
    };
    let order = Arc::new((0..8).collect());
    let job = Job { store: Arc::clone(&store), spec: spec.clone(), order, epoch: 0, steps: 2 };
    let mut cutter = Cutter::new(&store, &spec.views);
    let (mut held, mut first) = (Vec::new(), Vec::new());
    for index in 0..8 {
        let mut outs = [vec![0; 3 * 32 * 32], vec![0; 3 * 32 * 32]];
        let [a, b] = &mut outs;
        let draw = |whole: &Whole, cuts: &mut Vec<Cut>| {
            let foreground = whole.foreground.expect("found");
            for view in (0..).zip(&spec.views) {
                let (cut, _) = job.draw(index, view, whole);
                held.push(foreground.held(&cut.crop, (whole.width, whole.height)));
                let (free, _) = job.draw(index, view, &Whole { foreground: None, ..*whole });
                first.push(foreground.held(&free.crop, (whole.width, whole.height)));
                cuts.push(Cut { crop: cut.crop, flip: cut.flip });
            }
        };
        assert_eq!(cutter.views(index, draw, &mut [a.as_mut_slice(), b.as_mut_slice()]), Some(index));
    }
    assert!(held.len() == 16 && held.iter().all(|&h| h >= 0.4), "{held:?}");
    assert!(first.iter().any(|&h| h < 0.4), "{first:?}");
    assert!(held.iter().zip(&first).all(|(h, f)| *f < 0.4 || h == f), "a crop that holds it is kept");
}
