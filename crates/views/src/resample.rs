//! Planes to a planar RGB view: along x, then along y, then colours.
//!
//! Samples are 16-bit numbers with 7 fractional bits on the way, so that the two passes together hardly round.

use crate::kernel::Kernel;
use crate::planes::Plane;

/// Columns that are resampled together before they are turned into rows.
const GROUP: usize = 8;

/// Buffers of the passes, kept from view to view.
#[derive(Debug, Default)]
pub(super) struct Resampler {
    /// Along x and along y: of the first component, and of the others.
    pub(super) kernels: [[Kernel; 2]; 2],
    /// `GROUP` columns resampled along x.
    columns: Vec<i16>,
    /// Per component `(rows, side)`: resampled along x.
    rows: [Vec<i16>; 3],
    /// A row of each component, resampled along both.
    line: [Vec<i16>; 3],
}

/// How samples become colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// One plane.
    Grey,
    /// ITU-R 601, full range, as JFIF says.
    YCbCr,
    /// The planes are the colours.
    Rgb,
}

impl Resampler {
    /// Resamples `planes` by the kernels into `out`, `(3, side, side)`.
    pub(super) fn run(&mut self, planes: &[Plane], colour: Colour, side: usize, out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if crate::wide() {
            // SAFETY: `wide` found the instructions.
            return unsafe { self.run_avx2(planes, colour, side, out) };
        }
        self.body::<false>(planes, colour, side, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, planes: &[Plane], colour: Colour, side: usize, out: &mut [u8]) {
        self.body::<true>(planes, colour, side, out);
    }

    #[inline(always)]
    fn body<const WIDE: bool>(&mut self, planes: &[Plane], colour: Colour, side: usize, out: &mut [u8]) {
        let Self { kernels, columns, rows, line } = self;
        let kernels = [&kernels[0], &kernels[1], &kernels[1]];
        for ((plane, kernels), rows) in planes.iter().zip(kernels).zip(rows.iter_mut()) {
            along_x::<WIDE>(plane, kernels, side, columns, rows);
        }
        line.iter_mut().for_each(|l| l.resize(side, 0));
        let (r, rest) = out.split_at_mut(side * side);
        let (g, b) = rest.split_at_mut(side * side);
        for i in 0..side {
            for ((line, [_, y]), rows) in line.iter_mut().zip(kernels).zip(&*rows).take(planes.len()) {
                let (start, weights) = y.output(i);
                let first = start - y.reach.start;
                weigh::<WIDE, i16>(|k| &rows[(first + k) * side..][..side], weights, line);
            }
            let row = i * side..(i + 1) * side;
            let out = [&mut r[row.clone()], &mut g[row.clone()], &mut b[row]];
            let [a, b, c] = &*line;
            match colour {
                Colour::Grey => out.into_iter().for_each(|out| round(a, out)),
                Colour::Rgb => [a, b, c].into_iter().zip(out).for_each(|(line, out)| round(line, out)),
                Colour::YCbCr => to_rgb(a, b, c, out),
            }
        }
    }
}

/// Resamples the rows that `y` reaches of a plane along x; `rows` becomes `(rows, side)`.
#[inline(always)]
fn along_x<const WIDE: bool>(
    plane: &Plane,
    [x, y]: &[Kernel; 2],
    side: usize,
    columns: &mut Vec<i16>,
    rows: &mut Vec<i16>,
) {
    let (top, n) = (y.reach.start, y.reach.len());
    // whole groups of rows, so that turning needs no remainder
    let height = n.next_multiple_of(GROUP);
    columns.resize((GROUP * height).max(columns.len()), 0);
    rows.resize((height * side).max(rows.len()), 0);
    let mut done = 0;
    while done < side {
        let group = GROUP.min(side - done);
        for (i, column) in columns.chunks_exact_mut(height).take(group).enumerate() {
            let (start, weights) = x.output(done + i);
            weigh::<WIDE, u8>(|k| plane.column(start + k, top), weights, &mut column[..n]);
        }
        turn(columns, height, &mut rows[done..], side, group);
        done += group;
    }
}

/// What is summed: 8-bit samples, or 16-bit ones with 7 fractional bits.
trait Sample: Copy {
    fn wide(self) -> i16;

