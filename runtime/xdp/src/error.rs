//! Errors of attaching and steering, with texts for the operator.
//!
//! Invariant: an error names the interface and queue, and the remedy. After an error of [`attach`] nothing
//! stays attached.
//!
//! [`attach`]: crate::attach()

use std::error::Error;
use std::io;

use aya::maps::MapError;

use crate::Holder;

/// Why ports could not be attached or steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    #[error("interface {0}: does not exist; `ip link` lists all interfaces")]
    InterfaceMissing(String),

    #[error("interface {0}: loopback cannot be a port; name the interface that faces the network")]
    Loopback(String),

    #[error("interface {0}: used by two ports; name it once")]
    InterfaceTwice(String),

    #[error(
        "interface {interface}: MTU {mtu} exceeds the maximum of {mtu_max}; lower it (`ip link set dev \
         {interface} mtu {mtu_max}`)"
    )]
    MtuTooLarge {
        interface: String,
        /// In bytes.
        mtu: u32,
        /// In bytes.
        mtu_max: u32,
    },

    /// A port's MTU needs multi-buffer frames, which the kernel or the driver does not support.
    #[error(
        "interface {interface}: multi-buffer frames are not supported ({source}), but an MTU above \
         {mtu_lower} needs them; use Linux 6.6 or later and a driver that supports them, or lower the \
         MTU of all ports (`ip link set dev {interface} mtu {mtu_lower}`)"
    )]
    NoJumbo {
        interface: String,
        source: io::Error,
        /// The largest MTU without multi-buffer frames, in bytes.
        mtu_lower: u32,
    },

    #[error("interface {interface}: {}", occupied_by(interface, holder.as_ref()))]
    Occupied {
        interface: String,
        /// The process that attached the program, if it can be found.
        holder: Option<Holder>,
    },

    #[error(
        "{what}: not permitted; run as root, or grant CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and \
         CAP_PERFMON (systemd: AmbientCapabilities=)"
    )]
    Privilege {
        /// The operation, and its object.
        what: String,
        source: io::Error,
    },

    /// Zero-copy is required, but a queue does not support it.
    #[error(
        "interface {interface} queue {queue}: no zero-copy ({source}); set zero_copy = \"auto\" \
         to run in copy mode, or \"off\"{}",
        lower_mtu(*mtu_lower)
    )]
    NoZeroCopy {
        interface: String,
        queue: u32,
        source: io::Error,
        /// The largest MTU without multi-buffer frames, in bytes, when a port's MTU needs them: the
        /// driver may support zero-copy for other frames only.
        mtu_lower: Option<u32>,
    },

    /// An option is out of bounds.
    #[error("{0}")]
    Options(String),

    /// Any other failed system call.
    #[error("{what}: {source}{}", advice(source))]
    System {
        /// The operation, and its object.
        what: String,
        source: io::Error,
    },

    /// The XDP program, or one of its maps, could not be loaded, attached or used.
    #[error("XDP program: {what}: {text}")]
    Program {
        /// The operation, and its object.
        what: String,
        /// The error with its causes.
        text: String,
    },

    /// More rules than the program's map has room for.
    #[error("{count} {what}: there is room for {max}; {remedy}")]
    TooManyRules {
        /// The kind of rules.
        what: &'static str,
        count: usize,
        max: u32,
        /// What the operator can do.
        remedy: &'static str,
    },

    /// A map of the program refused a rule.
    #[error("{doing} a rule of the XDP program: {source}; the previous rules stay in effect")]
    Rule {
        doing: &'static str,
        source: MapError,
    },
}

/// Returns who has the interface, and the remedy.
fn occupied_by(interface: &str, holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) if holder.is_of_our_kind() => {
            let (program, pid) = (&holder.program, holder.pid);
            format!(
                "{program} is running on it already (pid {pid}); stop that process first, or name another \
                 interface"
            )
        }
        Some(Holder { pid, program }) => format!(
            "the process {program} (pid {pid}) has attached an XDP program to it; stop that process first, \
             or name another interface"
        ),
        None => format!(
            "another XDP program is attached and was not replaced; if it is not needed, detach it with \
             `ip link set dev {interface} xdp off`"
        ),
    }
}

/// Returns the remedy when zero-copy may be missing for multi-buffer frames only.
fn lower_mtu(mtu_lower: Option<u32>) -> String {
    mtu_lower.map_or_else(String::new, |mtu| {
        format!(
            "; or lower the MTU of all ports to {mtu}: many drivers have no zero-copy for longer frames"
        )
    })
}

/// Returns the remedy for an error number.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => "; another process uses it, stop that process first",
        Some(libc::ENETDOWN) => "; bring it up with `ip link set dev NAME up`",
        Some(libc::ENOBUFS) => "; raise the locked memory limit (systemd: LimitMEMLOCK=infinity)",
        Some(libc::ENOMEM) => "; free memory, or lower frames_per_queue",
        Some(libc::EAFNOSUPPORT) => "; this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    }
}

impl XdpError {
    /// Creates the error of a failed system call: [`XdpError::Privilege`] or [`XdpError::System`].
    pub(crate) fn system(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { what, source },
            _ => Self::System { what, source },
        }
    }

    /// Creates the error of a failed library call: [`XdpError::Privilege`] if that is among the causes,
    /// otherwise [`XdpError::Program`].
    pub(crate) fn program(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let what = what.into();
        match system_cause(error) {
            Some(source) if matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                Self::Privilege { what, source }
            }
            _ => Self::Program {
                what,
                text: causes(error),
            },
        }
    }
}

/// Returns the first system error among an error and its causes.
pub(crate) fn system_cause(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let number = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if let Some(number) = number {
            return Some(io::Error::from_raw_os_error(number));
        }
        next = error.source();
    }
    None
}

/// Returns an error with all its causes on one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
