//! Finds and loads ONNX Runtime's shared library, once per process; and runs image encoders in it.
//!
//! ONNX Runtime is not linked: the same binary runs with the CPU and with the CUDA build.

pub mod encoder;
pub mod openvino;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};

const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why there is no ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LibraryError {
    /// Nowhere to be found.
    #[error(
        "no ONNX Runtime library; hint: `pip install onnxruntime` alongside an installed wheel of Occlude, `cargo xtask setup` in a checkout, or set {VARIABLE} to libonnxruntime.so (looked for {})",
        .looked.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The variable names a file that is not there.
    #[error("{VARIABLE} is `{}`, which does not exist; hint: correct or unset it", .path.display())]
    Dangling {
        /// What the variable says.
        path: PathBuf,
    },
    /// The file is no usable ONNX Runtime.
    #[error("cannot load ONNX Runtime from `{}`: {reason}; hint: version 1.23 or later is needed", .path.display())]
    Load { path: PathBuf, reason: String },
}

/// The process's ONNX Runtime environment, loaded on the first call. There can be one only, so the first outcome is
/// everybody's.
///
/// # Errors
/// [`LibraryError`] where no library is found, or none that can be used.
pub fn environment() -> Result<&'static Environment, LibraryError> {
    LOADED.get_or_init(load).as_ref().map(|l| &l.environment).map_err(Clone::clone)
}

/// The version of the library that was loaded, as it says itself; none before [`environment`] has loaded one.
pub fn version() -> Option<&'static str> {
    LOADED.get()?.as_ref().ok()?.version.as_deref()
}

/// Where the library that was loaded lies, with links followed; none before [`environment`] has loaded one.
pub fn library() -> Option<&'static Path> {
    LOADED.get()?.as_ref().ok().map(|l| l.path.as_path())
}

static LOADED: OnceLock<Result<Runtime, LibraryError>> = OnceLock::new();

struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: Option<String>,
}

fn load() -> Result<Runtime, LibraryError> {
    let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = find(variable, std::env::current_exe().ok().as_deref())?;
    // The provider libraries are looked for beside the path that was loaded, so links are followed first.
    let path = path.canonicalize().unwrap_or(path);
    preload_cuda(&path);
    let failed = |reason: String| LibraryError::Load { path: path.clone(), reason };
    let builder = ort::init_from(&path).map_err(|e| failed(e.to_string()))?;
    let environment = builder.with_name("occlude").with_telemetry(false).build();
    let environment = environment.map_err(|e| failed(e.to_string()))?;
    // Warnings tell of graph optimisations, which nobody who runs a server can act on.
    environment.set_log_level(ort::logging::LogLevel::Error);
    let version = told_version(&path);
    Ok(Runtime { environment, path, version })
}

/// What the library at `path`, which is loaded already, says of itself.
fn told_version(path: &Path) -> Option<String> {
    // SAFETY: the library is in the process since `ort` loaded it from this path: no initialiser runs again.
    let library = unsafe { libloading::Library::new(path) }.ok()?;
    // SAFETY: the one entry point of ONNX Runtime's C interface has this type in every version.
    let base =
        unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") };
    // SAFETY: it takes nothing, and gives a constant of the library.
    let base = unsafe { base.ok()?() };
    // SAFETY: where it is not null, it points to that constant, and the version to a string beside it.
    let text = unsafe { std::ffi::CStr::from_ptr((base.as_ref()?.GetVersionString)()) };
    text.to_str().ok().map(ToOwned::to_owned)
}

/// The variable decides where it is set; else the library lies beside the executable, in `lib` beside its folder, or
/// where `cargo xtask setup` put it in the checkout that the executable was built in.
fn find(variable: Option<PathBuf>, executable: Option<&Path>) -> Result<PathBuf, LibraryError> {
    if let Some(path) = variable {
        return if path.exists() { Ok(path) } else { Err(LibraryError::Dangling { path }) };
    }
    let folder = executable.and_then(Path::parent).unwrap_or(Path::new("."));
    let places = ["../lib", ".", "../../.deps/onnxruntime"];
    let looked: Vec<_> = places.iter().map(|place| folder.join(place).join("libonnxruntime.so")).collect();
    match looked.iter().find(|p| p.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(LibraryError::Missing { looked }),
    }
}

