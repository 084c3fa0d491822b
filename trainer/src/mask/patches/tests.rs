//! Tests of hidden patches: how many, where, and by what they are ranked.

use super::*;
use crate::config::{Config, Recipe};
use crate::rng::{Domain, stream};

const GRID: [usize; 2] = [14, 14];

fn settings(change: impl FnOnce(&mut Patches)) -> Patches {
    let mut config = Config::new(Recipe::Ibot);
    let mut patches = config.method.dino_mut().and_then(|d| d.patches.clone()).expect("hidden");
    change(&mut patches);
    patches
}

fn drawn(settings: &Patches, pictures: usize, seed: u64) -> Vec<Vec<usize>> {
    draw(settings, GRID, pictures, &mut stream(seed, Domain::Mask, 0, 0)).places
}

/// Half of the views lose nothing, the others 10 to 50 % of their patches on average less what rectangles leave over.
#[test]
fn published_blocks_hide_what_they_may() {
    let all = drawn(&settings(|_| {}), 1000, 3);
    assert_eq!(all.len(), 2000);
    let counts: Vec<usize> = all.iter().map(Vec::len).collect();
    let without = counts.iter().filter(|&&n| n == 0).count();
    assert!((950..1050).contains(&without), "{without}");
    assert!(counts.iter().all(|&n| n <= 98), "at most half");
    let mean = counts.iter().sum::<usize>() as f64 / (2000 - without) as f64 / 196.0;
    assert!((0.27..0.32).contains(&mean), "{mean}");
    assert!(all.iter().all(|view| view.windows(2).all(|pair| pair[0] < pair[1])));
}

/// The neighbours of hidden patches are hidden as well, mostly.
#[test]
fn blocks_hang_together_and_random_patches_do_not() {
    let beside = |choice| {
        let all = drawn(&settings(|p| (p.choice, p.ratio) = (choice, vec![[0.3, 0.3]])), 100, 1);
        let pairs = |view: &Vec<usize>| {
            let right = view.iter().filter(|&&c| c % 14 < 13);
            (right.clone().filter(|&&c| view.contains(&(c + 1))).count(), right.count())
        };
        let (both, all) = all.iter().map(pairs).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        both as f64 / all as f64
    };
    let (blocks, random) = (beside(PatchChoice::Block), beside(PatchChoice::Random));
    assert!(blocks > 0.7 && (0.25..0.35).contains(&random), "{blocks} {random}");
}

/// One rectangle and no room for another: its sides are those of the formula.
#[test]
fn a_block_is_a_rectangle_of_the_least_area_or_more() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let first = blocks(16.0, GRID, &mut stream(seed, Domain::Mask, 0, 0));
        assert!(!first.is_empty() && first.len() <= 16);
        if first.len() == 16 {
            let rows: std::collections::BTreeSet<_> = first.iter().map(|c| c / 14).collect();
            let columns: std::collections::BTreeSet<_> = first.iter().map(|c| c % 14).collect();
            if rows.len() * columns.len() == 16 {
                seen.insert((rows.len(), columns.len()));
            }
        }
    }
    assert!(seen.contains(&(4, 4)), "{seen:?}");
    assert!(seen.iter().all(|&(h, w)| h as f64 / w as f64 >= 0.25 && w as f64 / h as f64 >= 0.25));
}

#[test]
fn other_choices_hide_the_exact_number() {
    for choice in [PatchChoice::Random, PatchChoice::High, PatchChoice::Low] {
        let all = drawn(&settings(|p| (p.choice, p.ratio) = (choice, vec![[0.37, 0.37]])), 20, 5);
        assert!(all.iter().all(|view| view.len() == 72), "int(0.37 * 196)");
        if choice != PatchChoice::Random {
            assert!(all.iter().all(|view| *view == (0..72).collect::<Vec<_>>()));
        }
    }
    // int(0.1 * 196) = 19 of the most attended, of which int(0.1 * 0.37 * 196) = 7 are shown
    let all = drawn(&settings(|p| (p.choice, p.ratio) = (PatchChoice::Hint, vec![[0.37, 0.37]])), 20, 5);
    for view in &all {
        assert_eq!((view.len(), view.iter().filter(|&&rank| rank < 19).count()), (65, 12));
        assert_eq!(view.last(), Some(&71));
    }
    assert!(all.windows(2).any(|pair| pair[0] != pair[1]), "which of them is drawn");
}

/// AttMask's draws: one share a batch, and a coin for each of the two views of all its pictures.
#[test]
fn draws_for_a_batch_are_one() {
    let settings = settings(|p| {
        (p.choice, p.ratio, p.share, p.per) = (PatchChoice::High, vec![[0.1, 0.5]], 0.5, PatchPer::Batch);
    });
    let (mut masked, mut counts) = (0, std::collections::BTreeSet::new());
    for seed in 0..200 {
        let all = drawn(&settings, 6, seed);
        for view in all.chunks(6) {
            assert!(view.iter().all(|v| v.len() == view[0].len()), "all pictures alike");
            masked += usize::from(!view[0].is_empty());
        }
        if !all[0].is_empty() && !all[6].is_empty() {
            assert_eq!(all[0].len(), all[6].len(), "one share for both views");
        }
        counts.extend(all.iter().map(Vec::len).filter(|&n| n > 0));
    }
    assert!((160..240).contains(&masked), "{masked} of 400");
    assert!(counts.first() >= Some(&19) && counts.last() <= Some(&98) && counts.len() > 30, "{counts:?}");
    let apart = Patches { per: PatchPer::Picture, ..settings };
    let all = drawn(&apart, 200, 1);
    let coins = all.iter().filter(|view| !view.is_empty()).count();
    assert!(
        (160..240).contains(&coins) && all.iter().any(|v| v.len() < 30) && all.iter().any(|v| v.len() > 90)
    );
}

