//! What is compared: arms, each a recipe with flags, and the arms that it is held against.

use anyhow::{Context, Result, bail, ensure};

use super::flags::Flags;
use super::rows::{ADDED, Budget, EXPERIMENT, METHODS, PATCHES, Row};

/// Which arms are run where none are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Collection {
    /// Masks beside their controls: no masks, random cells, another picture's map
    Experiment,
    /// Every method of the papers
    Methods,
    /// Ways of hiding patches from a vision transformer; `--arch` names one
    Patches,
}

/// An arm of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arm {
    pub(super) name: String,
    pub(super) about: String,
    /// The arms that it has to beat.
    pub(super) against: Vec<String>,
    /// Of the table.
    row: &'static str,
    /// What it has besides, or in place.
    own: Flags,
}

impl Arm {
    fn of(row: &'static Row) -> Self {
        Self {
            name: row.name.into(),
            about: row.about.into(),
            against: row.against.iter().map(ToString::to_string).collect(),
            row: row.name,
            own: Flags::default(),
        }
    }

    /// `NAME=ARM --flag value ..`.
    fn parse(text: &str) -> Result<Self> {
        let what = || {
            format!(
                "`--arm {text}` is not an arm\nhint: `NAME=ARM --flag value ..`, like `hot=plain --temperature 0.2`"
            )
        };
        let (name, rest) = text.split_once('=').with_context(what)?;
        let (base, flags) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        let name = name.trim();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        ensure!(
            !name.is_empty() && name.chars().all(allowed),
            "`{name}` cannot be the name of an arm, because its folder has that name; hint: letters, digits, `.`, `_`, `+` and `-`"
        );
        ensure!(
            find(name).is_none(),
            "there is already an arm `{name}`; hint: use another name for `--arm {text}`"
        );
        let own = Flags::parse(flags).with_context(what)?;
        for kept in ["--seed", "--out", "--resume", "--device"] {
            ensure!(own.get(kept).is_none(), "`--arm {text}`: an arm cannot set `{kept}`");
        }
        let row = known(base)?;
        let mut against = vec![row.name.to_owned()];
        against.extend(row.against.iter().map(ToString::to_string));
        Ok(Self { name: name.into(), about: format!("{}, `{own}`", row.about), against, row: row.name, own })
    }

    /// Flags of `pretrain`, without those that all arms share unless they are the arm's own.
    pub(super) fn flags(&self, budget: Budget) -> Flags {
        find(self.row).map_or_else(Flags::default, |row| row.flags(budget)).with(&self.own)
    }

    /// The flags that it has in place of shared ones.
    pub(super) fn own(&self) -> &Flags {
        &self.own
    }

    /// Whether its runs show the floors: what pixels and an untrained encoder reach depends on the filter alone.
    pub(super) fn has_floors(&self) -> bool {
        ["plain", "hp", "ibot-random"].contains(&self.name.as_str())
    }
}

fn find(name: &str) -> Option<&'static Row> {
    all().find(|row| row.name == name)
}

fn all() -> impl Iterator<Item = &'static Row> {
    METHODS.iter().chain(&ADDED).chain(&PATCHES)
}

fn known(name: &str) -> Result<&'static Row> {
    match find(name) {
        Some(row) => Ok(row),
        None => {
            let all: Vec<&str> = all().map(|row| row.name).collect();
            bail!("there is no arm `{name}`; hint: the arms are {}", all.join(", "))
        }
    }
}

/// The arms of a call: those named, else, where none are of the user's own, a collection; then the user's own.
pub(super) fn choose(names: &[String], collection: Collection, own: &[String]) -> Result<Vec<Arm>> {
    let rows: Vec<&'static Row> = match (names, collection) {
        ([], _) if !own.is_empty() => Vec::new(),
        ([], Collection::Methods) => METHODS.iter().collect(),
        ([], Collection::Patches) => PATCHES.iter().collect(),
        ([], Collection::Experiment) => EXPERIMENT.iter().map(|name| known(name)).collect::<Result<_>>()?,
        (names, _) => names.iter().map(|name| known(name)).collect::<Result<_>>()?,
    };
    let mut arms: Vec<Arm> = rows.into_iter().map(Arm::of).collect();
    for text in own {
        arms.push(Arm::parse(text)?);
    }
    for (i, arm) in arms.iter().enumerate() {
        ensure!(arms[..i].iter().all(|a| a.name != arm.name), "the arm `{}` is named twice", arm.name);
    }
    Ok(arms)
}

