//! SPDX licence expressions against a list of accepted licences.

/// Whether the expression can be satisfied with accepted licences only. `OR` and the old `/` offer a choice, `AND`
/// asks for both, `WITH` keeps its exception as part of the name. Anything unreadable is not accepted.
pub fn accepted(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    let answer = either(&mut tokens, allowed);
    tokens.is_empty() && answer == Some(true)
}

fn either(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    let mut answer = both(tokens, allowed)?;
    while tokens.last() == Some(&"OR") {
        tokens.pop();
        answer |= both(tokens, allowed)?;
    }
    Some(answer)
}

fn both(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    let mut answer = one(tokens, allowed)?;
    while tokens.last() == Some(&"AND") {
        tokens.pop();
        answer &= one(tokens, allowed)?;
    }
    Some(answer)
}

fn one(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    match tokens.pop()? {
        "(" => {
            let answer = either(tokens, allowed)?;
            (tokens.pop()? == ")").then_some(answer)
        }
        "OR" | "AND" | "WITH" | ")" => None,
        name => {
            let mut name = name.to_owned();
            if tokens.last() == Some(&"WITH") {
                tokens.pop();
                name = format!("{name} WITH {}", tokens.pop()?);
            }
            Some(allowed.contains(&name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::accepted;

    fn with(expression: &str) -> bool {
        accepted(
            expression,
            &["MIT".to_owned(), "Zlib".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()],
        )
    }

    #[test]
    fn choices_and_conjunctions() {
        assert!(with("MIT") && with("GPL-3.0 OR MIT") && with("GPL-3.0/MIT") && with("MIT AND Zlib"));
        assert!(with("(GPL-3.0 OR Zlib) AND MIT") && with("Apache-2.0 WITH LLVM-exception"));
        assert!(!with("GPL-3.0") && !with("MIT AND GPL-3.0") && !with("Apache-2.0"));
    }

    #[test]
    fn nonsense_is_not_accepted() {
        assert!(!with("") && !with("MIT MIT") && !with("(MIT") && !with("MIT OR") && !with("MIT )"));
    }
}
