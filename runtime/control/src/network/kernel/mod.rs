//! What Waxwing asks of the kernel's network tables, over rtnetlink.
//!
//! Invariant: this module sends no packet and changes no route, address or link. The one thing it
//! writes is the request to look a neighbour up, which the kernel answers with its own ARP or NDP.

mod bridge;
pub(crate) mod table;
mod vlan;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{Stream, StreamExt, TryStreamExt};
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
use bridge::{is_bridges, station};
use table::Entry;
pub use vlan::VlanLink;

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The kernel's index of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, where it has one.
    pub mac: Option<Mac>,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Whether it was set up (`ip link set … up`).
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// The index of the link that it is a port of: a bridge, a bond.
    pub master: Option<u32>,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whether it is a bridge that runs the spanning tree protocol.
    pub spanning_tree: bool,
    /// What it is on, where it is a VLAN device.
    pub vlan: Option<VlanLink>,
}

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LocalAddress {
    /// The index of the interface it is on.
    pub link: u32,
    /// The address.
    pub address: Address,
}

/// A neighbour's place in the kernel's table: the interface and the address on that link.
pub type NeighbourKey = (u32, Address);

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its place.
    pub key: NeighbourKey,
    /// Its MAC address, once known.
    pub mac: Option<Mac>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The index of the interface it leaves through.
    pub link: u32,
    /// The neighbour it goes to: a gateway, or the destination itself.
    pub via: Address,
}

/// Why there is no way to an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRoute {
    /// No route matches, or one that refuses does.
    #[error("no route: in no network that this host reaches ({0})")]
    Unreachable(String),
    /// It is one of the host's own addresses.
    #[error("the address is this host's own")]
    Local,
    /// The route is of a kind that leads to no single neighbour.
    #[error("the route is not to one host ({0})")]
    NotUnicast(&'static str),
    /// The question could not be asked.
    #[error("the kernel's routes could not be read: {0}")]
    Netlink(String),
}

/// A change in the kernel's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A link appeared or is different now.
    Link(Link),
    /// A link is gone.
    LinkGone(u32),
    /// The host has a new address.
    Address(LocalAddress),
    /// The host lost an address.
    AddressGone(LocalAddress),
    /// A neighbour appeared or is different now.
    Neighbour(Neighbour),
    /// A neighbour is gone from the table.
    NeighbourGone(NeighbourKey),
    /// A bridge has learned where a station is.
    Station(Station),
    /// A bridge has forgotten where a station is.
    StationGone(Station),
    /// Some route or routing rule is different now.
    Routes,
    /// Notifications were lost: everything has to be read again.
    Overrun,
}

/// A connection for questions. Cheap to clone; its socket is closed with the last clone.
#[derive(Clone)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

/// The kernel's notifications, in order.
pub struct Changes {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
    connection: AbortHandle,
}