/// (name, what it is, flags, whether it shows the floors) of the arms of the experiment, then of every other method, for
/// machines without `cargo`.
pub(super) fn plan(budget: Budget) -> impl Iterator<Item = (&'static str, &'static str, Vec<String>, bool)> {
    let rest = METHODS.iter().filter(|row| !EXPERIMENT.contains(&row.name));
    let rows = EXPERIMENT.iter().filter_map(|name| find(name)).chain(rest);
    rows.map(move |row| (row.name, row.about, row.flags(budget).words(), Arm::of(row).has_floors()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { saliency_stage: 3, epochs: 7 };

    fn arms(names: &[&str], own: &[&str]) -> Result<Vec<Arm>> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        choose(&owned(names), Collection::Experiment, &owned(own))
    }

    fn refused(names: &[&str], own: &[&str]) -> String {
        format!("{:#}", arms(names, own).expect_err("refused"))
    }

    #[test]
    fn names_are_unique_and_whatever_an_arm_is_held_against_exists() {
        let names: std::collections::BTreeSet<_> = all().map(|r| r.name).collect();
        assert_eq!(names.len(), METHODS.len() + ADDED.len() + PATCHES.len());
        for row in all() {
            assert!(row.against.iter().all(|name| names.contains(name) && *name != row.name), "{}", row.name);
            assert!(["plain", "ibot-random"].contains(&row.name) || !row.against.is_empty(), "{}", row.name);
        }
        let experiment = arms(&[], &[]).expect("the experiment");
        assert_eq!(experiment.len(), EXPERIMENT.len());
        assert_eq!(choose(&[], Collection::Methods, &[]).expect("methods").len(), METHODS.len());
    }

    /// A control differs from its arm in the guidance alone.
    #[test]
    fn controls_differ_in_where_the_cells_lie_alone() {
        for (arm, guidance) in
            [("random", "random"), ("other", "other")].iter().flat_map(|&(control, guidance)| {
                ["background", "combined"].map(|arm| (format!("{arm}-{control}"), guidance))
            })
        {
            let (base, _) = arm.split_once('-').expect("a name of two parts");
            let flags = |name: &str| known(name).expect("a row").flags(BUDGET);
            let mut expected = flags(base);
            expected.set("--guidance", vec![guidance.into()]);
            let sorted = |flags: Flags| {
                let mut all = flags.words();
                all.sort();
                all
            };
            assert_eq!(sorted(flags(&arm)), sorted(expected), "{arm}");
        }
    }

    #[test]
    fn an_arm_has_its_recipe_and_the_budget_in_its_flags() {
        let blur = known("blur").expect("a row").flags(BUDGET);
        assert_eq!(
            blur.to_string(),
            "--recipe saliency-moco-small --saliency-stage 3 --momentum-warmup-epochs 7"
        );
    }

    #[test]
    fn arms_of_ones_own_take_anothers_flags_and_change_some() {
        let found = arms(&["plain"], &["hot=plain --temperature 0.2 --batch-size 64"]).expect("arms");
        let [plain, hot] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (hot.against.as_slice(), hot.own().number("--batch-size")),
            (["plain".to_owned()].as_slice(), Some(64))
        );
        let differing = |arm: &Arm| arm.flags(BUDGET).get("--temperature").map(str::to_owned);
        assert_eq!((differing(plain).as_deref(), differing(hot).as_deref()), (Some("0.1"), Some("0.2")));
        assert_eq!(arms(&[], &["x=blur --strategy zero"]).expect("one").len(), 1, "alone");
    }

    #[test]
    fn wrong_arms_are_named() {
        assert!(refused(&["x"], &[]).contains("mixmask"));
        assert!(refused(&["plain", "plain"], &[]).contains("`plain` is named twice"));
        for (own, part) in [
            ("hot", "NAME=ARM"),
            ("a/b=plain", "`a/b`"),
            ("=plain", "cannot be the name"),
            ("blur=plain --lr 1", "already"),
            ("hot=cold --lr 1", "no arm `cold`"),
            ("hot=plain lr 1", "before any flag"),
            ("hot=plain --seed 3", "--seed"),
        ] {
            let message = refused(&[], &[own]);
            assert!(message.contains(part), "{own}: {message}");
        }
    }
}
