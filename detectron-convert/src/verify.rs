//! Is a pickle what Detectron2 needs? First without Python, then by Detectron2 itself where it can be imported.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use occlude_encoder::Arch;
use serde::Serialize;

use crate::contract::Normalisation;
use crate::error::Error;
use crate::python::{Answer, Loaded, ask_detectron2};
use crate::recipe::{Norm, Recipe};
use crate::settings::settings;
use crate::structure::{Structure, structure};

/// What to verify, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// The pickle.
    pub pickle: PathBuf,
    /// Settings of the detector; default: the YAML beside the pickle, else those of the usual recipe.
    pub config: Option<PathBuf>,
    /// The architecture; default: as names and shapes show.
    pub arch: Option<Arch>,
    /// The interpreter; default: `OCCLUDE_PYTHON`, else `python3`.
    pub python: Option<PathBuf>,
}

/// What was checked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The check without Python.
    pub structure: Structure,
    /// The check by Detectron2; `None` where it was not made.
    pub loaded: Option<Loaded>,
    /// Settings that the detector was built from.
    pub config: String,
    /// Why Detectron2 was not asked.
    pub not_asked: Option<String>,
}

/// Checks a pickle.
///
/// # Errors
/// [`Error`] where the check could not be made; what it found wrong is in the answer.
pub fn verify(options: &VerifyOptions) -> Result<Verification, Error> {
    let structure = structure(&options.pickle, options.arch)?;
    let beside = options.pickle.with_extension("yaml");
    let config = options.config.clone().or_else(|| beside.exists().then_some(beside));
    if let Some(path) = config.as_deref().filter(|path| !path.is_file()) {
        return Err(Error::NoConfig(path.to_owned()));
    }
    let shown = match &config {
        Some(path) => format!("`{}`", path.display()),
        None => format!("recipe {}", Recipe::default_for(structure.arch).name()),
    };
    if let Some(reason) = structure.unloadable {
        let not_asked = Some(reason.to_owned());
        return Ok(Verification { structure, loaded: None, config: shown, not_asked });
    }
    let answer = match config {
        Some(path) => ask_detectron2(options.python.as_deref(), &path, &options.pickle)?,
        None => ask_with_usual_settings(options, structure.arch)?,
    };
    let (loaded, not_asked) = match answer {
        Answer::Loaded(loaded) => (Some(loaded), None),
        Answer::Unavailable(reason) => (None, Some(reason)),
    };
    Ok(Verification { structure, loaded, config: shown, not_asked })
}

fn ask_with_usual_settings(options: &VerifyOptions, arch: Arch) -> Result<Answer, Error> {
    let folder = tempfile::tempdir().map_err(|reason| Error::Write { path: "the YAML".into(), reason })?;
    let path = folder.path().join("settings.yaml");
    let recipe = Recipe::default_for(arch);
    let text = settings(arch, recipe, Norm::Bn, &Normalisation::imagenet(), Path::new("")).yaml();
    fs::write(&path, text).map_err(|reason| Error::Write { path: path.clone(), reason })?;
    ask_detectron2(options.python.as_deref(), &path, &options.pickle)
}

impl Verification {
    /// Whether nothing wrong was found by what was checked.
    pub fn passed(&self) -> bool {
        let loads = |l: &Loaded| l.matched > 0 && l.missing.is_empty() && l.different.is_empty();
        self.structure.problems.is_empty()
            && self.loaded.as_ref().is_none_or(|l| loads(l) && self.left_over(l).next().is_none())
    }

    /// What Detectron2 has no place for, without the projection head, which is there on purpose.
    fn left_over<'a>(&'a self, loaded: &'a Loaded) -> impl Iterator<Item = &'a String> {
        loaded.left_over.iter().filter(|name| !self.structure.head.contains(name))
    }

    fn write_loaded(&self, f: &mut fmt::Formatter<'_>, loaded: &Loaded) -> fmt::Result {
        let Loaded { detectron2, torch, matched, .. } = loaded;
        write!(
            f,
            "Detectron2 {detectron2} (torch {torch}), {}: {matched} encoder tensors matched bit for bit",
            self.config
        )?;
        let left_over: Vec<_> = self.left_over(loaded).cloned().collect();
        let findings = [
            (&loaded.missing, "missing from the pickle"),
            (&loaded.different, "not loaded or changed"),
            (&left_over, "left over in the pickle"),
        ];
        findings.iter().try_for_each(|(names, what)| write!(f, ", {} {what}", names.len()))?;
        for (names, what) in findings.into_iter().filter(|(names, _)| !names.is_empty()) {
            write!(f, "\n{what}:")?;
            write_list(f, names)?;
        }
        loaded.doubtful_settings.iter().try_for_each(|line| write!(f, "\nwarning: {line}"))
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Structure { arch, arrays, author, head, problems, .. } = &self.structure;
        let author = author.as_deref().unwrap_or("nobody");
        write!(f, "structure: {arch}, {arrays} arrays by {author}, {} problems", problems.len())?;
        write_list(f, problems)?;
        if !head.is_empty() {
            write!(f, "\nprojection head: {} arrays, which Detectron2 does not use", head.len())?;
        }
        f.write_str("\n")?;
        match (&self.loaded, &self.not_asked) {
            (Some(loaded), _) => self.write_loaded(f, loaded),
            (None, reason) => write!(
                f,
                "Detectron2: NOT CHECKED, only the structure was; {}",
                reason.as_deref().unwrap_or_default()
            ),
        }
    }
}

/// One line each; many are cut.
fn write_list(f: &mut fmt::Formatter<'_>, lines: &[String]) -> fmt::Result {
    const SHOWN: usize = 20;
    lines.iter().take(SHOWN).try_for_each(|line| write!(f, "\n  {line}"))?;
    if lines.len() > SHOWN {
        write!(f, "\n  and {} more", lines.len() - SHOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verification(loaded: Option<Loaded>, problems: &[&str]) -> Verification {
        let structure = Structure {
            arch: Arch::ResNet50,
            arrays: 320,
            author: Some("Occlude".into()),
            head: vec!["stem.fc.weight".into()],
            problems: problems.iter().map(|&p| p.into()).collect(),
            unloadable: None,
        };
        let not_asked = loaded.is_none().then(|| "`python3`: No module named 'detectron2'".to_owned());
        Verification { structure, loaded, config: "`x.yaml`".into(), not_asked }
    }

    fn loaded() -> Loaded {
        Loaded { matched: 318, left_over: vec!["stem.fc.weight".into()], ..Loaded::default() }
    }

    #[test]
    fn the_head_may_be_left_over_and_nothing_else() {
        assert!(verification(Some(loaded()), &[]).passed());
        let mut more = loaded();
        more.left_over.push("res5.0.conv1.weight".into());
        assert!(!verification(Some(more), &[]).passed());
    }

    #[test]
    fn every_finding_fails() {
        assert!(!verification(Some(loaded()), &["`x` is missing"]).passed());
        for change in [
            |l: &mut Loaded| l.matched = 0,
            |l: &mut Loaded| l.missing.push("res2".into()),
            |l: &mut Loaded| l.different.push("res2".into()),
        ] {
            let mut loaded = loaded();
            change(&mut loaded);
            assert!(!verification(Some(loaded), &[]).passed());
        }
    }

    #[test]
    fn what_was_not_checked_is_not_claimed() {
        let text = verification(None, &[]).to_string();
        assert!(text.contains("NOT CHECKED") && text.contains("No module named"), "{text}");
        assert!(!text.contains("matched"), "{text}");
    }
}
