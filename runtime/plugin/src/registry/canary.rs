//! The verdict on a canary: what it makes of its flows, beside the build that serves on the other workers at
//! the same time.
//!
//! Invariant: no clock and no I/O. A canary fails only for a difference that chance does not explain, on
//! enough flows, from the same clients.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::outcomes::{Outcomes, Sides};

/// Which share of the flows of both sides must be of the same clients. A policy may rightly treat clients
/// differently, and a network card may give each worker clients of its own.
const SAME_CLIENTS_MIN: f64 = 0.5;

/// A difference within so many standard deviations may be chance.
const DEVIATIONS: f64 = 3.0;

/// The services that a verdict lists.
const LISTED_MAX: usize = 4;

/// How a replacement build is tried on the first worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CanaryRules {
    /// How long; 0 gives it to all workers at once.
    pub time: Duration,
    /// A service is judged from so many flows on, on each side.
    pub flows_min: u32,
    /// By how many percentage points its share of dropped flows may exceed the serving build's.
    pub more_drops: u32,
    /// The same for flows that it leaves to the native fallback.
    pub more_fallbacks: u32,
    /// The same for its sessions that a backend refuses or does not answer.
    pub more_failures: u32,
    /// It fails if it gives one backend this percentage of the sessions, and the serving build does not; 0
    /// allows that.
    pub one_backend: u32,
}

impl Default for CanaryRules {
    /// No canary.
    fn default() -> Self {
        Self {
            time: Duration::ZERO,
            flows_min: 20,
            more_drops: 50,
            more_fallbacks: 50,
            more_failures: 50,
            one_backend: 95,
        }
    }
}

/// A part of a whole.
#[derive(Clone, Copy)]
struct Share {
    part: u64,
    of: u64,
}

impl Share {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of flows within a canary"
    )]
    fn value(self) -> f64 {
        self.part as f64 / self.of.max(1) as f64
    }

    fn percent(self) -> f64 {
        self.value() * 100.0
    }

    /// Returns by how much this share certainly exceeds another; at most 0 if that may be chance.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of flows within a canary"
    )]
    fn certain_excess(self, other: Self) -> f64 {
        let both = Self {
            part: self.part + other.part,
            of: self.of + other.of,
        };
        let variance = both.value() * (1.0 - both.value());
        let (a, b) = (self.of.max(1) as f64, other.of.max(1) as f64);
        let deviation = (variance * (1.0 / a + 1.0 / b)).sqrt();
        self.value() - other.value() - DEVIATIONS * deviation
    }
}

/// Judges a canary by its services' counts since it began. Returns its figures, or as an error why it failed.
pub(crate) fn judge(
    services: &BTreeMap<Arc<str>, Sides>,
    rules: &CanaryRules,
) -> Result<String, String> {
    let mut figures = Vec::new();
    for (service, Sides { canary, others }) in services {
        match judge_service(canary, others, rules) {
            Ok(text) => figures.push(format!("{service}: {text}")),
            Err(why) => return Err(format!("{service}: {why}")),
        }
    }
    let more = figures.len().saturating_sub(LISTED_MAX);
    figures.truncate(LISTED_MAX);
    let mut text = figures.join("; ");
    if more > 0 {
        let _ = write!(text, "; and {more} more services");
    }
    Ok(text)
}

fn judge_service(
    canary: &Outcomes,
    others: &Outcomes,
    rules: &CanaryRules,
) -> Result<String, String> {
    let (flows, flows_of_others) = (canary.flows(), others.flows());
    let enough = u64::from(rules.flows_min);
    if flows < enough || flows_of_others < enough {
        return Ok(format!(
            "not judged, {flows} flows and {flows_of_others} on the other workers are too few"
        ));
    }
    if same_clients(canary, others) < SAME_CLIENTS_MIN {
        return Ok("not judged, the other workers have other clients".into());
    }
    let share = |part, of| Share { part, of };
    let drops = [
        share(canary.drops, flows),
        share(others.drops, flows_of_others),
    ];
    let fallbacks = [
        share(canary.fallbacks, flows),
        share(others.fallbacks, flows_of_others),
    ];
    let failures =
        [canary, others].map(|side| share(side.failures, side.flows().saturating_sub(side.drops)));
    let busiest = [canary, others].map(|side| {
        let (most, all) = side.busiest();
        share(most, all)
    });
    let beside = |what: &str, [new, old]: [Share; 2]| {
        let (new_percent, old_percent) = (new.percent(), old.percent());
        format!(
            "{what} {new_percent:.0} % of {} (the serving build {old_percent:.0} % of {})",
            new.of, old.of
        )
    };
    let texts = [
        beside("drops", drops),
        beside("leaves to the fallback", fallbacks),
        beside("has refused or unanswered", failures),
        beside("gives one backend", busiest),
    ];
    let exceeds =
        |[new, old]: [Share; 2], points: u32| new.certain_excess(old) > f64::from(points) / 100.0;
    let limit = f64::from(rules.one_backend);
    let is_one = busiest[0].percent() >= limit && busiest[1].percent() < limit;
    let enough_picks = busiest.iter().all(|share| share.of >= enough);
    let failed = [
        exceeds(drops, rules.more_drops),
        exceeds(fallbacks, rules.more_fallbacks),
        exceeds(failures, rules.more_failures) && failures.iter().all(|share| share.of >= enough),
        rules.one_backend > 0 && enough_picks && is_one && exceeds(busiest, 0),
    ];
    match failed.iter().position(|failed| *failed) {
        Some(at) => Err(texts[at].clone()),
        None => Ok(texts.join(", ")),
    }
}

