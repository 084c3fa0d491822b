//! Link arguments for whatever is linked with libtorch from this package.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = env::var("DEP_OCCLUDE_TORCH_EXT_LIBTORCH_LIB")
        .expect("occlude-torch-ext names libtorch's folder; hint: run `cargo xtask setup`");
    let lib = PathBuf::from(lib);
    // Nothing in the program names a symbol of libtorch_cuda, so the linker would drop it, and CUDA
    // would then be "not available" on a GPU machine without any error.
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-ltorch_cuda");
    }
    println!("cargo:rustc-link-arg=-ltorch");
    println!("cargo:rustc-link-arg=-Wl,--as-needed");
    // No LD_LIBRARY_PATH where it was built; `$ORIGIN` is what the wheel leaves of this.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
}
