//! Nexthop objects (`ip nexthop`), which routes refer to by id. The netlink library does not know them.
//!
//! Invariant: the result is what the kernel would expand a route to (`nexthop_compat_mode = 1`). Objects
//! that are dead, discard packets or forward to something else than IP have no hops.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::proto;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use tokio::task::AbortHandle;
use waxwing_packet::Address;

use super::routes::RouteHop;

/// `<linux/rtnetlink.h>`.
const RTM_GETNEXTHOP: u16 = 106;
/// `struct nhmsg`: family, scope, protocol, zero, flags.
const HEADER_LEN: usize = 8;
/// `RTNH_F_DEAD` and `RTNH_F_LINKDOWN`.
const DEAD: u32 = 1 | 16;
/// `<linux/nexthop.h>`.
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
/// `struct nexthop_grp`: id, weight minus one in two bytes, zero.
const MEMBER_LEN: usize = 8;

/// A message about a nexthop object, unparsed.
#[derive(Clone, Debug)]
pub(super) struct NexthopMessage {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkDeserializable for NexthopMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

impl NetlinkSerializable for NexthopMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// Subscribes to changes of nexthop objects.
pub(super) fn subscribe() -> io::Result<(
    impl Stream<Item = NetlinkMessage<NexthopMessage>> + Send + Unpin,
    AbortHandle,
)> {
    let (mut connection, _, messages) = proto::new_connection(NETLINK_ROUTE)?;
    let socket = connection.socket_mut().socket_mut();
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(MulticastGroup::Nexthop as u32)?;
    let connection = tokio::spawn(connection).abort_handle();
    Ok((messages.map(|(message, _)| message), connection))
}

/// Returns the hops of each nexthop object and group, by id.
pub(super) async fn read() -> io::Result<BTreeMap<u32, Vec<RouteHop>>> {
    let (connection, handle, _messages) = proto::new_connection(NETLINK_ROUTE)?;
    let connection = tokio::spawn(connection);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let all = NexthopMessage {
        kind: RTM_GETNEXTHOP,
        body: vec![0; HEADER_LEN],
    };
    let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(all));
    let answers = handle
        .request(request, SocketAddr::new(0, 0))
        .map_err(io::Error::other)?;
    let answers: Vec<NetlinkMessage<NexthopMessage>> = answers.collect().await;
    connection.abort();
    let mut objects = Vec::new();
    for answer in answers {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => objects.extend(object(&message.body)),
            NetlinkPayload::Error(refusal) => return Err(refusal.to_io()),
            _ => {}
        }
    }
    Ok(hops(&objects))
}

/// A nexthop object.
#[derive(Debug, Default)]
struct Nexthop {
    id: u32,
    /// `None` if it is dead or not a way to forward.
    hop: Option<RouteHop>,
    /// A group's members, with their weights.
    group: Vec<(u32, u16)>,
}

/// Parses a `struct nhmsg` with its attributes.
fn object(message: &[u8]) -> Option<Nexthop> {
    let flags = number(message.get(4..HEADER_LEN)?)?;
    let mut object = Nexthop::default();
    let (mut link, mut via, mut plain) = (None, None, true);
    for (kind, value) in attributes(&message[HEADER_LEN..]) {
        match kind {
            NHA_ID => object.id = number(value)?,
            NHA_OIF => link = Some(number(value)?),
            NHA_GATEWAY => via = Some(address(value)?),
            NHA_ENCAP_TYPE => plain = false,
            NHA_GROUP => object.group = value.chunks_exact(MEMBER_LEN).filter_map(member).collect(),
            _ => {}
        }
    }
    object.hop = link.filter(|_| flags & DEAD == 0).map(|link| RouteHop {
        link,
        via,
        weight: 1,
        plain,
    });
    Some(object)
}

fn member(bytes: &[u8]) -> Option<(u32, u16)> {
    let id = number(bytes.get(..4)?)?;
    let weight = u16::from_le_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    Some((id, weight.saturating_add(1)))
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<Address> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    ip.ok().map(Address::from)
}

/// Returns the hops of each object; a group has those of its members.
fn hops(objects: &[Nexthop]) -> BTreeMap<u32, Vec<RouteHop>> {
    let single: BTreeMap<u32, RouteHop> = objects
        .iter()
        .filter_map(|object| Some((object.id, object.hop?)))
        .collect();
    let of = |object: &Nexthop| -> Vec<RouteHop> {
        let weighted = object.group.iter().filter_map(|(id, weight)| {
            let hop = *single.get(id)?;
            Some(RouteHop {
                weight: *weight,
                ..hop
            })
        });
        object.hop.into_iter().chain(weighted).collect()
    };
    objects
        .iter()
        .map(|object| (object.id, of(object)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_message::attribute;
    use super::*;

    fn message(flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let header = [&[2, 0, 3, 0], &flags.to_ne_bytes()[..]].concat();
        [header, attributes.concat()].concat()
    }

    fn u32_of(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    #[test]
    fn groups_have_the_hops_of_their_living_members_by_weight() {
        let object_of = |flags, id, gateway: [u8; 4]| {
            let attributes = [
                u32_of(NHA_ID, id),
                u32_of(NHA_OIF, 3),
                attribute(NHA_GATEWAY, &gateway),
            ];
            object(&message(flags, &attributes))
        };
        let members = [
            [1, 0, 0, 0, 0, 0, 0, 0],
            [2, 0, 0, 0, 4, 0, 0, 0],
            [3, 0, 0, 0, 0, 0, 0, 0],
        ];
        let group = [
            u32_of(NHA_ID, 9),
            attribute(NHA_GROUP, members.as_flattened()),
        ];
        let objects: Vec<Nexthop> = [
            object_of(0, 1, [10, 1, 0, 2]),
            object_of(0, 2, [10, 1, 0, 3]),
            object_of(1, 3, [10, 1, 0, 4]),
            object(&message(0, &group)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let hop = |last, weight| RouteHop {
            link: 3,
            via: Some(Address::v4([10, 1, 0, last])),
            weight,
            plain: true,
        };
        let found = hops(&objects);
        assert_eq!(found[&1], [hop(2, 1)]);
        assert_eq!(found[&3], [], "dead");
        assert_eq!(found[&9], [hop(2, 1), hop(3, 5)]);
    }

    #[test]
    fn truncated_messages_are_no_objects() {
        let whole = message(0, &[u32_of(NHA_ID, 1), u32_of(NHA_OIF, 3)]);
        for len in 0..whole.len() {
            let _ = object(&whole[..len]);
        }
        assert!(object(&[]).is_none());
    }
}
