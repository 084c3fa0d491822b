use super::*;
use crate::normalise;
use proptest::prelude::*;

fn mask(rows: &[&str]) -> Mask {
    let cells = rows.iter().flat_map(|r| r.chars().map(|c| c == '#')).collect();
    Mask::new(rows.len(), rows[0].len(), cells).unwrap()
}

fn rect(left: f64, top: f64, width: f64, height: f64) -> Rect {
    Rect { left, top, width, height }
}

/// Lines of tests/golden/score.txt: a map, a mask, boxes, and the figures that numpy finds; then those of all.
#[test]
fn equals_numpy() {
    let text = include_str!("../../tests/golden/score.txt");
    let lines: Vec<Vec<f64>> =
        text.lines().map(|l| l.split(' ').map(|v| v.parse().unwrap()).collect()).collect();
    let (last, cases) = lines.split_last().unwrap();
    assert!(cases.len() >= 4 * 8 && cases.len() % 4 == 0, "{}", cases.len());
    let mut means = Means::default();
    let close = |figures: &Figures, expected: &[f64]| {
        let f = figures;
        let ours =
            [f.max_f, f.iou_adaptive, f.iou_mean, f.iou_best, f.mae, f.auroc.unwrap_or(-1.0), f.corloc];
        assert_eq!(expected.len(), ours.len());
        for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
            assert!((a - b).abs() < 1e-9, "figure {i}: {a}, expected {b}");
        }
    };
    for case in cases.chunks(4) {
        let [head, values, cells, expected] = case else { unreachable!("chunks of four") };
        let [h, w, rects @ ..] = &head[..] else { panic!("{head:?}") };
        let rects: Vec<Rect> = rects.chunks(4).map(|r| rect(r[0], r[1], r[2], r[3])).collect();
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let truth = Mask::new(*h as usize, *w as usize, cells.iter().map(|&v| v == 1.0).collect()).unwrap();
        let scored = score(Map::new(*h as usize, *w as usize, &values).unwrap(), &truth, &rects).unwrap();
        close(&scored.figures, expected);
        means.add(&scored);
    }
    close(&means.figures().unwrap(), last);
    assert_eq!(means.pictures(), cases.len() / 4);
}

