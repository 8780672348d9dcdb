//! The admin socket: HTTP/1.1 over a unix socket that only the balancer's own user can open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`](crate::admin::status::Status) |
//! | `GET /v1/health` | a list of [`ServiceHealthStatus`](crate::admin::status::ServiceHealthStatus) |
//! | `GET /v1/sessions?service=NAME&limit=N` | a [`SessionStatus`](crate::admin::status::SessionStatus) per line |
//! | `POST /v1/signals` with a [`SetSignals`] | 200, or 409 with what is wrong |
//! | `POST /v1/backends` with a [`SetBackend`] | 200 once it is in effect, or 409 with what is wrong |
//! | `POST /v1/reload` | 200 with the warnings, or 409 with everything that is wrong with the config |
//!
//! Invariant: an answer is made from what the controller published and from counters; no request
//! makes a worker wait, and none but a `POST` changes anything.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::admin::report::Reporter;
use crate::admin::signals::{self, SetBackend, SetSignals};

/// A chunk of a session list is sent when it has grown to this many bytes.
const CHUNK: usize = 32 << 10;

/// Chunks of a session list that wait for a slow reader.
const CHUNKS_WAITING: usize = 4;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another balancer answers there.
    #[error(
        "admin socket {}: another process answers there; is waxwing running already? Give each \
         balancer a `socket` of its own under [admin]",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else is there.
    #[error("admin socket {}: there is something that is no socket; move it or name another path", .0.display())]
    NotASocket(PathBuf),
    /// Its folder is missing.
    #[error("admin socket {}: its folder does not exist; make it (mkdir -p {})", path.display(), folder.display())]
    NoFolder {
        /// The socket.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// It could not be made.
    #[error("admin socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A request to the controller: what came of it goes back.
pub(crate) enum Request {
    /// Reads the config anew; gives the warnings.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// Sets whether a backend takes new sessions.
    SetBackend(SetBackend, oneshot::Sender<Result<(), String>>),
}

/// The socket, removed when this is dropped.
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Makes the socket, with mode 0600 from its first moment on. A socket that was left behind is
    /// replaced.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(AdminError::NoFolder {
                path: path.to_owned(),
                folder: folder.to_owned(),
            });
        }
        make_room(path).await?;
        // Made in a folder of its own that nobody else may enter, then moved: bound in place it
        // would be open to others until its mode is set.
        let private = folder.join(format!(".waxwing-{}", std::process::id()));
        std::fs::create_dir(&private).map_err(failed)?;
        let made = place(&private, path);
        // Best effort: an empty folder left behind does no harm.
        let _ = std::fs::remove_dir(&private);
        let (listener, inode) = made.map_err(failed)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            inode,
        })
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(mut self, reporter: Arc<Reporter>, requests: mpsc::Sender<Request>) {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/health", get(health))
            .route("/v1/sessions", get(sessions))
            .route("/v1/signals", post(set_signals))
            .route("/v1/backends", post(set_backend))
            .route("/v1/reload", post(reload))
            .with_state(App { reporter, requests });
        if let Some(listener) = self.listener.take()
            && let Err(e) = axum::serve(listener, router).await
        {
            tracing::error!("admin socket {}: {e}", self.path.display());
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Only if it is still ours: another balancer may have taken the path over.
        if std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Sees to it that the path is free.
async fn make_room(path: &Path) -> Result<(), AdminError> {
    let file = match std::fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(AdminError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !file.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AdminError::Io {
            path: path.to_owned(),
            source,
        }),
        Ok(_) => Err(AdminError::InUse(path.to_owned())),
    }
}

fn place(private: &Path, path: &Path) -> io::Result<(UnixListener, u64)> {
    let new = private.join("s");
    let made = (|| {
        std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o700))?;
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&new)?.ino();
        std::fs::rename(&new, path)?;
        Ok((listener, inode))
    })();
    if made.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    made
}

#[derive(Clone)]
struct App {
    reporter: Arc<Reporter>,
    requests: mpsc::Sender<Request>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionsQuery {
    service: Option<String>,
    limit: Option<u64>,
}

async fn status(State(app): State<App>) -> Response {
    Json(app.reporter.status()).into_response()
}

async fn health(State(app): State<App>) -> Response {
    Json(app.reporter.health()).into_response()
}

async fn sessions(State(app): State<App>, Query(query): Query<SessionsQuery>) -> Response {
    if let Some(name) = &query.service
        && !app.reporter.has_service(name)
    {
        let names = app.reporter.service_names().join(", ");
        let text = format!("there is no service \"{name}\"; the services are: {names}");
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
    tokio::task::spawn_blocking(move || write_sessions(&app.reporter, &query, &chunks));
    let body = futures_util::stream::unfold(waiting, async |mut waiting| {
        let chunk: Vec<u8> = waiting.recv().await?;
        Some((Ok::<_, io::Error>(chunk), waiting))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(body),
    )
        .into_response()
}

/// Walks the table once; stops where the reader has gone.
fn write_sessions(reporter: &Reporter, query: &SessionsQuery, chunks: &mpsc::Sender<Vec<u8>>) {
    let limit = query
        .limit
        .and_then(|limit| limit.try_into().ok())
        .unwrap_or(usize::MAX);
    let mut chunk = Vec::with_capacity(CHUNK + 512);
    for session in reporter.sessions(query.service.as_deref()).take(limit) {
        // Plain strings and numbers into memory: this does not fail.
        if serde_json::to_writer(&mut chunk, &session).is_err() {
            return;
        }
        chunk.push(b'\n');
        if chunk.len() >= CHUNK {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + 512));
            if chunks.blocking_send(full).is_err() {
                return;
            }
        }
    }
    let _ = chunks.blocking_send(chunk);
}

async fn set_signals(State(app): State<App>, Json(request): Json<SetSignals>) -> Response {
    let view = app.reporter.view.get();
    match signals::set(&view, &app.reporter.gauges, &request) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (StatusCode::CONFLICT, why).into_response(),
    }
}

async fn set_backend(State(app): State<App>, Json(request): Json<SetBackend>) -> Response {
    match app.ask(|answer| Request::SetBackend(request, answer)).await {
        Some(Ok(())) => StatusCode::OK.into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, why).into_response(),
        None => ending(),
    }
}

async fn reload(State(app): State<App>) -> Response {
    match app.ask(Request::Reload).await {
        Some(Ok(warnings)) => warnings.join("\n\n").into_response(),
        Some(Err(text)) => (StatusCode::CONFLICT, text).into_response(),
        None => ending(),
    }
}

fn ending() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "waxwing is ending").into_response()
}

impl App {
    /// Asks the controller and waits for its answer; `None` where it has ended.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}
