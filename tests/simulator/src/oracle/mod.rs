//! The oracle: checks the invariants after each turn of a worker. It compares each received frame with its
//! outcome, and the sessions of these frames with what their packets imply.
//!
//! Invariant: the oracle trusts the frames. It asks the core only for what frames do not show (which of two
//! sessions of a flow is the current one), and checks the answer too.

mod adoption;
mod audit;
mod drops;
mod leaving;
pub(crate) mod ledger;
mod replies;
mod requests;
mod routes;
mod session_model;
mod translation;
mod turn;

use waxwing_dataplane::model::TimeoutTicks;
use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{Backend, Snapshot, Tick};
use waxwing_packet::{Address, IpPacket, Packet, Protocol, Transport, parse};

use self::leaving::Leaving;
use self::routes::{FragmentRoutes, Route, route_of};
pub(crate) use self::session_model::is_client_syn;
use self::session_model::{SessionModel, TcpModel, touch};
pub(crate) use self::turn::{Turn, evictions};
use self::turn::{reply_of, source_of};
use crate::balancer::{Handled, Outcome};
use crate::random::Map;
use crate::view::{TCP, UDP, view};

/// What the hosts must know about a turn.
#[derive(Default)]
pub(crate) struct Findings {
    /// Flows whose session ended or was replaced.
    pub(crate) ended: Vec<Tuple>,
    /// Flows whose session is established.
    pub(crate) established: Vec<Tuple>,
}

/// The oracle's state.
pub(crate) struct Oracle {
    /// The sessions, by their client's tuple.
    models: Map<Tuple, SessionModel>,
    /// From the tuple of a backend's replies to the client's tuple.
    replies: Map<Tuple, Tuple>,
    /// Reply tuples that changed to another flow in this turn, with the flow that had them: replies of the
    /// same batch were looked up before.
    displaced: Vec<(Tuple, Tuple)>,
    leaving: Leaving,
    fragment_routes: FragmentRoutes,
    timeouts: TimeoutTicks,
    turn: u64,
    /// The latest time of any worker; their clocks differ slightly.
    latest: Tick,
    /// Flows with a frame in this turn.
    touched: Vec<Tuple>,
    turns_since_audit: usize,
    findings: Findings,
    /// Whether clients with a source NAT address get it.
    source_nat: bool,
    /// Sessions that replies opened.
    pub(crate) adopted: u64,
}

impl Oracle {
    pub(crate) fn new(timeouts: TimeoutTicks, source_nat: bool) -> Self {
        Self {
            models: Map::default(),
            replies: Map::default(),
            displaced: Vec::new(),
            leaving: Leaving::default(),
            fragment_routes: FragmentRoutes::default(),
            timeouts,
            turn: 0,
            latest: Tick::default(),
            touched: Vec::new(),
            turns_since_audit: 0,
            findings: Findings::default(),
            source_nat,
            adopted: 0,
        }
    }

    /// Checks a turn.
    ///
    /// # Errors
    /// An invariant is violated.
    pub(crate) fn check(
        &mut self,
        turn: &Turn<'_>,
        handled: &[Handled],
    ) -> Result<Findings, String> {
        self.turn += 1;
        self.displaced.clear();
        self.latest = self.latest.max(turn.now.tick());
        self.leaving.note(turn.snapshot(), self.latest);
        for frame in handled {
            self.frame(turn, frame)
                .map_err(|why| format!("{why}\n    {frame:02x?}\n    {:?}", view(&frame.bytes)))?;
        }
        self.compare_touched(turn)?;
        self.turns_since_audit += 1;
        let sessions = turn.balancer.shared.sessions.len();
        if self.turns_since_audit * 16 > sessions {
            self.turns_since_audit = 0;
            self.audit(turn)?;
        }
        Ok(std::mem::take(&mut self.findings))
    }

