//! What may be known of a QUIC packet from outside: RFC 8999 section 5, and from RFC 9000 section 17.2
//! and RFC 9369 section 3.2 which packets bear a connection id that the client made up.
//!
//! Invariant: nothing is read beyond the payload's start; what is no QUIC has no id.

/// The longest connection id of QUIC's versions 1 and 2 (RFC 9000 section 17.2).
pub(crate) const CONNECTION_ID_MAX: usize = 20;
/// First byte, version, length, connection id: as much of a packet as is read.
pub(crate) const LEN_MAX: usize = 1 + 4 + 1 + CONNECTION_ID_MAX;

/// The header form bit: set in long headers.
const LONG: u8 = 0x80;

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// The packet's destination connection id, if it is one that the server gave out. A short header does
/// not say how long it is: there may be other bytes behind it.
pub(crate) fn server_chosen_id(packet: &[u8]) -> Option<&[u8]> {
    let (first, rest) = packet.split_first()?;
    if first & LONG == 0 {
        return Some(&rest[..rest.len().min(CONNECTION_ID_MAX)]);
    }
    let (version, rest) = rest.split_first_chunk()?;
    let packet_type = first >> 4 & 0b11;
    // Initial and 0-RTT packets open a connection. Of another version nothing is known, and the
    // server's answer to it begins anew.
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
