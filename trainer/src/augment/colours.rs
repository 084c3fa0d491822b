//! Colour changes of a batch with few operators: every sample has its own parameters and its own order.
//!
//! Of the four jitters a hue turns in a space of its own; the other three blend a picture with black, with its mean
//! grey or with its grey, so that one pass serves samples which are at different ones. The batch is worked on in the
//! order of the place that the hue has in each sample: then the samples that have a further blend before it, or
//! after it, lie together, and the hue is one pass over all of them.

use tch::{Device, Kind, Tensor};

use super::{Blur, GRAY, SOLARIZE};
use crate::data::Photometric;
use crate::device::upload;

/// Places that a hue may have, and rounds of blends before and after it.
const PLACES: usize = 4;
const ROUNDS: usize = 3;
/// The jitter that is a hue.
const HUE: u8 = 3;

/// The constants of colour changes, on a device.
#[derive(Debug)]
pub(super) struct Colours {
    /// Weights of red, green and blue in grey, `()` each.
    gray: [Tensor; 3],
    /// `n` of the formula in [`Colours::hue`], `(1, 3, 1, 1)`.
    sector: Tensor,
    /// What is added to each branch of a hue, in chromas, `()` each.
    branch: [Tensor; 2],
}

/// The order in which a batch is worked on, and where its parts begin.
struct Arrangement {
    /// The samples in that order.
    order: Vec<usize>,
    /// The first whose hue comes in that place or later, behind those that are not jittered; the number of samples.
    starts: [usize; PLACES + 1],
}

impl Arrangement {
    fn of(params: &[Photometric]) -> Self {
        let place = |p: &Photometric| {
            let hue = p.order.iter().position(|&op| op == HUE).unwrap_or(0);
            if p.jittered { 1 + hue } else { 0 }
        };
        let mut order: Vec<usize> = (0..params.len()).collect();
        order.sort_by_key(|&i| place(&params[i]));
        let from = |least: usize| order.partition_point(|&i| place(&params[i]) < least);
        let starts = [from(1), from(2), from(3), from(4), order.len()];
        Self { order, starts }
    }

    /// The samples with a blend in that round before the hue, or after it: where they begin and how many they are.
    fn blended(&self, before: bool, round: usize) -> (usize, usize) {
        let (from, to) = if before {
            (self.starts[round + 1], self.starts[PLACES])
        } else {
            (self.starts[0], self.starts[ROUNDS - round])
        };
        (from, to - from)
    }
}

/// Rows of numbers and rows of positions on their way to a device, one copy each.
struct Table {
    samples: usize,
    numbers: Vec<f32>,
    positions: Vec<i64>,
}

/// The rows of [`Table`], by what they are for.
struct Uploaded {
    numbers: Tensor,
    positions: Tensor,
    samples: i64,
}

impl Table {
    fn row(&mut self, values: impl Iterator<Item = f32>) {
        self.numbers.extend(values);
    }

    fn upload(&self, device: Device) -> Uploaded {
        Uploaded {
            numbers: upload(&Tensor::from_slice(&self.numbers), device),
            positions: upload(&Tensor::from_slice(&self.positions), device),
            samples: self.samples as i64,
        }
    }
}

impl Uploaded {
    /// Some of a row's numbers as `(n, 1, 1, 1)`.
    fn column(&self, row: usize, (from, n): (usize, usize)) -> Tensor {
        self.numbers.narrow(0, row as i64 * self.samples + from as i64, n as i64).view([-1, 1, 1, 1])
    }
}

impl Colours {
    pub(super) fn new(device: Device) -> Self {
        let number = |v: f64| Tensor::from(v as f32).to(device);
        Self {
            gray: GRAY.map(number),
            sector: Tensor::from_slice(&[5f32, 3.0, 1.0]).view([1, 3, 1, 1]).to(device),
            branch: [2.0, 4.0].map(number),
        }
    }

