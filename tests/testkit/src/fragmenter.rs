//! Fragments datagrams and reassembles them, independently of the core, after RFC 791 section 3.2
//! and RFC 8200 section 4.5.

#![expect(
    clippy::cast_possible_truncation,
    reason = "every length fits its field"
)]

use waxwing_packet::{Fragment, IpPacket, Packet, checksum, parse};

/// The offset of the IP header in an untagged frame.
pub const IP: usize = 14;
pub const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
/// The fragment header's type.
const FRAGMENT: u8 = 44;

/// Fragments a frame's IP payload into these lengths; the last fragment takes the rest.
pub fn fragment(frame: &[u8], lens: &[usize], identification: u32) -> Vec<Vec<u8>> {
    let payload = frame.len() - header_end(frame);
    let mut at = 0;
    let mut pieces = Vec::new();
    for len in lens {
        pieces.push(fragment_at(frame, identification, at, *len, true));
        at += len;
    }
    pieces.push(fragment_at(frame, identification, at, payload - at, false));
    pieces
}

/// One fragment of a frame: `len` bytes of its IP payload, from `at` on.
pub fn fragment_at(frame: &[u8], id: u32, at: usize, len: usize, more: bool) -> Vec<u8> {
    let start = header_end(frame);
    let rest = &frame[start + at..start + at + len];
    fragment_with(frame, id, at, more, rest)
}

/// A fragment with a frame's headers and this range.
pub fn fragment_with(frame: &[u8], id: u32, at: usize, more: bool, data: &[u8]) -> Vec<u8> {
    assert!(at.is_multiple_of(8), "offsets are in units of eight bytes");
    let start = header_end(frame);
    let mut made = frame[..start].to_vec();
    if is_v4(frame) {
        set(&mut made, IP + 2, (V4_LEN + data.len()) as u16);
        set(&mut made, IP + 4, id as u16);
        set(&mut made, IP + 6, u16::from(more) << 13 | (at / 8) as u16);
        fix_checksum(&mut made);
    } else {
        let next = std::mem::replace(&mut made[IP + 6], FRAGMENT);
        set(&mut made, IP + 4, (8 + data.len()) as u16);
        made.extend([next, 0]);
        made.extend((at as u16 | u16::from(more)).to_be_bytes());
        made.extend(id.to_be_bytes());
    }
    made.extend(data);
    made
}

/// Reassembles fragments in any order; returns the original frame if they
/// are complete and nothing else is there.
pub fn reassemble(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<(Fragment, &[u8], &[u8])> = frames
        .iter()
        .map(|frame| {
            let packet = ip_of(frame);
            let fragment = packet.fragment.expect("a fragment");
            let start = usize::from(packet.end - fragment.len);
            (fragment, &frame[..start], &frame[start..packet.end.into()])
        })
        .collect();
    parts.sort_by_key(|(fragment, _, _)| fragment.offset);
    let (first, headers, _) = parts[0];
    let mut payload = Vec::new();
    for (fragment, _, data) in &parts {
        assert_eq!(usize::from(fragment.offset), payload.len(), "no gap");
        assert_eq!(fragment.identification, first.identification);
        payload.extend_from_slice(data);
    }
    let ends: Vec<bool> = parts
        .iter()
        .map(|(fragment, _, _)| !fragment.more)
        .collect();
    assert!(ends.iter().rev().skip(1).all(|end| !end) && ends[ends.len() - 1]);

    let mut whole = headers.to_vec();
    if is_v4(&whole) {
        // "Don't fragment", as in built frames.
        set(&mut whole, IP + 2, (V4_LEN + payload.len()) as u16);
        set(&mut whole, IP + 4, 0);
        set(&mut whole, IP + 6, 0x4000);
        fix_checksum(&mut whole);
    } else {
        whole[IP + 6] = whole[IP + V6_LEN];
        whole.truncate(IP + V6_LEN);
        set(&mut whole, IP + 4, payload.len() as u16);
    }
    whole.extend(payload);
    whole
}

pub fn ip_of(frame: &[u8]) -> IpPacket {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("not an IP packet: {other:?}"),
    }
}

/// All permutations of `n` items.
pub fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for at in 0..n {
            let mut order = shorter.clone();
            order.insert(at, n - 1);
            all.push(order);
        }
    }
    all
}

fn header_end(frame: &[u8]) -> usize {
    IP + if is_v4(frame) { V4_LEN } else { V6_LEN }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[IP] >> 4 == 4
}

fn set(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub fn fix_checksum(frame: &mut [u8]) {
    set(frame, IP + 10, 0);
    let sum = checksum::of(&frame[IP..IP + V4_LEN]);
    set(frame, IP + 10, sum);
}
