//! Totals of all workers' counters, by backend and by service.
//!
//! Invariant: workers' counters only count up, and a backend id may be reused. The totals at the time
//! an id was given to a backend are kept, so that a backend starts from zero; what the id's earlier backends
//! counted stays with their service. So a service's totals never fall while it is in the config.

use std::collections::{HashMap, HashSet};
use std::ops::{AddAssign, Sub};
use std::sync::{Arc, Mutex, PoisonError};

use waxwing_dataplane::counters::{Traffic, WorkerCounters};
use waxwing_dataplane::model::Service;
use waxwing_dataplane::{Backend, BackendId, DropReason, Gauges, ServiceId, Snapshot};

use crate::admin::status::{SampledStatus, TrafficStatus};
use crate::publish::keys::ServiceKey;

/// All workers' counters, by backend and by service.
pub(crate) struct CounterTotals {
    workers: Vec<Arc<WorkerCounters>>,
    ledger: Mutex<Arc<Ledger>>,
}

/// Whose counts are whose. Replaced as a whole: who reads it waits for no change.
#[derive(Clone, Default)]
struct Ledger {
    tenants: HashMap<BackendId, Tenant>,
    /// What backends counted that have left the snapshot and whose ids others have, by service.
    past: HashMap<Arc<str>, BackendTotals>,
    services: HashMap<ServiceId, ServiceTenant>,
    /// What was dropped under ids that a service no longer has, by its name.
    past_drops: HashMap<Arc<str>, Drops>,
}

/// The service that has an id.
#[derive(Clone)]
struct ServiceTenant {
    key: ServiceKey,
    name: Arc<str>,
    /// The workers' drops under the id when it got it.
    base: Drops,
}

/// Drops, in the order of [`DropReason::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Drops(pub(crate) [u64; DropReason::ALL.len()]);

/// The backend that has an id.
#[derive(Clone)]
struct Tenant {
    service: Arc<str>,
    /// The workers' totals under the id when it got it.
    base: BackendTotals,
}

/// One backend's counts over all workers, or the sums of several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BackendTotals {
    pub(crate) sessions: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) syn_retransmitted: u64,
    pub(crate) unreachable: u64,
    pub(crate) forward: TrafficStatus,
    pub(crate) reply: TrafficStatus,
    /// What its sampled sessions showed, to the backend and from it.
    pub(crate) sampled: [SampledStatus; 2],
}

impl CounterTotals {
    /// Starts with the first snapshot's backends.
    pub(crate) fn new(workers: Vec<Arc<WorkerCounters>>, first: &Snapshot) -> Self {
        let mut ledger = Ledger::default();
        ledger.admit(first, |_| BackendTotals::default());
        ledger.admit_services(first, |_| Drops::default());
        Self {
            workers,
            ledger: Mutex::new(Arc::new(ledger)),
        }
    }

