//! Which pass of the packet's way the instructions of a case are in.
//!
//! Invariant: each counted instruction is in one row, so the rows add up to the case's figure.

use std::collections::BTreeMap;

/// The case that is looked at.
pub(crate) const CASE: &str = "hit_v4_tcp_request";

/// What a function's name has in it, and where its instructions belong then; the first that fits.
const PASSES: [(&str, &str); 4] = [
    ("memory::Memory", PORTS),
    ("::classify", "parse, hash, ask for the index"),
    (
        "::look_up",
        "read index and line, compare, find the way, rewrite",
    ),
    ("::send_all", "hand on"),
];
const PORTS: &str = "the ports in memory";
const REST: &str = "between batches, and all else";

/// Instructions by pass, of the text that callgrind has written.
pub(crate) fn of(text: &str) -> BTreeMap<&'static str, u64> {
    let mut passes = BTreeMap::new();
    for (function, count) in by_function(text) {
        let pass = PASSES.iter().find(|(part, _)| function.contains(part));
        *passes
            .entry(pass.map_or(REST, |(_, pass)| pass))
            .or_default() += count;
    }
    passes
}

/// What each function has executed itself: the lines behind `fn=` but for those that a `calls=` has
/// before them, which are what was called (Valgrind's manual, "Callgrind Format Specification"). A name is
/// written out once, and is a number in brackets from then on.
fn by_function(text: &str) -> BTreeMap<&str, u64> {
    let (mut names, mut counts) = (BTreeMap::new(), BTreeMap::new());
    let (mut function, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some((kind @ ("fn" | "cfn"), named)) = line.split_once('=') {
            let (number, name) = named.split_once(' ').unwrap_or((named, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if kind == "fn" {
                function = names.get(number).copied().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(['+', '-', '*'])
            || line.starts_with(|c: char| c.is_ascii_digit())
        {
            let count = line
                .split_once(' ')
                .and_then(|(_, count)| count.parse::<u64>().ok());
            if !std::mem::take(&mut is_call) {
                *counts.entry(function).or_default() += count.unwrap_or(0);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_counts_where_it_is_executed() {
        let text = "\
fn=(1) a::Forwarder::look_up
12 100
+3 20
cfn=(2) a::memory::MemoryIo::send
calls=4 7
* 5000
-1 3
fn=(2)
7 50
fn=(3) main
1 9
totals: 182
";
        let passes = of(text);
        let count = |name: &str| {
            passes
                .iter()
                .find(|(pass, _)| pass.contains(name))
                .map(|(_, count)| *count)
        };
        assert_eq!(count("index and line"), Some(123));
        assert_eq!(count("ports"), Some(50));
        assert_eq!(count("all else"), Some(9));
        assert_eq!(passes.values().sum::<u64>(), 182);
    }
}
