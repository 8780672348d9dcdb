//! Text from modules, made safe for logs, status and terminals.
//!
//! Invariant: the result has no control characters, no invisible or reordering characters, and no
//! surrounding space.

use std::ops::Range;

/// Returns the place of a text that a module returns as `address << 32 | len`, at most `bytes_max`
/// long.
pub(crate) fn unpack(packed: i64, bytes_max: usize) -> Range<usize> {
    let packed = packed.cast_unsigned();
    let (address, len) = (index(packed >> 32), index(packed & u64::from(u32::MAX)));
    address..address.saturating_add(len.min(bytes_max))
}

/// Makes a module's text safe to show.
pub(crate) fn sanitize(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text
        .chars()
        .filter(|c| !is_deceptive(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// Returns whether a character has no width or changes the reading order: with it, the text shown
/// could differ from the text sent.
fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
    )
}

/// Converts an unsigned 32-bit number of the guest to an index.
#[expect(clippy::cast_possible_truncation, reason = "the value is of 32 bits")]
fn index(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_deceptive_characters_are_removed() {
        let cases = [
            (" well\n", "well"),
            ("\u{1b}[2Jgone\u{85}x", "[2Jgone x"),
            ("a\u{202e}b\u{2066}c\u{2069}\u{200f}\u{61c}", "abc"),
            ("a\u{200b}\u{200d}b\u{feff}\u{2060}", "ab"),
            ("\u{feff} x", "x"),
            ("Größe 3 – gut 日本", "Größe 3 – gut 日本"),
        ];
        for (text, shown) in cases {
            assert_eq!(sanitize(text.as_bytes()), shown, "{text:?}");
        }
    }
}