    pub(crate) fn workers(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    /// Restarts from zero the counts and gauges of each backend id that `new` has and `old` has not.
    /// Call it before the workers are sent `new`.
    pub(crate) fn restart_new(&self, old: &Snapshot, new: &Snapshot, gauges: &Gauges) {
        let ids = new.backends().map(|backend| backend.id);
        let reused: Vec<BackendId> = ids.filter(|id| old.backend(*id).is_none()).collect();
        let mut ledger = Ledger::clone(&self.ledger());
        for id in &reused {
            if let Some(tenant) = ledger.tenants.remove(id) {
                let counted = self.under(*id, gauges) - tenant.base;
                *ledger.past.entry(tenant.service).or_default() += counted;
            }
        }
        // Before the gauges are cleared: until then they are the earlier backend's.
        self.set(ledger.clone());
        reused.iter().for_each(|id| gauges.forget(*id));
        for service in new.services() {
            let before = ledger.services.get(&service.id);
            if before.is_some_and(|before| before.key != key_of(service)) {
                gauges.samples().forget_service(service.id);
            }
        }
        ledger.admit(new, |id| self.since_start(id));
        ledger.admit_services(new, |id| self.dropped_under(id));
        ledger.forget_services(new);
        self.set(ledger);
    }

    /// Returns what the workers counted under an id since the start, for earlier backends too.
    pub(crate) fn since_start(&self, id: BackendId) -> BackendTotals {
        let mut totals = BackendTotals::default();
        for counters in self.workers.iter().map(|worker| worker.backend(id)) {
            totals.syn_retransmitted += counters.syn_repeated.get();
            totals.unreachable += counters.unreachable.get();
            add(&mut totals.forward, &counters.forward);
            add(&mut totals.reply, &counters.reply);
        }
        totals
    }

    /// Returns what was counted for the backend that has this id now.
    pub(crate) fn of(&self, id: BackendId, gauges: &Gauges) -> BackendTotals {
        let ledger = self.ledger();
        let base = ledger.tenants.get(&id).map(|tenant| tenant.base);
        self.under(id, gauges) - base.unwrap_or_default()
    }

    /// Returns what was counted for each service, for its removed backends too.
    pub(crate) fn by_service(&self, gauges: &Gauges) -> HashMap<Arc<str>, BackendTotals> {
        loop {
            let ledger = self.ledger();
            let mut totals = ledger.past.clone();
            for (id, tenant) in &ledger.tenants {
                let counted = self.under(*id, gauges) - tenant.base;
                *totals.entry(Arc::clone(&tenant.service)).or_default() += counted;
            }
            // Otherwise an id may have changed hands between the ledger and its counts.
            if Arc::ptr_eq(&ledger, &self.ledger()) {
                return totals;
            }
        }
    }

    /// Returns each service's drops, as far as the service was known.
    pub(crate) fn drops_by_service(&self) -> HashMap<Arc<str>, Drops> {
        let ledger = self.ledger();
        let mut drops = ledger.past_drops.clone();
        for (id, tenant) in &ledger.services {
            let since = self.dropped_under(*id) - tenant.base;
            *drops.entry(Arc::clone(&tenant.name)).or_default() += since;
        }
        drops
    }

    fn dropped_under(&self, id: ServiceId) -> Drops {
        let dropped = |reason: &DropReason| {
            let workers = self.workers.iter();
            workers.map(|worker| worker.dropped_of(id, *reason)).sum()
        };
        let mut drops = Drops::default();
        for (count, reason) in drops.0.iter_mut().zip(DropReason::ALL) {
            *count = dropped(reason);
        }
        drops
    }

    fn under(&self, id: BackendId, gauges: &Gauges) -> BackendTotals {
        BackendTotals {
            sessions: gauges.opened(id),
            refused: gauges.refused(id),
            unanswered: gauges.unanswered(id),
            sampled: gauges.samples().segments(id).map(Into::into),
            ..self.since_start(id)
        }
    }

    fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, ledger: Ledger) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ledger);
    }
}

impl Ledger {
    /// Takes in the snapshot's backends, new ones with the base that `base` returns.
    fn admit(&mut self, snapshot: &Snapshot, base: impl Fn(BackendId) -> BackendTotals) {
        for Backend { id, service, .. } in snapshot.backends() {
            let service = snapshot.service(*service).map(|it| Arc::clone(&it.name));
            match (self.tenants.get_mut(id), service) {
                // Its service may have another name now.
                (Some(tenant), Some(service)) => tenant.service = service,
                (None, Some(service)) => {
                    let base = base(*id);
                    self.tenants.insert(*id, Tenant { service, base });
                }
                // Its service is no more: it keeps the last name.
                (_, None) => {}
            }
        }
    }

