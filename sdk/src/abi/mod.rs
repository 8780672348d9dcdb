//! The ABI, version 1: the records that the host and a module share, byte by byte.
//!
//! Invariant: every record is plain integers, little-endian, without padding, at the offsets
//! written beside its fields; the compiler checks size and offsets. So the host moves records in
//! and out of guest memory as bytes, on any machine, without `unsafe`. `ABI.md` is the
//! specification of which this file is the code.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// The ABI's major version: a module of another major version is refused.
pub const ABI_MAJOR: u16 = 1;
/// The ABI's minor version: a host takes modules of its own minor version and of lower ones.
pub const ABI_MINOR: u16 = 0;
/// Both, as the section has them.
pub const ABI_VERSION: &str = "1.0";

/// The most flows that one `waxwing_pick` is asked about; every module must have room for these.
pub const BATCH_MAX: usize = 64;
/// The most bytes of a flow's first payload that a module may ask for.
pub const PAYLOAD_MAX: usize = 128;
/// The most counters of its own that a module may have.
pub const COUNTERS_MAX: usize = 16;
/// The longest name of such a counter, in bytes.
pub const COUNTER_NAME_MAX: usize = 32;
/// The shortest time between two ticks that a module may ask for, in milliseconds.
pub const TICK_MS_MIN: u32 = 10;
/// The longest, in milliseconds.
pub const TICK_MS_MAX: u32 = 60_000;
/// The most backends of one service.
pub const BACKENDS_MAX: usize = 4096;
/// The longest config text, in bytes.
pub const CONFIG_MAX: usize = 64 * 1024;
/// The most bytes of error text that the host reads.
pub const ERROR_MAX: usize = 4096;
/// Every record's address is a multiple of this; the payload region's too.
pub const ALIGNMENT: u32 = 8;

/// A pick that drops the packet; no session is made.
pub const PICK_DROP: u32 = u32::MAX;
/// A pick that leaves the choice to the host's own fallback. Any other value is an index into
/// the service's backends, perhaps with [`PICK_KEEP`].
pub const PICK_FALLBACK: u32 = u32::MAX - 1;
/// Added to an index: the flow belongs to a connection that the backend has already, so it goes
/// there even if the backend is draining.
pub const PICK_KEEP: u32 = 1 << 31;

/// [`BackendRecord::flags`]: health checks pass, or there are none.
pub const BACKEND_HEALTHY: u32 = 1;
/// [`BackendRecord::flags`]: taking no new sessions, by the operator's word (weight 0).
pub const BACKEND_DRAINING: u32 = 1 << 1;

/// [`ClosedRecord::end`]: both ends closed the connection (FIN).
pub const END_CLOSED: u32 = 1;
/// [`ClosedRecord::end`]: one end reset the connection (RST).
pub const END_RESET: u32 = 2;
/// [`ClosedRecord::end`]: nothing came for as long as the service's timeout.
pub const END_IDLE: u32 = 3;
/// [`ClosedRecord::end`]: the backend never answered.
pub const END_UNANSWERED: u32 = 4;
/// [`ClosedRecord::end`]: the backend answered the connection's SYN with RST.
pub const END_REFUSED: u32 = 5;
/// [`ClosedRecord::end`]: it made room for another in a full session table.
pub const END_EVICTED: u32 = 6;

/// [`FlowRecord::flags`]: TCP, and the packet does not open a connection (no SYN).
pub const FLOW_MID_STREAM: u16 = 1;

/// [`FlowRecord::protocol`] for TCP, the IANA number.
pub const PROTOCOL_TCP: u8 = 6;
/// [`FlowRecord::protocol`] for UDP, the IANA number.
pub const PROTOCOL_UDP: u8 = 17;

/// The names of what a policy exports. All integers are `i32` unless noted, read as unsigned.
pub mod exports {
    /// The module's one memory.
    pub const MEMORY: &str = "memory";
    /// `(len) -> address` of a buffer of at least `len` bytes for a config, or 0.
    pub const RESERVE: &str = "waxwing_reserve";
    /// `(config_len, backends_max) -> address` of a new service's [`super::Header`], or 0.
    pub const INIT: &str = "waxwing_init";
    /// `(header, n) -> n`: fills `picks[0..n]` for `flows[0..n]`.
    pub const PICK: &str = "waxwing_pick";
    /// Optional, `(header) -> 1`, or 0 to refuse: the backend records are written (after init,
    /// always before the first pick) or written anew.
    pub const BACKENDS_CHANGED: &str = "waxwing_backends_changed";
    /// Optional, `(header, n)`: `closed[0..n]` are sessions that ended.
    pub const CLOSED: &str = "waxwing_closed";
    /// Optional, `(header)`: every so often, as the section's `tick` says, between batches.
    pub const TICK: &str = "waxwing_tick";
    /// Optional, `() -> i64`, `address << 32 | len` of UTF-8 text: why the module refused or
    /// panicked; 0 when there is nothing to say.
    pub const ERROR: &str = "waxwing_error";
}

