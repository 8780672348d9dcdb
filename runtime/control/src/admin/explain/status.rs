//! What `GET /v1/explain` answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::status::{BackendStatus, BuildStatus, SessionStatus};

/// What would happen to a client's packet.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub schema_version: u32,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client's address and port.
    pub client: String,
    /// The destination.
    pub vip: String,
    /// The outcome in one line.
    pub outcome: String,
    /// Why it is dropped, as in `GET /v1/drops`; `None` if it is not.
    pub dropped: Option<String>,
    pub service: Option<String>,
    pub policy: Option<String>,
    /// The policy's build on most workers.
    pub build: Option<BuildStatus>,
    /// The flow's session, if there is one.
    pub session: Option<KnownSession>,
    /// The service's backends, in the config's order.
    pub backends: Vec<Candidate>,
    /// The packet's path, in its order.
    pub steps: Vec<Step>,
    /// The client's packet, the backend's answer, and a large packet of the client.
    pub packets: Vec<PacketOutcome>,
}

/// A session, with what lists of sessions leave out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct KnownSession {
    #[serde(flatten)]
    pub session: SessionStatus,
    /// The port and MAC address that replies go to.
    pub return_hop: String,
    /// The bytes of both directions; 0 unless the policy wants closed sessions.
    pub bytes: u64,
    /// Whether it ends before the packet.
    pub ends: bool,
}

/// A backend that the flow may get.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    #[serde(flatten)]
    pub backend: BackendStatus,
    /// Whether the flow's session is, or would be, of this backend.
    pub chosen: bool,
    /// Its part of the weights of those that take new sessions, in percent.
    pub weight_percent: f64,
    /// Its part of the service's open sessions, in percent.
    pub sessions_percent: f64,
    /// Its part of 256 new flows that differ in the client's port, in percent; `None` if there is a session.
    pub expected_percent: Option<f64>,
}

/// A step of the packet's path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub step: String,
    pub text: String,
    /// The reasons for which a packet is dropped here.
    pub may_drop: Vec<String>,
    /// The one that holds, if one does.
    pub drops: Option<String>,
}

/// What happens to a packet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PacketOutcome {
    /// `request`, `reply` or `large`.
    pub packet: String,
    /// The interface by which it arrives.
    pub from: String,
    /// As [`Fate::label`](waxwing_dataplane::dry_run::Fate::label): `forwarded`, `rejected`, `dropped`, …
    pub outcome: String,
    /// Why it is dropped.
    pub dropped: Option<String>,
    /// The interface by which it, or the answer to its sender, leaves.
    pub to: Option<String>,
    /// The largest IP packet there, in bytes.
    pub mtu: Option<u16>,
    /// Its VLAN ids there, outermost first.
    pub vlans: Vec<u16>,
    /// The MAC address that it is sent to.
    pub mac: Option<String>,
    /// Its source as it leaves.
    pub source: Option<String>,
    /// Its destination as it leaves.
    pub destination: Option<String>,
}
