//! Announcing VIPs: gratuitous ARP (RFC 5227 section 3) and unsolicited neighbour advertisements
//! (RFC 4861 section 7.2.6). Neighbours and switches learn from them where a VIP is.
//!
//! Invariant: the work per turn is bounded, so thousands of VIPs never delay a batch.

use waxwing_packet::Family;
use waxwing_packet::arp::Arp;
use waxwing_packet::ndp::Advertisement;

use crate::counters::WorkerCounters;
use crate::{FrameBuf, FrameIo, Now, Snapshot};

/// How often each VIP is announced on each port.
const ROUNDS: u8 = 2;
/// Time between two rounds, in milliseconds (`ANNOUNCE_INTERVAL` of RFC 5227).
const INTERVAL_MS: u64 = 2000;
/// The most announcements per turn.
const PER_TURN: usize = 16;

/// The announcements still to be sent.
#[derive(Default)]
pub(crate) struct Announcements {
    rounds: u8,
    at: usize,
    not_before_ms: u64,
}

impl Announcements {
    /// Starts to announce every VIP on every port, and on the VLANs of the port that the host is in.
    pub(crate) fn schedule(&mut self) {
        *self = Self {
            rounds: ROUNDS,
            ..Self::default()
        };
    }

    /// Sends the next announcements, [`PER_TURN`] at most.
    pub(crate) fn send<I: FrameIo>(
        &mut self,
        io: &mut I,
        snapshot: &Snapshot,
        counters: &WorkerCounters,
        now: Now,
    ) {
        if self.rounds == 0 || now.millis() < self.not_before_ms {
            return;
        }
        let all = snapshot
            .ports()
            .iter()
            .filter(|port| port.announces)
            .flat_map(|port| snapshot.vips().iter().map(move |vip| (port, *vip)));
        let mut sent = 0;
        for (port, vip) in all.skip(self.at).take(PER_TURN) {
            let Some(mut frame) = io.allocate(port.wire) else {
                // The pool is empty: the next turn continues here.
                self.at += sent;
                return;
            };
            sent += 1;
            let written = match vip.family() {
                Family::V4 => {
                    let arp = Arp::announcement(port.mac, port.tags, vip);
                    frame.set_len(arp.frame_len()) && arp.write(frame.bytes_mut())
                }
                Family::V6 => {
                    let advertisement = Advertisement::announcement(port.mac, port.tags, vip);
                    frame.set_len(advertisement.frame_len())
                        && advertisement.write(frame.bytes_mut())
                }
            };
            if written {
                match io.send(port.wire, frame) {
                    Ok(()) => counters.announced.add(1),
                    Err(reason) => counters.dropped(reason).add(1),
                }
            }
        }
        self.at += sent;
        if sent < PER_TURN {
            self.rounds -= 1;
            self.at = 0;
            self.not_before_ms = now.millis() + INTERVAL_MS;
        }
    }
}
