//! From 64 coefficients to a block of samples, in 32-bit floats.
//!
//! Full size: the factorisation of Arai, Agui and Nakajima ("A fast DCT-SQ scheme for images", 1988), whose
//! scale factors go into the quantisation table. Reduced sizes: the inverse of the small transform over the
//! low frequencies. Blocks are written column by column, as the planes are stored.

use std::f32::consts::{PI, SQRT_2};

/// What the coefficients of zigzag place `i` are multiplied with before [`full`] (side 8) or [`Reduced`].
pub(super) fn scales(quant: &[u16; 64], side: usize) -> [f32; 64] {
    std::array::from_fn(|i| {
        let place = usize::from(ZIGZAG[i]);
        let (u, v) = (place % 8, place / 8);
        f32::from(quant[i]) * if side == 8 { aan(u) * aan(v) / 8.0 } else { side as f32 / 8.0 }
    })
}

fn aan(u: usize) -> f32 {
    if u == 0 { 1.0 } else { SQRT_2 * (u as f32 * PI / 16.0).cos() }
}

/// Where the coefficients of a block lie, row by row, in the order in which they are coded (T.81, figure A.6).
pub(super) const ZIGZAG: [u8; 64] = zigzag();

const fn zigzag() -> [u8; 64] {
    let mut out = [0; 64];
    let (mut i, mut diagonal) = (0, 0);
    while diagonal < 15 {
        let mut step = 0;
        while step <= diagonal {
            // odd diagonals go down and to the left, even ones up and to the right
            let (down, right) =
                if diagonal % 2 == 1 { (step, diagonal - step) } else { (diagonal - step, step) };
            if down < 8 && right < 8 {
                out[i] = (down * 8 + right) as u8;
                i += 1;
            }
            step += 1;
        }
        diagonal += 1;
    }
    out
}

/// A number, or eight of them side by side.
trait Lanes: Copy {
    fn zero() -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn times(self, factor: f32) -> Self;
}

impl Lanes for f32 {
    fn zero() -> Self {
        0.0
    }

    fn add(self, other: Self) -> Self {
        self + other
    }

    fn sub(self, other: Self) -> Self {
        self - other
    }

    fn times(self, factor: f32) -> Self {
        self * factor
    }
}

/// One-dimensional transform of eight numbers; with `HALF` the last four are known to be zero.
#[inline(always)]
fn transform<const HALF: bool, V: Lanes>(v: &[V; 8]) -> [V; 8] {
    let c = |i: usize| if HALF && i >= 4 { V::zero() } else { v[i] };
    let (sum04, dif04) = if HALF { (c(0), c(0)) } else { (c(0).add(c(4)), c(0).sub(c(4))) };
    let (sum26, dif26) = if HALF { (c(2), c(2)) } else { (c(2).add(c(6)), c(2).sub(c(6))) };
    let dif26 = dif26.times(SQRT_2).sub(sum26);
    let even = [sum04.add(sum26), dif04.add(dif26), dif04.sub(dif26), sum04.sub(sum26)];
    let (sum53, dif53) = if HALF { (c(3), V::zero().sub(c(3))) } else { (c(5).add(c(3)), c(5).sub(c(3))) };
    let (sum17, dif17) = if HALF { (c(1), c(1)) } else { (c(1).add(c(7)), c(1).sub(c(7))) };
    let turn = dif53.add(dif17).times(1.847_759_1);
    let odd0 = sum17.add(sum53);
    let odd1 = turn.sub(dif53.times(2.613_126)).sub(odd0);
    let odd2 = sum17.sub(sum53).times(SQRT_2).sub(odd1);
    let odd3 = turn.sub(dif17.times(1.082_392_2)).sub(odd2);
    [
        even[0].add(odd0),
        even[1].add(odd1),
        even[2].add(odd2),
        even[3].add(odd3),
        even[3].sub(odd3),
        even[2].sub(odd2),
        even[1].sub(odd1),
        even[0].sub(odd0),
    ]
}

