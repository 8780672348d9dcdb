//! Which frames the workers want: the rules that an adapter puts into effect before the sockets.

use std::collections::BTreeSet;

use waxwing_packet::{Address, Mac, Protocol};

use crate::{Backend, Snapshot};

/// The frames that go to the workers; all others stay with the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Destination endpoints of services; a range of ports is [`Rules::ANY_PORT`], and so it is of the
    /// whole VIP, all of which goes to the workers anyway.
    pub services: BTreeSet<(Address, u16, u8)>,
    /// VIPs, and source addresses: their ICMP, fragments, ARP and NDP, and all else that is sent there.
    pub vips: BTreeSet<Address>,
    /// Source endpoints of replies, or [`Rules::ANY_PORT`] of an address.
    pub backends: BTreeSet<(Address, u16, u8)>,
    /// The host's own addresses: a reply to one of them is the kernel's.
    pub locals: BTreeSet<Address>,
    /// Each attached port's own MAC, by its id: what is addressed to another is another host's.
    pub macs: Vec<Mac>,
    /// In transparent mode, the MACs of the balancer itself. What backends send to other hosts passes
    /// through it, and is taken too; what others send to a VIP at another host is not.
    pub bridge: Option<[Mac; 3]>,
}

impl Rules {
    /// In place of a port: every one. No packet that anybody answers has it.
    pub const ANY_PORT: u16 = Backend::PORT_KEPT;

    /// The rules of a snapshot on a host with these addresses.
    #[must_use]
    pub fn new(snapshot: &Snapshot, locals: impl IntoIterator<Item = Address>) -> Self {
        let key = |address: Address, port: u16, protocol: Protocol| (address, port, protocol as u8);
        let attached = snapshot.ports().iter().filter(|port| port.is_attached());
        Self {
            services: snapshot
                .services()
                .map(|s| {
                    key(
                        s.vip,
                        s.ports.single().unwrap_or(Self::ANY_PORT),
                        s.protocol,
                    )
                })
                .collect(),
            vips: snapshot.vips().iter().copied().collect(),
            backends: snapshot
                .backends()
                .map(|b| key(b.address, b.port, b.protocol))
                .collect(),
            locals: locals.into_iter().collect(),
            macs: attached.map(|port| port.mac).collect(),
            bridge: snapshot
                .ports()
                .iter()
                .find_map(|port| port.bridge)
                .map(|bridge| bridge.macs),
        }
    }

    /// Source addresses of replies in fragments, of which the first alone has a port. All fragments of
    /// a datagram go to the workers, or none: they know by the first what the others are.
    #[must_use]
    pub fn servers(&self) -> BTreeSet<Address> {
        self.backends
            .iter()
            .map(|(address, _, _)| *address)
            .collect()
    }
}

/// Puts [`Rules`] into effect, without a moment in which a frame of a rule that stays is missed.
pub trait Steering: Send {
    /// Brings the rules in effect to `rules`.
    ///
    /// # Errors
    /// A text for the operator: what failed, and what to do about it. Rules that were in effect
    /// and are in `rules` stay in effect.
    fn apply(&mut self, rules: &Rules) -> Result<(), String>;
}
