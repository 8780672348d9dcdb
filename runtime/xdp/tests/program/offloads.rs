//! Signs that senders leave checksums and segmentation to a network card: counted by the program, by port.

use libtest_mimic::Failed;
use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Link, Mac, Protocol, TcpFlags};
use waxwing_testkit::build::Tcp;
use waxwing_xdp::{Offloads, Program};

use crate::frames::{CLIENT, CLIENT6, PORT, VIP, VIP6, ip};

/// Returns a segment to a service.
fn segment(from: &str, to: &str, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    Tcp {
        link: Link {
            destination: Mac(PORT),
            ..Link::default()
        },
        source: (Address::from(ip(from)), 40_000),
        destination: (Address::from(ip(to)), 80),
        flags,
        payload,
        ..Tcp::default()
    }
    .frame()
}

/// Replaces the checksum by the pseudo-header's sum, as a kernel leaves it to a network card.
fn unfinished(mut frame: Vec<u8>) -> Vec<u8> {
    let (addresses, transport) = if frame[12..14] == [0x08, 0x00] {
        (26..34, 34)
    } else {
        (22..54, 54)
    };
    let len = u32::try_from(frame.len() - transport).expect("short");
    let words = frame[addresses].chunks_exact(2);
    let words = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + len + u32::from(Protocol::Tcp as u8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).expect("folded");
    frame[transport + 16..transport + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn counted(program: &mut Program, frame: &[u8]) -> Result<[u64; 3], Failed> {
    let counts = |Offloads {
                      checked,
                      partial,
                      oversized,
                  }| [checked, partial, oversized];
    let before = counts(program.offloads(PortId(0)));
    program.classify(frame)?;
    let after = counts(program.offloads(PortId(0)));
    Ok([0, 1, 2].map(|at| after[at] - before[at]))
}

pub(crate) fn unfinished_frames_are_counted(program: &mut Program) -> Result<(), Failed> {
    let (syn, ack) = (TcpFlags(TcpFlags::SYN), TcpFlags(TcpFlags::ACK));
    for (from, to) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let rows = [
            ("a SYN", segment(from, to, syn, &[]), [1, 0, 0]),
            (
                "an unfinished SYN",
                unfinished(segment(from, to, syn, &[])),
                [1, 1, 0],
            ),
            (
                "with data",
                unfinished(segment(from, to, syn, b"early")),
                [1, 1, 0],
            ),
            (
                "other packets",
                unfinished(segment(from, to, ack, b"data")),
                [0, 0, 0],
            ),
            (
                "as long as the MTU",
                segment(from, to, ack, &[1; 1440]),
                [0, 0, 0],
            ),
            (
                "a merged one",
                segment(from, to, ack, &[1; 2880]),
                [0, 0, 1],
            ),
        ];
        for (name, frame, expected) in rows {
            let found = counted(program, &frame)?;
            if found != expected {
                return Err(format!("{name} to {to}: {found:?}").into());
            }
        }
    }
    Ok(())
}
