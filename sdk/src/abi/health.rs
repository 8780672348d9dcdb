//! Health ABI v1: what a health check exports and imports, and the verdict that it gives.
//!
//! Invariant: a check names no address. It connects to the one backend that it was started for,
//! as often and as long as the host's limits allow, and to nothing else.

use super::Bytes;

/// Names of a health check's exports, beside [`super::exports::MEMORY`],
/// [`super::exports::RESERVE`] and [`super::exports::ERROR`].
pub mod exports {
    /// `(len) -> 1`, or 0 to refuse: the reserved buffer holds the check's config, a JSON object of
    /// `len` bytes. Called once, before the check; no import may be called in it but `log`.
    pub const CONFIGURE: &str = "waxwing_configure";
    /// `(len) -> address` of a [`super::VerdictRecord`], or 0 where there is none: the reserved
    /// buffer holds the target, a JSON object of `len` bytes.
    pub const CHECK: &str = "waxwing_check";
}

/// Names of the functions that a health check may import, all from the module
/// [`imports::MODULE`]. All integers are `i32` unless noted.
pub mod imports {
    /// The module that they are imported from.
    pub const MODULE: &str = "waxwing";
    /// `(protocol) -> connection`, or an error: connects to the target by this IP protocol,
    /// [`crate::abi::PROTOCOL_TCP`] or [`crate::abi::PROTOCOL_UDP`].
    pub const CONNECT: &str = "connect";
    /// `(connection, alpn, alpn_len) -> 0`, or an error: a TLS handshake on a TCP connection, with
    /// the roots and the name that the config gives. `alpn`: protocols offered, with commas between.
    pub const TLS: &str = "tls";
    /// `(connection, address, len) -> count` of bytes taken, or an error. Over UDP: one datagram.
    pub const SEND: &str = "send";
    /// `(connection, address, len) -> count` of bytes, 0 at the end of the stream, or an error.
    /// Over UDP: one datagram, cut to `len`.
    pub const RECV: &str = "recv";
    /// `(connection)`: closes it. What is left open is closed at the check's end.
    pub const CLOSE: &str = "close";
    /// `() -> i64`: monotonic time in milliseconds, from an arbitrary start.
    pub const NOW_MS: &str = "now_ms";
    /// `(milliseconds)`: waits.
    pub const SLEEP_MS: &str = "sleep_ms";
    /// `(address, len)`: a line of UTF-8 text for the balancer's log, at debug level.
    pub const LOG: &str = "log";
    /// `(address, len) -> count`: copies the words of the last error, UTF-8 text.
    pub const ERROR_TEXT: &str = "error_text";
}

/// What [`imports`] return where they fail: below zero.
pub mod errors {
    /// The target refused the connection.
    pub const REFUSED: i32 = -1;
    /// There is no way to the target.
    pub const UNREACHABLE: i32 = -2;
    /// The connection was reset or broke off.
    pub const RESET: i32 = -3;
    /// The system gave up waiting. (At the check's own timeout the check is ended.)
    pub const TIMED_OUT: i32 = -4;
    /// The TLS handshake failed.
    pub const TLS: i32 = -5;
    /// Over a limit: of connections, bytes or log lines.
    pub const LIMIT: i32 = -6;
    /// No such connection, or arguments that make no sense.
    pub const INVALID: i32 = -7;
    /// Anything else.
    pub const OTHER: i32 = -8;
}

/// [`VerdictRecord::status`]: it is well.
pub const HEALTHY: u32 = 1;
/// [`VerdictRecord::status`]: it is not, and [`VerdictRecord::reason_address`] says why.
pub const UNHEALTHY: u32 = 2;
/// [`VerdictRecord::status`]: it is well, and wants no new sessions.
pub const DRAINING: u32 = 3;

/// [`VerdictRecord::set`]: the weight says something.
pub const SET_WEIGHT: u32 = 1;
/// [`VerdictRecord::set`]: the first signal says something; the others follow, a bit each.
pub const SET_SIGNAL: u32 = 1 << 4;

/// The largest weight, in percent.
pub const WEIGHT_MAX: u32 = 1000;
/// The most bytes of a reason that the host reads.
pub const REASON_MAX: usize = 512;

record! {
    /// What a check found.
    VerdictRecord, 40 bytes {
        /// [`HEALTHY`], [`UNHEALTHY`] or [`DRAINING`].
        0 => status: u32,
        /// Which of `weight` and `signals` say something.
        4 => set: u32,
        /// What is made of the backend's weight, in percent, at most [`WEIGHT_MAX`].
        8 => weight: u32,
        /// 0.
        12 => reserved: u32,
        /// New values of the backend's signals.
        16 => signals: [u32; 4],
        /// Address of UTF-8 text for people: what was found.
        32 => reason_address: u32,
        /// Its length in bytes.
        36 => reason_len: u32,
    }
}
