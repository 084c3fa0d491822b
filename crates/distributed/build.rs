//! Compiles the shim against the libtorch that `torch-sys` found, and links this crate's tests with it.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let sources = ["src/group.cpp", "src/gloo.cpp", "src/nccl.cpp", "src/reducer.cpp", "src/syncbn.cpp"];
    ["src/shim.hpp"].iter().chain(&sources).for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let lib = env::var("DEP_TCH_LIBTORCH_LIB")
        .expect("torch-sys names libtorch's folder; hint: run `cargo xtask setup` or set LIBTORCH");
    let lib = PathBuf::from(lib);
    let root: &Path = lib.parent().expect("libtorch's lib folder has a parent");
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
        .compile("occlude_distributed");
    // where the tests find libtorch without LD_LIBRARY_PATH; binaries have their own build scripts for this
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
