//! An answer, RFC 1035 section 4.1.
//!
//! Invariant: the parser skips names and follows no compression pointer, so it only moves forward,
//! within the message and its record count.

use std::fmt;

use waxwing_sdk::{ConfigError, Unhealthy};

/// Length of the message header, in bytes.
const HEADER: usize = 12;
/// Flags in the third byte of the header: response, truncated.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
/// The response code in the fourth byte.
const RCODE_MASK: u8 = 0x0f;
/// The top two bits of a length byte: a compression pointer, or a reserved kind of label.
const POINTER: u8 = 0xc0;
/// Length of type and class after a name, in bytes.
const TYPE_AND_CLASS: usize = 4;
/// The query type that matches all records.
const ANY: [u8; 2] = [0, 255];

/// Names of response codes, in order: RFC 1035 and RFC 2136.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];

/// Why an answer over TCP, or all datagrams over UDP, do not count.
pub(crate) const OTHER_QUERY: &str = "the answer is for another query";
const MALFORMED: &str = "malformed DNS answer";

#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) rcode: u8,
    /// Records of the queried type.
    pub(crate) records: u16,
    pub(crate) is_truncated: bool,
}

impl Answer {
    /// Parses a message; `None` if it does not answer this query.
    pub(crate) fn parse(message: &[u8], query: &[u8]) -> Result<Option<Self>, Unhealthy> {
        let (header, rest) = message.split_first_chunk::<HEADER>().ok_or(MALFORMED)?;
        if header[..2] != query[..2] || header[2] & RESPONSE == 0 {
            return Ok(None);
        }
        let rcode = header[3] & RCODE_MASK;
        let is_truncated = header[2] & TRUNCATED != 0;
        let records = match [header[4], header[5]] {
            [0, 1] => {
                let question = &query[HEADER..];
                let (copy, records) = rest.split_at_checked(question.len()).ok_or(MALFORMED)?;
                if !is_same_question(copy, question) {
                    return Ok(None);
                }
                records
            }
            // A server that could not parse the query may omit the question.
            [0, 0] if rcode != 0 => rest,
            _ => return Ok(None),
        };
        let kind = query.last_chunk::<TYPE_AND_CLASS>().ok_or(MALFORMED)?;
        let count = u16::from_be_bytes([header[6], header[7]]);
        let found = count_records(records, count, [kind[0], kind[1]]);
        if found.is_truncated && !is_truncated {
            return Err(MALFORMED.into());
        }
        Ok(Some(Self {
            rcode,
            records: found.records,
            is_truncated,
        }))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.records == 1 { "" } else { "s" };
        write!(f, "{}, {} record{s}", rcode_name(self.rcode), self.records)
    }
}

/// Compares names without case, and type and class exactly.
fn is_same_question(a: &[u8], b: &[u8]) -> bool {
    let (a_name, a_kind) = a.split_at(a.len().saturating_sub(TYPE_AND_CLASS));
    let (b_name, b_kind) = b.split_at(b.len().saturating_sub(TYPE_AND_CLASS));
    a_name.eq_ignore_ascii_case(b_name) && a_kind == b_kind
}

struct RecordCount {
    /// Complete records of the type.
    records: u16,
    /// Whether the message ends within a record or before the last one.
    is_truncated: bool,
}

fn count_records(mut rest: &[u8], count: u16, kind: [u8; 2]) -> RecordCount {
    let mut records = 0;
    for _ in 0..count {
        let Some((found, behind)) = split_record(rest) else {
            return RecordCount {
                records,
                is_truncated: true,
            };
        };
        records += u16::from(found == kind || kind == ANY);
        rest = behind;
    }
    RecordCount {
        records,
        is_truncated: false,
    }
}

/// Returns the type of the first record, and the bytes after the record.
fn split_record(bytes: &[u8]) -> Option<([u8; 2], &[u8])> {
    let rest = behind_name(bytes)?;
    // Type, class, time to live, and the length of the data.
    let ([a, b, _, _, _, _, _, _, len @ ..], rest) = rest.split_first_chunk::<10>()?;
    let rest = rest.get(u16::from_be_bytes(*len).into()..)?;
    Some(([*a, *b], rest))
}

/// Returns the bytes after a name, which ends with its root or its first pointer.
fn behind_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, rest) = bytes.split_first()?;
        match len & POINTER {
            0 if len == 0 => return Some(rest),
            0 => bytes = rest.get(len.into()..)?,
            POINTER => return rest.get(1..),
            _ => return None,
        }
    }
}

/// Returns the number of a response code; `None` for any.
pub(crate) fn rcode(text: &str) -> Result<Option<u8>, ConfigError> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(None);
    }
    (0..=RCODE_MASK)
        .find(|number| rcode_name(*number).eq_ignore_ascii_case(text))
        .map(Some)
        .ok_or_else(|| {
            format!(
                "{text:?} is unknown; write any, or one of {}",
                RCODES.join(", ")
            )
            .into()
        })
}

/// Returns the name of a response code.
pub(crate) fn rcode_name(number: u8) -> String {
    match RCODES.get(usize::from(number)) {
        Some(name) => (*name).to_string(),
        None => format!("RCODE{number}"),
    }
}
