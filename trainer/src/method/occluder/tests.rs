//! Tests of masks as whole configurations make them.

use super::*;
use crate::config::{Guidance, Recipe, Strategy};
use crate::maps::{MapRule, Pictures, maps};
use crate::model::{Encoder, Mode};
use crate::rng::{Domain, stream};
use occlude_saliency::{Map, prior, upsample};
use tch::Kind;

const BATCH: i64 = 16;
const SIZE: i64 = 64;
/// Cells along a side of stage 4.
const CELLS: i64 = 4;

fn config(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size) = (SIZE as usize, BATCH as usize);
    c.masking.as_mut().expect("masked").stage = 4;
    c
}

/// A step when that share of the epochs is done.
fn at(done: f64) -> Step {
    let epoch = done * Config::new(Recipe::SaliencyMoco).epochs as f64;
    Step { number: 3, epoch, preview: false, measure: false }
}

/// Blurred-out cells by the small recipe's stage and grid, with changes.
fn occluder(change: impl FnOnce(&mut Masking)) -> Occluder {
    let mut config = config(Recipe::SaliencyMoco);
    let masking = config.masking.as_mut().expect("masked");
    masking.strategy = Strategy::Zero;
    change(masking);
    config.validate().expect("valid");
    Occluder::new(&config, Device::Cpu).expect("an occluder")
}

