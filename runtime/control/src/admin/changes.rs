//! The requests that change something, and the record of who made them.
//!
//! Invariant: each is in the log and in the events, refused ones too, with the process that made it.

use std::fmt::Display;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admin::caller::Caller;
use crate::admin::requests::{
    AddBackend, ApplyConfig, KillSessions, LiftQuarantine, RemoveBackend, RollBack, SetBackend,
    SetWeight,
};
use crate::admin::server::{App, Request};
use crate::admin::sessions::{QueryError, SessionFilter, SessionsQuery};
use crate::admin::signals::{self, SetSignals};
use crate::admin::status::{ErrorBody, ReloadStatus};
use crate::publish::controller::reload::ApplyError;

/// The longest body of a request that the log shows, in bytes.
const BODY_SHOWN: usize = 1024;

pub(super) fn router(app: App) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(set_signals))
        .routes(routes!(set_backend))
        .routes(routes!(set_weight))
        .routes(routes!(add_backend))
        .routes(routes!(remove_backend))
        .routes(routes!(kill))
        .routes(routes!(lift))
        .routes(routes!(roll_back))
        .routes(routes!(reload))
        .routes(routes!(validate))
        .routes(routes!(apply))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(app)
}

/// Logs a change: who asked for what, and whether it was made.
pub(super) async fn record(request: HttpRequest, next: Next) -> Response {
    if request.method() == axum::http::Method::GET {
        return next.run(request).await;
    }
    let caller = request.extensions().get::<Caller>().copied();
    let path = request.uri().path().to_owned();
    let (head, body) = request.into_parts();
    // The connection has read it whole, within its limit.
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(&body[..body.len().min(BODY_SHOWN)]).into_owned();
    let answer = next
        .run(HttpRequest::from_parts(head, Body::from(body)))
        .await;
    let who = caller.map_or_else(|| "somebody".to_owned(), |caller| caller.to_string());
    let what = format!("{path} {shown}");
    match answer.status() {
        status if status.is_success() => tracing::info!("{who}: {}", what.trim_end()),
        status => tracing::warn!("{who}: {}: refused ({status})", what.trim_end()),
    }
    answer
}

/// Sets a backend's signals.
#[utoipa::path(post, path = "/v1/signals", request_body = SetSignals,
    responses((status = 200, description = "Set"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn set_signals(State(app): State<App>, Json(request): Json<SetSignals>) -> Response {
    let view = app.reporter.view.get();
    match signals::set(&view, &app.reporter.gauges, &request) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (StatusCode::CONFLICT, why.to_string()).into_response(),
    }
}

/// Asks the controller; answers with what it did, or with 409 and why not.
async fn ask<T, E: Display>(
    app: &App,
    request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    text: impl FnOnce(T) -> String,
) -> Response {
    match app.request(request).await {
        Some(Ok(done)) => text(done).into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "waxwing is shutting down").into_response(),
    }
}

/// Drains, disables or enables a backend.
#[utoipa::path(post, path = "/v1/backends", request_body = SetBackend, responses(
    (status = 200, description = "In effect", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn set_backend(State(app): State<App>, Json(body): Json<SetBackend>) -> Response {
    ask(&app, |answer| Request::SetBackend(body, answer), nothing).await
}

/// Sets a backend's weight.
#[utoipa::path(post, path = "/v1/backends/weight", request_body = SetWeight, responses(
    (status = 200, description = "In effect", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn set_weight(State(app): State<App>, Json(body): Json<SetWeight>) -> Response {
    ask(&app, |answer| Request::SetWeight(body, answer), nothing).await
}

/// Adds a backend that is not in the config's file.
#[utoipa::path(post, path = "/v1/backends/add", request_body = AddBackend, responses(
    (status = 200, description = "Warnings, what changed", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn add_backend(State(app): State<App>, Json(body): Json<AddBackend>) -> Response {
    let request = |answer| Request::AddBackend(body, answer);
    ask(&app, request, |done| changes(&done)).await
}

/// Takes away a backend that is not in the config's file.
#[utoipa::path(post, path = "/v1/backends/remove", request_body = RemoveBackend, responses(
    (status = 200, description = "Warnings, what changed", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn remove_backend(State(app): State<App>, Json(body): Json<RemoveBackend>) -> Response {
    let request = |answer| Request::RemoveBackend(body, answer);
    ask(&app, request, |done| changes(&done)).await
}

/// Ends the quarantine of a module's builds.
#[utoipa::path(post, path = "/v1/modules/lift", request_body = LiftQuarantine, responses(
    (status = 200, description = "The builds' hashes", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn lift(State(app): State<App>, Json(body): Json<LiftQuarantine>) -> Response {
    let text = |hashes: Vec<String>| hashes.join("\n") + "\n";
    ask(&app, |answer| Request::Lift(body, answer), text).await
}

/// Has the build before a module's newest one serve.
#[utoipa::path(post, path = "/v1/modules/rollback", request_body = RollBack, responses(
    (status = 200, description = "What serves instead", body = String, content_type = "text/plain"),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn roll_back(State(app): State<App>, Json(body): Json<RollBack>) -> Response {
    let text = |done: String| done + "\n";
    ask(&app, |answer| Request::RollBack(body, answer), text).await
}

/// Reads the config again.
#[utoipa::path(post, path = "/v1/reload", responses(
    (status = 200, description = "What changed", body = String, content_type = "text/plain"),
    (status = 409, description = "Every error of the config", body = ErrorBody)))]
async fn reload(State(app): State<App>) -> Response {
    ask(&app, Request::Reload, |done| changes(&done)).await
}

/// Says what a config would change.
#[utoipa::path(post, path = "/v1/config/validate",
    request_body(content = String, content_type = "text/plain", description = "The config"), responses(
    (status = 200, description = "Its warnings and changes", body = String, content_type = "text/plain"),
    (status = 409, description = "Every error of the config", body = ErrorBody)))]
