//! `cargo xtask test`: every test, and at the end what was skipped and why.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use crate::{paths, setup, sh};

/// Tests that cannot run here write a line into the file of this variable; see `crates/skip`.
const VARIABLE: &str = "OCCLUDE_SKIPPED";
/// What `cargo xtask ci` may lack: no package registry has the first, containers often forbid the second, the third is for
/// those who ask for it, PostgreSQL refuses to run as root where nobody else can read its programs, and the last one is not
/// in any registry of packages that the set-up uses.
const CI_LACKS: [&str; 5] = ["Detectron2", "mount", "rehearsal", "PostgreSQL", "Prometheus"];
/// The need of a test with the attribute.
const IGNORED: &str = "`--ignored` flag";

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Fail if a test was skipped
    #[arg(long)]
    no_skips: bool,
    /// Need for which tests may be skipped anyway, named as in the list of skipped tests; may be repeated
    #[arg(long, value_name = "NEED", requires = "no_skips")]
    may_lack: Vec<String>,
    /// Arguments for `cargo test`, e.g. `-- -p occlude-serve` or `-- -- --nocapture`
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Args {
    /// As CI runs it.
    pub(crate) fn strict() -> Self {
        let may_lack = CI_LACKS.map(str::to_owned).to_vec();
        Self { no_skips: true, may_lack, arguments: vec!["--no-fail-fast".to_owned()] }
    }

    fn forgives(&self, need: &str) -> bool {
        !self.no_skips || self.may_lack.iter().any(|lack| lack.eq_ignore_ascii_case(need))
    }
}

/// Sets up what is missing, runs every test of every crate, and lists what was skipped. The last line is
/// `N passed, N failed`, on whichever outcome.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { all: true, quiet: true })?;
    let file = paths::release().join("skipped-tests.tsv");
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("could not empty `{}`", file.display()))?;
    }
    let scratch = paths::release().join("tmp");
    let mut cargo = sh::cargo();
    cargo.args(["test", "--release"]).env(VARIABLE, &file);
    if !args.arguments.iter().any(|a| a == "-p" || a.starts_with("--package")) {
        cargo.arg("--workspace");
    }
    cargo.args(&args.arguments).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("could not start `{}`", sh::line(&cargo)))?;
    let output = child.stdout.take().context("cargo has an output")?;
    let mut seen = Seen::of(output, &mut std::io::stdout(), &mut || clear(&scratch))?;
    let status = child.wait()?;
    seen.written(&fs::read_to_string(&file).unwrap_or_default());
    print!("{}", seen.list());
    let unforgiven: Vec<&str> =
        seen.skipped.keys().map(String::as_str).filter(|need| !args.forgives(need)).collect();
    if !status.success() {
        bail!("`{}` failed ({status})\n{}", sh::line(&cargo), seen.counts());
    }
    if !unforgiven.is_empty() {
        bail!("tests were skipped for lack of {}\n{}", unforgiven.join(", "), seen.counts());
    }
    println!("{}", seen.counts());
    Ok(())
}

/// Deletes the scratch folders of test binaries that have ended: all of them together would be twice what the build takes.
/// Each has a file beside it with the number of its process, since the next one has begun already. After a failure cargo
/// begins no other, so that what failed can be looked at, unless `--no-fail-fast` is among its arguments.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let owner = entry.path();
        let process = match owner.extension() {
            Some(extension) if extension == "pid" => fs::read_to_string(&owner).unwrap_or_default(),
            _ => continue,
        };
        let ended = process.parse().is_ok_and(|id: u32| !Path::new("/proc").join(id.to_string()).exists());
        if ended && fs::remove_dir_all(owner.with_extension("")).is_ok() {
            let _ = fs::remove_file(owner);
        }
    }
}

/// What the test harness and the tests themselves said.
#[derive(Default)]
struct Seen {
    passed: u64,
    failed: u64,
    /// Need -> hint and tests.
    skipped: BTreeMap<String, (String, Vec<String>)>,
}

