//! What a file refers to, and the modules that it declares.

use super::tokens::{begins, nesting};

/// A path as it stands in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Names of the inline modules around it, outermost first.
    pub(super) within: Vec<String>,
    /// Its segments.
    pub(super) path: Vec<String>,
    /// What the file, and whoever asks it, calls it, where it is imported for the whole file.
    pub(super) name: Option<String>,
}

/// Imports among the tokens of a file, and all other paths that begin with `crate`, `super` or `self`.
pub(super) fn references(tokens: &[String]) -> Vec<Reference> {
    let mut found = Vec::new();
    // Names of the inline modules that it is in, with their depth.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(token) = tokens.get(at) {
        let rest = &tokens[at..];
        depth = depth.saturating_add_signed(nesting(token));
        inline.retain(|(_, opened)| *opened <= depth);
        let within = inline.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let length = if let Some(name) = opened_module(rest) {
            depth += 1;
            inline.push((name, depth));
            3
        } else if token == "use" && !begins(rest, &["use", "<"]) {
            let (imports, length) = imports(&rest[1..]);
            let whole = depth == 0;
            found.extend(imports.into_iter().map(|(path, name)| Reference {
                within: within.clone(),
                path,
                name: name.filter(|_| whole),
            }));
            1 + length
        } else if begins(rest, &["pub", "(", "in"]) {
            // How far something is seen, and no reference.
            3 + path(&rest[3..]).1
        } else {
            let (path, length) = path(rest);
            if path.len() > 1 && matches!(path[0].as_str(), "crate" | "super" | "self") {
                found.push(Reference { within, path, name: None });
            }
            length.max(1)
        };
        at += length;
    }
    found
}

/// The name of the inline module that begins here.
fn opened_module(tokens: &[String]) -> Option<String> {
    match tokens {
        [mod_, name, open, ..] if mod_ == "mod" && open == "{" => Some(name.clone()),
        _ => None,
    }
}

/// The path that the tokens begin with, `a::b` as `[a, b]`, and how many tokens it takes; empty where they begin with
/// something else.
fn path(tokens: &[String]) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let is_name = |token: &&String| token.starts_with(|sign: char| sign.is_alphabetic() || sign == '_');
    let mut at = 0;
    while let Some(segment) = tokens.get(at).filter(is_name) {
        path.push(segment.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    (path, at)
}

/// A path that is imported, and the name that it gets; none where it is everything of a module.
type Import = (Vec<String>, Option<String>);

/// The imports of a `use` behind that word, and how many tokens there are with the semicolon.
fn imports(tokens: &[String]) -> (Vec<Import>, usize) {
    let end = tokens.iter().position(|token| token == ";").unwrap_or(tokens.len());
    let mut found = Vec::new();
    // The path in front of each open brace, and the words that follow the last of them.
    let mut open: Vec<Vec<String>> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in &tokens[..end] {
        let before = open.last().cloned().unwrap_or_default();
        match token.as_str() {
            "::" => {}
            "{" => open.push([before, std::mem::take(&mut words)].concat()),
            "," | "}" => {
                found.extend(import(before, &std::mem::take(&mut words)));
                if token == "}" {
                    open.pop();
                }
            }
            word => words.push(word.to_owned()),
        }
    }
    found.extend(import(Vec::new(), &words));
    (found, end + 1)
}

/// `a::b as c` behind what stands before its braces; nothing of no words.
fn import(before: Vec<String>, words: &[String]) -> Option<Import> {
    let renamed = words.iter().position(|word| word == "as");
    let (path, new) = words.split_at(renamed.unwrap_or(words.len()));
    let last = path.last()?;
    let mut path = [before, path.to_vec()].concat();
    // `b::{self}` is `b` itself.
    if matches!(last.as_str(), "self" | "*") && path.len() > 1 {
        path.pop();
    }
    let name = new.get(1).or(path.last()).filter(|_| last != "*").cloned();
    Some((path, name))
}

/// Names of the modules that have files of their own.
pub(super) fn declared(tokens: &[String]) -> Vec<String> {
    let declares = |three: &&[String]| three[0] == "mod" && three[2] == ";";
    tokens.windows(3).filter(declares).map(|three| three[1].clone()).collect()
}
