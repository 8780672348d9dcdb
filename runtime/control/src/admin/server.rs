//! The admin server: HTTP/1.1 over a unix socket that only the balancer's own user can open.
//!
//! | request | response |
//! |---|---|
//! | `GET /v1/status?service=PATTERN` | a [`Status`] |
//! | `GET /v1/health?service=PATTERN` | a [`HealthReport`] |
//! | `GET /v1/{services,backends,modules,ports,workers,drops}` | a [`Listing`](resources::Listing) |
//! | `GET /v1/sessions?service=PATTERN&client=NET&backend=NAME&…` | a [`SessionStatus`] per line |
//! | `GET /v1/events?after=N&severity=S&area=A&follow=true` | an [`Event`] per line |
//! | `GET /v1/config`, `GET /v1/config/diff` | the config in effect; what a reload would change |
//! | `GET /metrics?service=PATTERN` | the metrics, as the [listener](metrics_listener) for them serves |
//! | `POST /v1/signals` with a [`SetSignals`] | 200, or 409 with the error |
//! | `POST /v1/backends` with a [`SetBackend`] | 200 once it is in effect, or 409 with the error |
//! | `POST /v1/modules/lift` with a [`LiftQuarantine`] | 200 with the hashes, or 409 with the error |
//! | `POST /v1/reload` | 200 with what changed and the warnings, or 409 with all errors of the config |
//!
//! An error is a JSON object with `schema_version`, `status` and `error`, a text for people.
//!
//! Without a pattern the answer is about all services; one that no service matches is answered with 404.
//!
//! Invariant: answers come from the controller's published view and from counters. No request makes a
//! worker wait, and only a `POST` changes anything.
//!
//! [`Event`]: crate::admin::events::Event
//! [`Status`]: crate::admin::status::Status
//! [`HealthReport`]: crate::admin::status::HealthReport
//! [`SessionStatus`]: crate::admin::status::SessionStatus

use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::admin::filter::NoSuchService;
use crate::admin::report::Reporter;
use crate::admin::resources::{self, SCHEMA_VERSION};
use crate::admin::sessions::{QueryError, SessionFilter, SessionsQuery};
use crate::admin::signals::{self, LiftQuarantine, SetBackend, SetSignals};
use crate::admin::status::{ErrorBody, ReloadStatus};
use crate::admin::stream::Writers;
use crate::admin::{connections, metrics_listener};
use crate::publish::controller::checks::SetBackendError;
use crate::publish::controller::policies::LiftError;
use crate::publish::controller::reload::ReloadError;

/// The longest text of an error, in bytes.
const ERROR_MAX: usize = 1 << 20;

/// The most session lists that are read at the same time.
const LISTS_MAX: usize = 8;

/// The pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process listens on it.
    #[error(
        "admin socket {}: another process listens on it; is waxwing already running? Give each \
         balancer its own `socket` under [admin]",
        .0.display()
    )]
    BuildsInUse(PathBuf),
    /// The path is taken by something else.
    #[error(
        "admin socket {}: the path exists and is not a socket; move it or set another `socket`",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// Its folder is missing.
    #[error(
        "admin socket {}: its folder does not exist; create it (mkdir -p {})",
        path.display(), folder.display()
    )]
    NoFolder {
        /// The socket's path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// It could not be created.
    #[error("cannot create admin socket {}: {source}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A request to the controller, with the sender for the result.
pub(crate) enum Request {
    /// Reloads the config; returns what changed.
    Reload(oneshot::Sender<Result<ReloadStatus, ReloadError>>),
    /// Sets a backend's admin state.
    SetBackend(SetBackend, oneshot::Sender<Result<(), SetBackendError>>),
    /// Lifts a quarantine; returns the hashes.
    Lift(
        LiftQuarantine,
        oneshot::Sender<Result<Vec<String>, LiftError>>,
    ),
    /// Hands over to the process at the other end.
    HandOver(std::os::unix::net::UnixStream),
}

/// The listening socket; dropping it removes the socket's file.
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: u64,
    /// The private folder where it lies until it is published.
    hidden: Option<PathBuf>,
    /// Whether another process has the path now.
    is_left: Arc<AtomicBool>,
}