async fn validate(State(app): State<App>, text: String) -> Response {
    let text = |answer| Request::Validate(text, answer);
    ask(&app, text, |done| changes(&done)).await
}

/// Replaces the config.
#[utoipa::path(put, path = "/v1/config",
    params(("If-Match" = Option<String>, Header, description = "The `ETag` of the config in effect")),
    request_body(content = String, content_type = "text/plain", description = "The config"), responses(
    (status = 200, description = "Warnings, what changed", body = String, content_type = "text/plain"),
    (status = 409, description = "Every error of the config", body = ErrorBody),
    (status = 412, description = "Another config is in effect, or the file has changes that are not",
        body = ErrorBody),
    (status = 428, description = "There is no `If-Match`", body = ErrorBody)))]
async fn apply(State(app): State<App>, headers: HeaderMap, text: String) -> Response {
    let tag = headers
        .get(header::IF_MATCH)
        .and_then(|tag| tag.to_str().ok());
    let Some(tag) = tag else {
        let text = "write `If-Match` with the `ETag` of `GET /v1/config`";
        return (StatusCode::PRECONDITION_REQUIRED, text).into_response();
    };
    let request = ApplyConfig {
        text,
        if_match: tag.trim_matches('"').to_owned(),
    };
    match app.request(|answer| Request::Apply(request, answer)).await {
        Some(Err(why @ (ApplyError::Changed | ApplyError::NotLoaded))) => {
            (StatusCode::PRECONDITION_FAILED, why.to_string()).into_response()
        }
        Some(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        Some(Ok(done)) => changes(&done).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "waxwing is shutting down").into_response(),
    }
}

fn nothing((): ()) -> String {
    String::new()
}

/// Returns a config's warnings, and what changed.
fn changes(done: &ReloadStatus) -> String {
    let texts = done.warnings.iter().chain([&done.changes]);
    texts.map(|text| format!("{text}\n")).collect()
}

/// Ends sessions.
#[utoipa::path(post, path = "/v1/sessions/kill", request_body = KillSessions, responses(
    (status = 200, description = "How many end", body = String, content_type = "text/plain"),
    (status = 404, description = "There is no such service", body = ErrorBody),
    (status = 409, description = "The reason", body = ErrorBody)))]
async fn kill(State(app): State<App>, Json(request): Json<KillSessions>) -> Response {
    if request == KillSessions::default() {
        let text =
            "name a service, client, backend or phase; to end all sessions write service \"*\"";
        return (StatusCode::CONFLICT, text).into_response();
    }
    let query = SessionsQuery::from(request);
    let filter = match SessionFilter::new(&app.reporter, &query) {
        Ok(filter) => filter,
        Err(QueryError::Service(why)) => return why.into_response(),
        Err(why) => return (StatusCode::CONFLICT, why.to_string()).into_response(),
    };
    // It reads the whole table.
    let killed = tokio::task::spawn_blocking(move || app.reporter.kill(filter)).await;
    match killed {
        Ok(1) => "1 session ends\n".into_response(),
        Ok(killed) => format!("{killed} sessions end\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
