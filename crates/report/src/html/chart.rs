//! Curves: lines as SVG that is stretched to its place, labels as HTML that is not.

use std::fmt::Write;

use maud::{Markup, html};

use super::number::{fixed, short};
use super::scale::{Fit, Range, thin};

/// Values that are shown; beyond, differences overflow.
const LARGEST: f64 = 1e100;
/// Units of the SVG along either axis.
const UNITS: f64 = 1000.0;
/// Room for the dots at either end, of the width.
const EDGE: f64 = 0.012;
/// Curves of so few points show them.
const DOTS: usize = 60;
/// Colours of the style sheet.
const COLOURS: usize = 8;

/// A curve.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    /// For the legend.
    pub(super) name: String,
    /// Step or epoch, and value; by the former.
    pub(super) points: Vec<(f64, f64)>,
    /// Which colour.
    pub(super) colour: usize,
    /// A backdrop for another curve.
    pub(super) faint: bool,
}

/// What lies along the bottom of a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Axis {
    /// Steps done.
    #[default]
    Steps,
    /// Epochs done.
    Epochs,
}

impl Axis {
    /// Its name before a number.
    fn name(self) -> &'static str {
        match self {
            Self::Steps => "step",
            Self::Epochs => "epoch",
        }
    }
}

/// A chart over steps or epochs.
#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    /// What is shown.
    pub(super) title: String,
    /// What it means.
    pub(super) note: &'static str,
    /// ` %` or nothing.
    pub(super) unit: &'static str,
    /// The vertical axis.
    pub(super) fit: Fit,
    /// The curves; those drawn later lie on top.
    pub(super) series: Vec<Series>,
    /// What lies along the bottom.
    pub(super) axis: Axis,
    /// Steps to mark.
    pub(super) marks: Vec<f64>,
}

impl Chart {
    /// Markup, unless there is nothing to draw.
    pub(super) fn render(mut self) -> Option<Markup> {
        for series in &mut self.series {
            series.points.retain(|&(x, y)| x.abs() < LARGEST && y.abs() < LARGEST);
        }
        self.series.retain(|series| !series.points.is_empty());
        let all: Vec<_> = self.series.iter().flat_map(|s| &s.points).copied().collect();
        let values: Vec<f64> = all.iter().map(|p| p.1).collect();
        let (x, y) = (Range::of(all.iter().map(|p| p.0))?.padded(EDGE), Range::fit(&values, self.fit)?);
        let outside = values.iter().filter(|&&v| !y.contains(v)).count();
        let last = self.series.last()?;
        let latest =
            (self.series.iter().filter(|s| !s.faint).count() == 1).then(|| last.points.last()).flatten();
        Some(html! {
            figure.chart tabindex="0" aria-label=(self.title)
                data-x0=(x.low) data-x1=(x.high) data-y0=(y.low) data-y1=(y.high) data-unit=(self.unit) data-axis=(self.axis.name()) {
                figcaption {
                    h3 { (self.title) }
                    @if let Some(&(_, value)) = latest { span.latest { (short(value)) (self.unit) } }
                }
                @if !self.note.is_empty() || outside > 0 {
                    p.note {
                        (self.note)
                        @if outside > 0 {
                            @if !self.note.is_empty() { "; " }
                            (outside) @if outside == 1 { " value" } @else { " values" } " off the chart"
                        }
                    }
                }
                (self.plot(x, y))
                @if self.series.len() > 1 { (self.legend()) }
                output aria-live="polite" {}
            }
        })
    }

