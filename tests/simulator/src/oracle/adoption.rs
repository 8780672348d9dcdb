//! Sessions that the balancer has lost, and those that servers' replies open again.
//!
//! Invariant: a reply that may open a session does. It leaves by the kernel, with its VIP's address, until
//! its client's next packet shows where the client is.

use waxwing_dataplane::model::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{Backend, NextHop, Snapshot};
use waxwing_packet::{Protocol, TcpFlags, VlanTags};

use super::routes::{Route, is_from_server, route_of};
use super::session_model::{SessionModel, TcpModel, touch};
use super::turn::Turn;
use super::{Findings, Oracle, translation};
use crate::addresses::{BACK, PORT_MACS};
use crate::balancer::{Balancer, Handled};
use crate::view::{TCP, UDP, View, view};

/// The route of a session whose client is not known to be anywhere yet.
const BY_KERNEL: Route = (
    NextHop {
        port: PortId::KERNEL,
        mac: PORT_MACS[BACK.0 as usize],
    },
    VlanTags::NONE,
);

/// Whether the kernel routes the replies of a session with this route.
pub(super) fn is_by_kernel(route: &Route) -> bool {
    route.0.port == PortId::KERNEL
}

/// The backend of a reply, and the tuple of its client's packets, if it may open a session.
fn adoptable<'a>(snapshot: &'a Snapshot, reply: &Tuple, flags: u8) -> Option<(&'a Backend, Tuple)> {
    const SYN: u8 = TcpFlags::SYN;
    const RST: u8 = TcpFlags::RST;
    if flags & RST != 0 || flags & (SYN | TcpFlags::ACK) == SYN {
        return None;
    }
    let from = (reply.source, reply.source_port, reply.protocol);
    let backend = snapshot
        .backends()
        .find(|it| (it.address, it.port, it.protocol) == from)?;
    let client = Tuple {
        source: reply.destination,
        source_port: reply.destination_port,
        destination: backend.vip,
        destination_port: backend.vip_ports.first(),
        protocol: reply.protocol,
    };
    adopts(snapshot, backend).then_some((backend, client))
}

fn adopts(snapshot: &Snapshot, backend: &Backend) -> bool {
    let service = snapshot.service(backend.service);
    service.is_some_and(|service| service.adopts_replies)
}

fn tuple_of(packet: &View) -> Tuple {
    Tuple {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: match packet.protocol {
            TCP => Protocol::Tcp,
            _ => Protocol::Udp,
        },
    }
}

impl Oracle {
    /// Forgets the sessions that the balancer has lost. Of services that do not adopt replies, their
    /// connections may break.
    pub(crate) fn forget_lost(&mut self, balancer: &Balancer) -> Findings {
        let snapshot = &balancer.current[0];
        let is_lost = |model: &SessionModel| {
            let at = model.at;
            at.is_some_and(|at| balancer.shared.sessions.get(at).is_none())
        };
        let models = self.models.iter();
        let lost = models.filter(|(_, model)| is_lost(model));
        let lost: Vec<Tuple> = lost.map(|(tuple, _)| *tuple).collect();
        let mut findings = Findings::default();
        for tuple in lost {
            let Some(model) = self.models.remove(&tuple) else {
                continue;
            };
            self.forget_reply(snapshot, &tuple, &model);
            let backend = snapshot.backend(model.backend);
            if !backend.is_some_and(|backend| adopts(snapshot, backend)) {
                findings.ended.push(tuple);
            }
        }
        findings
    }

    /// Checks a frame that the kernel got modified: a reply of a session whose client's hop is not known.
    pub(super) fn reply_by_kernel(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        out: &[u8],
    ) -> Result<(), String> {
        let received = view(&frame.bytes).filter(|it| [TCP, UDP].contains(&it.protocol));
        let received = received.ok_or("the kernel got a modified frame")?;
        let sent = view(out).ok_or("the kernel got an incomplete packet")?;
        let (snapshot, tuple) = (turn.snapshot(), tuple_of(&received));
        let opens = adoptable(snapshot, &tuple, received.flags);
        let client = self
            .client_of_reply(snapshot, &tuple)
            .or(opens.map(|(_, client)| client))
            .ok_or("the kernel got a modified frame")?;
        if !is_from_server(received.source, &route_of(frame)) {
            return Err("a spoofed reply was believed".into());
        }
        translation::check_reply_by_kernel(frame, &received, out, (&client, &sent))?;
        let now = turn.now.tick();
        if !self.models.contains_key(&client) {
            let (backend, _) = opens.ok_or("a reply of no session was translated")?;
            self.adopted += 1;
            let source = (client.source, client.source_port);
            let mut model = self.new_model(turn, backend, (0, source), BY_KERNEL);
            model.tcp = TcpModel::adopted();
            self.models.insert(client, model);
            self.touched.push(client);
            self.note_reply(turn, backend, &client, source)?;
        }
        let Some(model) = self.models.get_mut(&client) else {
            return Ok(());
        };
        touch(model, self.turn, client, &mut self.touched);
        if !is_by_kernel(&model.route) {
            // The batch's first packet of the connection was its client's, but the reply was looked up first.
            if model.at.is_some() && !model.may_end && !model.uncertain {
                return Err(format!("the kernel routes a reply of {model:?}"));
            }
            model.uncertain = true;
            model.routes.push(BY_KERNEL);
        }
        model.tcp.server_sent(&received);
        model.is_seen(now);
        Ok(())
    }

    /// Checks a server's frame that opened no session.
    pub(super) fn not_adopted(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        flags: u8,
        tuple: &Tuple,
    ) -> Result<(), String> {
        let Some((_, client)) = adoptable(turn.snapshot(), tuple, flags) else {
            return Ok(());
        };
        match frame.outcomes.first() {
            // The session may be there for all that.
            None if turn.kernel_full => self.adopt(turn, client, (0, BY_KERNEL)),
            None => Err("a reply of no session was dropped".into()),
            Some(_) => Err("a reply of no session opened none".into()),
        }
    }
}
