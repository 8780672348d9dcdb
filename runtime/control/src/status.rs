//! What the balancer says of itself: the types behind `GET /v1/status` and `GET /v1/sessions`.
//!
//! Invariant: these are plain values with names for people, read by the `waxwing status` of another
//! process; a field may be added, and none changes its meaning. Times of day are in seconds
//! since 1970, counts since the balancer started.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::health::{Admin, State};
use serde::{Deserialize, Serialize};
use waxwing_dataplane::Ports;
pub use waxwing_plugin::{
    BuildStatus, CanaryStatus, ModuleStatus, QuarantinedBuild, RefusedStatus, StepStatus,
};

/// Everything.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running, in seconds.
    pub uptime_s: u64,
    /// The config in effect.
    pub config: ConfigStatus,
    /// Where it stands between clients and servers: `routed` or `transparent`.
    pub mode: String,
    /// What is wrong at the moment, for the operator; empty when all is well.
    pub problems: Vec<String>,
    /// The attached interfaces.
    pub ports: Vec<PortStatus>,
    /// The ways back to clients.
    #[serde(default)]
    pub return_path: ReturnPathStatus,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// The session table.
    pub sessions: SessionsStatus,
    /// The source addresses.
    pub source_nat: Vec<SourceStatus>,
    /// The services, in the config's order.
    pub services: Vec<ServiceStatus>,
    /// Removed backends that still have sessions.
    pub retired: Vec<BackendStatus>,
    /// The modules that policies name.
    pub modules: Vec<ModuleStatus>,
    /// The modules that health checks name.
    pub checks: Vec<ModuleStatus>,
    /// How the health checks are getting on.
    pub health_checks: ChecksStatus,
}

/// The config in effect.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Its file.
    pub path: String,
    /// Counts up with every change that the workers took up.
    pub generation: u64,
    /// When it was loaded.
    pub loaded_at: u64,
    /// What came of the last reload, if there was one.
    pub last_reload: Option<ReloadStatus>,
}

/// What came of a reload.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When.
    pub at: u64,
    /// Why it was refused; `None` where it was not.
    pub error: Option<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// An attached interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub interface: String,
    /// How the XDP program runs: `native` or `generic`.
    pub mode: String,
    /// Whether it is up and has a carrier; `None` where it is gone.
    pub link_up: Option<bool>,
    /// Its MAC address.
    pub mac: String,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
}

/// The ways back to clients.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReturnPathStatus {
    /// Where replies go: `last-hop` or `route`, as it is at the moment.
    pub mode: String,
    /// The routes that the kernel has.
    pub routes: usize,
    /// The gateways that they lead to by our ports, which are kept known in either mode.
    pub gateways: Vec<NextHopStatus>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// One queue of an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its number, and its worker's.
    pub queue: u32,
    /// Whether frames are shared with the driver (`zero-copy`) or copied (`copy`).
    pub zero_copy: bool,
    /// Why they are copied, if they are.
    pub reason: Option<String>,
    /// The socket's own statistics by their kernel names (`struct xdp_statistics`).
    pub statistics: BTreeMap<String, u64>,
}

/// Packets and bytes, link headers included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A worker's counters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: usize,
    /// Received.
    pub received: TrafficStatus,
    /// Transmitted.
    pub transmitted: TrafficStatus,
    /// Frames handed back to the kernel.
    pub to_kernel: u64,
    /// Frames that passed from one port of the bridge to the other, being none of ours (transparent
    /// mode).
    pub bridged: u64,
    /// Fragments that came before their datagram's first one, and were copied to wait for it.
    pub held: u64,
    /// Those of them that wait no more: each was then sent, handed to the kernel or dropped.
    pub released: u64,
    /// ARP, NDP and ping requests answered.
    pub answered: u64,
    /// Announcements sent.
    pub announced: u64,
    /// Batches that were not empty.
    pub batches: u64,
    /// How long batches took.
    pub batch_times: BatchTimes,
    /// Sessions ended by time.
    pub expired: u64,
    /// Sessions ended to make room.
    pub evicted: u64,
    /// New sessions that no backend takes, whose clients were told.
    pub rejected: u64,
    /// Sessions of backends that went down, whose clients were told.
    pub reset: u64,
    /// Sessions of backends that went down, whose next packet went to another.
    pub repicked: u64,
    /// ICMP errors about packets of sessions, passed on to whom they are for.
    pub errors_passed: u64,
    /// Senders told that a packet's hop limit was used up.
    pub told_hop_limit: u64,
    /// Senders told that a packet was too big for the way ahead.
    pub told_too_big: u64,
    /// Replies by the last hop because the kernel's route cannot be followed.
    #[serde(default)]
    pub by_last_hop: u64,
    /// IPv4 packets that were too big and could be cut to pieces.
    pub cut: u64,
    /// Flows chosen for by the native fallback because the policy failed.
    pub fallback: u64,
    /// Changes taken up.
    pub epochs: u64,
    /// Drops by reason; reasons without a drop are left out.
    pub drops: BTreeMap<String, u64>,
}

/// How long batches took, in microseconds and up to a quarter too high: from the start of a turn
/// that had frames to the start of the next.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BatchTimes {
    /// Half of them took no longer.
    pub p50_us: u64,
    /// All but 1 in 100.
    pub p99_us: u64,
    /// All but 1 in 1000.
    pub p999_us: u64,
    /// How many took up to so long and longer than the one before, where there are any.
    pub buckets: BTreeMap<u64, u64>,
}

