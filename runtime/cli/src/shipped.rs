//! The policies (`MODULES`) and health checks (`HEALTH_CHECKS`) that ship with the program, compiled by the
//! build script.

#![expect(unreachable_pub, reason = "what is generated suits libraries too")]
include!(concat!(env!("OUT_DIR"), "/modules.rs"));
