//! How well a map finds what is known to be there: the figures of salient object detection and of unsupervised
//! localisation.
//!
//! A map with values in 0..1 is held against a binary mask of its size. What each figure is, and where it comes from:
//!
//! | figure | definition | from |
//! |---|---|---|
//! | [`Figures::max_f`] | the largest of F = (1 + b) P R / (b P + R), b = 0.3, over the thresholds 0/255 to 255/255; P is the share of the foreground that is truth, R the share of the truth that is foreground | Achanta et al., CVPR 2009, doi 10.1109/CVPR.2009.5206596 |
//! | [`Figures::iou_adaptive`] | intersection over union of the truth and of the pixels at or above twice the map's mean, at most 1 | ibid. |
//! | [`Figures::iou_mean`] | the same at the map's mean | arXiv 2109.14279 evaluates such masks |
//! | [`Figures::iou_best`] | the same at the best of the 256 thresholds, chosen for each picture: what no rule reaches | |
//! | [`Figures::mae`] | mean absolute difference of map and truth | Perazzi et al., CVPR 2012, doi 10.1109/CVPR.2012.6247743 |
//! | [`Figures::auroc`] | the probability that a pixel of the truth has a higher value than one outside of it, ties counting half; exact, by ranks | Mann and Whitney, doi 10.1214/aoms/1177730491 |
//! | [`Figures::corloc`] | 1 where the box around the largest 4-connected part of the pixels at or above the mean has an IoU of at least one half with a box of the truth, else 0 | doi 10.1007/s11263-012-0538-3 |
//!
//! [`Means`] averages them over pictures. For F the precisions and recalls are averaged first, at each threshold, and
//! the largest F of the mean curve is told, as the literature does (arXiv 1501.02741): one threshold for all pictures.

use crate::{Error, Map, Mask, Rect, foreground_above};

/// Thresholds of the curve: 0/255, 1/255, ... 1.
pub const LEVELS: usize = 256;
/// The weight of precision in F.
pub const BETA_SQUARED: f64 = 0.3;
/// The IoU of two boxes from which an object counts as found.
pub const FOUND: f64 = 0.5;

/// What is said of a map, or on average of many; all in 0..1, higher is better but for `mae`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Best F over the thresholds.
    pub max_f: f64,
    /// IoU at twice the mean, at most 1.
    pub iou_adaptive: f64,
    /// IoU at the mean.
    pub iou_mean: f64,
    /// IoU at the best threshold of each picture.
    pub iou_best: f64,
    /// Mean absolute error; lower is better.
    pub mae: f64,
    /// Area under the ROC curve; `None` where the truth fills the picture.
    pub auroc: Option<f64>,
    /// Whether the object was found (1 or 0), or how often.
    pub corloc: f64,
}

/// Precision and recall at every threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Of [`LEVELS`] thresholds; 0 at a threshold that no pixel reaches.
    pub precision: Vec<f64>,
    /// Of the same thresholds; falls from 1.
    pub recall: Vec<f64>,
}

/// One map judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The figures of this map alone.
    pub figures: Figures,
    /// What the mean curve is made of.
    pub curve: Curve,
}

/// Judges a map by the mask `truth` of its size, and by `boxes` around the objects, in the mask's pixels.
///
/// # Errors
/// [`Error::Sizes`] where the mask has another size, [`Error::Range`] for values outside of 0..1, and
/// [`Error::NoObject`] for a truth without foreground, which nothing can find.
pub fn score(map: Map<'_>, truth: &Mask, boxes: &[Rect]) -> Result<Score, Error> {
    let (size, other) = ((map.height(), map.width()), (truth.height(), truth.width()));
    if size != other {
        return Err(Error::Sizes { map: size, mask: other });
    }
    if let Some(index) = map.values().iter().position(|v| !(0.0..=1.0).contains(v)) {
        return Err(Error::Range { index });
    }
    let objects = truth.count();
    if objects == 0 {
        return Err(Error::NoObject);
    }
    let levels = Levels::of(map, truth);
    let (mean, _) = map.mean_std();
    let curve = levels.curve();
    let figures = Figures {
        max_f: curve.best().0,
        iou_adaptive: iou_at(map, truth, (2.0 * mean).min(1.0)),
        iou_mean: iou_at(map, truth, mean),
        iou_best: levels.best_iou(),
        mae: mae(map, truth),
        auroc: auroc(map, truth),
        corloc: f64::from(u8::from(found(map, mean, boxes)?)),
    };
    Ok(Score { figures, curve })
}

