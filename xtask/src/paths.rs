//! Where things are: every path of the checkout that a task touches.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The tools, in the order in which they are used.
pub const TOOLS: [&str; 4] = ["occlude-train", "occlude-export", "occlude-detectron", "occlude-serve"];

/// Root of the checkout.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo sets the variable for `cargo run`; the built-in value serves a binary started by hand.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
    })
}

/// The project-local environment, ignored by git.
pub fn deps() -> PathBuf {
    root().join(".deps")
}

/// The virtual environment of `cargo xtask setup`.
pub fn venv() -> PathBuf {
    deps().join("venv")
}

/// Where `.cargo/config.toml` looks for libtorch unless `LIBTORCH` says otherwise.
pub fn libtorch() -> PathBuf {
    deps().join("libtorch")
}

/// Where `.cargo/config.toml` looks for ONNX Runtime unless `ORT_DYLIB_PATH` says otherwise.
pub fn onnxruntime() -> PathBuf {
    deps().join("onnxruntime/libonnxruntime.so")
}

/// Python of the tests and the peers: `OCCLUDE_PYTHON`, else that of the virtual environment.
pub fn python() -> PathBuf {
    external("OCCLUDE_PYTHON", &venv().join("bin/python")).unwrap_or_else(|| venv().join("bin/python"))
}

/// The value of a variable that the user set, or `None` where it is unset or only repeats the default that
/// `.cargo/config.toml` gives to every process that cargo starts.
pub fn external(variable: &str, default: &Path) -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(variable).filter(|v| !v.is_empty())?);
    (value != default).then_some(value)
}

/// Folder of the release binaries: that of this one, which the alias `cargo xtask` builds in release mode.
pub fn release() -> PathBuf {
    let own = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    match own {
        Some(folder) if folder.ends_with("deps") => folder.parent().map_or(folder.clone(), Path::to_path_buf),
        Some(folder) => folder,
        None => root().join("target/release"),
    }
}

/// One release binary: in `OCCLUDE_BIN_DIR` where it is set (tests away from the checkout), else beside this one.
pub fn tool(name: &str) -> PathBuf {
    env::var_os("OCCLUDE_BIN_DIR").map_or_else(release, PathBuf::from).join(name)
}
