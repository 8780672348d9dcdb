//! A siege: a thousand transfers under way, and whoever means ill at work beside them for ten minutes.
//!
//! Invariant: who attacks knows every address and port, and no sequence number; and does what a
//! stranger can do, in the name of either end, but for two things:
//!
//! - The server's FIN: the balancer takes a connection whose both ends have said FIN for closed, as it has
//!   to without their sequence numbers, and a full table may give its place away. The client's FIN alone
//!   is forged all the time.
//! - A client's packet from the servers' network: the way to a client is the way that its packets come,
//!   so who stands there and is let to forge them gets the answers.
//!
//! Every transfer speaks within 10 seconds: a connection that was silent for longer, since a forged RST,
//! may be given away likewise.

use std::fmt;
use std::path::Path;

use waxwing_dataplane::PortId;
use waxwing_packet::{Packet, Protocol, TcpFlags, Transport, parse};

use crate::attacker::{
    any_service, error, forge, is_believed, mutated, question, scramble, stranger,
};
use crate::config::{BACK, FRONT, PORT_MACS};
use crate::hosts::{Departure, Hosts, is_client};
use crate::plan::Plan;
use crate::random::Random;
use crate::tally::Tally;
use crate::tcp::{Habits, Pause};
use crate::view::{UDP, view};
use crate::world::World;

/// How long the attacks go on.
const TIME_US: u64 = 600 * 1_000_000;
/// How long it may take until all transfers are under way, and until all have ended.
const OPENING_US: u64 = 30 * 1_000_000;
const ENDING_US: u64 = 60 * 1_000_000;
/// Bytes that a transfer says at a time.
const PART_LEN: u32 = 16;

/// What a siege has come to: no transfer was harmed, or it would have failed.
#[derive(Clone, Debug)]
pub struct Siege {
    /// Transfers that were under way all the time, and then completed with every byte right.
    pub transfers: u64,
    /// How long they were attacked for.
    pub seconds: u64,
    /// Frames of the fuzzer's corpus, whole or changed, that the balancer got.
    pub garbage: u64,
    /// Segments and ICMP errors with the addresses of a transfer.
    pub forged: u64,
    /// Gateways of clients that failed over.
    pub fail_overs: u64,
    /// What was counted of the world.
    pub tally: Tally,
}

impl fmt::Display for Siege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transfers unharmed in {} s: {} packets, {} sessions evicted, {} frames of the corpus, \
             {} forged, {} gateways failed over",
            self.transfers,
            self.seconds,
            self.tally.packets,
            self.tally.evicted,
            self.garbage,
            self.forged,
            self.fail_overs
        )
    }
}

/// The frames that the fuzzer keeps, in an order that is the same everywhere.
///
/// # Errors
/// Where the folder cannot be read.
pub fn corpus() -> Result<Vec<Vec<u8>>, String> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../runtime/dataplane/fuzz/corpus/any_bytes"
    );
    let read = |folder: &Path| -> std::io::Result<Vec<Vec<u8>>> {
        let entries = std::fs::read_dir(folder)?;
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(std::fs::read).collect()
    };
    read(Path::new(folder)).map_err(|error| format!("the fuzzer's corpus, {folder}: {error}"))
}

/// Who attacks, and what was done so far.
#[derive(Debug, Default)]
pub(crate) struct Attackers {
    corpus: Vec<Vec<u8>>,
    /// The attacks have begun.
    at_work: bool,
    garbage: u64,
    forged: u64,
    pub(crate) fail_overs: u64,
}

