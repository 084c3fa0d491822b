//! Means over boxes by running sums, and the guided filter's lines of them.

/// Of each pixel: what its value is as a linear function of the guide's colour there.
pub(super) struct Lines<const C: usize> {
    pub(super) slopes: [Vec<f32>; C],
    pub(super) offset: Vec<f32>,
}

/// Means over square windows, which are cut at the picture's edges.
pub(super) struct Boxes {
    height: usize,
    width: usize,
    radius: usize,
    /// What is averaged, and its means down the columns.
    plane: Vec<f32>,
    down: Vec<f32>,
    /// Running sums of the columns.
    sums: Vec<f64>,
    /// For each column, and for each row: one over how many lie within the radius. Divisions are what would take longest.
    across: Vec<f64>,
    along: Vec<f64>,
}

impl Boxes {
    pub(super) fn new(height: usize, width: usize, radius: usize) -> Self {
        let plane = vec![0.0; height * width];
        let (across, along) = (shares(width, radius), shares(height, radius));
        Self { height, width, radius, down: plane.clone(), plane, sums: vec![0.0; width], across, along }
    }

    /// For each window the `a . guide + b` nearest to the map, and for each pixel the means of `a` and of `b` over all windows
    /// that it lies in.
    #[allow(clippy::needless_range_loop, reason = "matrices are read by row and column")]
    pub(super) fn guided<const C: usize>(
        &mut self,
        map: &[f32],
        guide: &[Vec<f32>; C],
        epsilon: f64,
    ) -> Lines<C> {
        let mean = self.mean(|i| map[i]);
        let means: [Vec<f32>; C] = std::array::from_fn(|c| self.mean(|i| guide[c][i]));
        let with_map: [Vec<f32>; C] = std::array::from_fn(|c| self.mean(|i| guide[c][i] * map[i]));
        // Of the symmetric matrix only what lies on and above the diagonal.
        let squares: [[Vec<f32>; C]; C] = std::array::from_fn(|r| {
            std::array::from_fn(|c| if c < r { Vec::new() } else { self.mean(|i| guide[r][i] * guide[c][i]) })
        });
        let mut slopes: [Vec<f32>; C] = std::array::from_fn(|_| vec![0.0; map.len()]);
        let mut offset = mean.clone();
        for i in 0..map.len() {
            let at = |plane: &[f32]| f64::from(plane[i]);
            let centre: [f64; C] = std::array::from_fn(|c| at(&means[c]));
            let mut matrix = [[0.0; C]; C];
            for r in 0..C {
                for c in r..C {
                    matrix[r][c] = at(&squares[r][c]) - centre[r] * centre[c];
                    matrix[c][r] = matrix[r][c];
                }
                matrix[r][r] += epsilon;
            }
            let shared = std::array::from_fn(|c| at(&with_map[c]) - centre[c] * at(&mean));
            let slope = solve(matrix, shared);
            for c in 0..C {
                slopes[c][i] = slope[c] as f32;
                offset[i] -= (slope[c] * centre[c]) as f32;
            }
        }
        let offset = self.mean(|i| offset[i]);
        Lines { slopes: slopes.map(|slope| self.mean(|i| slope[i])), offset }
    }

    /// The mean of `value` over the window around each pixel.
    pub(super) fn mean(&mut self, value: impl Fn(usize) -> f32) -> Vec<f32> {
        self.plane.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
        self.down();
        let mut out = vec![0.0; self.plane.len()];
        for (row, out) in self.down.chunks_exact(self.width).zip(out.chunks_exact_mut(self.width)) {
            means(row, self.radius, &self.across, out);
        }
        out
    }

    fn down(&mut self) {
        let Self { height, width, radius, plane, down, sums, along, .. } = self;
        let row = |y: usize| &plane[y * *width..(y + 1) * *width];
        sums.fill(0.0);
        for y in 0..(*radius).min(*height) {
            sums.iter_mut().zip(row(y)).for_each(|(s, &v)| *s += f64::from(v));
        }
        for (y, out) in down.chunks_exact_mut(*width).enumerate() {
            if y + *radius < *height {
                sums.iter_mut().zip(row(y + *radius)).for_each(|(s, &v)| *s += f64::from(v));
            }
            if y > *radius {
                sums.iter_mut().zip(row(y - *radius - 1)).for_each(|(s, &v)| *s -= f64::from(v));
            }
            let scale = along[y];
            out.iter_mut().zip(&*sums).for_each(|(o, s)| *o = (s * scale) as f32);
        }
    }
}

/// Means along a row.
pub(super) fn means(row: &[f32], radius: usize, shares: &[f64], out: &mut [f32]) {
    let mut sum: f64 = row.iter().take(radius).map(|&v| f64::from(v)).sum();
    for (x, (out, share)) in out.iter_mut().zip(shares).enumerate() {
        if let Some(&next) = row.get(x + radius) {
            sum += f64::from(next);
        }
        if x > radius {
            sum -= f64::from(row[x - radius - 1]);
        }
        *out = (sum * share) as f32;
    }
}

/// For each of `length` places: one over how many lie within `radius` of it.
pub(super) fn shares(length: usize, radius: usize) -> Vec<f64> {
    let covered = |at: usize| at.saturating_add(radius).min(length - 1) - at.saturating_sub(radius) + 1;
    (0..length).map(|at| 1.0 / covered(at) as f64).collect()
}

/// `x` with `matrix x = right`, by elimination; the matrix is symmetric and positive definite, so no pivot is 0.
#[allow(clippy::needless_range_loop, reason = "matrices are read by row and column")]
fn solve<const C: usize>(mut matrix: [[f64; C]; C], mut right: [f64; C]) -> [f64; C] {
    for pivot in 0..C {
        for row in pivot + 1..C {
            let factor = matrix[row][pivot] / matrix[pivot][pivot];
            for column in pivot..C {
                matrix[row][column] -= factor * matrix[pivot][column];
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..C).rev() {
        let known: f64 = (row + 1..C).map(|c| matrix[row][c] * right[c]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}
