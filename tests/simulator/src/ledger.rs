//! A worker's books: what it counted is what happened.
//!
//! Invariant: received = transmitted + dropped + to the kernel, frame by frame and byte by byte.

use waxwing_dataplane::counters::WorkerCounters;

use crate::wire::{Fate, Handled, Own};

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) received: u64,
    received_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    to_kernel: u64,
    dropped: u64,
    announced: u64,
}

impl Ledger {
    /// Enters a turn, and compares. `allocated` frames the worker has made in all, and so many the
    /// kernel has `refused`.
    pub(crate) fn check(
        &mut self,
        counters: &WorkerCounters,
        drops: u64,
        (allocated, refused): (u64, u64),
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
                None => self.dropped += 1,
            }
        }
        self.announced += own.len() as u64;
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
                self.to_kernel + refused,
                counters.to_kernel.get(),
            ),
            ("announced", self.announced, counters.announced.get()),
            // What the kernel refused counts as dropped as well; so does an announcement for which
            // there was no room.
            ("dropped", self.dropped + allocated - self.announced, drops),
        ];
        for (what, happened, counted) in rows {
            if happened != counted {
                return Err(format!(
                    "{what}: {happened} frames or bytes, counted as {counted}"
                ));
            }
        }
        Ok(())
    }
}