impl Kernel {
    /// Opens a connection, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket could not be made.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every link.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(into_io)?;
        Ok(messages.iter().filter_map(link).collect())
    }

    /// Every address of the host.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn addresses(&self) -> io::Result<Vec<LocalAddress>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(into_io)?;
        Ok(messages.iter().filter_map(local_address).collect())
    }

    /// The whole neighbour table.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn neighbours(&self) -> io::Result<Vec<Neighbour>> {
        let messages: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(into_io)?;
        Ok(messages.iter().filter_map(neighbour).collect())
    }

    /// What every bridge knows of stations behind its ports, its own addresses not included.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn stations(&self) -> io::Result<Vec<Station>> {
        let mut question = self.handle.neighbours().get();
        question.message_mut().header.family = AddressFamily::Bridge;
        let messages: Vec<_> = question.execute().try_collect().await.map_err(into_io)?;
        Ok(messages.iter().filter_map(station).collect())
    }

    /// Asks which way a packet to `destination` would go (`ip route get`).
    ///
    /// # Errors
    /// [`NoRoute`].
    pub async fn route_to(&self, destination: Address) -> Result<Route, NoRoute> {
        let prefix = match destination.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.into(), prefix)
            .map_err(|e| NoRoute::Netlink(e.to_string()))?
            .build();
        let answer = self.handle.route().get(question).execute().try_next().await;
        match answer {
            Ok(Some(message)) => route(&message, destination),
            Ok(None) => Err(NoRoute::Netlink("the kernel gave no answer".into())),
            Err(rtnetlink::Error::NetlinkError(refusal)) => {
                Err(NoRoute::Unreachable(refusal.to_io().to_string()))
            }
            Err(e) => Err(NoRoute::Netlink(e.to_string())),
        }
    }

    /// The main routing table, of both families; `None` where there are more than `max` routes in it,
    /// most of which were not read then.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn routes(&self, max: usize) -> io::Result<Option<Vec<Entry>>> {
        let mut entries = Vec::new();
        for question in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let mut messages = self.handle.route().get(question).execute();
            while let Some(message) = messages.try_next().await.map_err(into_io)? {
                entries.extend(table::entry(&message));
                if entries.len() > max {
                    return Ok(None);
                }
            }
        }
        Ok(Some(entries))
    }

    /// Whether the kernel routes by more than the destination: it has routing rules beyond those that
    /// every host has.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn has_policy_routing(&self) -> io::Result<bool> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = self.handle.rule().get(version).execute();
            while let Some(rule) = rules.try_next().await.map_err(into_io)? {
                if table::is_policy(&rule) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Has the kernel find a neighbour out, or check one that it has not heard of for a while, by
    /// marking it used (`NTF_USE`); it then sends ARP requests or neighbour solicitations itself
    /// and notifies of the outcome.
    ///
    /// # Errors
    /// The kernel's refusal: no privilege, the interface is down, the neighbour table is full.
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

impl Changes {
    /// Subscribes to links, addresses, routes, routing rules and neighbours. What the tables hold
    /// already is not reported: read them after this.
    ///
    /// # Errors
    /// The socket could not be made or bound.
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
        // A socket of its own: an overrun then never costs the answer to a question.
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let connection = tokio::spawn(connection).abort_handle();
        Ok(Self {
            messages: Box::new(messages.map(|(message, _)| message)),
            connection,
        })
    }

    /// The next change, or `None` when the socket failed: subscribe anew. Safe to cancel.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let message = self.messages.next().await?;
            if let Some(change) = change(&message) {
                return Some(change);
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A netlink error as the operating system's, so that its text and kind are the familiar ones.
fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(refusal) => refusal.to_io(),
        other => io::Error::other(other),
    }
}

fn change(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage as M;
    match &message.payload {
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        NetlinkPayload::InnerMessage(inner) => match inner {
            M::NewLink(m) => link(m).map(Change::Link),
            M::DelLink(m) => link(m).map(|l| Change::LinkGone(l.index)),
            M::NewAddress(m) => local_address(m).map(Change::Address),
            M::DelAddress(m) => local_address(m).map(Change::AddressGone),
            M::NewNeighbour(m) if is_bridges(m) => station(m).map(Change::Station),
            M::DelNeighbour(m) if is_bridges(m) => station(m).map(Change::StationGone),
            M::NewNeighbour(m) => neighbour(m).map(Change::Neighbour),
            M::DelNeighbour(m) => neighbour(m).map(|n| Change::NeighbourGone(n.key)),
            M::NewRoute(_) | M::DelRoute(_) | M::NewRule(_) | M::DelRule(_) => Some(Change::Routes),
            _ => None,
        },
        _ => None,
    }
}

/// The link a message is of, or `None` for one of another family: a bridge notifies of its ports
/// in messages that say nothing of the link itself.
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

/// The host's own address: on a point-to-point link `IFA_LOCAL` is it and `IFA_ADDRESS` the peer.
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

/// A MAC that one station can have; not the zeros of the loopback, nor a group.
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
        _ => return Err(NoRoute::NotUnicast("a route that refuses or discards")),
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
