use super::*;
use crate::tolerance;
use occlude_encoder::Arch;
use tch::Kind;

fn making(sizes: &[u32], mirror: bool) -> Making {
    let contracts = sizes.iter().map(|&size| Preprocess::imagenet(size)).collect();
    Making { rule: MapRule::Border, tap: "res4".to_owned(), contracts, window: Window::Whole, mirror }
}

/// Without a filter.
fn input(x: &Tensor) -> Input {
    Input { filtered: x.shallow_clone(), plain: x.shallow_clone() }
}

fn images(side: i64) -> Tensor {
    tch::manual_seed(2);
    Tensor::rand([2, 3, side, side], (Kind::Float, Device::Cpu))
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn maps_of_mirrored_pictures_are_mirrored() {
    let _alone = crate::rng::alone();
    let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
    let x = images(64);
    let maps = |mirror, x: &Tensor| making(&[64], mirror).of_inputs(&encoder, &[input(x)]).expect("maps");
    let (ours, mirrored) = (maps(true, &x), maps(true, &x.flip([3])));
    assert_eq!(ours.size(), [2, 4, 4]);
    assert!(distance(&ours, &mirrored.flip([2])) < tolerance::SAME_MATH);
    let plain = maps(false, &x);
    assert!(distance(&plain, &maps(false, &x.flip([3])).flip([2])) > 1e-3, "of itself it is not");
    let mean = (&plain + maps(false, &x.flip([3])).flip([2])) / 2.0;
    assert!(distance(&ours, &mean) < tolerance::SAME_MATH);
}

#[test]
fn maps_of_several_sizes_are_averaged_on_the_finest_grid() {
    let _alone = crate::rng::alone();
    let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
    let inputs = [images(64), images(96)];
    let [small, large] =
        [0, 1].map(|i| making(&[64], false).of_inputs(&encoder, &[input(&inputs[i])]).expect("maps"));
    let both = making(&[64, 96], false).of_inputs(&encoder, &inputs.each_ref().map(input)).expect("maps");
    let enlarged = small.unsqueeze(1).upsample_bilinear2d([6, 6], false, None, None).squeeze_dim(1);
    assert!(distance(&both, &((enlarged + large) / 2.0)) < tolerance::SAME_MATH);
}

/// A map is judged where it lies in the picture, whatever part of that is seen.
#[test]
fn rows_are_spread_over_what_is_judged() {
    let mask = occlude_saliency::Mask::new(2, 4, vec![true; 8]).expect("a mask");
    let seen = Seen {
        index: 0,
        inputs: Vec::new(),
        small: Rgb::filled(4, 2, [0; 3]),
        place: Rect { left: 0.0, top: 0.0, width: 4.0, height: 2.0 },
        truth: Truth { mask, boxes: Vec::new() },
    };
    let grid = |values: &[f32]| Grid { height: 1, width: values.len(), values: values.to_vec() };
    let (trained, untrained, prior) = (grid(&[1.0, 3.0]), grid(&[3.0, 1.0]), grid(&[0.0, 0.0, 1.0, 1.0]));
    let values = |row| seen.values(row, [Some(&trained), Some(&untrained)], &prior).expect("values");
    let rising = [0.0, 0.25, 0.75, 1.0];
    assert_eq!(values(Row::Encoder), [rising, rising].concat());
    assert_eq!(values(Row::Untrained)[..4], [1.0, 0.75, 0.25, 0.0]);
    assert_eq!(values(Row::BorderColour)[..4], [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(values(Row::Product)[..4], [0.0, 0.0, 0.75, 1.0]);
    assert_eq!(values(Row::Centre)[1], 1.0, "scaled to reach one");
    assert!(seen.values(Row::Untrained, [Some(&trained), None], &prior).is_err());
}
