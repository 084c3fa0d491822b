//! `report`: pages about runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
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
}

/// Writes the page and prints its path.
pub(super) fn run(args: &ReportArgs) -> Result<ExitCode> {
    if let Some(out) = &args.out {
        ensure!(
            !out.is_dir(),
            "`{}` is a folder; hint: name the page, like `--out page.html`",
            out.display()
        );
    }
    let path = match (args.runs.as_slice(), &args.out) {
        ([run], None) => html::write(run)?,
        ([run], Some(out)) => html::write_to(run, out).map(|()| out.clone())?,
        (runs, out) => {
            let out = out.clone().unwrap_or_else(|| "comparison.html".into());
            html::compare(runs, &out).map(|()| out)?
        }
    };
    answer!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        run(&ReportArgs { runs: vec![a.clone()], out: None }).expect("a page");
        assert!(a.join("report.html").is_file());
        let out = dir.path().join("both.html");
        run(&ReportArgs { runs: vec![a.clone(), b], out: Some(out.clone()) }).expect("a page");
        assert!(std::fs::read_to_string(&out).expect("a page").contains("Runs compared"));
        let error = run(&ReportArgs { runs: vec![a.clone()], out: Some(a) }).expect_err("a folder");
        assert!(error.to_string().contains("hint: "), "{error}");
    }
}
