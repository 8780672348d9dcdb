//! Properties of an interface, read before it is attached.
//!
//! Invariant: they are read by ioctl, which always applies to the process's network namespace; the
//! mounted `/sys` may belong to another one.

use std::fs;
use std::io;

use waxwing_packet::Mac;

use crate::XdpError;
use crate::sys::InterfaceRequest;

/// An interface's properties when they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// In this network namespace.
    pub index: u32,
    pub mac: Mac,
    /// In bytes, without the link header.
    pub mtu: u32,
    /// Number of receive queues.
    pub queues: u32,
    /// Number of transmit queues.
    pub transmit_queues: u32,
}

impl Interface {
    /// Finds an interface that can be a port.
    ///
    /// # Errors
    /// The interface does not exist or is loopback.
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
        Ok(Self {
            name: name.into(),
            index,
            mac: Mac(mac),
            mtu,
            queues: receive.max(1),
            transmit_queues: transmit.max(1),
        })
    }
}

/// Returns the receive and transmit queues of a driver without ethtool channels.
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

/// Returns the error of reading a property.
fn about(name: &str, property: &str, error: io::Error) -> XdpError {
    match error.raw_os_error() {
        Some(libc::ENODEV) => XdpError::InterfaceMissing(name.into()),
        _ => XdpError::system(format!("interface {name}: reading its {property}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_gives_an_error_with_its_name() {
        let error = Interface::find("wwx-none").expect_err("missing");
        assert!(matches!(&error, XdpError::InterfaceMissing(name) if name == "wwx-none"));
    }

    #[test]
    fn loopback_is_not_accepted() {
        assert!(matches!(Interface::find("lo"), Err(XdpError::Loopback(_))));
    }
}