    /// Sixteen of them.
    #[cfg(target_arch = "x86_64")]
    fn load(at: &[Self; LANES]) -> std::arch::x86_64::__m256i;
}

/// Samples that a wide sum takes at once.
const LANES: usize = 16;

impl Sample for u8 {
    #[inline(always)]
    fn wide(self) -> i16 {
        i16::from(self) << 7
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn load(at: &[Self; LANES]) -> std::arch::x86_64::__m256i {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtepu8_epi16, _mm256_slli_epi16};
        // SAFETY: sixteen bytes are read where sixteen are; only `weigh_avx2` calls this.
        unsafe { _mm256_slli_epi16::<7>(_mm256_cvtepu8_epi16(_mm_loadu_si128(at.as_ptr().cast()))) }
    }
}

impl Sample for i16 {
    #[inline(always)]
    fn wide(self) -> i16 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn load(at: &[Self; LANES]) -> std::arch::x86_64::__m256i {
        // SAFETY: 32 bytes are read where 32 are; only `weigh_avx2` calls this.
        unsafe { std::arch::x86_64::_mm256_loadu_si256(at.as_ptr().cast()) }
    }
}

/// The sum of `lines`, each times its weight / 2^15.
#[inline(always)]
fn weigh<'a, const WIDE: bool, T: Sample + 'a>(
    lines: impl Fn(usize) -> &'a [T],
    weights: &[i16],
    out: &mut [i16],
) {
    match *weights {
        [a, b] => weigh_some::<WIDE, 2, T>(lines, [a, b], out),
        [a, b, c] => weigh_some::<WIDE, 3, T>(lines, [a, b, c], out),
        [a, b, c, d] => weigh_some::<WIDE, 4, T>(lines, [a, b, c, d], out),
        [a, b, c, d, e] => weigh_some::<WIDE, 5, T>(lines, [a, b, c, d, e], out),
        [a, b, c, d, e, f] => weigh_some::<WIDE, 6, T>(lines, [a, b, c, d, e, f], out),
        [a, b, c, d, e, f, g] => weigh_some::<WIDE, 7, T>(lines, [a, b, c, d, e, f, g], out),
        [a, b, c, d, e, f, g, h] => weigh_some::<WIDE, 8, T>(lines, [a, b, c, d, e, f, g, h], out),
        _ => {
            out.fill(0);
            for (k, &w) in weights.iter().enumerate() {
                for (sum, &v) in out.iter_mut().zip(lines(k)) {
                    *sum = sum.saturating_add(scale(v.wide(), w));
                }
            }
        }
    }
}

/// Part `w` / 2^15 of a sample, rounded to nearest.
#[inline(always)]
fn scale(v: i16, w: i16) -> i16 {
    ((i32::from(v) * i32::from(w) + (1 << 14)) >> 15) as i16
}

#[inline(always)]
fn weigh_some<'a, const WIDE: bool, const N: usize, T: Sample + 'a>(
    lines: impl Fn(usize) -> &'a [T],
    weights: [i16; N],
    out: &mut [i16],
) {
    let n = out.len();
    let lines: [&[T]; N] = std::array::from_fn(|k| &lines(k)[..n]);
    #[cfg(target_arch = "x86_64")]
    if WIDE && n >= LANES {
        // SAFETY: `WIDE` is set by `run_avx2` only.
        return unsafe { weigh_avx2(&lines, weights, out) };
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out = (0..N).fold(0i16, |sum, k| sum.wrapping_add(scale(lines[k][i].wide(), weights[k])));
    }
}

/// `lines` and `out` have the same length, at least [`LANES`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn weigh_avx2<const N: usize, T: Sample>(lines: &[&[T]; N], weights: [i16; N], out: &mut [i16]) {
    use std::arch::x86_64::{
        _mm256_add_epi16, _mm256_mulhrs_epi16, _mm256_set1_epi16, _mm256_setzero_si256, _mm256_storeu_si256,
    };
    let weights = weights.map(|w| _mm256_set1_epi16(w));
    let mut i = 0;
    while i < out.len() {
        // the last sixteen may overlap those before
        i = i.min(out.len() - LANES);
        let mut sum = _mm256_setzero_si256();
        for k in 0..N {
            let Some(samples) = lines[k].get(i..).and_then(|l| l.first_chunk::<LANES>()) else { return };
            sum = _mm256_add_epi16(sum, _mm256_mulhrs_epi16(T::load(samples), weights[k]));
        }
        let Some(place) = out.get_mut(i..).and_then(|o| o.first_chunk_mut::<LANES>()) else { return };
        // SAFETY: 32 bytes are written where 32 are.
        unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), sum) };
        i += LANES;
    }
}

