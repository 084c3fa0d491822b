//! `metrics.jsonl`: what counts of it, after crashes and resumptions.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde_json::{Map, Value};

/// Names of a line's own numbers that are no metrics.
const NO_METRIC: [&str; 3] = ["kind", "epoch", "step"];

/// Numbers of a line, by name; `a.b` for what lies in a nested object.
pub(crate) type Numbers = BTreeMap<String, f64>;

/// A line of `step`, `epoch` or `knn`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// Epoch, from 0.
    pub(crate) epoch: Option<u64>,
    /// Everything else that is a finite number.
    pub(crate) numbers: Numbers,
}

impl Row {
    /// A metric.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied()
    }
}

/// Rows by steps done.
pub(crate) type Rows = BTreeMap<u64, Row>;

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    /// Steps done, where known.
    pub(crate) step: Option<u64>,
    /// Epoch, where known.
    pub(crate) epoch: Option<u64>,
    /// Its name, as `rollback`.
    pub(crate) name: String,
    /// For people.
    pub(crate) message: String,
}

/// The lines of a run that count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    /// Stretches of steps.
    pub(crate) steps: Rows,
    /// Means of epochs.
    pub(crate) epochs: Rows,
    /// Evaluations by nearest neighbours.
    pub(crate) knn: Rows,
    /// In the order in which they happened.
    pub(crate) events: Vec<Event>,
    /// Whether the last line is an event.
    pub(crate) ends_in_event: bool,
    /// Lines besides the last that are no JSON object.
    pub(crate) unreadable: usize,
    /// Whether the last event says that steps will be repeated.
    announced: bool,
}

impl Log {
    /// Reads lines. A torn last line, as a killed process leaves, is passed over.
    ///
    /// # Errors
    /// What the reader reports.
    pub(crate) fn read(mut from: impl BufRead) -> io::Result<Self> {
        let mut log = Self::default();
        let (mut line, mut torn) = (Vec::new(), 0);
        while from.read_until(b'\n', &mut line)? > 0 {
            if !line.trim_ascii().is_empty() {
                log.unreadable += std::mem::take(&mut torn);
                match serde_json::from_slice(&line) {
                    Ok(Value::Object(object)) => log.add(&object),
                    _ => torn = 1,
                }
            }
            line.clear();
        }
        Ok(log)
    }

    fn add(&mut self, line: &Map<String, Value>) {
        let number = |name: &str| line.get(name).and_then(Value::as_u64);
        let kind = line.get("kind").and_then(Value::as_str).unwrap_or_default();
        self.ends_in_event = kind == "event";
        if kind == "event" {
            let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (name, message) = (text("event"), text("message"));
            self.announced = name.starts_with("resum") || name.starts_with("roll");
            self.events.push(Event { step: number("step"), epoch: number("epoch"), name, message });
            return;
        }
        let Some(step) = number("step") else { return };
        let mut row = Row { epoch: number("epoch"), ..Row::default() };
        for (name, value) in line.iter().filter(|(name, _)| !NO_METRIC.contains(&name.as_str())) {
            collect(name, value, &mut row.numbers);
        }
        match kind {
            "step" => self.again(step, row, |log| &mut log.steps),
            "epoch" => self.again(step, row, |log| &mut log.epochs),
            "knn" => {
                // several lines may speak of one step: one per number of neighbours
                let own = self.knn.entry(step).or_default();
                own.epoch = row.epoch.or(own.epoch);
                own.numbers.extend(neighbours(row.numbers, line));
            }
            _ => {}
        }
    }

    /// Adds a row. A step that was there already means that the run resumed from an earlier checkpoint: whatever lies
    /// behind belongs to the stretch that was given up.
    fn again(&mut self, step: u64, row: Row, rows: impl Fn(&mut Self) -> &mut Rows) {
        let newest = rows(self).last_key_value().map(|(&step, _)| step).filter(|&newest| newest >= step);
        if let Some(newest) = newest {
            rows(self).split_off(&step);
            self.knn.split_off(&step);
            // an epoch's row follows its last step's
            self.epochs.split_off(&step);
            self.steps.split_off(&step.saturating_add(1));
            if !self.announced {
                let message =
                    format!("resumed from an earlier checkpoint: step {step} follows step {newest}");
                self.events.push(Event { step: Some(step), epoch: None, name: "resumed".into(), message });
            }
        }
        self.announced = false;
        rows(self).insert(step, row);
    }
}

/// Finite numbers below `value`.
fn collect(name: &str, value: &Value, out: &mut Numbers) {
    match value {
        Value::Number(number) => {
            out.extend(number.as_f64().filter(|n| n.is_finite()).map(|n| (name.to_owned(), n)));
        }
        Value::Object(object) => object.iter().for_each(|(key, v)| collect(&format!("{name}.{key}"), v, out)),
        _ => {}
    }
}

