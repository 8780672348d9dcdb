//! An answer, RFC 1035 section 4.1.
//!
//! Invariant: names are passed over and never followed, so a compression pointer leads nowhere; the
//! walk goes forward only, within the message and its number of records.

use std::fmt;

use waxwing_sdk::{ConfigError, Unhealthy};

/// The message's header, in bytes.
const HEADER: usize = 12;
/// Flags in the third byte of the header: it is a response; it is cut.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
/// The response code, in the fourth.
const RCODE_MASK: u8 = 0x0f;
/// The two high bits of a length: a pointer, or a kind of label that nobody uses.
const POINTER: u8 = 0xc0;
/// Type and class behind a name.
const TYPE_AND_CLASS: usize = 4;
/// The type that stands for all.
const ANY: [u8; 2] = [0, 255];

/// Names of response codes, in order, RFC 1035 and RFC 2136.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];

/// Why an answer over TCP, or all that came over UDP, does not count.
pub(crate) const NOT_OURS: &str = "it answers another query than it was asked";
const MALFORMED: &str = "its answer is no DNS message, or a malformed one";

/// What an answer says.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) rcode: u8,
    /// Records of the type that was asked for.
    pub(crate) records: u16,
    pub(crate) is_truncated: bool,
}

impl Answer {
    /// Reads a message; `None` if it is no answer to this query.
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
            // A server that could not read the query may leave out its question.
            [0, 0] if rcode != 0 => rest,
            _ => return Ok(None),
        };
        let kind = query.last_chunk::<TYPE_AND_CLASS>().ok_or(MALFORMED)?;
        let count = u16::from_be_bytes([header[6], header[7]]);
        let found = count_records(records, count, [kind[0], kind[1]]);
        if found.is_cut && !is_truncated {
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

/// Names are alike in upper and lower case; type and class are numbers.
fn is_same_question(a: &[u8], b: &[u8]) -> bool {
    let (a_name, a_kind) = a.split_at(a.len().saturating_sub(TYPE_AND_CLASS));
    let (b_name, b_kind) = b.split_at(b.len().saturating_sub(TYPE_AND_CLASS));
    a_name.eq_ignore_ascii_case(b_name) && a_kind == b_kind
}

struct Found {
    /// Whole records of the type.
    records: u16,
    /// The message ends within a record, or before the last.
    is_cut: bool,
}

fn count_records(mut rest: &[u8], count: u16, kind: [u8; 2]) -> Found {
    let mut records = 0;
    for _ in 0..count {
        let Some((found, behind)) = split_record(rest) else {
            return Found {
                records,
                is_cut: true,
            };
        };
        records += u16::from(found == kind || kind == ANY);
        rest = behind;
    }
    Found {
        records,
        is_cut: false,
    }
}

/// The type of the record at the start, and what is behind it.
fn split_record(bytes: &[u8]) -> Option<([u8; 2], &[u8])> {
    let rest = behind_name(bytes)?;
    // Type, class, time to live, and the length of what follows.
    let ([a, b, _, _, _, _, _, _, len @ ..], rest) = rest.split_first_chunk::<10>()?;
    let rest = rest.get(u16::from_be_bytes(*len).into()..)?;
    Some(([*a, *b], rest))
}

/// What is behind a name: its root, or the first pointer.
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

/// The number of a response code, or `None` for any.
pub(crate) fn rcode(text: &str) -> Result<Option<u8>, ConfigError> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(None);
    }
    (0..=RCODE_MASK)
        .find(|number| rcode_name(*number).eq_ignore_ascii_case(text))
        .map(Some)
        .ok_or_else(|| {
            format!(
                "{text:?} is not known; write any, or one of {}",
                RCODES.join(", ")
            )
        })
}

/// The name of a response code.
pub(crate) fn rcode_name(number: u8) -> String {
    match RCODES.get(usize::from(number)) {
        Some(name) => (*name).to_string(),
        None => format!("RCODE{number}"),
    }
}
