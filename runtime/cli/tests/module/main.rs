//! Tests of `waxwing module` with the real program.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod bench;
mod check;
mod common;
mod made;
mod simulate;
