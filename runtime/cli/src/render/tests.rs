use waxwing_control::admin::status::{
    Availability, BackendStatus, HealthReport, ModuleStatus, NextHopStatus, RefusedStatus,
    ServiceHealthStatus, ServiceStatus, SessionStatus, Status,
};

use super::{health, sessions, status};

#[test]
fn gateways_have_their_vlan_and_their_state() {
    let mut shown = Status::default();
    shown.return_path.mode = "route".into();
    let gateway = |resolved, vlans: &[u16], state: &str| NextHopStatus {
        resolved,
        via: Some(std::net::Ipv4Addr::new(10, 1, 0, 2).into()),
        interface: Some("eth0.200".into()),
        vlans: vlans.into(),
        mac: None,
        state: state.into(),
    };
    shown.return_path.gateways = vec![
        gateway(true, &[7, 200], "resolved"),
        gateway(false, &[], "it does not answer"),
    ];
    let table = "
replies   by route, 0 kernel routes
  GATEWAY   INTERFACE                 STATE
  10.1.0.2  eth0.200 (VLAN 200 in 7)  resolved
  10.1.0.2  eth0.200                  NOT REACHED: it does not answer
";
    let text = status(&shown);
    assert!(text.contains(table), "{text}");
}

#[test]
fn an_unresolved_backend_and_a_refused_module_stand_out() {
    let mut shown = Status::default();
    let mut backend = BackendStatus {
        address: "10.2.0.11".into(),
        ..Default::default()
    };
    backend.next_hop.state = "10.2.0.11 does not answer".into();
    shown.services.push(ServiceStatus {
        backends: vec![backend],
        ..Default::default()
    });
    let refused = RefusedStatus {
        reason: "not a Wasm module".into(),
        ..Default::default()
    };
    shown.modules.push(ModuleStatus {
        refused: Some(refused),
        ..Default::default()
    });
    let text = status(&shown);
    assert!(
        text.contains("NOT REACHED: 10.2.0.11 does not answer"),
        "{text}"
    );
    assert!(
        text.contains("NONE SERVES") && text.contains("not a Wasm module"),
        "{text}"
    );
}

#[test]
fn sessions_are_a_table() {
    let session = SessionStatus {
        service: "web".into(),
        protocol: "tcp".into(),
        client: "10.1.0.2:40000".into(),
        source: Some("10.2.0.9:1024".into()),
        backend: "10.2.0.11:8080".into(),
        phase: "half-open".into(),
        age_ms: 61_250,
        idle_ms: 40,
        ..Default::default()
    };
    let table = "\
SERVICE  PROTO  CLIENT                           BACKEND         PHASE      AGE (s)  IDLE (s)
web      tcp    10.1.0.2:40000 as 10.2.0.9:1024  10.2.0.11:8080  half-open     61.2       0.0
";
    assert_eq!(sessions(&[session]), table);
    assert_eq!(sessions(&[]), "");
}

#[test]
fn health_is_a_word_with_its_reasons_and_a_table() {
    let rows = [
        ("web", Availability::Ok, (3, 3), &[][..]),
        (
            "dns",
            Availability::Down,
            (0, 12),
            &["no backend takes new sessions", "12 of 12 down"],
        ),
    ];
    let service =
        |(service, state, (up, backends), reasons): (&str, _, _, &[&str])| ServiceHealthStatus {
            service: service.to_owned(),
            state,
            backends,
            up,
            unchecked: 0,
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
    let report = HealthReport {
        state: Availability::Down,
        reasons: vec!["front is down".into()],
        services: rows.map(service).into(),
    };
    let text = "\
down
  front is down
SERVICE  STATE  UP  OF  UNCHECKED  REASON
web      ok      3   3          0
dns      down    0  12          0  no backend takes new sessions
                                   12 of 12 down
";
    assert_eq!(health(&report), text);
}

/// The weight is that of the config: a drained backend has 0 for the workers.
#[test]
fn a_backends_weight_and_sessions_by_phase_are_shown() {
    let mut shown = Status::default();
    shown.services.push(ServiceStatus {
        backends: vec![BackendStatus {
            name: Some("s1".into()),
            configured_weight: Some(7),
            active: 24,
            half_open: 1,
            closing: 300,
            sessions: 600,
            ..Default::default()
        }],
        ..Default::default()
    });
    let text = status(&shown);
    for cells in [
        &["WEIGHT", "ACTIVE", "HALF-OPEN", "CLOSING", "TOTAL"],
        &["7", "24", "1", "300", "600"],
    ] {
        let is_row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.windows(5).any(|window| window == cells)
        };
        assert!(text.lines().any(is_row), "{cells:?} in {text}");
    }
}
