//! Rust source as words: what is left without comments, texts and code of tests.

/// Identifiers, numbers, `::` and single signs. Comments, string and character literals and lifetimes are left out:
/// no path stands in them.
pub(super) fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest);
        if skipped > 0 {
            rest = &rest[skipped..];
            continue;
        }
        let length = match word(rest) {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        tokens.push(rest[..length].to_owned());
        rest = &rest[length..];
    }
    tokens
}

/// Bytes of the blank, comment, literal or lifetime that the text begins with; 0 where it begins with none.
fn skipped(rest: &str) -> usize {
    let blank = rest.len() - rest.trim_start().len();
    if blank > 0 {
        return blank;
    }
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| opens(rest, prefix));
    prefix.map_or_else(|| character(rest), |prefix| prefix.len() + string(&rest[prefix.len()..], prefix))
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = &rest.as_bytes()[at..];
        if step.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if step.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Whether a string literal with this prefix begins here; `r#type` is a word.
fn opens(rest: &str, prefix: &str) -> bool {
    let Some(behind) = rest.strip_prefix(prefix) else { return false };
    let hashes = if prefix.ends_with('r') { behind.trim_start_matches('#') } else { behind };
    hashes.starts_with('"')
}

/// Bytes of a string literal behind its prefix.
fn string(rest: &str, prefix: &str) -> usize {
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        return rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len());
    }
    1 + escaped(&rest[1..], '"')
}

/// Bytes up to and with the closing sign, which a backslash may hide.
fn escaped(rest: &str, close: char) -> usize {
    let mut hidden = false;
    for (at, sign) in rest.char_indices() {
        match sign {
            _ if hidden => hidden = false,
            '\\' => hidden = true,
            _ if sign == close => return at + sign.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Bytes of a character literal or a lifetime; 0 where neither begins.
fn character(rest: &str) -> usize {
    let Some(behind) = rest.strip_prefix('\'') else { return 0 };
    let first = behind.chars().next().map_or(0, char::len_utf8);
    if behind.starts_with('\\') || behind[first..].starts_with('\'') {
        return 1 + escaped(behind, '\'');
    }
    1 + word(behind)
}

/// Bytes of the identifier or number that the text begins with.
fn word(rest: &str) -> usize {
    rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(rest.len())
}

/// The tokens without items and statements under `#[cfg(test)]` or `#[cfg(all(test, ...))]`.
pub(super) fn live(tokens: &[String]) -> Vec<String> {
    let mut live = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if of_tests(&tokens[at..]) {
            while begins(&tokens[at..], &["#", "["]) {
                at += 1 + group(&tokens[at + 1..]);
            }
            at += item(&tokens[at..]);
        } else {
            live.push(tokens[at].clone());
            at += 1;
        }
    }
    live
}

fn of_tests(tokens: &[String]) -> bool {
    let cfg = ["#", "[", "cfg", "("];
    begins(tokens, &cfg)
        && (begins(&tokens[cfg.len()..], &["test", ")"])
            || begins(&tokens[cfg.len()..], &["all", "(", "test"]))
}

/// Whether the tokens begin with these.
pub(super) fn begins(tokens: &[String], with: &[&str]) -> bool {
    tokens.len() >= with.len() && tokens.iter().zip(with).all(|(token, with)| token == with)
}

/// Tokens of the bracketed group that they begin with.
fn group(tokens: &[String]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        depth += nesting(token);
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// What a token adds to the depth of brackets.
pub(super) fn nesting(token: &str) -> isize {
    match token {
        "(" | "[" | "{" => 1,
        ")" | "]" | "}" => -1,
        _ => 0,
    }
}

/// Tokens of the item, statement, field or arm that they begin with. Commas end what is no item: an item has them in
/// its generics.
fn item(tokens: &[String]) -> usize {
    const ITEMS: [&str; 14] = [
        "pub",
        "use",
        "mod",
        "fn",
        "struct",
        "enum",
        "impl",
        "trait",
        "type",
        "const",
        "static",
        "unsafe",
        "async",
        "macro_rules",
    ];
    let is_item = tokens.first().is_some_and(|first| ITEMS.contains(&first.as_str()));
    let is_use = tokens.iter().take_while(|token| *token != ";" && *token != "{").any(|token| token == "use");
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !is_use => return at + group(&tokens[at..]),
            "(" | "[" | "{" => at += group(&tokens[at..]),
            _ => at += 1,
        }
    }
    at
}
