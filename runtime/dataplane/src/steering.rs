//! Steering: which frames go to the workers. An adapter applies these rules before the sockets.

use std::collections::BTreeSet;

use waxwing_packet::{Address, Mac, Protocol};

use crate::{Backend, PortId, Snapshot};

/// The frames that go to the workers. All others stay with the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Destination endpoints of services. [`Rules::ANY_PORT`] stands for a range of ports: all of a VIP goes
    /// to the workers anyway.
    pub services: BTreeSet<(Address, u16, u8)>,
    /// VIPs and source addresses: all that is sent to them, including ICMP and fragments. A removed VIP stays
    /// while its sessions do.
    pub vips: BTreeSet<Address>,
    /// Those for which ARP requests and neighbour solicitations are answered.
    pub answered: BTreeSet<Address>,
    /// Source endpoints of replies; the port may be [`Rules::ANY_PORT`].
    pub backends: BTreeSet<(Address, u16, u8)>,
    /// The host's own addresses: a reply to one of them stays with the kernel.
    pub locals: BTreeSet<Address>,
    /// Each attached port's MAC, by port id: a frame to another MAC is for another host.
    pub macs: Vec<Mac>,
    /// Further MACs of the host on attached ports, of macvlan devices (VRRP): a frame to one is for this host
    /// too.
    pub further_macs: BTreeSet<(PortId, Mac)>,
    /// In transparent mode, the balancer's own MACs. Frames that backends send to other hosts pass through it
    /// and go to the workers too; frames to a VIP at another host do not.
    pub bridge: Option<[Mac; 3]>,
}

impl Rules {
    /// Any port. (No valid packet has port 0.)
    pub const ANY_PORT: u16 = Backend::PORT_KEPT;

    /// The rules for a snapshot on a host with these addresses.
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
            answered: snapshot.vips().iter().copied().collect(),
            backends: snapshot
                .backends()
                .map(|b| key(b.address, b.port, b.protocol))
                .collect(),
            locals: locals.into_iter().collect(),
            macs: attached.map(|port| port.mac).collect(),
            further_macs: BTreeSet::new(),
            bridge: snapshot
                .ports()
                .iter()
                .find_map(|port| port.bridge)
                .map(|bridge| bridge.macs),
        }
    }

    /// The backends' addresses, to steer fragments of replies: only a first fragment has ports, and the
    /// workers need all fragments of a datagram or none.
    #[must_use]
    pub fn servers(&self) -> BTreeSet<Address> {
        self.backends
            .iter()
            .map(|(address, _, _)| *address)
            .collect()
    }
}

/// Why rules could not be applied, for the operator: what failed, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SteeringError(pub String);

/// Applies [`Rules`] without ever missing a frame of a rule that stays.
pub trait Steering: Send {
    /// Replaces the rules in effect by `rules`.
    ///
    /// # Errors
    /// On error, rules that were in effect and are in `rules` stay in effect.
    fn apply(&mut self, rules: &Rules) -> Result<(), SteeringError>;
}
