//! What can go wrong before the first frame, in words for the operator.
//!
//! Invariant: an error names the interface and the queue that it is about, and what to do. Nothing
//! that was attached before it stays attached after it.

use std::error::Error;
use std::io;

/// Why the ports could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// No such interface in this network namespace.
    #[error("interface {0}: there is none of this name; `ip link` lists them")]
    InterfaceMissing(String),

    /// The loopback interface has no wire.
    #[error("interface {0}: loopback cannot be a port; name the interface that faces the network")]
    Loopback(String),

    /// An interface is named twice.
    #[error("interface {0}: named by two ports; name it once")]
    InterfaceTwice(String),

    /// Its frames would not fit.
    #[error(
        "interface {interface}: MTU {mtu} is more than frames hold here; lower it (`ip link set dev \
         {interface} mtu {mtu_max}` or less)"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest one that fits, in bytes.
        mtu_max: u32,
    },

    /// The MTU asks for frames in several chunks, and the kernel or the driver has none.
    #[error(
        "interface {interface}: frames in several buffers were refused ({source}), which its MTU, or \
         another port's, asks for; that takes Linux 6.6 and a driver that has them. Lower the MTU of all \
         ports to {mtu_lower} or less (`ip link set dev {interface} mtu {mtu_lower}`)"
    )]
    NoJumbo {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
        /// The largest MTU that does without, in bytes.
        mtu_lower: u32,
    },

    /// A queue could receive but not answer.
    #[error(
        "interface {interface}: {receive} receive queues but {transmit} transmit queues; give it \
         as many transmit queues (`ethtool -L {interface} tx {receive}`)"
    )]
    QueuesUneven {
        /// The interface.
        interface: String,
        /// Its receive queues.
        receive: u32,
        /// Its transmit queues.
        transmit: u32,
    },

    /// Two ports have different numbers of queues.
    #[error(
        "{first} has {first_queues} queues and {other} has {other_queues}; a worker serves one queue \
         of every port, so give all ports as many (`ethtool -L {other} combined {first_queues}`)"
    )]
    QueuesDiffer {
        /// One interface.
        first: String,
        /// Its queues.
        first_queues: u32,
        /// Another.
        other: String,
        /// Its queues.
        other_queues: u32,
    },

    /// Another XDP program is attached; it was left alone.
    #[error(
        "interface {0}: another XDP program is attached and was left in place; if it is not \
         needed, take it off with `ip link set dev {0} xdp off`"
    )]
    Occupied(String),

    /// A capability is missing.
    #[error(
        "{what}: not permitted; run as root, or grant CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and \
         CAP_PERFMON (systemd: AmbientCapabilities=)"
    )]
    Privilege {
        /// What was refused.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Zero-copy was required and a queue has none.
    #[error(
        "interface {interface} queue {queue}: no zero-copy ({source}); set zero_copy = \"auto\" \
         to run in copy mode, or \"off\"{}",
        lower_mtu(*mtu_lower)
    )]
    NoZeroCopy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
        /// The largest MTU that does without jumbo frames, in bytes, where that of a port asks for
        /// them: its driver may have no zero-copy for those alone.
        mtu_lower: Option<u32>,
    },

    /// An option out of bounds.
    #[error("{0}")]
    Options(String),

    /// A system call failed in another way.
    #[error("{what}: {source}{}", advice(source))]
    System {
        /// What failed, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The XDP program was refused.
    #[error("the XDP program: {what}: {text}")]
    Program {
        /// What failed.
        what: String,
        /// The chain of causes.
        text: String,
    },
}

/// What to do where zero-copy may be missing for jumbo frames alone, as the end of a message.
fn lower_mtu(mtu_lower: Option<u32>) -> String {
    mtu_lower.map_or_else(String::new, |mtu| {
        format!(
            "; or lower the MTU of all ports to {mtu}: many drivers have none for longer frames"
        )
    })
}

/// What to do about an error number, as the end of a message.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => "; another process holds it, stop that one first",
        Some(libc::ENETDOWN) => "; bring it up with `ip link set dev NAME up`",
        Some(libc::ENOBUFS) => "; raise the locked memory limit (systemd: LimitMEMLOCK=infinity)",
        Some(libc::ENOMEM) => "; free memory, or lower frames_per_queue",
        Some(libc::EAFNOSUPPORT) => "; this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    }
}

impl XdpError {
    /// From the kernel's answer to `what`.
    pub(crate) fn system(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { what, source },
            _ => Self::System { what, source },
        }
    }

    /// From a library's error: as [`XdpError::system`] where the kernel's answer is in its causes.
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

/// The kernel's answer somewhere in an error's causes.
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

/// An error with all its causes on one line.
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
