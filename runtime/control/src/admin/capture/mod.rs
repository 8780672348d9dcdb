//! `GET /v1/capture`: packets as they came and as they left, with what became of them.
//!
//! Invariant: one capture at a time, and none without a reader: it ends when its reader does. The workers
//! wait for nobody; what they have no room for is told as missed.

mod form;
mod pcapng;
mod traced;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use crossbeam_channel::RecvTimeoutError;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use waxwing_dataplane::capture::{Capture, CaptureFilter, CaptureReader};

pub use traced::{Missed, TraceLine, TracedFrame, TracedPacket};

use crate::admin::caller::Caller;
use crate::admin::ports::AttachedPorts;
use crate::admin::report::Reporter;
use crate::admin::sessions::{QueryError, SessionFilter, SessionsQuery};
use crate::admin::stream::Writers;
use form::Form;
use pcapng::PcapngWriter;
use traced::TraceWriter;

/// The most bytes of a frame that are captured, unless `bytes` asks for less: a jumbo frame.
const BYTES_MAX: usize = 10_000;

/// How often a reader hears of a capture without packets, so that neither end takes the other for gone.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long packets are collected for one part of the answer, and waited for.
const COLLECT: Duration = Duration::from_millis(50);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CaptureQuery {
    /// A pattern of services' names, with `*` and `?`.
    service: Option<String>,
    /// An address, or a network such as `198.51.100.0/24`.
    client: Option<String>,
    /// A backend's name or endpoint.
    backend: Option<String>,
    /// Only packets that are dropped.
    #[serde(default)]
    dropped: bool,
    /// Only packets that open a session.
    #[serde(default)]
    new: bool,
    /// The most bytes of a frame that are copied.
    bytes: Option<usize>,
    /// After how many packets it ends.
    packets: Option<u64>,
    /// After how many milliseconds it ends.
    for_ms: Option<u64>,
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A file for Wireshark.
    #[default]
    Pcapng,
    /// A [`TraceLine`] per line.
    Json,
}

#[derive(Clone)]
struct Captures {
    reporter: Arc<Reporter>,
    /// The one that writes.
    writers: Writers,
}

/// Returns the route. Packets have what clients send, so it is not for those who may only read the state.
pub(super) fn router(reporter: &Arc<Reporter>) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(capture))
        .with_state(Captures {
            reporter: Arc::clone(reporter),
            writers: Writers::new("captures", 1),
        })
}

/// Captures packets until the connection ends.
#[utoipa::path(get, path = "/v1/capture", params(CaptureQuery), responses(
    (status = 200, description = "The packets", content(
        (Vec<u8> = "application/x-pcapng"), (TraceLine = "application/x-ndjson"))),
    (status = 429, description = "Another capture runs", body = crate::admin::status::ErrorBody)))]
async fn capture(
    State(captures): State<Captures>,
    Query(query): Query<CaptureQuery>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let reporter = captures.reporter;
    let filter = match reporter.capture_filter(&query) {
        Ok(filter) => filter,
        Err(QueryError::Service(why)) => return why.into_response(),
        Err(why) => return (StatusCode::BAD_REQUEST, why.to_string()).into_response(),
    };
    let who = caller.map_or_else(|| "somebody".to_owned(), |it| it.0.to_string());
    let content_type = match query.format {
        Format::Pcapng => "application/x-pcapng",
        Format::Json => "application/x-ndjson",
    };
    let answer = captures.writers.answer(content_type, move |answer| {
        let (capture, reader) = Capture::new(filter);
        let _running = Running::start(&reporter.ports, &capture);
        drop(capture);
        tracing::info!("{who}: captures packets");
        let ends = Ends {
            packets: query.packets.unwrap_or(u64::MAX),
            at: query
                .for_ms
                .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
        };
        let written = match query.format {
            Format::Pcapng => write(&reader, PcapngWriter::new(&reporter, answer)?, &ends),
            Format::Json => write(&reader, TraceWriter::new(&reporter, answer), &ends),
        };
        tracing::info!(
            "{who}: captures no longer; {} packets were missed",
            reader.missed()
        );
        written
    });
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            let text = "another capture runs; the log says whose (`waxwing event list`)";
            (StatusCode::TOO_MANY_REQUESTS, text).into_response()
        }
        _ => answer,
    }
}

/// Has the workers capture until it is dropped.
struct Running<'a>(&'a Arc<dyn AttachedPorts>);

impl<'a> Running<'a> {
    fn start(ports: &'a Arc<dyn AttachedPorts>, capture: &Capture) -> Self {
        ports.capture(Some(capture));
        Self(ports)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.capture(None);
    }
}

/// When a capture ends by itself.
struct Ends {
    packets: u64,
    at: Option<Instant>,
}

/// Writes until the end, or until the reader or the workers are gone. The last that is written is how many
/// packets were missed.
fn write(reader: &CaptureReader, mut form: impl Form, ends: &Ends) -> io::Result<()> {
    let mut told = Instant::now();
    let mut written = 0;
    while written < ends.packets && ends.at.is_none_or(|at| Instant::now() < at) {
        let until = Instant::now() + COLLECT;
        let mut waited = reader.packets.recv_deadline(until);
        while let Ok(packet) = &waited {
            form.packet(packet)?;
            written += 1;
            if written == ends.packets {
                break;
            }
            waited = reader.packets.recv_deadline(until);
        }
        if matches!(waited, Err(RecvTimeoutError::Disconnected)) {
            break;
        }
        if told.elapsed() >= HEARTBEAT {
            told = Instant::now();
            form.heartbeat(reader.missed())?;
        }
        // Also to hear that the reader is gone.
        form.flush()?;
    }
    form.heartbeat(reader.missed())?;
    form.flush()
}

impl Reporter {
    fn capture_filter(&self, query: &CaptureQuery) -> Result<CaptureFilter, QueryError> {
        let sessions = SessionsQuery {
            service: query.service.clone(),
            client: query.client.clone(),
            backend: query.backend.clone(),
            phase: None,
            limit: None,
        };
        let of = SessionFilter::new(self, &sessions)?;
        let view = self.view.get();
        Ok(CaptureFilter {
            client: of.client,
            services: query
                .service
                .as_ref()
                .map(|_| of.service_ids(&view.snapshot)),
            backends: of.backends.map(|ids| ids.into_iter().collect()),
            dropped: query.dropped,
            opens: query.new,
            bytes_max: query.bytes.unwrap_or(BYTES_MAX).min(BYTES_MAX),
        })
    }

    /// The time of day at the zero of the workers' clock.
    fn clock_began(&self) -> SystemTime {
        SystemTime::now() - self.clock_zero.elapsed()
    }
}
