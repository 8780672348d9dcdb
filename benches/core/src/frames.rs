//! The frames of clients and backends: 64 bytes on the wire, or more if their headers need it.
//!
//! Invariant: a frame's checksums are correct. A frame is a copy of a complete template with translated
//! endpoints. This is fast enough to make each frame on demand, so no stock of frames occupies the caches.

use waxwing_packet::parse;
use waxwing_packet::{Address, IpPacket, Link, Packet, Rewrite, TcpFlags, Translation, VlanTags};
use waxwing_testkit::build;

use crate::addresses::{AddressPlan, MACS, ROUTER, SERVERS};

/// The least bytes of an Ethernet frame, without the frame check sequence.
const FRAME_MIN: usize = 60;

type Endpoint = (Address, u16);

/// Makes the frames of clients and backends of one address plan.
#[derive(Debug)]
pub struct Frames {
    plan: AddressPlan,
    services: u32,
    /// From the first client to the first service, by [`Stage`].
    requests: [Template; 2],
    /// From the first backend to the first client, by [`Stage`].
    replies: [Template; 2],
}

/// A packet's place in its connection. UDP datagrams of both stages are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// A SYN, or its SYN-ACK.
    Handshake,
    /// An ACK.
    Established,
}

impl Frames {
    /// Frames of this plan; client `n` uses service `n` modulo `services`.
    pub fn new(plan: AddressPlan, services: u32) -> Self {
        let link = |source, destination| Link {
            source,
            destination,
        };
        let request = |flags| {
            let link = (link(ROUTER, MACS[0]), plan.tags);
            Template::new(plan, plan.client(0), plan.vip(0), link, flags)
        };
        let reply = |flags| {
            let link = (link(SERVERS, MACS[1]), VlanTags::NONE);
            Template::new(plan, plan.backend(0), plan.client(0), link, flags)
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
        self.request(client, Stage::Handshake)
    }

    /// A packet of a client's established connection.
    pub fn established(&mut self, client: u32) -> &[u8] {
        self.request(client, Stage::Established)
    }

    /// A backend's packet of a client's established connection.
    pub fn reply(&mut self, backend: u32, client: u32) -> &[u8] {
        self.answer(backend, client, Stage::Established)
    }

    pub(crate) fn request(&mut self, client: u32, stage: Stage) -> &[u8] {
        let source = self.plan.client(client);
        let destination = self.plan.vip(client % self.services);
        self.requests[stage as usize].between(source, destination)
    }

    pub(crate) fn answer(&mut self, backend: u32, client: u32, stage: Stage) -> &[u8] {
        let source = self.plan.backend(backend);
        let destination = self.plan.client(client);
        self.replies[stage as usize].between(source, destination)
    }
}

/// A complete frame, copied with other endpoints.
#[derive(Debug)]
struct Template {
    frame: Vec<u8>,
    packet: IpPacket,
    /// Source and destination of `frame`.
    endpoints: (Endpoint, Endpoint),
    /// The latest copy.
    copy: Vec<u8>,
}

impl Template {
    fn new(
        plan: AddressPlan,
        source: Endpoint,
        destination: Endpoint,
        (link, tags): (Link, VlanTags),
        flags: u8,
    ) -> Self {
        let build = |payload: &[u8]| {
            build::Tcp {
                link,
                tags,
                source,
                destination,
                flags: TcpFlags(flags),
                // The server's sequence number is 0.
                acknowledgment: 1,
                payload,
                ..build::Tcp::default()
            }
            .frame_of(plan.protocol)
        };
        let payload = vec![0; FRAME_MIN.saturating_sub(build(&[]).len())];
        let frame = build(&payload);
        let Ok(Packet::Ip(packet)) = parse(&frame) else {
            unreachable!("the frame is an IP packet");
        };
        Self {
            copy: frame.clone(),
            frame,
            packet,
            endpoints: (source, destination),
        }
    }

    /// The frame from `source` to `destination`.
    fn between(&mut self, source: Endpoint, destination: Endpoint) -> &[u8] {
        let rewrite = Rewrite {
            source: Some(Translation::new(self.endpoints.0, source)),
            destination: Some(Translation::new(self.endpoints.1, destination)),
            ..Rewrite::default()
        };
        self.copy.copy_from_slice(&self.frame);
        rewrite.apply(&mut self.copy, &self.packet);
        &self.copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translated_frames_equal_frames_built_directly() {
        for plan in AddressPlan::ALL {
            let mut frames = Frames::new(plan, 3);
            let translated = frames.established(70_001).to_vec();
            let link = Link {
                source: ROUTER,
                destination: MACS[0],
            };
            let direct = Template::new(
                plan,
                plan.client(70_001),
                plan.vip(70_001 % 3),
                (link, plan.tags),
                TcpFlags::ACK,
            );
            assert_eq!(translated, direct.frame, "{}", plan.name);
            assert!(translated.len() >= FRAME_MIN, "{}", plan.name);
            assert_eq!(
                build::verify_checksums(frames.reply(9, 70_001)),
                Ok(()),
                "{}",
                plan.name
            );
        }
    }
}
