//! The invariant parts of a QUIC packet (RFC 8999 section 5), and which packets have a connection
//! id that the client chose (RFC 9000 section 17.2, RFC 9369 section 3.2).
//!
//! Invariant: nothing beyond the payload's start is read; a payload that is not QUIC has no id.

/// Longest connection id of QUIC versions 1 and 2 (RFC 9000 section 17.2).
pub(crate) const CONNECTION_ID_MAX: usize = 20;
/// Bytes of a packet that are read: first byte, version, length, connection id.
pub(crate) const LEN_MAX: usize = 1 + 4 + 1 + CONNECTION_ID_MAX;

/// The header form bit, set in long headers.
const LONG: u8 = 0x80;

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// Returns the packet's destination connection id if the server chose it. A short header does not
/// state its length, so other bytes may follow it.
pub(crate) fn server_chosen_id(packet: &[u8]) -> Option<&[u8]> {
    let (first, rest) = packet.split_first()?;
    if first & LONG == 0 {
        return Some(&rest[..rest.len().min(CONNECTION_ID_MAX)]);
    }
    let (version, rest) = rest.split_first_chunk()?;
    let packet_type = first >> 4 & 0b11;
    // Initial and 0-RTT packets open a connection. Nothing is known about other versions, and the
    // server's answer to them starts a new connection.
    match (u32::from_be_bytes(*version), packet_type) {
        (VERSION_1, 0 | 1) | (VERSION_2, 1 | 2) => None,
        (VERSION_1 | VERSION_2, _) => {
            let (length, rest) = rest.split_first()?;
            let is_valid = usize::from(*length) <= CONNECTION_ID_MAX;
            rest.get(..usize::from(*length)).filter(|_| is_valid)
        }
        _ => None,
    }
}
