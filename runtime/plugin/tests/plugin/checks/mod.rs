//! Tests of health checks through the public API: modules in text form against real servers, in
//! real time.

mod bench;
mod common;
mod ends;
mod files;
mod floods;
mod fuzz;
mod hostile;
mod imports;
mod ports;
mod shortage;
mod tls;
mod validation;
