//! Tests of targets of cells: where they are, and what they are.

use super::*;
use crate::data::Geometry;
use crate::eval::Whitener;
use occlude_preprocess::CropBox;

fn contract(resize: u32, crop: u32) -> Preprocess {
    Preprocess { resize, ..Preprocess::imagenet(crop) }
}

fn placed(picture: (u32, u32), [left, top, width, height]: [f64; 4], flip: bool) -> Placed {
    Placed { geometry: Geometry { crop: CropBox { left, top, width, height }, flip }, picture }
}

fn numbers(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.to_kind(Kind::Double).contiguous().flatten(0, -1)).expect("numbers")
}

/// A grid whose only number at column x and row y is what `value` says, of one picture.
fn field(side: i64, value: impl Fn(i64, i64) -> [f32; 2]) -> Cells {
    let all: Vec<f32> = [0, 1]
        .into_iter()
        .flat_map(|d| (0..side * side).map(move |i| (d, i)))
        .map(|(d, i)| value(i % side, i / side)[d])
        .collect();
    Cells::fixed(&Tensor::from_slice(&all).view([1, 2, side, side]), contract(64, 64))
}

/// A picture of 400 x 200 px, of which a teacher sees the 200 px in the middle: a view of 100 x 50 px that begins at 150, 60.
/// Cells are 50 x 25 px, their middles at 175 and 225 px from the left, 72.5 and 97.5 px from above. What is seen begins at 100
/// px, so that these are 3/8 and 5/8 of it across, and 29/80 and 39/80 down.
#[test]
fn the_middles_of_cells_are_where_a_ruler_finds_them() {
    let _alone = crate::rng::alone();
    let find = |flip| {
        let line = line(&contract(64, 64), &placed((400, 200), [150.0, 60.0, 100.0, 50.0], flip));
        numbers(&places(&Tensor::from_slice(&line).view([1, 4]), [2, 2]))
    };
    let (left, right) = (2.0 * 3.0 / 8.0 - 1.0, 2.0 * 5.0 / 8.0 - 1.0);
    let (above, below) = (2.0 * 29.0 / 80.0 - 1.0, 2.0 * 39.0 / 80.0 - 1.0);
    let close = |found: Vec<f64>, expected: [f64; 8]| {
        assert_eq!(found.len(), 8);
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    };
    close(find(false), [left, above, right, above, left, below, right, below]);
    close(find(true), [right, above, left, above, right, below, left, below]);
}

/// What is interpolated by hand between the middles of the four cells around: a quarter of the way, say.
#[test]
fn targets_are_interpolated_at_the_places_of_the_views_cells() {
    let _alone = crate::rng::alone();
    let at = |x: i64, y: i64| [x as f32 + 1.0, (y * y) as f32 - 2.0];
    let cells = field(4, at);
    let unit = |[x, y]: [f64; 2]| {
        let length = (x * x + y * y).sqrt();
        [x / length, y / length]
    };
    let blend = |x: f64, y: f64| {
        // in cells, counted from the middle of the first
        let (x, y) = ((x * 4.0 - 0.5).clamp(0.0, 3.0), (y * 4.0 - 0.5).clamp(0.0, 3.0));
        let ((l, t), (r, b)) = ((x.floor() as i64, y.floor() as i64), (x.ceil() as i64, y.ceil() as i64));
        let (fx, fy) = (x - x.floor(), y - y.floor());
        unit([0, 1].map(|d| {
            let v = |x, y| f64::from(at(x, y)[d]);
            (v(l, t) * (1.0 - fx) + v(r, t) * fx) * (1.0 - fy) + (v(l, b) * (1.0 - fx) + v(r, b) * fx) * fy
        }))
    };
    let pictures = Tensor::from_slice(&[0i64]);
    for flip in [false, true] {
        // 80 px, all of them seen; the view has 40 x 60 of them, and 2 x 3 cells of 20 px
        let view = placed((80, 80), [10.0, 16.0, 40.0, 60.0], flip);
        let (found, counts) = cells.of(&pictures, &[view], [3, 2]).expect("there");
        assert_eq!((found.size(), counts.size()), (vec![1, 3, 2, 2], vec![1, 3, 2]));
        let mut expected = Vec::new();
        for y in [26.0, 46.0, 66.0] {
            let across = if flip { [40.0, 20.0] } else { [20.0, 40.0] };
            expected.extend(across.into_iter().flat_map(|x| blend(x / 80.0, y / 80.0)));
        }
        let found = numbers(&found);
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        assert!(numbers(&counts).iter().all(|&c| c == 1.0));
    }
}

