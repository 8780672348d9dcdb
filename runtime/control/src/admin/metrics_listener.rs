//! Serves `GET /metrics?service=PATTERN` on a TCP port of its own, and on the admin socket.
//!
//! Invariant: nothing can be changed by way of this port. It has fewer connections than the admin socket, and
//! their peers the same time to send a request and to take the answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admin::filter::NoSuchService;
use crate::admin::report::Reporter;
use crate::admin::stream::Writers;
use crate::admin::tcp_port::TcpPort;
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

/// The listening port.
pub struct MetricsListener(TcpPort);

impl MetricsListener {
    /// Listens. A port below 1024 needs a right that a running balancer does not have.
    ///
    /// # Errors
    /// Another program has the port, or this host does not have the address.
    pub fn bind(listen: SocketAddr) -> Result<Self, ListenError> {
        let bound = TcpPort::bind(listen);
        bound
            .map(Self)
            .map_err(|source| ListenError { listen, source })
    }

    /// Listens once it serves: the process that this one takes over from listens there until it has ended.
    #[must_use]
    pub fn later(listen: SocketAddr) -> Self {
        Self(TcpPort::Later(listen))
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(self, reporter: Arc<Reporter>) {
        match self.0.listen().await {
            Ok(listener) => {
                let router = router(reporter).into();
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
pub(crate) fn router(reporter: Arc<Reporter>) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(scrape))
        .with_state(Scrapes {
            reporter,
            writers: Writers::new("metrics", SCRAPES_MAX),
        })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MetricsQuery {
    /// A pattern of services' names, with `*` and `?`.
    service: Option<String>,
}

/// Returns the metrics as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", params(MetricsQuery),
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
async fn scrape(
    State(scrapes): State<Scrapes>,
    Query(query): Query<MetricsQuery>,
) -> Result<Response, NoSuchService> {
    let filter = scrapes.reporter.filter(query.service)?;
    Ok(scrapes.writers.answer(CONTENT_TYPE, move |answer| {
        metrics::write(&scrapes.reporter, &filter, answer)
    }))
}
