//! The module ABI, version 1: names, limits and records that the host and a module share.
//!
//! `ABI.md` beside this crate is the specification; this module is the same in code.
//!
//! Invariant: a record holds plain little-endian integers without padding, at the offsets written
//! beside its fields; the compiler checks size and offsets. So a host of any byte order copies records
//! to and from guest memory as bytes, without `unsafe`.

pub mod health;
mod module_info;
mod policy;
mod record;
#[cfg(test)]
mod tests;

pub use module_info::{Kind, ModuleInfo, SectionError, is_counter_name};
pub use policy::{BackendRecord, ClosedRecord, FlowRecord, Header, HostFields, LiveRecord};

/// The ABI's major version. The host refuses modules of another one.
pub const ABI_MAJOR: u16 = 1;
/// The ABI's minor version. The host serves modules of this minor version and of lower ones.
pub const ABI_MINOR: u16 = 1;
/// Major and minor version, as the section's key `abi` has them.
pub const ABI_VERSION: &str = "1.1";

/// Most flows in one call of `waxwing_pick`. Every module has room for this many.
pub const BATCH_MAX: usize = 64;
/// Most bytes of a flow's first payload that a module may ask for.
pub const PAYLOAD_MAX: usize = 128;
/// Most counters and gauges that a module may export.
pub const COUNTERS_MAX: usize = 16;
/// Longest name of a counter, in bytes.
pub const COUNTER_NAME_MAX: usize = 32;
/// Most cells of a service that a module may share between workers.
pub const SHARED_MAX: usize = 65_536;
/// Shortest tick interval, in milliseconds.
pub const TICK_MS_MIN: u32 = 10;
/// Longest tick interval, in milliseconds.
pub const TICK_MS_MAX: u32 = 60_000;
/// Most backends of one service.
pub const BACKENDS_MAX: usize = 4096;
/// Number of signals of a backend.
pub const SIGNALS: usize = 4;
/// Longest config text, in bytes.
pub const CONFIG_MAX: usize = 64 * 1024;
/// The longest state of a service that the host keeps, in bytes.
pub const STATE_MAX: usize = 1 << 20;
/// Most bytes of error text that the host reads.
pub const ERROR_MAX: usize = 4096;
/// Most bytes of a policy's lines that the host reads from one call of `waxwing_log`.
pub const LOG_MAX: usize = 4096;
/// The address of every record and of every region is a multiple of this.
pub const ALIGNMENT: u32 = 8;

/// Pick: drop the packet and create no session.
pub const PICK_DROP: u32 = u32::MAX;
/// Pick: the host's fallback chooses. Any other value is the index of a backend record, with or without
/// [`PICK_KEEP`].
pub const PICK_FALLBACK: u32 = u32::MAX - 1;
/// Pick flag, added to an index: the flow belongs to a connection that the backend already has, so it
/// goes there even if the backend is draining.
pub const PICK_KEEP: u32 = 1 << 31;

/// [`BackendRecord::flags`]: the health checks pass, or there are none.
pub const BACKEND_HEALTHY: u32 = 1;
/// [`BackendRecord::flags`]: the operator drains the backend (weight 0); it takes no new sessions.
pub const BACKEND_DRAINING: u32 = 1 << 1;

/// [`ClosedRecord::end`]: both ends closed the connection (FIN).
pub const END_CLOSED: u32 = 1;
/// [`ClosedRecord::end`]: one end reset the connection (RST).
pub const END_RESET: u32 = 2;
/// [`ClosedRecord::end`]: no packet came within the service's timeout.
pub const END_IDLE: u32 = 3;
/// [`ClosedRecord::end`]: the backend never answered.
pub const END_UNANSWERED: u32 = 4;
/// [`ClosedRecord::end`]: the backend answered the SYN with RST.
pub const END_REFUSED: u32 = 5;
/// [`ClosedRecord::end`]: evicted from a full session table.
pub const END_EVICTED: u32 = 6;

/// [`FlowRecord::flags`]: a TCP packet without SYN, so one of an existing connection.
pub const FLOW_MID_STREAM: u16 = 1;

/// [`FlowRecord::protocol`]: TCP's IANA number.
pub const PROTOCOL_TCP: u8 = 6;
/// [`FlowRecord::protocol`]: UDP's IANA number.
pub const PROTOCOL_UDP: u8 = 17;

/// Offset of [`HostFields`] in a [`Header`], in bytes.
pub const HOST_FIELDS_OFFSET: usize = 8;

/// Name of the custom section that describes a module.
pub const SECTION_NAME: &str = "waxwing.module";
/// Longest section that the host reads, in bytes.
pub const SECTION_MAX: usize = 4096;

/// Names of a policy's exports. Integers are `i32`, read as unsigned, unless noted.
pub mod exports {
    /// The module's only memory.
    pub const MEMORY: &str = "memory";
    /// `(len) -> address` of a buffer of at least `len` bytes for a config or a state, or 0 to refuse.
    pub const RESERVE: &str = "waxwing_reserve";
    /// `(config_len, backends_max) -> address` of a new service's [`super::Header`], or 0 to refuse.
    pub const INIT: &str = "waxwing_init";
    /// `(header, n) -> n`: writes `picks[0..n]` for `flows[0..n]`.
    pub const PICK: &str = "waxwing_pick";
    /// Optional. `(header) -> 1`, or 0 to refuse: the host wrote the backend records, after init or after
    /// a change. Called at least once before the first pick.
    pub const BACKENDS_CHANGED: &str = "waxwing_backends_changed";
    /// Optional. `(header, n)`: the sessions in `closed[0..n]` ended.
    pub const CLOSED: &str = "waxwing_closed";
    /// Optional. `(header)`: called between batches at the interval of the section's `tick`.
    pub const TICK: &str = "waxwing_tick";
    /// Optional. `() -> i64`, `address << 32 | len` of UTF-8 text: why the module refused or panicked; 0
    /// for no text.
    pub const ERROR: &str = "waxwing_error";
    /// Optional. `() -> i64`, `address << 32 | len` of UTF-8 lines, each ended by a line feed, that the
    /// module wrote since the last call; 0 for none.
    pub const LOG: &str = "waxwing_log";
    /// `(header) -> i64`, `address << 32 | len` of the service's state; 0 for none. Needed with the section's
    /// `saves`.
    pub const SAVE: &str = "waxwing_save";
    /// `(header, len) -> 1`, or 0 to refuse: the host wrote an earlier instance's state, and the backend
    /// records. In place of the first [`BACKENDS_CHANGED`]. Needed with the section's `saves`.
    pub const RESTORE: &str = "waxwing_restore";
}
