//! What the forms of captured packets have in common.

use std::io;

use waxwing_dataplane::capture::Captured;

/// A form of captured packets.
pub(super) trait Form {
    fn packet(&mut self, packet: &Captured) -> io::Result<()>;

    /// Tells a reader that the capture goes on, and how many packets it has missed.
    fn heartbeat(&mut self, missed: u64) -> io::Result<()>;

    /// Sends what is written.
    fn flush(&mut self) -> io::Result<()>;
}
