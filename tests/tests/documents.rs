//! The commands that the documents show exist: every flag in a code block of README.md and docs/ is one that the
//! tool's `--help` lists.

use occlude_tests::run;
use std::collections::BTreeMap;
use std::path::PathBuf;
use xtask::paths;

fn documents() -> Vec<PathBuf> {
    let docs =
        std::fs::read_dir(paths::root().join("docs")).into_iter().flatten().flatten().map(|e| e.path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    std::iter::once(paths::root().join("README.md")).chain(markdown).collect()
}

/// Lines inside ``` fences, a trailing backslash joined with the next.
fn commands(text: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// `tool` or `tool subcommand`, and the flags used with it.
fn used(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim().trim_start_matches("$ ").split(" #").next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let tool = paths::TOOLS.iter().find(|tool| words.clone().next().is_some_and(|w| w.ends_with(*tool)))?;
    words.next();
    let mut command = (*tool).to_owned();
    // The server serves where no subcommand says otherwise.
    if *tool != "occlude-serve" || words.clone().next().is_some_and(|w| !w.starts_with('-')) {
        let subcommand = words.next().filter(|w| !w.starts_with('-'))?;
        command = format!("{command} {subcommand}");
        if subcommand == "dataset" {
            command = format!("{command} {}", words.next()?);
        }
    }
    let flags = words.filter(|w| w.starts_with("--") && w.len() > 2);
    Some((command, flags.map(|f| f.split('=').next().unwrap_or(f).to_owned()).collect()))
}

#[test]
fn documented_flags_exist() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut shown = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for line in commands(&text) {
            let Some((command, flags)) = used(&line) else { continue };
            let help = seen.entry(command.clone()).or_insert_with(|| {
                let (tool, rest) = command.split_once(' ').unwrap_or((&command, ""));
                run::words(tool, &format!("{rest} --help")).ok().stdout
            });
            for flag in flags {
                let known = help.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|word| word == flag);
                assert!(known, "{}: `{command}` has no `{flag}`", path.display());
                shown += 1;
            }
        }
    }
    assert!(shown > 5, "only {shown} flags found: are the code blocks read?");
}

/// The tests that docs/inputs.md names: `FILE::NAME`, or `::NAME` for one more of the file before it.
#[test]
fn named_tests_exist() {
    let read = |file: &str| {
        std::fs::read_to_string(paths::root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    let (text, mut found) = (read("docs/inputs.md"), 0);
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let mut source = String::new();
        for word in line.split('`').skip(1).step_by(2) {
            let Some((file, name)) = word.rsplit_once("::") else { continue };
            if !file.is_empty() {
                source = read(file);
            }
            assert!(source.contains(&format!("fn {name}(")), "no test `{word}`: {line}");
            found += 1;
        }
    }
    assert!(found > 150, "only {found} tests found: are the tables read?");
}

#[test]
fn a_line_is_read_as_tool_subcommand_and_flags() {
    let (command, flags) = used("$ bin/occlude-train pretrain D --epochs 2 --lr=1 # --not-this").unwrap();
    assert_eq!((command.as_str(), flags), ("occlude-train pretrain", vec!["--epochs".into(), "--lr".into()]));
    let (command, flags) = used("occlude-train dataset subset A B --percent 1").unwrap();
    assert_eq!((command.as_str(), flags), ("occlude-train dataset subset", vec!["--percent".into()]));
    assert_eq!(used("occlude-serve --model m").unwrap().0, "occlude-serve");
    assert_eq!(used("occlude-serve embed D --out o").unwrap().0, "occlude-serve embed");
    assert!(used("cargo build").is_none());
    assert_eq!(commands("a\n```sh\nx \\\n y\n```\nb\n```\nz\n```").len(), 4);
}
