//! Captured packets as text and as JSON.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waxwing_dataplane::capture::{Captured, CapturedFrame, Fate};
use waxwing_dataplane::session::Session;
use waxwing_packet::{IpPacket, Packet, TcpFlags, Transport, parse};

use super::form::Form;
use crate::admin::report::Reporter;
use crate::admin::sessions::phase_label;
use crate::admin::status::endpoint;
use crate::publish::view::View;

/// A packet, and what became of it: one line of `GET /v1/capture?format=json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TracedPacket {
    /// When it came, in microseconds since 1970.
    pub at_us: u64,
    pub worker: usize,
    pub arrived: TracedFrame,
    /// What was sent because of it.
    pub left: Vec<TracedFrame>,
    /// `forwarded`, `rejected`, `dropped` and others.
    pub outcome: String,
    /// Why it was dropped, as in `GET /v1/drops`.
    pub dropped: Option<String>,
    pub service: Option<String>,
    /// The backend's name, or its endpoint.
    pub backend: Option<String>,
    /// The session's phase after it: `half-open`, `active` or `closing`.
    pub phase: Option<String>,
    /// Whether it opened the session.
    pub opens: bool,
    /// Whether a server sent it.
    pub is_reply: bool,
}

/// How many packets a capture has missed so far: a line among those of `GET /v1/capture?format=json`, and the
/// last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    pub missed: u64,
}

/// A line of `GET /v1/capture?format=json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TraceLine {
    Missed(Missed),
    Packet(Box<TracedPacket>),
}

/// A frame as it came or left.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TracedFrame {
    pub port: String,
    /// Its length, link header included.
    pub bytes: usize,
    /// Its protocol, addresses and flags: `tcp 192.0.2.7:4000 > 203.0.113.10:80 SYN`.
    pub text: String,
}

/// Knows the names of what captured packets refer to.
pub(super) struct Describer<'a> {
    reporter: &'a Reporter,
}

impl<'a> Describer<'a> {
    pub(super) const fn new(reporter: &'a Reporter) -> Self {
        Self { reporter }
    }

    /// Returns the ports' names, by id.
    pub(super) fn port_names(&self) -> Vec<String> {
        let view = self.reporter.view.get();
        view.snapshot
            .ports()
            .iter()
            .map(|port| port.name.to_string())
            .collect()
    }

    /// Returns what became of a packet, in a line.
    pub(super) fn comment(&self, packet: &Captured) -> String {
        let traced = self.traced(packet, SystemTime::UNIX_EPOCH);
        let mut parts = vec![traced.outcome];
        parts.extend(traced.dropped);
        parts.extend(traced.service.map(|service| format!("service {service}")));
        parts.extend(traced.backend.map(|backend| format!("backend {backend}")));
        parts.extend(traced.phase);
        parts.extend(traced.opens.then(|| "opens its session".to_owned()));
        parts.join(", ")
    }

    fn traced(&self, packet: &Captured, clock_began: SystemTime) -> TracedPacket {
        let view = self.reporter.view.get();
        let at = clock_began + Duration::from_nanos(packet.at.nanos());
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let service = packet.service.and_then(|id| view.snapshot.service(id));
        let dropped = match packet.fate {
            Fate::Dropped(reason) => Some(reason.label().to_owned()),
            _ => None,
        };
        TracedPacket {
            at_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            worker: packet.worker,
            arrived: frame(&view, &packet.arrived),
            left: packet.left.iter().map(|it| frame(&view, it)).collect(),
            outcome: packet.fate.label().to_owned(),
            dropped,
            service: service.map(|service| service.name.to_string()),
            backend: packet.session.and_then(|session| backend(&view, &session)),
            phase: packet
                .session
                .map(|session| phase_label(session.tcp.phase()).to_owned()),
            opens: packet.opens,
            is_reply: packet.is_reply,
        }
    }
}

/// Returns a backend's name in the config, or its endpoint.
fn backend(view: &Arc<View>, session: &Session) -> Option<String> {
    let backend = view.snapshot.backend(session.backend)?;
    let endpoint = endpoint(backend.address, backend.port_for(session.service_port));
    let service = view.snapshot.service(backend.service);
    let entries = service.and_then(|service| {
        let mut services = view.config.services.iter();
        let entry = services.find(|entry| *entry.name.value == *service.name)?;
        let at = service.backends.iter().position(|id| *id == backend.id)?;
        entry.backends.get(at)?.name.clone()
    });
    Some(entries.map_or(endpoint, |name| name.value.to_string()))
}

fn frame(view: &Arc<View>, frame: &CapturedFrame) -> TracedFrame {
    let port = view.snapshot.port(frame.port);
    TracedFrame {
        port: port.map_or_else(String::new, |port| port.name.to_string()),
        bytes: frame.len,
        text: text(frame),
    }
}

/// Returns a frame's protocol, addresses and flags.
fn text(frame: &CapturedFrame) -> String {
    match parse(&frame.bytes) {
        Ok(Packet::Ip(packet)) => ip_text(&packet),
        Ok(Packet::Arp(_)) => "arp".to_owned(),
        Ok(_) => "not IP".to_owned(),
        Err(_) if frame.bytes.len() < frame.len => "cut before its headers end".to_owned(),
        Err(error) => format!("malformed: {error}"),
    }
}

fn ip_text(packet: &IpPacket) -> String {
    let (from, to) = (packet.source, packet.destination);
    let ports = |protocol: &str, source, destination| {
        format!(
            "{protocol} {} > {}",
            endpoint(from, source),
            endpoint(to, destination)
        )
    };
    let text = match packet.transport {
        Transport::Tcp {
            source,
            destination,
            flags,
            ..
        } => ports("tcp", source, destination) + &flags_text(flags),
        Transport::Udp {
            source,
            destination,
        } => ports("udp", source, destination),
        Transport::Icmp { kind, code } => format!("icmp {from} > {to} type {kind} code {code}"),
        Transport::Other(protocol) => format!("protocol {protocol} {from} > {to}"),
    };
    match packet.fragment {
        Some(fragment) => format!("{text}, fragment at {}", fragment.offset),
        None => text,
    }
}

fn flags_text(flags: TcpFlags) -> String {
    let names = [
        (TcpFlags::SYN, " SYN"),
        (TcpFlags::FIN, " FIN"),
        (TcpFlags::RST, " RST"),
        (TcpFlags::PSH, " PSH"),
        (TcpFlags::ACK, " ACK"),
    ];
    let set = names.iter().filter(|(flag, _)| flags.has(*flag));
    set.map(|(_, name)| *name).collect()
}

/// Writes a line for each packet.
pub(super) struct TraceWriter<'a, W> {
    out: &'a mut W,
    describer: Describer<'a>,
    clock_began: SystemTime,
}

impl<'a, W: Write> TraceWriter<'a, W> {
    pub(super) fn new(reporter: &'a Reporter, out: &'a mut W) -> Self {
        Self {
            out,
            describer: Describer::new(reporter),
            clock_began: reporter.clock_began(),
        }
    }
}

impl<W: Write> Form for TraceWriter<'_, W> {
    fn packet(&mut self, packet: &Captured) -> io::Result<()> {
        let traced = self.describer.traced(packet, self.clock_began);
        serde_json::to_writer(&mut *self.out, &traced)?;
        self.out.write_all(b"\n")
    }

    fn heartbeat(&mut self, missed: u64) -> io::Result<()> {
        serde_json::to_writer(&mut *self.out, &Missed { missed })?;
        self.out.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
