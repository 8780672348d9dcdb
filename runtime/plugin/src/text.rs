//! Text of modules, as it is shown to people: in the log, in `status`, on terminals.
//!
//! Invariant: what leaves here has no control characters, nothing that is invisible or turns the order of
//! what is read, and no space around it.

use std::ops::Range;

/// Where a text is that a module gives as `address << 32 | len`; no further than the most that is read.
pub(crate) fn unpack(packed: i64, bytes_max: usize) -> Range<usize> {
    let packed = packed.cast_unsigned();
    let (address, len) = (index(packed >> 32), index(packed & u64::from(u32::MAX)));
    address..address.saturating_add(len.min(bytes_max))
}

/// A module's text.
pub(crate) fn fit_for_people(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text
        .chars()
        .filter(|c| !is_deceptive(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// Characters of no width, and those that make text be read in another order: what is shown could say
/// something else than what is there.
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

/// An unsigned 32-bit number of the guest as an index.
#[expect(clippy::cast_possible_truncation, reason = "the value is of 32 bits")]
fn index(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_there() {
        let cases = [
            (" well\n", "well"),
            ("\u{1b}[2Jgone\u{85}x", "[2Jgone x"),
            ("a\u{202e}b\u{2066}c\u{2069}\u{200f}\u{61c}", "abc"),
            ("a\u{200b}\u{200d}b\u{feff}\u{2060}", "ab"),
            ("\u{feff} x", "x"),
            ("Größe 3 – gut 日本", "Größe 3 – gut 日本"),
        ];
        for (said, shown) in cases {
            assert_eq!(fit_for_people(said.as_bytes()), shown, "{said:?}");
        }
    }
}
