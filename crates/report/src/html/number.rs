//! Numbers for people.

/// About four digits: `0.3948`, `12,345`, `2.09e-7`.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e9).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize;
    fixed(value, decimals)
}

/// With as many decimals at most; thousands apart.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", grouped(digits))
}

fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `3 h 05 min`, `14 min 23 s`, `4.2 s`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {:02} s", whole % 60),
        3600..86_400 => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let cases: [(f64, &str); 9] = [
            (0.0, "0"),
            (1.957_196, "1.957"),
            (0.394_827, "0.3948"),
            (98.378, "98.38"),
            (1234.5, "1234"),
            (65_536.0, "65,536"),
            (-1_234_567.0, "-1,234,567"),
            (2.086e-7, "2.09e-7"),
            (0.5, "0.5"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (4.21, "4.2 s"),
            (59.4, "59 s"),
            (863.0, "14 min 23 s"),
            (11_100.0, "3 h 05 min"),
            (90_000.0, "1 d 01 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
