//! Text of modules, as it is shown to people: in the log, in `status`, on terminals.
//!
//! Invariant: what leaves here has no control characters and no space around it.

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
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// An unsigned 32-bit number of the guest as an index.
#[expect(clippy::cast_possible_truncation, reason = "the value is of 32 bits")]
fn index(value: u64) -> usize {
    value as usize
}