/// Writes `group` columns of `height` as columns of rows that are `side` apart.
#[inline(always)]
fn turn(columns: &[i16], height: usize, rows: &mut [i16], side: usize, group: usize) {
    #[cfg(target_arch = "x86_64")]
    if group == GROUP {
        for y in (0..height).step_by(GROUP) {
            turn_sse2(&columns[y..], height, &mut rows[y * side..], side);
        }
        return;
    }
    for (i, column) in columns.chunks_exact(height).take(group).enumerate() {
        for (y, &v) in column.iter().enumerate() {
            rows[y * side + i] = v;
        }
    }
}

/// Transposes 8 x 8 samples.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn_sse2(columns: &[i16], height: usize, rows: &mut [i16], side: usize) {
    use std::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi16, _mm_unpackhi_epi32,
        _mm_unpackhi_epi64, _mm_unpacklo_epi16, _mm_unpacklo_epi32, _mm_unpacklo_epi64,
    };
    let load = |i: usize| -> __m128i {
        let column = columns[i * height..].first_chunk::<8>().expect("whole groups");
        // SAFETY: 16 bytes are read where 16 are; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(column.as_ptr().cast()) }
    };
    let c = [load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7)];
    // SAFETY: SSE2 is part of x86-64.
    let out: [__m128i; 8] = unsafe {
        let (a0, a1) = (_mm_unpacklo_epi16(c[0], c[1]), _mm_unpackhi_epi16(c[0], c[1]));
        let (b0, b1) = (_mm_unpacklo_epi16(c[2], c[3]), _mm_unpackhi_epi16(c[2], c[3]));
        let (d0, d1) = (_mm_unpacklo_epi16(c[4], c[5]), _mm_unpackhi_epi16(c[4], c[5]));
        let (e0, e1) = (_mm_unpacklo_epi16(c[6], c[7]), _mm_unpackhi_epi16(c[6], c[7]));
        let (p0, p1) = (_mm_unpacklo_epi32(a0, b0), _mm_unpackhi_epi32(a0, b0));
        let (p2, p3) = (_mm_unpacklo_epi32(a1, b1), _mm_unpackhi_epi32(a1, b1));
        let (q0, q1) = (_mm_unpacklo_epi32(d0, e0), _mm_unpackhi_epi32(d0, e0));
        let (q2, q3) = (_mm_unpacklo_epi32(d1, e1), _mm_unpackhi_epi32(d1, e1));
        [
            _mm_unpacklo_epi64(p0, q0),
            _mm_unpackhi_epi64(p0, q0),
            _mm_unpacklo_epi64(p1, q1),
            _mm_unpackhi_epi64(p1, q1),
            _mm_unpacklo_epi64(p2, q2),
            _mm_unpackhi_epi64(p2, q2),
            _mm_unpacklo_epi64(p3, q3),
            _mm_unpackhi_epi64(p3, q3),
        ]
    };
    for (y, row) in out.into_iter().enumerate() {
        let place = rows[y * side..].first_chunk_mut::<8>().expect("whole groups");
        // SAFETY: 16 bytes are written where 16 are.
        unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), row) };
    }
}

