//! What the control plane asks of the attached ports.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use waxwing_dataplane::capture::Capture;

use crate::admin::status::PortStatus;

/// What the I/O side reports of the attached ports.
pub trait AttachedPorts: Send + Sync {
    /// Returns every port in the order of ids. The caller fills in [`PortStatus::link_up`], `mac` and
    /// `mtu`.
    fn ports(&self) -> Vec<PortStatus>;

    /// See [`Status::frames`](crate::admin::status::Status::frames).
    fn frames(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Returns the largest MTU that fits the frame memory, which is sized at start, in bytes.
    fn mtu_max(&self) -> u32;

    /// Follows what happened to the ports' interfaces and to the TAP device: attaches again to an interface
    /// that was made again under its name, or has another number of queues. May take a second.
    fn follow(&self) -> Followed {
        Followed::default()
    }

    /// Has the workers capture packets, or no longer.
    fn capture(&self, _: Option<&Capture>) {}

    /// Returns what another process must have alike to take the ports over: names and values.
    fn layout(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Stops the workers between two batches, and gives the ports up for another process.
    ///
    /// # Errors
    /// What is missing; call [`AttachedPorts::take_back`] then.
    fn give(&self) -> io::Result<GivenPorts> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Has the workers go on with new sockets: the other process has ended.
    ///
    /// # Errors
    /// Why no port is served; [`AttachedPorts::follow`] tries again.
    fn take_back(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What another process needs to go on with the attached ports.
pub struct GivenPorts {
    pub text: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    /// What takes long to drop, and is not needed any more.
    pub dropped_later: Vec<Box<dyn Any>>,
}

/// What [`AttachedPorts::follow`] has done.
#[derive(Default)]
pub struct Followed {
    /// Whether the ports were attached again; their interfaces may have other indices.
    pub attached_again: bool,
    /// What needs the operator.
    pub problems: Vec<String>,
}