    /// Changes the colours of `(B, 3, S, S)`, 0 to 255, as `params` say; 0 to 1.
    pub(super) fn change(&self, pixels: &Tensor, params: &[Photometric], blur: &Blur) -> Tensor {
        let arranged = Arrangement::of(params);
        let at = |f: &dyn Fn(&Photometric) -> bool| -> Vec<i64> {
            (0i64..).zip(&arranged.order).filter(|&(_, &i)| f(&params[i])).map(|(to, _)| to).collect()
        };
        let subsets = [at(&|p| p.gray), at(&|p| p.blur > 0.0), at(&|p| p.solarize)];
        let table = table(params, &arranged, &subsets);
        let on_device = table.upload(pixels.device());
        let mut first = 0;
        let mut next = |n: usize| {
            first += n as i64;
            (n > 0).then(|| on_device.positions.narrow(0, first - n as i64, n as i64))
        };
        let n = params.len();
        let (Some(order), Some(back)) = (next(n), next(n)) else { return pixels / 255.0 };
        let [gray, blurred, solarized] = subsets.each_ref().map(|subset| next(subset.len()));
        let x = pixels.index_select(0, &order) / 255.0; // (B, 3, S, S)
        self.jitter(&x, &arranged, &on_device);
        self.some(&x, gray.as_ref(), |x| self.gray(x).expand_as(x));
        let sigmas = || on_device.column(3 * 2 * ROUNDS + 1, (0, subsets[1].len())).flatten(0, -1);
        self.some(&x, blurred.as_ref(), |x| blur.apply(x, &sigmas()));
        self.some(&x, solarized.as_ref(), |x| {
            let inverted: Tensor = 1.0 - x;
            inverted.where_self(&x.ge(SOLARIZE), x)
        });
        x.index_select(0, &back)
    }

    /// Changes the samples of `x` at `index`.
    fn some(&self, x: &Tensor, index: Option<&Tensor>, change: impl FnOnce(&Tensor) -> Tensor) {
        if let Some(index) = index {
            let _ = x.shallow_clone().index_copy_(0, index, &change(&x.index_select(0, index)));
        }
    }

    /// Brightness (0), contrast (1), saturation (2) and hue (3), in each sample's own order; in place.
    fn jitter(&self, x: &Tensor, arranged: &Arrangement, table: &Uploaded) {
        let part = |(from, n): (usize, usize)| x.narrow(0, from as i64, n as i64);
        for before in [true, false] {
            for round in 0..ROUNDS {
                let which = arranged.blended(before, round);
                if which.1 > 0 {
                    let row = 3 * (round + if before { 0 } else { ROUNDS });
                    let [factor, mean, grey] = [0, 1, 2].map(|i| table.column(row + i, which));
                    self.blend(&part(which), &factor, &mean, &grey);
                }
            }
            let all = (arranged.starts[0], arranged.order.len() - arranged.starts[0]);
            if before && all.1 > 0 {
                self.hue(&part(all), &table.column(3 * 2 * ROUNDS, all));
            }
        }
    }

    /// `x * factor + other`, cut to 0..1, in place: `other` is `mean` times the mean grey and `grey` times the grey.
    fn blend(&self, x: &Tensor, factor: &Tensor, mean: &Tensor, grey: &Tensor) {
        let gray = self.gray(x);
        let average = gray.mean_dim([2i64, 3].as_slice(), true, Kind::Float) * mean;
        let blended = average.addcmul(&gray, grey).addcmul(x, factor);
        let _ = blended.clamp_out(x, 0.0, 1.0);
    }

    /// Grey of `(B, 3, S, S)` as `(B, 1, S, S)`.
    fn gray(&self, x: &Tensor) -> Tensor {
        let [r, g, b] = [0, 1, 2].map(|c| x.narrow(1, c, 1));
        (r * &self.gray[0]).addcmul(&g, &self.gray[1]).addcmul(&b, &self.gray[2])
    }

