//! Positions of a vision transformer for another number of patches than they were learnt for.

use occlude_encoder::Vit;

/// PyTorch's cubic where it smooths as well (`antialias=True`), which is Pillow's: a = -0.5.
pub(crate) const A: f64 = -0.5;

/// Of an output cell, the first input cell that it reads and the weights from there on.
struct Window {
    first: usize,
    weights: Vec<f64>,
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// The windows of all `outputs` cells on `inputs` cells.
fn windows(inputs: usize, outputs: usize) -> Vec<Window> {
    let scale = inputs as f64 / outputs as f64;
    let wide = scale.max(1.0);
    let window = |at: usize| {
        let centre = scale * (at as f64 + 0.5);
        let first = (centre - 2.0 * wide + 0.5).max(0.0) as usize;
        let last = ((centre + 2.0 * wide + 0.5) as usize).min(inputs);
        let weights: Vec<f64> = (first..last).map(|i| cubic((i as f64 - centre + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        Window { first, weights: weights.into_iter().map(|w| w / sum).collect() }
    };
    (0..outputs).map(window).collect()
}

/// The positions of `side` x `side` patches, as timm resizes them: bicubic with antialiasing, along each side after the
/// other. `positions` is `(1, T, D)` row-major; those of other tokens stay.
pub(crate) fn resized(vit: Vit, positions: &[f32], side: usize) -> Vec<f32> {
    let (width, grid) = (vit.width, vit.grid);
    if side == grid {
        return positions.to_vec();
    }
    let before = usize::from(vit.class_position) * width;
    let patches = &positions[before.min(positions.len())..];
    let windows = windows(grid, side);
    // (grid, grid, D) -> (grid, side, D) -> (side, side, D)
    let rows = patches.chunks_exact(grid * width);
    let rows: Vec<Vec<f32>> = rows.map(|row| along(&windows, row, width)).collect();
    let across = along(&windows, &rows.concat(), side * width);
    [&positions[..before.min(positions.len())], &across].concat()
}

/// Weighted sums of runs of `length` values.
fn along(windows: &[Window], values: &[f32], length: usize) -> Vec<f32> {
    let runs: Vec<&[f32]> = values.chunks_exact(length).collect();
    let sum = |window: &Window, at: usize| {
        let read = runs.iter().skip(window.first).zip(&window.weights);
        read.map(|(run, w)| f64::from(run[at]) * w).sum::<f64>() as f32
    };
    windows.iter().flat_map(|window| (0..length).map(move |at| sum(window, at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vit(grid: usize) -> Vit {
        Vit { grid, class_position: true, ..Vit::new(1, 1, 1, 8) }
    }

    #[test]
    fn the_same_grid_stays() {
        let positions: Vec<f32> = (0..10).map(|i| i as f32).collect();
        assert_eq!(resized(vit(3), &positions, 3), positions);
    }

    /// `torch.nn.functional.interpolate(arange(9).view(1, 1, 3, 3), size, mode="bicubic", antialias=True)` behind one
    /// more number, computed by PyTorch 2.11.
    #[test]
    fn other_grids_are_pytorchs() {
        let positions: Vec<f32> = std::iter::once(-7.0).chain((0..9).map(|i| i as f32)).collect();
        for (side, expected) in [(2, PYTORCH_2.as_slice()), (4, PYTORCH_4.as_slice())] {
            let found = resized(vit(3), &positions, side);
            assert_eq!(found[0], -7.0);
            assert_eq!(found.len(), expected.len() + 1);
            for (a, b) in found[1..].iter().zip(expected) {
                assert!((a - b).abs() < 1e-5, "{side}: {found:?}");
            }
        }
    }

    const PYTORCH_2: [f32; 4] = [1.2391648, 2.6195822, 5.380417, 6.760834];
    const PYTORCH_4: [f32; 16] = [
        -0.2089552, 0.3998785, 1.2866887, 1.8955226, 1.617546, 2.2263799, 3.11319, 3.722024, 4.277976,
        4.8868103, 5.77362, 6.382454, 6.1044774, 6.7133117, 7.6001215, 8.208955,
    ];
}
