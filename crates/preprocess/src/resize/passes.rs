//! The two passes of a resize over 8-bit RGB: along x, then along y, each rounded to bytes, as Pillow's are.
//!
//! A sum of samples times weights is exact in 32 bits, so that the wide loops give the same bytes as the plain ones.
//! The wide ones multiply 16-bit numbers: a weight is taken apart into its low bits and the rest.

use super::weights::{PRECISION, Weights};

/// Half of the last place that is kept.
const HALF: i32 = 1 << (PRECISION - 1);

/// A rounded sum as a byte.
#[inline(always)]
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Rows of RGB pixels.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [u8],
    /// Pixels of a row.
    pub(super) width: usize,
}

/// Resamples rows `first..first + n` of `source`, whose first column is column `left`, along x into `out`, `(n,
/// outputs, 3)`.
pub(super) fn along_x(
    source: Rows<'_>,
    (left, first, n): (usize, usize, usize),
    weights: &Weights,
    out: &mut [u8],
) {
    if n == 0 || weights.starts.is_empty() {
        return;
    }
    if let Some(at) = weights.identity() {
        let length = 3 * weights.starts.len();
        for (row, out) in
            source.data.chunks_exact(3 * source.width).skip(first).zip(out.chunks_exact_mut(length))
        {
            out.copy_from_slice(&row[3 * (at - left)..][..length]);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` found the instructions.
        return unsafe { wide::along_x(source, (left, first, n), weights, out) };
    }
    plain_x(source, (left, first, n), weights, out);
}

fn plain_x(source: Rows<'_>, (left, first, n): (usize, usize, usize), weights: &Weights, out: &mut [u8]) {
    let outputs = weights.starts.len();
    for (y, out) in out.chunks_exact_mut(3 * outputs).take(n).enumerate() {
        let row = &source.data[3 * source.width * (first + y)..][..3 * source.width];
        for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (start, weights) = weights.output(i);
            let inputs = row[3 * (start - left)..][..3 * weights.len()].as_chunks::<3>().0;
            let mut sums = [HALF; 3];
            for (input, &w) in inputs.iter().zip(weights) {
                for (sum, &v) in sums.iter_mut().zip(input) {
                    *sum += i32::from(v) * w;
                }
            }
            *pixel = sums.map(byte);
        }
    }
}

/// Resamples `n` columns from `left` on of `source`, whose first row is row `top`, along y into `out`, `(outputs, n,
/// 3)`.
pub(super) fn along_y(
    source: Rows<'_>,
    (top, left, n): (usize, usize, usize),
    weights: &Weights,
    out: &mut [u8],
) {
    let (length, stride) = (3 * n, 3 * source.width);
    if length == 0 || weights.starts.is_empty() {
        return;
    }
    let identity = weights.identity();
    for (i, out) in out.chunks_exact_mut(length).enumerate() {
        if let Some(at) = identity {
            out.copy_from_slice(&source.data[stride * (at + i - top) + 3 * left..][..length]);
            continue;
        }
        let (start, weights) = weights.output(i);
        let inputs = &source.data[stride * (start - top) + 3 * left..];
        #[cfg(target_arch = "x86_64")]
        if wide() && length >= wide::LANES {
            // SAFETY: `wide` found the instructions.
            unsafe { wide::along_y(inputs, stride, weights, out) };
            continue;
        }
        plain_y(inputs, stride, weights, out);
    }
}

fn plain_y(inputs: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    for (x, out) in out.iter_mut().enumerate() {
        let column = inputs.iter().skip(x).step_by(stride);
        *out = byte(column.zip(weights).fold(HALF, |sum, (&v, &w)| sum + i32::from(v) * w));
    }
}

/// Whether the machine has the instructions of the wide loops.
#[cfg(target_arch = "x86_64")]
fn wide() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::{HALF, PRECISION, Rows, Weights};

    /// Bytes that a pass along y takes at once.
    pub(super) const LANES: usize = 16;
    /// Rows that a pass along x takes at once.
    const ROWS: usize = 4;
    /// Low bits of a weight; the rest has at most 13.
    const LOW: i32 = 11;

    /// Low bits and rest of two weights, as a multiplication of pairs takes them.
    #[inline(always)]
    fn apart(a: i32, b: i32) -> (i32, i32) {
        let pair = |a: i32, b: i32| (a & 0xffff) | (b << 16);
        let mask = (1 << LOW) - 1;
        (pair(a & mask, b & mask), pair(a >> LOW, b >> LOW))
    }

    /// Four sums, of which three are a pixel's.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pixel(low: __m256i, high: __m256i) -> [u8; 4] {
        let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<LOW>(high));
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_srai_epi32::<{ PRECISION as i32 }>(_mm_add_epi32(sum, _mm_set1_epi32(HALF)));
        let bytes = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        _mm_cvtsi128_si32(bytes).to_le_bytes()
    }

    /// Sixteen bytes from `at` on, with zeros behind the end.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(data: &[u8], at: usize) -> __m128i {
        let mut tail = [0; 16];
        let bytes = match data.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
            Some(bytes) => bytes,
            None => {
                let rest = data.get(at..).unwrap_or_default();
                tail[..rest.len()].copy_from_slice(rest);
                &tail
            }
        };
        // SAFETY: sixteen bytes are read where sixteen are.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    /// Four pixels at a time: pairs of samples of a colour times pairs of weights, the first two pixels in one half of
    /// a register and the last two in the other.
    #[target_feature(enable = "avx2")]
    pub(super) fn along_x(
        source: Rows<'_>,
        (left, first, n): (usize, usize, usize),
        weights: &Weights,
        out: &mut [u8],
    ) {
        const NONE: i8 = -1;
        let order = _mm256_setr_epi8(
            0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE, //
            6, NONE, 9, NONE, 7, NONE, 10, NONE, 8, NONE, 11, NONE, NONE, NONE, NONE, NONE,
        );
        let groups = weights.taps.div_ceil(4);
        let all = Groups { pairs: pairs(weights, groups), groups, order };
        let mut y = 0;
        while y < n {
            if y + ROWS <= n {
                some_rows::<ROWS>(source, (left, first + y, y), weights, &all, out);
                y += ROWS;
            } else {
                some_rows::<1>(source, (left, first + y, y), weights, &all, out);
                y += 1;
            }
        }
    }

    /// Weights as a pass along x takes them.
    struct Groups {
        pairs: Vec<([i32; 2], [i32; 2])>,
        /// Groups of four taps of an output.
        groups: usize,
        /// Where the samples of four pixels go.
        order: __m256i,
    }

    /// `N` rows from row `from` on, into those from `to` on.
    #[target_feature(enable = "avx2")]
    fn some_rows<const N: usize>(
        source: Rows<'_>,
        (left, from, to): (usize, usize, usize),
        weights: &Weights,
        all: &Groups,
        out: &mut [u8],
    ) {
        let outputs = weights.starts.len();
        let zero = _mm256_setzero_si256();
        for (i, &start) in weights.starts.iter().enumerate() {
            let (mut lows, mut highs) = ([zero; N], [zero; N]);
            for (group, &([a, b], [c, d])) in all.pairs[i * all.groups..][..all.groups].iter().enumerate() {
                let w_low = _mm256_set_m128i(_mm_set1_epi32(b), _mm_set1_epi32(a));
                let w_high = _mm256_set_m128i(_mm_set1_epi32(d), _mm_set1_epi32(c));
                for (row, (low, high)) in lows.iter_mut().zip(&mut highs).enumerate() {
                    let at = 3 * (source.width * (from + row) + start - left + 4 * group);
                    let samples = _mm256_broadcastsi128_si256(load(source.data, at));
                    let samples = _mm256_shuffle_epi8(samples, all.order);
                    *low = _mm256_add_epi32(*low, _mm256_madd_epi16(samples, w_low));
                    *high = _mm256_add_epi32(*high, _mm256_madd_epi16(samples, w_high));
                }
            }
            for (row, (&low, &high)) in lows.iter().zip(&highs).enumerate() {
                let [r, g, b, _] = pixel(low, high);
                out[3 * ((to + row) * outputs + i)..][..3].copy_from_slice(&[r, g, b]);
            }
        }
    }

    /// For each output and four of its taps: low bits, and rest, of two pairs of weights.
    fn pairs(weights: &Weights, groups: usize) -> Vec<([i32; 2], [i32; 2])> {
        let mut out = Vec::with_capacity(weights.starts.len() * groups);
        for i in 0..weights.starts.len() {
            let (_, own) = weights.output(i);
            for group in 0..groups {
                let at = |k: usize| own.get(4 * group + k).copied().unwrap_or(0);
                let (first, second) = (apart(at(0), at(1)), apart(at(2), at(3)));
                out.push(([first.0, second.0], [first.1, second.1]));
            }
        }
        out
    }

    /// One output row of at least [`LANES`] bytes.
    #[target_feature(enable = "avx2")]
    pub(super) fn along_y(inputs: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        let length = out.len();
        let mut x = 0;
        while x < length {
            // the last ones may overlap those before
            x = x.min(length - LANES);
            let zero = _mm256_setzero_si256();
            let mut sums = [[zero; 2]; 2];
            let (twos, rest) = weights.as_chunks::<2>();
            for (k, &[a, b]) in twos.iter().enumerate() {
                let at = 2 * k * stride + x;
                add(&mut sums, (load(inputs, at), load(inputs, at + stride)), apart(a, b));
            }
            if let [last] = *rest {
                let at = 2 * twos.len() * stride + x;
                add(&mut sums, (load(inputs, at), _mm_setzero_si128()), apart(last, 0));
            }
            let [first, second] = [rounded(sums[0]), rounded(sums[1])];
            // packing works in halves: put the four quarters back in their order
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(first, second));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let Some(place) = out.get_mut(x..).and_then(|o| o.first_chunk_mut::<LANES>()) else { return };
            // SAFETY: sixteen bytes are written where sixteen are.
            unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), bytes) };
            x += LANES;
        }
    }

    /// Eight rounded sums.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rounded([low, high]: [__m256i; 2]) -> __m256i {
        let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<LOW>(high));
        _mm256_srai_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)))
    }

    /// Adds sixteen samples of two rows times their weights: the first eight, the last eight; low bits, rest.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn add(sums: &mut [[__m256i; 2]; 2], (a, b): (__m128i, __m128i), (low, high): (i32, i32)) {
        let halves = [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)];
        for (sums, pairs) in sums.iter_mut().zip(halves) {
            let pairs = _mm256_cvtepu8_epi16(pairs);
            for (sum, weights) in sums.iter_mut().zip([low, high]) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi32(weights)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Interpolation;
    use super::super::weights::Axis;
    use super::*;

    fn noise(n: usize) -> Vec<u8> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // many extremes, so that bicubic sums leave the range
            if state >> 31 == 0 { (state >> 24) as u8 } else { ((state >> 30) as u8 & 1) * 255 }
        };
        (0..n).map(|_| next()).collect()
    }

    /// Every machine sees the same, whatever instructions it has.
    #[test]
    fn wide_and_plain_passes_agree_to_the_bit() {
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (width, height, outputs) in
                [(41, 9, 16), (5, 6, 33), (1, 1, 4), (64, 3, 64), (300, 5, 7), (19, 21, 20)]
            {
                let data = noise(3 * width * height);
                let source = Rows { data: &data, width };
                let axis = |size: usize| Axis {
                    low: 0,
                    size,
                    start: 0.0,
                    length: size as f64,
                    outputs,
                    first: 0,
                    count: outputs,
                };
                let mut weights = Weights::default();
                weights.set(&axis(width), how);
                let mut outs = [vec![0; 3 * outputs * height], vec![0; 3 * outputs * height]];
                along_x(source, (0, 0, height), &weights, &mut outs[0]);
                plain_x(source, (0, 0, height), &weights, &mut outs[1]);
                assert!(outs[0] == outs[1], "{width} {height} {outputs} {how:?}");
                weights.set(&axis(height), how);
                let mut outs = [vec![0; 3 * outputs * width], vec![0; 3 * outputs * width]];
                along_y(source, (0, 0, width), &weights, &mut outs[0]);
                for (i, out) in outs[1].chunks_exact_mut(3 * width).enumerate() {
                    let (start, own) = weights.output(i);
                    plain_y(&data[3 * width * start..], 3 * width, own, out);
                }
                assert!(outs[0] == outs[1], "{width} {height} {outputs} {how:?}");
            }
        }
    }
}
