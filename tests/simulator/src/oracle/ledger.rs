//! Checks a worker's counters against its frames.
//!
//! Invariant: received + released = transmitted + dropped + to the kernel + held, in frames and bytes.

use waxwing_dataplane::counters::WorkerCounters;

use crate::balancer::{Generated, Handled, Outcome, is_fragment};

/// The totals of a worker's frames.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) received: u64,
    received_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    to_kernel: u64,
    /// Frames that were dropped or held.
    dropped_or_held: u64,
    /// Frames made by the worker that were sent.
    generated: u64,
    announced: u64,
}

impl Ledger {
    /// Adds a turn's frames and compares the totals with the counters. `allocated`: frames made by the
    /// worker in all; `refused` and `released`: frames that the kernel refused, and released fragments that
    /// it got.
    pub(crate) fn check(
        &mut self,
        counters: &WorkerCounters,
        drops: u64,
        (allocated, refused, released): (u64, u64, u64),
        (handled, generated): (&[Handled], &[Generated]),
    ) -> Result<(), String> {
        for frame in handled {
            self.received += 1;
            self.received_bytes += frame.bytes.len() as u64;
            match frame.outcomes.first() {
                Some(Outcome::Sent(_, bytes)) => {
                    self.sent += 1;
                    self.sent_bytes += bytes.len() as u64;
                }
                Some(Outcome::ToKernel(_)) => self.to_kernel += 1,
                None => self.dropped_or_held += 1,
            }
        }
        for (_, bytes) in generated {
            self.generated += 1;
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
                    "{what}: {happened} frames or bytes, but the counter says {counted}"
                ));
            }
        }
        // Frames that the kernel refused also count as dropped, and so do announcements without room in the
        // ring. Fragments that are dropped on their release may have had no frame.
        let expected = self.dropped_or_held + allocated - self.generated - released;
        let without_frame = counters.released.get();
        let counted = drops + counters.held.get();
        if !(expected..=expected + without_frame).contains(&counted) {
            return Err(format!(
                "dropped or held: {expected} to {} frames, but the counters say {counted}",
                expected + without_frame
            ));
        }
        Ok(())
    }
}
