//! A query, RFC 1035 section 4.1.
//!
//! Invariant: the operator's name and type are sent unchanged, or refused with a text.

use waxwing_sdk::ConfigError;

/// Longest name in wire form, including the root.
const NAME_MAX: usize = 255;
/// Longest label, in bytes.
const LABEL_MAX: usize = 63;
/// Flag: recursion desired.
const RECURSION: u16 = 0x0100;
/// Class IN, the Internet.
const CLASS: u16 = 1;

/// Record types by name. Others are written as in RFC 3597: `TYPE65`.
const KINDS: [(&str, u16); 16] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("DNSKEY", 48),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
];

/// A question, ready to be sent with an id.
#[derive(Debug)]
pub(crate) struct Query {
    flags: u16,
    question: Vec<u8>,
}

impl Query {
    pub(crate) fn new(name: &str, kind: u16, is_recursive: bool) -> Result<Self, ConfigError> {
        let mut question = wire(name)?;
        question.extend(kind.to_be_bytes());
        question.extend(CLASS.to_be_bytes());
        Ok(Self {
            flags: if is_recursive { RECURSION } else { 0 },
            question,
        })
    }

    /// Returns the message: a header for one question, and the question.
    pub(crate) fn bytes(&self, id: u16) -> Vec<u8> {
        let mut message = Vec::new();
        for field in [id, self.flags, 1, 0, 0, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend(&self.question);
        message
    }
}

/// Returns the number of a record type.
pub(crate) fn kind(text: &str) -> Result<u16, ConfigError> {
    KINDS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, number)| *number)
        .or_else(|| text.strip_prefix("TYPE")?.parse().ok())
        .ok_or_else(|| {
            format!("{text:?} is unknown; write A, NS, SOA, or a number like TYPE257").into()
        })
}

/// Converts a name to wire form: labels with their lengths, up to the root.
fn wire(name: &str) -> Result<Vec<u8>, ConfigError> {
    let mut wire = Vec::new();
    let labels = name.strip_suffix('.').unwrap_or(name);
    // The root has no labels.
    for label in labels.split('.').filter(|_| name != ".") {
        let len = u8::try_from(label.len()).unwrap_or(u8::MAX);
        if len == 0 || usize::from(len) > LABEL_MAX {
            return Err(format!(
                "expected labels of 1 to 63 bytes with dots between, like www.example.com, or . for \
                 the root; got {name:?}"
            ).into());
        }
        if !label.is_ascii() {
            return Err("write the ASCII form: xn--...".into());
        }
        wire.push(len);
        wire.extend(label.bytes());
    }
    wire.push(0);
    if wire.len() > NAME_MAX {
        return Err(format!("a name has at most {NAME_MAX} bytes").into());
    }
    Ok(wire)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_query_is_a_header_and_a_question() {
        let query = Query::new("Www.a.example.", 28, true).unwrap();
        let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03Www\x01a\x07example\0\0\x1c\0\x01";
        assert_eq!(query.bytes(0x1234), expected);
        let root = Query::new(".", 2, false).unwrap();
        assert_eq!(root.bytes(1), b"\0\x01\0\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01");
    }

    #[test]
    fn the_longest_name_fits_and_a_longer_one_is_refused() {
        let label = "x".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(wire(&longest).unwrap().len(), NAME_MAX);
        assert!(wire(&format!("{longest}x")).is_err());
    }

    #[test]
    fn types_are_written_by_name_or_by_number() {
        for (text, expected) in [("a", 1), ("AAAA", 28), ("TYPE65535", 65535), ("caa", 257)] {
            assert_eq!(kind(text), Ok(expected));
        }
        for text in ["", "AA", "TYPE", "TYPE65536", "TYPE-1", "28"] {
            assert!(kind(text).is_err(), "{text}");
        }
    }
}