fn numbers(x: &Tensor) -> Vec<f64> {
    Vec::try_from(&x.to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
}

fn plain() -> Tensor {
    tch::manual_seed(1);
    Tensor::rand([BATCH, 3, SIZE, SIZE], (Kind::Float, Device::Cpu))
}

/// Feature maps of multiples of 1/128, which every machine adds up to the same sums.
fn features() -> Tensor {
    let values: Vec<f32> =
        (0..BATCH * 2 * CELLS * CELLS).map(|i| (i * i * 37 % 101) as f32 / 128.0).collect();
    Tensor::from_slice(&values).view([BATCH, 2, CELLS, CELLS])
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Where the pictures are not what they were.
fn changed(before: &Tensor, after: &Tensor) -> Vec<u8> {
    let mask = before.ne_tensor(after).to_kind(Kind::Uint8).contiguous().flatten(0, -1);
    Vec::try_from(&mask).expect("bytes")
}

/// The pixels that the recipes mask, as they did before masks were values: what a run computes is not to change by itself.
/// The numbers are those of an implementation in PyTorch with the same random streams, too.
#[test]
fn recipes_mask_the_pixels_that_they_always_did() {
    let _alone = crate::rng::alone();
    let known: [(Recipe, [u64; 2]); 4] = [
        (Recipe::SaliencyMoco, [0xc07f_479d_bde2_d1df, 0x3830_6c06_dfb4_a33d]),
        (Recipe::SaliencyMocoSmall, [0x7214_05aa_ec23_5e25, 0xc7b7_4a49_21eb_3125]),
        (Recipe::MscnMoco, [0x7387_6dda_8aa8_11df, 0xb660_dd56_45bf_d63d]),
        (Recipe::SaliencySimclr, [0xc07f_479d_bde2_d1df, 0x3830_6c06_dfb4_a33d]),
    ];
    let found = known.map(|(recipe, _)| {
        let occluder = Occluder::new(&config(recipe), Device::Cpu).expect("an occluder");
        let hashes = [(0, Purpose::Positive), (1, Purpose::HardNegative)].map(|(of, purpose)| {
            let mut view = occluder.view(&plain(), at(0.0));
            tch::manual_seed(2);
            let rng = &mut stream(0, Domain::Mask, 3, of);
            let out = occluder.hide(&mut view, purpose, |_| features(), rng);
            hash(&changed(&view.input, &out))
        });
        (recipe, hashes)
    });
    assert_eq!(found, known, "{found:#x?}");
}

/// The view of a query when that share of the epochs is done, and what became of it.
fn hidden(occluder: &Occluder, done: f64) -> (View, Tensor) {
    let mut view = occluder.view(&plain(), at(done));
    tch::manual_seed(2);
    let rng = &mut stream(0, Domain::Mask, 3, 0);
    let out = occluder.hide(&mut view, Purpose::Positive, |_| features(), rng);
    (view, out)
}

/// Of each picture, how many cells are masked.
fn cells(view: &View, out: &Tensor) -> Vec<i64> {
    let cell = (SIZE / CELLS).pow(2) * 3;
    let per = changed(&view.input, out);
    per.chunks((3 * SIZE * SIZE) as usize)
        .map(|p| p.iter().map(|&c| i64::from(c)).sum::<i64>() / cell)
        .collect()
}

#[test]
fn masks_follow_their_course() {
    let _alone = crate::rng::alone();
    let course = occluder(|m| (m.course, m.ratio) = (Some([0.2, 0.6, 0.9]), [0.5, 0.5]));
    let always = occluder(|m| m.ratio = [0.5, 0.5]);
    for (done, count) in
        [(0.0, 0), (0.1999, 0), (0.3, 2), (0.4, 4), (0.5, 6), (0.6, 8), (0.89, 8), (0.9, 0), (0.99, 0)]
    {
        let (view, out) = hidden(&course, done);
        assert_eq!(cells(&view, &out), [count; BATCH as usize], "{done}");
        assert_eq!(course.masks(Side::Query, at(done)), count > 0);
        assert!(!course.masks(Side::Key, at(done)));
        let same = hidden(&always, done).1 == out;
        assert_eq!(same, count == 8, "{done}: in full they are what they always are");
    }
    // nobody looks for a foreground that nothing needs
    let mut view = course.view(&plain(), at(0.1));
    let rng = &mut stream(0, Domain::Mask, 3, 0);
    let out = course.hide(&mut view, Purpose::Positive, |_| panic!("not needed"), rng);
    assert!(out == view.input && view.foreground.is_none());
    // hard negatives are no part of the course
    let negative = course.hide(&mut view, Purpose::HardNegative, |_| features(), rng);
    assert!(negative != view.input);
}

/// A filter is of pixels, however many of them a view has; what evaluation does, it does to the large ones.
#[test]
fn views_of_every_size_are_filtered() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::SaliencySimclr);
    let mut small = config.views[0].clone();
    (small.count, small.size) = (2, Some(32));
    config.views.push(small);
    config.masking.as_mut().expect("masked").strategy = Strategy::Hp;
    let occluder = Occluder::new(&config, Device::Cpu).expect("an occluder");
    let contract = config.preprocess().high_pass.expect("filtered");
    for side in [SIZE, 32] {
        let view = plain().narrow(2, 0, side).narrow(3, 0, side);
        let expected = HighPassFilter::new(side as usize, &contract, Device::Cpu).apply(&view);
        assert_eq!(occluder.view(&view, at(0.0)).input, expected, "{side}");
        assert_ne!(expected, view);
    }
}

/// What rises along the course is the ratio of spread masks and the share of pictures of background-biased ones.
#[test]
fn a_course_scales_what_the_choice_counts_by() {
    let _alone = crate::rng::alone();
    let extent = |choice, factor| {
        let occluder = occluder(|m| (m.choice, m.share, m.ratio) = (choice, 0.5, [0.2, 0.4]));
        occluder.parts.expect("masked").extent(Purpose::Positive, factor)
    };
    assert_eq!(extent(Choice::Spread, 0.5), Extent { ratio: [0.1, 0.2], views: 0.5, focal: 0.5 });
    assert_eq!(extent(Choice::Background, 0.5), Extent { ratio: [0.2, 0.4], views: 0.25, focal: 1.0 });
    assert_eq!(extent(Choice::Background, 1.0).views, 0.5);
}