/// To 0..=255 around 128, rounded to nearest: the sum with 1.5 * 2^23 has the integer in its low bits.
#[inline(always)]
fn level(v: f32) -> u8 {
    (v.clamp(-128.0, 127.0) + (128.0 + 12_582_912.0)).to_bits() as u8
}

/// Transforms a block of 8 x 8 (rows of frequencies) into `out`, whose columns are `stride` apart. `last` is the
/// last zigzag place that is not zero.
#[inline(never)]
pub(super) fn full(block: &[f32; 64], last: usize, out: &mut [u8], stride: usize) {
    if last == 0 {
        return flat(block[0], 8, out, stride);
    }
    let mut half = [[0.0; 8]; 8]; // (frequency along x, y)
    for (x, half) in half.iter_mut().enumerate() {
        *half = one(&std::array::from_fn(|v| block[v * 8 + x]));
    }
    let mut columns = [[0.0; 8]; 8];
    for y in 0..8 {
        for (column, v) in columns.iter_mut().zip(one(&half.map(|half| half[y]))) {
            column[y] = v;
        }
    }
    for (x, column) in columns.iter().enumerate() {
        if let Some(place) = out.get_mut(x * stride..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            for (place, &v) in place.iter_mut().zip(column) {
                *place = level(v);
            }
        }
    }
}

/// Kept apart: the compiler takes minutes over sixteen of them in one function.
#[inline(never)]
fn one(v: &[f32; 8]) -> [f32; 8] {
    transform::<false, _>(v)
}

#[cfg(target_arch = "x86_64")]
pub(super) use wide::full as full_avx2;

/// [`full`] with 256-bit vectors.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256, _mm_packs_epi32, _mm_packus_epi16, _mm_storel_epi64, _mm256_add_ps, _mm256_castsi256_si128,
        _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permute2f128_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_sub_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };

    use super::{Lanes, flat, transform};

    // SAFETY, of all four: only functions that require AVX2 below use this type.
    impl Lanes for __m256 {
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: see above.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        fn times(self, factor: f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_mul_ps(self, _mm256_set1_ps(factor)) }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline(never)]
    pub(crate) fn full(block: &[f32; 64], last: usize, out: &mut [u8], stride: usize) {
        if last == 0 {
            return flat(block[0], 8, out, stride);
        }
        let (rows, _) = block.as_chunks::<8>();
        let row = |y: usize| -> __m256 {
            // SAFETY: eight floats are read where eight are.
            rows.get(y).map_or(__m256::zero(), |row| unsafe { _mm256_loadu_ps(row.as_ptr()) })
        };
        let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
        // behind the tenth place there are only frequencies of at least 4 along one of the axes
        let columns = if last < 10 {
            transform::<true, _>(&turn(&transform::<true, _>(&rows)))
        } else {
            transform::<false, _>(&turn(&transform::<false, _>(&rows)))
        };
        for (x, &column) in columns.iter().enumerate() {
            let v = _mm256_cvtps_epi32(_mm256_add_ps(column, _mm256_set1_ps(128.0)));
            let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_packus_epi16(v, v);
            if let Some(place) = out.get_mut(x * stride..).and_then(|rest| rest.first_chunk_mut::<8>()) {
                // SAFETY: eight bytes are written where eight are.
                unsafe { _mm_storel_epi64(place.as_mut_ptr().cast(), v) };
            }
        }
    }

    /// Transposes 8 x 8.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn turn(v: &[__m256; 8]) -> [__m256; 8] {
        let (a0, a1) = (_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
        let (b0, b1) = (_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
        let (c0, c1) = (_mm256_unpacklo_ps(v[4], v[5]), _mm256_unpackhi_ps(v[4], v[5]));
        let (d0, d1) = (_mm256_unpacklo_ps(v[6], v[7]), _mm256_unpackhi_ps(v[6], v[7]));
        let l0 = _mm256_shuffle_ps::<0x44>(a0, b0);
        let l1 = _mm256_shuffle_ps::<0xee>(a0, b0);
        let l2 = _mm256_shuffle_ps::<0x44>(a1, b1);
        let l3 = _mm256_shuffle_ps::<0xee>(a1, b1);
        let h0 = _mm256_shuffle_ps::<0x44>(c0, d0);
        let h1 = _mm256_shuffle_ps::<0xee>(c0, d0);
        let h2 = _mm256_shuffle_ps::<0x44>(c1, d1);
        let h3 = _mm256_shuffle_ps::<0xee>(c1, d1);
        [
            _mm256_permute2f128_ps::<0x20>(l0, h0),
            _mm256_permute2f128_ps::<0x20>(l1, h1),
            _mm256_permute2f128_ps::<0x20>(l2, h2),
            _mm256_permute2f128_ps::<0x20>(l3, h3),
            _mm256_permute2f128_ps::<0x31>(l0, h0),
            _mm256_permute2f128_ps::<0x31>(l1, h1),
            _mm256_permute2f128_ps::<0x31>(l2, h2),
            _mm256_permute2f128_ps::<0x31>(l3, h3),
        ]
    }
}

