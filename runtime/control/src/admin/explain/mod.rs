//! `GET /v1/explain`: what would happen to a client's packet, and why.
//!
//! Invariant: [`waxwing_dataplane::dry_run`] decides, on copies of the tables; here its outcome becomes text.
//! Nothing is sent, no instance of a policy that serves is asked, and nothing changes.

mod status;
mod steps;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use tokio::sync::Semaphore;
use waxwing_dataplane::dry_run::{DryRun, OpenSession, Outcome, no_policy};
use waxwing_dataplane::session::{TableError, Tuple};
use waxwing_dataplane::steering::Rules;
use waxwing_dataplane::{Now, Policy, PortId, Service};
use waxwing_packet::{Address, Protocol};

pub use status::{Candidate, Explanation, KnownSession, PacketOutcome, Step};

use super::filter::ServiceFilter;
use super::report::Reporter;
use super::sessions::session_status;
use super::status::SCHEMA_VERSION;
use super::status::endpoint;
use crate::publish::modules::cluster_seed;
use crate::publish::view::View;
use steps::step;

/// How many new flows the expected shares rest on.
const FLOWS: u16 = 256;

/// One at a time: each copies the tables of all backends.
static ONE: Semaphore = Semaphore::const_new(1);

/// The query of `GET /v1/explain`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExplainQuery {
    /// `tcp` or `udp`.
    #[param(pattern = "^(tcp|udp)$")]
    protocol: String,
    /// The client's address and port.
    #[param(value_type = String, example = "192.0.2.7:4000")]
    client: SocketAddr,
    /// The destination's.
    #[param(value_type = String, example = "203.0.113.10:443")]
    vip: SocketAddr,
    /// The interface by which the packet arrives; by default that of the session, or the clients' first.
    port: Option<String>,
    /// The length of a large packet, in bytes; by default the MTU of that interface.
    bytes: Option<u16>,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("\"{0}\" is not a protocol; write tcp or udp")]
    Protocol(String),
    #[error("client and VIP are of different families: both IPv4 or both IPv6")]
    Families,
    #[error("there is no port \"{port}\"; the ports are {known}")]
    Port { port: String, known: String },
    #[error("cannot copy the tables: {0}")]
    Memory(#[from] TableError),
}

/// Says what would happen to a client's packet, and why. Nothing is sent.
#[utoipa::path(get, path = "/v1/explain", params(ExplainQuery),
    responses((status = 200, description = "The packet's path", body = Explanation)))]