/// An integer, an array of them or a record, as the bytes of guest memory.
trait Bytes: Sized {
    fn put(&self, bytes: &mut [u8]);
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Bytes for $integer {
            #[inline]
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn take(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<Self>()];
                value.copy_from_slice(bytes);
                Self::from_le_bytes(value)
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl<T: Bytes + Copy + Default, const N: usize> Bytes for [T; N] {
    #[inline]
    fn put(&self, bytes: &mut [u8]) {
        for (value, chunk) in self.iter().zip(bytes.chunks_exact_mut(size_of::<T>())) {
            value.put(chunk);
        }
    }
    #[inline]
    fn take(bytes: &[u8]) -> Self {
        let mut values = [T::default(); N];
        for (value, chunk) in values.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *value = T::take(chunk);
        }
        values
    }
}

/// Declares a record: `offset => field: type`, checked by the compiler, with its byte forms.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident, $size:literal bytes {
            $($(#[$field_doc:meta])* $offset:literal => $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// The record's size in guest memory, in bytes.
            pub const SIZE: usize = $size;

            /// The record as guest memory holds it.
            #[inline]
            #[must_use]
            pub fn to_le_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(self.$field.put(&mut bytes[$offset..$offset + size_of::<$type>()]);)*
                bytes
            }

            /// The record from guest memory.
            #[inline]
            #[must_use]
            pub fn from_le_bytes(bytes: &[u8; $size]) -> Self {
                Self::take(bytes)
            }
        }

        impl Bytes for $name {
            #[inline]
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn take(bytes: &[u8]) -> Self {
                Self { $($field: Bytes::take(&bytes[$offset..$offset + size_of::<$type>()]),)* }
            }
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, "the record has its size");
            assert!(0 $(+ size_of::<$type>())* == $size, "the record has no padding");
            $(assert!(core::mem::offset_of!($name, $field) == $offset, "the field has its offset");)*
        };
    };
}

pub mod health;

record! {
    /// What the host writes into a service's header, in one piece, before each call.
    HostFields, 32 bytes {
        /// Counts up with every change of the services or backends.
        0 => generation: u64,
        /// Monotonic time in milliseconds, from an arbitrary start.
        8 => now_ms: u64,
        /// Random, different for each worker and service, constant over a service's life.
        16 => seed: u64,
        /// How many backend records are set, at most [`Header::backends_capacity`].
        24 => backends_count: u32,
        /// 0.
        28 => reserved: u32,
    }
}

record! {
    /// One service within a module: `waxwing_init` returns its address, which is the service's
    /// handle from then on. The module writes all but [`Header::host`]; the host reads that
    /// once, after init, and never again.
    Header, 96 bytes {
        /// [`ABI_MAJOR`] of the module.
        0 => abi_major: u16,
        /// [`ABI_MINOR`] of the module.
        2 => abi_minor: u16,
        /// [`Header::SIZE`] of the module's ABI version.
        4 => size: u32,
        /// Written by the host.
        8 => host: HostFields,
        /// Address of [`BackendRecord`]s.
        40 => backends_address: u32,
        /// How many of them have room: at least the `backends_max` given to init.
        44 => backends_capacity: u32,
        /// Address of [`FlowRecord`]s.
        48 => flows_address: u32,
        /// How many of them have room, and how many picks: at least [`BATCH_MAX`].
        52 => flows_capacity: u32,
        /// Address of the picks, a `u32` each.
        56 => picks_address: u32,
        /// Address of the payload prefixes, `payload_stride` bytes for each flow; 0 if the
        /// stride is 0.
        60 => payload_address: u32,
        /// Bytes of payload wanted of each flow, at most [`PAYLOAD_MAX`]; the `payload` of the
        /// module's section.
        64 => payload_stride: u32,
        /// Address of [`ClosedRecord`]s; 0 if the capacity is 0.
        68 => closed_address: u32,
        /// How many of them have room: at least [`BATCH_MAX`], or 0 and `waxwing_closed` is
        /// never called.
        72 => closed_capacity: u32,
        /// Address of the module's own counters, a `u64` each; 0 if it has none.
        76 => counters_address: u32,
        /// How many there are: as many as the section's `counters` names.
        80 => counters_count: u32,
        /// 0.
        84 => reserved: [u32; 3],
    }
}

