//! Serves the connections of a listener: the admin socket, or the metrics' one.
//!
//! Invariant: no peer keeps another one waiting. A connection whose peer sends no request or takes no answer
//! is closed after [`STALLED_MAX`], or at once when its place is needed for a new one.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::Resource;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::admin::caller::Caller;
use crate::admin::errors::with_json_error;

/// The most open connections, however many files may be open.
const CONNECTIONS_MAX: u64 = 256;

/// How long a peer may take to send a request's head, its body, or the next part of an answer.
const STALLED_MAX: Duration = Duration::from_secs(10);

/// The longest body of a request, in bytes.
const BODY_MAX: usize = 64 << 10;

/// The longest config, in bytes: about 10,000 services.
const CONFIG_MAX: usize = 8 << 20;

/// The pause after a connection could not be accepted, for example because no file is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Returns the most open connections: an eighth of the files that the process may open. Health checks leave
/// these files free, and stalled clients leave the others to the rest of the process.
pub(crate) fn connections_max() -> u64 {
    let files = rustix::process::getrlimit(Resource::Nofile).current;
    (files.unwrap_or(u64::MAX) / 8).clamp(1, CONNECTIONS_MAX)
}

/// Where connections come from.
pub(crate) trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// A connection, and whose it is if that is known.
    fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Stream, Option<Caller>)>>;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(UnixStream, Option<Caller>)>> {
        let accepted = Self::poll_accept(self, context);
        accepted.map_ok(|(stream, _)| {
            let caller = stream.peer_cred().ok().map(|peer| Caller::Process {
                uid: peer.uid(),
                pid: peer.pid(),
            });
            (stream, caller)
        })
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, Option<Caller>)>> {
        let accepted = Self::poll_accept(self, context);
        accepted.map_ok(|(stream, address)| {
            // Only the end of an answer is later without it.
            let _ = stream.set_nodelay(true);
            (stream, Some(Caller::Address(address)))
        })
    }
}

/// Serves at most `max` connections at once, until the future is dropped; they end with it. `name` is the
/// listener's in the log.
pub(crate) async fn serve(name: &str, listener: impl Listener, max: u64, router: Router) {
    let begun = Instant::now();
    let mut open: Vec<Connection> = Vec::new();
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let mut tick = interval(Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(|context| listener.poll_accept(context)) => Some(accepted),
            _ = tick.tick() => None,
        };
        open.retain(|it| !it.task.is_finished() && it.stalled() < Some(STALLED_MAX));
        match accepted {
            Some(Ok((stream, caller))) if make_room(&mut open, max) => {
                open.push(Connection::start(stream, caller, router.clone(), begun));
            }
            Some(Ok(_)) | None => {}
            Some(Err(error)) => {
                tracing::warn!("{name} cannot accept a connection: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Closes the connection that has waited longest for its peer if all places are taken. Returns whether there
/// is a place.
fn make_room(open: &mut Vec<Connection>, max: usize) -> bool {
    if open.len() < max {
        return true;
    }
    let places = open.iter().enumerate();
    let stalled = places.filter_map(|(at, it)| Some((it.stalled()?, at)));
    let longest = stalled.max().map(|(_, at)| open.swap_remove(at));
    longest.is_some()
}

/// An open connection; dropping it closes it.
struct Connection {
    task: AbortHandle,
    progress: Arc<Progress>,
}

impl Connection {
    fn start<S>(stream: S, caller: Option<Caller>, router: Router, begun: Instant) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let progress = Arc::new(Progress {
            begun,
            last_ms: AtomicU64::default(),
            is_handling: AtomicBool::default(),
        });
        progress.note();
        let stream = TokioIo::new(Watched {
            stream,
            progress: Arc::clone(&progress),
        });
        let handled = Arc::clone(&progress);
        let service = service_fn(move |request| {
            let (router, progress) = (router.clone(), Arc::clone(&handled));
            async move {
                let answer = handle(request, caller, router, &progress).await;
                Ok::<_, Infallible>(with_json_error(answer).await)
            }
        });
        let task = tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(STALLED_MAX);
            // The peer's faults are the peer's to see.
            let _ = http.serve_connection(stream, service).await;
        });
        Self {
            task: task.abort_handle(),
            progress,
        }
    }

    /// Returns how long it has waited for its peer; `None` while a request is handled.
    fn stalled(&self) -> Option<Duration> {
        let progress = &self.progress;
        let last = Duration::from_millis(progress.last_ms.load(Ordering::Relaxed));
        let stalled = progress.begun.elapsed().saturating_sub(last);
        (!progress.is_handling.load(Ordering::Relaxed)).then_some(stalled)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(
    request: Request<Incoming>,
    caller: Option<Caller>,
    router: Router,
    progress: &Progress,
) -> Response {
    let (head, body) = request.into_parts();
    let max = match head.uri.path().starts_with("/v1/config") {
        true => CONFIG_MAX,
        false => BODY_MAX,
    };
    let body = match timeout(STALLED_MAX, Limited::new(body, max).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            let text = format!("{error}; a request may have {max} bytes");
            return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        Err(_) => {
            let text = format!("the request was not complete within {STALLED_MAX:?}");
            return (StatusCode::REQUEST_TIMEOUT, text).into_response();
        }
    };
    progress.is_handling.store(true, Ordering::Relaxed);
    let mut request = Request::from_parts(head, Body::from(body));
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let Ok(response) = TowerToHyperService::new(router).call(request).await;
    progress.note();
    progress.is_handling.store(false, Ordering::Relaxed);
    response
}

/// When a connection's peer last did something.
struct Progress {
    begun: Instant,
    /// Milliseconds since `begun`.
    last_ms: AtomicU64,
    /// Whether a request is being handled, which waits for no peer.
    is_handling: AtomicBool,
}

impl Progress {
    fn note(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }
}

/// A stream that notes each read and write that its peer let through.
struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Watched<S> {
    fn noted<T>(&self, done: Poll<T>) -> Poll<T> {
        if done.is_ready() {
            self.progress.note();
        }
        done
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(context, into);
        self.noted(done)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