#[inline(always)]
fn round(line: &[i16], out: &mut [u8]) {
    for (out, &v) in out.iter_mut().zip(line) {
        *out = (v.saturating_add(64) >> 7) as u8;
    }
}

/// The high half of a product of 16-bit numbers.
#[inline(always)]
fn high(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b)) >> 16) as i16
}

/// Saturating 16-bit arithmetic with 7 fractional bits; the factors are fractions of 2^16.
#[inline(always)]
fn to_rgb(y: &[i16], cb: &[i16], cr: &[i16], [r, g, b]: [&mut [u8]; 3]) {
    let n = r.len();
    let (y, cb, cr, g, b) = (&y[..n], &cb[..n], &cr[..n], &mut g[..n], &mut b[..n]);
    let level = |v: i16| (v.saturating_add(64) >> 7).clamp(0, 255) as u8;
    for i in 0..n {
        let (y, cb, cr) = (y[i], cb[i] - (128 << 7), cr[i] - (128 << 7));
        // 1.402 = 1 + 26345 / 2^16
        r[i] = level(y.saturating_add(cr).saturating_add(high(cr, 26_345)));
        // 0.344136 = 22553 / 2^16 and 0.714136 = 1 - 18734 / 2^16
        let less = high(cb, 22_553) + (cr - high(cr, 18_734));
        g[i] = level(y.saturating_sub(less));
        // 1.772 = 2 - 14942 / 2^16
        b[i] = level(y.saturating_add(cb).saturating_add(cb - high(cb, 14_942)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Axis;
    use occlude_preprocess::Rgb;

    fn noise(width: u32, height: u32) -> Vec<Plane> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let data = (0..width * height * 3).map(|_| next()).collect();
        let image = Rgb { width, height, data };
        (0..3).map(|c| Plane::channel(&image, c)).collect()
    }

    fn resampler(side: usize, length: f64, half: bool) -> Resampler {
        let mut out = Resampler::default();
        let axis = Axis { start: 2.0, length, n: side, reverse: false };
        for kernel in &mut out.kernels[0] {
            kernel.set(&axis, 200, false);
        }
        for kernel in &mut out.kernels[1] {
            kernel.set(&axis, 100, half);
        }
        out
    }

    /// Every machine sees the same, whatever instructions it has.
    #[test]
    fn wide_and_plain_loops_agree_to_the_bit() {
        let planes = noise(200, 200);
        for (side, length) in [(5, 3.0), (24, 180.0), (40, 60.0), (67, 61.0), (90, 20.0), (16, 150.0)] {
            for (colour, half) in [(Colour::YCbCr, true), (Colour::YCbCr, false), (Colour::Rgb, false)] {
                let mut outs = [vec![0; 3 * side * side], vec![0; 3 * side * side]];
                let mut resampler = resampler(side, length, half);
                resampler.run(&planes, colour, side, &mut outs[0]);
                resampler.body::<false>(&planes, colour, side, &mut outs[1]);
                assert!(outs[0] == outs[1], "{side} {length} {colour:?}");
            }
        }
    }

    #[test]
    fn colours_are_jfifs() {
        for (ycc, rgb) in [
            ([255, 128, 128], [255, 255, 255]),
            ([0, 128, 128], [0, 0, 0]),
            ([76, 85, 255], [254, 0, 0]),
            ([150, 44, 21], [0, 255, 1]),
            ([29, 255, 107], [0, 0, 254]),
            ([120, 90, 170], [179, 103, 53]),
        ] {
            let line = ycc.map(|v: i16| [v << 7; 16]);
            let mut out = [[0u8; 16]; 3];
            let [r, g, b] = &mut out;
            to_rgb(&line[0], &line[1], &line[2], [r, g, b]);
            assert_eq!(out.map(|c| c[3]), rgb, "{ycc:?}");
        }
    }
}
