//! Reads `[[service]]` and `[[service.backend]]`.

use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::Ports;
use waxwing_dataplane::counters::SIGNALS;
use waxwing_dataplane::model::{MidStream, SourceUse, Timeouts};
use waxwing_dataplane::time::TICK;
use waxwing_packet::{Address, Protocol};

use super::health;
use crate::config::model::service::{Backend, Service};
use crate::config::problem::{Located, Problems};
use crate::config::reader::{Table, or, or_default};
use crate::config::schema;
use crate::config::schema::Key;
use crate::config::values;

/// Maximum idle time of a session.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 86_400);

const PROTOCOL: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const MID_STREAM: [(&str, MidStream); 2] = [("pick", MidStream::Pick), ("drop", MidStream::Drop)];
const SOURCE_USE: [(&str, SourceUse); 2] =
    [("auto", SourceUse::Auto), ("always", SourceUse::Always)];

/// Reads every service. Those without a valid required value come second.
pub(super) fn read(root: &Table<'_, '_>, problems: &mut Problems) -> (Vec<Service>, Vec<Service>) {
    if !root.has(&schema::SERVICE) {
        let text = "there is no service, so nothing is balanced; write a [[service]]";
        problems.warn(root.span, text);
    }
    let (mut complete, mut incomplete) = (Vec::new(), Vec::new());
    for table in root.tables(&schema::SERVICE, problems) {
        match service(&table, problems) {
            Ok(service) => complete.push(service),
            Err(service) => incomplete.push(service),
        }
    }
    (complete, incomplete)
}

/// The shipped policies that do not go by weights alone: by load, by the client, or in groups.
const UNEVEN_POLICIES: &[&str] = &[
    "client_limit",
    "destination_hash",
    "dns_name",
    "failover",
    "least_connections",
    "least_latency",
    "least_signal",
    "maglev",
    "never_queue",
    "overflow",
    "percent_split",
    "power_of_two",
    "quic_connection_id",
    "rendezvous",
    "ring_hash",
    "shortest_expected_delay",
    "source_hash",
    "sticky_source",
    "subnet",
];

/// Reads every key, to report all problems.
///
/// # Errors
/// A required key has no valid value: the service with a placeholder there.
#[expect(clippy::result_large_err, reason = "both variants are one service")]
fn service(table: &Table<'_, '_>, problems: &mut Problems) -> Result<Service, Service> {
    let name = table.parsed(&schema::NAME, problems, values::name);
    let vip = table.parsed(&schema::VIP, problems, values::address);
    let ports = table.ports(&schema::SERVICE_PORT, problems);
    let protocol = table.choice(&schema::PROTOCOL, &PROTOCOL, problems);
    let policy = table.parsed(&schema::POLICY, problems, values::name);
    let policy_config = table.json(&schema::POLICY_CONFIG, problems);
    let uneven = table.boolean(&schema::UNEVEN, problems);
    let mid_stream = table.choice(&schema::MID_STREAM, &MID_STREAM, problems);
    if let (Some(mid_stream), Some(Protocol::Udp)) = (mid_stream, protocol.map(|p| p.value)) {
        let text = "`mid_stream` has no effect on UDP, which has no connections; remove it";
        problems.warn(mid_stream.span, text);
    }
    let adopt_replies = table.boolean(&schema::ADOPT_REPLIES, problems);
    let source_nat = table.choice(&schema::SERVICE_SOURCE_NAT, &SOURCE_USE, problems);
    let sessions_max = table.integer(&schema::SERVICE_SESSIONS_MAX, 1..=1 << 27, problems);
    let timeouts = timeouts(table, protocol.map(|p| p.value), problems);
    let signals = signals(table, problems);
    let health = health::read(table, problems);
    let backends = table.tables(&schema::BACKEND, problems);
    let backends = backends
        .iter()
        .filter_map(|table| backend(table, ports.map(|ports| ports.value), problems))
        .collect();
    let is_complete = name.is_some()
        && vip.is_some()
        && ports.is_some()
        && protocol.is_some()
        && policy.is_some();
    let is_uneven = |policy: &Located<String>| UNEVEN_POLICIES.contains(&&*policy.value);
    let service = Service {
        uneven: or(uneven, policy.as_ref().is_some_and(is_uneven)),
        name: or_at(table, name.map(|name| name.map(Arc::from)), || {
            format!("in line {}", problems.line(table.span)).into()
        }),
        vip: or_at(table, vip, Address::default),
        ports: or_at(table, ports, || Ports::one(0)),
        protocol: or_at(table, protocol, || Protocol::Tcp),
        policy: or_at(table, policy.map(|policy| policy.map(Arc::from)), || {
            "".into()
        }),
        policy_config,
        mid_stream: or_default(mid_stream),
        adopt_replies: adopt_replies
            .filter(|adopt| adopt.value)
            .map(|adopt| adopt.span),
        source_nat,
        sessions_max: sessions_max.map(|max| max.value),
        signals,
        timeouts,
        health,
        backends,
        span: table.span,
    };
    if is_complete {
        Ok(service)
    } else {
        Err(service)
    }
}

