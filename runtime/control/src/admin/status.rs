//! The types of `GET /v1/status`, `GET /v1/health` and `GET /v1/sessions`.
//!
//! Invariant: plain values, read by `waxwing status` in another process. Fields may be added; none changes
//! its meaning. Times of day are in seconds since 1970; counts start with the balancer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Family};
pub use waxwing_plugin::{
    BuildStatus, CanaryStatus, ModuleStatus, QuarantinedBuild, RefusedStatus, StepStatus,
};

pub use super::sampled::SampledStatus;
pub use crate::health::status::{BackendHealthStatus, ChangeStatus, CheckStatus, ChecksStatus};

/// The version of what the API answers.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    pub config: ConfigStatus,
    /// `routed` or `transparent`.
    pub mode: String,
    /// Current problems, for the operator.
    pub problems: Vec<String>,
    #[serde(default)]
    pub log: LogStatus,
    /// What is wrong with the modules' folder and its files.
    #[serde(default)]
    pub module_files: Vec<String>,
    pub ports: Vec<PortStatus>,
    /// Frames that the ports have received, by what the XDP program took them for: `pass` went to the kernel,
    /// all others to the workers, except that `no_socket` of them were dropped, because their queue had no
    /// socket yet.
    #[serde(default)]
    pub frames: BTreeMap<String, u64>,
    #[serde(default)]
    pub return_path: ReturnPathStatus,
    pub workers: Vec<WorkerStatus>,
    pub sessions: SessionsStatus,
    pub source_nat: Vec<SourceStatus>,
    /// In the config's order.
    pub services: Vec<ServiceStatus>,
    /// Removed backends that still have sessions. `waxwing backend drain` and `disable` find them by their
    /// service and name.
    pub retired: Vec<BackendStatus>,
    /// Policy modules.
    pub modules: Vec<ModuleStatus>,
    /// Health check modules.
    pub checks: Vec<ModuleStatus>,
    pub health_checks: ChecksStatus,
}

/// The log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogStatus {
    /// Lines that standard error did not take.
    pub lines_dropped: u64,
    /// Why lines are dropped now; `None` if the last one was written.
    pub problem: Option<String>,
}

/// The config in effect.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConfigStatus {
    /// The config file.
    pub path: String,
    /// Rises with every change that the workers take.
    pub generation: u64,
    pub loaded_at: u64,
    pub last_reload: Option<ReloadStatus>,
}

/// The result of a reload.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReloadStatus {
    pub at: u64,
    /// What it changed, such as `generation 9: +1 backend, 0 sessions touched`; empty if it was refused.
    /// The sessions touched are the half-open and active ones of the backends that it removed.
    #[serde(default)]
    pub changes: String,
    /// Why it was refused; `None` on success.
    pub error: Option<String>,
    pub warnings: Vec<String>,
}

/// An attached interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PortStatus {
    pub interface: String,
    /// The XDP mode: `native` or `generic`.
    pub mode: String,
    /// Whether it is up and has a carrier; `None` if it is gone.
    pub link_up: Option<bool>,
    pub mac: String,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    pub queues: Vec<QueueStatus>,
}

/// The return path to clients.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReturnPathStatus {
    /// Where replies currently go: `last-hop` or `route`.
    pub mode: String,
    /// The number of routes in the kernel.
    pub routes: usize,
    /// The gateways behind our ports, which are resolved in both modes.
    pub gateways: Vec<NextHopStatus>,
    pub problem: Option<String>,
}

/// One queue of an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct QueueStatus {
    /// Its number, which is also its worker's.
    pub queue: u32,
    /// Whether frames are shared with the driver instead of copied.
    pub zero_copy: bool,
    /// Why frames are copied, if they are.
    pub reason: Option<String>,
    /// The socket's own statistics by their kernel names (`struct xdp_statistics`).
    pub statistics: BTreeMap<String, u64>,
}

/// Packets and bytes, link headers included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TrafficStatus {
    pub packets: u64,
    pub bytes: u64,
}

