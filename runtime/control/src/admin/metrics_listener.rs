//! Serves `GET /metrics?service=PATTERN` on a TCP port of its own, and on the admin socket.
//!
//! Invariant: nothing can be changed by way of this port. It has fewer connections than the admin socket, and
//! their peers the same time to send a request and to take the answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::admin::filter::NoSuchService;
use crate::admin::report::Reporter;
use crate::admin::stream::Writers;
use crate::admin::{connections, metrics};

/// The most open connections, however many files may be open.
const CONNECTIONS_MAX: u64 = 16;

/// The most scrapes at the same time.
const SCRAPES_MAX: usize = 4;

/// The version of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the most open connections.
pub(crate) fn connections_max() -> u64 {
    connections::connections_max().min(CONNECTIONS_MAX)
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {listen} for metrics: {source}; set another `listen` under [metrics], or stop what \
     listens there"
)]
pub struct ListenError {
    listen: SocketAddr,
    source: io::Error,
}

/// How often, and how many times, a port is tried on which another process listens that is about to end.
const TRY_AGAIN: Duration = Duration::from_millis(100);
const TRIES: u32 = 100;

/// The listening port.
pub struct MetricsListener(Port);

enum Port {
    Listens(std::net::TcpListener),
    Later(SocketAddr),
}

impl MetricsListener {
    /// Listens. A port below 1024 needs a right that a running balancer does not have.
    ///
    /// # Errors
    /// Another program has the port, or this host does not have the address.
    pub fn bind(listen: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { listen, source };
        let listener = std::net::TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(Port::Listens(listener)))
    }

    /// Listens once it serves: the process that this one takes over from listens there until it has ended.
    #[must_use]
    pub fn later(listen: SocketAddr) -> Self {
        Self(Port::Later(listen))
    }

    async fn listen(self) -> io::Result<TcpListener> {
        let mut tries = 0;
        let listen = match self.0 {
            Port::Listens(listener) => return TcpListener::from_std(listener),
            Port::Later(listen) => listen,
        };
        loop {
            tries += 1;
            match TcpListener::bind(listen).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                listening => return listening,
            }
        }
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(self, reporter: Arc<Reporter>) {
        match self.listen().await {
            Ok(listener) => {
                let router = router(reporter);
                connections::serve("the port of metrics", listener, connections_max(), router)
                    .await;
            }
            Err(error) => tracing::error!("metrics are not served: {error}; restart waxwing"),
        }
    }
}

#[derive(Clone)]
struct Scrapes {
    reporter: Arc<Reporter>,
    writers: Writers,
}

/// Returns the route to the metrics.
pub(crate) fn router(reporter: Arc<Reporter>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(Scrapes {
            reporter,
            writers: Writers::new("metrics", SCRAPES_MAX),
        })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    service: Option<String>,
}

async fn scrape(
    State(scrapes): State<Scrapes>,
    Query(query): Query<MetricsQuery>,
) -> Result<Response, NoSuchService> {
    let filter = scrapes.reporter.filter(query.service)?;
    Ok(scrapes.writers.answer(CONTENT_TYPE, move |answer| {
        metrics::write(&scrapes.reporter, &filter, answer)
    }))
}
