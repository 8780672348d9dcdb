//! A virtual machine whose network cards' driver supports zero-copy, which veth does not.
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
//! Invariant: the machine ends when its value is dropped or this process ends. QEMU and the copied programs
//! are installed; everything else is below cargo's target directory.

mod archive;
pub mod guest;
pub mod image;
pub mod kernel;
pub mod machine;

use serde::{Deserialize, Serialize};

pub use image::Image;
pub use kernel::Kernel;
pub use machine::Machine;

/// Programs that must be installed on the host.
const HOST_TOOLS: &[&str] = &["qemu-system-x86_64", "ldd", "setpriv"];

/// A message from guest to host: one line of JSON on the guest's second serial port. In return, the host
/// sends names of scenarios, one per line.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The guest is ready for a scenario.
    Ready,
    /// A line of output.
    Said(String),
    /// A measurement's name and value.
    Measured(String, f64),
    /// The scenario passed.
    Passed,
    /// The scenario failed, with the error's text.
    Failed(String),
}

/// Returns the reason why the machine cannot run on this host, or `None` if it can.
pub fn missing() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the virtual machine needs an x86-64 host".to_owned());
    }
    let needed = HOST_TOOLS.iter().chain(image::PROGRAMS);
    let missing: Vec<&str> = needed
        .copied()
        .filter(|tool| crate::tools::find(tool).is_err())
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "not installed: {}; `cargo xtask test` installs them",
            missing.join(", ")
        ));
    }
    Kernel::find().err().map(|error| format!("{error:#}"))
}
