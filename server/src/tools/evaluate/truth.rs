//! What each query should find: pictures of its class, or those of a list of pairs.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use occlude_preprocess::files::Listing;
use occlude_preprocess::names::relative;

/// Why queries and gallery cannot be judged.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TruthError {
    /// Nothing says what belongs together.
    #[error(
        "`{}` has no sub-folders: what belongs together is unknown; hint: put pictures of one class, product or place \
         into one sub-folder, of the same name in queries and gallery, or list pairs with `--pairs FILE.csv`", .folder.display()
    )]
    Flat { folder: PathBuf },
    /// No query has anything to find.
    #[error(
        "no picture of `{}` has anything to find in `{}`{}; hint: sub-folders of the same name are one class", .queries.display(),
        .gallery.display(), .example
    )]
    Apart { queries: PathBuf, gallery: PathBuf, example: String },
    /// The list of pairs cannot be read.
    #[error("`{}`: {reason}", .file.display())]
    Pairs { file: PathBuf, reason: csv::Error },
    /// The list has other columns.
    #[error("`{}`: the first line is `{found}`, expected the columns `query` and `match`", .file.display())]
    Columns { file: PathBuf, found: String },
    /// A line of the list names a picture that is not there.
    #[error("`{}`, line {line}: `{name}` is not a picture below `{}`", .file.display(), .folder.display())]
    Unknown { file: PathBuf, line: u64, name: String, folder: PathBuf },
}

/// For each query the places of what it should find in the gallery, ascending. One that should find nothing is not
/// judged.
pub(super) type Truth = Vec<Vec<usize>>;

/// By class: the names of the first-level sub-folders.
///
/// # Errors
/// Folders without classes, or without common ones.
pub(super) fn of_classes(
    queries: (&Path, &Listing),
    gallery: (&Path, &Listing),
) -> Result<Truth, TruthError> {
    for (folder, listing) in [queries, gallery] {
        if listing.classes.is_empty() {
            return Err(TruthError::Flat { folder: folder.to_owned() });
        }
    }
    let mut members: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, sample) in gallery.1.samples.iter().enumerate() {
        if let Some(class) = class(gallery.1, sample.class) {
            members.entry(class).or_default().push(at);
        }
    }
    let of =
        |number| class(queries.1, number).and_then(|name| members.get(name)).cloned().unwrap_or_default();
    let truth: Truth = queries.1.samples.iter().map(|sample| of(sample.class)).collect();
    if truth.iter().all(Vec::is_empty) {
        let names = |listing: &Listing| listing.classes.first().cloned().unwrap_or_default();
        let example = format!(
            ": classes are `{}` and others there, `{}` and others here",
            names(queries.1),
            names(gallery.1)
        );
        return Err(apart(queries.0, gallery.0, example));
    }
    Ok(truth)
}

fn class(listing: &Listing, number: Option<u32>) -> Option<&str> {
    listing.classes.get(number? as usize).map(String::as_str)
}

pub(super) fn apart(queries: &Path, gallery: &Path, example: String) -> TruthError {
    TruthError::Apart { queries: queries.to_owned(), gallery: gallery.to_owned(), example }
}

/// By a CSV file with the columns `query` and `match`: paths below the two folders. A query may have several lines.
///
/// # Errors
/// A file that cannot be read or has other columns, and names of pictures that are not there.
pub(super) fn of_pairs(
    file: &Path,
    queries: (&Path, &Listing),
    gallery: (&Path, &Listing),
) -> Result<Truth, TruthError> {
    let failed = |reason| TruthError::Pairs { file: file.to_owned(), reason };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(file).map_err(failed)?;
    let headers = reader.headers().map_err(failed)?;
    let column = |name: &str| headers.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
    let (Some(query), Some(found)) = (column("query"), column("match")) else {
        let found = headers.iter().collect::<Vec<_>>().join(",");
        return Err(TruthError::Columns { file: file.to_owned(), found });
    };
    let (of_queries, of_gallery) = (places(queries), places(gallery));
    let mut truth = vec![BTreeSet::new(); queries.1.samples.len()];
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let place = |names: &HashMap<String, usize>, column: usize, folder: &Path| {
            let name = record.get(column).unwrap_or_default();
            let unknown = || TruthError::Unknown {
                file: file.to_owned(),
                line,
                name: name.to_owned(),
                folder: folder.to_owned(),
            };
            names.get(name.trim_start_matches("./")).copied().ok_or_else(unknown)
        };
        let at = place(&of_queries, query, queries.0)?;
        truth[at].insert(place(&of_gallery, found, gallery.0)?);
    }
    Ok(truth.into_iter().map(|matches| matches.into_iter().collect()).collect())
}

fn places((folder, listing): (&Path, &Listing)) -> HashMap<String, usize> {
    listing.samples.iter().enumerate().map(|(at, sample)| (relative(folder, &sample.path), at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::files::list;

    fn folder(root: &Path, names: &[&str]) -> Listing {
        for name in names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Only their names are looked at.
            std::fs::write(path, b"").unwrap();
        }
        list(root).unwrap()
    }

    #[test]
    fn classes_go_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (q, g) = (dir.path().join("q"), dir.path().join("g"));
        let queries = folder(&q, &["cat/1.png", "owl/1.png", "loose.png"]);
        let gallery = folder(&g, &["ant/1.png", "cat/2.png", "cat/3.png"]);
        let truth = of_classes((&q, &queries), (&g, &gallery)).unwrap();
        let of = |name: &str| &truth[queries.samples.iter().position(|s| s.path.ends_with(name)).unwrap()];
        assert_eq!(
            (of("cat/1.png").as_slice(), of("owl/1.png").len(), of("loose.png").len()),
            ([1, 2].as_slice(), 0, 0)
        );
        let other = folder(&dir.path().join("o"), &["elk/1.png"]);
        let error = of_classes((&q, &queries), (&dir.path().join("o"), &other)).unwrap_err().to_string();
        assert!(error.contains("`cat` and others there, `elk` and others here"), "{error}");
        let flat = folder(&dir.path().join("f"), &["1.png"]);
        let error = of_classes((&q, &queries), (&dir.path().join("f"), &flat)).unwrap_err().to_string();
        assert!(error.contains("has no sub-folders") && error.contains("--pairs"), "{error}");
    }

    #[test]
    fn pairs_name_pictures_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let (q, g) = (dir.path().join("q"), dir.path().join("g"));
        let (queries, gallery) = (folder(&q, &["1.png", "2.png"]), folder(&g, &["a, b.png", "c.png"]));
        let file = dir.path().join("pairs.csv");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            of_pairs(&file, (&q, &queries), (&g, &gallery))
        };
        let truth = read("match, query\nc.png,1.png\n\"a, b.png\",./1.png\nc.png,1.png\n").unwrap();
        assert_eq!(truth, [vec![0, 1], vec![]]);
        for (text, expected) in [
            ("a,b\n1,2\n", "the first line is `a,b`, expected the columns `query` and `match`"),
            ("query,match\n1.png,c.png\n3.png,c.png\n", "line 3: `3.png` is not a picture below"),
            ("query,match\n1.png\n", "pairs.csv"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
