//! The backends whose sessions had to leave since the last audit: a sweep may have ended those, under a
//! snapshot that another has replaced since.

use std::collections::BTreeMap;

use waxwing_dataplane::model::SessionAction;
use waxwing_dataplane::{BackendId, Snapshot, Tick};

/// After so many ticks of silence, the sweep ends a session that has to leave its removed backend.
const LEFT_TICKS: u32 = 100;

/// When each such backend was last seen so, by any worker.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<BackendId, Tick>);

impl Leaving {
    /// Notes the backends that a worker's sweep empties in this turn.
    pub(super) fn note(&mut self, snapshot: &Snapshot, now: Tick) {
        let leaving = snapshot
            .backends()
            .filter(|backend| backend.is_removed() && backend.sessions != SessionAction::Keep);
        self.0.extend(leaving.map(|backend| (backend.id, now)));
    }

    /// Whether a sweep may have ended a session of this backend that was last seen then.
    pub(super) fn may_have_ended(&self, backend: BackendId, seen: Tick) -> bool {
        let last = self.0.get(&backend);
        last.is_some_and(|last| last.0.saturating_sub(seen.0) > LEFT_TICKS)
    }

    /// Forgets all: an audit found every session that ended.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use waxwing_dataplane::model::{MidStream, NoBackend, Ports, SourceUse, Timeouts};
    use waxwing_dataplane::{Backend, Service, ServiceId};
    use waxwing_packet::{Address, Protocol};

    use super::*;

    /// A snapshot whose one backend may be removed.
    fn snapshot(removed: bool) -> Snapshot {
        let service = Service {
            id: ServiceId(0),
            name: "web".into(),
            vip: Address::v4([203, 0, 113, 10]),
            ports: Ports::one(80),
            protocol: Protocol::Tcp,
            source_nat: SourceUse::Auto,
            policy: 0,
            backends: if removed {
                Box::default()
            } else {
                [BackendId(0)].into()
            },
            mid_stream: MidStream::Pick,
            adopts_replies: false,
            no_backend: NoBackend::Drop,
            sessions_max: None,
            timeouts: Timeouts::default(),
        };
        let backend = Backend {
            sessions: if removed {
                SessionAction::Reset
            } else {
                SessionAction::Keep
            },
            ..Backend::new(BackendId(0), &service, Address::v4([10, 2, 0, 11]), 80, 1)
        };
        Snapshot::new(1, vec![service], vec![backend], Vec::new())
    }

    /// The sweep ended the session while its backend was removed; now that is back.
    #[test]
    fn a_backend_that_came_back_had_to_be_left_all_the_same() {
        let mut leaving = Leaving::default();
        leaving.note(&snapshot(false), Tick(400));
        assert!(!leaving.may_have_ended(BackendId(0), Tick(0)));
        leaving.note(&snapshot(true), Tick(500));
        leaving.note(&snapshot(false), Tick(501));
        assert!(leaving.may_have_ended(BackendId(0), Tick(300)));
        assert!(
            !leaving.may_have_ended(BackendId(0), Tick(450)),
            "too recent"
        );
        assert!(!leaving.may_have_ended(BackendId(1), Tick(300)));
        leaving.clear();
        assert!(!leaving.may_have_ended(BackendId(0), Tick(300)));
    }
}