    /// Shifts the hue of `(B, 3, S, S)` in 0..1 by `sixths` `(B, 1, 1, 1)` of a turn, value and saturation kept; in place.
    ///
    /// Back from HSV by the closed form `f(n) = v - c max(0, min(k, 4 - k, 1))`, `k = (n + h) mod 6` with h in sixths
    /// and n = 5, 3, 1 for red, green and blue. `min(k, 4 - k)` is `2 - |k - 2|`.
    fn hue(&self, x: &Tensor, sixths: &Tensor) {
        let [r, g, b] = [0, 1, 2].map(|c| x.narrow(1, c, 1)); // (B, 1, S, S) each
        let value = x.amax([1i64].as_slice(), true);
        let chroma = &value - x.amin([1i64].as_slice(), true);
        let [second, third] = &self.branch;
        let other = ((&b - &r).addcmul(&chroma, second))
            .where_self(&value.eq_tensor(&g), &(&r - &g).addcmul(&chroma, third));
        let sixth = (&g - &b).where_self(&value.eq_tensor(&r), &other);
        // grey pixels have no hue; their chroma is 0, so any will do
        let turned = (sixth / chroma.clamp_min(1e-12)).g_add_(sixths); // (B, 1, S, S)
        let mut k = &turned + &self.sector; // (B, 3, S, S)
        let k = k.remainder_(6.0).g_sub_scalar_(2.0).abs_().clamp_(1.0, 2.0);
        let least = value - &chroma * 2.0;
        let _ = least.addcmul_out(x, &k, &chroma);
    }
}

