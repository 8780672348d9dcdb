//! The metrics: a page that Prometheus can read, and counters that do not fall.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use waxwing_control::admin::metrics_listener::MetricsListener;
use waxwing_dataplane::BackendId;
use waxwing_dataplane::session::Phase;

use crate::balancer::{Bed, DNS, PATIENCE, WEB};
use crate::bed::ip;

/// Sends a request and returns the answer's head and body.
fn ask(mut stream: impl std::io::Read + std::io::Write, target: &str) -> (String, String) {
    let request = format!("GET {target} HTTP/1.0\r\nhost: w\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Returns the page by its series, after checks of its form.
fn series(page: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = ("", "");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(families.insert(name), "{name} comes twice");
            assert!(text.len() > 5, "{line}");
            family = name;
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, of) = of.split_once(' ').unwrap();
            assert_eq!(name, family);
            kind = of;
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let suffixes = ["", "_bucket", "_sum", "_count"];
            let suffixes = if kind == "histogram" {
                &suffixes[1..]
            } else {
                &suffixes[..1]
            };
            let is_its = suffixes
                .iter()
                .any(|suffix| format!("{family}{suffix}") == bare);
            assert!(is_its, "{line} follows {family}");
            let value: f64 = value.parse().unwrap();
            let is_new = found.insert(name.to_owned(), value).is_none();
            assert!(is_new, "{name} comes twice");
        }
    }
    assert!(page.ends_with('\n'));
    found
}

impl Bed {
    pub(crate) fn http(&self, target: &str) -> (String, String) {
        let path = self.folder.path().join("admin.sock");
        let target = target.to_owned();
        let asked = std::thread::spawn(move || {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            ask(stream, &target)
        });
        // The balancer runs on this thread.
        while !asked.is_finished() {
            self.pause(5);
        }
        asked.join().unwrap()
    }

    fn series(&self) -> BTreeMap<String, f64> {
        let (head, body) = self.http("/metrics");
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        series(&body)
    }
}

pub(crate) fn metrics() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    let before = bed.series();
    let zero = [
        "waxwing_service_packets_total{service=\"web\",direction=\"reply\"}",
        "waxwing_service_sessions_total{service=\"dns\"}",
        "waxwing_backend_sessions{service=\"web\",backend=\"10.77.0.2:8080\",state=\"half_open\"}",
        "waxwing_backend_refused_total{service=\"dns\",backend=\"[fd77::2]:53\"}",
        "waxwing_service_drops_total{service=\"web\",reason=\"no_backend\"}",
        "waxwing_drops_total{worker=\"1\",reason=\"session_table_full\"}",
        "waxwing_worker_batch_seconds_bucket{worker=\"0\",le=\"+Inf\"}",
        "waxwing_config_reloads_total{result=\"refused\"}",
        "waxwing_policy_call_seconds_count{module=\"first\"}",
        "waxwing_module_faults_total{module=\"first\",kind=\"policy\"}",
        "waxwing_health_checks_total{result=\"failed\"}",
    ];
    for name in zero {
        assert_eq!(before.get(name), Some(&0.0), "{name}");
    }
    let up = "waxwing_backend_up{service=\"web\",backend=\"10.77.0.2:8080\",reason=\"unchecked\"}";
    assert_eq!(before.get(up), Some(&1.0));
    assert_eq!(before.get("waxwing_session_table_max"), Some(&1000.0));

    let gauges = &bed.shared.gauges;
    for phase in [
        Phase::HalfOpen,
        Phase::HalfOpen,
        Phase::Established,
        Phase::Closing,
    ] {
        gauges.begin(0, BackendId(0), phase);
    }
    gauges.count_refused(BackendId(0));
    let states = |series: &BTreeMap<String, f64>, of: &str| {
        ["half_open", "active", "closing"].map(|state| series[&format!("{of}state=\"{state}\"}}")])
    };
    let after = bed.series();
    for of in [
        "waxwing_sessions{",
        "waxwing_service_sessions{service=\"web\",",
        "waxwing_backend_sessions{service=\"web\",backend=\"10.77.0.2:8080\",",
    ] {
        assert_eq!(states(&after, of), [2.0, 1.0, 1.0], "{of}");
    }
    assert_eq!(after["waxwing_service_refused_total{service=\"web\"}"], 1.0);
    assert_eq!(after["waxwing_service_refused_total{service=\"dns\"}"], 0.0);

    // Only one service's, and none that is not.
    let (_, only) = bed.http("/metrics?service=d*");
    let only = series(&only);
    assert!(only.keys().any(|name| name.contains("service=\"dns\"")));
    assert!(!only.keys().any(|name| name.contains("service=\"web\"")));
    let (head, text) = bed.http("/metrics?service=wbe");
    assert!(head.starts_with("HTTP/1.0 404"), "{head}");
    assert!(text.contains("did you mean"), "{text}");

    removal(&bed, &after);
}

