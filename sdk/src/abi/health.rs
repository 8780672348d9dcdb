//! The health check ABI, version 1: exports, imports and the verdict record.
//!
//! Invariant: a check names no address. It connects only to the backend that the host started it for,
//! within the host's limits.

use super::record::{Bytes, record};

/// Names of a health check's exports, beside [`super::exports::MEMORY`],
/// [`super::exports::RESERVE`] and [`super::exports::ERROR`].
pub mod exports {
    /// `(len) -> 1`, or 0 to refuse: the reserved buffer holds the check's config, a JSON object of
    /// `len` bytes. Called once, before the check. Of the imports it may call only `log`.
    pub const CONFIGURE: &str = "waxwing_configure";
    /// `(len) -> address` of a [`super::VerdictRecord`], or 0 for none: the reserved buffer
    /// holds the target, a JSON object of `len` bytes.
    pub const CHECK: &str = "waxwing_check";
}

/// Names of the functions that a health check may import from the module [`imports::MODULE`]. Integers
/// are `i32` unless noted.
pub mod imports {
    /// The module to import from.
    pub const MODULE: &str = "waxwing";
    /// `(protocol) -> connection`, or an error: connects to the target over this IP protocol,
    /// [`crate::abi::PROTOCOL_TCP`] or [`crate::abi::PROTOCOL_UDP`].
    pub const CONNECT: &str = "connect";
    /// `(connection, alpn, alpn_len) -> 0`, or an error: a TLS handshake on a TCP connection, with
    /// the operator's roots and server name. `alpn`: the offered protocols, separated by commas.
    pub const TLS: &str = "tls";
    /// `(connection, address, len) -> count` of bytes accepted, or an error. Over UDP: one datagram.
    pub const SEND: &str = "send";
    /// `(connection, address, len) -> count` of bytes, 0 at the end of the stream, or an error.
    /// Over UDP: one datagram, truncated to `len`.
    pub const RECV: &str = "recv";
    /// `(connection)`: closes the connection. The host closes the rest when the check ends.
    pub const CLOSE: &str = "close";
    /// `() -> i64`: monotonic time in milliseconds, from an arbitrary start.
    pub const NOW_MS: &str = "now_ms";
    /// `(milliseconds)`: sleeps.
    pub const SLEEP_MS: &str = "sleep_ms";
    /// `(address, len)`: a line of UTF-8 text for the balancer's log, at debug level.
    pub const LOG: &str = "log";
    /// `(address, len) -> count`: copies the text of the last error, UTF-8, and returns its length.
    pub const ERROR_TEXT: &str = "error_text";
}

/// Error codes that [`imports`] return; all are negative.
pub mod errors {
    /// The target refused the connection.
    pub const REFUSED: i32 = -1;
    /// No route to the target.
    pub const UNREACHABLE: i32 = -2;
    /// The connection was reset or broken.
    pub const RESET: i32 = -3;
    /// The system's own timeout. (At the check's timeout the host ends the run.)
    pub const TIMED_OUT: i32 = -4;
    /// The TLS handshake failed.
    pub const TLS: i32 = -5;
    /// A limit is exceeded: connections, bytes or log lines.
    pub const LIMIT: i32 = -6;
    /// No such connection, or invalid arguments.
    pub const INVALID: i32 = -7;
    /// Any other error.
    pub const OTHER: i32 = -8;
}

/// [`VerdictRecord::status`]: the backend is healthy.
pub const HEALTHY: u32 = 1;
/// [`VerdictRecord::status`]: the backend is unhealthy; [`VerdictRecord::reason_address`] says why.
pub const UNHEALTHY: u32 = 2;
/// [`VerdictRecord::status`]: the backend is healthy and takes no new sessions.
pub const DRAINING: u32 = 3;

/// [`VerdictRecord::set`]: the record sets the weight.
pub const SET_WEIGHT: u32 = 1;
/// [`VerdictRecord::set`]: the record sets the first signal; the next three bits are the other signals'.
pub const SET_SIGNAL: u32 = 1 << 4;

/// Largest weight, in percent.
pub const WEIGHT_MAX: u32 = 1000;
/// Most bytes of a reason that the host reads.
pub const REASON_MAX: usize = 512;

record! {
    /// The result of a check.
    VerdictRecord, 40 bytes {
        /// [`HEALTHY`], [`UNHEALTHY`] or [`DRAINING`].
        0 => status: u32,
        /// Which of `weight` and `signals` the record sets.
        4 => set: u32,
        /// Factor on the backend's weight, in percent, at most [`WEIGHT_MAX`].
        8 => weight: u32,
        /// 0.
        12 => reserved: u32,
        /// New values of the backend's signals.
        16 => signals: [u32; 4],
        /// Address of the reason, UTF-8 text for people.
        32 => reason_address: u32,
        /// Length of the reason, in bytes.
        36 => reason_len: u32,
    }
}
