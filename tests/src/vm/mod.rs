//! A virtual machine whose network cards have a driver with zero-copy, which veth does not have.
//!
//! ```text
//!   ┌──────────────────── guest: Debian's kernel, this program as its init ───────────────────┐
//!   │  client ── eth0    front ── [balancer] ── back    uplink ── switch ─┬─ server 1         │
//!   │             │        │                     │        │               └─ server 2         │
//!   └─────────────┼────────┼─────────────────────┼────────┼───────────────────────────────────┘
//!                 └─ hub 0 ┘                     └─ hub 1 ┘        four virtio cards, in QEMU
//! ```
//!
//! One program is both host and guest, with one table of scenarios. The host boots itself as the guest with
//! [`Machine::boot`] and requests scenarios by name; as the kernel's first process ([`guest::is_guest`]) it
//! runs them with [`guest::serve`].
//!
//! Invariant: the machine ends with its value, or with this process. Except for QEMU and the programs copied
//! into it, all that it needs is below cargo's target directory.

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

/// A message of the guest: one line of JSON on its second serial port. The host's lines are names of
/// scenarios.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// Booted, and ready for a scenario.
    Ready,
    /// A line of output.
    Said(String),
    /// A measurement's name and value.
    Measured(String, f64),
    /// The scenario has passed.
    Passed,
    /// The scenario has failed, and why.
    Failed(String),
}

/// Returns why no machine can run here, or `None`.
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
