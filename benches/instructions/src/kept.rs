//! The table that stays in the repository.
//!
//! Invariant: what is written is read back as it was.

use std::fs;
use std::io;
use std::path::Path;

use waxwing_report::Table;

use crate::case::{Case, PASS_THROUGH};

const HEAD: &str = "\
# Instructions a packet

`cargo xtask bench instructions` counts them and shows the difference to this table; `--keep` writes it anew.

Counted by callgrind, in the release profile: all that one turn of a worker executes, for 64 turns of 64 frames, divided by the
frames. Making frames and putting them in is not counted. The ports are memory: `io_in_memory` is what receiving and sending take
there without a balancer, and *its own* is the rest, which runs on any ports. `hit` is a packet of an established session (1,024 of
them, one service, eight backends), `miss` one that opens a session, its backend chosen by the native fallback. Time goes on by
a microsecond a packet, so the upkeep between two batches is in the figures. `empty_turn` is a turn without a frame.

";

const PASSES: &str = "\
## Where they are

By the functions that the passes over a batch are, with what the compiler has put into them.

";

/// What was counted of one case, each for a packet.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// With the ports in memory.
    pub(crate) in_all: u64,
    /// Without them, where they are part of it.
    pub(crate) own: Option<u64>,
}

/// From each case's count.
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

/// Each case's figure in all, as they were kept; nothing where nothing was.
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

/// Keeps them, and with them where the instructions of one case are.
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
    fn what_is_kept_is_read_back() {
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
    fn the_ports_are_taken_off() {
        let io_takes_50 = |case: &Case| if case.name == PASS_THROUGH { 50 } else { 300 };
        for figure in figures(&counts(io_takes_50)) {
            let forwarded = figure.name.starts_with("hit") || figure.name.starts_with("miss");
            assert_eq!(figure.own, forwarded.then_some(250), "{}", figure.name);
        }
    }
}
