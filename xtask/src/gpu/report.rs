//! `cargo xtask gpu-report`: what the kit measured as tables of docs/benchmarks.md. A figure that is missing stays missing, with the
//! reason; nothing is computed that the kit did not measure, but means over seeds.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::accuracy::cell;
use crate::paths;

/// Format of `result.json` that is understood (`kit/runner.py`).
const FORMAT: u64 = 1;
const DOCUMENT: &str = "docs/benchmarks.md";

/// Options of `cargo xtask gpu-report`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `result.json` of the kit
    result: PathBuf,
    /// Put the tables into docs/benchmarks.md, instead of those of the same machine
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.result)
        .with_context(|| format!("could not read `{}`", args.result.display()))?;
    let result = Found::parse(&text).with_context(|| format!("`{}`", args.result.display()))?;
    let section = result.section();
    if !args.write {
        print!("{section}");
        return Ok(());
    }
    let document = paths::root().join(DOCUMENT);
    let before =
        fs::read_to_string(&document).with_context(|| format!("could not read `{}`", document.display()))?;
    let after = replace(&before, &result.heading(), &section);
    fs::write(&document, after).with_context(|| format!("could not write `{}`", document.display()))?;
    println!("{DOCUMENT}: section `{}`", result.heading().trim_start_matches("## "));
    Ok(())
}

/// The document with `section` in place of the one with this heading, or at its end.
fn replace(document: &str, heading: &str, section: &str) -> String {
    let mut rows: Vec<&str> = document.lines().collect();
    let start = rows.iter().position(|row| *row == heading).unwrap_or(rows.len());
    let end = rows.iter().skip(start + 1).position(|row| row.starts_with("## "));
    let tail = end.map_or(Vec::new(), |length| rows.split_off(start + 1 + length));
    rows.truncate(start);
    let mut out = rows.join("\n").trim_end().to_owned();
    let _ = write!(out, "\n\n{}\n", section.trim_end());
    if !tail.is_empty() {
        let _ = write!(out, "\n{}\n", tail.join("\n"));
    }
    out
}

/// A result of the kit.
struct Found {
    machine: Value,
    kit: Value,
    tiny: bool,
    steps: Map<String, Value>,
    goals: Vec<Value>,
}

impl Found {
    fn parse(text: &str) -> Result<Self> {
        let mut whole: Value = serde_json::from_str(text).context("this is not JSON")?;
        let format = whole["format"].as_u64();
        ensure!(
            format == Some(FORMAT),
            "format {}, expected {FORMAT}\nhint: use `result.json` of a kit that this checkout made",
            whole["format"]
        );
        let Value::Object(steps) = whole["steps"].take() else { bail!("`steps` is not an object") };
        let goals = whole["goals"].as_array().cloned().unwrap_or_default();
        let tiny = whole["tiny"].as_bool().context("`tiny` is missing")?;
        Ok(Self { machine: whole["machine"].take(), kit: whole["kit"].take(), tiny, steps, goals })
    }

    fn heading(&self) -> String {
        match (self.machine["card"].as_str(), self.tiny) {
            (Some(card), false) => format!("## On one {card}"),
            (Some(card), true) => format!("## Rehearsal on one {card}"),
            (None, _) => "## Rehearsal of the GPU kit on a CPU".to_owned(),
        }
    }

    fn section(&self) -> String {
        let mut out = format!("{}\n\n{}\n", self.heading(), self.about());
        let speeds =
            [self.goals(), self.throughput(), self.rates(), self.phases(), self.serving(), self.cold()];
        // sizes that a rehearsal takes say nothing about speed
        let speeds = if self.tiny { Vec::new() } else { speeds.to_vec() };
        for table in [vec![self.steps()], speeds, vec![self.accuracy(), self.missing()]].concat() {
            if !table.is_empty() {
                let _ = write!(out, "\n{}\n", table.trim_end());
            }
        }
        out
    }

