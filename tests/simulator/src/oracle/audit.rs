//! The core's sessions, held against what the oracle saw: those of a turn's frames at its end, and
//! now and then all of them.
//!
//! Invariant: after an audit the oracle's sessions and the core's are the same, one for one, and
//! each that went had a reason to.

use std::collections::BTreeMap;

use waxwing_dataplane::BackendId;

use crate::config::BACKENDS_MAX;
use crate::oracle::{Oracle, Turn, evictions, source_of, tuple_of_session};

impl Oracle {
    /// The sessions of this turn's frames are in the core what their frames say.
    pub(crate) fn compare_touched(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let evicted = evictions(turn.balancer);
        for tuple in std::mem::take(&mut self.touched) {
            let Some(pin) = self.pins.get_mut(&tuple) else {
                continue;
            };
            let Some((at, session)) = turn.session(&tuple) else {
                // What a batch's packets say of a session counts before the batch's new ones need room.
                let had_to_stay = pin.stayed_strong() || evicted == pin.evictions;
                if had_to_stay && !pin.may_end && !pin.blurred {
                    return Err(format!("the session of {tuple:?} is gone: {pin:?}"));
                }
                let pin = pin.clone();
                self.pins.remove(&tuple);
                self.forget_reply(turn.snapshot(), &tuple, &pin);
                self.told.ended.push(tuple);
                continue;
            };
            if pin.at.is_some_and(|known| known != at) {
                if !pin.may_end {
                    return Err(format!("the session of {tuple:?} is another: {pin:?}"));
                }
                pin.blurred = true;
                self.told.ended.push(tuple);
            }
            let known = (pin.backend, pin.source);
            let here = (session.backend, source_of(turn.snapshot(), &session));
            if known != here && !pin.blurred {
                return Err(format!("{session:?} is not {pin:?}"));
            }
            if session.tcp.phase() != pin.shadow.phase() && !pin.blurred {
                return Err(format!(
                    "{:?} is not the state of {tuple:?}: {pin:?}",
                    session.tcp
                ));
            }
            // The last that came leads the way, even where it came by another worker or was dropped
            // behind the look-up. Of several in one batch it may be any.
            let route = (session.hop, session.tags);
            let stayed = pin.routes.is_empty() || pin.blurred;
            let is_known = pin.routes.contains(&route) || (stayed && route == pin.route);
            if !(is_known || self.strays.has(&tuple, route)) {
                return Err(format!("{route:?} is not the way to the client: {pin:?}"));
            }
            pin.route = route;
            pin.routes.clear();
            (pin.at, pin.evictions) = (Some(at), evicted);
            (pin.may_end, pin.unsure) = (false, false);
            if pin.is_strong() && !pin.blurred {
                self.told.held.push(tuple);
            }
            if known != here {
                // Another session of the flow, that began unseen.
                (pin.backend, pin.source) = here;
                let backend = turn.snapshot().backend(session.backend);
                let backend = backend.ok_or("a session of an unknown backend")?;
                self.note_reply(turn, backend, &tuple, here.1)?;
            }
        }
        Ok(())
    }

    /// All sessions: their number, the gauges, and that each was seen to begin, and to end.
    pub(crate) fn audit(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let balancer = turn.balancer;
        let shared = &balancer.shared;
        let workers = balancer.current.len();
        let mut active = vec![vec![0_u32; workers]; BACKENDS_MAX];
        let mut from = BTreeMap::new();
        let mut known = 0;
        let mut count = 0;
        for (at, session) in shared.sessions.iter() {
            count += 1;
            active[session.backend.index()][usize::from(session.worker)] += 1;
            *from.entry(session.source).or_insert(0) += 1;
            let mut vips = balancer.current.iter();
            let vip = vips.find_map(|snapshot| Some(snapshot.backend(session.backend)?.vip));
            let tuple = tuple_of_session(&session, vip);
            let tuple = tuple.ok_or_else(|| format!("nobody knows the backend of {session:?}"))?;
            let pin = self.pins.get(&tuple).filter(|pin| pin.at == Some(at));
            let pin = pin.ok_or_else(|| format!("nobody has seen {session:?} begin"))?;
            known += usize::from(pin.backend == session.backend || pin.blurred);
        }
        let (len, capacity) = (shared.sessions.len(), shared.sessions.capacity());
        if count != len || len > capacity || known != count {
            return Err(format!(
                "{count} sessions, counted as {len} of {capacity}, {known} known"
            ));
        }
        for (id, _) in turn.snapshot().sources().iter() {
            let here = from.get(&id).copied().unwrap_or(0);
            if shared.gauges.active_from(id) != here {
                return Err(format!(
                    "{here} sessions are from {id:?}, and the gauge says otherwise"
                ));
            }
        }
        for (id, here) in (0..).map(BackendId).zip(&active) {
            let counted: Vec<u32> = (0..workers)
                .map(|worker| shared.gauges.active_here(worker, id))
                .collect();
            let sum: u32 = here.iter().sum();
            if counted != *here || shared.gauges.active(id) != sum {
                return Err(format!(
                    "{id:?} has {here:?} sessions, and the gauges say {counted:?}"
                ));
            }
        }
        self.audit_ends(turn)
    }

    /// Those that are gone had a reason.
    fn audit_ends(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let evicted = evictions(turn.balancer);
        let now = self.latest;
        let sessions = &turn.balancer.shared.sessions;
        let mut gone = Vec::new();
        for (tuple, pin) in &mut self.pins {
            if pin.at.is_some_and(|at| sessions.get(at).is_some()) {
                pin.evictions = evicted;
                continue;
            }
            let expired = pin.is_expired(&self.timeouts, tuple.protocol, now);
            let by_force = evicted > pin.evictions && !pin.is_strong();
            if !(expired || by_force || pin.blurred) {
                return Err(format!(
                    "the session of {tuple:?} is gone: {pin:?} at {now:?}"
                ));
            }
            gone.push(*tuple);
        }
        for tuple in gone {
            if let Some(pin) = self.pins.remove(&tuple) {
                self.forget_reply(turn.snapshot(), &tuple, &pin);
            }
            self.told.ended.push(tuple);
        }
        Ok(())
    }
}
