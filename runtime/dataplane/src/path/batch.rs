//! A batch of packets with what the passes know of them.

use waxwing_packet::IpPacket;
use waxwing_packet::plain::{Kind, PackedTags, Plain};

use super::Verdict;
use crate::session::{Lane, Place};
use crate::{BATCH, PortId};

/// What the passes know of a packet: four to a cache line.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slot {
    /// Where the index has the flow.
    pub(crate) bucket: u32,
    /// Its entry there; none if it has no session, or if it takes the general path.
    pub(crate) lane: Lane,
    /// Tag control information of its VLAN tags.
    tci: u32,
    /// Length of the IP packet.
    pub(crate) len: u16,
    pub(crate) tag: u8,
    /// What it is (the lower 4 bits), and the kind of its VLAN tags.
    kind: u8,
}

const _: () = assert!(size_of::<Slot>() <= 16);

impl Slot {
    /// Of a packet that takes the general path.
    pub(crate) fn of(place: Place) -> Self {
        Self {
            bucket: place.bucket,
            tag: place.tag,
            ..Self::default()
        }
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, Plain { kind, len, tags }: Plain, place: Place) {
        self.bucket = place.bucket;
        self.tci = tags.tci;
        self.len = len;
        self.tag = place.tag;
        self.kind = kind as u8 | tags.kind;
    }

    /// What the packet is; `None` if it has VLAN tags and `TAGGED` is not set.
    #[inline(always)]
    pub(crate) const fn kind<const TAGGED: bool>(&self) -> Option<Kind> {
        let kind = if TAGGED { self.kind & 15 } else { self.kind };
        Kind::of(kind)
    }

    #[inline(always)]
    pub(crate) const fn tags(&self) -> PackedTags {
        PackedTags {
            kind: self.kind & !15,
            tci: self.tci,
        }
    }

    #[inline(always)]
    pub(crate) fn place(&self) -> Place {
        Place {
            bucket: self.bucket,
            tag: self.tag,
        }
    }
}

/// Some packets of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PacketSet(u64);

const _: () = assert!(BATCH <= u64::BITS as usize);

impl PacketSet {
    #[inline(always)]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub(crate) const fn contains(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }

    #[inline(always)]
    pub(crate) const fn insert(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    #[inline(always)]
    pub(crate) fn iter(mut self) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            let at = self.0.trailing_zeros() as usize;
            let is_one = self.0 != 0;
            self.0 &= self.0.wrapping_sub(1);
            is_one.then_some(at)
        })
    }
}

/// The packets of a batch, each at its frame's index.
pub(crate) struct Batch {
    pub(crate) slots: Box<[Slot; BATCH]>,
    /// The egress port and the frame's length of each packet that is rewritten.
    pub(crate) ports: [PortId; BATCH],
    pub(crate) lens: [u32; BATCH],
    /// Of those that take the general path. `None` for frames that hold no IP packet.
    pub(crate) packets: Vec<Option<IpPacket>>,
    pub(crate) verdicts: Vec<Verdict>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            slots: Box::new([Slot::default(); BATCH]),
            ports: [PortId(0); BATCH],
            lens: [0; BATCH],
            packets: Vec::with_capacity(BATCH),
            verdicts: Vec::with_capacity(BATCH),
        }
    }

    /// Begins a batch of `len` packets, at most [`BATCH`].
    #[inline(always)]
    pub(crate) fn begin(&mut self, len: usize) {
        assert!(len <= BATCH, "a batch has at most {BATCH} frames");
        if len != self.verdicts.len() {
            // What earlier batches left is overwritten before it is read.
            self.packets.resize(len, None);
            self.verdicts.resize(len, Verdict::Held);
        }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Notes that a packet is rewritten.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 4 GiB"
    )]
    pub(crate) fn set_forwarded(&mut self, at: usize, port: PortId, len: usize) {
        (self.ports[at], self.lens[at]) = (port, len as u32);
    }

    pub(crate) fn set(&mut self, at: usize, packet: Option<IpPacket>, verdict: Verdict) {
        self.packets[at] = packet;
        self.verdicts[at] = verdict;
    }

    /// Gives the packets that are rewritten their verdicts: all but the `exceptions`.
    pub(crate) fn note_forwarded(&mut self, exceptions: PacketSet) {
        for at in 0..self.len() {
            if !exceptions.contains(at) {
                self.set(at, None, Verdict::Forward(self.ports[at]));
            }
        }
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
