//! The resources of the API, as lists: services, backends, modules, ports, workers, drops, and the config.
//!
//! Invariant: a list's order is the config's, so that `offset` goes on where the last page ended while the
//! config stays. Fields may be added; none changes its meaning without another [`SCHEMA_VERSION`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use waxwing_dataplane::DropReason;

use crate::admin::events::{Event, Severity};
use crate::admin::explain;
use crate::admin::filter::{NoSuchService, ServiceFilter};
use crate::admin::paging::{BackendsPage, Listing, Page, ServicesPage};
use crate::admin::report::Reporter;
use crate::admin::status::{
    Availability, BackendStatus, ModuleStatus, PortStatus, PortsStatus, SCHEMA_VERSION,
    ServiceHealthStatus, ServiceStatus, TrafficStatus, WorkerStatus,
};
use crate::config::{Config, ParsedConfig};
use crate::publish::changes::Changes;
use crate::publish::controller::reload::etag;
use crate::time::unix_seconds;

/// How often a follower of events gets an empty line while nothing happens, so that neither end takes the
/// other for gone.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// An item of `GET /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceItem {
    pub name: String,
    pub vip: String,
    pub port: PortsStatus,
    /// `tcp` or `udp`.
    pub protocol: String,
    pub policy: String,
    pub state: Availability,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
    pub backends: usize,
    /// Backends that take new sessions; see [`ServiceHealthStatus::up`].
    pub up: usize,
    pub active: u64,
    pub half_open: u64,
    pub closing: u64,
    /// Sessions since the start, those of its removed backends too, as all that follows.
    pub sessions: u64,
    pub refused: u64,
    pub unanswered: u64,
    /// Traffic from clients.
    pub forward: TrafficStatus,
    /// Traffic to clients.
    pub reply: TrafficStatus,
}

/// An item of `GET /v1/backends`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BackendItem {
    pub service: String,
    #[serde(flatten)]
    pub backend: BackendStatus,
}

/// An item of `GET /v1/modules`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ModuleItem {
    /// `policy` or `check`.
    pub kind: String,
    #[serde(flatten)]
    pub module: ModuleStatus,
}

/// An item of `GET /v1/drops`: packets dropped for a reason, by all workers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DropItem {
    pub reason: String,
    /// The service; `None`: all packets, of no known service too.
    pub service: Option<String>,
    pub packets: u64,
}

/// `GET /v1/config`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConfigItem {
    pub schema_version: u32,
    pub path: String,
    pub generation: u64,
    /// When it was loaded, in seconds since 1970.
    pub loaded_at: u64,
    /// The text in effect, as it was read.
    pub text: String,
    /// What `If-Match` of `PUT /v1/config` takes; also in the header `ETag`, in quotes.
    pub etag: String,
}

/// `GET /v1/config/diff`: what a reload would do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConfigDiff {
    pub schema_version: u32,
    /// What it would change, such as `+1 backend`; `nothing changed`.
    pub changes: String,
    /// Changed keys that take effect only at a start: because of them a reload would be refused.
    pub needs_restart: Vec<String>,
    /// Errors in the file, as `waxwing check` shows them; modules and the network are not looked at.
    pub errors: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// The number of the last event that is known.
    #[serde(default)]
    after: u64,
    /// The least severity.
    #[serde(default)]
    severity: Severity,
    /// As [`Event::area`].
    area: Option<String>,
    /// Whether the answer goes on with the events to come.
    #[serde(default)]
    follow: bool,
}

impl EventsQuery {
    fn passes(&self, event: &Event) -> bool {
        let is_area = |area: &String| *area == event.area;
        event.severity >= self.severity && self.area.as_ref().is_none_or(is_area)
    }
}

type Answer = Result<Response, NoSuchService>;

/// Returns the routes to the resources.
pub(super) fn router(reporter: Arc<Reporter>) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(services))
        .routes(routes!(backends))
        .routes(routes!(modules))
        .routes(routes!(ports))
        .routes(routes!(workers))
        .routes(routes!(drops))
        .routes(routes!(events))
        .routes(routes!(explain::explain))
        .routes(routes!(config))
        .routes(routes!(config_diff))
        .with_state(reporter)
}

/// Lists services, with their health, sessions and traffic.
#[utoipa::path(get, path = "/v1/services", params(ServicesPage),
    responses((status = 200, description = "A page of services", body = Listing<ServiceItem>)))]
