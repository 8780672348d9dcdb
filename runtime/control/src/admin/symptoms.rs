//! What the last minute's sessions show to be wrong that no health check sees: large packets that do not
//! arrive (RFC 2923 section 2.1), a server that answers checks but no client, and shares far from the
//! weights.
//!
//! Invariant: it only reads counters, once a second, and judges by at most the last minute's.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use waxwing_dataplane::counters::SampledSegments;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{Backend, BackendId, Snapshot};

use crate::config;
use crate::publish::counter_totals::BackendTotals;
use crate::publish::keys::service_in;
use crate::publish::view::View;

/// A symptom is shown for so long at least, and for twice that at most.
const WINDOW: Duration = Duration::from_secs(30);
/// One client's own link is no problem of a backend: so many of its sampled sessions must be stuck, in
/// percent.
const STUCK_PERCENT: u64 = 10;
/// So many sessions must be without an answer, and so many of all new ones, in percent.
const SILENT_MIN: u64 = 3;
const SILENT_PERCENT: u64 = 90;
/// So many new sessions show how a service divides them.
const SHARED_MIN: u64 = 200;
/// So much more than its weight's share is too much, in percent of the service's new sessions.
const MORE_PERCENT: u64 = 30;
/// Fewer clients do not say whether a policy that keeps each at one backend divides them well.
const CLIENTS_MIN: usize = 16;
/// The most sessions that are looked at for their clients.
const SAMPLES_MAX: usize = 1 << 16;

/// The last minute of all backends.
#[derive(Default)]
pub(crate) struct Symptoms(Mutex<HashMap<BackendId, Recent>>);

/// A backend's counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    sessions: u64,
    /// Sessions whose first SYN was not answered within a second.
    silent: u64,
    sampled: [SampledSegments; 2],
}

impl Counts {
    pub(crate) fn new(totals: &BackendTotals, sampled: [SampledSegments; 2]) -> Self {
        Self {
            sessions: totals.sessions,
            silent: totals.syn_retransmitted,
            sampled,
        }
    }
}

struct Recent {
    /// At the beginning of the window before this one, and of this one.
    begun: [(Instant, Counts); 2],
    now: Counts,
    /// Since when it has its weight.
    weighs: (Instant, u32),
}

impl Recent {
    fn new((counts, weight): (Counts, u32), now: Instant) -> Self {
        Self {
            begun: [(now, counts); 2],
            now: counts,
            weighs: (now, weight),
        }
    }

    fn update(&mut self, (counts, weight): (Counts, u32), now: Instant) {
        self.now = counts;
        if now.duration_since(self.begun[1].0) >= WINDOW {
            self.begun = [self.begun[1], (now, counts)];
        }
        if weight != self.weighs.1 {
            self.weighs = (now, weight);
        }
    }

    fn before(&self) -> &Counts {
        &self.begun[0].1
    }

    /// In a direction: the sampled sessions in which large packets are stuck, and all, if those are too many.
    fn stuck(&self, way: usize) -> Option<[u64; 2]> {
        let (before, now) = (self.before().sampled[way], self.now.sampled[way]);
        let stuck = now.stuck.saturating_sub(before.stuck);
        // A session may have begun before the window.
        let sessions = now.sessions.saturating_sub(before.sessions).max(stuck);
        (stuck > 0 && stuck * 100 >= sessions * STUCK_PERCENT).then_some([stuck, sessions])
    }

    fn new_sessions(&self) -> u64 {
        self.now.sessions.saturating_sub(self.before().sessions)
    }

    /// The sessions without an answer, and all, if those are nearly all.
    fn silent(&self) -> Option<[u64; 2]> {
        let silent = self.now.silent.saturating_sub(self.before().silent);
        let sessions = self.new_sessions().max(silent);
        let is_symptom = silent >= SILENT_MIN && silent * 100 >= sessions * SILENT_PERCENT;
        is_symptom.then_some([silent, sessions])
    }
}

impl Symptoms {
    /// Takes in the counts of a second.
    pub(crate) fn update(
        &self,
        snapshot: &Snapshot,
        counts: impl Fn(BackendId) -> Counts,
        now: Instant,
    ) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|id, _| snapshot.backend(*id).is_some());
        for Backend { id, weight, .. } in snapshot.backends() {
            let counts = (counts(*id), *weight);
            let of = recent.entry(*id);
            of.or_insert_with(|| Recent::new(counts, now))
                .update(counts, now);
        }
    }

    /// The services' backends that get far more than their weights' shares, for the operator.
    pub(crate) fn uneven(&self, view: &View, sessions: &SessionTable) -> Vec<String> {
        let snapshot = &view.snapshot;
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |entry: &config::Service| {
            let service = service_in(snapshot, entry)?;
            let of = service.backends.iter();
            let of: Vec<&Recent> = of.map(|id| recent.get(id)).collect::<Option<_>>()?;
            // Before a change they had other shares.
            let changed = of.iter().map(|it| it.weighs.0).max()?;
            if of.iter().any(|it| it.begun[0].0 < changed) {
                return None;
            }
            let shares = of.iter().map(|it| (it.weighs.1, it.new_sessions()));
            let shares: Vec<_> = shares.collect();
            let (at, percent, due) = too_much(&shares)?;
            let (backend, (_, count)) = (snapshot.backend(service.backends[at])?, shares[at]);
            (clients_of(backend.id, sessions) >= CLIENTS_MIN).then(|| {
                format!(
                    "{}: {} got {percent} % of the new sessions, {count} in the last minute; by its weight \
                     it gets {due} %. Is the policy {} meant to do that? Then write `uneven = true`",
                    service.name, backend.address, entry.policy.value
                )
            })
        };
        let entries = view.config.services.iter();
        entries
            .filter(|it| !it.uneven)
            .filter_map(problem)
            .collect()
    }

    /// The other symptoms, for the operator. `passes_checks` says whether health checks find a backend up.
    pub(crate) fn problems(
        &self,
        snapshot: &Snapshot,
        passes_checks: impl Fn(&Backend) -> bool,
    ) -> Vec<String> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problems = Vec::new();
        for backend in snapshot.backends() {
            let Some(of) = recent.get(&backend.id) else {
                continue;
            };
            let address = backend.address;
            let service = snapshot.service(backend.service);
            let service = service.map_or("a removed service", |it| &*it.name);
            if let Some([silent, sessions]) = of.silent() {
                let why = match passes_checks(backend) {
                    true => "but passes its health checks: is the balancer its gateway?",
                    false => "is it running, and is the balancer its gateway?",
                };
                problems.push(format!(
                    "{service}: {address} answered no SYN in {silent} of {sessions} new sessions, {why}"
                ));
            }
            for (way, whither) in [(0, "to"), (1, "from")] {
                if let Some([stuck, sessions]) = of.stuck(way) {
                    problems.push(format!(
                        "{service}: large packets {whither} {address} are never acknowledged in {stuck} of \
                         {sessions} sampled sessions: a link on their way has a smaller MTU. Let its ICMP \
                         errors pass (\"fragmentation needed\", \"packet too big\"), or lower the MTU or MSS \
                         at the sender"
                    ));
                }
            }
        }
        problems
    }
}

