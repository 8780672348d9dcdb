//! `waxwing health`: whether the balancer and its services can serve, and why not.
//!
//! Invariant: [`judge`] decides from its arguments alone, and everything but `ok` has a reason.

use crate::admin::status::{Availability, HealthReport, PortStatus, ServiceHealthStatus};
use crate::health::HealthState;

/// The share of the session table in use from which on it counts as full, in percent.
const TABLE_FULL_PERCENT: usize = 95;

/// The most backends of one state that a reason names.
const BACKENDS_NAMED: usize = 3;

/// What is known of the balancer.
pub(crate) struct HealthFacts {
    pub(crate) ports: Vec<PortStatus>,
    /// Sessions in the table, and its capacity.
    pub(crate) sessions: (usize, usize),
    /// Current problems, as in the status.
    pub(crate) problems: Vec<String>,
    /// Gateways to clients that replies need and that are not resolved, each with the reason.
    pub(crate) lost_gateways: Vec<String>,
    pub(crate) services: Vec<ServiceFacts>,
}

pub(crate) struct ServiceFacts {
    pub(crate) name: String,
    pub(crate) backends: Vec<BackendFacts>,
}

pub(crate) struct BackendFacts {
    /// Its name and endpoint.
    pub(crate) title: String,
    pub(crate) state: HealthState,
    /// Why it is in this state.
    pub(crate) reason: String,
    /// Whether the workers give it new sessions.
    pub(crate) takes_new: bool,
}

impl BackendFacts {
    /// Returns whether it takes new sessions, can be reached, and is not waiting for its first check result.
    fn serves(&self) -> bool {
        let waits = matches!(self.state, HealthState::Checking | HealthState::Unreachable);
        self.takes_new && !waits
    }
}

/// Judges the balancer and each service. The whole is as bad as its worst service.
pub(crate) fn judge(facts: &HealthFacts) -> HealthReport {
    let mut report = HealthReport {
        reasons: facts.problems.clone(),
        ..HealthReport::default()
    };
    report.reasons.extend(facts.lost_gateways.iter().cloned());
    report.reasons.extend(full_table(facts.sessions));
    if !report.reasons.is_empty() {
        report.state = Availability::Degraded;
    }
    if facts.ports.iter().all(|port| port.link_up != Some(true)) {
        report.state = Availability::Down;
        report.reasons.insert(0, "no port is up".to_owned());
    }
    report.services = facts.services.iter().map(service).collect();
    let worst = report.services.iter().map(|service| service.state).max();
    report.state = report.state.max(worst.unwrap_or_default());
    report
}

fn full_table((active, max): (usize, usize)) -> Option<String> {
    let percent = active * 100 / max.max(1);
    (percent >= TABLE_FULL_PERCENT).then(|| {
        format!(
            "the session table is {percent} % full ({active} of {max} sessions): a full one evicts \
             unassured and closed sessions, and then drops new ones; raise `sessions_max` and restart"
        )
    })
}

fn service(facts: &ServiceFacts) -> ServiceHealthStatus {
    let backends = &facts.backends;
    let serving: Vec<&BackendFacts> = backends.iter().filter(|it| it.serves()).collect();
    let unchecked = |it: &BackendFacts| it.state == HealthState::Unchecked;
    let mut reasons = Vec::new();
    if backends.is_empty() {
        reasons.push("it has no backend".to_owned());
    } else if serving.is_empty() {
        reasons.push("no backend takes new sessions".to_owned());
    } else if serving.iter().all(|it| unchecked(it)) {
        let text =
            "UNCHECKED: nothing tells whether its backends answer; write a [[service.health]]";
        reasons.push(text.to_owned());
    }
    reasons.extend(
        STATES
            .iter()
            .filter_map(|(state, what)| of_state(backends, *state, what)),
    );
    if serving.is_empty() {
        let idle = [
            (HealthState::Draining, "draining"),
            (HealthState::Disabled, "disabled"),
        ];
        reasons.extend(
            idle.iter()
                .filter_map(|(state, what)| of_state(backends, *state, what)),
        );
    }
    ServiceHealthStatus {
        service: facts.name.clone(),
        state: match (serving.is_empty(), reasons.is_empty()) {
            (true, _) => Availability::Down,
            (false, true) => Availability::Ok,
            (false, false) => Availability::Degraded,
        },
        backends: backends.len(),
        up: serving.len(),
        unchecked: backends.iter().filter(|it| unchecked(it)).count(),
        reasons,
    }
}

/// The states that a backend should not be in, unlike those that the operator asks for.
const STATES: [(HealthState, &str); 4] = [
    (HealthState::Down, "down"),
    (HealthState::Unreachable, "unreachable"),
    (HealthState::Ejected, "ejected"),
    (HealthState::Checking, "not checked yet"),
];

/// Returns how many backends are in a state, and why the first of them are.
fn of_state(backends: &[BackendFacts], state: HealthState, what: &str) -> Option<String> {
    let members: Vec<&BackendFacts> = backends.iter().filter(|it| it.state == state).collect();
    let named = members.iter().take(BACKENDS_NAMED);
    let mut why: Vec<String> = named
        .map(|it| format!("{}: {}", it.title, it.reason))
        .collect();
    if members.len() > why.len() {
        why.push(format!("and {} more", members.len() - why.len()));
    }
    // Workers give new sessions to backends in these states only when health is distrusted.
    let distrusted = members.iter().filter(|it| it.serves()).count();
    if distrusted > 0 {
        why.push(format!(
            "{distrusted} serve all the same, by `panic_threshold`"
        ));
    }
    let (count, of) = (members.len(), backends.len());
    (count > 0).then(|| format!("{count} of {of} backends {what} ({})", why.join("; ")))
}

