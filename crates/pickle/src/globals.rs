//! Which globals are refused outright.
//!
//! Nothing is ever executed, so an unknown global is harmless here and stays data. These are refused
//! because their presence shows that the file would attack whoever loads it with Python, and the
//! person at hand should hear of it.

/// Modules that run commands or code, load code, or talk to the network, with all that is below them.
const MODULES: &[&str] = &[
    "_ctypes",
    "_posixsubprocess",
    "_thread",
    "aiohttp",
    "asyncio",
    "bdb",
    "cProfile",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "doctest",
    "ftplib",
    "http",
    "httplib",
    "idlelib",
    "imp",
    "importlib",
    "lib2to3",
    "marshal",
    "nt",
    "os",
    "pdb",
    "pickle",
    "_pickle",
    "pip",
    "platform",
    "popen2",
    "posix",
    "profile",
    "pty",
    "pydoc",
    "requests",
    "runpy",
    "shutil",
    "signal",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "telnetlib",
    "test",
    "threading",
    "timeit",
    "trace",
    "urllib",
    "urllib2",
    "venv",
    "webbrowser",
    "zipimport",
    "torch.hub",
    "torch.utils.cpp_extension",
    "torch.utils.bottleneck",
    "torch.utils.collect_env",
];

/// Single functions of modules that are otherwise harmless.
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("builtins", BUILTINS),
    ("__builtin__", BUILTINS),
    ("__builtins__", BUILTINS),
    ("numpy.testing._private.utils", &["runstring"]),
    ("numpy.testing.utils", &["runstring"]),
    ("numpy.testing", &["runstring"]),
    ("torch.jit.unsupported_tensor_ops", &["execWrapper"]),
    ("torch.serialization", &["load"]),
    ("torch", &["load"]),
    ("types", &["CodeType", "FunctionType"]),
];

const BUILTINS: &[&str] = &[
    "__import__",
    "apply",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "execfile",
    "file",
    "globals",
    "input",
    "open",
    "vars",
];

/// Whether a global could run code, and is refused by [`decode`](crate::decode()).
///
/// A dotted name is a walk through attributes, so each of its tails is judged too: the name
/// `os.system` in the module `torch` is `os.system`.
pub fn is_dangerous(module: &str, name: &str) -> bool {
    let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
    let tails = starts.filter_map(|start| name.get(start..)?.rsplit_once('.'));
    listed(module, name) || tails.into_iter().any(|(module, name)| listed(module, name))
}

fn listed(module: &str, name: &str) -> bool {
    let below = |parent: &str| {
        module.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // The first part of a dotted name is the attribute that the module itself has.
    let first = name.split('.').next().unwrap_or(name);
    MODULES.iter().any(|parent| below(parent))
        || FUNCTIONS.iter().any(|(m, names)| *m == module && names.contains(&first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_refused() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("__builtin__", "execfile"),
            ("importlib", "import_module"),
            ("torch.hub", "load"),
            ("torch", "os.system"),
            ("torch.serialization", "os.path.os.system"),
            ("numpy.testing._private.utils", "runstring"),
            ("builtins", "eval.__call__"),
        ] {
            assert!(is_dangerous(module, name), "{module}.{name}");
        }
    }

    #[test]
    fn what_checkpoints_hold_is_not() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("collections", "OrderedDict"),
            ("argparse", "Namespace"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
            ("pathlib", "PosixPath"),
            ("builtins", "set"),
            ("builtins", "getattr"),
            ("code_of_mine", "os"),
            ("timm.utils.signal", "X"),
            ("omegaconf.dictconfig", "DictConfig"),
        ] {
            assert!(!is_dangerous(module, name), "{module}.{name}");
        }
    }
}