record! {
    /// A backend of the service, as the host knows it. Picks are indices into these records.
    BackendRecord, 64 bytes {
        /// A hash of the backend's address and port under the cluster's key: the same for the
        /// same endpoint on every worker, every balancer, and after a restart.
        0 => key: u64,
        /// The backend's number on this balancer: kept over every change of the config, but not
        /// over a restart. (A place in the list is not kept: use this to carry state over.)
        8 => id: u32,
        /// [`BACKEND_HEALTHY`], [`BACKEND_DRAINING`].
        12 => flags: u32,
        /// Share of new sessions, by the config and by its health; 0 takes none.
        16 => weight: u32,
        /// Sessions on this backend now, over all workers of this balancer.
        20 => active: u32,
        /// Those of them that this worker made.
        24 => active_here: u32,
        /// New sessions a second, over all workers: moving average over some seconds.
        28 => sessions_per_s: u32,
        /// Time from SYN to SYN-ACK as seen by the balancer, in microseconds: moving average; 0 if
        /// not measured.
        32 => latency_us: u32,
        /// Of a million new sessions, how many it refused or left unanswered: moving average over
        /// some seconds.
        36 => failures_ppm: u32,
        /// The operator's tag: a zone, a version, a class of machine. 0 if none.
        40 => tag: u32,
        /// Free numbers, set by health checks or from outside; 0 until then.
        44 => signals: [u32; 4],
        /// What its health check makes of its weight, in percent; 100 where it says nothing.
        60 => health_weight: u16,
        /// 0.
        62 => reserved: u16,
    }
}

record! {
    /// A new flow that wants a backend.
    FlowRecord, 64 bytes {
        /// The client's address in network order; IPv4 in its mapped form, `::ffff:a.b.c.d`.
        0 => source: [u8; 16],
        /// The VIP, in the same form.
        16 => destination: [u8; 16],
        /// A hash of addresses, ports and protocol under the cluster's key: the same on every
        /// balancer.
        32 => hash: u64,
        /// The client's port.
        40 => source_port: u16,
        /// The service's port.
        42 => destination_port: u16,
        /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
        44 => protocol: u8,
        /// 4 or 6.
        45 => family: u8,
        /// [`FLOW_MID_STREAM`].
        46 => flags: u16,
        /// How many bytes of the flow's payload prefix are set.
        48 => payload_len: u32,
        /// 0.
        52 => reserved: [u32; 3],
    }
}

record! {
    /// A session that ended.
    ClosedRecord, 32 bytes {
        /// How long it lived, in milliseconds.
        0 => duration_ms: u64,
        /// Bytes of its frames, both ways.
        8 => bytes: u64,
        /// Index into the backend records.
        16 => backend: u32,
        /// How it ended: [`END_CLOSED`] and its kin.
        20 => end: u32,
        /// 0.
        24 => reserved: u64,
    }
}

/// Where [`HostFields`] lie in a [`Header`].
pub const HOST_FIELDS_OFFSET: usize = 8;

/// The name of the custom section that says what a module is.
pub const SECTION_NAME: &str = "waxwing.module";
/// The longest section that the host reads, in bytes.
pub const SECTION_MAX: usize = 4096;

/// What a module is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It chooses backends.
    Policy,
    /// It says whether a backend is well.
    Health,
}

impl Kind {
    /// Its word in the section.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Health => "health",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "a policy",
            Self::Health => "a health check",
        })
    }
}

/// The content of the custom section [`SECTION_NAME`]: lines of `key=value` in UTF-8, each ended
/// by a line feed, without other control characters. Keys that the host does not know are ignored;
/// so are those from `payload` on where the module is not a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleInfo {
    /// `kind`.
    pub kind: Kind,
    /// `abi`, before the point.
    pub abi_major: u16,
    /// `abi`, after the point.
    pub abi_minor: u16,
    /// `name`: what the author calls it, for people. (A service names a module by its file.)
    pub name: String,
    /// `version`: the author's version, for people; may be empty.
    pub version: String,
    /// `sdk`: the SDK and its version; empty if made without one.
    pub sdk: String,
    /// `payload`: bytes of each flow's payload wanted, at most [`PAYLOAD_MAX`].
    pub payload: usize,
    /// `tick`: milliseconds between two calls of `waxwing_tick`; 0 for none.
    pub tick_ms: u32,
    /// `counters`: the names of the module's own counters.
    pub counters: Vec<String>,
    /// `keep`: the instance that serves is told of changed backends, and goes on.
    pub keep: bool,
}

