//! The crate from outside: scenario tables, and properties held against etherparse.

mod arithmetic;
mod arp;
mod echo;
mod fragment_out;
mod head;
mod ndp;
mod parse;
mod quote;
mod reject;
mod rewrite;
mod samples;
