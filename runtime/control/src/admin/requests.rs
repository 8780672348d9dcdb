//! The bodies of requests that change something at run time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::health::AdminState;

/// `POST /v1/backends`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetBackend {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port.
    pub backend: String,
    /// The admin state. It stays until it is set again or the backend leaves the config.
    pub state: AdminState,
    /// How long a drain may take, in seconds; then its sessions end. By default the service's
    /// `drain_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_s: Option<u64>,
}

/// `POST /v1/backends/add`: a backend that is not in the config's file. It goes on over reloads, restarts and
/// upgrades, until it is removed or the file has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddBackend {
    /// The service's name.
    pub service: String,
    /// Its address and port; the address alone if the service has several ports, which sessions keep.
    pub address: String,
    /// Its share of new sessions; 1 by default.
    #[serde(default)]
    pub weight: Option<u16>,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// A number for the policy; 0 by default.
    #[serde(default)]
    pub tag: Option<u32>,
}

/// `POST /v1/backends/remove`: takes an added backend away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveBackend {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port.
    pub backend: String,
}

/// `POST /v1/backends/weight`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port.
    pub backend: String,
    /// 0 to 65,535, in place of the config's until it is set again or the backend leaves the config; `None`:
    /// that of the config.
    #[schema(maximum = 65_535)]
    pub weight: Option<u32>,
}

/// `POST /v1/sessions/kill`: ends the sessions that pass all filters given, of which there must be one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KillSessions {
    /// A pattern of names.
    pub service: Option<String>,
    /// An address, or a network such as `198.51.100.0/24`.
    pub client: Option<String>,
    /// A backend's name or endpoint.
    pub backend: Option<String>,
    /// `half-open` or `active`.
    pub phase: Option<String>,
}

/// `POST /v1/modules/lift`: ends the quarantine of builds, and tries the module's newest build again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LiftQuarantine {
    /// The module's name.
    pub module: String,
    /// The start of a build's hash; empty for all quarantined builds of the module.
    #[serde(default)]
    pub hash: String,
}

/// `POST /v1/modules/rollback`: quarantines the newest build in use, a canary if there is one, and lets the
/// build before it serve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// The module's name.
    pub module: String,
}

/// `PUT /v1/config`, whose body is the text and whose `If-Match` has the tag.
pub(crate) struct ApplyConfig {
    pub(crate) text: String,
    /// The tag of the config that it was made from, without quotes.
    pub(crate) if_match: String,
}
