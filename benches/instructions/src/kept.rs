//! The kept table in the repository.
//!
//! Invariant: [`read`] returns the figures that [`write()`] wrote.

use std::fs;
use std::io;
use std::path::Path;

use waxwing_report::Table;

use crate::case::{Case, PASS_THROUGH};

const HEAD: &str = "\
# Instructions a packet

`cargo xtask bench instructions` counts them and shows the difference to this table; `--keep` writes it anew.

Counted by callgrind, in the release profile: all instructions of a worker's turn, over 64 turns of 64
frames, per frame. Making and injecting frames is not counted. The ports are in memory: `io_in_memory` is
the cost of receiving and sending there without a balancer, and *its own* is the rest, which any ports need.
`io_xdp` is that cost for the ports of AF_XDP, refilling and reaping included: their rings are in memory, and
the kernel's part is not counted.
`hit` is a packet of an established session (1,024 sessions, one service, eight backends), `miss` a packet
that opens a session, whose backend the native fallback picks. Time advances by a microsecond per packet, so
the figures include the upkeep between two batches. `empty_turn` is a turn without a frame.

";

const PASSES: &str = "\
## By pass

Instructions by the functions of the passes over a batch, including code that the compiler inlined into them.

";

/// A case's instructions per packet.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// Including the ports in memory.
    pub(crate) in_all: u64,
    /// Without the ports in memory; `None` for cases that do not use them.
    pub(crate) own: Option<u64>,
}

/// Computes the figures from each case's count.
pub(crate) fn figures(counts: &[(&Case, u64)]) -> Vec<Figure> {
    let each = |(case, count): &(&Case, u64)| {
        let packets = case.packets();
        (count + packets / 2) / packets
    };
    let io = counts
        .iter()
        .find(|(case, _)| case.name == PASS_THROUGH)
        .map_or(0, each);
    let figure = |row: &(&Case, u64)| {
        let in_all = each(row);
        Figure {
            name: row.0.name,
            in_all,
            own: row.0.has_io().then(|| in_all.saturating_sub(io)),
        }
    };
    counts.iter().map(figure).collect()
}

/// Reads each case's kept total; empty if there is no file.
pub(crate) fn read(path: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let name = cells.next()?.to_owned();
            Some((name, cells.next()?.parse().ok()?))
        })
        .collect()
}

/// Writes the figures, and one case's instructions by pass.
pub(crate) fn write(path: &Path, figures: &[Figure], passes: &str) -> io::Result<()> {
    let mut table = Table::new(["what", "in all", "its own"]);
    for figure in figures {
        let own = figure.own.map_or(String::new(), |own| own.to_string());
        table.row([figure.name.to_owned(), figure.in_all.to_string(), own]);
    }
    fs::write(path, format!("{HEAD}{table}\n{PASSES}{passes}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::case::CASES;

    fn counts(each: impl Fn(&Case) -> u64) -> Vec<(&'static Case, u64)> {
        CASES
            .iter()
            .map(|case| (case, each(case) * case.packets()))
            .collect()
    }

    #[test]
    fn kept_figures_are_read_back() {
        let path = std::env::temp_dir().join(format!("waxwing-kept-{}.md", std::process::id()));
        let figures = figures(&counts(|_| 300));
        write(&path, &figures, "").unwrap();
        let back = read(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(back.len(), CASES.len());
        for (figure, (name, in_all)) in figures.iter().zip(back) {
            assert_eq!((figure.name, figure.in_all), (&*name, in_all));
        }
    }

    #[test]
    fn the_ports_cost_is_subtracted() {
        let io_takes_50 = |case: &Case| if case.name == PASS_THROUGH { 50 } else { 300 };
        for figure in figures(&counts(io_takes_50)) {
            let forwarded = figure.name.starts_with("hit") || figure.name.starts_with("miss");
            assert_eq!(figure.own, forwarded.then_some(250), "{}", figure.name);
        }
    }
}
