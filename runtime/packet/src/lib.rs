//! Wire formats, checksums, and packet rewriting. Without I/O and `unsafe`; independent of the other
//! Waxwing crates.
//!
//! - [`parse()`] reads a frame once and returns a [`Packet`]: offsets, and the fields that forwarding
//!   depends on. [`Rewrite::apply`] uses it to rewrite the frame for NAT.
//! - [`arp::Arp`], [`ndp::Solicitation`] and [`ndp::Advertisement`] are messages parsed from one frame
//!   and written to another.
//! - [`icmp::answer_echo`] turns an echo request into its reply in place, [`reject`] a packet into the
//!   RST or ICMP error about it.
//! - [`quote`] parses and rewrites the packet quoted in an ICMP error.
//! - [`Fragmentation`] splits an IPv4 packet that exceeds the MTU.
//!
//! Each protocol's file has the same form: byte ranges in `field`, and a view of the fixed-size header
//! whose getters cannot fail.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
pub mod arp;
pub mod checksum;
mod error;
pub mod ethernet;
mod fragment_out;
pub mod icmp;
mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
mod packed_tags;
mod packet;
mod parse;
pub mod plain;
mod prefix;
pub mod quote;
pub mod reject;
mod rewrite;
pub mod tcp;
pub mod udp;
mod wire;

pub use address::{Address, Family, Mac, Protocol};
pub use checksum::Delta;
pub use error::ParseError;
pub use ethernet::{Ethernet, Link, VlanTag, VlanTags};
pub use fragment_out::Fragmentation;
pub use packet::{Fragment, IpPacket, Packet, Transport};
pub use parse::{parse, parse_head, parse_plain};
pub use prefix::Prefix;
pub use quote::Quote;
pub use rewrite::{Changes, Rewrite, Translation};
pub use tcp::TcpFlags;
