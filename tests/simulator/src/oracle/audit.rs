//! Compares the core's sessions with the oracle's models: those with frames at the end of each turn, all of
//! them now and then.
//!
//! Invariant: after an audit, the core's sessions and the models match one to one, and each session that
//! ended had a reason.

use std::collections::BTreeMap;

use waxwing_dataplane::BackendId;
use waxwing_dataplane::counters::SessionCounts;
use waxwing_dataplane::session::Phase;
use waxwing_packet::Protocol;

use super::Oracle;
use super::turn::{Turn, evictions, source_of, tuple_of_session};
use crate::attack::is_blind;
use crate::balancer::BACKENDS_MAX;

/// Of the clients that see no answer, this many may guess a server's sequence number: each packet has a
/// chance of one in 65,536, and a world has some thousand of them.
const GUESSED_MAX: u32 = 3;

impl Oracle {
    /// Checks that the core's sessions of this turn's frames match their models.
    pub(super) fn compare_touched(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let evicted = evictions(turn.balancer);
        for tuple in std::mem::take(&mut self.touched) {
            let Some(model) = self.models.get_mut(&tuple) else {
                continue;
            };
            let Some((at, session)) = turn.session(&tuple) else {
                // Packets of established sessions take effect before new sessions of the batch need room.
                let had_to_stay = model.stayed_established() || evicted == model.evictions;
                if had_to_stay && !model.may_end && !model.uncertain {
                    return Err(format!(
                        "the session of {tuple:?} ended without a reason: {model:?}"
                    ));
                }
                let model = model.clone();
                self.models.remove(&tuple);
                self.forget_reply(turn.snapshot(), &tuple, &model);
                self.findings.ended.push(tuple);
                continue;
            };
            if model.at.is_some_and(|known| known != at) {
                if !model.may_end {
                    return Err(format!(
                        "the session of {tuple:?} was replaced without a reason: {model:?}"
                    ));
                }
                model.uncertain = true;
                self.findings.ended.push(tuple);
            }
            let known = (model.backend, model.source);
            let here = (session.backend, source_of(turn.snapshot(), &session));
            if known != here && !model.uncertain {
                return Err(format!("{session:?} does not match {model:?}"));
            }
            if session.tcp.phase() != model.tcp.phase() && !model.uncertain {
                return Err(format!(
                    "{:?} is the wrong state of {tuple:?}: {model:?}",
                    session.tcp
                ));
            }
            // The client's last packet sets the route, even if another worker received it or it was dropped
            // after the look-up. Of several packets in a batch, any may be the last.
            let route = (session.hop, session.tags);
            let is_tcp = model.protocol == Protocol::Tcp;
            let is_confirmed = is_tcp && model.tcp.is_assured(Protocol::Tcp);
            let stayed = model.routes.is_empty() || model.uncertain || is_confirmed;
            let is_known = model.routes.contains(&route)
                || model.candidates.contains(&route)
                || (stayed && route == model.route);
            if !(is_known || self.fragment_routes.has(&tuple, route)) {
                return Err(format!(
                    "{route:?} is not the route to the client: {model:?}"
                ));
            }
            model.route = route;
            model.routes.clear();
            (model.at, model.evictions) = (Some(at), evicted);
            (model.may_end, model.replaced_this_turn) = (false, false);
            if model.is_established() && !model.uncertain {
                self.findings.established.push(tuple);
            }
            if known != here {
                // Another session of the flow, whose start was not seen.
                (model.backend, model.source) = here;
                let backend = turn.snapshot().backend(session.backend);
                let backend = backend.ok_or("the session's backend is unknown")?;
                self.note_reply(turn, backend, &tuple, here.1)?;
            }
        }
        Ok(())
    }

    /// Checks all sessions: their number, the gauges, and that each session's start and end was seen.
    pub(super) fn audit(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let balancer = turn.balancer;
        let shared = &balancer.shared;
        let workers = balancer.current.len();
        let mut counts = vec![vec![SessionCounts::default(); workers]; BACKENDS_MAX];
        let mut from = BTreeMap::new();
        let (mut known, mut count, mut guessed) = (0, 0, 0);
        for (at, session) in shared.sessions.iter() {
            count += 1;
            let counts = &mut counts[session.backend.index()][usize::from(session.worker)];
            *match session.tcp.phase() {
                Phase::HalfOpen => &mut counts.half_open,
                Phase::Established => &mut counts.active,
                Phase::Closing => &mut counts.closing,
            } += 1;
            *from.entry(session.source).or_insert(0) += 1;
            guessed += u32::from(session.is_assured() && is_blind(session.client));
            let mut vips = balancer.current.iter();
            let vip = vips.find_map(|snapshot| Some(snapshot.backend(session.backend)?.vip));
            let tuple = tuple_of_session(&session, vip);
            let tuple = tuple.ok_or_else(|| format!("the backend of {session:?} is unknown"))?;
            let model = self.models.get(&tuple).filter(|model| model.at == Some(at));
            let model = model.ok_or_else(|| format!("the start of {session:?} was not seen"))?;
            known += usize::from(model.backend == session.backend || model.uncertain);
        }
        if guessed > GUESSED_MAX {
            return Err(format!(
                "{guessed} sessions are assured whose client saw no answer"
            ));
        }
        let (len, capacity) = (shared.sessions.len(), shared.sessions.capacity());
        if count != len || len > capacity || known != count {
            return Err(format!(
                "{count} sessions, {len} by the table's counter (capacity {capacity}), {known} known"
            ));
        }
        for (id, _) in turn.snapshot().sources().iter() {
            let here = from.get(&id).copied().unwrap_or(0);
            if shared.gauges.sessions_from(id) != here {
                return Err(format!(
                    "{here} sessions use source {id:?}, but its gauge differs"
                ));
            }
        }
        for (id, here) in (0..).map(BackendId).zip(&counts) {
            let counted: Vec<_> = (0..workers)
                .map(|worker| shared.gauges.sessions_here(worker, id))
                .collect();
            let all = shared.gauges.sessions(id);
            let sum = |of: fn(&SessionCounts) -> u32| here.iter().map(of).sum::<u32>();
            let sums = SessionCounts {
                half_open: sum(|counts| counts.half_open),
                active: sum(|counts| counts.active),
                closing: sum(|counts| counts.closing),
            };
            if counted != *here || all != sums {
                return Err(format!(
                    "{id:?} has {here:?} by worker, but its gauges are {counted:?}, in all {all:?}"
                ));
            }
        }
        self.audit_ends(turn)
    }

    /// Checks that each session that ended had a reason.
    fn audit_ends(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let evicted = evictions(turn.balancer);
        let now = self.latest;
        let sessions = &turn.balancer.shared.sessions;
        let mut gone = Vec::new();
        for (tuple, model) in &mut self.models {
            if model.at.is_some_and(|at| sessions.get(at).is_some()) {
                model.evictions = evicted;
                continue;
            }
            let expired = model.is_expired(&self.timeouts, now);
            let is_evicted = evicted > model.evictions && !model.is_established();
            let is_left = self.leaving.may_have_ended(model.backend, model.seen);
            if !(expired || is_left || is_evicted || model.uncertain) {
                return Err(format!(
                    "the session of {tuple:?} ended without a reason: {model:?} at {now:?}"
                ));
            }
            gone.push(*tuple);
        }
        for tuple in gone {
            if let Some(model) = self.models.remove(&tuple) {
                self.forget_reply(turn.snapshot(), &tuple, &model);
            }
            self.findings.ended.push(tuple);
        }
        self.leaving.clear();
        Ok(())
    }
}