    /// What was measured on, and with what.
    fn about(&self) -> String {
        let text = |key: &str| word(&self.machine[key]);
        let card = match self.machine["card"].as_str() {
            Some(card) => format!("{card} ({} MiB, driver {})", text("card_memory_mib"), text("driver")),
            None => "no GPU".to_owned(),
        };
        let tiny = if self.tiny {
            " The sizes are the smallest with which every step runs: speeds say nothing, and are left out."
        } else {
            ""
        };
        format!(
            "`run.sh` of `cargo xtask gpu-kit` (commit {}): {card}, {} ({} cores, {} GiB), torch {}, CUDA {}, torchvision {}, Python {}.{tiny}",
            word(&self.kit["commit"]),
            text("cpu"),
            text("cores"),
            text("memory_gib"),
            text("torch"),
            text("cuda"),
            text("torchvision"),
            text("python"),
        )
    }

    /// A step that went well.
    fn figures(&self, step: &str) -> Option<&Value> {
        let row = self.steps.get(step)?;
        (row["status"] == "ok").then(|| &row["figures"])
    }

    fn number(&self, step: &str, keys: &[&str]) -> Option<f64> {
        keys.iter().try_fold(self.figures(step)?, |value, key| value.get(key))?.as_f64()
    }

    /// Each step, how it ended and how long it took; the runs of the accuracy table have one of their own.
    fn steps(&self) -> String {
        let rows = self.steps.iter().filter(|(_, row)| row["stage"] != "accuracy").map(|(name, row)| {
            let reason = row["reason"].as_str().map_or(String::new(), plain);
            vec![
                plain(name),
                word(&row["stage"]),
                word(&row["status"]),
                show(row["seconds"].as_f64(), 1),
                mib(row["card_mib"].as_f64()),
                reason,
            ]
        });
        table(
            "step | stage | how it ended | seconds | card's memory, GiB | why",
            "---|---|---|---:|---:|---",
            rows,
        )
    }

    fn goals(&self) -> String {
        let rows = self.goals.iter().map(|goal| {
            let met = match (goal["met"].as_bool(), goal["missing"].as_str()) {
                (Some(true), _) => "met".to_owned(),
                (Some(false), _) => "not met".to_owned(),
                (None, why) => format!("not measured: {}", plain(why.unwrap_or("no reason was kept"))),
            };
            vec![
                word(&goal["goal"]),
                show(goal["at_least"].as_f64(), 1),
                show(goal["ratio"].as_f64(), 2),
                met,
            ]
        });
        table("ratio | at least | found |", "---|---:|---:|---", rows)
    }

    fn throughput(&self) -> String {
        let measured = self.steps.iter().filter(|(_, row)| row["stage"] == "throughput");
        let rows = measured.filter(|(name, _)| self.number(name, &["images_per_second"]).is_some());
        let rows = rows.map(|(name, row)| {
            let figure = |key: &str| self.number(name, &[key]);
            let peak = figure("peak_memory_bytes").map(|bytes| bytes / f64::from(1 << 30));
            vec![
                plain(name),
                show(figure("images_per_second"), 0),
                show(figure("wait_share").map(|share| 100.0 * share), 1),
                show(peak, 1),
                row.pointer("/figures/note").and_then(Value::as_str).map_or(String::new(), plain),
            ]
        });
        table(
            "training step | images/s | waiting for data, % | memory, GiB |",
            "---|---:|---:|---:|---",
            rows,
        )
    }

    fn rates(&self) -> String {
        let Some(rates) = self.figures("rates") else { return String::new() };
        let row = |what: &str, value: &Value, digits: usize| {
            value.as_f64().map(|v| vec![what.to_owned(), show(Some(v), digits)])
        };
        let precision = word(&rates["precision"]);
        let rows = [
            row(&format!("product, {precision}, TFLOP/s"), &rates["tflops"], 0),
            row("product, TF32, TFLOP/s", &rates["tf32_tflops"], 0),
            row("copy, read and written, GB/s", &rates["copy_gb_per_s"], 0),
            row("floor of a step of moco-v2, images/s", &rates["floor"]["moco-v2"], 0),
            row("floor of a step of saliency-moco, images/s", &rates["floor"]["saliency-moco"], 0),
        ];
        table("the card |", "---|---:", rows.into_iter().flatten())
    }

