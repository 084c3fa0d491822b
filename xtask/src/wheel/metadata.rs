//! The files of `*.dist-info` (<https://packaging.python.org/specifications/core-metadata/>).

use crate::paths;
use crate::setup;

/// Licence files, at the root of the checkout and in `licenses/`.
pub(super) const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];
/// What starts the tools needs no more; torch and ONNX Runtime have wheels for 3.10 and later only, as pip says.
const PYTHON: &str = ">=3.8";
/// The oldest ONNX Runtime that has the level of its interface that `ort` asks for (`api-23`).
const ONNXRUNTIME: &str = "1.23";
/// The oldest provider of OpenVINO that was tried.
const OPENVINO: &str = "1.8";

/// Name and version, as they begin the names of the wheel and of its `dist-info`.
pub(super) fn stem() -> String {
    format!("occlude-{}", env!("CARGO_PKG_VERSION"))
}

/// `METADATA`: a header, and the README below it.
pub(super) fn metadata(readme: &str) -> String {
    let mut rows = vec![
        ("Metadata-Version", "2.4".to_owned()),
        ("Name", "occlude".to_owned()),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Summary", "Pretrain image encoders without labels by masking, and deploy them".to_owned()),
        ("License-Expression", env!("CARGO_PKG_LICENSE").to_owned()),
        ("Project-URL", format!("Repository, {}", env!("CARGO_PKG_REPOSITORY"))),
        ("Requires-Python", PYTHON.to_owned()),
    ];
    rows.extend(LICENCES.map(|name| ("License-File", name.to_owned())));
    let mut named = "";
    for (extra, requirement) in extras() {
        if extra != named {
            rows.push(("Provides-Extra", extra.to_owned()));
            named = extra;
        }
        rows.push(("Requires-Dist", format!("{requirement}; extra == '{extra}'")));
    }
    rows.push(("Description-Content-Type", "text/markdown".to_owned()));
    let header: String = rows.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    format!("{header}\n{readme}")
}

/// What each extra asks pip for.
fn extras() -> [(&'static str, String); 5] {
    let onnxruntime = format!("onnxruntime>={ONNXRUNTIME}");
    [
        ("train", format!("torch=={}.*", setup::LIBTORCH)),
        ("serve", onnxruntime.clone()),
        ("serve-gpu", format!("onnxruntime-gpu[cuda,cudnn]>={ONNXRUNTIME}")),
        ("serve-openvino", onnxruntime),
        ("serve-openvino", format!("onnxruntime-ep-openvino>={OPENVINO}")),
    ]
}

/// `WHEEL`: for every Python 3, for this platform.
pub(super) fn wheel(tag: &str) -> String {
    format!("Wheel-Version: 1.0\nGenerator: cargo xtask wheel\nRoot-Is-Purelib: false\nTag: py3-none-{tag}\n")
}

/// `entry_points.txt`: the commands that pip puts on PATH.
pub(super) fn entry_points() -> String {
    let row = |tool: &str| format!("{tool} = occlude.launch:{}\n", tool.trim_start_matches("occlude-"));
    format!("[console_scripts]\n{}", paths::TOOLS.map(row).concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Requirements;

    const LAUNCH: &str = include_str!("../../../packaging/python/occlude/launch.py");

    #[test]
    fn the_launcher_speaks_of_the_same_release_and_tools() {
        assert!(LAUNCH.contains(&format!("TORCH = \"{}\"", setup::LIBTORCH)));
        let tools = paths::TOOLS.map(|tool| format!("\"{tool}\"")).join(", ");
        assert!(LAUNCH.contains(&format!("TOOLS = ({tools})")));
    }

    #[test]
    fn the_extras_accept_what_the_tests_run_with() {
        let pinned = Requirements::pinned();
        let torch = pinned.version("torch").unwrap();
        assert!(torch.starts_with(&format!("{}.", setup::LIBTORCH)), "{torch}");
        let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
        assert!(minor(pinned.version("onnxruntime").unwrap()) >= minor(ONNXRUNTIME));
        // The level of the interface is the minor version.
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("\"api-{}\"", minor(ONNXRUNTIME))));
    }

    #[test]
    fn the_header_ends_where_the_readme_begins() {
        let text = metadata("# Occlude\n");
        let (header, body) = text.split_once("\n\n").unwrap();
        assert_eq!(body, "# Occlude\n");
        assert!(header.contains("Requires-Dist: onnxruntime>=1.23; extra == 'serve'\n"), "{header}");
        assert!(header.lines().all(|line| line.contains(": ")), "{header}");
    }
}
