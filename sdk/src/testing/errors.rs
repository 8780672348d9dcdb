//! Tables of errors.

use alloc::string::ToString;
use core::fmt::Display;

/// Asserts that configs are refused. Each line of `cases` is a config and a part of its error;
/// `error` returns a config's error.
///
/// ```
/// use waxwing_sdk::testing;
///
/// let cases = "
///     a => invalid digit
///     -1 => invalid digit
///     256 => too large
/// ";
/// testing::assert_config_errors(cases, |config| config.parse::<u8>().unwrap_err());
/// ```
///
/// # Panics
/// If an error has another text, or a line has no ` => `.
#[track_caller]
pub fn assert_config_errors<E: Display>(cases: &str, error: impl Fn(&str) -> E) {
    for case in cases.lines().map(str::trim).filter(|case| !case.is_empty()) {
        let columns = case.split_once(" => ");
        let (config, expected) = columns.unwrap_or_else(|| panic!("no => in {case}"));
        let text = error(config).to_string();
        assert!(
            text.contains(expected),
            "{config}: {text:?} lacks {expected:?}"
        );
    }
}
