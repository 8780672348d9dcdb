//! The crate from outside: scenario tables, and properties held against etherparse.

mod arithmetic;
mod arp;
mod echo;
mod head;
mod ndp;
mod parse;
mod pieces;
mod quote;
mod refusal;
mod rewrite;
mod samples;
