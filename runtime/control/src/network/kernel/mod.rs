//! Access to the kernel's network tables over rtnetlink.
//!
//! Invariant: this module sends no packet and changes no route, address or link. Its only write is the
//! request to resolve a neighbour, which the kernel does with its own ARP or NDP.

mod bridge;
mod matching;
mod nexthops;
pub(crate) mod routes;
#[cfg(test)]
mod test_message;
mod vlan;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{Stream, StreamExt, TryStream, TryStreamExt, stream};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::task::AbortHandle;
use waxwing_packet::{Address, Family, Mac};

pub use bridge::Station;
use bridge::{is_fdb, station};
use routes::RouteEntry;
pub use vlan::VlanLink;

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index in the kernel.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<Mac>,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Whether it is set up (`ip link set … up`).
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// The index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whether it is a bridge that runs the spanning tree protocol.
    pub spanning_tree: bool,
    /// Its parent and tag, if it is a VLAN device.
    pub vlan: Option<VlanLink>,
    /// The index of its parent, if it is a macvlan or macvtap device in this network namespace.
    pub macvlan: Option<u32>,
}

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LocalAddress {
    /// The index of the interface it is on.
    pub link: u32,
    /// The address.
    pub address: Address,
    /// The length of its subnet's prefix.
    pub prefix_len: u8,
}

/// Returns the length of the prefix that is one address.
fn host_prefix_len(address: Address) -> u8 {
    match address.family() {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

impl LocalAddress {
    /// Returns the broadcast address of its subnet, if that has one (IPv4, RFC 919, RFC 3021).
    pub(crate) fn broadcast(&self) -> Option<Address> {
        let is_v4 = self.address.family() == Family::V4;
        let hosts = 32_u32
            .checked_sub(self.prefix_len.into())
            .filter(|bits| *bits >= 2 && is_v4)?;
        let mask = u32::MAX.checked_shr(32 - hosts)?;
        let octets = u32::from_be_bytes(self.address.v4_octets()) | mask;
        Some(Address::v4(octets.to_be_bytes()))
    }
}

/// Identifies a neighbour: the interface's index, and the address on that link.
pub type NeighbourKey = (u32, Address);

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The interface and the address.
    pub key: NeighbourKey,
    /// Its MAC address, once known.
    pub mac: Option<Mac>,
    /// Its state in the kernel (NUD).
    pub state: NeighbourState,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The index of the outgoing interface.
    pub link: u32,
    /// The next hop: a gateway, or the destination itself.
    pub via: Address,
}

/// Why an address cannot be reached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRoute {
    /// No route matches, or the matching route rejects.
    #[error("this host has no route to it ({0})")]
    Unreachable(String),
    /// The address is the host's own.
    #[error("it is an address of this host")]
    Local,
    /// The route does not lead to a single host.
    #[error("its route does not lead to a single host ({0})")]
    NotUnicast(&'static str),
    /// The request failed.
    #[error("cannot read the kernel's routes: {0}")]
    Netlink(String),
}

/// A change in the kernel's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetworkChange {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkGone(u32),
    /// The host got an address.
    Address(LocalAddress),
    /// The host lost an address.
    AddressGone(LocalAddress),
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour left the table.
    NeighbourGone(NeighbourKey),
    /// A bridge learned a station's port.
    Station(Station),
    /// A bridge forgot a station.
    StationGone(Station),
    /// A route or a routing rule changed.
    Routes,
    /// Notifications were lost: read all tables again.
    Overrun,
}

/// A connection for requests. Cheap to clone; the last clone closes the socket.
#[derive(Clone)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

/// The kernel's notifications, in order.
pub struct NetworkChanges {
    /// Messages that change nothing are `Some(None)`; `None` when a socket failed.
    changes: Box<dyn Stream<Item = Option<Option<NetworkChange>>> + Send + Unpin>,
    connections: [AbortHandle; 2],
}