/// A block of one value.
#[inline(always)]
fn flat(value: f32, side: usize, out: &mut [u8], stride: usize) {
    let value = level(value);
    for x in 0..side {
        if let Some(place) = out.get_mut(x * stride..x * stride + side) {
            place.fill(value);
        }
    }
}

/// The waves of the transform of `N` numbers: (frequency, sample).
#[derive(Debug)]
struct Waves<const N: usize>([[f32; N]; N]);

impl<const N: usize> Waves<N> {
    fn new() -> Self {
        Self(std::array::from_fn(|u| {
            std::array::from_fn(|x| {
                let norm = if u == 0 { 1.0 } else { 2.0 } / N as f32;
                norm.sqrt() * ((2 * x + 1) as f32 * u as f32 * PI / (2 * N) as f32).cos()
            })
        }))
    }

    /// Transforms the low frequencies of a block into `N` x `N` samples. `last` is the last zigzag place that is not zero.
    ///
    /// Samples that lie below each other are computed side by side: `N` numbers are a vector.
    #[inline(always)]
    fn transform(&self, block: &[f32; 64], last: usize, out: &mut [u8], stride: usize) {
        let Self(waves) = self;
        if last == 0 {
            return flat(waves[0][0] * (waves[0][0] * block[0]), N, out, stride);
        }
        let mut half = [[0.0f32; N]; N]; // (frequency along x, y)
        for (u, half) in half.iter_mut().enumerate() {
            for (v, wave) in waves.iter().enumerate() {
                add(half, wave, block[v * 8 + u]);
            }
        }
        for x in 0..N {
            let Some(place) = out.get_mut(x * stride..).and_then(|rest| rest.first_chunk_mut::<N>()) else {
                return;
            };
            let mut column = [0.0f32; N];
            for (half, wave) in half.iter().zip(waves) {
                add(&mut column, half, wave[x]);
            }
            *place = column.map(level);
        }
    }
}

/// Adds `factor` times `other`.
#[inline(always)]
fn add<const N: usize>(sum: &mut [f32; N], other: &[f32; N], factor: f32) {
    for (sum, &other) in sum.iter_mut().zip(other) {
        *sum += other * factor;
    }
}

/// Transforms to less than full size; the waves are computed once.
#[derive(Debug)]
pub(super) struct Reduced {
    quarter: Waves<2>,
    half: Waves<4>,
}

impl Reduced {
    pub(super) fn new() -> Self {
        Self { quarter: Waves::new(), half: Waves::new() }
    }