    /// Takes in the snapshot's services. What was dropped under their ids before stays with the earlier ones.
    fn admit_services(&mut self, snapshot: &Snapshot, dropped: impl Fn(ServiceId) -> Drops) {
        for service in snapshot.services() {
            let key = key_of(service);
            let new = ServiceTenant {
                key,
                name: Arc::clone(&service.name),
                base: Drops::default(),
            };
            let tenant = self
                .services
                .entry(service.id)
                .or_insert_with(|| ServiceTenant {
                    base: dropped(service.id),
                    ..new.clone()
                });
            if tenant.key != key {
                let base = dropped(service.id);
                let before = std::mem::replace(tenant, ServiceTenant { base, ..new });
                *self.past_drops.entry(before.name).or_default() += base - before.base;
            } else {
                tenant.name = new.name;
            }
        }
    }

    /// Forgets what was counted for services that are no more.
    fn forget_services(&mut self, snapshot: &Snapshot) {
        let services = snapshot.services().map(|service| &service.name);
        let tenants = self.tenants.values().map(|tenant| &tenant.service);
        let known: HashSet<&Arc<str>> = services.chain(tenants).collect();
        self.past.retain(|service, _| known.contains(service));
        self.past_drops.retain(|service, _| known.contains(service));
    }
}

fn key_of(service: &Service) -> ServiceKey {
    (service.vip, service.ports, service.protocol)
}

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl AddAssign for Drops {
    fn add_assign(&mut self, more: Self) {
        for (count, more) in self.0.iter_mut().zip(more.0) {
            *count += more;
        }
    }
}

impl Sub for Drops {
    type Output = Self;

    fn sub(self, base: Self) -> Self {
        Self(std::array::from_fn(|at| {
            self.0[at].saturating_sub(base.0[at])
        }))
    }
}

impl AddAssign for BackendTotals {
    fn add_assign(&mut self, more: Self) {
        self.sessions += more.sessions;
        self.refused += more.refused;
        self.unanswered += more.unanswered;
        self.syn_retransmitted += more.syn_retransmitted;
        self.unreachable += more.unreachable;
        for (sum, more) in [
            (&mut self.forward, more.forward),
            (&mut self.reply, more.reply),
        ] {
            sum.packets += more.packets;
            sum.bytes += more.bytes;
        }
        for (sum, more) in self.sampled.iter_mut().zip(more.sampled) {
            sum.sessions += more.sessions;
            sum.segments += more.segments;
            sum.resent += more.resent;
            sum.stuck += more.stuck;
            sum.given_up += more.given_up;
        }
    }
}

impl Sub for BackendTotals {
    type Output = Self;

    fn sub(self, base: Self) -> Self {
        Self {
            sessions: self.sessions.saturating_sub(base.sessions),
            refused: self.refused.saturating_sub(base.refused),
            unanswered: self.unanswered.saturating_sub(base.unanswered),
            syn_retransmitted: self
                .syn_retransmitted
                .saturating_sub(base.syn_retransmitted),
            unreachable: self.unreachable.saturating_sub(base.unreachable),
            forward: difference(self.forward, base.forward),
            reply: difference(self.reply, base.reply),
            // Cleared when an id is reused.
            sampled: self.sampled,
        }
    }
}

fn add(sum: &mut TrafficStatus, traffic: &Traffic) {
    sum.packets += traffic.packets.get();
    sum.bytes += traffic.bytes.get();
}