/// The boxes of a mask: one around each 4-connected part, and one around everything, for an object that something in
/// front of it cuts in two.
pub fn boxes(mask: &Mask) -> Vec<Rect> {
    let (width, height) = (mask.width() as f64, mask.height() as f64);
    let parts = mask.components();
    let around = std::iter::once(mask).chain(parts.iter().filter(|_| parts.len() > 1));
    around.filter_map(Mask::bounds).map(|found| found.scale(mask, width, height)).collect()
}

/// Intersection over union of two rectangles; 0 where neither has an area.
pub fn rect_iou(a: &Rect, b: &Rect) -> f64 {
    let overlap = |a: f64, along: f64, b: f64, blong: f64| ((a + along).min(b + blong) - a.max(b)).max(0.0);
    let both = overlap(a.left, a.width, b.left, b.width) * overlap(a.top, a.height, b.top, b.height);
    let either = a.width * a.height + b.width * b.height - both;
    if either > 0.0 { both / either } else { 0.0 }
}

/// How many pixels of the truth and how many others reach each threshold.
struct Levels {
    inside: [u64; LEVELS],
    outside: [u64; LEVELS],
}

impl Levels {
    fn of(map: Map<'_>, truth: &Mask) -> Self {
        let mut levels = Self { inside: [0; LEVELS], outside: [0; LEVELS] };
        for (&value, &object) in map.values().iter().zip(truth.cells()) {
            // the highest threshold that the value reaches; the range was checked
            let level = (f64::from(value) * (LEVELS - 1) as f64) as usize;
            let counts = if object { &mut levels.inside } else { &mut levels.outside };
            counts[level.min(LEVELS - 1)] += 1;
        }
        for counts in [&mut levels.inside, &mut levels.outside] {
            for i in (0..LEVELS - 1).rev() {
                counts[i] += counts[i + 1];
            }
        }
        levels
    }

    fn each(&self) -> impl Iterator<Item = (f64, f64)> {
        self.inside.iter().zip(&self.outside).map(|(&i, &o)| (i as f64, o as f64))
    }

    fn curve(&self) -> Curve {
        let objects = self.inside[0] as f64;
        let precision =
            |(inside, outside): (f64, f64)| if inside > 0.0 { inside / (inside + outside) } else { 0.0 };
        Curve {
            precision: self.each().map(precision).collect(),
            recall: self.each().map(|(inside, _)| inside / objects).collect(),
        }
    }

    fn best_iou(&self) -> f64 {
        let objects = self.inside[0] as f64;
        self.each().map(|(inside, outside)| inside / (objects + outside)).fold(0.0, f64::max)
    }
}

impl Curve {
    /// The largest F, and the threshold (0..1) where it is; the lowest of several.
    pub fn best(&self) -> (f64, f64) {
        let f = |(&p, &r): (&f64, &f64)| {
            let below = BETA_SQUARED * p + r;
            if below > 0.0 { (1.0 + BETA_SQUARED) * p * r / below } else { 0.0 }
        };
        let all = self.precision.iter().zip(&self.recall).map(f).enumerate();
        let best = all.fold((0, 0.0), |best, (i, f)| if f > best.1 { (i, f) } else { best });
        (best.1, best.0 as f64 / (LEVELS - 1) as f64)
    }
}

fn iou_at(map: Map<'_>, truth: &Mask, threshold: f64) -> f64 {
    let cells = map.values().iter().zip(truth.cells());
    let (both, either) = cells.fold((0u64, 0u64), |(both, either), (&value, &object)| {
        let foreground = f64::from(value) >= threshold;
        (both + u64::from(foreground && object), either + u64::from(foreground || object))
    });
    both as f64 / either.max(1) as f64
}