/// Returns the value, or a placeholder at the table's header.
fn or_at<T>(
    table: &Table<'_, '_>,
    value: Option<Located<T>>,
    placeholder: impl FnOnce() -> T,
) -> Located<T> {
    value.unwrap_or_else(|| Located::new(placeholder(), table.span))
}

/// Reads the names of a service's signals: at most [`SIGNALS`], all different.
fn signals(table: &Table<'_, '_>, problems: &mut Problems) -> Vec<Arc<str>> {
    let names = table.strings(&schema::SIGNALS, problems, |text| {
        if values::is_signal_name(text) {
            Ok(Arc::from(text))
        } else {
            Err(format!(
                "\"{text}\" cannot name a signal; write 1 to 32 of the characters a-z, 0-9 and _, \
                 starting with a letter"
            ))
        }
    });
    let names: Vec<Located<Arc<str>>> = names.unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        if at == SIGNALS {
            let text =
                format!("a backend has {SIGNALS} signals; remove the names after the fourth");
            problems.error(name.span, text);
            break;
        }
        if names[..at].iter().any(|other| other.value == name.value) {
            let text = format!("two signals are named \"{}\"; rename one", name.value);
            problems.error(name.span, text);
        }
    }
    names.into_iter().map(|name| name.value).collect()
}

/// Reads a backend. It has a port exactly if its service has one. If the service has several,
/// each session keeps the port that its client used.
fn backend(
    table: &Table<'_, '_>,
    service_ports: Option<Ports>,
    problems: &mut Problems,
) -> Option<Backend> {
    let address = table.parsed(&schema::ADDRESS, problems, values::address);
    let port = table.integer(&schema::BACKEND_PORT, 1..=u16::MAX, problems);
    let range = service_ports.filter(|ports| ports.single().is_none());
    if let (Some(port), Some(ports)) = (port, range) {
        let text = format!(
            "the service has ports {ports}, and each session keeps the port that its client used; \
             remove `port` here, or give the service a single port"
        );
        problems.error(port.span, text);
    }
    if range.is_none() && !table.has(&schema::BACKEND_PORT) {
        problems.error(table.span, table.missing(&schema::BACKEND_PORT));
    }
    let weight = table.integer(&schema::WEIGHT, 0..=65_535, problems);
    let name = table.parsed(&schema::BACKEND_NAME, problems, values::name);
    let tag = table.integer(&schema::TAG, 0..=u32::MAX, problems);
    let backup = table.boolean(&schema::BACKUP, problems);
    let health = health::read_override(table, problems);
    Some(Backend {
        address: address?,
        port: if range.is_some() { None } else { Some(port?) },
        weight: or(weight, 1),
        name: name.map(|name| name.map(Arc::from)),
        tag: or_default(tag),
        backup: or_default(backup),
        health,
        is_added: false,
    })
}

/// Reads a service's timeouts. The defaults are the minimum that the RFCs allow (see
/// [`Timeouts`]). A shorter timeout, or one of the other protocol, gets a warning.
fn timeouts(
    service: &Table<'_, '_>,
    protocol: Option<Protocol>,
    problems: &mut Problems,
) -> Timeouts {
    let minimum = Timeouts::default();
    let Some(table) = service.table(&schema::TIMEOUTS, problems) else {
        return minimum;
    };
    let mut timeout = |key: &'static Key, minimum: Duration, of: Protocol| {
        let Some(Located { value, span }) = table.duration(key, TICK..=TIMEOUT_MAX, problems)
        else {
            return minimum;
        };
        let name = key.name;
        if let Some(protocol) = protocol.filter(|protocol| *protocol != of) {
            let text = format!("`{name}` has no effect on a {protocol} service; remove it");
            problems.warn(span, text);
        } else if value < minimum && !std::ptr::eq(key, &schema::UDP_UNASSURED) {
            let rfc = match of {
                Protocol::Tcp => "RFC 5382 REQ-5",
                Protocol::Udp => "RFC 4787 REQ-5",
            };
            let [value, minimum] = [value, minimum].map(values::duration_text);
            let text = format!(
                "{value} is shorter than the minimum of {rfc}, so sessions in use may end; write \
                 `{name} = \"{minimum}\"` or more"
            );
            problems.warn(span, text);
        }
        value
    };
    let udp = timeout(&schema::UDP, minimum.udp, Protocol::Udp);
    // It is not above `udp` unless that is asked for.
    let unassured = minimum.udp_unassured.min(udp);
    Timeouts {
        tcp_half_open: timeout(&schema::TCP_HALF_OPEN, minimum.tcp_half_open, Protocol::Tcp),
        tcp_established: timeout(
            &schema::TCP_ESTABLISHED,
            minimum.tcp_established,
            Protocol::Tcp,
        ),
        tcp_closing: timeout(&schema::TCP_CLOSING, minimum.tcp_closing, Protocol::Tcp),
        udp,
        udp_unassured: timeout(&schema::UDP_UNASSURED, unassured, Protocol::Udp),
    }
}
