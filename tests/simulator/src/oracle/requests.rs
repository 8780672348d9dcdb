//! Frames of clients.

use waxwing_dataplane::model::SessionAction;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::Protocol;

use super::adoption::is_by_kernel;
use super::drops::{is_excused, is_time_exceeded};
use super::routes::route_of;
use super::session_model::{SessionModel, is_client_syn, touch};
use super::turn::{Turn, backend_of, evictions, source_of};
use super::{Oracle, translation};
use crate::addresses::source_address;
use crate::balancer::{Handled, Outcome};
use crate::hosts::FORGED;
use crate::view::{View, view};

impl Oracle {
    /// Checks a frame of a client's flow.
    pub(super) fn request(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        received: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        if let Some(model) = self.models.get_mut(&tuple) {
            touch(model, self.turn, tuple, &mut self.touched);
            model.may_end |= model.is_expired(&self.timeouts, self.latest)
                || self.leaving.may_have_ended(model.backend, model.seen)
                || may_end(turn, model, received, tuple.protocol);
        }
        let model = self.models.get(&tuple);
        let came = model.map_or(Some(true), |model| model.may_come(&route_of(frame)));
        match frame.outcomes.first() {
            None if came == Some(false) => Ok(()),
            Some(Outcome::Sent(..)) if came == Some(false) => {
                Err(format!("a spoofed request was believed: {model:?}"))
            }
            None if came.is_none() => {
                if let Some(model) = self.models.get_mut(&tuple) {
                    model.uncertain = true;
                    model.routes.push(route_of(frame));
                }
                Ok(())
            }
            // Another host may own a removed VIP.
            Some(Outcome::ToKernel(_)) if !turn.snapshot().is_vip(tuple.destination) => {
                self.request_dropped(turn, frame, received, tuple)
            }
            Some(Outcome::ToKernel(_)) => Err("a client's frame went to the kernel".into()),
            Some(Outcome::Sent(port, out)) => {
                let sent = view(out).ok_or("an incomplete packet was sent")?;
                if is_time_exceeded(received, &sent) {
                    let from = tuple.destination;
                    translation::check_reject(frame, received, (*port, out), (from, &sent))?;
                    return self.request_dropped(turn, frame, received, tuple);
                }
                if sent.destination == received.source {
                    if model.is_some_and(SessionModel::is_protected) {
                        return Err("a frame of a protected session was rejected".into());
                    }
                    let from = tuple.destination;
                    return translation::check_reject(frame, received, (*port, out), (from, &sent));
                }
                let source = source_address(received.source).filter(|_| self.source_nat);
                let source = source.unwrap_or(received.source);
                translation::check_request(frame, received, (*port, out), (source, &sent))?;
                self.forwarded(turn, frame, received, (tuple, &sent))
            }
            None => self.request_dropped(turn, frame, received, tuple),
        }
    }

    /// Checks a client's frame that was forwarded, and updates its session's model.
    fn forwarded(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        received: &View,
        (tuple, sent): (Tuple, &View),
    ) -> Result<(), String> {
        let snapshot = turn.snapshot();
        let backend = backend_of(snapshot, &tuple, sent)
            .ok_or("a client's frame was not sent to a backend of its service")?;
        let found = turn.session(&tuple);
        let source = (sent.source, sent.source_port);
        let before = self.models.get(&tuple);
        let newer = before.is_some_and(|model| {
            let expired = model.is_expired(&self.timeouts, turn.now.tick());
            // A session that opened and ended in the same batch is known by its frame alone.
            let found = found.map_or(expired && !model.uncertain, |(at, session)| {
                let here = (session.backend, source_of(snapshot, &session));
                model.at != Some(at) && here == (backend.id, source)
            });
            model.may_end && model.at.is_some() && found
        });
        let other =
            before.is_none_or(|model| (model.backend, model.source) != (backend.id, source));
        let renewed = newer || other;
        if renewed {
            let old = self.models.remove(&tuple);
            if let Some(model) = &old {
                if !model.may_end {
                    return Err(format!("a session moved: {model:?} to {:?}", backend.id));
                }
                self.forget_reply(snapshot, &tuple, model);
                self.findings.ended.push(tuple);
            }
            let service = snapshot.service(backend.service);
            let listed = service.is_some_and(|s| s.backends.contains(&backend.id));
            if !listed || !(backend.takes_new() || backend.keeps_sessions()) {
                return Err(format!(
                    "a new session on {:?}, which accepts none, after {old:?}",
                    backend.id
                ));
            }
            // A reply of the same batch uses the route that was current at its look-up.
            let route = old.map_or_else(|| route_of(frame), |model| model.route);
            let mut model = self.new_model(turn, backend, (received.flags, source), route);
            model.replaced_this_turn = newer && !is_client_syn(received.flags);
            self.models.insert(tuple, model);
            self.touched.push(tuple);
            // A session that found no room in the table has no replies.
            if found.is_some() {
                self.note_reply(turn, backend, &tuple, source)?;
            }
        }
        let (now, timeouts) = (turn.now.tick(), &self.timeouts);
        let Some(model) = self.models.get_mut(&tuple) else {
            return Ok(());
        };
        if model.is_expired(timeouts, now) && !model.uncertain {
            return Err(format!("an expired session was used: {model:?} at {now:?}"));
        }
        model.uncertain |= model.replaced_this_turn && is_client_syn(received.flags);
        model.tcp.client_sent(received);
        model.is_seen(now);
        model.came_by(route_of(frame), is_forged(frame, received));
        Ok(())
    }

    /// Checks a client's frame that was dropped.
    fn request_dropped(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        received: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        let excused = is_excused(turn, received);
        if let Some(model) = self.models.get_mut(&tuple) {
            if model.is_protected() && !excused {
                return Err(format!(
                    "a frame of a protected session was dropped: {model:?}"
                ));
            }
            model.came_by(route_of(frame), is_forged(frame, received));
            // An RST opens no session, and was looked up before a reply of its batch opened this one.
            let is_just_adopted = model.at.is_none() && is_by_kernel(&model.route);
            if model.may_end || is_just_adopted {
                model.uncertain = true;
            } else {
                model.tcp.client_sent(received);
                model.is_seen(turn.now.tick());
            }
            return Ok(());
        }
        // It may have opened a session although the packet was dropped.
        if excused {
            return self.adopt(turn, tuple, (received.flags, route_of(frame)));
        }
        Ok(())
    }
}

/// Whether an attacker made the frame, whose sequence numbers are outside every window.
fn is_forged(frame: &Handled, received: &View) -> bool {
    let payload = frame.bytes.get(received.payload..received.end);
    payload == Some(FORGED)
}

/// After so many ticks of silence, a SYN moves the session of a removed backend.
const SILENT_TICKS: u32 = 5;

/// Whether the session may end at a client's frame.
fn may_end(turn: &Turn<'_>, model: &SessionModel, received: &View, protocol: Protocol) -> bool {
    let Some(backend) = turn.snapshot().backend(model.backend) else {
        return false;
    };
    let opening = protocol == Protocol::Tcp && is_client_syn(received.flags);
    let is_evictable = !model.stayed_established();
    let is_silent = turn.now.tick().0.saturating_sub(model.seen.0) >= SILENT_TICKS;
    let takes_none = !backend.healthy || backend.is_removed();
    model.uncertain
        || backend.sessions != SessionAction::Keep
        || (opening && !model.stayed_open())
        || (opening && takes_none && (is_evictable || model.tcp.has_only_syn()))
        || (opening && backend.is_removed() && is_silent)
        || (is_evictable && evictions(turn.balancer) > model.evictions)
}