async fn services(
    State(reporter): State<Arc<Reporter>>,
    Query(query): Query<ServicesPage>,
) -> Answer {
    let (service, page) = query.split();
    let filter = reporter.filter(service)?;
    Ok(page.answer(reporter.service_items(&filter)))
}

/// Lists backends, removed ones that still have sessions too.
#[utoipa::path(get, path = "/v1/backends", params(BackendsPage),
    responses((status = 200, description = "A page of backends", body = Listing<BackendItem>)))]
async fn backends(
    State(reporter): State<Arc<Reporter>>,
    Query(query): Query<BackendsPage>,
) -> Answer {
    let (service, wanted, page) = query.split();
    let filter = reporter.session_filter(service)?;
    let status = reporter.status(&filter);
    let listed = status.services.into_iter().flat_map(|service| {
        let name = service.name;
        let backends = service.backends.into_iter();
        backends.map(move |backend| (name.clone(), backend))
    });
    let removed = status.retired.into_iter().filter_map(|backend| {
        let service = backend.removed_from.clone()?;
        filter.passes(&service).then_some((service, backend))
    });
    let items = listed
        .chain(removed)
        .map(|(service, backend)| BackendItem { service, backend });
    let state = |item: &BackendItem| item.backend.health.as_ref().map(|health| health.state);
    let items = items.filter(|item| wanted.is_none() || state(item) == wanted);
    Ok(page.answer(items))
}

/// Lists policy modules, then health check modules.
#[utoipa::path(get, path = "/v1/modules", params(Page),
    responses((status = 200, description = "A page of modules", body = Listing<ModuleItem>)))]
async fn modules(State(reporter): State<Arc<Reporter>>, Query(page): Query<Page>) -> Response {
    let item = |kind: &'static str| {
        move |module| ModuleItem {
            kind: kind.to_owned(),
            module,
        }
    };
    let policies = reporter
        .policy_host
        .status()
        .into_iter()
        .map(item("policy"));
    let checks = reporter.check_host.status().into_iter().map(item("check"));
    page.answer(policies.chain(checks))
}

/// Lists ports.
#[utoipa::path(get, path = "/v1/ports", params(Page),
    responses((status = 200, description = "A page of ports", body = Listing<PortStatus>)))]
async fn ports(State(reporter): State<Arc<Reporter>>, Query(page): Query<Page>) -> Response {
    page.answer::<PortStatus>(reporter.ports())
}

/// Lists workers, with their counters.
#[utoipa::path(get, path = "/v1/workers", params(Page),
    responses((status = 200, description = "A page of workers", body = Listing<WorkerStatus>)))]
async fn workers(State(reporter): State<Arc<Reporter>>, Query(page): Query<Page>) -> Response {
    let view = reporter.view.get();
    page.answer::<WorkerStatus>(reporter.workers(&view.snapshot))
}

/// Lists why packets were dropped: over all, then by service.
#[utoipa::path(get, path = "/v1/drops", params(ServicesPage),
    responses((status = 200, description = "A page of reasons", body = Listing<DropItem>)))]
async fn drops(State(reporter): State<Arc<Reporter>>, Query(query): Query<ServicesPage>) -> Answer {
    let (service, page) = query.split();
    let filter = reporter.filter(service)?;
    Ok(page.answer(reporter.drop_items(&filter)))
}

/// Returns the config in effect.
#[utoipa::path(get, path = "/v1/config",
    responses((status = 200, description = "The config", body = ConfigItem,
        headers(("ETag" = String, description = "What `If-Match` of `PUT /v1/config` takes")))))]
async fn config(State(reporter): State<Arc<Reporter>>) -> Response {
    let view = reporter.view.get();
    let source = view.config.source();
    let etag = etag(source.text());
    let tag = [(header::ETAG, format!("\"{etag}\""))];
    let config = Json(ConfigItem {
        schema_version: SCHEMA_VERSION,
        etag,
        path: source.path().display().to_string(),
        generation: view.snapshot.generation,
        loaded_at: unix_seconds(view.loaded_at),
        text: source.text().to_owned(),
    });
    (tag, config).into_response()
}

/// Says what a reload would change.
#[utoipa::path(get, path = "/v1/config/diff",
    responses((status = 200, description = "The changes", body = ConfigDiff)))]
