//! The sessions in the table, and which of them a request is about.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use waxwing_dataplane::path::kill;
use waxwing_dataplane::session::{Phase, Session, SessionRef};
use waxwing_dataplane::{Backend, BackendId, Now, ServiceId, Snapshot};
use waxwing_packet::{Address, Prefix};

use crate::admin::filter::{NoSuchService, ServiceFilter};
use crate::admin::report::Reporter;
use crate::admin::requests::KillSessions;
use crate::admin::status::{SessionStatus, endpoint};
use crate::health::RemovedBackend;
use crate::publish::keys::{BackendKey, service_in, snapshot_key};
use crate::publish::view::View;

/// The query of `GET /v1/sessions`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionsQuery {
    /// A pattern of services' names, with `*` and `?`.
    pub(super) service: Option<String>,
    /// An address, or a network such as `198.51.100.0/24`.
    pub(super) client: Option<String>,
    /// A backend's name or endpoint.
    pub(super) backend: Option<String>,
    /// `half-open`, `active` or `closing`.
    #[param(pattern = "^(half-open|active|closing)$")]
    pub(super) phase: Option<String>,
    /// The most sessions.
    pub(super) limit: Option<usize>,
}

impl From<KillSessions> for SessionsQuery {
    fn from(request: KillSessions) -> Self {
        let KillSessions {
            service,
            client,
            backend,
            phase,
        } = request;
        Self {
            service,
            client,
            backend,
            phase,
            limit: None,
        }
    }
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    #[error(transparent)]
    Service(#[from] NoSuchService),
    #[error("\"{0}\" is not a client; write an address or a network such as \"198.51.100.0/24\"")]
    Client(String),
    #[error("no such service has a backend \"{0}\"; `waxwing backend list` shows them")]
    Backend(String),
    #[error("\"{0}\" is not a phase; write half-open, active or closing")]
    Phase(String),
}

/// Which sessions a request is about.
pub(super) struct SessionFilter {
    services: ServiceFilter,
    pub(super) client: Option<Prefix>,
    pub(super) backends: Option<HashSet<BackendId>>,
    phase: Option<Phase>,
}

impl SessionFilter {
    pub(super) fn new(reporter: &Reporter, query: &SessionsQuery) -> Result<Self, QueryError> {
        let services = reporter.session_filter(query.service.clone())?;
        let client = query.client.as_deref();
        let client =
            client.map(|text| network(text).ok_or_else(|| QueryError::Client(text.into())));
        let view = reporter.view.get();
        let backends = query.backend.as_deref().map(|name| {
            let ids = reporter.called(&view, &services, name);
            let none = || QueryError::Backend(name.to_owned());
            (!ids.is_empty()).then_some(ids).ok_or_else(none)
        });
        let phase = query.phase.as_deref().map(|text| {
            let mut phases = PHASES.into_iter();
            let found = phases.find(|phase| phase_label(*phase) == text);
            found.ok_or_else(|| QueryError::Phase(text.to_owned()))
        });
        Ok(Self {
            services,
            client: client.transpose()?,
            backends: backends.transpose()?,
            phase: phase.transpose()?,
        })
    }

    /// Returns the ids of the services that pass.
    pub(super) fn service_ids(&self, snapshot: &Snapshot) -> Vec<ServiceId> {
        let services = snapshot.services();
        let passing = services.filter(|service| self.services.passes(&service.name));
        passing.map(|service| service.id).collect()
    }

    fn passes(&self, session: &Session, service: Option<&str>) -> bool {
        let by_service = match service {
            Some(name) => self.services.passes(name),
            None => self.services.passes_all(),
        };
        let client = self.client.is_none_or(|of| of.contains(session.client));
        let backends = self.backends.as_ref();
        let backend = backends.is_none_or(|of| of.contains(&session.backend));
        let phase = self.phase.is_none_or(|phase| phase == session.tcp.phase());
        by_service && client && backend && phase
    }
}

impl Reporter {
    /// Returns the filter's sessions, in the order of the table.
    pub(super) fn sessions(&self, filter: SessionFilter) -> impl Iterator<Item = SessionStatus> {
        let now = Now::from_start(self.clock_zero.elapsed());
        self.passing(filter, move |_, session, of, snapshot| {
            session_status(session, of, snapshot, now)
        })
    }

    /// Ends the filter's sessions. Returns how many there were.
    pub(super) fn kill(&self, filter: SessionFilter) -> usize {
        let killed = self.passing(filter, |at, session, _, _| kill(&self.shared, at, session));
        killed.filter(|killed| *killed).count()
    }