/// A worker's counters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    pub worker: usize,
    pub received: TrafficStatus,
    pub transmitted: TrafficStatus,
    /// Frames passed to the kernel.
    pub to_kernel: u64,
    /// Frames of no service, passed from one bridge port to the other (transparent mode).
    pub bridged: u64,
    /// Fragments that arrived before their datagram's first one and were held for it.
    pub fragments_held: u64,
    /// Held fragments that were then sent, passed to the kernel or dropped.
    pub fragments_released: u64,
    /// ARP, NDP and ping requests answered.
    pub requests_answered: u64,
    /// Gratuitous ARP and unsolicited NDP announcements sent.
    pub announcements_sent: u64,
    /// Non-empty batches.
    pub batches: u64,
    pub batch_times: BatchTimes,
    /// Open sessions that it opened. Each such session is in one of these three numbers.
    pub sessions_active: u64,
    /// Half-open sessions that it opened.
    pub sessions_half_open: u64,
    /// Closing sessions that it opened.
    pub sessions_closing: u64,
    /// Sessions that it opened so far.
    pub sessions_opened: u64,
    /// Sessions whose client has shown that it sees what the server sends. UDP: with traffic both ways for
    /// two seconds.
    #[serde(default)]
    pub sessions_assured: u64,
    /// Sessions ended by a timeout.
    pub sessions_expired: u64,
    /// Sessions ended to make room for new ones.
    pub sessions_evicted: u64,
    /// New sessions rejected for lack of a backend, by RST or ICMP.
    pub sessions_rejected: u64,
    /// Packets to unserved ports of VIPs, answered by RST or ICMP.
    pub unserved_rejected: u64,
    /// Sessions of backends that went down, ended by RST or ICMP to the client.
    pub sessions_reset: u64,
    /// Sessions of backends that went down, moved to another backend.
    pub sessions_moved: u64,
    /// ICMP errors about sessions' packets, forwarded to the sender of the packet.
    pub icmp_errors_forwarded: u64,
    /// ICMP "time exceeded" messages sent.
    pub time_exceeded_sent: u64,
    /// ICMP "fragmentation needed" and "packet too big" messages sent.
    pub too_big_sent: u64,
    /// Replies sent to the last hop because the kernel's route cannot be followed.
    #[serde(default)]
    pub last_hop_fallbacks: u64,
    /// IPv4 packets that exceeded the MTU and were fragmented.
    pub packets_fragmented: u64,
    /// New flows for which the native fallback chose, because the policy failed.
    pub fallback_choices: u64,
    /// Epochs taken.
    pub epochs: u64,
    /// Dropped frames by reason; zero counts are omitted.
    pub drops: BTreeMap<String, u64>,
}

/// Batch durations in microseconds, up to a quarter too high: from the start of a turn with frames to the
/// start of the next.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BatchTimes {
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    /// Histogram by upper bound; empty buckets are omitted.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub buckets: BTreeMap<u64, u64>,
}

/// The session table.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SessionsStatus {
    /// Sessions in it, in any phase.
    pub used: usize,
    /// The table's capacity.
    pub max: usize,
    pub memory_bytes: usize,
    /// Memory per session of capacity.
    pub bytes_per_session: f64,
}

/// A service's ports as in the config: one number, or a text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PortsStatus {
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    pub address: String,
    /// Its ports; `None` once it is removed from the config.
    pub ports: Option<String>,
    /// Sessions that use it, in any phase.
    pub sessions: u32,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    pub name: String,
    pub vip: String,
    pub port: PortsStatus,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its policy's name; see [`Status::modules`].
    pub policy: String,
    /// The module build in use.
    pub module: Option<BuildStatus>,
    /// The sums over its configured backends.
    pub active: u64,
    pub half_open: u64,
    pub closing: u64,
    /// The module's own counters, over all workers and builds.
    pub counters: BTreeMap<String, u64>,
    /// The module's own gauges, over the workers' instances that serve.
    #[serde(default)]
    pub gauges: BTreeMap<String, u64>,
    /// In the config's order.
    pub backends: Vec<BackendStatus>,
}

/// Whether something can serve.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It serves, and nothing is known to be wrong.
    #[default]
    Ok,
    /// It serves, but something is wrong.
    Degraded,
    /// It does not serve.
    Down,
}

impl Availability {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// `GET /v1/health`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// The worst of the balancer's own and its services'.
    pub state: Availability,
    /// What is wrong with the balancer itself.
    pub reasons: Vec<String>,
    /// In the config's order.
    pub services: Vec<ServiceHealthStatus>,
}

