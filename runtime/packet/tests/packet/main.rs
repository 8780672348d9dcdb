//! Tests of the public API: scenario tables, and properties compared with etherparse.

mod arithmetic;
mod arp;
mod checksums;
mod echo;
mod fragment_out;
mod head;
mod ndp;
mod parse;
mod parse_etherparse;
mod plain;
mod quote;
mod reject;
mod rewrite;
mod samples;