#[test]
fn by_hand() {
    let truth = mask(&["##..", "...."]);
    let values = [1.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
    let scored = score(Map::new(2, 4, &values).unwrap(), &truth, &boxes(&truth)).unwrap();
    let f = scored.figures;
    // the mean is a quarter, twice that a half: three pixels, two of them right
    assert_eq!((f.iou_mean, f.iou_adaptive, f.iou_best), (2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0));
    assert_eq!(f.mae, 1.0 / 8.0);
    // of 12 pairs one is a tie
    assert_eq!(f.auroc, Some(11.5 / 12.0));
    // one pixel: P 1, R 1/2; three: P 2/3, R 1
    let curve = |p: f64, r: f64| 1.3 * p * r / (0.3 * p + r);
    assert!((f.max_f - curve(1.0, 0.5).max(curve(2.0 / 3.0, 1.0))).abs() < 1e-12);
    assert_eq!(f.corloc, 1.0, "three pixels in a row around two: an IoU of 2/3");
    assert_eq!((scored.curve.precision[0], scored.curve.recall[0]), (0.25, 1.0), "everything");
    assert_eq!((scored.curve.precision[255], scored.curve.recall[255]), (1.0, 0.5), "the brightest");
}

#[test]
fn the_truth_itself_is_perfect_and_its_inverse_useless() {
    let truth = mask(&["....", ".##.", ".##.", "...."]);
    let judge = |inside: f32, outside: f32| {
        let values: Vec<f32> = truth.cells().iter().map(|&c| if c { inside } else { outside }).collect();
        score(Map::new(4, 4, &values).unwrap(), &truth, &boxes(&truth)).unwrap().figures
    };
    let perfect = judge(1.0, 0.0);
    assert_eq!((perfect.max_f, perfect.iou_mean, perfect.iou_adaptive), (1.0, 1.0, 1.0));
    assert_eq!((perfect.iou_best, perfect.mae, perfect.auroc, perfect.corloc), (1.0, 0.0, Some(1.0), 1.0));
    let inverse = judge(0.0, 1.0);
    assert_eq!((inverse.auroc, inverse.mae, inverse.iou_mean, inverse.corloc), (Some(0.0), 1.0, 0.0, 0.0));
    assert_eq!(inverse.iou_best, 0.25, "everything");
    let flat = judge(1.0, 1.0);
    assert_eq!(
        (flat.auroc, flat.iou_mean),
        (Some(0.5), 0.25),
        "a constant map is all foreground and says nothing"
    );
}

/// F of the mean curve, not the mean of the F of each picture, which lets each have a threshold of its own.
#[test]
fn one_threshold_serves_all_pictures() {
    let truth = mask(&["#..."]);
    let judge = |values: [f32; 4]| score(Map::new(1, 4, &values).unwrap(), &truth, &[]).unwrap();
    let (low, high) = (judge([0.2, 0.1, 0.0, 0.0]), judge([1.0, 0.9, 0.0, 0.0]));
    assert_eq!((low.figures.max_f, high.figures.max_f), (1.0, 1.0));
    let mut means = Means::default();
    assert_eq!(means.figures(), None);
    [low, high].iter().for_each(|score| means.add(score));
    // at 0.2 the second has one pixel too many: P 3/4, R 1
    let (best, at) = means.curve().best();
    let expected = 1.3 * 0.75 / (0.3 * 0.75 + 1.0);
    assert!((best - expected).abs() < 1e-12 && (at - 26.0 / 255.0).abs() < 1e-12, "{best} at {at}");
    assert_eq!(means.figures().unwrap().max_f, best);
}

#[test]
fn what_cannot_be_judged() {
    let map = Map::new(1, 2, &[0.0, 1.0]).unwrap();
    let sizes = Error::Sizes { map: (1, 2), mask: (2, 1) };
    assert_eq!(score(map, &mask(&["#", "."]), &[]), Err(sizes));
    assert_eq!(score(map, &mask(&[".."]), &[]), Err(Error::NoObject));
    let wide = Map::new(1, 2, &[0.5, 1.5]).unwrap();
    assert_eq!(score(wide, &mask(&["#."]), &[]), Err(Error::Range { index: 1 }));
    let all = score(map, &mask(&["##"]), &[]).unwrap().figures;
    assert_eq!(all.auroc, None, "nothing lies outside of the truth");
    let mut means = Means::default();
    means.add(&score(map, &mask(&["##"]), &[]).unwrap());
    means.add(&score(map, &mask(&[".#"]), &[]).unwrap());
    assert_eq!(means.figures().unwrap().auroc, Some(1.0), "the mean of those that have one");
}

#[test]
fn boxes_are_those_of_the_parts_and_of_the_whole() {
    assert_eq!(boxes(&mask(&["....", ".##."])), [rect(1.0, 1.0, 2.0, 1.0)]);
    let two = boxes(&mask(&["#..#", "#..."]));
    assert_eq!(two, [rect(0.0, 0.0, 4.0, 2.0), rect(0.0, 0.0, 1.0, 2.0), rect(3.0, 0.0, 1.0, 1.0)]);
    assert!(boxes(&mask(&[".."])).is_empty());
    assert_eq!(rect_iou(&rect(0.0, 0.0, 2.0, 2.0), &rect(1.0, 0.0, 2.0, 2.0)), 1.0 / 3.0);
    assert_eq!(rect_iou(&rect(0.0, 0.0, 2.0, 2.0), &rect(2.0, 0.0, 2.0, 2.0)), 0.0);
    assert_eq!(rect_iou(&rect(0.0, 0.0, 0.0, 0.0), &rect(0.0, 0.0, 0.0, 0.0)), 0.0);
}

proptest! {
    /// Ranks against every pair, with many ties.
    #[test]
    fn auroc_counts_pairs(values in prop::collection::vec(0u8..6, 24), bits in 1u32..0xff_ffff) {
        let values: Vec<f32> = values.iter().map(|&v| f32::from(v) / 5.0).collect();
        let truth = Mask::new(4, 6, (0..24).map(|i| bits >> i & 1 == 1).collect()).unwrap();
        let (mut pairs, mut n) = (0.0, 0.0);
        for (i, a) in values.iter().enumerate().filter(|(i, _)| truth.cells()[*i]) {
            for (_, b) in values.iter().enumerate().filter(|(j, _)| !truth.cells()[*j] && *j != i) {
                pairs += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                n += 1.0;
            }
        }
        let map = Map::new(4, 6, &values).unwrap();
        let figures = score(map, &truth, &[]).unwrap().figures;
        prop_assert_eq!(figures.auroc.is_some(), n > 0.0);
        if let Some(auroc) = figures.auroc {
            prop_assert!((auroc - pairs / n).abs() < 1e-12);
        }
        // all of these are thresholds of the curve
        let normal = normalise(map);
        let map = Map::new(4, 6, &normal).unwrap();
        let figures = score(map, &truth, &[]).unwrap().figures;
        let best = normal.iter().map(|&v| iou_at(map, &truth, f64::from(v))).fold(0.0, f64::max);
        prop_assert!((figures.iou_best - best).abs() < 1e-12, "{} {best}", figures.iou_best);
        prop_assert!(figures.iou_mean <= figures.iou_best + 1e-12);
    }
}
