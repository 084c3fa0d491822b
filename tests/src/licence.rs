//! SPDX licence expressions against a list of accepted licences.

use spdx::{Expression, ParseMode};

/// Whether the expression can be satisfied with accepted licences only. `OR` and the old `/` offer a choice, `AND`
/// asks for both, `WITH` keeps its exception as part of the name. Anything unreadable is not accepted.
pub fn accepted(expression: &str, allowed: &[String]) -> bool {
    Expression::parse_mode(expression, ParseMode::LAX)
        .is_ok_and(|parsed| parsed.evaluate(|licence| allowed.contains(&licence.to_string())))
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
