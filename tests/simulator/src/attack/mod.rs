//! Attackers: floods, forged segments and errors, garbage, and spoofed replies.

mod frames;
mod siege;

use waxwing_packet::TcpFlags;

pub(crate) use self::frames::is_blind;
use self::frames::{
    blind_handshake, forged_segments, mutated, query, spoofed_reply, unknown_datagram,
    unknown_source,
};
pub(crate) use self::siege::SiegeAttackers;
use crate::addresses::{BACK, FRONT};
use crate::hosts::{Departure, Hosts};
use crate::plan::Plan;
use crate::random::Random;

const ACK: u8 = TcpFlags::ACK;

/// Makes a random attack. Returns its description.
pub(crate) fn attack(
    plan: &Plan,
    hosts: &Hosts,
    seen: &[Departure],
    random: &mut Random,
    out: &mut Vec<Departure>,
) -> &'static str {
    let count = random.between(1, plan.flood);
    match random.below(13) {
        0 | 1 => {
            (0..count).for_each(|_| out.push(unknown_source(hosts, TcpFlags::SYN, random)));
            "a flood of SYNs"
        }
        2 => {
            (0..count).for_each(|_| out.push(unknown_source(hosts, ACK, random)));
            "a flood of ACKs"
        }
        3 => {
            (0..count).for_each(|_| out.push(unknown_datagram(hosts, random)));
            "a flood of datagrams"
        }
        4 | 5 => {
            forged_segments(hosts, random, out);
            "forged segments of a connection"
        }
        6 => {
            out.push(spoofed_reply(plan, random));
            "a spoofed reply"
        }
        11 | 12 => {
            (0..count).for_each(|_| out.push(blind_handshake(hosts, random)));
            "a flood of handshakes that see no answer"
        }
        7 => {
            let len = random.index(120);
            out.push((random.one(&[FRONT, BACK]), random.bytes(len)));
            "random bytes"
        }
        8 | 9 => {
            out.extend(mutated(seen, random));
            "a mutated copy"
        }
        _ => {
            out.push(query(hosts, random));
            "a query to a VIP"
        }
    }
}
