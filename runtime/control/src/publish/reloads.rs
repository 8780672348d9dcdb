//! What a reload reports to the program around the control plane.

use crate::admin::status::ReloadStatus;

/// A step of a reload.
#[derive(Clone, Copy, Debug)]
pub enum Reload<'a> {
    /// The config is read again; the running one serves meanwhile.
    Begins,
    /// The new config is in effect, or it was refused.
    Ended(&'a ReloadStatus),
}

/// Called by the control loop, which waits for it.
pub type OnReload = Box<dyn Fn(Reload<'_>) + Send + Sync>;
