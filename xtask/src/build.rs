//! Building the tools. Always all four at once: cargo unites the features of what it builds together, so a tool built
//! alone has its dependencies built in another way, and the next full build has them built again.

use anyhow::Result;
use std::fs;

use crate::{paths, sh};

/// Builds the four tools in release mode, where cargo finds them out of date.
///
/// # Errors
/// A build that fails.
pub(crate) fn tools() -> Result<()> {
    tools_and(&[])
}

/// The four tools together with what the further arguments of `cargo build` name.
///
/// # Errors
/// A build that fails.
pub(crate) fn tools_and(arguments: &[&str]) -> Result<()> {
    let packages = paths::TOOLS.iter().flat_map(|tool| ["-p", *tool]);
    sh::show(sh::cargo().args(["build", "--release"]).args(packages).args(arguments)).map(drop)
}

/// The four tools without what only some users need (the second runtime of `occlude-export verify`, the gRPC,
/// buckets and databases of `occlude-serve`: minutes), unless an earlier build has made the first of these already.
///
/// # Errors
/// A build that fails.
pub(crate) fn lean_tools() -> Result<()> {
    let built = fs::read_dir(paths::release().join("deps")).into_iter().flatten().flatten();
    let all =
        built.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libtract_core-"));
    tools_and(if all { &[] } else { &["--no-default-features"] })
}
