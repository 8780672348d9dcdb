//! A virtual machine with network cards whose driver has zero-copy: what no veth pair can show.
//!
//! ```text
//!   ┌──────────────────── guest: Debian's kernel, this program as its init ───────────────────┐
//!   │  client ── eth0    front ── [balancer] ── back    uplink ── switch ─┬─ server 1         │
//!   │             │        │                     │        │               └─ server 2         │
//!   └─────────────┼────────┼─────────────────────┼────────┼───────────────────────────────────┘
//!                 └─ hub 0 ┘                     └─ hub 1 ┘        four virtio cards, in QEMU
//! ```
//!
//! A program that runs scenarios in it is two programs: started by a person it is the host, which
//! boots itself with [`Machine::boot`] and asks for scenarios by name; as a kernel's first process
//! ([`guest::is_guest`]) it answers them with [`guest::serve`]. So there is one table of scenarios.
//!
//! Invariant: the machine ends with its value, or with this process, however that ends; what it
//! needs but for QEMU and the real programs in it is below cargo's target directory.

mod archive;
pub mod guest;
pub mod image;
pub mod kernel;
pub mod machine;

use serde::{Deserialize, Serialize};

pub use image::Image;
pub use kernel::Kernel;
pub use machine::Machine;

/// The programs that the host needs.
const HOST_TOOLS: &[&str] = &["qemu-system-x86_64", "ldd", "setpriv"];

/// What the guest says: one of these a line, as JSON, on its second serial port. The host's lines
/// are names of scenarios.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// Booted; a scenario may be asked for.
    Ready,
    /// For people.
    Said(String),
    /// What was measured, and its value.
    Measured(String, f64),
    /// The scenario has passed.
    Passed,
    /// It has not, and why.
    Failed(String),
}

/// Why no machine can be run here.
#[must_use]
pub fn missing() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the virtual machine is one of x86-64".to_owned());
    }
    let needed = HOST_TOOLS.iter().chain(image::PROGRAMS);
    let missing: Vec<&str> = needed
        .copied()
        .filter(|tool| image::find_program(tool).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "not installed: {}; `cargo xtask test` does it",
            missing.join(", ")
        ));
    }
    Kernel::find().err().map(|error| format!("{error:#}"))
}
