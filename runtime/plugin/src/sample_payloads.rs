//! Sample payloads that policies parse, for synthetic flows: DNS queries and QUIC packets.
//!
//! Invariant: each is valid by its RFC, so that a parser reaches its end; none is random.

use waxwing_dataplane::policy::PAYLOAD_MAX;

/// Returns a DNS query for a name of these labels, each of at most 63 bytes (RFC 1035 section 4.1).
pub fn dns_query(labels: impl IntoIterator<Item: AsRef<[u8]>>) -> Vec<u8> {
    // Recursion desired; one question.
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        let label = label.as_ref();
        query.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        query.extend(label);
    }
    // The root label; type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Returns a QUIC packet with a short header for this connection id (RFC 9000 section 17.3.1), followed
/// by filler bytes in place of the encrypted payload.
#[must_use]
pub fn quic_packet(connection_id: &[u8]) -> Vec<u8> {
    [&[0x40][..], connection_id, &[7; 40]].concat()
}

/// Returns the part of a payload that a policy can see, and its length.
#[must_use]
pub fn payload_prefix(payload: &[u8]) -> ([u8; PAYLOAD_MAX], u8) {
    let seen = &payload[..payload.len().min(PAYLOAD_MAX)];
    let mut prefix = [0; PAYLOAD_MAX];
    prefix[..seen.len()].copy_from_slice(seen);
    (prefix, u8::try_from(seen.len()).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_its_labels_and_a_packet_its_connection_id() {
        let query = dns_query(["www", "example"]);
        assert_eq!(query[12..], *b"\x03www\x07example\0\0\x01\0\x01");
        assert_eq!(quic_packet(&[1, 2, 3])[..5], [0x40, 1, 2, 3, 7]);
    }

    #[test]
    fn a_prefix_is_the_first_128_bytes() {
        let (short, len) = payload_prefix(&[5; 3]);
        assert_eq!((&short[..4], len), (&[5, 5, 5, 0][..], 3));
        assert_eq!(payload_prefix(&[5; 200]), ([5; PAYLOAD_MAX], 128));
    }
}
