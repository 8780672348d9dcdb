//! Numbers as text.
//!
//! Invariant: the text keeps at least three significant digits; further ones are noise.

/// Formats a measured value: `0.93`, `41.2`, `1,450`.
pub fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.0995 || size == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", &*text), |rest| ("-", rest));
    let (whole, decimals) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    format!("{sign}{}{decimals}", grouped(whole))
}

/// Formats a count: `8`, `100 k`, `1.5 M`; in full if the short form would be inexact: `4,096`.
pub fn count(value: f64) -> String {
    if (1e3..1e5).contains(&value) && value % 100.0 != 0.0 {
        return figure(value);
    }
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// Separates digits into groups of three.
fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_keeps_three_significant_digits() {
        let cases = [
            (0.0, "0.00"),
            (0.0123, "0.0123"),
            (0.934, "0.93"),
            (9.996, "10.0"),
            (41.24, "41.2"),
            (99.96, "100"),
            (1450.4, "1,450"),
            (-12_345_678.0, "-12,345,678"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text, "{value}");
        }
    }

    #[test]
    fn a_count_is_short_where_that_is_exact() {
        let cases = [
            (0.0, "0"),
            (2.5, "2.5"),
            (64.0, "64"),
            (1500.0, "1.5 k"),
            (4096.0, "4,096"),
            (100_000.0, "100 k"),
            (1_500_000.0, "1.5 M"),
            (8e6, "8 M"),
            (2e9, "2 G"),
        ];
        for (value, text) in cases {
            assert_eq!(count(value), text, "{value}");
        }
    }
}