fn difference(now: TrafficStatus, base: TrafficStatus) -> TrafficStatus {
    TrafficStatus {
        packets: now.packets.saturating_sub(base.packets),
        bytes: now.bytes.saturating_sub(base.bytes),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Instant;

    use waxwing_dataplane::session::Phase;

    use super::*;
    use crate::config::Config;
    use crate::health::{Effects, HealthMonitor};
    use crate::publish::catalog::Catalog;

    /// Workers' counters, and configs put into effect one after the other.
    struct Bed {
        totals: CounterTotals,
        gauges: Gauges,
        catalog: Catalog,
        snapshot: Arc<Snapshot>,
    }

    impl Bed {
        fn new() -> Self {
            let workers = (0..2).map(|_| Arc::new(WorkerCounters::new(4)));
            let snapshot = Arc::default();
            Self {
                totals: CounterTotals::new(workers.collect(), &snapshot),
                gauges: Gauges::new(4, 2),
                catalog: Catalog::new(4, 4),
                snapshot,
            }
        }

        /// Puts services into effect, each a name, its VIP's last octet, and its servers' last octets.
        fn publish(&mut self, services: &[(&str, u8, &[u8])]) {
            let mut text = "[[port]]\ninterface = \"eth0\"\n".to_owned();
            for (name, vip, servers) in services {
                text += &format!(
                    "[[service]]\nname = \"{name}\"\nvip = \"203.0.113.{vip}\"\nport = 80\n\
                     protocol = \"tcp\"\npolicy = \"maglev\"\n"
                );
                for server in *servers {
                    text +=
                        &format!("[[service.backend]]\naddress = \"10.2.0.{server}\"\nport = 80\n");
                }
            }
            let config = Arc::new(Config::parse(&text, "lb.toml".as_ref()).unwrap().0);
            let health = HealthMonitor::new(Instant::now());
            health.adopt(&config);
            let effects: Effects = health.effects(&config);
            // The second time removed backends without sessions leave.
            for _ in 0..2 {
                let next = self.catalog.apply(&config, &[], &self.gauges, &effects);
                let next = Arc::new(next.unwrap());
                self.totals.restart_new(&self.snapshot, &next, &self.gauges);
                self.snapshot = next;
            }
        }

        /// Opens and ends sessions of a server, with a packet each.
        fn serve(&self, server: u8, sessions: u64) {
            let address = waxwing_packet::Address::v4([10, 2, 0, server]);
            let mut backends = self.snapshot.backends();
            let backend = backends.find(|it| it.address == address).unwrap().id;
            for _ in 0..sessions {
                self.gauges.begin(0, backend, Phase::HalfOpen);
                self.gauges.end(0, backend, Phase::HalfOpen);
                let worker = &self.totals.workers()[usize::from(server) % 2];
                worker.backend(backend).forward.packets.add(1);
            }
        }

        fn of(&self, service: &str) -> Option<[u64; 2]> {
            let totals = self.totals.by_service(&self.gauges);
            let of = totals.get(service)?;
            Some([of.sessions, of.forward.packets])
        }
    }

    #[test]
    fn a_services_totals_never_fall_while_it_is_in_the_config() {
        let mut bed = Bed::new();
        bed.publish(&[("web", 10, &[1, 2])]);
        bed.serve(1, 5);
        bed.serve(2, 7);
        assert_eq!(bed.of("web"), Some([12, 12]));
        // Its sessions have ended, so its id is free.
        bed.publish(&[("web", 10, &[2])]);
        assert_eq!(bed.of("web"), Some([12, 12]), "a backend is removed");
        bed.publish(&[("web", 10, &[2]), ("dns", 11, &[3])]);
        assert_eq!(
            bed.of("dns"),
            Some([0, 0]),
            "the id's earlier counts are not its own"
        );
        bed.serve(3, 4);
        bed.serve(2, 1);
        assert_eq!(bed.of("web"), Some([13, 13]));
        assert_eq!(bed.of("dns"), Some([4, 4]));
        bed.publish(&[("web", 10, &[2, 1]), ("dns", 11, &[3])]);
        bed.serve(1, 2);
        assert_eq!(bed.of("web"), Some([15, 15]), "a backend comes back");
        bed.publish(&[("site", 10, &[2, 1]), ("dns", 11, &[3])]);
        assert_eq!(
            bed.of("site").map(|of| of[0] >= 3),
            Some(true),
            "it is renamed"
        );
        bed.publish(&[("dns", 11, &[3])]);
        bed.publish(&[("dns", 11, &[3, 4, 5, 6])]);
        assert_eq!(bed.of("dns"), Some([4, 4]));
        assert_eq!(
            bed.of("site"),
            None,
            "nothing is kept of a service that is no more"
        );
    }
}