/// The first of these, each with its weight and count, that has far more than its share: its number, its
/// share in percent, and the one it should have.
fn too_much(of: &[(u32, u64)]) -> Option<(usize, u64, u64)> {
    let all: u64 = of.iter().map(|(_, count)| count).sum();
    let weights: u64 = of.iter().map(|(weight, _)| u64::from(*weight)).sum();
    if all < SHARED_MIN || weights == 0 {
        return None;
    }
    let mut shares = of.iter().map(|(weight, count)| {
        let percent = count * 100 / all;
        (percent, u64::from(*weight) * 100 / weights)
    });
    let at = shares
        .clone()
        .position(|(has, due)| has >= due + MORE_PERCENT)?;
    let (has, due) = shares.nth(at)?;
    Some((at, has, due))
}

/// How many clients a backend's sessions have, of those that are looked at: [`CLIENTS_MIN`] at most.
fn clients_of(backend: BackendId, sessions: &SessionTable) -> usize {
    let step = sessions.capacity().div_ceil(SAMPLES_MAX);
    let mut clients = HashSet::new();
    let of = sessions.sample(step).filter(|it| it.backend == backend);
    for session in of {
        clients.insert(session.client);
        if clients.len() == CLIENTS_MIN {
            break;
        }
    }
    clients.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(sessions: u64, stuck: u64) -> Counts {
        let reply = SampledSegments {
            sessions,
            stuck,
            ..SampledSegments::default()
        };
        Counts {
            sampled: [SampledSegments::default(), reply],
            ..Counts::default()
        }
    }

    #[test]
    fn a_tenth_of_the_sampled_sessions_is_a_symptom() {
        let start = Instant::now();
        let rows = [(1, 1, true), (10, 1, true), (11, 1, false), (9, 0, false)];
        for (sessions, stuck, is_symptom) in rows {
            let mut recent = Recent::new((sampled(100, 50), 1), start);
            recent.update((sampled(100 + sessions, 50 + stuck), 1), start);
            let expected = is_symptom.then_some([stuck, sessions]);
            assert_eq!(recent.stuck(1), expected, "{stuck} of {sessions}");
            assert_eq!(recent.stuck(0), None);
        }
    }

    #[test]
    fn a_server_is_silent_if_nearly_no_session_is_answered() {
        let start = Instant::now();
        let rows = [(3, 3, true), (10, 9, true), (2, 2, false), (10, 8, false)];
        for (sessions, silent, is_symptom) in rows {
            let counts = |sessions, silent| Counts {
                sessions,
                silent,
                ..Counts::default()
            };
            let mut recent = Recent::new((counts(1000, 500), 1), start);
            recent.update((counts(1000 + sessions, 500 + silent), 1), start);
            let expected = is_symptom.then_some([silent, sessions]);
            assert_eq!(recent.silent(), expected, "{silent} of {sessions}");
        }
    }

    #[test]
    fn a_share_far_above_the_weights_is_too_much() {
        assert_eq!(too_much(&[(1, 300), (1, 0), (1, 0)]), Some((0, 100, 33)));
        assert_eq!(too_much(&[(1, 80), (1, 320)]), Some((1, 80, 50)));
        assert_eq!(too_much(&[(0, 100), (1, 200)]), Some((0, 33, 0)));
        assert_eq!(too_much(&[(1, 84), (1, 316)]), None, "29 percent more");
        assert_eq!(too_much(&[(1, 199), (1, 0)]), None, "too few to say");
        assert_eq!(too_much(&[(1, 500)]), None, "the only one");
        assert_eq!(too_much(&[(9, 900), (1, 100)]), None, "by its weight");
        assert_eq!(too_much(&[(0, 500)]), None, "no weight");
        assert_eq!(too_much(&[]), None);
    }

    #[test]
    fn a_symptom_is_shown_for_half_a_minute_at_least_and_a_minute_at_most() {
        let start = Instant::now();
        let mut recent = Recent::new((sampled(0, 0), 1), start);
        let mut shown = Vec::new();
        for second in 1..=90 {
            recent.update((sampled(5, 5), 1), start + Duration::from_secs(second));
            shown.push(recent.stuck(1).is_some());
        }
        assert!(shown[..30].iter().all(|it| *it), "{shown:?}");
        assert!(!shown[60..].iter().any(|it| *it), "{shown:?}");
    }
}
