//! What is known of a next hop, and in words for people.
//!
//! Invariant: packets flow while the port and the MAC are known, whatever else is said.

use std::fmt;

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Mac};

use crate::network::kernel::NoRoute;

/// What is known of the way to a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HopState {
    /// The next hop's address: a gateway, or the backend itself.
    pub via: Option<Address>,
    /// The port it is behind; [`PortId::ACROSS`] where the bridge does not know which one that is.
    pub port: Option<PortId>,
    /// Its MAC. Packets flow while this and the port are known.
    pub mac: Option<Mac>,
    /// Why so.
    pub condition: Condition,
}

/// Why a next hop is known, or is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Known and lately confirmed.
    Resolved,
    /// Known; the kernel is checking that it still holds.
    Checking,
    /// Known because somebody entered it by hand, or the link needs no resolution.
    Fixed,
    /// Asked for; no answer yet.
    Resolving,
    /// Asked for; nobody answered.
    NoAnswer {
        /// Who did not.
        via: Address,
        /// On which interface.
        interface: String,
    },
    /// The kernel would not ask.
    Refused(String),
    /// The port is down or has no carrier.
    LinkDown(String),
    /// The route leaves through an interface that is neither a port nor a VLAN on one.
    NotAPort(String),
    /// It leaves through a VLAN on a port that frames cannot be sent by.
    Vlan(String),
    /// There is no route.
    NoRoute(NoRoute),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved => f.write_str("resolved"),
            Self::Checking => f.write_str("resolved, being checked again"),
            Self::Fixed => f.write_str("resolved, permanent"),
            Self::Resolving => f.write_str("resolving"),
            Self::NoAnswer { via, interface } => {
                write!(f, "{via} does not answer on {interface}; asking on")
            }
            Self::Refused(why) => write!(f, "the kernel does not resolve it: {why}"),
            Self::LinkDown(interface) => write!(f, "{interface} is down"),
            Self::NotAPort(interface) => {
                write!(
                    f,
                    "route leaves through {interface}, which is not a [[port]]"
                )
            }
            Self::Vlan(why) => f.write_str(why),
            Self::NoRoute(why) => why.fmt(f),
        }
    }
}

impl HopState {
    /// Whether packets can be sent.
    #[must_use]
    pub const fn is_resolved(&self) -> bool {
        self.mac.is_some() && self.port.is_some()
    }

    /// Whether there is an answer, be it good or bad.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !matches!(self.condition, Condition::Resolving)
    }
}

impl fmt::Display for HopState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(via), Some(mac)) = (self.via, self.mac) {
            write!(f, "{via} at {mac}: ")?;
        }
        self.condition.fmt(f)
    }
}