    /// Milliseconds of each phase of a step, a column for each profile.
    fn phases(&self) -> String {
        let profiles: Vec<(&String, &Value)> = self
            .steps
            .keys()
            .filter_map(|name| Some((name, self.figures(name)?)))
            .filter(|(_, figures)| figures["phases"].is_array())
            .collect();
        let phase = |figures: &Value| -> BTreeMap<String, f64> {
            let rows = figures["phases"].as_array().into_iter().flatten();
            rows.filter_map(|row| Some((row["name"].as_str()?.to_owned(), row["milliseconds"].as_f64()?)))
                .collect()
        };
        let mut names: Vec<String> = Vec::new();
        for (_, figures) in &profiles {
            names.extend(phase(figures).into_keys().filter(|name| !names.contains(name)).collect::<Vec<_>>());
        }
        let mut rows: Vec<Vec<String>> = names
            .iter()
            .map(|name| {
                let cells = profiles.iter().map(|(_, figures)| show(phase(figures).get(name).copied(), 2));
                std::iter::once(format!("{}, ms", plain(name))).chain(cells).collect()
            })
            .collect();
        for (what, key) in [
            ("operators a step", "operators_per_step"),
            ("kernels a step", "kernels_per_step"),
            ("reads by the host a step", "host_reads_per_step"),
        ] {
            let cells = profiles.iter().map(|(_, figures)| show(figures[key].as_f64(), 1));
            rows.push(std::iter::once(what.to_owned()).chain(cells).collect());
        }
        if profiles.is_empty() {
            return String::new();
        }
        let heads: Vec<String> = profiles.iter().map(|(name, _)| plain(name)).collect();
        let align = format!("---{}", "|---:".repeat(heads.len()));
        table(&format!("a step's time | {}", heads.join(" | ")), &align, rows)
    }

    /// Served, and ONNX Runtime alone.
    fn serving(&self) -> String {
        let mut rows = Vec::new();
        for precision in ["fp16", "fp32"] {
            let step = format!("serve {precision}");
            for clients in ["1 clients", "16 clients", "128 clients"] {
                let at = |key: &str| self.number(&step, &[clients, key]);
                if let Some(rate) = at("images_per_second") {
                    let what = format!("{precision}, {}", clients.replace("1 clients", "1 client"));
                    rows.push(vec![what, show(Some(rate), 0), show(at("p50_ms"), 1), show(at("p99_ms"), 1)]);
                }
            }
            let alone = self.figures(&format!("alone {precision}")).and_then(Value::as_object);
            for (batch, rate) in alone.into_iter().flatten().filter(|(name, _)| name.starts_with("batch ")) {
                let what = format!("{precision}, ONNX Runtime alone, {batch}");
                rows.push(vec![what, show(rate.as_f64(), 0), String::new(), String::new()]);
            }
        }
        let trt = self.figures("TensorRT").and_then(Value::as_object);
        for (batch, rate) in trt.into_iter().flatten().filter(|(name, _)| name.starts_with("batch ")) {
            rows.push(vec![
                format!("fp16, TensorRT alone, {batch}"),
                show(rate.as_f64(), 0),
                String::new(),
                String::new(),
            ]);
        }
        let threads = self.figures("decoding threads").and_then(Value::as_object);
        for (count, rate) in threads.into_iter().flatten().filter(|(name, _)| name.ends_with(" threads")) {
            rows.push(vec![
                format!("fp16, 128 clients, {count} decode"),
                show(rate.as_f64(), 0),
                String::new(),
                String::new(),
            ]);
        }
        table("serving | images/s | p50, ms | p99, ms", "---|---:|---:|---:", rows)
    }

    /// First requests, and memory.
    fn cold(&self) -> String {
        let first = self.figures("cold shapes").and_then(Value::as_object);
        let mut rows: Vec<Vec<String>> = first
            .into_iter()
            .flatten()
            .filter(|(_, row)| row.is_object())
            .map(|(name, row)| {
                let times = [show(row["first_ms"].as_f64(), 1), show(row["later_ms"].as_f64(), 1)];
                vec![format!("a request of {name}: first, later, ms"), times.join(", ")]
            })
            .collect();
        let memory = self.figures("memory given back").and_then(Value::as_object);
        let memory =
            memory.into_iter().flatten().map(|(when, mib)| format!("{} {when}", show(mib.as_f64(), 0)));
        let memory: Vec<String> = memory.collect();
        if !memory.is_empty() {
            rows.push(vec!["memory in use, MiB".into(), memory.join(", ")]);
        }
        table("cold and after |", "---|---", rows)
    }

