//! The admin socket and signals.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::signal::{Signal, raise};
use waxwing_control::admin::client::ClientError;
use waxwing_control::admin::status::{Availability, Status};
use waxwing_control::health::HealthState;
use waxwing_control::run::Control;
use waxwing_dataplane::session::{FlowHash, Insert, Session, TcpState};
use waxwing_dataplane::{BackendId, NextHop, PortId, SourceId, Tick};
use waxwing_packet::{Mac, Protocol, VlanTags};

use crate::balancer::{Bed, DNS, PATIENCE, WEB, load, setup};
use crate::bed::{ip, parse};

/// Opens 600 sessions of `web`, and 300 of `dns`.
pub(crate) fn open_900(bed: &Bed) {
    let table = &bed.shared.sessions;
    let mut slots = table.slot_cache();
    for n in 0..900_u16 {
        let session = Session {
            client: parse("192.0.2.1"),
            client_port: n,
            service_port: if n % 3 == 0 { 53 } else { 80 },
            source: SourceId::CLIENT,
            source_port: n,
            protocol: if n % 3 == 0 {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            worker: 0,
            backend: BackendId(u32::from(n % 3 == 0)),
            hop: NextHop {
                port: PortId(0),
                mac: Mac([2; 6]),
            },
            tags: VlanTags::default(),
            created: Tick(0),
            seen: Tick(0),
            tcp: TcpState::default(),
        };
        let hash = |of: u64| {
            FlowHash::from_bits((u64::from(n) * 2 + of).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        let made = table.insert(&mut slots, hash(0), hash(1), &session, |_| false, |_| false);
        assert!(matches!(made, Insert::Created(_)));
    }
}

pub(crate) fn sessions() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    open_900(&bed);
    let by = |query: &[(&str, &str)]| {
        let query: Vec<_> = query
            .iter()
            .map(|(k, v)| (*k, Some((*v).to_owned())))
            .collect();
        bed.wait(async {
            let mut sessions = bed.client.sessions(&query).await?;
            let mut list = Vec::new();
            while let Some((_, session)) = sessions.next().await? {
                list.push(session);
            }
            Ok::<_, ClientError>(list)
        })
    };
    assert_eq!(by(&[]).unwrap().len(), 900);
    assert_eq!(by(&[("limit", "7")]).unwrap().len(), 7);
    let dns = by(&[("service", "dns")]).unwrap();
    assert_eq!(dns.len(), 300);
    assert_eq!(
        (&*dns[0].vip, &*dns[0].backend),
        ("[2001:db8::53]:53", "[fd77::2]:53")
    );
    assert_eq!(dns[0].phase, "half-open");
    let error = |query| by(query).unwrap_err().to_string();
    let text = error(&[("service", "wbe")]);
    assert_eq!(text, "there is no service \"wbe\"; did you mean \"web\"?");
    let counts: [(&[(&str, &str)], usize); 8] = [
        (&[("client", "192.0.2.1")], 900),
        (&[("client", "192.0.2.0/24"), ("service", "web")], 600),
        (&[("client", "198.51.100.0/24")], 0),
        (&[("backend", "10.77.0.2:8080")], 600),
        (&[("backend", "[fd77::2]:53")], 300),
        (&[("phase", "half-open")], 900),
        (&[("phase", "active")], 0),
        (&[("backend", "[fd77::2]:53"), ("limit", "5")], 5),
    ];
    for (query, count) in counts {
        assert_eq!(by(query).unwrap().len(), count, "{query:?}");
    }
    assert!(error(&[("client", "web")]).contains("198.51.100.0/24"));
    assert!(error(&[("phase", "open")]).contains("half-open, active or closing"));
    assert!(error(&[("backend", "web-9"), ("service", "web")]).contains("`waxwing backend list`"));
    assert_eq!(bed.status().sessions.used, 900);
}

pub(crate) fn socket() {
    let mut bed = Bed::new(WEB);
    let path = bed.folder.path().join("admin.sock");
    // A process with the same id, as in a container, may have been killed when it created its socket.
    let left = format!(".waxwing-{}", std::process::id());
    std::fs::create_dir(bed.folder.path().join(left)).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let prepare = |bed: &Bed| {
        bed.wait(async {
            let checked = load(bed.folder.path()).await.unwrap();
            Control::prepare(setup(checked, &bed.shared, &bed.book))
                .await
                .map(drop)
        })
        .map_err(|e| e.to_string())
    };
    let error = prepare(&bed).unwrap_err();
    assert!(error.contains("another process listens on it"), "{error}");
    assert_eq!(
        bed.status().pid,
        std::process::id(),
        "the first one still has its socket"
    );

    // The balancer removes its socket at the end; a stale one is replaced.
    let control = bed.control.take().unwrap();
    control.abort();
    let _ = bed.wait(control);
    drop(std::os::unix::net::UnixListener::bind(path.with_extension("old")).unwrap());
    let _ = std::fs::rename(path.with_extension("old"), &path);
    assert!(matches!(
        bed.wait(bed.client.status(None)),
        Err(ClientError::NotRunning(_))
    ));
    prepare(&bed).unwrap();
    assert!(matches!(
        bed.wait(bed.client.status(None)),
        Err(ClientError::Missing(_))
    ));
    std::fs::write(&path, "a file").unwrap();
    let error = prepare(&bed).unwrap_err();
    assert!(error.contains("exists and is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

/// Six hundred connections that send nothing, half a head, half a body, or take no answer.
pub(crate) fn stalled_peers_delay_nobody() {
    const PEERS: usize = 600;
    const SENT: [&str; 4] = [
        "",
        "GET /v1/status HT",
        "POST /v1/signals HTTP/1.1\r\nhost: w\r\ncontent-length: 9\r\n\r\n{",
        "GET /v1/status HTTP/1.1\r\nhost: w\r\n\r\n",
    ];
    let bed = Bed::new(WEB);
    let path = bed.folder.path().join("admin.sock");
    let peer = |at: usize| {
        let mut stream = UnixStream::connect(&path).unwrap();
        // Of the last kind, many answers, so that they fill the socket.
        for _ in 0..if at % 4 == 3 { 100 } else { 1 } {
            // A connection that gave way to another one may be closed by now.
            let _ = stream.write_all(SENT[at % 4].as_bytes());
        }
        stream
    };
    let mut peers: Vec<UnixStream> = (0..PEERS).map(peer).collect();
    assert_eq!(bed.status().pid, std::process::id());
    bed.wait(bed.client.health(None)).unwrap();
    bed.wait(bed.client.reload()).unwrap();
    // The one that has stalled longest gave way.
    peers[0].set_read_timeout(Some(PATIENCE)).unwrap();
    let first = peers[0].read(&mut [0]);
    let gave_way = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(
        first.as_ref().map_or_else(gave_way, |len| *len == 0),
        "{first:?}"
    );
}

pub(crate) fn signals() {
    let mut bed = Bed::new(WEB);
    let before = bed.status().config.generation;
    bed.write(&format!("{WEB}{DNS}"));
    raise(Signal::SIGHUP).unwrap();
    bed.until("the reload", |status| status.services.len() == 2);
    assert!(bed.status().config.generation > before);
    raise(Signal::SIGTERM).unwrap();
    let control = bed.control.take().unwrap();
    bed.wait(control).unwrap().unwrap();
    assert!(
        !bed.folder.path().join("admin.sock").exists(),
        "the socket is removed"
    );
}

pub(crate) fn health() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    let namespaces = &bed._namespaces;
    let ask = |services| bed.wait(bed.client.health(services));
    let becomes = |state, words: &[&str]| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = ask(None).unwrap();
            let of_web = &report.services[0].reasons;
            let text = [&report.reasons[..], of_web].concat().join("; ");
            if report.state == state && words.iter().all(|word| text.contains(word)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited for {words:?}: {report:#?}"
            );
            bed.pause(20);
        }
    };
    let state = || {
        let health = bed.status().services[0].backends[0].health.clone();
        health.unwrap().state
    };
    becomes(Availability::Degraded, &["UNCHECKED"]);
    assert_eq!(state(), HealthState::Unchecked);
    let only = ask(Some("d*")).unwrap();
    let names: Vec<&str> = only.services.iter().map(|it| &*it.service).collect();
    assert_eq!((names, only.services[0].unchecked), (vec!["dns"], 1));
    assert_eq!(
        bed.wait(bed.client.status(Some("dns")))
            .unwrap()
            .services
            .len(),
        1
    );
    let error = ask(Some("a b&c=%")).unwrap_err().to_string();
    assert!(
        error.starts_with("there is no service \"a b&c=%\""),
        "{error}"
    );

    // The server no longer answers ARP for its address.
    let (balancer, server) = (&namespaces.balancer, &namespaces.server);
    ip(&format!("-n {server} addr del 10.77.0.2/24 dev s1"));
    ip(&format!("-n {balancer} neigh flush dev p1"));
    let why = "1 of 1 backends unreachable (10.77.0.2:8080: 10.77.0.2 does not answer on p1";
    becomes(Availability::Down, &["no backend takes new sessions", why]);
    assert_eq!(state(), HealthState::Unreachable);
    // The snapshot follows the state within the batching time of health changes.
    let takes_new = |status: &Status| status.services[0].backends[0].healthy;
    bed.until("no new sessions", |status| !takes_new(status));
    ip(&format!("-n {server} addr add 10.77.0.2/24 dev s1"));
    becomes(Availability::Degraded, &["UNCHECKED"]);
    bed.until("new sessions", takes_new);

    ip(&format!("-n {balancer} link set p1 down"));
    becomes(Availability::Down, &["no port is up", "p1 is down"]);
    ip(&format!("-n {balancer} link set p1 up"));
    // The kernel removed it when the link went down.
    ip(&format!("-n {balancer} addr add fd77::1/64 dev p1"));
    becomes(Availability::Degraded, &["UNCHECKED"]);
}