/// TensorRT's libraries in the order of their needs.
const TENSORRT: [&str; 3] = ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"];

/// Loads TensorRT's libraries from its Python package, where that lies beside `onnxruntime`. To be called before a session
/// asks for TensorRT: they are large.
pub fn preload_tensorrt() {
    let package = library().into_iter().flat_map(Path::ancestors).map(|a| a.join("tensorrt_libs"));
    if let Some(folder) = package.into_iter().find(|folder| folder.is_dir()) {
        for name in TENSORRT {
            // what is not there is left to the system's loader
            let _ = ort::util::preload_dylib(folder.join(name));
        }
    }
}

/// Loads the CUDA libraries that Python's nvidia-* packages put beside `onnxruntime` in `site-packages`, so that no
/// LD_LIBRARY_PATH is needed. What is not there is left to the system's loader.
fn preload_cuda(library: &Path) {
    for path in cuda_libraries(library) {
        let _ = ort::util::preload_dylib(path);
    }
}

fn cuda_libraries(library: &Path) -> Vec<PathBuf> {
    // A CPU build has no use for gigabytes of CUDA.
    if !library.with_file_name("libonnxruntime_providers_cuda.so").exists() {
        return Vec::new();
    }
    let packages = library.ancestors().map(|a| a.join("nvidia")).find(|n| n.is_dir());
    let Some(entries) = packages.and_then(|p| std::fs::read_dir(p).ok()) else { return Vec::new() };
    let folders: Vec<PathBuf> = entries.flatten().map(|e| e.path().join("lib")).collect();
    // In the order of the lists: later ones depend on earlier ones.
    let names = CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS);
    names.filter_map(|name| folders.iter().map(|f| f.join(name)).find(|p| p.exists())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_variable_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (set, beside) = (dir.path().join("a.so"), dir.path().join("libonnxruntime.so"));
        fs::write(&set, "").unwrap();
        fs::write(&beside, "").unwrap();
        let exe = dir.path().join("occlude-serve");
        assert_eq!(find(Some(set.clone()), Some(&exe)), Ok(set));
        assert_eq!(find(None, Some(&exe)).unwrap().canonicalize().unwrap(), beside.canonicalize().unwrap());
        let gone = dir.path().join("gone.so");
        assert_eq!(find(Some(gone.clone()), Some(&exe)), Err(LibraryError::Dangling { path: gone }));
    }

    #[test]
    fn it_may_lie_in_lib_beside_the_programs_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib")).unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("lib/libonnxruntime.so"), "").unwrap();
        assert!(find(None, Some(&dir.path().join("bin/occlude-serve"))).is_ok());
        let missing = find(None, Some(&dir.path().join("elsewhere/bin/occlude-serve"))).unwrap_err();
        assert!(missing.to_string().contains("hint: `pip install onnxruntime`"), "{missing}");
    }

    #[test]
    fn cuda_libraries_come_in_the_order_of_their_needs() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("site-packages/onnxruntime/capi/libonnxruntime.so");
        for (package, name) in
            [("cudnn", CUDNN_DYLIBS[0]), ("cu13", CUDA_DYLIBS[1]), ("cu13", CUDA_DYLIBS[0])]
        {
            let folder = dir.path().join("site-packages/nvidia").join(package).join("lib");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), "").unwrap();
        }
        assert!(cuda_libraries(&lib).is_empty(), "a CPU build");
        fs::create_dir_all(lib.parent().unwrap()).unwrap();
        fs::write(lib.with_file_name("libonnxruntime_providers_cuda.so"), "").unwrap();
        let found = cuda_libraries(&lib);
        let names: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, [CUDA_DYLIBS[0], CUDA_DYLIBS[1], CUDNN_DYLIBS[0]]);
    }
}
