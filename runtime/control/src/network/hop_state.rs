//! The state of a next hop, and its text for people.
//!
//! Invariant: packets flow while the port and the MAC are known, whatever the condition says.

use std::fmt;

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Mac};

use crate::network::kernel::NoRoute;

/// The next hop to a backend or a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HopState {
    /// The next hop's address: a gateway, or the backend itself.
    pub via: Option<Address>,
    /// The port it is behind; [`PortId::ACROSS`] if the bridge does not know which.
    pub port: Option<PortId>,
    /// Its MAC. Packets flow while MAC and port are known.
    pub mac: Option<Mac>,
    /// Why the next hop is known or not.
    pub condition: Condition,
}

/// Why a next hop is known or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Known and confirmed recently.
    Resolved,
    /// Known; the kernel is verifying it.
    Checking,
    /// Known: a permanent entry, or a link that needs no resolution.
    Fixed,
    /// The kernel is asking; no answer yet.
    Resolving,
    /// Nobody answered; the kernel keeps asking.
    NoAnswer {
        /// The neighbour.
        via: Address,
        /// The interface it was sought on.
        interface: String,
    },
    /// The kernel refused to ask.
    Refused(String),
    /// The port is down or has no carrier.
    LinkDown(String),
    /// The route leaves through an interface that is neither a port nor a VLAN device on one.
    NotAPort(String),
    /// The route leaves through a VLAN device on a port that cannot be used.
    Vlan(String),
    /// There is no route.
    NoRoute(NoRoute),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved => f.write_str("resolved"),
            Self::Checking => f.write_str("resolved, being verified"),
            Self::Fixed => f.write_str("resolved, permanent"),
            Self::Resolving => f.write_str("resolving"),
            Self::NoAnswer { via, interface } => {
                write!(f, "{via} does not answer on {interface}; still asking")
            }
            Self::Refused(why) => write!(f, "the kernel refuses to resolve it: {why}"),
            Self::LinkDown(interface) => write!(f, "{interface} is down"),
            Self::NotAPort(interface) => {
                write!(
                    f,
                    "the route leaves through {interface}, which is not a [[port]]"
                )
            }
            Self::Vlan(why) => f.write_str(why),
            Self::NoRoute(why) => why.fmt(f),
        }
    }
}

impl HopState {
    /// Returns whether packets can be sent.
    #[must_use]
    pub const fn is_resolved(&self) -> bool {
        self.mac.is_some() && self.port.is_some()
    }

    /// Returns whether the outcome, good or bad, is known.
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
