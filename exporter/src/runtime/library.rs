//! The one ONNX Runtime of the process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;

const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why there is no ONNX Runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// Nowhere to be found.
    #[error(
        "no ONNX Runtime library; hint: run `cargo xtask setup`, or set {VARIABLE} to libonnxruntime.so (looked for {})",
        .looked.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The variable or the file leads nowhere.
    #[error("cannot load ONNX Runtime from `{}`: {reason}; hint: run `cargo xtask setup`, or correct {VARIABLE}", .path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
}

/// The process's ONNX Runtime: there can be one, so the first outcome is everybody's.
pub(super) fn environment() -> Result<&'static Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Result<Environment, LibraryError>> = OnceLock::new();
    let load = || {
        let path =
            library(std::env::var_os(VARIABLE).map(PathBuf::from), std::env::current_exe().ok().as_deref())?;
        let failed = |reason: String| LibraryError::Load { path: path.clone(), reason };
        let builder = ort::init_from(&path).map_err(|e| failed(e.to_string()))?;
        let environment = builder.with_name("occlude").with_telemetry(false).build();
        let environment = environment.map_err(|e| failed(e.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Error);
        Ok(environment)
    };
    ENVIRONMENT.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// The variable where it is set; else beside the executable, as in a bundle, or what `cargo xtask setup` put into the
/// checkout that it was built in.
fn library(variable: Option<PathBuf>, executable: Option<&Path>) -> Result<PathBuf, LibraryError> {
    if let Some(path) = variable.filter(|v| !v.as_os_str().is_empty()) {
        let reason = "no such file".to_owned();
        return if path.exists() { Ok(path) } else { Err(LibraryError::Load { path, reason }) };
    }
    let folder = executable.and_then(Path::parent).unwrap_or(Path::new("."));
    let places = ["../lib", ".", "../../.deps/onnxruntime"];
    let looked: Vec<_> = places.iter().map(|place| folder.join(place).join("libonnxruntime.so")).collect();
    looked.iter().find(|p| p.exists()).cloned().ok_or(LibraryError::Missing { looked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_or_an_error_says_where_it_was_sought() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let exe = folder.path().join("bin").join("occlude-export");
        let missing = library(None, Some(&exe)).expect_err("nothing there");
        assert!(missing.to_string().contains("cargo xtask setup"), "{missing}");
        assert!(matches!(&missing, LibraryError::Missing { looked } if looked.len() == 3));
        let dangling = library(Some("/nowhere/libonnxruntime.so".into()), Some(&exe));
        assert!(matches!(dangling, Err(LibraryError::Load { .. })));
        std::fs::create_dir_all(folder.path().join("bin")).expect("makes");
        let beside = folder.path().join("bin/libonnxruntime.so");
        std::fs::write(&beside, "").expect("writes");
        let found = library(Some(PathBuf::new()), Some(&exe)).expect("beside");
        assert_eq!(found.canonicalize().expect("there"), beside.canonicalize().expect("there"));
    }
}