/// Why a custom section is not one that this host can serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SectionError(String);

impl fmt::Display for SectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "custom section {SECTION_NAME}: {}", self.0)
    }
}

impl core::error::Error for SectionError {}

impl ModuleInfo {
    /// Reads a section, and checks that this ABI version serves the module.
    ///
    /// # Errors
    /// A [`SectionError`] that says which key is missing or wrong, and what is expected.
    pub fn parse(section: &[u8]) -> Result<Self, SectionError> {
        if section.len() > SECTION_MAX {
            return Err(SectionError(format!(
                "{} bytes long; at most {SECTION_MAX} are read",
                section.len()
            )));
        }
        let text = core::str::from_utf8(section)
            .map_err(|error| SectionError(format!("not UTF-8 text: {error}")))?;
        // It is shown to people, in terminals and logs.
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(SectionError(format!(
                "the control character {control:?} is in it; expected lines of text"
            )));
        }
        let find = |key: &str| {
            text.lines()
                .find_map(|line| line.split_once('=').filter(|(k, _)| *k == key))
        };
        let value = |key: &str| find(key).map(|(_, value)| value);
        let required = |key: &str, expected: &str| {
            value(key)
                .ok_or_else(|| SectionError(format!("no line `{key}=…`; expected {expected}")))
        };
        let kind = match required("kind", "`kind=policy` or `kind=health`")? {
            "policy" => Kind::Policy,
            "health" => Kind::Health,
            other => {
                return Err(SectionError(format!(
                    "kind={other} is not known; expected `policy` or `health`"
                )));
            }
        };
        let (abi_major, abi_minor) = parse_abi(required("abi", "`abi=1.0`")?)?;
        let of_policy = |key: &str| value(key).filter(|_| kind == Kind::Policy);
        Ok(Self {
            kind,
            abi_major,
            abi_minor,
            name: required("name", "the module's name")?.to_string(),
            version: value("version").unwrap_or_default().to_string(),
            sdk: value("sdk").unwrap_or_default().to_string(),
            payload: parse_payload(of_policy("payload").unwrap_or("0"))?,
            tick_ms: parse_tick(of_policy("tick").unwrap_or("0"))?,
            counters: parse_counters(of_policy("counters").unwrap_or_default())?,
            keep: parse_keep(of_policy("keep").unwrap_or("0"))?,
        })
    }

    /// The section's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self {
            kind,
            abi_major,
            abi_minor,
            name,
            version,
            sdk,
            payload,
            tick_ms,
            counters,
            keep,
        } = self;
        let common = format!(
            "kind={}\nabi={abi_major}.{abi_minor}\nname={name}\nversion={version}\nsdk={sdk}\n",
            kind.word()
        );
        let (counters, keep) = (counters.join(","), u8::from(*keep));
        match kind {
            Kind::Policy => format!(
                "{common}payload={payload}\ntick={tick_ms}\ncounters={counters}\nkeep={keep}\n"
            ),
            Kind::Health => common,
        }
    }
}

fn parse_abi(value: &str) -> Result<(u16, u16), SectionError> {
    let (major, minor) = value
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| SectionError(format!("abi={value} is not a version; expected `abi=1.0`")))?;
    if major != ABI_MAJOR || minor > ABI_MINOR {
        return Err(SectionError(format!(
            "made for ABI {major}.{minor}, but this host serves {ABI_MAJOR}.0 to \
             {ABI_MAJOR}.{ABI_MINOR}; build the module with a matching SDK"
        )));
    }
    Ok((major, minor))
}

fn parse_payload(value: &str) -> Result<usize, SectionError> {
    value
        .parse()
        .ok()
        .filter(|wanted| *wanted <= PAYLOAD_MAX)
        .ok_or_else(|| {
            SectionError(format!(
                "payload={value}; expected bytes from 0 to {PAYLOAD_MAX}"
            ))
        })
}