    /// Transforms the low frequencies of a block into `side` x `side` samples, `side` 4, 2 or 1: the picture reduced by
    /// 8 / `side`. `last` is the last zigzag place that is not zero.
    #[inline(always)]
    pub(super) fn run(&self, block: &[f32; 64], last: usize, side: usize, out: &mut [u8], stride: usize) {
        match side {
            4 => self.half.transform(block, last, out, stride),
            2 => self.quarter.transform(block, last, out, stride),
            // the transform's gain to samples of this size is 1/8 in all, as in `scales`
            _ => flat(block[0], 1, out, stride),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition (T.81, A.3.3), in double precision.
    fn naive(coefficients: &[i32; 64], x: usize, y: usize) -> f64 {
        let mut sum = 0.0;
        for v in 0..8 {
            for u in 0..8 {
                let c = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
                let wave =
                    |x: usize, u: usize| ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos();
                sum += c(u) * c(v) * f64::from(coefficients[v * 8 + u]) * wave(x, u) * wave(y, v) / 4.0;
            }
        }
        (sum + 128.0).clamp(0.0, 255.0)
    }

    fn random(seed: u64, places: usize) -> [i32; 64] {
        let mut state = seed;
        let mut out = [0; 64];
        for &place in ZIGZAG.iter().take(places) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            out[usize::from(place)] = (state >> 40) as i32 % 120 - 60;
        }
        out
    }

    fn block(coefficients: &[i32; 64], side: usize) -> [f32; 64] {
        let scales = scales(&[1; 64], side);
        let mut out = [0.0; 64];
        for (i, &place) in ZIGZAG.iter().enumerate() {
            out[usize::from(place)] = coefficients[usize::from(place)] as f32 * scales[i];
        }
        out
    }

    #[test]
    fn zigzag_is_the_standards() {
        assert_eq!(ZIGZAG[..12], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25]);
        assert_eq!(ZIGZAG[28..36], [7, 14, 21, 28, 35, 42, 49, 56]);
        assert_eq!(ZIGZAG[59..], [54, 47, 55, 62, 63]);
    }

    #[test]
    fn blocks_equal_the_definition() {
        for places in [1, 3, 10, 11, 64] {
            for seed in 0..50 {
                let coefficients = random(seed, places);
                let mut out = [[0u8; 64]; 2];
                full(&block(&coefficients, 8), places - 1, &mut out[0], 8);
                out[1] = out[0];
                #[cfg(target_arch = "x86_64")]
                if crate::wide() {
                    // SAFETY: the machine has the instructions.
                    unsafe { full_avx2(&block(&coefficients, 8), places - 1, &mut out[1], 8) };
                }
                assert_eq!(out[0], out[1], "{places} {seed}: every machine sees the same");
                for (x, y) in (0..64).map(|i| (i / 8, i % 8)) {
                    let expected = naive(&coefficients, x, y);
                    assert!((f64::from(out[0][x * 8 + y]) - expected).abs() < 0.51, "{places} {seed}");
                }
            }
        }
    }

    #[test]
    fn a_reduced_block_of_one_value_comes_out_the_same_by_either_way() {
        for (value, side) in (-1100..1100).step_by(7).flat_map(|v| [4, 2, 1].map(|side| (v, side))) {
            let mut coefficients = [0; 64];
            coefficients[0] = value;
            let block = block(&coefficients, side);
            let [mut short, mut long] = [[0; 16]; 2];
            Reduced::new().run(&block, 0, side, &mut short, side);
            Reduced::new().run(&block, 63, side, &mut long, side);
            assert_eq!(short, long, "{value} at {side}");
        }
    }

    /// A block of low frequencies only, reduced, is its mean over the pixels that fall together.
    #[test]
    fn reduced_blocks_are_means() {
        let mut coefficients = [0; 64];
        (coefficients[0], coefficients[1], coefficients[8]) = (160, -60, 30);
        for side in [4, 2, 1] {
            let mut out = [0; 16];
            Reduced::new().run(&block(&coefficients, side), 63, side, &mut out, side);
            let step = 8 / side;
            for (x, y) in (0..side * side).map(|i| (i / side, i % side)) {
                let cells = (0..step * step).map(|i| (x * step + i / step, y * step + i % step));
                let mean = cells.map(|(x, y)| naive(&coefficients, x, y)).sum::<f64>() / (step * step) as f64;
                assert!((f64::from(out[x * side + y]) - mean).abs() < 2.5, "{side} {x} {y}: {mean}");
            }
        }
    }
}
