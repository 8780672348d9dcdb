//! Synthetic flows: random clients, both families and protocols, payloads of every length, DNS
//! queries and QUIC packets among them.
//!
//! Invariant: the same seed gives the same flows, so that two runs can be compared flow by flow.

use waxwing_dataplane::NewFlow;
use waxwing_dataplane::policy::PAYLOAD_MAX;
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::sample_payloads::{dns_query, payload_prefix, quic_packet};
use waxwing_sdk::hash;

/// The VIP in both families (RFC 5737, RFC 3849).
const VIP_V4: Address = Address::v4([203, 0, 113, 10]);
const VIP_V6: Address = Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);

/// Returns an endless sequence of flows.
pub(crate) fn flows(seed: u64) -> impl Iterator<Item = NewFlow> {
    (0_u64..).map(move |at| flow(hash::mix(seed ^ hash::mix(at))))
}

/// Returns a flow. One in four is IPv6; one in four is UDP, and only those have a payload; one TCP
/// flow in sixteen is mid-stream. A quarter of the UDP payloads are DNS queries of up to 64 labels,
/// a quarter QUIC packets whose connection ids hold a server id from 1 to 4.
fn flow(random: u64) -> NewFlow {
    let [a, b, c, low, high, kind, fill, len] = random.to_le_bytes();
    let udp = kind % 4 == 1;
    let (source, destination) = if kind / 4 % 4 == 1 {
        let client = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, a, b, c, kind];
        (Address::v6(client), VIP_V6)
    } else {
        (Address::v4([10, a, b, c]), VIP_V4)
    };
    let (payload, payload_len) = match kind / 16 % 4 {
        _ if !udp => ([fill; PAYLOAD_MAX], 0),
        0 => {
            let letter = |at: u8| b'a' + fill.wrapping_add(at.wrapping_mul(c)) % 26;
            payload_prefix(&dns_query((0..=len % 64).map(|at| [letter(at)])))
        }
        1 => payload_prefix(&quic_packet(&[0, 0, 0, 0, 1 + c % 4, a, b, fill])),
        _ => ([fill; PAYLOAD_MAX], len % 129),
    };
    NewFlow {
        source,
        source_port: u16::from_le_bytes([low, high]) | 1024,
        destination,
        destination_port: 443,
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        hash: hash::mix(!random),
        mid_stream: !udp && kind / 16 == 1,
        payload_len,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_cover_every_kind_and_depend_only_on_the_seed() {
        let made: Vec<NewFlow> = flows(7).take(1000).collect();
        let count = |is: fn(&NewFlow) -> bool| made.iter().filter(|flow| is(flow)).count();
        let udp = count(|flow| flow.protocol == Protocol::Udp);
        let v6 = count(|flow| flow.destination == VIP_V6);
        let middle = count(|flow| flow.mid_stream);
        assert!((150..350).contains(&udp), "{udp} UDP");
        assert!((150..350).contains(&v6), "{v6} IPv6");
        assert!((20..120).contains(&middle), "{middle} mid-stream");
        let queries =
            count(|flow| flow.payload_len > 12 && flow.payload[..6] == [0, 1, 1, 0, 0, 1]);
        let packets =
            count(|flow| flow.payload_len == 49 && flow.payload[..5] == [0x40, 0, 0, 0, 0]);
        assert!((20..120).contains(&queries), "{queries} DNS queries");
        assert!((20..120).contains(&packets), "{packets} QUIC packets");
        let hashes = |seed| flows(seed).take(1000).map(|flow| flow.hash);
        assert!(hashes(7).eq(made.iter().map(|flow| flow.hash)));
        assert!(!hashes(8).eq(hashes(7)));
    }
}
