//! The attackers of a siege.
//!
//! Invariant: they know every address and port but no sequence number. They send all that a host outside the
//! connection can send in the name of either end, from either side, except the server's FIN from the servers'
//! side. The balancer considers a connection closed once both ends sent a FIN, because it does not track
//! sequence numbers; a full table may evict it. The client's FIN is forged.

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Packet, Protocol, TcpFlags, Transport, parse};

use super::frames::{
    forged_segments, icmp_error, is_acceptable, mutated, query, scramble, unknown_source,
};
use crate::addresses::{BACK, FRONT, PORT_MACS, any_service, client};
use crate::hosts::{Departure, Hosts};
use crate::plan::Plan;
use crate::random::Random;
use crate::view::{UDP, view};

/// The attackers of a siege, and their counts so far.
#[derive(Debug, Default)]
pub(crate) struct SiegeAttackers {
    /// Frames of the fuzzer.
    corpus: Vec<Vec<u8>>,
    /// Whether they attack.
    pub(crate) is_active: bool,
    /// Frames of the corpus, unchanged or mutated.
    pub(crate) garbage: u64,
    /// Forged segments and ICMP errors.
    pub(crate) forged: u64,
    /// Gateways that failed over.
    pub(crate) fail_overs: u64,
}

impl SiegeAttackers {
    pub(crate) fn new(corpus: Vec<Vec<u8>>) -> Self {
        Self {
            corpus,
            ..Self::default()
        }
    }

    /// Makes a random attack. Returns its description.
    pub(crate) fn attack(
        &mut self,
        plan: &Plan,
        hosts: &Hosts,
        seen: &[Departure],
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> &'static str {
        if !self.is_active {
            return "no attack yet";
        }
        let before = out.len();
        let mut counted = None;
        let what = match random.below(10) {
            0..=2 => {
                let count = random.between(1, plan.flood);
                (0..count).for_each(|_| out.push(unknown_source(hosts, TcpFlags::SYN, random)));
                "a flood of SYNs"
            }
            3..=5 => {
                forged_segments(hosts, random, out);
                counted = Some(&mut self.forged);
                "forged segments of a connection"
            }
            6 => {
                let vip = any_service(random, Protocol::Tcp);
                out.push(icmp_error(hosts, vip, random));
                counted = Some(&mut self.forged);
                "a forged ICMP error"
            }
            7 | 8 => {
                for _ in 0..random.between(1, plan.flood) {
                    out.extend(self.garbage(random));
                }
                counted = Some(&mut self.garbage);
                "garbage"
            }
            _ => {
                out.extend(mutated(seen, random));
                out.push(query(hosts, random));
                "a mutated copy and a query"
            }
        };
        out.retain(|(port, frame)| !is_excluded(plan, *port, frame));
        if let Some(count) = counted {
            *count += (out.len() - before) as u64;
        }
        what
    }

    /// A frame of the corpus: unchanged, readdressed to the balancer's MAC address, or mutated too.
    fn garbage(&self, random: &mut Random) -> Option<Departure> {
        let port = random.one(&[FRONT, BACK]);
        let mut frame = self.corpus.get(random.index(self.corpus.len()))?.clone();
        let manner = random.below(3);
        if manner == 2 {
            scramble(&mut frame, random);
        }
        if manner > 0
            && let Some(destination) = frame.get_mut(..6)
        {
            destination.copy_from_slice(&PORT_MACS[port.index()].0);
        }
        (!is_valid_datagram(&frame)).then_some((port, frame))
    }
}

/// Whether a server would answer a frame like one of the simulated clients'.
fn is_valid_datagram(frame: &[u8]) -> bool {
    view(frame).is_some_and(|view| view.protocol == UDP) && is_acceptable(frame)
}

/// Whether a frame is a server's FIN from the servers' side, which attackers do not send; see above.
fn is_excluded(plan: &Plan, port: PortId, frame: &[u8]) -> bool {
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return false;
    };
    let closes =
        matches!(packet.transport, Transport::Tcp { flags, .. } if flags.has(TcpFlags::FIN));
    port == BACK && closes && !is_client(plan, packet.source)
}

/// Whether an address is one of the plan's clients.
fn is_client(plan: &Plan, address: Address) -> bool {
    (0..plan.clients).any(|n| address == client(address, n))
}