fn mae(map: Map<'_>, truth: &Mask) -> f64 {
    let apart = |(&value, &object): (&f32, &bool)| (f64::from(value) - f64::from(u8::from(object))).abs();
    map.values().iter().zip(truth.cells()).map(apart).sum::<f64>() / map.values().len() as f64
}

/// By counting, of the pixels in the order of their values, those outside of the truth below each one inside of it.
fn auroc(map: Map<'_>, truth: &Mask) -> Option<f64> {
    // values are not negative, so that their bits are in their order; adding zero turns -0 into 0
    let key = |(&value, &object): (&f32, &bool)| u64::from((value + 0.0).to_bits()) << 1 | u64::from(object);
    let mut keys: Vec<u64> = map.values().iter().zip(truth.cells()).map(key).collect();
    keys.sort_unstable();
    // twice the number of pairs in order, a tie being half a pair
    let (mut pairs, mut below, mut objects) = (0u128, 0u128, 0u128);
    for equal in keys.chunk_by(|a, b| a >> 1 == b >> 1) {
        let inside = equal.iter().filter(|&&key| key & 1 == 1).count() as u128;
        let outside = equal.len() as u128 - inside;
        pairs += inside * (2 * below + outside);
        below += outside;
        objects += inside;
    }
    (below > 0 && objects > 0).then(|| pairs as f64 / 2.0 / (below as f64 * objects as f64))
}

/// Whether the box around the largest part of the foreground is one of `boxes`, as far as [`FOUND`] asks.
fn found(map: Map<'_>, threshold: f64, boxes: &[Rect]) -> Result<bool, Error> {
    let foreground = foreground_above(map, threshold)?;
    let largest = foreground.largest_component();
    let Some(bounds) = largest.bounds() else { return Ok(false) };
    let ours = bounds.scale(&largest, map.width() as f64, map.height() as f64);
    Ok(boxes.iter().any(|theirs| rect_iou(&ours, theirs) >= FOUND))
}

/// Averages over pictures.
#[derive(Debug, Clone)]
pub struct Means {
    pictures: usize,
    sums: [f64; 5],
    auroc: (f64, usize),
    curve: Curve,
}

impl Default for Means {
    fn default() -> Self {
        let curve = Curve { precision: vec![0.0; LEVELS], recall: vec![0.0; LEVELS] };
        Self { pictures: 0, sums: [0.0; 5], auroc: (0.0, 0), curve }
    }
}

impl Means {
    /// Counts a picture.
    pub fn add(&mut self, score: &Score) {
        let f = &score.figures;
        self.pictures += 1;
        let figures = [f.iou_adaptive, f.iou_mean, f.iou_best, f.mae, f.corloc];
        self.sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        if let Some(auroc) = f.auroc {
            self.auroc = (self.auroc.0 + auroc, self.auroc.1 + 1);
        }
        let Curve { precision, recall } = &mut self.curve;
        precision.iter_mut().zip(&score.curve.precision).for_each(|(sum, p)| *sum += p);
        recall.iter_mut().zip(&score.curve.recall).for_each(|(sum, r)| *sum += r);
    }

    /// How many were counted.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// The mean curve.
    pub fn curve(&self) -> Curve {
        let n = self.pictures.max(1) as f64;
        let mean = |sums: &[f64]| sums.iter().map(|sum| sum / n).collect();
        Curve { precision: mean(&self.curve.precision), recall: mean(&self.curve.recall) }
    }

    /// The averages; `max_f` is that of the mean curve. `None` before the first picture.
    pub fn figures(&self) -> Option<Figures> {
        if self.pictures == 0 {
            return None;
        }
        let [iou_adaptive, iou_mean, iou_best, mae, corloc] = self.sums.map(|sum| sum / self.pictures as f64);
        let auroc = (self.auroc.1 > 0).then(|| self.auroc.0 / self.auroc.1 as f64);
        Some(Figures { max_f: self.curve().best().0, iou_adaptive, iou_mean, iou_best, mae, auroc, corloc })
    }
}

#[cfg(test)]
mod tests;