#[cfg(test)]
mod tests {
    use HealthState::{Checking, Disabled, Down, Draining, Ejected, Unchecked, Unreachable, Up};

    use super::*;

    /// A backend in a state, which takes new sessions or not.
    type Row = (HealthState, bool);

    fn facts(backends: &[Row]) -> HealthFacts {
        let backend = |(n, (state, takes_new)): (usize, &Row)| BackendFacts {
            title: format!("b{n}"),
            state: *state,
            reason: "why".into(),
            takes_new: *takes_new,
        };
        HealthFacts {
            ports: vec![port(Some(true)), port(Some(true))],
            sessions: (0, 100),
            problems: Vec::new(),
            lost_gateways: Vec::new(),
            services: vec![ServiceFacts {
                name: "web".into(),
                backends: backends.iter().enumerate().map(backend).collect(),
            }],
        }
    }

    fn port(link_up: Option<bool>) -> PortStatus {
        PortStatus {
            link_up,
            ..PortStatus::default()
        }
    }

    const NO_BACKEND: &str = "no backend takes new sessions";
    const UNCHECKED: &str =
        "UNCHECKED: nothing tells whether its backends answer; write a [[service.health]]";

    /// Backends, and how their service is judged.
    const JUDGED: [(&[Row], Availability, &[&str]); 16] = [
        (&[(Up, true), (Up, true)], Availability::Ok, &[]),
        (&[(Up, true), (Draining, false)], Availability::Ok, &[]),
        (&[(Up, true), (Disabled, false)], Availability::Ok, &[]),
        (&[(Up, true), (Up, false)], Availability::Ok, &[]),
        (&[(Up, true), (Unchecked, true)], Availability::Ok, &[]),
        (
            &[(Up, true), (Down, false)],
            Availability::Degraded,
            &["1 of 2 backends down (b1: why)"],
        ),
        (
            &[(Up, true), (Unreachable, false)],
            Availability::Degraded,
            &["1 of 2 backends unreachable (b1: why)"],
        ),
        (
            &[(Up, true), (Ejected, false), (Checking, true)],
            Availability::Degraded,
            &[
                "1 of 3 backends ejected (b1: why)",
                "1 of 3 backends not checked yet (b2: why)",
            ],
        ),
        (&[(Unchecked, true)], Availability::Degraded, &[UNCHECKED]),
        (
            &[(Unchecked, true), (Unreachable, false)],
            Availability::Degraded,
            &[UNCHECKED, "1 of 2 backends unreachable (b1: why)"],
        ),
        (
            &[(Down, true), (Down, true)],
            Availability::Degraded,
            &[
                "2 of 2 backends down (b0: why; b1: why; 2 serve all the same, by `panic_threshold`)",
            ],
        ),
        (
            &[(Checking, true)],
            Availability::Down,
            &[NO_BACKEND, "1 of 1 backends not checked yet (b0: why)"],
        ),
        (
            &[(Unreachable, true)],
            Availability::Down,
            &[NO_BACKEND, "1 of 1 backends unreachable (b0: why)"],
        ),
        (
            &[(Down, false); 5],
            Availability::Down,
            &[
                NO_BACKEND,
                "5 of 5 backends down (b0: why; b1: why; b2: why; and 2 more)",
            ],
        ),
        (
            &[(Draining, false), (Disabled, false)],
            Availability::Down,
            &[
                NO_BACKEND,
                "1 of 2 backends draining (b0: why)",
                "1 of 2 backends disabled (b1: why)",
            ],
        ),
        (&[], Availability::Down, &["it has no backend"]),
    ];

    #[test]
    fn a_service_is_judged_by_its_backends() {
        for (backends, state, reasons) in JUDGED {
            let report = judge(&facts(backends));
            assert_eq!(report.services[0].reasons, reasons, "{backends:?}");
            assert_eq!(report.services[0].state, state, "{backends:?}");
            assert_eq!(
                report.state, state,
                "the whole is as bad as its worst service"
            );
        }
    }

    #[test]
    fn the_whole_is_judged_by_ports_problems_gateways_and_the_table() {
        let judged = |change: fn(&mut HealthFacts)| {
            let mut facts = facts(&[(Up, true)]);
            change(&mut facts);
            let report = judge(&facts);
            assert_eq!(report.services[0].state, Availability::Ok);
            (report.state, report.reasons.join("; "))
        };
        let (degraded, ok) = (Availability::Degraded, String::new);
        assert_eq!(judged(|_| {}), (Availability::Ok, ok()));
        assert_eq!(
            judged(|it| it.ports[0].link_up = None),
            (Availability::Ok, ok())
        );
        let down = judged(|it| {
            it.ports = vec![port(Some(false)), port(None)];
            it.problems = vec!["front is down".into(), "back is gone".into()];
        });
        let why = "no port is up; front is down; back is gone";
        assert_eq!(down, (Availability::Down, why.to_owned()));
        let problem = judged(|it| it.problems.push("front is down".into()));
        assert_eq!(problem, (degraded, "front is down".to_owned()));
        let gateway = judged(|it| it.lost_gateways.push("10.1.0.2 does not answer".into()));
        assert_eq!(gateway, (degraded, "10.1.0.2 does not answer".to_owned()));
        assert_eq!(
            judged(|it| it.sessions = (94, 100)),
            (Availability::Ok, ok())
        );
        let (state, why) = judged(|it| it.sessions = (95, 100));
        let full = "the session table is 95 % full (95 of 100 sessions)";
        assert!(state == degraded && why.starts_with(full), "{why}");
    }
}