/// Every picture is guided by the foreground of the one half a batch away.
#[test]
fn the_control_has_the_maps_of_other_pictures() {
    let _alone = crate::rng::alone();
    let own = hidden(&occluder(|_| ()), 0.0).0.foreground.expect("found");
    let other = hidden(&occluder(|m| m.guidance = Guidance::Other), 0.0).0.foreground.expect("found");
    assert_eq!(own, Tensor::cat(&[other.narrow(0, 8, 8), other.narrow(0, 0, 8)], 0));
    assert!((0..BATCH).all(|i| own.get(i) != other.get(i)), "the features differ from picture to picture");
    // as many cells as by the own map: those of the ratio
    let counts = |guidance| {
        let (view, out) = hidden(&occluder(|m| m.guidance = guidance), 0.0);
        cells(&view, &out)
    };
    assert_eq!(counts(Guidance::Other), counts(Guidance::Saliency));
    assert_eq!(counts(Guidance::Random), counts(Guidance::Saliency));
}

/// Random cells in the number of background-biased ones need the foreground's size, and nothing else needs a network.
#[test]
fn whoever_needs_a_foreground_looks_for_it() {
    let _alone = crate::rng::alone();
    let looks = |guidance, choice| occluder(|m| (m.guidance, m.choice) = (guidance, choice)).by_method();
    assert!(looks(Guidance::Saliency, Choice::Spread) && looks(Guidance::Other, Choice::Background));
    assert!(looks(Guidance::Random, Choice::Background) && !looks(Guidance::Random, Choice::Spread));
}

/// `foreground` against cells whose value is at least the mean and so many deviations more; values at the threshold may
/// fall on either side.
fn assert_foreground(found: &Tensor, map: &[f64], deviations: f64) {
    assert_foreground_to(found, map, deviations, 1e-4);
}

/// The same of values that differ by less.
fn assert_foreground_to(found: &Tensor, map: &[f64], deviations: f64, near: f64) {
    let n = map.len() as f64;
    let mean = map.iter().sum::<f64>() / n;
    let std = (map.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    let limit = mean + deviations * std;
    for (i, (found, value)) in numbers(found).into_iter().zip(map).enumerate() {
        let expected = f64::from(u8::from(*value >= limit));
        assert!(found == expected || (value - limit).abs() < near, "{i}: {value} {limit}");
    }
}

/// The sums over channels of picture `i`, cell by cell.
fn sums(i: i64) -> Vec<f32> {
    numbers(&features().get(i).sum_dim_intlist([0i64].as_slice(), false, Kind::Double))
        .into_iter()
        .map(|v| v as f32)
        .collect()
}

#[test]
fn a_finer_grid_cuts_its_foreground_out_of_the_interpolated_map() {
    let _alone = crate::rng::alone();
    let (view, out) = hidden(&occluder(|m| (m.grid, m.ratio) = (Some(8), [0.5, 0.5])), 0.0);
    let foreground = view.foreground.as_ref().expect("found");
    assert_eq!(foreground.size(), [BATCH, 8, 8]);
    for i in 0..BATCH {
        let map = sums(i);
        let fine = upsample(Map::new(4, 4, &map).expect("a map"), 8, 8);
        assert_foreground(&foreground.get(i), &fine.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), -0.6);
    }
    // half of 64 cells of 8x8 pixels, which is 8 of 16x16
    assert_eq!(cells(&view, &out), [8; BATCH as usize]);
}

