//! Wire formats, checksums and the rewriting of packets. Pure, without `unsafe`, and knowing
//! nothing of the rest of Waxwing.
//!
//! [`parse()`] reads a frame once and gives a [`Packet`] of offsets and deciding fields;
//! [`Rewrite::apply`] changes the frame by it. What the balancer answers or announces itself is a
//! value that is parsed from one frame and written to another: [`arp::Arp`],
//! [`ndp::Solicitation`], [`ndp::Advertisement`]; echo requests are answered in place by
//! [`icmp::answer_echo`], and so are packets that go no further, by [`refusal`]. What an ICMP error
//! says of another packet is read and rewritten by [`quote`]; a packet too big for its way is cut by
//! [`Cut`].
//!
//! Each protocol has a file of its own in one idiom: named byte ranges, and a view of the fixed
//! header whose getters cannot fail.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
mod parse;
mod pieces;
mod prefix;
pub mod quote;
pub mod refusal;
mod rewrite;
pub mod tcp;
pub mod udp;
mod wire;

pub use address::{Address, Family, Mac, Protocol};
pub use checksum::Delta;
pub use ethernet::{Ethernet, Link, VlanTag, VlanTags};
pub use parse::{
    Fragment, IpPacket, Packet, ParseError, Transport, parse, parse_head, parse_plain,
};
pub use pieces::Cut;
pub use prefix::Prefix;
pub use quote::Quote;
pub use rewrite::{Changes, Rewrite, Translation};
pub use tcp::TcpFlags;