impl Seen {
    /// Reads the harness's output and hands it on as it comes; calls `begins` as each test binary does.
    fn of(output: impl Read, to: &mut impl Write, begins: &mut dyn FnMut()) -> Result<Self> {
        let mut seen = Self::default();
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            to.write_all(&line)?;
            to.flush()?;
            let text = String::from_utf8_lossy(&line);
            seen.line(text.trim_end());
            if text.starts_with("running ") {
                begins();
            }
            line.clear();
        }
        Ok(seen)
    }

    fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|l| l.rsplit_once(" ... ignored"))
        {
            let reason = outcome.trim_start_matches(", ");
            self.add(IGNORED, name, if reason.is_empty() { "`#[ignore]`" } else { reason });
        }
    }

    /// Takes in the lines that the tests wrote.
    fn written(&mut self, text: &str) {
        for line in text.lines() {
            let mut parts = line.splitn(3, '\t');
            let (need, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            self.add(need, name, parts.next().unwrap_or_default());
        }
    }

    fn add(&mut self, need: &str, name: &str, hint: &str) {
        let (_, tests) = self.skipped.entry(need.to_owned()).or_insert_with(|| (hint.to_owned(), Vec::new()));
        tests.push(name.to_owned());
    }

    fn list(&self) -> String {
        let mut text = String::new();
        for (need, (hint, tests)) in &self.skipped {
            text += &format!("\nskipped, no {need}: {hint}\n");
            tests.iter().for_each(|name| text += &format!("    {name}\n"));
        }
        if text.is_empty() { "\nskipped: none\n".to_owned() } else { text }
    }

    fn counts(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

/// The number before `what` in `ok. 12 passed; 0 failed; ...`.
fn count(counts: &str, what: &str) -> u64 {
    let before = counts.split(what).next().unwrap_or_default();
    before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest a ... ok\ntest b::c ... ignored, writes 5 GiB\ntest d ... ignored\n\
                          test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out\n\
                          test result: FAILED. 30 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out\n";

    fn seen(written: &str) -> (Seen, Vec<u8>) {
        let mut shown = Vec::new();
        let mut binaries = 0;
        let mut seen = Seen::of(OUTPUT.as_bytes(), &mut shown, &mut || binaries += 1).unwrap();
        assert_eq!(binaries, 1);
        seen.written(written);
        (seen, shown)
    }

    #[test]
    fn the_output_is_handed_on_and_counted() {
        let (seen, shown) = seen("");
        assert_eq!(shown, OUTPUT.as_bytes());
        assert_eq!(seen.counts(), "42 passed, 5 failed");
    }

    #[test]
    fn skipped_and_ignored_tests_are_listed_by_what_they_lack() {
        let (seen, _) =
            seen("Chromium\tserver page::one\tinstall it\nChromium\tserver page::two\tinstall it\n");
        let list = seen.list();
        assert!(
            list.contains("skipped, no Chromium: install it\n    server page::one\n    server page::two\n"),
            "{list}"
        );
        assert!(list.contains("    b::c\n    d\n"), "{list}");
        assert_eq!(Seen::default().list(), "\nskipped: none\n");
    }

    #[test]
    fn folders_of_processes_that_have_ended_are_deleted_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let ended = ended.wait().map(|_| ended.id()).unwrap();
        for (name, process) in [("occlude-a", ended), ("occlude-b", std::process::id())] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(format!("{name}.pid")), process.to_string()).unwrap();
        }
        fs::create_dir(folder.path().join("somebody-elses")).unwrap();
        clear(folder.path());
        let mut left: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["occlude-b", "occlude-b.pid", "somebody-elses"]);
    }

    #[test]
    fn only_what_ci_may_lack_is_forgiven() {
        let strict = Args::strict();
        assert!(strict.forgives("Detectron2") && !strict.forgives("Chromium") && !strict.forgives(IGNORED));
        assert!(Args::default().forgives("Chromium"));
    }

    #[test]
    fn the_variable_is_that_of_the_tests() {
        let tests = include_str!("../../crates/skip/src/lib.rs");
        assert!(tests.contains(&format!("pub const VARIABLE: &str = \"{VARIABLE}\"")));
    }
}
