//! The question of a DNS message, RFC 1035 sections 4.1.1 and 4.1.2.
//!
//! Invariant: every byte is read once and within bounds, label by label up to the root or to the
//! end of a truncated payload. Compression pointers are not followed: a query has only one name, so
//! a pointer has no valid target.

use waxwing_sdk::ConfigError;

/// Length of the message header, in bytes.
const HEADER: usize = 12;
/// Longest label (section 2.3.4). A larger length byte is a pointer or reserved.
const LABEL_MAX: usize = 63;
/// Longest name in wire form, including the root.
const NAME_MAX: usize = 255;
/// Most labels that fit into the payload's start.
const STARTS_MAX: usize = 64;

/// A name in wire form, lower case, without the root's empty label.
pub(crate) struct Name {
    wire: [u8; 128],
    len: usize,
    /// Start of each label in `wire`.
    starts: [u8; STARTS_MAX],
    labels: usize,
    /// Whether the payload had the whole name. If not, its end is unknown.
    is_whole: bool,
}

/// Returns the name that a query asks for; `None` if the payload is not a query. Longer payloads
/// were truncated to `payload_max` bytes.
pub(crate) fn question(payload: &[u8], payload_max: usize) -> Option<Name> {
    let (header, rest) = payload.split_first_chunk::<HEADER>()?;
    let is_query = header[2] & 0x80 == 0;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    // RFC 9619: a query has one question.
    if !is_query || questions != 1 {
        return None;
    }
    read(rest, payload.len() >= payload_max)
}

fn read(mut bytes: &[u8], is_cut: bool) -> Option<Name> {
    let mut name = Name {
        wire: [0; 128],
        len: 0,
        starts: [0; STARTS_MAX],
        labels: 0,
        is_whole: true,
    };
    loop {
        match bytes.split_first() {
            Some((0, _)) => return Some(name),
            Some((&len, rest)) if usize::from(len) <= LABEL_MAX => {
                let label = &rest[..rest.len().min(len.into())];
                name.push(len, label);
                bytes = &rest[label.len()..];
                if label.len() < len.into() {
                    name.is_whole = false;
                    return is_cut.then_some(name);
                }
            }
            // A pointer, or a reserved kind of label.
            Some(_) => return None,
            None => {
                name.is_whole = false;
                return is_cut.then_some(name);
            }
        }
    }
}

impl Name {
    #[expect(clippy::cast_possible_truncation, reason = "a start is below 128")]
    fn push(&mut self, len: u8, label: &[u8]) {
        self.starts[self.labels] = self.len as u8;
        self.labels += 1;
        self.wire[self.len] = len;
        let to = &mut self.wire[self.len + 1..][..label.len()];
        to.copy_from_slice(label);
        to.make_ascii_lowercase();
        self.len += 1 + label.len();
    }

    /// Returns the known part of the name, to be hashed.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..self.len]
    }

    /// Returns the name's suffixes of at most `labels` labels, the longest first; none if the name
    /// was truncated.
    pub(crate) fn suffixes(&self, labels: usize) -> impl Iterator<Item = &[u8]> {
        let labels = if self.is_whole { labels } else { 0 };
        let from = self.labels.saturating_sub(labels);
        let starts = if labels == 0 {
            &[]
        } else {
            &self.starts[from..self.labels]
        };
        starts
            .iter()
            .map(|start| &self.wire()[usize::from(*start)..])
    }
}

/// Converts an operator's suffix to wire form, and counts its labels.
pub(crate) fn suffix(text: &str, labels_max: usize) -> Result<(Vec<u8>, usize), ConfigError> {
    let mut wire = Vec::new();
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').count();
    if labels > labels_max {
        return Err(format!("{labels} labels; at most {labels_max} are compared").into());
    }
    for label in text.split('.') {
        let len = u8::try_from(label.len()).unwrap_or(u8::MAX);
        if len == 0 || usize::from(len) > LABEL_MAX || label.contains('*') {
            return Err(
                "expected labels of 1 to 63 bytes with dots between, like example.com (which \
                 covers all names under it; write no *)"
                    .into(),
            );
        }
        if !label.is_ascii() {
            return Err("write the ASCII form: xn--...".into());
        }
        wire.push(len);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    if wire.len() >= NAME_MAX {
        return Err(format!("a name has at most {NAME_MAX} bytes").into());
    }
    Ok((wire, labels))
}