/// One service of `GET /v1/health`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceHealthStatus {
    pub service: String,
    pub state: Availability,
    pub backends: usize,
    /// Backends that take new sessions and are not waiting for their first check result. In panic mode this
    /// includes backends that fail their checks.
    pub up: usize,
    /// Backends that nothing checks.
    pub unchecked: usize,
    /// What is wrong; empty exactly if it is `ok`.
    pub reasons: Vec<String>,
}

/// A backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    /// Its name in the config.
    pub name: Option<String>,
    /// The service that a removed backend belonged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_from: Option<String>,
    pub address: String,
    /// Its port; `None` if sessions keep the port that their client used.
    pub port: Option<u16>,
    /// Its weight in the config; `None` once it is removed from there.
    #[serde(default)]
    pub configured_weight: Option<u32>,
    /// Whether an operator added it while the balancer ran: the config's file does not have it.
    #[serde(default)]
    pub added: bool,
    /// Its share of new sessions among its service's backends, after adjustments by health, which also scale
    /// the weights of the other backends; 0 takes no new sessions.
    pub weight: u32,
    /// Whether it may take new sessions: it is up, or no better backend is.
    pub healthy: bool,
    /// `None` if it is not known yet.
    pub health: Option<BackendHealthStatus>,
    /// Open sessions. Each session is in one of these three numbers.
    pub active: u32,
    /// Sessions whose handshake is not complete; over UDP, those that it has not answered.
    pub half_open: u32,
    /// Closed or reset sessions, which keep their ports for `timeouts.tcp_closing`. None over UDP.
    pub closing: u32,
    /// Sessions since the start.
    pub sessions: u64,
    /// Connections refused by it.
    pub refused: u64,
    /// Sessions that it never answered.
    pub unanswered: u64,
    /// Sessions whose client retransmitted its SYN because no answer came.
    pub syn_retransmitted: u64,
    /// New sessions per second, as a moving average over some seconds.
    pub sessions_per_s: u32,
    /// Refused or unanswered sessions per million new ones, as a moving average that falls while no session
    /// comes.
    pub failures_ppm: u32,
    /// The number of sessions that `failures_ppm` rests on, older ones weighted less.
    pub failure_samples: u32,
    /// Time from SYN to SYN-ACK in microseconds, as a moving average; 0 if not measured.
    pub latency_us: u32,
    /// Time from a client's first data to its own in microseconds, as a moving average over sampled sessions;
    /// 0 if not measured.
    #[serde(default)]
    pub first_byte_us: u32,
    /// Its signals by name; unnamed ones by number.
    pub signals: BTreeMap<String, u32>,
    /// Traffic from clients.
    pub forward: TrafficStatus,
    /// Traffic to clients.
    pub reply: TrafficStatus,
    /// What its sampled sessions' clients sent.
    #[serde(default)]
    pub sampled_forward: SampledStatus,
    /// What it sent in its sampled sessions.
    #[serde(default)]
    pub sampled_reply: SampledStatus,
    pub next_hop: NextHopStatus,
}

/// The next hop to a backend or a gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct NextHopStatus {
    /// Whether packets can be sent.
    pub resolved: bool,
    /// The gateway, or the backend itself.
    #[schema(value_type = Option<String>)]
    pub via: Option<IpAddr>,
    /// The outgoing interface.
    pub interface: Option<String>,
    /// VLAN ids of its frames there, outermost first.
    #[serde(default)]
    pub vlans: Vec<u16>,
    pub mac: Option<String>,
    /// The state as text, with the reason.
    pub state: String,
}

/// A session: one line of `GET /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SessionStatus {
    /// The service's name, or VIP and port if the service was removed.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client's address and port.
    pub client: String,
    /// The VIP and its port.
    pub vip: String,
    /// The client's address and port as the backend sees them, if translated.
    pub source: Option<String>,
    /// The backend's address and port.
    pub backend: String,
    /// `half-open`, `active` or `closing`. UDP: `half-open` until the backend answers, then `active`.
    pub phase: String,
    /// Milliseconds since it was created.
    pub age_ms: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
}

/// The body of an answer that is no success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub schema_version: u32,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub error: String,
}

/// Formats an address and port as in a URL: an IPv6 address in brackets.
pub(super) fn endpoint(address: Address, port: u16) -> String {
    match address.family() {
        Family::V4 => format!("{address}:{port}"),
        Family::V6 => format!("[{address}]:{port}"),
    }
}
