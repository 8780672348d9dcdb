//! A worker's books: what it counted is what happened.
//!
//! Invariant: received + released = transmitted + dropped + to the kernel + held, frame by frame and byte
//! by byte.

use waxwing_dataplane::counters::WorkerCounters;

use crate::wire::{Fate, Handled, Own, is_fragment};

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) received: u64,
    received_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    to_kernel: u64,
    /// Frames that did not leave: they were dropped, or held.
    ended: u64,
    /// Frames of the worker's own that were sent.
    own: u64,
    announced: u64,
}

impl Ledger {
    /// Enters a turn, and compares. `allocated` frames the worker has made in all, so many the kernel
    /// has `refused`, and so many that were `released` it has got.
    pub(crate) fn check(
        &mut self,
        counters: &WorkerCounters,
        drops: u64,
        (allocated, refused, released): (u64, u64, u64),
        (handled, own): (&[Handled], &[Own]),
    ) -> Result<(), String> {
        for frame in handled {
            self.received += 1;
            self.received_bytes += frame.bytes.len() as u64;
            match frame.fates.first() {
                Some(Fate::Sent(_, bytes)) => {
                    self.sent += 1;
                    self.sent_bytes += bytes.len() as u64;
                }
                Some(Fate::Kernel(_)) => self.to_kernel += 1,
                None => self.ended += 1,
            }
        }
        for (_, bytes) in own {
            self.own += 1;
            if is_fragment(bytes) {
                self.sent += 1;
                self.sent_bytes += bytes.len() as u64;
            } else {
                self.announced += 1;
            }
        }
        let rows = [
            ("received", self.received, counters.received.packets.get()),
            (
                "received bytes",
                self.received_bytes,
                counters.received.bytes.get(),
            ),
            ("transmitted", self.sent, counters.transmitted.packets.get()),
            (
                "transmitted bytes",
                self.sent_bytes,
                counters.transmitted.bytes.get(),
            ),
            (
                "to the kernel",
                self.to_kernel + released + refused,
                counters.to_kernel.get(),
            ),
            ("announced", self.announced, counters.announced.get()),
        ];
        for (what, happened, counted) in rows {
            if happened != counted {
                return Err(format!(
                    "{what}: {happened} frames or bytes, counted as {counted}"
                ));
            }
        }
        // What the kernel refused counts as dropped as well; so does an announcement for which there was
        // no room. What is dropped on its release may have had no frame.
        let ended = self.ended + allocated - self.own - released;
        let without_frame = counters.released.get();
        let counted = drops + counters.held.get();
        if !(ended..=ended + without_frame).contains(&counted) {
            return Err(format!(
                "dropped or held: {ended} frames, and at most {without_frame} more, counted as {counted}"
            ));
        }
        Ok(())
    }
}
