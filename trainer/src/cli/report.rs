//! `report`: pages about runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use occlude_report::html;

/// What to show, and where to.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Folders of runs; several are compared
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; default: `report.html` in the folder of the run, `comparison.html` here for several
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace an existing page of that name; `report.html` in the folder of a run is always replaced
    #[arg(long)]
    force: bool,
}

/// Writes the page and prints its path.
pub(super) fn run(args: &ReportArgs) -> Result<ExitCode> {
    let named = args.out.clone().or_else(|| (args.runs.len() > 1).then(|| "comparison.html".into()));
    if let Some(out) = &named {
        let inputs = inputs(&args.runs);
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        occlude_output::check(&[out], &inputs, args.force)?;
    }
    let path = match (args.runs.as_slice(), named) {
        ([run], None) => html::write(run)?,
        ([run], Some(out)) => html::write_to(run, &out).map(|()| out)?,
        (runs, out) => {
            let out = out.unwrap_or_default();
            html::compare(runs, &out).map(|()| out)?
        }
    };
    answer!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What runs consist of: everything in their folders but pages about them.
fn inputs(runs: &[PathBuf]) -> Vec<PathBuf> {
    let entries = runs.iter().filter_map(|run| std::fs::read_dir(run).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_none_or(|e| e != "html")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(runs: Vec<PathBuf>, out: Option<PathBuf>, force: bool) -> ReportArgs {
        ReportArgs { runs, out, force }
    }

    #[test]
    fn one_run_has_a_report_and_several_a_comparison() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("folder");
            std::fs::write(path.join("config.json"), "{\"epochs\":2}").expect("file");
            path
        };
        let (a, b) = (folder("a"), folder("b"));
        run(&page(vec![a.clone()], None, false)).expect("a page");
        assert!(a.join("report.html").is_file());
        let out = dir.path().join("both.html");
        run(&page(vec![a.clone(), b], Some(out.clone()), false)).expect("a page");
        assert!(std::fs::read_to_string(&out).expect("a page").contains("Runs compared"));
        let error = run(&page(vec![a.clone()], Some(a.clone()), true)).expect_err("a folder");
        assert!(error.to_string().contains("hint: "), "{error}");
        run(&page(vec![a.clone()], None, false)).expect("the run's own page is replaced");
        let error = run(&page(vec![a.clone()], Some(out.clone()), false)).expect_err("there");
        assert!(error.to_string().contains("`--force`"), "{error}");
        run(&page(vec![a.clone()], Some(out), true)).expect("asked for");
        let config = a.join("config.json");
        let error = run(&page(vec![a], Some(config.clone()), true)).expect_err("a part of the run");
        assert!(error.to_string().contains("the input would be lost"), "{error}");
        assert_eq!(std::fs::read_to_string(config).expect("there"), "{\"epochs\":2}");
    }
}
