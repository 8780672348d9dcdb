//! The records of a policy.

use super::record::{Bytes, record};

record! {
    /// The part of a service's header that the host writes, in one piece, before each call.
    HostFields, 32 bytes {
        /// Increases with every change of services or backends.
        0 => generation: u64,
        /// Monotonic time in milliseconds, from an arbitrary start.
        8 => now_ms: u64,
        /// A random number for each worker and service, constant over the service's life.
        16 => seed: u64,
        /// Number of backend records that are set, at most [`Header::backends_capacity`].
        24 => backends_count: u32,
        /// Since 1.1: the number of the worker that the instance serves, from 0.
        28 => worker: u16,
        /// Since 1.1: the number of workers of the balancer.
        30 => workers: u16,
    }
}

record! {
    /// The header of one service. `waxwing_init` returns its address, which is the service's handle in
    /// all later calls.
    ///
    /// The module writes all fields but [`Header::host`]. The host reads the module's fields once, after
    /// init.
    Header, 96 bytes {
        /// The module's [`ABI_MAJOR`](super::ABI_MAJOR).
        0 => abi_major: u16,
        /// The module's [`ABI_MINOR`](super::ABI_MINOR).
        2 => abi_minor: u16,
        /// [`Header::SIZE`] in the module's ABI version.
        4 => size: u32,
        /// Written by the host.
        8 => host: HostFields,
        /// Address of the [`BackendRecord`]s.
        40 => backends_address: u32,
        /// Room for backend records: at least the `backends_max` of init.
        44 => backends_capacity: u32,
        /// Address of the [`FlowRecord`]s.
        48 => flows_address: u32,
        /// Room for flow records and for picks: at least [`BATCH_MAX`](super::BATCH_MAX).
        52 => flows_capacity: u32,
        /// Address of the picks, one `u32` each.
        56 => picks_address: u32,
        /// Address of the payload prefixes, `payload_stride` bytes per flow; 0 if the stride is 0.
        60 => payload_address: u32,
        /// Bytes of payload that the module wants of each flow, at most
        /// [`PAYLOAD_MAX`](super::PAYLOAD_MAX). Equal to the section's `payload`.
        64 => payload_stride: u32,
        /// Address of the [`ClosedRecord`]s; 0 if the capacity is 0.
        68 => closed_address: u32,
        /// Room for closed records: at least [`BATCH_MAX`](super::BATCH_MAX), or 0 if the host is not to
        /// call `waxwing_closed`.
        72 => closed_capacity: u32,
        /// Address of the module's counters, then its gauges, one `u64` each; 0 if it has none.
        76 => counters_address: u32,
        /// Number of counters and gauges: as many as the section's `counters` and `gauges` name.
        80 => counters_count: u32,
        /// Since 1.1: address of the [`LiveRecord`]s, as many as backend records; 0 for none.
        84 => live_address: u32,
        /// Since 1.1: address of the shared cells, two `u64` each: all totals, then all additions; 0 if
        /// the section has no `shared`.
        88 => shared_address: u32,
        /// 0.
        92 => reserved: u32,
    }
}

record! {
    /// A backend of the service. A pick is an index into these records.
    BackendRecord, 64 bytes {
        /// Hash of the backend's address and port under the cluster's key: equal on every worker and
        /// every balancer, and after a restart.
        0 => key: u64,
        /// The backend's number on this balancer. It survives config changes, unlike the index, so state
        /// is carried over by it. It does not survive a restart.
        8 => id: u32,
        /// [`BACKEND_HEALTHY`](super::BACKEND_HEALTHY), [`BACKEND_DRAINING`](super::BACKEND_DRAINING).
        12 => flags: u32,
        /// Share of new sessions, relative to the other backends, from the config and the health checks;
        /// 0 takes none.
        16 => weight: u32,
        /// Open sessions of the backend, over all workers of this balancer. Half-open ones count here too if
        /// the module has no [`LiveRecord`]s.
        20 => active: u32,
        /// Those of them that this worker created.
        24 => active_here: u32,
        /// New sessions per second over all workers, a moving average over some seconds.
        28 => sessions_per_s: u32,
        /// Time from a client's SYN to the backend's SYN-ACK at the balancer, in microseconds, a moving
        /// average; 0 if not measured.
        32 => latency_us: u32,
        /// New sessions that the backend refused or did not answer, per million, a moving average over
        /// some seconds that falls while no session comes.
        36 => failures_ppm: u32,
        /// The operator's tag, such as a zone, a version or a machine class; 0 if none.
        40 => tag: u32,
        /// Four free numbers, set by health checks or from outside; 0 until then.
        44 => signals: [u32; 4],
        /// The health check's factor on the weight, in percent; 100 if the check sets none.
        60 => health_weight: u16,
        /// 0.
        62 => reserved: u16,
    }
}

record! {
    /// More live numbers of a backend, at the index of its [`BackendRecord`]. Since 1.1.
    LiveRecord, 64 bytes {
        /// Sessions whose handshake is not complete (UDP: not answered), over all workers of this balancer.
        0 => half_open: u32,
        /// Those of them that this worker created.
        4 => half_open_here: u32,
        /// Sessions that have ended and still hold their ports, over all workers of this balancer.
        8 => closing: u32,
        /// Those of them that this worker created.
        12 => closing_here: u32,
        /// Sessions since the backend was added, over all workers.
        16 => sessions: u64,
        /// Those of them that the backend refused or did not answer.
        24 => failures: u64,
        /// Those of them that the backend refused (RST to the SYN).
        32 => refusals: u64,
        /// Number of sessions that [`BackendRecord::failures_ppm`] rests on, older ones weighted less.
        40 => failure_samples: u32,
        /// 0.
        44 => reserved: [u32; 5],
    }
}

record! {
    /// A new flow that needs a backend.
    FlowRecord, 64 bytes {
        /// Client address in network order; IPv4 in mapped form, `::ffff:a.b.c.d`.
        0 => source: [u8; 16],
        /// VIP, in the same form.
        16 => destination: [u8; 16],
        /// Hash of addresses, ports and protocol under the cluster's key: equal on every balancer.
        32 => hash: u64,
        /// Client port.
        40 => source_port: u16,
        /// Port of the service.
        42 => destination_port: u16,
        /// [`PROTOCOL_TCP`](super::PROTOCOL_TCP) or [`PROTOCOL_UDP`](super::PROTOCOL_UDP).
        44 => protocol: u8,
        /// 4 or 6.
        45 => family: u8,
        /// [`FLOW_MID_STREAM`](super::FLOW_MID_STREAM).
        46 => flags: u16,
        /// Number of bytes that are set in the flow's payload prefix.
        48 => payload_len: u32,
        /// 0.
        52 => reserved: [u32; 3],
    }
}

record! {
    /// A session that ended.
    ClosedRecord, 32 bytes {
        /// Lifetime in milliseconds.
        0 => duration_ms: u64,
        /// Bytes of all its frames, in both directions.
        8 => bytes: u64,
        /// Index of its backend record.
        16 => backend: u32,
        /// How it ended: [`END_CLOSED`](super::END_CLOSED) to [`END_EVICTED`](super::END_EVICTED).
        20 => end: u32,
        /// 0.
        24 => reserved: u64,
    }
}