/// Mirrored twice is as it was: the targets of a mirrored view are those of the other, right to left.
#[test]
fn a_mirrored_view_has_mirrored_targets() {
    let _alone = crate::rng::alone();
    let cells = field(5, |x, y| [(x * 3 + y) as f32, (x - y * 2) as f32]);
    let pictures = Tensor::from_slice(&[0i64]);
    let of = |flip| {
        let view = placed((90, 70), [13.0, 4.0, 50.0, 55.0], flip);
        cells.of(&pictures, &[view], [4, 6]).expect("there")
    };
    let ((plain, counts), (mirrored, others)) = (of(false), of(true));
    assert!((plain - mirrored.flip([2])).abs().max().double_value(&[]) < 1e-5);
    assert_eq!(counts, others.flip([2]));
}

/// Of a wide picture a teacher sees the middle: cells beside it count for nothing.
#[test]
fn cells_that_the_teacher_did_not_see_do_not_count() {
    let _alone = crate::rng::alone();
    let cells = field(4, |_, _| [1.0, 0.0]);
    let view = placed((400, 100), [0.0, 0.0, 400.0, 100.0], false);
    let (_, counts) = cells.of(&Tensor::from_slice(&[0i64]), &[view], [1, 8]).expect("there");
    // cells of 50 px; 150 to 250 px are seen
    assert_eq!(numbers(&counts), [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    // and of a contract that cuts an eighth off each side, those at the edge of a square one
    let cut = Cells { contract: contract(64, 48), ..cells };
    let view = placed((100, 100), [0.0, 0.0, 100.0, 100.0], false);
    let (_, counts) = cut.of(&Tensor::from_slice(&[0i64]), &[view], [1, 10]).expect("there");
    assert_eq!(numbers(&counts), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    let error = cut.of(&Tensor::from_slice(&[0i64]), &[view; 2], [1, 1]).expect_err("refused").to_string();
    assert!(error.contains("2 places of 1 pictures"), "{error}");
}

/// A finer grid becomes means of equal parts, a coarse one stays.
#[test]
fn grids_are_averaged_to_no_more_cells_than_asked() {
    let _alone = crate::rng::alone();
    tch::manual_seed(2);
    let map = Tensor::randn([2, 5, 14, 14], (Kind::Float, Device::Cpu));
    let found = reduced(&map, 8);
    assert_eq!(found.size(), [2, 5, 7, 7]);
    let mean = map.narrow(2, 4, 2).narrow(3, 10, 2).mean_dim([2i64, 3].as_slice(), false, Kind::Float);
    let expected = normalize(&mean);
    assert!((found.select(3, 5).select(2, 2) - expected).abs().max().double_value(&[]) < 1e-5);
    for (side, most, expected) in
        [(7, 8, 7), (8, 8, 8), (9, 8, 5), (16, 8, 8), (37, 8, 8), (7, 1, 1), (3, 2, 2)]
    {
        let map = Tensor::ones([1, 3, side, side], (Kind::Float, Device::Cpu));
        assert_eq!(reduced(&map, most).size(), [1, 3, expected, expected], "{side} {most}");
    }
}

/// Every place of the grid is in the sample, and it is no larger than it has to be.
#[test]
fn the_sample_takes_turns_over_the_places_of_the_grid() {
    for (pictures, cells) in [(10, 49), (5_000, 49), (100_000, 64), (1_281_167, 49), (40_000, 1)] {
        let step = stride(pictures, cells);
        let taken = (pictures * cells).div_ceil(step);
        assert!(taken <= 2 * SAMPLE && (step == 1 || taken > SAMPLE / 2), "{pictures} {cells}: {taken}");
        let places: std::collections::HashSet<usize> = (0..cells).map(|i| i * step % cells).collect();
        assert_eq!(places.len(), cells.min((pictures * cells).div_ceil(step)), "{pictures} {cells}: {step}");
    }
}

fn grids(pictures: i64) -> Tensor {
    tch::manual_seed(3);
    let options = (Kind::Float, Device::Cpu);
    let mixed = Tensor::randn([pictures, 3, 3, 6], options).matmul(&Tensor::randn([6, 6], options)) + 4.0;
    reduced(&mixed.permute([0, 3, 1, 2]), 8).to_kind(Kind::Half)
}

fn made(grids: &Tensor, there: &[bool], dim: usize, known: Option<[Tensor; 2]>) -> Result<Cells> {
    let contract = contract(32, 32);
    make(there, dim, known, ("f", &contract), &mut |which| {
        Ok(grids.narrow(0, which.start as i64, which.len() as i64))
    })
}

/// As those of whole pictures, cell by cell: whitened, of length one, wherever pieces end; zeros where nothing can be read.
#[test]
fn targets_of_cells_are_whitened_as_those_of_pictures() {
    let _alone = crate::rng::alone();
    let pictures = PIECE as i64 + 21;
    let grids = grids(pictures);
    let _ = grids.get(5).fill_(f64::NAN);
    let mut there = vec![true; pictures as usize];
    there[5] = false;
    let cells = made(&grids, &there, 4, None).expect("targets");
    assert_eq!((cells.dim(), cells.channels()), (4, 6));
    assert_eq!((cells.values().size(), cells.values().kind()), (vec![pictures, 4, 3, 3], Kind::Half));
    assert_eq!(cells.values().get(5).abs().max().double_value(&[]), 0.0);
    // so few cells are all in the sample
    let all = rows(&grids);
    let good = Tensor::cat(&[all.narrow(0, 0, 45), all.narrow(0, 54, pictures * 9 - 54)], 0);
    let fitted = Moments::of(&good).fit(How::Pca(4), "").expect("fits");
    let expected = normalize(&Whitener::new(&fitted).apply(&good));
    let found = rows(cells.values());
    let found = Tensor::cat(&[found.narrow(0, 0, 45), found.narrow(0, 54, pictures * 9 - 54)], 0);
    assert!((found - expected).abs().max().double_value(&[]) < 2e-3, "but for half precision");
    // as a resumed run has it: of other pictures, by what was fitted on the first
    let known = cells.named().into_iter().map(|n| n.tensor).collect::<Vec<_>>();
    let known: [Tensor; 2] = known.try_into().expect("two");
    let again = made(&grids.narrow(0, 6, 100), &[true; 100], 3, Some(known)).expect("targets");
    let apart = again.values() - cells.values().narrow(0, 6, 100);
    assert!(apart.abs().max().double_value(&[]) < 1e-3);
}

/// A piece of which nothing can be read is not asked for.
#[test]
fn pieces_without_pictures_are_nobodys() {
    let _alone = crate::rng::alone();
    let grids = grids(2 * PIECE as i64 + 3);
    let mut there = vec![true; 2 * PIECE + 3];
    there[PIECE..2 * PIECE].fill(false);
    let contract = contract(32, 32);
    let mut asked = Vec::new();
    let cells = make(&there, 4, None, ("f", &contract), &mut |which| {
        asked.push(which.start);
        Ok(grids.narrow(0, which.start as i64, which.len() as i64))
    });
    let cells = cells.expect("targets");
    assert_eq!(asked, [0, 2 * PIECE, 0, 2 * PIECE], "once for the whitening, once for the targets");
    assert_eq!(cells.values().get(PIECE as i64 + 1).abs().max().double_value(&[]), 0.0);
    assert!(cells.values().get(2 * PIECE as i64).abs().max().double_value(&[]) > 0.0);
    let error = made(&grids, &[false; 3], 4, None).expect_err("refused").to_string();
    assert!(error.contains("no pictures"), "{error}");
    let wrong = [[4i64, 7].as_slice(), &[4]].map(|size| Tensor::zeros(size, (Kind::Float, Device::Cpu)));
    let error = made(&grids, &[true; 3], 4, Some(wrong)).expect_err("refused").to_string();
    assert!(error.contains("cells of 6 numbers, but targets are made of 7"), "{error}");
}
