//! Which of several encoders is meant.

use std::collections::BTreeSet;

use super::{ANCHORS, Layout, LayoutError, candidates, plain, prefix_of};

/// Copies that follow another encoder slowly: no method evaluates or exports them.
const FOLLOWERS: [&str; 10] = [
    "encoder_k",
    "key_encoder",
    "momentum_encoder",
    "momentum_backbone",
    "backbone_momentum",
    "target_net",
    "target_network",
    "target_encoder",
    "target_network_state_dict",
    "momentum_net",
];

/// Pairs of words of which the first is the one that its authors evaluate and export, in prefixes
/// that are otherwise the same.
const PREFERRED: [(&str, &str); 2] = [("teacher", "student"), ("teacher_backbone", "student_backbone")];

/// More encoders than any file has. They are compared pair by pair, so that a hostile file with
/// thousands would take its time.
pub const MAX_CANDIDATES: usize = 64;

/// Chooses the encoder of a state dict with the given keys: [`choose`] among its [`candidates`].
///
/// # Errors
/// [`LayoutError`] where none or several fit.
pub fn detect<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    prefix: Option<&str>,
) -> Result<Layout, LayoutError> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let found = candidates(keys.iter().copied());
    match other_stem(&keys) {
        Some(error) if found.is_empty() => Err(error),
        _ => choose(&found, prefix),
    }
}

/// Chooses one of several encoders.
///
/// `prefix`, with or without its final dot, settles it. Without one, encoders that follow another
/// (key encoders, targets) are left aside, and students where there is a teacher; what remains has to
/// be one.
///
/// # Errors
/// [`LayoutError`] where none or several fit.
pub fn choose(found: &[Layout], prefix: Option<&str>) -> Result<Layout, LayoutError> {
    let prefixes = |of: &[&Layout]| of.iter().map(|l| l.prefix.clone()).collect::<Vec<_>>();
    let all: Vec<&Layout> = found.iter().collect();
    if let Some(asked) = prefix {
        let dotted =
            if asked.is_empty() || asked.ends_with('.') { asked.to_owned() } else { format!("{asked}.") };
        let wanted = found.iter().find(|l| l.prefix == dotted).cloned();
        return wanted
            .ok_or_else(|| LayoutError::NoSuchPrefix { asked: asked.to_owned(), found: prefixes(&all) });
    }
    if found.len() > MAX_CANDIDATES {
        return Err(LayoutError::Ambiguous { candidates: prefixes(&all) });
    }
    let leaders: Vec<&Layout> = all.iter().copied().filter(|l| !follows(l)).collect();
    let rest = if leaders.is_empty() { all.clone() } else { leaders };
    let best: Vec<&Layout> =
        rest.iter().copied().filter(|l| !rest.iter().any(|other| is_preferred(other, l))).collect();
    match best.as_slice() {
        [] => Err(LayoutError::NoEncoder),
        [one] => Ok((*one).clone()),
        _ => Err(LayoutError::Ambiguous { candidates: prefixes(&all) }),
    }
}

fn follows(layout: &Layout) -> bool {
    layout.prefix.split('.').any(|part| FOLLOWERS.contains(&part))
}

/// Whether a known pair prefers `a` to `b`: their prefixes differ just in that word. Only one of them
/// may be wrapped, as DINO's student is.
fn is_preferred(a: &Layout, b: &Layout) -> bool {
    PREFERRED.iter().any(|(first, second)| {
        let swapped: Vec<String> = plain(&a.prefix)
            .split('.')
            .map(|part| if part == *first { (*second).to_owned() } else { part.to_owned() })
            .collect();
        let b = plain(&b.prefix);
        plain(&a.prefix) != b && swapped.join(".") == b
    })
}

/// Blocks of a ResNet whose stem is another one.
fn other_stem(keys: &BTreeSet<&str>) -> Option<LayoutError> {
    ANCHORS.iter().filter(|a| a.stem != "0.weight" && !a.naming.is_vit()).find_map(|anchors| {
        let prefix = keys.iter().find_map(|key| prefix_of(key, anchors.block))?;
        let is_stem = |key: &&&str| {
            let rest = key.strip_prefix(prefix).unwrap_or_default();
            ["conv1.", "stem.", "embedder."].iter().any(|stem| rest.starts_with(stem))
                && rest.ends_with("weight")
        };
        let found = keys.iter().filter(is_stem).map(|key| (*key).to_owned()).collect();
        Some(LayoutError::OtherStem { prefix: prefix.to_owned(), found })
    })
}