#[test]
fn what_is_drawn_becomes_places_and_weights() {
    let drawn = Drawn { places: vec![vec![1, 3], vec![], vec![0]], ratio: vec![0.5, 0.0, 0.25] };
    let by = |choice| settings(|p| p.choice = choice);
    let all = |choice, scores| hidden(&by(choice), &drawn, [2, 2], scores, Device::Cpu);
    let plain = all(PatchChoice::Random, None).expect("some");
    let places = |h: &HiddenPatches| Vec::<i64>::try_from(&h.places).expect("numbers");
    assert_eq!(places(&plain), [1, 3, 8]);
    assert_eq!(Vec::<f32>::try_from(&plain.weights).expect("numbers"), [0.5, 0.5, 1.0]);
    let mask = Vec::<bool>::try_from(plain.mask.flatten(0, -1)).expect("numbers");
    assert_eq!((0..12).filter(|&i| mask[i]).collect::<Vec<_>>(), [1, 3, 8]);
    let scores =
        Tensor::from_slice(&[0.1f32, 0.4, 0.2, 0.3, 0., 0., 0., 0., 0.3, 0.1, 0.4, 0.2]).view([3, 4]);
    for (choice, expected) in [(PatchChoice::High, [3, 0, 10]), (PatchChoice::Low, [2, 1, 9])] {
        let ranked = all(choice, Some(&scores)).expect("some");
        assert_eq!(places(&ranked), expected, "{choice:?}");
    }
    assert_eq!(places(&all(PatchChoice::Block, Some(&scores)).expect("some")), [1, 3, 8], "looks at none");
    let none = Drawn { places: vec![vec![]; 3], ratio: vec![0.0; 3] };
    assert!(hidden(&by(PatchChoice::Random), &none, [2, 2], None, Device::Cpu).is_none());
}

/// The host's number of patches is the device's, whatever is foreground, as the places are drawn before it is known.
#[test]
fn spread_patches_are_as_many_as_were_drawn() {
    let _alone = crate::rng::alone();
    tch::manual_seed(8);
    let p = settings(|p| (p.choice, p.ratio) = (PatchChoice::Spread, vec![[0.0, 0.0], [0.0, 0.99]]));
    for seed in 0..30 {
        let drawn = draw(&p, GRID, 40, &mut stream(seed, Domain::Mask, 0, 0));
        let scores =
            Tensor::rand([80, 196], (Kind::Float, Device::Cpu)).pow_tensor_scalar(1 + seed as i64 % 5);
        let found = hidden(&p, &drawn, GRID, Some(&scores), Device::Cpu).expect("some");
        let counts = found.mask.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        let expected: Vec<i64> = drawn.places.iter().map(|view| view.len() as i64).collect();
        assert_eq!(Vec::<i64>::try_from(&counts).expect("numbers"), expected);
        assert!(expected.contains(&0) && expected.iter().any(|&n| n > 150));
    }
}

/// Of each score the definition, one number at a time.
#[test]
fn scores_are_those_of_the_definitions() {
    let _alone = crate::rng::alone();
    tch::manual_seed(2);
    let (n, heads, t, before) = (2i64, 3i64, 6i64, 2i64);
    let maps: Vec<Tensor> = (0..3)
        .map(|_| Tensor::randn([n, heads, t, t], (Kind::Float, Device::Cpu)).softmax(-1, Kind::Float))
        .collect();
    let at = |map: &Tensor, i: i64, h: i64, a: i64, b: i64| map.double_value(&[i, h, a, b]);
    let close = |found: &Tensor, of: &dyn Fn(i64, i64) -> f64| {
        assert_eq!(found.size(), [n, t - before]);
        for (i, p) in (0..n).flat_map(|i| (0..t - before).map(move |p| (i, p))) {
            let (found, expected) = (found.double_value(&[i, p]), of(i, p + before));
            assert!((found - expected).abs() < 1e-5, "{i} {p}: {found} {expected}");
        }
    };
    let mean = |f: &dyn Fn(f64) -> f64, i: i64, p: i64| {
        (0..heads).map(|h| f(at(&maps[0], i, h, 0, p))).sum::<f64>() / heads as f64
    };
    let one = |score| scores(score, 0.5, &maps[..1], before);
    close(&one(PatchScore::Raw), &|i, p| mean(&|a| a, i, p));
    close(&one(PatchScore::Log), &|i, p| mean(&f64::ln, i, p));
    close(&one(PatchScore::Pow), &|i, p| mean(&f64::sqrt, i, p));
    // the class token's row is carried from the last block to the first
    close(&scores(PatchScore::RolloutAll, 0.5, &maps, before), &|i, p| {
        let mut row: Vec<f64> = (0..t).map(|a| f64::from(u8::from(a == 0))).collect();
        for map in maps.iter().rev() {
            let through = |a: i64, b: i64| {
                let heads = (0..heads).map(|h| at(map, i, h, a, b)).sum::<f64>() / heads as f64;
                (heads + f64::from(u8::from(a == b))) / 2.0
            };
            row = (0..t).map(|b| (0..t).map(|a| row[a as usize] * through(a, b)).sum()).collect();
        }
        row[p as usize]
    });
}
