//! A batch of packets with their verdicts.

use waxwing_packet::IpPacket;

use super::Verdict;
use crate::BATCH;

/// The packets of a batch and their verdicts, each at its frame's index.
pub(crate) struct Batch {
    /// `None` for frames that hold no IP packet.
    pub(crate) packets: Vec<Option<IpPacket>>,
    pub(crate) verdicts: Vec<Verdict>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            packets: Vec::with_capacity(BATCH),
            verdicts: Vec::with_capacity(BATCH),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.packets.clear();
        self.verdicts.clear();
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, packet: Option<IpPacket>, verdict: Verdict) {
        self.packets.push(packet);
        self.verdicts.push(verdict);
    }
}

/// A received frame and its parsed packet.
pub(crate) struct Arrived<'a, F> {
    pub(crate) frame: &'a mut F,
    pub(crate) packet: &'a IpPacket,
}

impl<F> Arrived<'_, F> {
    #[inline(always)]
    pub(crate) fn reborrow(&mut self) -> Arrived<'_, F> {
        Arrived {
            frame: self.frame,
            packet: self.packet,
        }
    }
}