impl Kernel {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket could not be opened.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Returns every link.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        collect(self.handle.link().get().execute(), link).await
    }

    /// Returns every address of the host.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn addresses(&self) -> io::Result<Vec<LocalAddress>> {
        collect(self.handle.address().get().execute(), local_address).await
    }

    /// Returns the neighbour table.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn neighbours(&self) -> io::Result<Vec<Neighbour>> {
        collect(self.handle.neighbours().get().execute(), neighbour).await
    }

    /// Returns the stations that bridges have learned, without the bridges' own addresses.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn stations(&self) -> io::Result<Vec<Station>> {
        let mut request = self.handle.neighbours().get();
        request.message_mut().header.family = AddressFamily::Bridge;
        collect(request.execute(), station).await
    }

    /// Returns the route of a packet to `destination` (`ip route get`).
    ///
    /// # Errors
    /// [`NoRoute`].
    pub async fn route_to(&self, destination: Address) -> Result<Route, NoRoute> {
        let request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.into(), host_prefix_len(destination))
            .map_err(|e| NoRoute::Netlink(e.to_string()))?
            .build();
        let answer = self.handle.route().get(request).execute().try_next().await;
        match answer {
            Ok(Some(message)) => route(&message, destination),
            Ok(None) => Err(NoRoute::Netlink("no answer".into())),
            Err(rtnetlink::Error::NetlinkError(refusal)) => {
                Err(NoRoute::Unreachable(refusal.to_io().to_string()))
            }
            Err(e) => Err(NoRoute::Netlink(e.to_string())),
        }
    }

    /// Returns the main routing table of both families; `None` if it has more than `max` routes.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn routes(&self, max: usize) -> io::Result<Option<Vec<RouteEntry>>> {
        let mut entries = Vec::new();
        for request in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let mut messages = self.handle.route().get(request).execute();
            while let Some(message) = messages.try_next().await.map_err(into_io)? {
                entries.extend(routes::entry(&message));
                if entries.len() > max {
                    return Ok(None);
                }
            }
        }
        if entries.iter().any(|entry| entry.nexthop.is_some()) {
            let objects = nexthops::read().await?;
            for entry in &mut entries {
                let hops = entry.nexthop.and_then(|id| objects.get(&id));
                entry.hops.extend(hops.into_iter().flatten());
            }
        }
        Ok(Some(entries))
    }

    /// Returns whether the host has policy routing: rules beyond those that every host has.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    pub async fn has_policy_routing(&self) -> io::Result<bool> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = self.handle.rule().get(version).execute();
            while let Some(rule) = rules.try_next().await.map_err(into_io)? {
                if routes::is_policy(&rule) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Has the kernel resolve or verify a neighbour by marking it used (`NTF_USE`). The kernel sends
    /// ARP requests or neighbour solicitations itself and notifies of the result.
    ///
    /// # Errors
    /// The kernel refused: no privilege, the interface is down, or the neighbour table is full.
    pub async fn use_neighbour(&self, (link, address): NeighbourKey) -> io::Result<()> {
        self.handle
            .neighbours()
            .add(link, address.into())
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(into_io)
    }
}

impl NetworkChanges {
    /// Subscribes to changes of links, addresses, routes, routing rules and neighbours. Existing
    /// entries are not reported: read the tables afterwards.
    ///
    /// # Errors
    /// The socket could not be opened or bound.
    pub fn subscribe() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        // A separate socket, so that an overrun cannot lose the answer to a request.
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let connection = tokio::spawn(connection).abort_handle();
        let changes = messages.map(|(message, _)| Some(change(&message)));
        let (objects, other) = nexthops::subscribe()?;
        let objects = objects.map(|_| Some(Some(NetworkChange::Routes)));
        let failed = || stream::iter([None]);
        let changes = stream::select(changes.chain(failed()), objects.chain(failed()));
        Ok(Self {
            changes: Box::new(changes),
            connections: [connection, other],
        })
    }

    /// Returns the next change; `None` if the socket failed, then subscribe again. Cancel safe.
    pub async fn next(&mut self) -> Option<NetworkChange> {
        loop {
            if let Some(change) = self.changes.next().await?? {
                return Some(change);
            }
        }
    }
}

