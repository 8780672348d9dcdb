//! Puts the state of an earlier process into this one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tracing::{info, warn};
use waxwing_dataplane::path::{RecordIds, RecordRefusal, Restorer, SharedState};
use waxwing_dataplane::session::SessionRecord;
use waxwing_dataplane::{BackendId, Now, PortId, Snapshot, SourceId};
use waxwing_packet::Address;
use waxwing_plugin::Host;

use super::head::{Head, KeptBackend};
use super::upgrade::Changes;
use super::{KeptState, policies};
use crate::health::HealthMonitor;
use crate::publish::keys::{BackendKey, snapshot_key};

impl KeptState {
    /// Restores the backends' health and the operator's settings, before the first snapshot is made of them.
    pub(crate) fn restore_health(&self, health: &HealthMonitor) {
        for backend in &self.file.head.backends {
            if let Some(key) = backend.key() {
                health.resume(key, &backend.health, self.elapsed);
            }
        }
    }

    /// Gives the policies what they remembered, before their first instances are made.
    pub(crate) fn restore_policies(&self, host: &Host) {
        policies::restore(host, &self.file.head.policies);
    }

    /// Restores signals and sessions, before the workers get their first packet, and says what it could not.
    pub(crate) fn restore_sessions(
        &self,
        shared: &SharedState,
        snapshot: &Arc<Snapshot>,
        workers: usize,
        now: Now,
    ) {
        let head = &self.file.head;
        let ids = ids(head, snapshot);
        for backend in &head.backends {
            if let Some(id) = id_of(&ids, backend) {
                let signals = backend.signals.into_iter().enumerate();
                signals.for_each(|(at, value)| shared.gauges.set_signal(id, at, value));
            }
        }
        let elapsed = u32::try_from(self.elapsed.as_millis() / TICK_MS).unwrap_or(u32::MAX);
        let mut restorer = Restorer::new(shared, snapshot, &ids, workers);
        let mut refused: BTreeMap<(RecordRefusal, Option<BackendId>), u64> = BTreeMap::new();
        let mut restored = 0_u64;
        for bytes in self.file.records.chunks_exact(head.record_len) {
            let Some(record) = SessionRecord::read(bytes) else {
                warn!("its records of {} bytes are too short", head.record_len);
                break;
            };
            match restorer.restore(&record, elapsed, now.tick()) {
                Ok(()) => restored += 1,
                Err(why) => {
                    let backend = (why == RecordRefusal::Backend).then_some(record.backend);
                    *refused.entry((why, backend)).or_default() += 1;
                }
            }
        }
        for ((why, backend), count) in refused {
            let backend = backend.and_then(|id| head.backends.iter().find(|it| it.id == id.0));
            let of = backend.map_or_else(String::new, |it| format!(" of {}", it.title()));
            let said = format!("{count} sessions{of} do not go on: {}", why.reason());
            match why {
                RecordRefusal::Expired => info!("{said}"),
                _ => warn!("{said}"),
            }
        }
        let seconds = self.elapsed.as_secs_f64();
        info!("{restored} sessions go on, from {seconds:.1} s ago");
    }
}

impl KeptState {
    /// Restores what has changed of the sessions since, while no worker runs.
    pub(crate) fn change_sessions(
        &self,
        changes: &Changes,
        (shared, snapshot): (&SharedState, &Snapshot),
        workers: usize,
        now: Now,
    ) {
        let ids = ids(&self.file.head, snapshot);
        let mut restorer = Restorer::new(shared, snapshot, &ids, workers);
        changes.ended().for_each(|record| restorer.end(&record));
        let mut refused = 0;
        for record in changes.changed() {
            restorer.end(&record);
            refused += u64::from(restorer.restore(&record, 0, now.tick()).is_err());
        }
        if refused > 0 {
            warn!("{refused} sessions that changed last do not go on");
        }
    }
}

const TICK_MS: u128 = waxwing_dataplane::time::TICK_MS as u128;

/// Returns what the ids in the records stand for in this snapshot.
fn ids(head: &Head, snapshot: &Snapshot) -> RecordIds {
    let mut backends: HashMap<BackendKey, BackendId> = HashMap::new();
    backends.extend(snapshot.backends().map(|it| (snapshot_key(it), it.id)));
    let sources: HashMap<Address, SourceId> = snapshot
        .sources()
        .iter()
        .map(|(id, address)| (address, id))
        .collect();
    let port = |name: &str| {
        (0..)
            .map(PortId)
            .zip(snapshot.ports())
            .find(|(_, it)| &*it.name == name)
    };
    let mut ids = RecordIds::default();
    place(&mut ids.sources, 0, Some(SourceId::CLIENT));
    for kept in &head.sources {
        place(
            &mut ids.sources,
            kept.id.into(),
            sources.get(&kept.address.into()).copied(),
        );
    }
    for kept in &head.ports {
        place(
            &mut ids.ports,
            kept.id.into(),
            port(&kept.name).map(|(id, _)| id),
        );
    }
    for kept in &head.backends {
        let id = kept.key().and_then(|key| backends.get(&key).copied());
        place(&mut ids.backends, kept.id as usize, id);
    }
    ids
}

/// The ids of backends are below this (see `backends_max`); a larger one is a damaged one.
const IDS_MAX: usize = 1 << 21;

fn place<T: Clone>(ids: &mut Vec<Option<T>>, at: usize, id: Option<T>) {
    if at < IDS_MAX {
        if ids.len() <= at {
            ids.resize(at + 1, None);
        }
        ids[at] = id;
    }
}

fn id_of(ids: &RecordIds, backend: &KeptBackend) -> Option<BackendId> {
    *ids.backends.get(backend.id as usize)?
}
