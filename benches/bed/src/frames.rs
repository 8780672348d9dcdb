//! The frames that clients and backends send, of 64 bytes on the wire or as short as their headers
//! let them be.
//!
//! Invariant: a frame's checksums are right. A frame is a copy of one that was built whole, with its
//! endpoints translated: that is fast enough to make each frame when it is needed, so that no stock
//! of frames takes part in the caches.

use waxwing_packet::parse;
use waxwing_packet::{Address, IpPacket, Link, Packet, Protocol, Rewrite, TcpFlags, Translation};
use waxwing_testkit::build;

use crate::plan::{MACS, Plan, ROUTER, SERVERS};

/// The bytes of an Ethernet frame, at least, without the check sequence.
const FRAME_MIN: usize = 60;

type Endpoint = (Address, u16);

/// Makes frames of one plan.
#[derive(Debug)]
pub struct Frames {
    plan: Plan,
    services: u32,
    /// From the first client to the first service: a SYN, an ACK; of UDP, both alike.
    requests: [Pattern; 2],
    /// From the first backend to the first client: likewise.
    replies: [Pattern; 2],
}

/// What a segment opens or carries on. Of UDP, which knows no difference, both are one datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Opening,
    Later,
}

impl Frames {
    /// Of this plan; client `n` uses service `n` modulo `services`.
    #[must_use]
    pub fn new(plan: Plan, services: u32) -> Self {
        let request =
            |flags| Pattern::new(plan, plan.client(0), plan.vip(0), ROUTER, MACS[0], flags);
        let reply = |flags| {
            Pattern::new(
                plan,
                plan.backend(0),
                plan.client(0),
                SERVERS,
                MACS[1],
                flags,
            )
        };
        Self {
            plan,
            services,
            requests: [request(TcpFlags::SYN), request(TcpFlags::ACK)],
            replies: [reply(TcpFlags::SYN | TcpFlags::ACK), reply(TcpFlags::ACK)],
        }
    }

    /// A client's SYN, or its datagram.
    pub fn opening(&mut self, client: u32) -> &[u8] {
        self.request(client, Kind::Opening)
    }

    /// A packet of a client's connection that is established.
    pub fn later(&mut self, client: u32) -> &[u8] {
        self.request(client, Kind::Later)
    }

    /// The backend's to it.
    pub fn reply(&mut self, backend: u32, client: u32) -> &[u8] {
        self.answer(backend, client, Kind::Later)
    }

    pub(crate) fn request(&mut self, client: u32, kind: Kind) -> &[u8] {
        let source = self.plan.client(client);
        let destination = self.plan.vip(client % self.services);
        self.requests[kind as usize].between(source, destination)
    }

    pub(crate) fn answer(&mut self, backend: u32, client: u32, kind: Kind) -> &[u8] {
        let source = self.plan.backend(backend);
        let destination = self.plan.client(client);
        self.replies[kind as usize].between(source, destination)
    }
}

/// A frame whose endpoints are to be replaced.
#[derive(Debug)]
struct Pattern {
    built: Vec<u8>,
    packet: IpPacket,
    endpoints: (Endpoint, Endpoint),
    made: Vec<u8>,
}

impl Pattern {
    fn new(
        plan: Plan,
        source: Endpoint,
        destination: Endpoint,
        from: waxwing_packet::Mac,
        to: waxwing_packet::Mac,
        flags: u8,
    ) -> Self {
        let link = Link {
            source: from,
            destination: to,
        };
        let build = |payload: &[u8]| match plan.protocol {
            Protocol::Tcp => build::Tcp {
                link,
                source,
                destination,
                flags: TcpFlags(flags),
                payload,
                ..build::Tcp::default()
            }
            .frame(),
            Protocol::Udp => build::Udp {
                link,
                source,
                destination,
                payload,
                ..build::Udp::default()
            }
            .frame(),
        };
        let payload = vec![0; FRAME_MIN.saturating_sub(build(&[]).len())];
        let built = build(&payload);
        let Ok(Packet::Ip(packet)) = parse(&built) else {
            unreachable!("what `build` builds is an IP packet");
        };
        Self {
            made: built.clone(),
            built,
            packet,
            endpoints: (source, destination),
        }
    }

    fn between(&mut self, source: Endpoint, destination: Endpoint) -> &[u8] {
        let rewrite = Rewrite {
            source: Some(Translation::new(self.endpoints.0, source)),
            destination: Some(Translation::new(self.endpoints.1, destination)),
            ..Rewrite::default()
        };
        self.made.copy_from_slice(&self.built);
        rewrite.apply(&mut self.made, &self.packet);
        &self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_if_built_whole() {
        for plan in [Plan::V4, Plan::V6, Plan::V4_UDP, Plan::V6_UDP] {
            let mut frames = Frames::new(plan, 3);
            let made = frames.later(70_001).to_vec();
            let direct = Pattern::new(
                plan,
                plan.client(70_001),
                plan.vip(70_001 % 3),
                ROUTER,
                MACS[0],
                TcpFlags::ACK,
            );
            assert_eq!(made, direct.built, "{}", plan.name);
            assert!(made.len() >= FRAME_MIN, "{}", plan.name);
            assert_eq!(
                build::verify_checksums(frames.reply(9, 70_001)),
                Ok(()),
                "{}",
                plan.name
            );
        }
    }
}