fn parse_tick(value: &str) -> Result<u32, SectionError> {
    value
        .parse()
        .ok()
        .filter(|ms| *ms == 0 || (TICK_MS_MIN..=TICK_MS_MAX).contains(ms))
        .ok_or_else(|| {
            SectionError(format!(
                "tick={value}; expected milliseconds from {TICK_MS_MIN} to {TICK_MS_MAX}, or 0 for \
                 none"
            ))
        })
}

fn parse_counters(value: &str) -> Result<Vec<String>, SectionError> {
    let names: Vec<String> = value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(ToString::to_string)
        .collect();
    let all_differ = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    if names.len() <= COUNTERS_MAX && all_differ && names.iter().all(|name| is_counter_name(name)) {
        Ok(names)
    } else {
        Err(SectionError(format!(
            "counters={value}; expected at most {COUNTERS_MAX} different names of at most \
             {COUNTER_NAME_MAX} of a-z, 0-9 and `_`, with commas between"
        )))
    }
}

fn parse_keep(value: &str) -> Result<bool, SectionError> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(SectionError(format!("keep={value}; expected 0 or 1"))),
    }
}

/// Whether a counter may have this name.
#[must_use]
pub const fn is_counter_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !(bytes[at].is_ascii_lowercase() || bytes[at].is_ascii_digit() || bytes[at] == b'_') {
            return false;
        }
        at += 1;
    }
    at > 0 && at <= COUNTER_NAME_MAX
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use alloc::vec;

    use super::*;

    fn info() -> ModuleInfo {
        ModuleInfo {
            kind: Kind::Policy,
            abi_major: 1,
            abi_minor: 0,
            name: "by-token".to_string(),
            version: "0.2.0".to_string(),
            sdk: "waxwing-sdk 0.1.0".to_string(),
            payload: 24,
            tick_ms: 250,
            counters: vec!["spilled".to_string(), "kept_2".to_string()],
            keep: true,
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let host = HostFields {
            generation: 1,
            now_ms: u64::MAX,
            seed: 3,
            ..Default::default()
        };
        let header = Header {
            size: 96,
            host,
            closed_capacity: 7,
            ..Default::default()
        };
        let bytes = header.to_le_bytes();
        assert_eq!(Header::from_le_bytes(&bytes), header);
        assert_eq!(
            bytes[HOST_FIELDS_OFFSET..HOST_FIELDS_OFFSET + 32],
            host.to_le_bytes()
        );
        let backend = BackendRecord {
            key: 5,
            signals: [1, 2, 3, 4],
            ..Default::default()
        };
        assert_eq!(
            BackendRecord::from_le_bytes(&backend.to_le_bytes()),
            backend
        );
        assert_eq!(backend.to_le_bytes()[44..48], [1, 0, 0, 0]);
        let flow = FlowRecord {
            source: [9; 16],
            source_port: 0x1234,
            ..Default::default()
        };
        assert_eq!(FlowRecord::from_le_bytes(&flow.to_le_bytes()), flow);
        assert_eq!(flow.to_le_bytes()[40..42], [0x34, 0x12]);
    }

    #[test]
    fn a_section_survives_its_text() {
        assert_eq!(ModuleInfo::parse(info().encode().as_bytes()), Ok(info()));
    }

    #[test]
    fn a_wrong_section_is_refused_with_what_is_expected() {
        let cases: [(&[u8], &str); 12] = [
            (b"", "no line `kind="),
            (b"kind=\x1b[2J\n", "control character '\\u{1b}'"),
            (b"kind=policy\r\n", "control character '\\r'"),
            (b"kind=cheese\n", "expected `policy`"),
            (b"kind=policy\nabi=one\n", "not a version"),
            (b"kind=policy\nabi=2.0\n", "made for ABI 2.0"),
            (
                b"kind=policy\nabi=1.0\nname=x\npayload=129\n",
                "from 0 to 128",
            ),
            (
                b"kind=policy\nabi=1.0\nname=x\ntick=9\n",
                "from 10 to 60000, or 0",
            ),
            (
                b"kind=policy\nabi=1.0\nname=x\ncounters=a,a\n",
                "different names",
            ),
            (b"kind=policy\nabi=1.0\nname=x\ncounters=A\n", "of a-z"),
            (b"kind=policy\nabi=1.0\nname=x\nkeep=2\n", "expected 0 or 1"),
            (b"\xff\xfe", "not UTF-8"),
        ];
        for (section, expected) in cases {
            let error = ModuleInfo::parse(section).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
