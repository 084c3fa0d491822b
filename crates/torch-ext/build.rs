//! Compiles the shim against the libtorch that `torch-sys` found, and hands its folder on to the
//! binaries' build scripts, which need it for their link arguments.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let sources = ["src/shim.cpp", "src/conv.cpp", "src/observe.cpp"];
    sources.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let lib = env::var("DEP_TCH_LIBTORCH_LIB")
        .expect("torch-sys names libtorch's folder; hint: run `cargo xtask setup` or set LIBTORCH");
    let lib = PathBuf::from(lib);
    let root: &Path = lib.parent().expect("libtorch's lib folder has a parent");
    println!("cargo:libtorch_lib={}", lib.display());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        // libtorch is built so, and some of its classes have further members where this is not defined
        .define("NDEBUG", None)
        // libtorch's own headers are full of these
        .warnings(false)
        .files(sources)
        .compile("occlude_torch_ext");
}
