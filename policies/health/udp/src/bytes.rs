//! Bytes in a config, as text or in hexadecimal digits.
//!
//! Invariant: giving both, or invalid digits, is an error.

use waxwing_sdk::ConfigError;

/// Returns the bytes of `key` or of `key_hex`, whichever is set.
pub(crate) fn one_of(
    key: &str,
    text: Option<String>,
    digits: Option<String>,
) -> Result<Option<Vec<u8>>, ConfigError> {
    match (text, digits) {
        (Some(_), Some(_)) => {
            Err(format!("write config.{key} or config.{key}_hex, not both").into())
        }
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(digits)) => hexadecimal(&digits).map(Some).ok_or_else(|| {
            format!(
                "config.{key}_hex: expected pairs of hexadecimal digits, such as \"00 ff\", got \
                 {digits:?}"
            )
            .into()
        }),
        (None, None) => Ok(None),
    }
}

/// Parses pairs of digits, with optional spaces.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text
        .chars()
        .filter(|character| *character != ' ')
        .map(|character| u8::try_from(character.to_digit(16)?).ok())
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}