pub(super) async fn explain(
    State(reporter): State<Arc<Reporter>>,
    Query(query): Query<ExplainQuery>,
) -> Response {
    let _place = ONE.acquire().await;
    let explained = tokio::task::spawn_blocking(move || reporter.explain(&query));
    match explained.await {
        Ok(Ok(explanation)) => Json(explanation).into_response(),
        Ok(Err(why)) => (StatusCode::BAD_REQUEST, why.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// What is known of the packet and of the balancer.
struct Explainer<'a> {
    reporter: &'a Reporter,
    view: &'a View,
    run: DryRun<'a>,
    flow: Tuple,
    /// Where the packet arrives.
    port: PortId,
    is_port_assumed: bool,
    open: Option<OpenSession>,
    /// The length of the large packet.
    large: u16,
}

impl Reporter {
    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ExplainError> {
        let view = self.view.get();
        let run = DryRun {
            shared: &self.shared,
            snapshot: &view.snapshot,
            cluster_key: cluster_seed(view.config.cluster_key),
            now: Now::from_start(self.clock_zero.elapsed()),
        };
        let flow = flow(query)?;
        let open = run.session(&flow);
        let ports = view.snapshot.ports();
        let named = query.port.as_ref().map(|name| {
            let at = ports.iter().position(|port| *port.name == **name);
            let at = at.and_then(|at| u8::try_from(at).ok());
            at.map(PortId).ok_or_else(|| ExplainError::Port {
                port: name.clone(),
                known: ports
                    .iter()
                    .map(|port| &*port.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
        });
        let named = named.transpose()?;
        let port = named.unwrap_or_else(|| run.arrival(open.as_ref().map(|it| &it.session)));
        let mtu = view.snapshot.port(port).map_or(1500, |port| port.mtu);
        let explainer = Explainer {
            reporter: self,
            view: &view,
            run,
            flow,
            port,
            is_port_assumed: named.is_none() && open.is_none(),
            open,
            large: query.bytes.unwrap_or(mtu),
        };
        explainer.explain()
    }
}

fn flow(query: &ExplainQuery) -> Result<Tuple, ExplainError> {
    let protocol = match &*query.protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(ExplainError::Protocol(other.to_owned())),
    };
    let (client, vip) = (query.client, query.vip);
    if client.is_ipv4() != vip.is_ipv4() {
        return Err(ExplainError::Families);
    }
    Ok(Tuple {
        source: Address::from(client.ip()),
        destination: Address::from(vip.ip()),
        source_port: client.port(),
        destination_port: vip.port(),
        protocol,
    })
}

impl Explainer<'_> {
    fn explain(&self) -> Result<Explanation, ExplainError> {
        let (snapshot, flow) = (&self.view.snapshot, &self.flow);
        let mut explanation = Explanation {
            schema_version: SCHEMA_VERSION,
            protocol: flow.protocol.to_string(),
            client: endpoint(flow.source, flow.source_port),
            vip: endpoint(flow.destination, flow.destination_port),
            ..Explanation::default()
        };
        let steering = Rules::new(snapshot, []);
        if !steering.vips.contains(&flow.destination) {
            let text = format!(
                "{} is no VIP: the packet does not come to Waxwing's services, and goes the way that it \
                 would go without them",
                flow.destination
            );
            "is left to the kernel".clone_into(&mut explanation.outcome);
            explanation.steps.push(step("steering", text, None));
            return Ok(explanation);
        }
        let service = snapshot.service_at(flow.destination, flow.destination_port, flow.protocol);
        let policy = service.map_or_else(no_policy, |service| self.policy(service));
        let outcome = self.run.run((flow, self.port, self.large), policy)?;
        let passages = [
            ("request", Some(&outcome.request)),
            ("reply", outcome.reply.as_ref()),
            ("large", outcome.large.as_ref()),
        ];
        for (name, passage) in passages {
            explanation
                .packets
                .extend(passage.map(|passage| steps::packet(name, passage, snapshot)));
        }
        explanation.outcome = steps::outcome(&explanation.packets[0]);
        explanation
            .dropped
            .clone_from(&explanation.packets[0].dropped);
        explanation.session = self.session(&outcome);
        if let Some(service) = service {
            self.add_service(service, &outcome, &mut explanation)?;
        }
        explanation.steps = self.steps(service, &outcome, &explanation);
        Ok(explanation)
    }

    /// Returns a new instance of the service's policy; nobody else asks it.
    fn policy(&self, service: &Service) -> Box<dyn Policy> {
        let Reporter { policy_host, .. } = self.reporter;
        let in_use = self.view.modules.get(service.policy);
        let made = in_use.and_then(|in_use| policy_host.spare(in_use, self.reporter.policy_seed));
        made.and_then(Result::ok).unwrap_or_else(no_policy)
    }

    fn session(&self, outcome: &Outcome) -> Option<KnownSession> {
        let OpenSession { session, bytes } = self.open?;
        let snapshot = &self.view.snapshot;
        let backend = snapshot.backend(session.backend)?;
        let service = snapshot.service(backend.service);
        let service = service.map(|service| &*service.name);
        let port = snapshot.port(session.hop.port);
        let port = port.map_or("the kernel", |port| &port.name);
        Some(KnownSession {
            session: session_status(&session, (service, backend), snapshot, self.run.now),
            return_hop: format!("{} by {port}", session.hop.mac),
            bytes,
            ends: outcome.has_ended,
        })
    }

    fn add_service(
        &self,
        service: &Service,
        outcome: &Outcome,
        explanation: &mut Explanation,
    ) -> Result<(), ExplainError> {
        let known = [&*service.name];
        let filter = ServiceFilter::new(Some(service.name.to_string()), &known);
        let status = filter.map(|filter| self.reporter.services(self.view, &filter));
        let status = status.unwrap_or_default();
        let status = status.into_iter().find(|it| *it.name == *service.name);
        let status = status.unwrap_or_default();
        let shares = match self.open {
            Some(_) => None,
            None => {
                let policy = self.policy(service);
                Some(self.run.shares((&self.flow, self.port), FLOWS, policy)?)
            }
        };
        let weights: u64 = status.backends.iter().map(|it| u64::from(it.weight)).sum();
        let open = |at: usize| {
            let backend = &status.backends[at];
            u64::from(backend.active) + u64::from(backend.half_open)
        };
        let all_open: u64 = (0..status.backends.len()).map(open).sum();
        let ids = service.backends.iter();
        let candidates = status
            .backends
            .iter()
            .zip(ids)
            .enumerate()
            .map(|(at, (backend, id))| {
                let expected = |shares: &Vec<_>| {
                    let own = shares.iter().find(|(of, _)| of == id);
                    percent(own.map_or(0, |(_, count)| *count as u64), u64::from(FLOWS))
                };
                Candidate {
                    chosen: outcome
                        .session
                        .is_some_and(|session| session.backend == *id),
                    weight_percent: percent(backend.weight.into(), weights),
                    sessions_percent: percent(open(at), all_open),
                    expected_percent: shares.as_ref().map(expected),
                    backend: backend.clone(),
                }
            });
        explanation.backends = candidates.collect();
        explanation.service = Some(status.name);
        explanation.policy = Some(status.policy);
        explanation.build = status.module;
        Ok(())
    }

    fn steps(
        &self,
        service: Option<&Service>,
        outcome: &Outcome,
        explanation: &Explanation,
    ) -> Vec<Step> {
        let snapshot = &self.view.snapshot;
        let request = steps::dropped(&outcome.request);
        let port = snapshot.port(self.port);
        let (name, mtu) = port.map_or(("", 0), |port| (&port.name, port.mtu));
        let assumed = match self.is_port_assumed {
            true => " (assumed; name another one with `port`)",
            false => "",
        };
        let steering = format!("frames to {} come to the workers", self.flow.destination);
        let mut steps = vec![
            step("steering", steering, None),
            step("arrives", format!("by {name}, MTU {mtu}{assumed}"), request),
        ];
        let text = match (service, &explanation.build) {
            (Some(service), Some(build)) => format!(
                "{}, policy {} (build {} {})",
                service.name,
                explanation.policy.as_deref().unwrap_or_default(),
                build.hash,
                build.version
            ),
            (Some(service), None) => service.name.to_string(),
            (None, _) => {
                let (port, protocol) = (self.flow.destination_port, self.flow.protocol);
                format!("none has port {port} of this VIP by {protocol}")
            }
        };
        steps.push(step("service", text, request));
        let Some(service) = service else {
            return steps;
        };
        steps.push(step("session", session_text(explanation), request));
        if self.open.is_none() || outcome.has_ended {
            steps.push(step("limits", self.limits(service), request));
            let text = steps::pick(outcome, &explanation.backends, service);
            steps.push(step("pick", text, request));
        }
        steps.extend(self.exits(outcome, explanation));
        steps
    }

    /// Returns what limits new sessions.
    fn limits(&self, service: &Service) -> String {
        let shared = &self.reporter.shared;
        let (used, max) = (shared.sessions.len(), shared.sessions.capacity());
        let mut text = format!("{used} of {max} sessions are used");
        if used >= max {
            text += "; the table is full: another session gives way, if one may";
        }
        if let Some(max) = service.sessions_max {
            let ids = service.backends.iter();
            let used: u32 = ids.map(|id| shared.gauges.sessions(*id).total()).sum();
            text += &format!("; {used} of the service's {max}");
        }
        if let Some(limit) = self.view.snapshot.source_limit() {
            text += &format!(
                "; a client's network may open {} a second",
                limit.sessions_per_s
            );
        }
        text
    }
}

fn session_text(explanation: &Explanation) -> String {
    let Some(KnownSession {
        session,
        return_hop,
        bytes,
        ends,
    }) = &explanation.session
    else {
        return "none: the packet opens one".to_owned();
    };
    let mut text = format!(
        "{} for {} s, idle for {} ms, of backend {}; replies go to {return_hop}",
        session.phase,
        session.age_ms / 1000,
        session.idle_ms,
        session.backend
    );
    if *bytes > 0 {
        text += &format!("; {bytes} bytes");
    }
    if *ends {
        text += "; it ends before this packet: it is over, or its backend's sessions do not stay";
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn percent(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => (part as f64 * 1000.0 / all as f64).round() / 10.0,
    }
}
