//! OpenVINO's execution provider: a library that ONNX Runtime loads at run time, from the Python package
//! `onnxruntime-ep-openvino`, which brings OpenVINO itself.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::memory::DeviceType;
use ort::session::builder::SessionBuilder;

/// The variable that names the library.
pub const VARIABLE: &str = "OPENVINO_EP_PATH";

/// The file's name in the package.
const LIBRARY: &str = "libonnxruntime_providers_openvino_plugin.so";

/// The folder of the package in `site-packages`.
const PACKAGE: &str = "onnxruntime_ep_openvino";

/// What the library calls its provider. Others of its names are for devices that it makes up, such as `.AUTO`.
const PROVIDER: &str = "OpenVINOExecutionProvider";

/// What ONNX Runtime calls its own kernels for the CPU.
const OWN: &str = "CPUExecutionProvider";

/// In which numbers OpenVINO multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// bfloat16 where the processor is faster with it.
    Bf16,
    /// float32.
    F32,
}

impl Arithmetic {
    /// As OpenVINO spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// As processors say it.
const INTEL: &str = "GenuineIntel";

/// Why OpenVINO cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum OpenVinoError {
    /// Nowhere to be found.
    #[error(
        "its library is missing (looked for {})",
        .looked.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", ")
    )]
    Missing { looked: Vec<PathBuf> },
    /// ONNX Runtime does not take the library.
    #[error("`{}`: {reason}", .path.display())]
    Load { path: PathBuf, reason: String },
    /// The library is there and has no processor to run on.
    #[error(
        "`{}` reports no CPU that it runs on{}", .path.display(),
        .vendor.as_ref().map(|v| format!(": expected one of Intel, found `{v}`")).unwrap_or_default()
    )]
    NoDevice { path: PathBuf, vendor: Option<String> },
    /// The session takes none of it.
    #[error("{reason}")]
    Session { reason: String },
}

/// Makes OpenVINO run the session that `builder` builds, on the CPU, with so many threads of its own.
///
/// # Errors
/// [`OpenVinoError`] where there is no library, or it cannot be used.
pub fn with_openvino(
    builder: SessionBuilder,
    environment: &'static Environment,
    threads: usize,
    arithmetic: Arithmetic,
) -> Result<SessionBuilder, OpenVinoError> {
    let path = registered(environment)?;
    let device = environment.devices().find(|device| {
        device.ep().is_ok_and(|name| name == PROVIDER) && device.hardware_device().ty() == DeviceType::CPU
    });
    let device =
        device.ok_or_else(|| OpenVinoError::NoDevice { path: path.to_owned(), vendor: other_vendor() })?;
    let options = [(format!("{PROVIDER}.load_config"), settings(threads, arithmetic))];
    builder
        .with_devices([device], Some(&options))
        .map_err(|e| OpenVinoError::Session { reason: e.to_string() })
}

/// Makes ONNX Runtime's own kernels run the session. It has to be said: where nothing is, `ort` has ONNX Runtime choose
/// among all providers that are registered, and it prefers OpenVINO from the first session on that uses it.
///
/// # Errors
/// What ONNX Runtime reports.
pub fn with_own_kernels(
    builder: SessionBuilder,
    environment: &'static Environment,
) -> ort::Result<SessionBuilder> {
    let own = environment.devices().filter(|device| device.ep().is_ok_and(|name| name == OWN));
    Ok(builder.with_devices(own, None)?)
}

/// Who made this machine's processor, where that is known and is not Intel: version 1.8 of the library offered none of AMD.
fn other_vendor() -> Option<String> {
    let said = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("vendor_id"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned()).filter(|vendor| vendor != INTEL)
}

/// OpenVINO's properties. One stream: a session runs one batch at a time. Not pinned, because the threads of every
/// session would be pinned to the same cores, which decode pictures, too.
fn settings(threads: usize, arithmetic: Arithmetic) -> String {
    let precision = arithmetic.name();
    format!(
        r#"{{"CPU": {{"INFERENCE_PRECISION_HINT": "{precision}", "INFERENCE_NUM_THREADS": "{threads}", "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"}}}}"#
    )
}

/// Where the library lies, once ONNX Runtime has it. It can take it once only.
fn registered(environment: &'static Environment) -> Result<&'static Path, OpenVinoError> {
    static REGISTERED: OnceLock<Result<PathBuf, OpenVinoError>> = OnceLock::new();
    let register = || {
        let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path = find(variable, crate::library())?;
        environment
            .register_ep_library("occlude.openvino", &path)
            .map_err(|e| OpenVinoError::Load { path: path.clone(), reason: e.to_string() })?;
        Ok(path)
    };
    REGISTERED.get_or_init(register).as_deref().map_err(Clone::clone)
}

/// The variable decides where it is set; else the library lies beside ONNX Runtime's, or in its package beside
/// `onnxruntime` in `site-packages`.
fn find(variable: Option<PathBuf>, runtime: Option<&Path>) -> Result<PathBuf, OpenVinoError> {
    let looked: Vec<PathBuf> = match variable {
        Some(path) => vec![path],
        None => runtime.into_iter().flat_map(places).collect(),
    };
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(OpenVinoError::Missing { looked }),
    }
}

/// ONNX Runtime's library lies in `site-packages/onnxruntime/capi`.
fn places(runtime: &Path) -> [PathBuf; 2] {
    let packages = runtime.ancestors().nth(3).unwrap_or(Path::new("."));
    [runtime.with_file_name(LIBRARY), packages.join(PACKAGE).join(LIBRARY)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_lies_in_its_package_beside_onnxruntime() {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("site-packages");
        let runtime = packages.join("onnxruntime/capi/libonnxruntime.so");
        let missing = find(None, Some(&runtime)).unwrap_err();
        assert!(missing.to_string().contains(PACKAGE), "{missing}");
        let library = packages.join(PACKAGE).join(LIBRARY);
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        fs::write(&library, "").unwrap();
        assert_eq!(find(None, Some(&runtime)), Ok(library));
    }

    #[test]
    fn the_variable_decides() {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("plugin.so");
        let error = find(Some(set.clone()), None).unwrap_err();
        assert_eq!(error, OpenVinoError::Missing { looked: vec![set.clone()] });
        fs::write(&set, "").unwrap();
        assert_eq!(find(Some(set.clone()), None), Ok(set));
    }
}