    /// Returns what `what` makes of the filter's sessions, in the order of the table.
    fn passing<T>(
        &self,
        filter: SessionFilter,
        what: impl Fn(SessionRef, &Session, (Option<&str>, &Backend), &Snapshot) -> T,
    ) -> impl Iterator<Item = T> {
        let view = self.view.get();
        let names = session_services(&view.snapshot, &self.health.removed());
        self.sessions.iter().filter_map(move |(at, session)| {
            // A session of a backend newer than this view is left out.
            let backend = view.snapshot.backend(session.backend)?;
            let name = names.get(&backend.service).map(|name| &**name);
            let passes = filter.passes(&session, name);
            passes.then(|| what(at, &session, (name, backend), &view.snapshot))
        })
    }

    /// Returns the backends with this name or endpoint; removed ones too.
    fn called(&self, view: &View, services: &ServiceFilter, name: &str) -> HashSet<BackendId> {
        let mut ids = HashSet::new();
        for entry in &view.config.services {
            let service = service_in(&view.snapshot, entry);
            let service = service.filter(|_| services.passes(&entry.name.value));
            let backends = service.map_or(&[][..], |service| &service.backends);
            let backends = entry.backends.iter().zip(backends);
            ids.extend(backends.filter_map(|(it, id)| it.is_called(name).then_some(*id)));
        }
        let removed = self.removed_called(services, name);
        let retired = view.snapshot.backends();
        ids.extend(retired.filter_map(|it| removed.contains(&snapshot_key(it)).then_some(it.id)));
        ids
    }

    fn removed_called(&self, services: &ServiceFilter, name: &str) -> HashSet<BackendKey> {
        let removed = self.health.removed().into_iter();
        let called =
            removed.filter(|(_, it)| services.passes(&it.service) && it.entry.is_called(name));
        called.map(|(key, _)| key).collect()
    }
}

/// Parses an address or a network; bits after the prefix are ignored.
fn network(text: &str) -> Option<Prefix> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address.parse::<IpAddr>().ok()?, len.parse().ok()?),
        None => {
            let address: IpAddr = text.parse().ok()?;
            (address, if address.is_ipv4() { 32 } else { 128 })
        }
    };
    let max = if address.is_ipv4() { 32 } else { 128 };
    (len <= max).then(|| Prefix::new(Address::from(address), len))
}

/// Returns the names of the services that sessions belong to; a removed one too.
fn session_services(
    snapshot: &Snapshot,
    removed: &HashMap<BackendKey, RemovedBackend>,
) -> HashMap<ServiceId, Arc<str>> {
    let backends = snapshot.backends();
    let left = backends.filter_map(|backend| {
        let removed = removed.get(&snapshot_key(backend))?;
        Some((backend.service, Arc::clone(&removed.service)))
    });
    let services = snapshot.services();
    left.chain(services.map(|service| (service.id, Arc::clone(&service.name))))
        .collect()
}

pub(super) fn session_status(
    session: &Session,
    (service, backend): (Option<&str>, &Backend),
    snapshot: &Snapshot,
    now: Now,
) -> SessionStatus {
    let vip = endpoint(backend.vip, session.service_port);
    let translated = !session.source.is_client() || session.source_port != session.client_port;
    let source = snapshot.seen_by_backend(session).filter(|_| translated);
    let tick_ms = |since: u32| u64::from(since) * 100;
    SessionStatus {
        service: service.map_or_else(|| vip.clone(), str::to_owned),
        protocol: session.protocol.to_string(),
        client: endpoint(session.client, session.client_port),
        vip,
        source: source.map(|source| endpoint(source, session.source_port)),
        backend: endpoint(backend.address, backend.port_for(session.service_port)),
        phase: phase_label(session.tcp.phase()).to_owned(),
        age_ms: tick_ms(now.tick().since(session.created)),
        idle_ms: tick_ms(now.tick().since(session.seen)),
    }
}

const PHASES: [Phase; 3] = [Phase::HalfOpen, Phase::Established, Phase::Closing];

/// Returns a phase's name in the API.
pub(super) const fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::HalfOpen => "half-open",
        Phase::Established => "active",
        Phase::Closing => "closing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
        let rows = [
            ("198.51.100.7", "198.51.100.7", true),
            ("198.51.100.7", "198.51.100.8", false),
            ("198.51.100.0/24", "198.51.100.8", true),
            ("198.51.100.7/24", "198.51.100.8", true),
            ("198.51.100.0/24", "198.51.101.8", false),
            ("2001:db8::/32", "2001:db8::9", true),
            ("::/0", "2001:db8::9", true),
        ];
        for (text, client, expected) in rows {
            let network = network(text).expect("a network");
            assert_eq!(
                network.contains(address(client)),
                expected,
                "{text} {client}"
            );
        }
        for text in ["", "web", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/"] {
            assert!(network(text).is_none(), "{text}");
        }
    }
}