/// The backend is replaced while it has sessions, and again when it has none. A bad config changes nothing.
fn removal(bed: &Bed, before: &BTreeMap<String, f64>) {
    let counters = |series: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        let of_service =
            |name: &&String| name.contains("service=\"web\"") && name.contains("_total{");
        let lasting = |name: &&String| of_service(name) && name.starts_with("waxwing_service");
        let names = series.keys().filter(lasting);
        names.map(|name| (name.clone(), series[name])).collect()
    };
    let mut last = counters(before);
    let assert_monotone = |last: &mut BTreeMap<String, f64>, what: &str| {
        let now = bed.series();
        for (name, value) in &*last {
            let new = now.get(name);
            assert!(
                new >= Some(value),
                "{what}: {name} fell from {value} to {new:?}"
            );
        }
        *last = counters(&now);
        now
    };
    let web = |server: u8| WEB.replace("10.77.0.2", &format!("10.77.0.{server}"));
    bed.write(&format!("{}{DNS}", web(3)));
    bed.reload().unwrap();
    let now = assert_monotone(&mut last, "a backend is removed");
    let removed =
        "waxwing_backend_sessions{service=\"web\",backend=\"10.77.0.2:8080\",state=\"active\"}";
    assert_eq!(now.get(removed), Some(&1.0), "it still has a session");

    let gauges = &bed.shared.gauges;
    for phase in [
        Phase::HalfOpen,
        Phase::HalfOpen,
        Phase::Established,
        Phase::Closing,
    ] {
        gauges.end(0, BackendId(0), phase);
    }
    for server in [4, 5, 6] {
        bed.write(&format!("{}{DNS}", web(server)));
        bed.reload().unwrap();
        let now = assert_monotone(&mut last, "an id is used again");
        assert_eq!(now["waxwing_service_sessions_total{service=\"web\"}"], 4.0);
        let new = format!(
            "waxwing_backend_sessions_total{{service=\"web\",backend=\"10.77.0.{server}:8080\"}}"
        );
        assert_eq!(now[&new], 0.0, "a new backend has opened none");
    }
    bed.write("nonsense = 1\n");
    bed.reload().unwrap_err();
    let now = bed.series();
    assert_eq!(now["waxwing_config_reloads_total{result=\"success\"}"], 4.0);
    assert_eq!(now["waxwing_config_reloads_total{result=\"refused\"}"], 1.0);
    assert_eq!(now["waxwing_config_last_reload_successful"], 0.0);
}

/// Forty peers that send nothing or take no answer: a scrape is answered, and the control plane too.
pub(crate) fn stalled_scrapes() {
    const PEERS: usize = 40;
    let bed = Bed::with_metrics(WEB, || {
        ip("link set lo up");
        MetricsListener::bind("127.0.0.1:9117".parse().unwrap()).unwrap()
    });
    let taken = MetricsListener::bind("127.0.0.1:9117".parse().unwrap());
    let error = taken.err().unwrap().to_string();
    assert!(error.contains("stop what listens there"), "{error}");
    let peer = |at: usize| {
        let mut stream = TcpStream::connect("127.0.0.1:9117").unwrap();
        for _ in 0..if at.is_multiple_of(2) { 0 } else { 50 } {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: w\r\n\r\n");
        }
        bed.pause(1);
        stream
    };
    let peers: Vec<TcpStream> = (0..PEERS).map(peer).collect();
    bed.wait(bed.client.reload()).unwrap();
    let stream = TcpStream::connect("127.0.0.1:9117").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked = std::thread::spawn(move || ask(stream, "/metrics"));
    while !asked.is_finished() {
        bed.pause(5);
    }
    let (head, body) = asked.join().unwrap();
    // Four answers may be on their way to peers that do not take them.
    let is_answered = head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.0 429");
    assert!(is_answered, "{head} {body}");
    assert!(bed.wait(bed.client.status(None)).is_ok());
    // Nothing is changed by way of this port.
    drop(peers);
    for target in ["/v1/status", "/v1/reload"] {
        let stream = TcpStream::connect("127.0.0.1:9117").unwrap();
        let asked = std::thread::spawn(move || ask(stream, target));
        while !asked.is_finished() {
            bed.pause(5);
        }
        let (head, _) = asked.join().unwrap();
        assert!(head.starts_with("HTTP/1.0 404"), "{target}: {head}");
    }
}