/// Returns how far both sides' clients are the same, from 0 to 1.
fn same_clients(canary: &Outcomes, others: &Outcomes) -> f64 {
    let share = |side: &Outcomes, at: usize| {
        let (part, of) = (side.clients[at], side.flows());
        Share { part, of }.value()
    };
    let parts = 0..canary.clients.len();
    parts
        .map(|at| share(canary, at).min(share(others, at)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns outcomes of so many flows, from all clients, with so many drops and fallbacks; the other flows
    /// go to backends in these proportions.
    fn outcomes(flows: u64, drops: u64, fallbacks: u64, backends: &[u64]) -> Outcomes {
        let mut outcomes = Outcomes {
            drops,
            fallbacks,
            ..Outcomes::default()
        };
        for (_, client) in (0..flows).zip((0..16).cycle()) {
            outcomes.clients[client] += 1;
        }
        let (picks, sum) = (flows - drops - fallbacks, backends.iter().sum::<u64>());
        for (at, weight) in backends.iter().enumerate() {
            outcomes.picks[at] = picks * weight / sum;
        }
        outcomes
    }

    fn verdict(canary: Outcomes, others: Outcomes) -> Result<String, String> {
        let services = BTreeMap::from([("web".into(), Sides { canary, others })]);
        judge(&services, &CanaryRules::default())
    }

    /// Flows, drops, fallbacks, and the weights by which backends get the rest.
    type Side = (u64, u64, u64, &'static [u64]);

    /// Returns the verdict's text if the canary fails, else nothing.
    fn failure((canary, others): (Side, Side)) -> String {
        let side =
            |(flows, drops, fallbacks, backends): Side| outcomes(flows, drops, fallbacks, backends);
        verdict(side(canary), side(others))
            .err()
            .unwrap_or_default()
    }

    const HALF: &[u64] = &[1, 1];
    const ONE: &[u64] = &[1];

    #[test]
    fn a_canary_passes_unless_only_it_does_that_to_enough_flows() {
        for (what, sides) in [
            ("the same", ((100, 0, 0, HALF), (300, 0, 0, HALF))),
            ("ten flows", ((10, 10, 0, HALF), (300, 0, 0, HALF))),
            ("ten of the others", ((300, 300, 0, HALF), (10, 0, 0, HALF))),
            ("both drop all", ((100, 100, 0, HALF), (300, 300, 0, HALF))),
            ("a lower rate", ((400, 180, 0, HALF), (400, 20, 0, HALF))),
            (
                "one backend, as before",
                ((100, 0, 0, ONE), (100, 0, 0, ONE)),
            ),
            ("few picks", ((100, 90, 0, ONE), (100, 90, 0, HALF))),
        ] {
            assert_eq!(failure(sides), "", "{what}");
        }
    }

    #[test]
    fn a_canary_fails_for_what_only_it_does() {
        for (sides, expected) in [
            (
                ((100, 100, 0, HALF), (300, 0, 0, HALF)),
                "web: drops 100 % of 100 (the serving build 0 % of 300)",
            ),
            (((20, 20, 0, HALF), (20, 0, 0, HALF)), "drops 100 % of 20"),
            (((400, 300, 0, HALF), (400, 20, 0, HALF)), "drops 75 %"),
            (
                ((100, 0, 100, HALF), (90, 0, 0, HALF)),
                "leaves to the fallback 100 % of 100",
            ),
            (
                ((100, 0, 0, ONE), (100, 0, 0, HALF)),
                "gives one backend 100 % of 100 (the serving build 50 % of 100)",
            ),
        ] {
            let text = failure(sides);
            assert!(text.contains(expected), "{text} lacks {expected}");
        }
    }

    #[test]
    fn a_canary_whose_sessions_fail_is_taken_back() {
        let others = outcomes(100, 0, 0, &[1, 1]);
        let failing = |failures| {
            let mut side = others;
            side.failures = failures;
            side
        };
        let expected = "web: has refused or unanswered 90 % of 100 (the serving build 5 % of 100)";
        assert_eq!(verdict(failing(90), failing(5)), Err(expected.into()));
        assert!(
            verdict(failing(90), failing(90)).is_ok(),
            "all backends fail"
        );
        assert!(verdict(failing(40), failing(5)).is_ok());
    }

    #[test]
    fn other_clients_are_not_compared() {
        let (mut canary, mut others) = (outcomes(0, 0, 0, &[1]), outcomes(0, 0, 0, &[1]));
        (canary.clients[3], canary.drops) = (100, 100);
        (others.clients[4], others.picks[0]) = (100, 100);
        let text = verdict(canary, others);
        assert_eq!(
            text,
            Ok("web: not judged, the other workers have other clients".into())
        );
    }

    #[test]
    fn chance_fails_no_canary_whose_build_is_the_serving_one() {
        // Every split of flows over two backends that is at all likely for a random policy of 24 flows.
        for most in 12..=22 {
            let new = outcomes(24, 0, 0, &[most, 24 - most]);
            let old = outcomes(24, 0, 0, &[24 - most, most]);
            assert!(verdict(new, old).is_ok(), "{most}");
        }
    }

    #[test]
    fn a_long_verdict_is_cut() {
        let side = Sides::default();
        let services = (0..9).map(|n| (format!("s{n}").into(), side)).collect();
        let text = judge(&services, &CanaryRules::default()).unwrap_or_default();
        assert!(text.ends_with("; and 5 more services"), "{text}");
    }
}