/// Of each round three rows (factor, share of the mean grey, share of the grey), a row of hues in sixths, and a row of
/// sigmas of those that are blurred; the order, the way back, and the samples of each subset.
fn table(params: &[Photometric], arranged: &Arrangement, subsets: &[Vec<i64>; 3]) -> Table {
    let mut table = Table { samples: params.len(), numbers: vec![], positions: vec![] };
    let ordered = || arranged.order.iter().map(|&i| &params[i]);
    for before in [true, false] {
        for round in 0..ROUNDS {
            let blend = |p: &Photometric| {
                let hue = p.order.iter().position(|&op| op == HUE).unwrap_or(0);
                let at = if before { round } else { hue + 1 + round };
                // elsewhere than here the sample has no blend in this round
                p.order.get(at).map_or((0, 1.0), |&op| (op, p.jitter[usize::from(op.min(2))]))
            };
            table.row(ordered().map(|p| blend(p).1));
            for wanted in [1, 2] {
                table.row(ordered().map(|p| {
                    let (op, factor) = blend(p);
                    if op == wanted { 1.0 - factor } else { 0.0 }
                }));
            }
        }
    }
    table.row(ordered().map(|p| p.jitter[usize::from(HUE)] * 6.0));
    table.row(ordered().map(|p| p.blur).filter(|&sigma| sigma > 0.0));
    let mut back = vec![0; params.len()];
    for (to, &from) in (0i64..).zip(&arranged.order) {
        back[from] = to;
    }
    table.positions.extend(arranged.order.iter().map(|&i| i as i64));
    table.positions.extend(back);
    table.positions.extend(subsets.iter().flatten());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::IndexOp;

    fn pictures(n: i64, s: i64) -> Tensor {
        tch::manual_seed(1);
        (Tensor::rand([n, 3, s, s], (Kind::Float, Device::Cpu)) * 255.0).to_kind(Kind::Uint8)
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn change(pixels: &Tensor, params: &[Photometric]) -> Tensor {
        Colours::new(Device::Cpu).change(pixels, params, &Blur::new(pixels.size()[3], 4, Device::Cpu))
    }

    /// The same formulas, one pixel at a time.
    fn naive_hue(rgb: [f64; 3], shift: f64) -> [f64; 3] {
        let [r, g, b] = rgb;
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let c = max - min;
        if c == 0.0 {
            return rgb;
        }
        let h = if max == r {
            (g - b) / c
        } else if max == g {
            2.0 + (b - r) / c
        } else {
            4.0 + (r - g) / c
        };
        let h = (h / 6.0 + shift).rem_euclid(1.0) * 6.0;
        let (i, f) = (h.floor(), h.fract());
        let s = c / max;
        let (p, q, t) = (max * (1.0 - s), max * (1.0 - s * f), max * (1.0 - s * (1.0 - f)));
        match i as i64 % 6 {
            0 => [max, t, p],
            1 => [q, max, p],
            2 => [p, max, t],
            3 => [p, q, max],
            4 => [t, p, max],
            _ => [max, p, q],
        }
    }

    #[test]
    fn hue_equals_the_sector_formula() {
        let _alone = crate::rng::alone();
        let x = pictures(2, 8);
        // grey, two largest channels, black
        for (at, rgb) in [(0, [90u8, 90, 90]), (1, [200, 200, 10]), (2, [0, 0, 0]), (3, [10, 80, 80])] {
            x.i((0, .., 7, at)).copy_(&Tensor::from_slice(&rgb));
        }
        for shift in [-0.1f32, 0.0, 0.07, 0.5] {
            let turn = Photometric { jitter: [1.0, 1.0, 1.0, shift], jittered: true, ..Photometric::NONE };
            let y = change(&x, &[turn, turn]);
            for (n, i, j) in [(0, 0, 0), (1, 3, 5), (1, 7, 7), (0, 7, 0), (0, 7, 1), (0, 7, 2), (0, 7, 3)] {
                let pixel = |t: &Tensor| [0, 1, 2].map(|c| t.double_value(&[n, c, i, j]));
                let expected = naive_hue(pixel(&x).map(|v| v / 255.0), f64::from(shift));
                for (a, b) in pixel(&y).into_iter().zip(expected) {
                    assert!((a - b).abs() < 1e-5, "{a} {b}");
                }
            }
        }
    }

    /// Every order beside every other in one batch gives what each gives alone.
    #[test]
    fn every_sample_has_its_own_order() {
        let _alone = crate::rng::alone();
        let all = (0..256u32).map(|i| [i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6].map(|v| v as u8));
        let orders: Vec<_> = all.filter(|o| (0..4).all(|v| o.contains(&v))).collect();
        let mut params: Vec<Photometric> = (0..)
            .zip(&orders)
            .map(|(i, &order)| {
                let jitter = [1.3 - 0.02 * i as f32, 0.7 + 0.02 * i as f32, 1.4, 0.004 * i as f32];
                let (gray, blur) = (i % 5 == 0, if i % 3 == 0 { 0.5 + 0.1 * i as f32 } else { 0.0 });
                Photometric { jitter, order, jittered: true, gray, blur, solarize: i % 4 == 0 }
            })
            .collect();
        params.insert(5, Photometric::NONE);
        params.push(Photometric { gray: true, ..Photometric::NONE });
        let x = pictures(params.len() as i64, 6);
        let batch = change(&x, &params);
        for (i, p) in (0i64..).zip(&params) {
            let single = change(&x.i(i..i + 1), &[*p]);
            assert!(distance(&batch.i(i), &single.squeeze_dim(0)) < 1e-6, "{p:?}");
        }
        let plain = x.to_kind(Kind::Float) / 255.0;
        assert!(distance(&batch.i(5), &plain.i(5)) < 1e-6, "unjittered samples stay");
        assert!(distance(&batch.i((25, 0)), &batch.i((25, 2))) < 1e-7, "grey has equal channels");
        let jitter = [1.3, 0.7, 1.4, 0.05];
        let with = |order| Photometric { jitter, order, jittered: true, ..Photometric::NONE };
        let (one, other) = (with([0, 1, 2, 3]), with([3, 2, 1, 0]));
        let one_sample = x.i(0..1);
        assert!(distance(&change(&one_sample, &[one]), &change(&one_sample, &[other])) > 1e-3);
        // brightness alone: a factor and a clamp
        let bright = Photometric { jitter: [1.3, 1.0, 1.0, 0.0], jittered: true, ..Photometric::NONE };
        let expected = (plain.i(0..1) * 1.3).clamp(0.0, 1.0);
        assert!(distance(&change(&one_sample, &[bright]), &expected) < 1e-5);
    }
}
