//! The question of a DNS message, RFC 1035 sections 4.1.1 and 4.1.2.
//!
//! Invariant: every byte is read once and within bounds; labels run from the front to the root, or to
//! where the payload's start was cut off. No compression pointer is followed: a query's only name
//! has nothing to point to.

use waxwing_sdk::ConfigError;

/// The message's header, in bytes.
const HEADER: usize = 12;
/// The longest label (section 2.3.4); a longer length is a pointer or reserved.
const LABEL_MAX: usize = 63;
/// The longest name in wire form, with the root.
const NAME_MAX: usize = 255;
/// As many labels as fit into the payload's start.
const STARTS_MAX: usize = 64;

/// A name in wire form, lower case, without the root's empty label.
pub(crate) struct Name {
    wire: [u8; 128],
    len: usize,
    /// Where each label starts.
    starts: [u8; STARTS_MAX],
    labels: usize,
    /// Whether all of it was there; if not, nobody knows how it ends.
    is_whole: bool,
}

/// The name that a query asks for; `None` if it is none. `payload_max` is where a longer one was cut
/// off.
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

    /// What there is of it, for a hash.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..self.len]
    }

    /// Its ends of up to so many labels, the longest first; none if its end is not there.
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

/// A suffix as an operator writes it, in wire form, with the number of its labels.
pub(crate) fn suffix(text: &str, labels_max: usize) -> Result<(Vec<u8>, usize), ConfigError> {
    let mut wire = Vec::new();
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').count();
    if labels > labels_max {
        return Err(format!("it has {labels} labels; at most {labels_max} are compared").into());
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
            return Err("write it as it is asked for, in ASCII: xn--...".into());
        }
        wire.push(len);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    if wire.len() >= NAME_MAX {
        return Err(format!("a name has at most {NAME_MAX} bytes").into());
    }
    Ok((wire, labels))
}