/// The blend of both maps, each scaled to 0..1, by loops: of the sums over channels and of the prior for pictures.
#[test]
fn the_prior_fades_out_of_the_scores() {
    let _alone = crate::rng::alone();
    let bytes = |i: i64| -> Vec<u8> { (0..768).map(|k| (k * k * (7 + 2 * i) % 253) as u8).collect() };
    let views: Vec<Tensor> = (0..BATCH)
        .map(|i| {
            let small = Tensor::from_slice(&bytes(i)).view([1, 16, 16, 3]).permute([0, 3, 1, 2]);
            (small.to_kind(Kind::Float) / 255.0).upsample_nearest2d([SIZE, SIZE], None, None)
        })
        .collect();
    let contract = config(Recipe::SaliencyMocoSmall).preprocess();
    let channel = |v: [f32; 3]| Tensor::from_slice(&v).view([1, 3, 1, 1]);
    let plain = (Tensor::cat(&views, 0) - channel(contract.mean)) / channel(contract.std);
    let scaled = |map: &[f64]| -> Vec<f64> {
        let (low, high) = map.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        map.iter().map(|v| (v - low) / (high - low)).collect()
    };
    let occluder = occluder(|m| m.prior_until = 0.5);
    let mut seen = Vec::new();
    for (done, weight) in [(0.0, 1.0), (0.125, 0.75), (0.375, 0.25), (0.5, 0.0)] {
        let mut view = occluder.view(&plain, at(done));
        let rng = &mut stream(0, Domain::Mask, 3, 0);
        drop(occluder.hide(&mut view, Purpose::Positive, |_| features(), rng));
        let foreground = view.foreground.expect("found");
        for i in 0..BATCH {
            let fine = prior::border_colour(&bytes(i), (16, 16)).expect("a map");
            let coarse = (0..16).map(|c| {
                let of = |k: usize| f64::from(fine[(c / 4 * 4 + k / 4) * 16 + c % 4 * 4 + k % 4]);
                (0..16).map(of).sum::<f64>() / 16.0
            });
            let own: Vec<f64> = sums(i).into_iter().map(f64::from).collect();
            let blend: Vec<f64> = scaled(&coarse.collect::<Vec<_>>())
                .iter()
                .zip(scaled(&own))
                .map(|(prior, own)| prior * weight + own * (1.0 - weight))
                .collect();
            assert_foreground(&foreground.get(i), &blend, -0.6 * (1.0 - weight));
        }
        seen.push(foreground);
    }
    assert!(seen[0] != seen[3], "the prior does say something else");
}

/// The first batch shows masks that come later, as they will be.
#[test]
fn the_first_picture_shows_what_the_course_leads_to() {
    let _alone = crate::rng::alone();
    let shown = |change: fn(&mut Masking)| {
        let occluder = occluder(change);
        let mut preview = Some(Preview::default());
        let mut views = [plain(), plain()].map(|v| occluder.view(&v, at(0.0)));
        let rng = &mut stream(0, Domain::Preview, 0, 0);
        occluder.complete(&mut preview, &mut views, |_| features(), rng);
        let preview = preview.expect("asked for");
        for (_, shown) in &preview.columns {
            assert!(*shown != views[0].input);
        }
        (preview.columns.iter().map(|c| c.0).collect::<Vec<_>>(), preview.foreground.len())
    };
    assert_eq!(shown(|_| ()), (vec![], 0));
    assert_eq!(shown(|m| m.course = Some([0.1, 0.2, 0.9])), (vec!["masked query, later"], 1));
    let both = |m: &mut Masking| (m.course, m.branch) = (Some([0.0, 0.2, 0.9]), Branch::Both);
    assert_eq!(shown(both), (vec!["masked query, later", "masked key, later"], 2));
}

/// A vision transformer with patches of 8 px, and an occluder of its views.
fn of_transformer(change: impl FnOnce(&mut Masking)) -> (Encoder, Occluder) {
    let mut config = config(Recipe::SaliencyMoco);
    config.arch = "vit_32x2x2_patch8_64".into();
    let masking = config.masking.as_mut().expect("masked");
    (masking.strategy, masking.rule) = (Strategy::Zero, MapRule::Attention);
    change(masking);
    config.validate().expect("valid");
    let encoder = Encoder::new(config.architecture().expect("known"), 4, Device::Cpu);
    (encoder, Occluder::new(&config, Device::Cpu).expect("an occluder"))
}

/// What a transformer's own values say of its views, and what became of these.
fn hidden_patches(change: impl FnOnce(&mut Masking)) -> (Encoder, View, Tensor) {
    let (encoder, occluder) = of_transformer(change);
    let mut view = occluder.view(&plain(), at(0.0));
    let own = |x: &Tensor| tch::no_grad(|| encoder.forward(x, Mode::Eval, occluder.tap()).tap());
    tch::manual_seed(2);
    let out = occluder.hide(&mut view, Purpose::Positive, own, &mut stream(0, Domain::Mask, 3, 0));
    (encoder, view, out)
}

