//! The crate from outside: scenario tables, and properties held against etherparse.

mod parse;
mod rewrite;
mod samples;
