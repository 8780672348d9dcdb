//! The admin server: HTTP/1.1 over the [admin socket](crate::admin::socket), over a second one that changes
//! nothing, and over a [TCP port](crate::admin::listener) for those who have a token.
//!
//! | request | response |
//! |---|---|
//! | `GET /v1/status?service=PATTERN` | a [`Status`] |
//! | `GET /v1/health?service=PATTERN` | a [`HealthReport`] |
//! | `GET /v1/{services,backends,modules,ports,workers,drops}` | a [`Listing`](resources::Listing) |
//! | `GET /v1/sessions?service=PATTERN&client=NET&backend=NAME&…` | a [`SessionStatus`] per line |
//! | `GET /v1/events?after=N&severity=S&area=A&follow=true` | an [`Event`] per line |
//! | `GET /v1/explain?protocol=P&client=C&vip=V&port=NAME&bytes=N` | an [`Explanation`] |
//! | `GET /v1/config`, `GET /v1/config/diff` | the config in effect; what a reload would change |
//! | `GET /metrics?service=PATTERN` | the metrics, as the [listener](metrics_listener) for them serves |
//! | `POST /v1/signals` with a [`SetSignals`] | 200, or 409 with the error |
//! | `POST /v1/backends` with a [`SetBackend`] | 200 once it is in effect, or 409 with the error |
//! | `POST /v1/backends/weight` with a [`SetWeight`] | the same |
//! | `POST /v1/sessions/kill` with a [`KillSessions`] | 200 with how many, or 409 with the error |
//! | `POST /v1/modules/rollback` with a [`RollBack`] | 200 with what serves instead, or 409 with the error |
//! | `POST /v1/modules/lift` with a [`LiftQuarantine`] | 200 with the hashes, or 409 with the error |
//! | `POST /v1/config/validate` with a config's text | the same, and nothing changes |
//! | `PUT /v1/config` with a config's text and `If-Match` | 200 with what changed, 409 with errors, or 412 |
//! | `POST /v1/reload` | 200 with what changed and the warnings, or 409 with all errors of the config |
//!
//! An error is a JSON object with `schema_version`, `status` and `error`, a text for people.
//!
//! Without a pattern the answer is about all services; one that no service matches is answered with 404.
//!
//! Invariant: answers come from the controller's published view and from counters. No request makes a
//! worker wait, and only a `POST` or `PUT` changes anything.
//!
//! [`Explanation`]: crate::admin::explain::Explanation
//! [`SetSignals`]: crate::admin::signals::SetSignals
//! [`KillSessions`]: crate::admin::requests::KillSessions
//! [`Event`]: crate::admin::events::Event
//! [`Status`]: crate::admin::status::Status
//! [`HealthReport`]: crate::admin::status::HealthReport
//! [`SessionStatus`]: crate::admin::status::SessionStatus

use std::io::Write as _;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::admin::filter::NoSuchService;
use crate::admin::report::Reporter;
use crate::admin::requests::{ApplyConfig, LiftQuarantine, RollBack, SetBackend, SetWeight};
use crate::admin::resources::{self, SCHEMA_VERSION};
use crate::admin::sessions::{QueryError, SessionFilter, SessionsQuery};
use crate::admin::status::{ErrorBody, ReloadStatus};
use crate::admin::stream::Writers;
use crate::admin::{changes, metrics_listener};
use crate::publish::controller::checks::SetBackendError;
use crate::publish::controller::policies::{LiftError, RollBackError};
use crate::publish::controller::reload::{ApplyError, ReloadError};

/// The longest text of an error, in bytes.
const ERROR_MAX: usize = 1 << 20;

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
    changing
        .merge(reading(reporter))
        .layer(axum::middleware::map_response(with_json_error))
}

/// Returns the routes of the socket that changes nothing. Others are refused there.
pub(crate) fn read_router(reporter: &Arc<Reporter>) -> Router {
    reading(reporter).layer(axum::middleware::map_response(with_json_error))
}

fn reading(reporter: &Arc<Reporter>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/health", get(health))
        .route("/v1/sessions", get(sessions))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesQuery {
    service: Option<String>,
}

async fn status(
    State(app): State<Reading>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.status(&filter)).into_response())
}

async fn health(
    State(app): State<Reading>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.health(&filter)).into_response())
}

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

/// Makes an error's text the JSON that all errors have, also those that a wrong path or query gives.
async fn with_json_error(response: Response) -> Response {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), ERROR_MAX).await;
    let text = text.map_or_else(
        |error| error.to_string(),
        |text| String::from_utf8_lossy(&text).into(),
    );
    let reason = status.canonical_reason().unwrap_or_default();
    let body = ErrorBody {
        schema_version: SCHEMA_VERSION,
        status: status.as_u16(),
        error: if text.is_empty() {
            reason.to_owned()
        } else {
            text
        },
    };
    (status, Json(body)).into_response()
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