impl Drop for NetworkChanges {
    fn drop(&mut self) {
        self.connections.iter().for_each(AbortHandle::abort);
    }
}

/// Collects what `parse` takes from the kernel's messages.
async fn collect<M, T>(
    messages: impl TryStream<Ok = M, Error = rtnetlink::Error>,
    parse: impl Fn(&M) -> Option<T>,
) -> io::Result<Vec<T>> {
    let messages: Vec<M> = messages.try_collect().await.map_err(into_io)?;
    Ok(messages.iter().filter_map(parse).collect())
}

/// Converts a netlink error into an OS error, for its familiar kind and text.
fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(refusal) => refusal.to_io(),
        other => io::Error::other(other),
    }
}

fn change(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<NetworkChange> {
    use RouteNetlinkMessage as M;
    match &message.payload {
        NetlinkPayload::Overrun(_) => Some(NetworkChange::Overrun),
        NetlinkPayload::InnerMessage(inner) => match inner {
            M::NewLink(m) => link(m).map(NetworkChange::Link),
            M::DelLink(m) => link(m).map(|l| NetworkChange::LinkGone(l.index)),
            M::NewAddress(m) => local_address(m).map(NetworkChange::Address),
            M::DelAddress(m) => local_address(m).map(NetworkChange::AddressGone),
            M::NewNeighbour(m) if is_fdb(m) => station(m).map(NetworkChange::Station),
            M::DelNeighbour(m) if is_fdb(m) => station(m).map(NetworkChange::StationGone),
            M::NewNeighbour(m) => neighbour(m).map(NetworkChange::Neighbour),
            M::DelNeighbour(m) => neighbour(m).map(|n| NetworkChange::NeighbourGone(n.key)),
            M::NewRoute(_) | M::DelRoute(_) | M::NewRule(_) | M::DelRule(_) => {
                Some(NetworkChange::Routes)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Parses a link; `None` for another family: a bridge's messages about its ports do not describe the
/// link itself.
fn link(message: &LinkMessage) -> Option<Link> {
    if u8::from(message.header.interface_family) != 0 {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        master: None,
        bridge: false,
        spanning_tree: false,
        vlan: vlan::vlan(message),
        macvlan: vlan::macvlan(message),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::LinkInfo(infos) => {
                link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                link.spanning_tree = infos.iter().any(bridge::has_spanning_tree);
            }
            _ => {}
        }
    }
    Some(link)
}

/// Parses an address of the host. On a point-to-point link it is in `IFA_LOCAL`, and `IFA_ADDRESS` is
/// the peer.
fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    let of =
        |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let local = of(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        of(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })?;
    Some(LocalAddress {
        link: message.header.index,
        address: address.into(),
        prefix_len: message.header.prefix_len,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLocalAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    let key = (message.header.ifindex, address?.into());
    Some(Neighbour {
        key,
        mac: lladdr,
        state: message.header.state,
    })
}

/// Parses a station's MAC; `None` for the loopback's zeros and for group addresses.
fn mac(bytes: &[u8]) -> Option<Mac> {
    let mac = Mac(bytes.try_into().ok()?);
    (mac != Mac::default() && !mac.is_group()).then_some(mac)
}

fn route(message: &RouteMessage, destination: Address) -> Result<Route, NoRoute> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NoRoute::Local),
        RouteType::Broadcast => return Err(NoRoute::NotUnicast("a broadcast address")),
        RouteType::Multicast => return Err(NoRoute::NotUnicast("a multicast address")),
        RouteType::Anycast => return Err(NoRoute::NotUnicast("an anycast address")),
        _ => return Err(NoRoute::NotUnicast("a route that rejects or discards")),
    }
    let mut link = None;
    let mut via = destination;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => via = IpAddr::V4(*v4).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => via = IpAddr::V6(*v6).into(),
            _ => {}
        }
    }
    let link = link.ok_or(NoRoute::NotUnicast("a route without an interface"))?;
    Ok(Route { link, via })
}