/// The accuracies of a line of `knn`, by name. Known shapes: `{"k": 20, "top1": 0.4}`, numbers whose names begin with
/// `k`, `knn`, `top1` or `acc`, and `{"results": [{"k": 20, "top1": 0.4}]}`.
fn neighbours(numbers: Numbers, line: &Map<String, Value>) -> Numbers {
    let mut out = Numbers::new();
    let results = line.get("results").and_then(Value::as_array).into_iter().flatten();
    for one in results.filter_map(Value::as_object).chain([line]) {
        let number = |name: &str| one.get(name).and_then(Value::as_f64);
        if let (Some(k), Some(top1)) = (number("k"), number("top1").or(number("acc"))) {
            out.insert(format!("k = {k}"), top1);
        }
    }
    if out.is_empty() {
        let is_k = |name: &str| name.strip_prefix('k').is_some_and(|k| k.parse::<u32>().is_ok());
        let known = |name: &str| is_k(name) || ["knn", "top1", "acc"].iter().any(|p| name.starts_with(p));
        out.extend(numbers.into_iter().filter(|(name, _)| known(name)).map(|(name, v)| (pretty(&name), v)));
    }
    out.retain(|_, top1| (0.0..=1.0).contains(top1));
    out
}

/// `k20` and `top1_k20` read `k = 20`.
fn pretty(name: &str) -> String {
    let k = name.rsplit(['_', '.']).next().and_then(|last| last.strip_prefix('k'));
    match k.and_then(|k| k.parse::<u32>().ok()) {
        Some(k) => format!("k = {k}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Log {
        Log::read(text.as_bytes()).expect("memory")
    }

    fn losses(rows: &Rows) -> Vec<(u64, f64)> {
        rows.iter().filter_map(|(&step, row)| Some((step, row.get("loss")?))).collect()
    }

    #[test]
    fn rows_keep_their_numbers() {
        let log = read(
            "{\"kind\":\"step\",\"epoch\":2,\"step\":10,\"loss\":4.5,\"x\":null,\"per\":{\"head\":1},\"s\":\"t\"}\n\
             {\"kind\":\"epoch\",\"epoch\":2,\"step\":10,\"loss\":4.0}\n\n{\"kind\":\"new\",\"step\":1}\n",
        );
        assert_eq!(losses(&log.steps), [(10, 4.5)]);
        assert_eq!(log.steps[&10].epoch, Some(2));
        assert_eq!(log.steps[&10].numbers.len(), 2);
        assert_eq!(log.steps[&10].get("per.head"), Some(1.0));
        assert_eq!(losses(&log.epochs), [(10, 4.0)]);
        assert_eq!((log.unreadable, log.events.len()), (0, 0));
    }

    #[test]
    fn a_torn_last_line_is_passed_over_and_a_torn_one_before_counted() {
        let torn = "{\"kind\":\"step\",\"step\":10,\"loss\":1}\n{\"kind\":\"st";
        assert_eq!(losses(&read(torn).steps), [(10, 1.0)]);
        assert_eq!(read(torn).unreadable, 0);
        let later = format!("{torn}\n{{\"kind\":\"step\",\"step\":20,\"loss\":2}}\n");
        assert_eq!(losses(&read(&later).steps), [(10, 1.0), (20, 2.0)]);
        assert_eq!(read(&later).unreadable, 1);
    }

    #[test]
    fn a_resumed_run_replaces_what_it_repeats() {
        let line = |kind: &str, step: u64, loss: f64| {
            format!("{{\"kind\":\"{kind}\",\"step\":{step},\"loss\":{loss}}}\n")
        };
        let mut text: String = [10, 20, 30, 40].iter().map(|&s| line("step", s, 1.0)).collect();
        text += &line("epoch", 40, 1.0);
        text += "{\"kind\":\"knn\",\"step\":40,\"k\":1,\"top1\":0.5}\n";
        // logged at other steps than before
        text += &line("step", 25, 2.0);
        let log = read(&text);
        assert_eq!(losses(&log.steps), [(10, 1.0), (20, 1.0), (25, 2.0)]);
        assert!(log.epochs.is_empty() && log.knn.is_empty());
        assert_eq!(log.events.len(), 1);
        assert!(log.events[0].message.contains("step 25 follows step 40"), "{}", log.events[0].message);
    }

    #[test]
    fn a_repetition_that_was_announced_is_not_told_twice() {
        let log = read(
            "{\"kind\":\"step\",\"step\":30,\"loss\":9}\n\
             {\"kind\":\"event\",\"step\":20,\"event\":\"rollback\",\"message\":\"the loss was 9\"}\n\
             {\"kind\":\"step\",\"step\":30,\"loss\":1}\n",
        );
        assert_eq!(losses(&log.steps), [(30, 1.0)]);
        assert_eq!(log.events.len(), 1);
        assert!(!log.ends_in_event);
    }

    #[test]
    fn neighbours_are_found_in_every_shape() {
        for line in [
            r#"{"kind":"knn","step":5,"k":20,"top1":0.25,"seconds":0.5}"#,
            r#"{"kind":"knn","step":5,"k20":0.25,"seconds":0.5}"#,
            r#"{"kind":"knn","step":5,"top1_k20":0.25,"images":3}"#,
            r#"{"kind":"knn","step":5,"results":[{"k":20,"top1":0.25}]}"#,
            r#"{"kind":"knn","step":5,"knn":{"k20":0.25}}"#,
        ] {
            let log = read(line);
            assert_eq!(log.knn[&5].numbers, Numbers::from([("k = 20".to_owned(), 0.25)]), "{line}");
        }
        let two = "{\"kind\":\"knn\",\"step\":5,\"k\":1,\"top1\":0.5}\n{\"kind\":\"knn\",\"step\":5,\"k\":20,\"top1\":0.4}";
        assert_eq!(read(two).knn[&5].numbers.len(), 2);
    }
}