    /// Checks a received frame.
    fn frame(&mut self, turn: &Turn<'_>, frame: &Handled) -> Result<(), String> {
        if frame.outcomes.len() > 1 {
            return Err("a frame has two outcomes".into());
        }
        let outcome = frame.outcomes.first();
        if let Some(Outcome::ToKernel(bytes)) = outcome
            && *bytes != frame.bytes
        {
            return self.reply_by_kernel(turn, frame, bytes);
        }
        let Some(received) = view(&frame.bytes) else {
            return self.unviewed(turn, frame);
        };
        let protocol = match received.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return translation::check_icmp(frame, &received),
        };
        let tuple = Tuple {
            source: received.source,
            destination: received.destination,
            source_port: received.source_port,
            destination_port: received.destination_port,
            protocol,
        };
        let snapshot = turn.snapshot();
        let service = snapshot.service_at(tuple.destination, tuple.destination_port, protocol);
        if self.models.contains_key(&tuple) || service.is_some() {
            self.request(turn, frame, &received, tuple)
        } else if let Some((_, before)) = self.displaced.iter().find(|(reply, _)| *reply == tuple) {
            // It may have closed the session before the batch's new flow took its place.
            if let Some(model) = self.models.get_mut(before) {
                model.tcp.server_sent(&received);
            }
            Ok(())
        } else if let Some(client) = self.client_of_reply(snapshot, &tuple) {
            self.reply(turn, frame, &received, client)
        } else {
            self.not_adopted(turn, frame, received.flags, &tuple)?;
            match outcome {
                Some(Outcome::Sent(..)) => Err("a frame without a session was forwarded".into()),
                Some(Outcome::ToKernel(_)) if snapshot.is_vip(received.destination) => {
                    Err("a frame to a VIP went to the kernel".into())
                }
                _ => Ok(()),
            }
        }
    }

    /// The client's tuple whose current session has this reply tuple.
    fn client_of_reply(&self, snapshot: &Snapshot, reply: &Tuple) -> Option<Tuple> {
        let client = *self.replies.get(reply)?;
        let model = self.models.get(&client)?;
        let backend = snapshot.backend(model.backend)?;
        (reply_of(backend, &client, model.source) == *reply).then_some(client)
    }

    /// Handles a frame that [`view`] does not read (for example because of IP options) but the core may.
    /// After it, the session may exist in any state.
    fn unviewed(&mut self, turn: &Turn<'_>, frame: &Handled) -> Result<(), String> {
        let Ok(Packet::Ip(packet)) = parse(&frame.bytes) else {
            return Ok(());
        };
        let (source_port, destination_port, protocol) = match packet.transport {
            Transport::Tcp {
                source,
                destination,
                ..
            } => (source, destination, Protocol::Tcp),
            Transport::Udp {
                source,
                destination,
            } => (source, destination, Protocol::Udp),
            Transport::Icmp { .. } => return Ok(()),
            Transport::Other(_) => {
                if packet.fragment.is_some_and(|fragment| fragment.offset > 0) {
                    self.portless_fragment(&packet, route_of(frame), turn.now.tick());
                }
                return Ok(());
            }
        };
        let tuple = Tuple {
            source: packet.source,
            destination: packet.destination,
            source_port,
            destination_port,
            protocol,
        };
        let client = self.replies.get(&tuple).copied().unwrap_or(tuple);
        let now = turn.now.tick();
        if let Some(model) = self.models.get_mut(&client) {
            touch(model, self.turn, client, &mut self.touched);
            (model.uncertain, model.may_end) = (true, true);
            model.seen = model.seen.max(now);
            model.routes.push(route_of(frame));
            return Ok(());
        }
        self.adopt(turn, tuple, (0, route_of(frame)))
    }

    /// Handles a fragment without ports: it may belong to any session between its addresses, or to none.
    fn portless_fragment(&mut self, packet: &IpPacket, route: Route, now: Tick) {
        let ends = (packet.source, packet.destination);
        self.fragment_routes.add(ends, route);
        let replies = self.replies.iter();
        let replies = replies.filter(|(reply, _)| (reply.source, reply.destination) == ends);
        let clients: Vec<Tuple> = replies.map(|(_, client)| *client).collect();
        for (tuple, model) in &mut self.models {
            if (tuple.source, tuple.destination) == ends || clients.contains(tuple) {
                model.uncertain = true;
                model.seen = model.seen.max(now);
            }
        }
    }

    /// Takes over a session that a frame may have opened without being forwarded.
    fn adopt(
        &mut self,
        turn: &Turn<'_>,
        tuple: Tuple,
        (flags, route): (u8, Route),
    ) -> Result<(), String> {
        let Some((_, session)) = turn.session(&tuple) else {
            return Ok(());
        };
        let backend = turn.snapshot().backend(session.backend);
        let backend = backend.ok_or("the session's backend is unknown")?;
        let source = source_of(turn.snapshot(), &session);
        let mut model = self.new_model(turn, backend, (flags, source), route);
        // A later frame of the batch may have opened it instead.
        model.uncertain = true;
        self.models.insert(tuple, model);
        self.touched.push(tuple);
        self.note_reply(turn, backend, &tuple, source)
    }

    /// Starts the model of a session at its first frame.
    fn new_model(
        &self,
        turn: &Turn<'_>,
        backend: &Backend,
        (flags, source): (u8, (Address, u16)),
        route: Route,
    ) -> SessionModel {
        SessionModel {
            backend: backend.id,
            source,
            tcp: TcpModel::first(flags),
            protocol: backend.protocol,
            created: turn.now.tick(),
            seen: turn.now.tick(),
            at: None,
            route,
            routes: Vec::new(),
            candidates: Vec::new(),
            turn: self.turn,
            was_established: false,
            was_open: false,
            evictions: 0,
            may_end: false,
            uncertain: false,
            replaced_this_turn: false,
        }
    }

    /// Notes the reply tuple of a flow, and checks that no other current session has the same one.
    fn note_reply(
        &mut self,
        turn: &Turn<'_>,
        backend: &Backend,
        tuple: &Tuple,
        source: (Address, u16),
    ) -> Result<(), String> {
        let reply = reply_of(backend, tuple, source);
        let before = self.replies.insert(reply, *tuple);
        let Some(other) = before.filter(|before| before != tuple) else {
            return Ok(());
        };
        self.displaced.push((reply, other));
        let Some((_, session)) = turn.session(&other) else {
            // The next audit checks whether it had to end; its hosts may notice the end before.
            self.findings.ended.push(other);
            return Ok(());
        };
        let source = source_of(turn.snapshot(), &session);
        if let Some(backend) = turn.snapshot().backend(session.backend)
            && reply_of(backend, &other, source) == reply
        {
            return Err(format!("{tuple:?} and {other:?} have the same reply tuple"));
        }
        Ok(())
    }

    fn forget_reply(&mut self, snapshot: &Snapshot, tuple: &Tuple, model: &SessionModel) {
        if let Some(backend) = snapshot.backend(model.backend) {
            let reply = reply_of(backend, tuple, model.source);
            if self.replies.get(&reply) == Some(tuple) {
                self.replies.remove(&reply);
            }
        }
    }
}