/// Of both ends of a transfer: one says a little every few seconds, for somewhat longer than the siege;
/// the other has asked for it, or keeps it, and closes last.
pub(crate) fn habits(random: &mut Random) -> [Habits; 2] {
    let wait_us = random.between(5_000_000, 8_000_000);
    let parts = (OPENING_US + TIME_US).div_ceil(wait_us) as u32 + 1;
    let busy = Habits {
        total: parts * PART_LEN,
        segment: PART_LEN,
        flight: 1,
        closes_first: true,
        resets_at: None,
        pause: Some(Pause {
            at: 1 + PART_LEN,
            wait_us,
            every: PART_LEN,
        }),
        opens_too: false,
    };
    let quiet = Habits {
        total: 100,
        segment: 100,
        closes_first: false,
        pause: None,
        ..busy
    };
    if random.chance(500) {
        [busy, quiet]
    } else {
        [quiet, busy]
    }
}

impl Attackers {
    pub(crate) fn new(corpus: Vec<Vec<u8>>) -> Self {
        Self {
            corpus,
            ..Self::default()
        }
    }

    /// One attack; what it is, in words.
    pub(crate) fn attack(
        &mut self,
        plan: &Plan,
        hosts: &Hosts,
        seen: &[Departure],
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> &'static str {
        if !self.at_work {
            return "not yet";
        }
        let before = out.len();
        let mut counted = None;
        let what = match random.below(10) {
            0..=2 => {
                let count = random.between(1, plan.flood);
                (0..count).for_each(|_| out.push(stranger(hosts, TcpFlags::SYN, random)));
                "a flood of SYNs"
            }
            3..=5 => {
                forge(hosts, random, out);
                counted = Some(&mut self.forged);
                "forged segments of a connection"
            }
            6 => {
                let vip = any_service(random, Protocol::Tcp);
                out.push(error(hosts, vip, random));
                counted = Some(&mut self.forged);
                "a forged error"
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
                out.push(question(hosts, random));
                "a damaged copy and a question"
            }
        };
        out.retain(|(port, frame)| !is_left_out(plan, *port, frame));
        if let Some(count) = counted {
            *count += (out.len() - before) as u64;
        }
        what
    }

    /// A frame of the corpus: as it is, to the balancer's own MAC, or changed.
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
        (!is_question(&frame)).then_some((port, frame))
    }
}

/// Whether a server would answer it as if a client of this world had asked.
fn is_question(frame: &[u8]) -> bool {
    view(frame).is_some_and(|view| view.protocol == UDP) && is_believed(frame)
}

/// Whether it is what no stranger can do.
fn is_left_out(plan: &Plan, port: PortId, frame: &[u8]) -> bool {
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return false;
    };
    let closes =
        matches!(packet.transport, Transport::Tcp { flags, .. } if flags.has(TcpFlags::FIN));
    port == BACK && (closes || is_client(plan, packet.source))
}

impl World {
    /// Lives through a siege.
    pub(crate) fn endure(&mut self) -> Result<Siege, String> {
        let transfers = self.plan().transfers.unwrap_or(0);
        let opened_at_us = self.now_us + OPENING_US;
        self.mend();
        while self.hosts.taken() < transfers {
            self.go_on(opened_at_us, "not all transfers get under way")?;
        }
        self.attackers.at_work = true;
        let end_us = self.now_us + TIME_US;
        while self.now_us < end_us {
            self.go_on(u64::MAX, "")?;
        }
        if self.hosts.under_way() < transfers {
            return Err("a transfer was over before the siege was".into());
        }
        self.resting = true;
        let ended_at_us = self.now_us + ENDING_US;
        while self.hosts.under_way() > 0 {
            self.go_on(ended_at_us, "not all transfers come to their end")?;
        }
        self.hosts.are_unharmed()?;
        Ok(Siege {
            transfers: self.hosts.completed,
            seconds: TIME_US / 1_000_000,
            garbage: self.attackers.garbage,
            forged: self.attackers.forged,
            fail_overs: self.attackers.fail_overs,
            tally: self.tally(),
        })
    }

    fn go_on(&mut self, until_us: u64, late: &str) -> Result<(), String> {
        if self.next()? && self.now_us <= until_us {
            return Ok(());
        }
        Err(format!(
            "{late}: {} of {}",
            self.hosts.under_way(),
            self.hosts.taken()
        ))
    }
}