impl AdminSocket {
    /// Creates the socket; its mode is 0600 from the start. A stale socket is replaced, a missing folder
    /// made.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn bind(path: &Path) -> Result<Self, AdminError> {
        check_path(path).await?;
        let mut socket = Self::bind_hidden(path)?;
        socket.publish()?;
        Ok(socket)
    }

    /// Creates the socket, and leaves the path alone until [`AdminSocket::publish`].
    pub(crate) fn bind_hidden(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // It fails if there is one.
        let _ = std::fs::DirBuilder::new().mode(0o755).create(folder);
        if !folder.is_dir() {
            return Err(AdminError::NoFolder {
                path: path.to_owned(),
                folder: folder.to_owned(),
            });
        }
        // Created in a private folder and then moved: bound in place, it would be open to other users
        // until its mode is set.
        let kind = path.extension().unwrap_or_default().to_string_lossy();
        let private = folder.join(format!(".waxwing-{}-{kind}", std::process::id()));
        // A process with this id that was killed here may have left one.
        let _ = std::fs::remove_dir_all(&private);
        let bound = bind_in(&private);
        if bound.is_err() {
            let _ = std::fs::remove_dir_all(&private);
        }
        let (listener, inode) = bound.map_err(failed)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            inode,
            hidden: Some(private),
            is_left: Arc::default(),
        })
    }

    /// Leaves the path to another process once this holds. Without a word that one could put its socket there
    /// between the look at the file and its removal.
    pub(crate) fn leave_if(&mut self, is_left: &Arc<AtomicBool>) {
        self.is_left = Arc::clone(is_left);
    }

    /// Moves the socket to its path, in place of another one.
    pub(crate) fn publish(&mut self) -> Result<(), AdminError> {
        let Some(private) = self.hidden.take() else {
            return Ok(());
        };
        let moved = std::fs::rename(private.join(NAME), &self.path);
        // Best effort: a folder left behind is harmless.
        let _ = std::fs::remove_dir_all(&private);
        moved.map_err(|source| AdminError::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// Passes the connections of processes that want to take over to the controller, until the future is
    /// dropped. Only this process's user and root may.
    pub(crate) async fn serve_upgrades(mut self, requests: mpsc::Sender<Request>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let peer = stream.peer_cred();
            let is_ours = peer.is_ok_and(|peer| [0, own].contains(&peer.uid()));
            if let Some(stream) = stream.into_std().ok().filter(|_| is_ours) {
                let _ = requests.send(Request::HandOver(stream)).await;
            }
        }
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(mut self, reporter: Arc<Reporter>, requests: mpsc::Sender<Request>) {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/health", get(health))
            .route("/v1/sessions", get(sessions))
            .route("/v1/signals", post(set_signals))
            .route("/v1/backends", post(set_backend))
            .route("/v1/modules/lift", post(lift))
            .route("/v1/reload", post(reload))
            .with_state(App {
                reporter: Arc::clone(&reporter),
                requests,
                lists: Writers::new("sessions", LISTS_MAX),
            })
            .merge(metrics_listener::router(Arc::clone(&reporter)))
            .merge(resources::router(reporter))
            .layer(axum::middleware::map_response(with_json_error));
        if let Some(listener) = self.listener.take() {
            let max = connections::connections_max();
            connections::serve("the admin socket", listener, max, router).await;
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Some(private) = &self.hidden {
            let _ = std::fs::remove_dir_all(private);
            return;
        }
        // Only if the file is still ours: another balancer may have replaced it.
        if !self.is_left.load(Ordering::Acquire)
            && std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Checks that the path is free or holds a stale socket.
async fn check_path(path: &Path) -> Result<(), AdminError> {
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
        Ok(_) => Err(AdminError::BuildsInUse(path.to_owned())),
    }
}

/// The socket's name in a private folder.
const NAME: &str = "s";

fn bind_in(private: &Path) -> io::Result<(UnixListener, u64)> {
    std::fs::DirBuilder::new().mode(0o700).create(private)?;
    let opened = std::fs::File::open(private)?;
    // By this short name, because the private folder's may be longer than the name of a socket can be.
    let new = format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd());
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    let inode = std::fs::metadata(&new)?.ino();
    Ok((listener, inode))
}

#[derive(Clone)]
struct App {
    reporter: Arc<Reporter>,
    requests: mpsc::Sender<Request>,
    /// Those that write lists of sessions.
    lists: Writers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesQuery {
    service: Option<String>,
}

async fn status(
    State(app): State<App>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.status(&filter)).into_response())
}

async fn health(
    State(app): State<App>,
    Query(query): Query<ServicesQuery>,
) -> Result<Response, NoSuchService> {
    let filter = app.reporter.filter(query.service)?;
    Ok(Json(app.reporter.health(&filter)).into_response())
}

async fn sessions(State(app): State<App>, Query(query): Query<SessionsQuery>) -> Response {
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

async fn set_signals(State(app): State<App>, Json(request): Json<SetSignals>) -> Response {
    let view = app.reporter.view.get();
    match signals::set(&view, &app.reporter.gauges, &request) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (StatusCode::CONFLICT, why.to_string()).into_response(),
    }
}

async fn set_backend(State(app): State<App>, Json(request): Json<SetBackend>) -> Response {
    match app
        .request(|answer| Request::SetBackend(request, answer))
        .await
    {
        Some(Ok(())) => StatusCode::OK.into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        None => shutting_down(),
    }
}

async fn lift(State(app): State<App>, Json(request): Json<LiftQuarantine>) -> Response {
    match app.request(|answer| Request::Lift(request, answer)).await {
        Some(Ok(hashes)) => (hashes.join("\n") + "\n").into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        None => shutting_down(),
    }
}

async fn reload(State(app): State<App>) -> Response {
    match app.request(Request::Reload).await {
        Some(Ok(done)) => {
            let texts = done.warnings.iter().chain([&done.changes]);
            texts
                .map(|text| format!("{text}\n"))
                .collect::<String>()
                .into_response()
        }
        Some(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        None => shutting_down(),
    }
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

fn shutting_down() -> Response {
    let text = "waxwing is shutting down";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

impl App {
    /// Sends a request to the controller and waits for the result; `None` if the controller has ended.
    async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, result) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        result.await.ok()
    }
}
