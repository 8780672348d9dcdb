//! What the operator says of a backend.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The operator's setting for a backend, named as the commands that set it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub enum AdminState {
    /// Its health decides whether it takes new sessions.
    #[default]
    #[serde(rename = "enable")]
    Enabled,
    /// It takes no new sessions.
    #[serde(rename = "drain")]
    Draining,
    /// It counts as down.
    #[serde(rename = "disable")]
    Disabled,
}
