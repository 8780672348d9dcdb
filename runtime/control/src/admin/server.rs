//! The admin server: HTTP/1.1 over the [admin socket](crate::admin::socket), over a second one that changes
//! nothing, and over a [TCP port](crate::admin::listener) for those who have a token.
//!
//! `GET /v1/openapi.json` describes each request and its answers. `GET /` is a page for a browser over it.
//!
//! An error is a JSON object with `schema_version`, `status` and `error`, a text for people.
//!
//! Without a pattern the answer is about all services; one that no service matches is answered with 404.
//!
//! Invariant: answers come from the controller's published view and from counters. No request for the state
//! makes a worker wait, and only a `POST` or `PUT` changes it. A capture interrupts the workers
//! for a moment.

use std::io::Write as _;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admin::filter::NoSuchService;
use crate::admin::openapi::described;
use crate::admin::report::Reporter;
use crate::admin::requests::{
    AddBackend, ApplyConfig, LiftQuarantine, RemoveBackend, RollBack, SetBackend, SetWeight,
};
use crate::admin::resources;
use crate::admin::sessions::{QueryError, SessionFilter, SessionsQuery};
use crate::admin::status::{HealthReport, ReloadStatus, SessionStatus, Status};
use crate::admin::stream::Writers;
use crate::admin::{capture, changes, metrics_listener, page};
use crate::publish::controller::added::AddError;
use crate::publish::controller::checks::SetBackendError;
use crate::publish::controller::policies::{LiftError, RollBackError};
use crate::publish::controller::reload::{ApplyError, ReloadError};

/// The most session lists that are read at the same time.
const LISTS_MAX: usize = 8;

/// A request to the controller, with the sender for the result.
pub(crate) enum Request {
    /// Reloads the config; returns what changed.
    Reload(oneshot::Sender<Result<ReloadStatus, ReloadError>>),
    /// Checks a config's text; returns what it would change.
    Validate(String, oneshot::Sender<Result<ReloadStatus, ReloadError>>),
    /// Replaces the config; returns what changed.
    Apply(
        ApplyConfig,
        oneshot::Sender<Result<ReloadStatus, ApplyError>>,
    ),
    /// Sets a backend's admin state.
    SetBackend(SetBackend, oneshot::Sender<Result<(), SetBackendError>>),
    /// Sets the operator's weight of a backend.
    SetWeight(SetWeight, oneshot::Sender<Result<(), SetBackendError>>),
    /// Adds a backend; returns what changed.
    AddBackend(AddBackend, oneshot::Sender<Result<ReloadStatus, AddError>>),
    /// Takes an added backend away; returns what changed.
    RemoveBackend(
        RemoveBackend,
        oneshot::Sender<Result<ReloadStatus, AddError>>,
    ),
    /// Rolls a module back; returns what serves instead.
    RollBack(RollBack, oneshot::Sender<Result<String, RollBackError>>),
    /// Lifts a quarantine; returns the hashes.
    Lift(
        LiftQuarantine,
        oneshot::Sender<Result<Vec<String>, LiftError>>,
    ),
    /// Hands over to the process at the other end.
    HandOver(std::os::unix::net::UnixStream),
}

/// Returns all routes of the admin socket.
pub(crate) fn router(reporter: &Arc<Reporter>, requests: mpsc::Sender<Request>) -> Router {
    let app = App {
        reporter: Arc::clone(reporter),
        requests,
    };
    let changing = changes::router(app).layer(axum::middleware::from_fn(changes::record));
    described(
        changing
            .merge(capture::router(reporter))
            .merge(reading(reporter)),
    )
    .merge(page::router())
}

/// Returns the routes of the socket that changes nothing. Others are refused there.
pub(crate) fn read_router(reporter: &Arc<Reporter>) -> Router {
    described(reading(reporter)).merge(page::router())
}

fn reading(reporter: &Arc<Reporter>) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(status))
        .routes(routes!(health))
        .routes(routes!(sessions))
        .with_state(Reading {
            reporter: Arc::clone(reporter),
            lists: Writers::new("sessions", LISTS_MAX),
        })
        .merge(metrics_listener::router(Arc::clone(reporter)))
        .merge(resources::router(Arc::clone(reporter)))
}

/// What changes need.
#[derive(Clone)]
pub(super) struct App {
    pub(super) reporter: Arc<Reporter>,
    requests: mpsc::Sender<Request>,
}

#[derive(Clone)]
struct Reading {
    reporter: Arc<Reporter>,
    /// Those that write lists of sessions.
    lists: Writers,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ServicesQuery {
    /// A pattern of services' names, with `*` and `?`.
    service: Option<String>,
}

/// Returns everything that `waxwing status` shows.
#[utoipa::path(get, path = "/v1/status", params(ServicesQuery),
    responses((status = 200, description = "The status", body = Status)))]
async fn status(
    State(app): State<Reading>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.status(&filter)).into_response())
}

/// Judges the balancer and its services.
#[utoipa::path(get, path = "/v1/health", params(ServicesQuery),
    responses((status = 200, description = "The words and the reasons", body = HealthReport)))]
async fn health(
    State(app): State<Reading>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.health(&filter)).into_response())
}

/// Lists sessions, one per line.
#[utoipa::path(get, path = "/v1/sessions", params(SessionsQuery),
    responses((status = 200, description = "The sessions, in the order of the table", body = SessionStatus,
        content_type = "application/x-ndjson")))]
async fn sessions(State(app): State<Reading>, Query(query): Query<SessionsQuery>) -> Response {
    let filter = match SessionFilter::new(&app.reporter, &query) {
        Ok(filter) => filter,
        Err(QueryError::Service(why)) => return why.into_response(),
        Err(why) => return (StatusCode::BAD_REQUEST, why.to_string()).into_response(),
    };
    let limit = query.limit.unwrap_or(usize::MAX);
    let lists = app.lists.clone();
    lists.answer("application/x-ndjson", move |answer| {
        for session in app.reporter.sessions(filter).take(limit) {
            serde_json::to_writer(&mut *answer, &session)?;
            answer.write_all(b"\n")?;
        }
        Ok(())
    })
}

impl App {
    /// Sends a request to the controller and waits for the result; `None` if the controller has ended.
    pub(super) async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Option<T> {
        let (answer, result) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        result.await.ok()
    }
}