/// The class token's attention, head by head and patch by patch, cut off at its mean; as many patches as the ratio says.
#[test]
fn attention_localises_on_the_patches() {
    let _alone = crate::rng::alone();
    for (block, ratio) in [(None, 0.25), (Some(0), 0.5)] {
        let (encoder, view, out) = hidden_patches(|m| (m.block, m.ratio) = (block, [ratio, ratio]));
        let tap = encoder.graph().tap(&format!("attention{}", block.unwrap_or(1))).expect("a tap");
        let seen = tch::no_grad(|| encoder.forward(&plain(), Mode::Eval, &[tap]).tap());
        let foreground = view.foreground.as_ref().expect("found");
        assert_eq!(foreground.size(), [BATCH, 8, 8]);
        for i in 0..BATCH {
            let of = |p: i64| (0..2).map(|h| seen.double_value(&[i, h, 0, 1 + p])).sum::<f64>() / 2.0;
            assert_foreground_to(&foreground.get(i), &(0..64).map(of).collect::<Vec<_>>(), 0.0, 1e-7);
        }
        // patches of 8 px are a quarter of the cells of 16 that are counted
        let quarters = (64.0 * ratio / 4.0) as i64;
        assert_eq!(cells(&view, &out), [quarters; BATCH as usize]);
    }
}

/// Rules of features read the patches of a block, and a coarser grid averages the map.
#[test]
fn rules_of_features_read_patches() {
    let _alone = crate::rng::alone();
    for (rule, grid) in
        [(MapRule::Sum, None), (MapRule::Border, None), (MapRule::Object, None), (MapRule::Border, Some(4))]
    {
        let (encoder, view, _) = hidden_patches(|m| (m.rule, m.grid, m.block) = (rule, grid, Some(0)));
        let tap = encoder.graph().tap("block0").expect("a tap");
        let tokens = tch::no_grad(|| encoder.forward(&plain(), Mode::Eval, &[tap]).tap());
        let features = tokens.narrow(1, 1, 64).transpose(1, 2).reshape([BATCH, 32, 8, 8]);
        let seen = plain();
        let mut map = maps(rule, &features, Pictures { pixels: &seen, std: [0.229, 0.224, 0.225] });
        if let Some(cells) = grid {
            map = map.unsqueeze(1).adaptive_avg_pool2d([cells as i64; 2]).squeeze_dim(1);
        }
        let side = grid.map_or(8, |cells| cells as i64);
        let foreground = view.foreground.as_ref().expect("found");
        assert_eq!(foreground.size(), [BATCH, side, side]);
        for i in 0..BATCH {
            assert_foreground(&foreground.get(i), &numbers(&map.get(i)), rule.deviations());
        }
    }
}

/// With the same numbers in tokens as in a feature map the same pixels are masked, whatever the choice and the fill.
#[test]
fn tokens_and_feature_maps_mask_the_same_pixels() {
    let _alone = crate::rng::alone();
    tch::manual_seed(5);
    let map = Tensor::randn([BATCH, 6, 8, 8], (Kind::Float, Device::Cpu));
    let tokens = Tensor::cat(
        &[Tensor::ones([BATCH, 1, 6], (Kind::Float, Device::Cpu)), map.flatten(2, 3).transpose(1, 2)],
        1,
    );
    for (choice, strategy, rule) in [
        (Choice::Spread, Strategy::Hp, MapRule::Sum),
        (Choice::Background, Strategy::OtherPicture, MapRule::Border),
        (Choice::Spread, Strategy::Blur, MapRule::Object),
    ] {
        let change = |m: &mut Masking| {
            (m.choice, m.strategy, m.rule, m.prior_until, m.stage) = (choice, strategy, rule, 0.5, 3);
        };
        let masked = |occluder: &Occluder, value: &Tensor| {
            let mut view = occluder.view(&plain(), at(0.1));
            tch::manual_seed(2);
            let rng = &mut stream(0, Domain::Mask, 3, 0);
            occluder.hide(&mut view, Purpose::Positive, |_| value.shallow_clone(), rng)
        };
        let (_, transformers) = of_transformer(change);
        assert_eq!(
            masked(&occluder(change), &map),
            masked(&transformers, &tokens),
            "{choice:?} {strategy:?}"
        );
    }
}