async fn config_diff(State(reporter): State<Arc<Reporter>>) -> Response {
    let running = Arc::clone(&reporter.view.get().config);
    let compared = tokio::task::spawn_blocking(move || {
        let added = running.added.clone();
        let read = Config::read_file_with(running.source().path(), |_| added);
        let read = read.and_then(ParsedConfig::finish);
        match read {
            Ok((new, _)) => ConfigDiff {
                schema_version: SCHEMA_VERSION,
                changes: Changes::between(&running, &new).to_string(),
                needs_restart: new
                    .needs_restart(&running)
                    .into_iter()
                    .map(Into::into)
                    .collect(),
                errors: None,
            },
            Err(errors) => ConfigDiff {
                schema_version: SCHEMA_VERSION,
                errors: Some(errors.to_string()),
                ..ConfigDiff::default()
            },
        }
    });
    match compared.await {
        Ok(diff) => Json(diff).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Lists what happened, an event per line.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery),
    responses((status = 200, description = "The newest 4,096 events, the oldest first; a follower gets an \
        empty line every three seconds", body = Event, content_type = "application/x-ndjson")))]
async fn events(
    State(reporter): State<Arc<Reporter>>,
    Query(query): Query<EventsQuery>,
) -> Response {
    let newest = reporter.log.events().watch();
    let start = (reporter, query, newest, true);
    let chunks = futures_util::stream::unfold(start, async |state| {
        let (reporter, mut query, mut newest, is_first) = state;
        // What is there is sent at once, even if it is nothing.
        if !is_first {
            if !query.follow {
                return None;
            }
            // A timeout gives a heartbeat.
            let _ = tokio::time::timeout(HEARTBEAT, newest.changed()).await;
        }
        newest.mark_unchanged();
        let mut lines = Vec::new();
        for event in reporter.log.events().since(query.after) {
            query.after = event.number;
            if query.passes(&event) {
                // Strings and numbers, written to memory: this cannot fail.
                let _ = serde_json::to_writer(&mut lines, &event);
                lines.push(b'\n');
            }
        }
        if lines.is_empty() && query.follow {
            lines.push(b'\n');
        }
        let chunk = Ok::<_, Infallible>(Bytes::from(lines));
        Some((chunk, (reporter, query, newest, false)))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (content_type, Body::from_stream(chunks)).into_response()
}

impl Reporter {
    fn service_items(&self, filter: &ServiceFilter) -> Vec<ServiceItem> {
        let totals = self.counters.by_service(&self.gauges);
        let health = self.health(filter).services;
        let services = self.services(&self.view.get(), filter).into_iter();
        let item = |(service, health): (ServiceStatus, ServiceHealthStatus)| {
            let totals = totals.get(&*service.name).copied().unwrap_or_default();
            ServiceItem {
                vip: service.vip,
                port: service.port,
                protocol: service.protocol,
                policy: service.policy,
                state: health.state,
                reasons: health.reasons,
                backends: health.backends,
                up: health.up,
                active: service.active,
                half_open: service.half_open,
                closing: service.closing,
                sessions: totals.sessions,
                refused: totals.refused,
                unanswered: totals.unanswered,
                forward: totals.forward,
                reply: totals.reply,
                name: service.name,
            }
        };
        // Both are in the config's order; a reload in between may have changed it.
        let pairs = services.zip(health);
        pairs
            .filter(|(service, health)| service.name == health.service)
            .map(item)
            .collect()
    }

    /// Returns the reasons for which packets were dropped: over all, then by service.
    fn drop_items(&self, filter: &ServiceFilter) -> Vec<DropItem> {
        let mut items = Vec::new();
        if filter.passes_all() {
            for reason in DropReason::ALL {
                let workers = self.counters.workers().iter();
                items.push(DropItem {
                    reason: reason.label().to_owned(),
                    service: None,
                    packets: workers.map(|worker| worker.dropped(*reason).get()).sum(),
                });
            }
        }
        let drops = self.counters.drops_by_service();
        for service in &self.view.get().config.services {
            let name = &service.name.value;
            let Some(of_service) = drops.get(name).filter(|_| filter.passes(name)) else {
                continue;
            };
            for (reason, packets) in DropReason::ALL.iter().zip(of_service.0) {
                items.push(DropItem {
                    reason: reason.label().to_owned(),
                    service: Some(name.to_string()),
                    packets,
                });
            }
        }
        items.retain(|item| item.packets > 0);
        items
    }
}
