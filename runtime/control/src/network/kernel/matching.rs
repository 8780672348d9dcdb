//! The route that the kernel matches, with all of its next hops.
//!
//! Invariant: it names interfaces only. Which next hop a packet takes is the kernel's answer alone
//! ([`Kernel::route_to`]).

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::RouteFlags;
use waxwing_packet::Address;

use super::routes::{self, RouteEntry};
use super::{Kernel, host_prefix_len, into_io, nexthops};

impl Kernel {
    /// Returns the outgoing interfaces of all next hops of the route to `destination`
    /// (`ip route get fibmatch`); none if the kernel does not say.
    pub async fn links_to(&self, destination: Address) -> Vec<u32> {
        let entry = self.matching_route(destination).await.ok().flatten();
        let Some(entry) = entry else {
            return Vec::new();
        };
        let mut hops = entry.hops;
        if let Some(id) = entry.nexthop {
            let objects = nexthops::read().await.unwrap_or_default();
            hops.extend(objects.get(&id).into_iter().flatten());
        }
        hops.iter().map(|hop| hop.link).collect()
    }

    async fn matching_route(&self, destination: Address) -> io::Result<Option<RouteEntry>> {
        let mut request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.into(), host_prefix_len(destination))
            .map_err(io::Error::other)?
            .build();
        request.header.flags |= RouteFlags::FibMatch;
        let mut messages = self.handle.route().get(request).execute();
        let message = messages.try_next().await.map_err(into_io)?;
        Ok(message.as_ref().and_then(routes::entry))
    }
}
