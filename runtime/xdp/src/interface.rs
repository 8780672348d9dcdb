//! What is known of an interface before it is attached.
//!
//! Invariant: asked by ioctl, not from `/sys`, so that it is of the network namespace the process
//! is in, whatever is mounted there.

use std::fs;
use std::io;

use waxwing_packet::Mac;

use crate::XdpError;
use crate::sys::InterfaceRequest;

/// An interface's facts when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU in bytes, link header not included.
    pub mtu: u32,
    /// Its receive queues.
    pub queues: u32,
}

impl Interface {
    /// Asks for an interface that can be a port.
    ///
    /// # Errors
    /// It does not exist, is loopback, or has fewer transmit than receive queues.
    pub fn find(name: &str) -> Result<Self, XdpError> {
        let mut request =
            InterfaceRequest::new(name).map_err(|error| about(name, "name", error))?;
        let index = request
            .index()
            .map_err(|error| about(name, "index", error))?;
        let flags = request
            .flags()
            .map_err(|error| about(name, "flags", error))?;
        if flags & libc::IFF_LOOPBACK != 0 {
            return Err(XdpError::Loopback(name.into()));
        }
        let mac = request
            .mac()
            .map_err(|error| about(name, "MAC address", error))?;
        let mtu = request.mtu().map_err(|error| about(name, "MTU", error))?;
        let (receive, transmit) = request.queues().unwrap_or_else(|_| queues_in_sys(name));
        if transmit < receive {
            return Err(XdpError::QueuesUneven {
                interface: name.into(),
                receive,
                transmit,
            });
        }
        Ok(Self {
            name: name.into(),
            index,
            mac: Mac(mac),
            mtu,
            queues: receive.max(1),
        })
    }
}

/// The queues of a driver that has no ethtool channels.
fn queues_in_sys(name: &str) -> (u32, u32) {
    let count = |kind: &str| {
        let entries = fs::read_dir(format!("/sys/class/net/{name}/queues"));
        let named = entries.into_iter().flatten().flatten();
        named
            .filter(|e| e.file_name().to_string_lossy().starts_with(kind))
            .count()
    };
    let bounded = |count: usize| u32::try_from(count.max(1)).unwrap_or(1);
    (bounded(count("rx-")), bounded(count("tx-")))
}

/// An error about one fact of an interface.
fn about(name: &str, fact: &str, error: io::Error) -> XdpError {
    match error.raw_os_error() {
        Some(libc::ENODEV) => XdpError::InterfaceMissing(name.into()),
        _ => XdpError::system(format!("interface {name}: its {fact}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::find("wwx-none").expect_err("missing");
        assert!(matches!(&error, XdpError::InterfaceMissing(name) if name == "wwx-none"));
    }

    #[test]
    fn loopback_is_refused() {
        assert!(matches!(Interface::find("lo"), Err(XdpError::Loopback(_))));
    }
}
