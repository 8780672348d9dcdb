//! Why a frame is malformed.

use std::fmt;

/// Why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The frame ends inside a header.
    Truncated,
    /// A version, length or offset field contradicts the frame.
    BadLength,
    /// A first fragment ends inside the transport header or an extension header before it (RFC 1858
    /// section 2.1, RFC 7112 section 5).
    TinyFragment,
    /// Too many IPv6 extension headers, or a second fragment header.
    TooManyExtensions,
    /// A field has a value that its protocol forbids, such as an IPv4-mapped address in IPv6, or the
    /// hop limit of a forwarded neighbour solicitation.
    Forbidden,
    /// Wrong checksum in a message that is processed, not forwarded.
    BadChecksum,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the frame ends inside a header",
            Self::BadLength => "a version, length or offset field contradicts the frame",
            Self::TinyFragment => "a first fragment ends inside its headers",
            Self::TooManyExtensions => "too many IPv6 extension headers, or two fragment headers",
            Self::Forbidden => "a field has a value that its protocol forbids",
            Self::BadChecksum => "the checksum is wrong",
        })
    }
}

impl std::error::Error for ParseError {}
