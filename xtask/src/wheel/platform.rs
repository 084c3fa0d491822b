//! What the binaries need of a machine: the wheel's tag says it, and nothing of the machine that built them stays.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sh;

/// The oldest glibc whose distributions have a libstdc++ that knows a version of its symbols, as PEP 600's policies
/// have it (<https://github.com/pypa/auditwheel>, `manylinux-policy.json`): last part of `GLIBCXX_3.4.N`, and glibc.
const STDCXX: [(u32, u32); 7] = [(19, 17), (22, 24), (24, 27), (28, 31), (29, 34), (30, 35), (33, 39)];

/// Where a binary of the wheel looks for libraries after the launcher's folder.
const OWN: &str = "$ORIGIN/../lib";

/// `manylinux_2_N_x86_64` for the newest glibc that one of the binaries needs.
pub(super) fn tag(binaries: &[PathBuf]) -> Result<String> {
    let mut minor = 17;
    for path in binaries {
        let text = readelf("--version-info", path)?;
        minor = minor.max(glibc(&text).with_context(|| format!("`{}`", path.display()))?);
    }
    Ok(format!("manylinux_2_{minor}_x86_64"))
}

/// The N of the glibc 2.N that the output of `readelf --version-info` asks for.
fn glibc(text: &str) -> Result<u32> {
    let newest = |prefix: &str| {
        let last = |word: &str| word.strip_prefix(prefix)?.split('.').next()?.parse::<u32>().ok();
        text.split_whitespace().filter_map(last).max()
    };
    let libc = newest("GLIBC_2.").context("it names no version of glibc")?;
    let Some(stdcxx) = newest("GLIBCXX_3.4.") else { return Ok(libc) };
    let known = STDCXX.iter().find(|(version, _)| *version >= stdcxx);
    let (_, needed) =
        known.with_context(|| format!("GLIBCXX_3.4.{stdcxx} is newer than this table of libstdc++"))?;
    Ok(libc.max(*needed))
}

/// Takes the library folders of this machine out of a copied binary: on another one, somebody else could own them.
pub(super) fn relocate(binary: &Path) -> Result<()> {
    let dynamic = readelf("--dynamic", binary)?;
    let rows = dynamic.lines().filter(|line| line.contains("(RUNPATH)") || line.contains("(RPATH)"));
    let mut bytes = std::fs::read(binary)?;
    for row in rows {
        let old = row.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']'));
        let (old, _) = old.with_context(|| format!("`readelf` shows no folders in `{row}`"))?;
        replace(&mut bytes, old, OWN).with_context(|| format!("`{}`", binary.display()))?;
    }
    Ok(std::fs::write(binary, bytes)?)
}

/// Overwrites the one string `old` of a binary; what is left over becomes zeros.
fn replace(bytes: &mut [u8], old: &str, new: &str) -> Result<()> {
    let pattern = [old.as_bytes(), b"\0"].concat();
    let places: Vec<usize> =
        bytes.windows(pattern.len()).enumerate().filter(|(_, w)| *w == pattern).map(|(i, _)| i).collect();
    ensure!(new.len() <= old.len(), "`{new}` does not fit into `{old}`");
    let [place] = places[..] else { bail!("`{old}` occurs {} times, not once", places.len()) };
    let mut text = new.as_bytes().to_vec();
    text.resize(old.len(), 0);
    bytes[place..place + old.len()].copy_from_slice(&text);
    Ok(())
}

/// A library without content, found last: it stands in for one that not every libtorch has.
pub(super) fn empty_library(path: &Path) -> Result<()> {
    let name = path.file_name().context("a library has a name")?.to_string_lossy().into_owned();
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"]).arg(path);
    sh::capture(compiler.arg(format!("-Wl,-soname,{name}")))?;
    Ok(())
}

fn readelf(what: &str, path: &Path) -> Result<String> {
    let mut readelf = Command::new("readelf");
    readelf.args([what, "--wide"]).arg(path).env("LC_ALL", "C").stdin(Stdio::null());
    sh::capture(&mut readelf).context("hint: `readelf` comes with the compiler (binutils)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_decides() {
        let text =
            "0x0010: Name: GLIBC_2.9  Flags: none\n 0x20: Name: GLIBC_2.34 Name: GLIBC_2.2.5 GLIBCXX_3.4.9";
        assert_eq!(glibc(text).unwrap(), 34);
        assert_eq!(glibc("GLIBC_2.17 GLIBCXX_3.4.30").unwrap(), 35, "libstdc++ is the newer one");
        assert_eq!(glibc("GLIBC_2.17 GLIBCXX_3.4.23").unwrap(), 27);
        assert!(glibc("nothing").is_err() && glibc("GLIBC_2.17 GLIBCXX_3.4.99").is_err());
    }

    #[test]
    fn a_folder_in_a_binary_gives_way_to_a_shorter_one() {
        let mut bytes = b"ELF\0/home/me/torch/lib:$ORIGIN/../lib\0symbol\0".to_vec();
        let length = bytes.len();
        replace(&mut bytes, "/home/me/torch/lib:$ORIGIN/../lib", OWN).unwrap();
        assert_eq!(bytes.len(), length);
        assert!(bytes.starts_with(b"ELF\0$ORIGIN/../lib\0\0") && bytes.ends_with(b"\0symbol\0"));
        assert!(replace(&mut bytes, "/home", "/").unwrap_err().to_string().contains("0 times"));
        assert!(replace(&mut bytes, "symbol", "a longer one").is_err());
    }
}
