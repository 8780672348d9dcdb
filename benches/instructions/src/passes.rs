//! Attributes a case's instructions to the passes over a batch.
//!
//! Invariant: each counted instruction is in exactly one row, so the rows add up to the case's figure.

use std::collections::BTreeMap;

/// The case whose passes are shown.
pub(crate) const CASE: &str = "hit_v4_tcp_request";

/// Parts of function names and their passes; the first match counts.
const PASSES: [(&str, &str); 6] = [
    ("memory::Memory", PORTS),
    ("::classify", "read the headers, hash, prefetch the index"),
    ("FastPath", SESSION),
    ("::look_up", SESSION),
    ("::send_all", "send"),
    ("fast_path::send", "send"),
];
const PORTS: &str = "the ports in memory";
const SESSION: &str = "read index and session, compare, find the next hop, rewrite";
const REST: &str = "between batches, and the rest";

/// Sums callgrind's output by pass.
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

/// Sums the instructions that each function executed itself: the cost lines after `fn=`, except a line
/// after `calls=`, which is the callee's cost (Valgrind manual, "Callgrind Format Specification"). The
/// format writes a name once and refers to it by a number in brackets afterwards.
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
    fn a_callees_instructions_count_for_the_callee() {
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
        assert_eq!(count("index and session"), Some(123));
        assert_eq!(count("ports"), Some(50));
        assert_eq!(count("the rest"), Some(9));
        assert_eq!(passes.values().sum::<u64>(), 182);
    }
}
