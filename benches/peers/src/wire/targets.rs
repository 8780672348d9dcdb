//! The ratios to other contenders that the design requires.

use waxwing_report::{Output, Spread, Table};

use super::cases::{Case, WAXWING};
use super::page::p999;
use crate::contender::Contender;
use crate::outcome::{Outcome, Series, Unit};

/// A bound for the ratio of Waxwing's figure to another contender's.
struct Target {
    what: &'static str,
    case: Case,
    to: Contender,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const TARGETS: [Target; 5] = [
    Target {
        what: "established UDP, to the bare forwarder",
        case: Case::Established,
        to: Contender::Bare,
        bound: Bound::AtLeast(0.9),
    },
    Target {
        what: "established UDP, to nftables",
        case: Case::Established,
        to: Contender::Nftables,
        bound: Bound::AtLeast(3.0),
    },
    Target {
        what: "every packet a new session, to the bare forwarder",
        case: Case::NewSessions,
        to: Contender::Bare,
        bound: Bound::AtLeast(0.5),
    },
    Target {
        what: "every packet a new session, to nftables",
        case: Case::NewSessions,
        to: Contender::Nftables,
        bound: Bound::AtLeast(4.0),
    },
    Target {
        what: "p99.9 at half of Waxwing's load, to the bare forwarder",
        case: Case::PacketLatency,
        to: Contender::Bare,
        bound: Bound::AtMost(1.5),
    },
];

/// Adds a table of the targets whose cases were measured.
pub(super) fn add(output: &mut Output, outcomes: &[Outcome]) {
    let mut table = Table::new(["Waxwing's", "target", "measured", "reached"]);
    let measured: Vec<_> = TARGETS
        .iter()
        .filter_map(|target| Some((target, target.ratio(outcomes)?)))
        .collect();
    if measured.is_empty() {
        return;
    }
    for (target, ratio) in measured {
        let (text, is_reached) = match target.bound {
            Bound::AtLeast(bound) => (format!("at least {bound:.2}"), ratio.median >= bound),
            Bound::AtMost(bound) => (format!("at most {bound:.2}"), ratio.median <= bound),
        };
        table.row([
            target.what.to_owned(),
            text,
            ratio.to_string(),
            if is_reached { "yes" } else { "no" }.to_owned(),
        ]);
    }
    output.say("## Targets");
    output.table(&table);
}

impl Target {
    fn ratio(&self, outcomes: &[Outcome]) -> Option<Spread> {
        let outcome = outcomes
            .iter()
            .find(|outcome| outcome.case == self.case.word())?;
        let is_latency = outcome.unit == Unit::Latency;
        // Names in the latency case end with the load; the first of each contender have the same load.
        let series_of = |contender: Contender| {
            let name = match is_latency {
                true => contender.short(),
                false => contender.label(),
            };
            outcome
                .series
                .iter()
                .find(|series| series.name.starts_with(name))
        };
        let (waxwing, other) = (series_of(WAXWING)?, series_of(self.to)?);
        let values = |series: &Series| match is_latency {
            true => series.values(p999),
            false => series.values(|run| run.rate),
        };
        let to = values(other);
        (to.iter().all(|value| *value > 0.0)).then(|| Spread::of_ratio(&values(waxwing), &to))
    }
}