    fn plot(&self, x: Range, y: Range) -> Markup {
        let (xs, (ys, y_decimals)) = (x.whole_ticks(), y.ticks());
        let label = |value: f64| {
            if value != 0.0 && y_decimals > 4 { format!("{value:.0e}") } else { fixed_all(value, y_decimals) }
        };
        let widest = ys.iter().map(|&v| label(v).len()).max().unwrap_or(1) + self.unit.len();
        let from_top = |v: f64| 100.0 * (1.0 - y.place(v));
        html! {
            div.plot style=(format!("--w:{widest}ch")) {
                div.y aria-hidden="true" {
                    @for &v in &ys { span style=(format!("top:{:.2}%", from_top(v))) { (label(v)) (self.unit) } }
                }
                div.area {
                    svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label=(self.summary()) {
                        @for &v in &ys { path.grid d=(format!("M0 {:.1}H1000", 10.0 * from_top(v))) {} }
                        @for &v in &self.marks {
                            @if x.contains(v) { path.mark d=(format!("M{:.1} 0V1000", UNITS * x.place(v))) {} }
                        }
                        @for series in &self.series { (curve(series, x, y)) }
                    }
                }
                div.x aria-hidden="true" {
                    @for &v in xs.iter().filter(|&&v| v >= 0.0) {
                        span style=(format!("left:{:.2}%", 100.0 * x.place(v))) { (steps(v, x)) }
                    }
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for series in &self.series { li class=(class("key", series)) { (series.name) } }
            }
        }
    }

    /// The chart in words.
    fn summary(&self) -> String {
        let (mut out, axis) = (self.title.clone(), self.axis.name());
        for series in &self.series {
            let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else { continue };
            let bound = |f: fn(f64, f64) -> f64, from| series.points.iter().fold(from, |b, p| f(b, p.1));
            let show = |v: f64| short(v) + self.unit;
            let _ = write!(
                out,
                "; {}: {} at {axis} {}, {} at {axis} {}, lowest {}, highest {}",
                series.name,
                show(first.1),
                fixed(first.0, 2),
                show(last.1),
                fixed(last.0, 2),
                show(bound(f64::min, f64::INFINITY)),
                show(bound(f64::max, f64::NEG_INFINITY))
            );
        }
        out
    }
}

/// A label of the axis along the bottom: `12.5k` takes less room than `12,500`.
fn steps(value: f64, axis: Range) -> String {
    let thousands = [(1e7, 1e6, "M"), (1e4, 1e3, "k")].into_iter().find(|(from, ..)| axis.high >= *from);
    match thousands.filter(|_| value != 0.0) {
        Some((_, unit, name)) => fixed(value / unit, 3) + name,
        None => fixed(value, 3),
    }
}

/// With all its decimals, so that the labels of an axis look alike.
fn fixed_all(value: f64, decimals: usize) -> String {
    if decimals == 0 { fixed(value, 0) } else { format!("{value:.decimals$}") }
}

fn curve(series: &Series, x: Range, y: Range) -> Markup {
    let points = thin(&series.points);
    let (mut line, mut dots, mut data) = (String::new(), String::new(), String::new());
    for &(at, value) in &points {
        let (px, py) = (UNITS * x.place(at), UNITS * (1.0 - y.place(value)));
        let _ = write!(line, "{}{px:.1} {py:.1}", if line.is_empty() { 'M' } else { 'L' });
        let _ = write!(dots, "M{px:.1} {py:.1}h0");
        let _ = write!(data, "{at},{} ", exact(value));
    }
    html! {
        path class=(class("line", series)) d=(line) data-name=(series.name) data-points=(data.trim_end()) {}
        @if !series.faint && points.len() <= DOTS { path class=(class("dots", series)) d=(dots) {} }
    }
}

/// Six digits, which is what the page shows of a value at most.
fn exact(value: f64) -> String {
    format!("{value:.5e}").parse::<f64>().unwrap_or(value).to_string()
}

fn class(kind: &str, series: &Series) -> String {
    let dashed = if series.colour >= COLOURS { " dashed" } else { "" };
    format!("{kind} c{}{dashed}{}", series.colour % COLOURS, if series.faint { " faint" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Option<String> {
        let series = Series { name: "<b>".into(), points: points.to_vec(), ..Series::default() };
        Chart { title: "Loss".into(), series: vec![series], ..Chart::default() }
            .render()
            .map(Markup::into_string)
    }

    #[test]
    fn nothing_makes_no_chart() {
        assert_eq!(chart(&[]), None);
        assert_eq!(chart(&[(1.0, 1e300), (f64::INFINITY, 1.0)]), None);
    }

    #[test]
    fn a_curve_is_drawn_told_and_escaped() {
        let svg = chart(&[(10.0, 4.0), (20.0, 2.0)]).expect("a chart");
        assert!(svg.contains("data-points=\"10,4 20,2\""), "{svg}");
        assert!(svg.contains("4 at step 10, 2 at step 20, lowest 2, highest 4"), "{svg}");
        // paddings: 0.012 of 1.024 along the bottom, 0.05 of 1.1 upwards
        assert!(svg.contains("d=\"M11.7 45.5L988.3 954.5\""), "{svg}");
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn one_point_is_a_chart() {
        assert!(chart(&[(5.0, 0.0)]).expect("a chart").contains("h0"));
    }
}
