//! The result page: the table, what the status said, and the verdict.

use waxwing_report::{Output, Table, count, figure};

use super::clients::TRANSFERS;
use super::{Outcome, Sample};

pub(super) fn notes() -> String {
    format!(
        "\
Every packet of a flood comes from a source of its own among four million forged addresses (`SYN and any \
ACK`: two packets), which nobody answers for. Once the session table, or a pool of 1,000 source ports, is \
full, clients open ten TCP connections a second, each with an HTTP request, and send ten datagrams a second; \
each succeeds if it is answered within five seconds, retransmissions included. {TRANSFERS} downloads are \
established before the first flood of a field and go on through all of them. Both contenders get the same \
packets, with tables of the same size (`sessions_max` and `nf_conntrack_max`), and the rest as by default. \
The server is real: nginx, a UDP echo, and a port that refuses. Load and contender have a CPU each. At the \
full rate the generator sends more than either contender can take, so the port drops packets of legitimate \
clients, too, before either sees them."
    )
}

/// A sample in a line, for the log.
pub(super) fn in_short(sample: &Sample) -> String {
    format!(
        "{} of {}, {} packets/s, {} sessions, transfers {} MB/s, {} broken",
        sample.exchanges.succeeded,
        sample.exchanges.attempts,
        count(sample.offered_per_s.round()),
        count(super::float(sample.sessions)),
        figure(sample.transfers_mb_per_s),
        sample.transfers_broken,
    )
}

pub(super) fn add(output: &mut Output, outcomes: &[Outcome]) {
    let mut table = Table::new([
        "flood from forged sources",
        "table",
        "new, Waxwing",
        "new, nftables",
        "packets/s sent, Waxwing",
        "packets/s sent, nftables",
        "transfers broken, Waxwing",
        "transfers broken, nftables",
    ]);
    for outcome in outcomes {
        let both = [&outcome.waxwing, &outcome.nftables];
        let mut row = vec![
            outcome.flood.to_owned(),
            count(super::float(outcome.sessions_max)),
        ];
        row.extend(
            both.map(|it| format!("{} of {}", it.exchanges.succeeded, it.exchanges.attempts)),
        );
        row.extend(both.map(|it| figure(it.offered_per_s)));
        row.extend(both.map(|it| it.transfers_broken.to_string()));
        table.row(row);
    }
    output.table(&table);
    output.say("What `waxwing status` said at the end of each flood:");
    let said: Vec<String> = outcomes
        .iter()
        .map(|outcome| {
            let said = outcome.waxwing.problem.as_deref().unwrap_or("nothing");
            format!("- {}: {said}", outcome.flood)
        })
        .collect();
    output.say(&said.join("\n"));
    output.say(&verdict(outcomes));
}

/// The rows in which Waxwing does worse than the kernel.
fn verdict(outcomes: &[Outcome]) -> String {
    let worse: Vec<&str> = outcomes
        .iter()
        .filter(|row| is_worse(row))
        .map(|row| row.flood)
        .collect();
    let broken: u64 = outcomes
        .iter()
        .map(|row| row.waxwing.transfers_broken)
        .max()
        .unwrap_or(0);
    let worse = match worse.is_empty() {
        true => "none".to_owned(),
        false => worse.join("; "),
    };
    format!(
        "Rows in which Waxwing is worse than the kernel: {worse}. Transfers that Waxwing broke: {broken}."
    )
}

fn is_worse(outcome: &Outcome) -> bool {
    let [waxwing, nftables] = [&outcome.waxwing, &outcome.nftables].map(|it| it.exchanges);
    waxwing.succeeded * nftables.attempts < nftables.succeeded * waxwing.attempts
        || outcome.waxwing.transfers_broken > outcome.nftables.transfers_broken
}