/// The session table.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SessionsStatus {
    /// Sessions now.
    pub active: usize,
    /// The most there may be.
    pub max: usize,
    /// The table's memory, in bytes.
    pub memory_bytes: usize,
    /// The same per session it has room for.
    pub bytes_per_session: f64,
}

/// Ports, as a config writes them: the number of one, or a text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortsStatus {
    /// One.
    One(u16),
    /// `8000-8010`, or `all`.
    Many(String),
}

impl Default for PortsStatus {
    fn default() -> Self {
        Self::Many(String::new())
    }
}

impl From<Ports> for PortsStatus {
    fn from(ports: Ports) -> Self {
        ports
            .single()
            .map_or_else(|| Self::Many(ports.to_string()), Self::One)
    }
}

impl fmt::Display for PortsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Many(ports) => f.write_str(ports),
        }
    }
}

/// A source address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The address.
    pub address: String,
    /// Its ports; none once it was removed from the config.
    pub ports: Option<String>,
    /// Sessions now.
    pub active: u32,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The address clients use.
    pub vip: String,
    /// The port or ports clients use.
    pub port: PortsStatus,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The name of its policy; see [`Status::modules`].
    pub policy: String,
    /// The module in use for it.
    pub module: Option<BuildStatus>,
    /// Sessions now, over all its backends in the config.
    pub active: u64,
    /// What its module counts, by the names that the module gives; over all workers and builds.
    pub counters: BTreeMap<String, u64>,
    /// Its backends, in the config's order.
    pub backends: Vec<BackendStatus>,
}

/// How the health checks are getting on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    /// Checks that have ended, since the start.
    pub runs: u64,
    /// Checks that run now.
    pub running: u64,
    /// Of the last few thousand, all but 1 in 100 started no later than this after their time, in
    /// milliseconds.
    pub late_p99_ms: u64,
    /// The latest of them, in milliseconds.
    pub late_max_ms: u64,
    /// Processor time of all of them, in milliseconds.
    pub cpu_ms: u64,
}

/// Whether a service can be served: an entry of `GET /v1/health`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceHealthStatus {
    /// Its name.
    pub service: String,
    /// Its backends.
    pub backends: usize,
    /// Those of them that take new sessions, and have been seen to be well if they are checked.
    pub up: usize,
}

/// A backend's health. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackendHealthStatus {
    /// What becomes of new sessions.
    pub state: State,
    /// The operator's word.
    pub admin: Admin,
    /// Since when.
    pub since: u64,
    /// Why.
    pub reason: String,
    /// What its health makes of its weight, in percent.
    pub weight_percent: u32,
    /// Its checks, in the config's order.
    pub checks: Vec<CheckStatus>,
    /// Its last changes of state, the oldest first.
    pub history: Vec<ChangeStatus>,
}

/// A health check of a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its module's name.
    pub check: String,
    /// `undecided` before the first result, `passing` or `failing`.
    pub state: String,
    /// Results in a row that say something else.
    pub contrary: u32,
    /// What the last one found.
    pub reason: String,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// When it ended.
    pub last_at: Option<u64>,
}

/// A change of a backend's state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// When.
    pub at: u64,
    /// To what.
    pub state: State,
    /// Why.
    pub reason: String,
}

/// A backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name in the config, if it has one.
    pub name: Option<String>,
    /// Its address.
    pub address: String,
    /// Its port; none where a session goes to the port that its client used.
    pub port: Option<u16>,
    /// Its share of new sessions, as its health has it; 0 takes none.
    pub weight: u32,
    /// Whether it may take new sessions: it is up, or nothing better is.
    pub healthy: bool,
    /// Its health; `None` once it was removed from the config.
    pub health: Option<BackendHealthStatus>,
    /// Sessions now.
    pub active: u32,
    /// Sessions since the start.
    pub sessions: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Sessions that it never answered.
    pub unanswered: u64,
    /// Sessions whose client had to repeat its SYN for want of any answer.
    pub repeated: u64,
    /// New sessions a second: a moving average over some seconds.
    pub sessions_per_s: u32,
    /// Of a million new sessions, how many were refused or not answered: likewise.
    pub failures_ppm: u32,
    /// From SYN to SYN-ACK, in microseconds: a moving average; 0 if not measured.
    pub latency_us: u32,
    /// Its signals by name; those without a name have their number.
    pub signals: BTreeMap<String, u32>,
    /// From clients to it.
    pub forward: TrafficStatus,
    /// From it to clients.
    pub reply: TrafficStatus,
    /// The way to it.
    pub next_hop: NextHopStatus,
}

/// The way to a backend, or to a gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NextHopStatus {
    /// Whether packets can be sent.
    pub resolved: bool,
    /// The gateway, or the backend itself.
    pub via: Option<IpAddr>,
    /// The interface it is behind.
    pub interface: Option<String>,
    /// The VLAN ids that its frames have there, the outermost first.
    #[serde(default)]
    pub vlans: Vec<u16>,
    /// Its MAC.
    pub mac: Option<String>,
    /// What it is like, and why.
    pub state: String,
}

/// A session: one line of `GET /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its service's name, or its VIP and port where the service was removed.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client's address and port.
    pub client: String,
    /// The VIP and its port.
    pub vip: String,
    /// The client's address and port as the backend sees them, where they are translated.
    pub source: Option<String>,
    /// The backend's address and port.
    pub backend: String,
    /// `half-open`, `established` or `closing`; none for UDP.
    pub phase: Option<String>,
    /// How long ago it was made, in milliseconds.
    pub age_ms: u64,
    /// How long ago its last packet was, in milliseconds.
    pub idle_ms: u64,
}