    /// Rows of the accuracy table: the mean over the seeds, and how far the farthest lies from it.
    fn accuracy(&self) -> String {
        let mut groups: Vec<(String, Vec<&Value>)> = Vec::new();
        for (name, row) in &self.steps {
            let Some(figures) = self.figures(name).filter(|_| row["stage"] == "accuracy") else { continue };
            let key = format!(
                "{} at {} px, {} epochs | {}",
                word(&figures["data"]),
                word(&figures["size"]),
                word(&figures["epochs"]),
                plain(&word(&figures["about"]))
            );
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, runs)) => runs.push(figures),
                None => groups.push((key, vec![figures])),
            }
        }
        let rows = groups.iter().flat_map(|(key, runs)| {
            let line = |features: &str, about: &str| {
                let found = |k| runs.iter().filter_map(|run| knn(run, features, k)).collect::<Vec<_>>();
                let linear = runs.iter().filter_map(|run| Some(100.0 * run["linear"]["top1"].as_f64()?));
                let linear =
                    if features == "checkpoint" { cell(&linear.collect::<Vec<_>>()) } else { String::new() };
                vec![
                    format!("{key}{about}"),
                    cell(&found(10)),
                    cell(&found(20)),
                    linear,
                    found(10).len().to_string(),
                ]
            };
            let floors = [("untrained", ": untrained encoder"), ("pixels", ": raw pixels")];
            let floors = floors
                .into_iter()
                .filter(|(features, _)| runs.iter().any(|r| knn(r, features, 10).is_some()));
            std::iter::once(line("checkpoint", ""))
                .chain(floors.map(|(f, about)| line(f, about)))
                .collect::<Vec<_>>()
        });
        let rows: Vec<_> = rows.collect();
        table("data | row | kNN, k=10 | k=20 | linear | seeds", "---|---|---:|---:|---:|---:", rows)
    }

    /// What is not here, and why.
    fn missing(&self) -> String {
        let mut rows: Vec<String> = Vec::new();
        for stage in ["check", "throughput", "profile", "serve", "accuracy"] {
            if !self.steps.values().any(|row| row["stage"] == stage) {
                rows.push(format!("- the stage `{stage}` was not run"));
            }
        }
        let mut runs: BTreeMap<String, usize> = BTreeMap::new();
        for (name, row) in self.steps.iter().filter(|(_, row)| row["status"] != "ok") {
            let why = row["reason"].as_str().unwrap_or("no reason was kept");
            let fate = format!("{}, {}", word(&row["status"]), plain(why));
            if row["stage"] == "accuracy" {
                *runs.entry(fate).or_default() += 1;
            } else {
                rows.push(format!("- {}: {fate}", plain(name)));
            }
        }
        rows.extend(runs.iter().map(|(fate, count)| format!("- runs of the accuracy table: {count} {fate}")));
        if rows.is_empty() { String::new() } else { format!("Missing:\n\n{}\n", rows.join("\n")) }
    }
}

/// Top-1 in per cent of a run's nearest neighbours.
fn knn(run: &Value, features: &str, k: u64) -> Option<f64> {
    let mut rows = run["knn"].as_array()?.iter();
    Some(100.0 * rows.find(|row| row["features"] == features && row["k"] == k)?["top1"].as_f64()?)
}

/// A value as a word of a sentence.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    }
}

/// Text that stays in its cell.
fn plain(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.filter(|v| v.is_finite()).map_or(String::new(), |v| format!("{v:.digits$}"))
}

fn mib(value: Option<f64>) -> String {
    show(value.map(|v| v / 1024.0), 1)
}

/// A Markdown table; nothing where it has no rows.
fn table(head: &str, align: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<String> = rows.into_iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("| {head} |\n|{align}|\n{}", rows.concat())
}

#[cfg(test)]
mod tests;
