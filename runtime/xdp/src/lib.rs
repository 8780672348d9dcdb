//! Frame I/O over AF_XDP.
//!
//! Start at [`attach()`]: it attaches the XDP program to every port, binds a socket to every queue over one
//! UMEM, and returns
//! - [`Attached`], for the control thread: the program's links, [`Steering`], reports and counters;
//! - one [`WorkerSockets`] per worker, to move to that worker's thread, where
//!   [`WorkerSockets::into_io`] creates the [`XdpIo`] that implements [`FrameIo`].
//!
//! When an interface was made again or has another number of queues ([`Attached::follow`]), the workers
//! close their sockets and [`Attached::bind_again`] returns new ones.
//!
//! ```no_run
//! use waxwing_dataplane::steering::{Rules, Steering};
//! use waxwing_xdp::{Options, PortOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ports = [PortOptions { interface: "eth0".into() }];
//! let (mut attached, workers) = waxwing_xdp::attach(&ports, &Options::default())?;
//! let threads: Vec<_> = workers
//!     .into_iter()
//!     .map(|sockets| {
//!         std::thread::spawn(move || {
//!             let cpu = sockets.worker() as usize;
//!             waxwing_xdp::pin_current_thread(cpu).ok();
//!             let io = sockets.into_io();
//!             // The worker loop over `io`; at its end `io` is dropped.
//! #           drop(io);
//!         })
//!     })
//!     .collect();
//! attached.apply(&Rules::default())?;
//! // At the end, the workers first, then the program.
//! for thread in threads {
//!     thread.join().ok();
//! }
//! drop(attached);
//! # Ok(())
//! # }
//! ```
//!
//! A socket is bound by libxdp and then used by its descriptor alone: its rings are mapped and go on from
//! their indices as they stand, so [`Handover`] passes sockets to another owner with all frames in them.
//!
//! `unsafe` is in eight files: `sys` wraps system calls as safe functions, `libxdp` a library; `mapping` maps
//! memory; `ring` is one end of one ring; `frame` represents ownership of a chunk as a value that cannot be
//! copied; `rings` passes these values to the kernel and back; `socket` and `handover` create them.
//!
//! [`Steering`]: waxwing_dataplane::steering::Steering
//! [`FrameIo`]: waxwing_dataplane::FrameIo

#![expect(
    unsafe_code,
    reason = "memory shared with the kernel; every block states why it is sound"
)]

mod attach;
mod device;
mod error;
mod frame;
mod guard;
mod handover;
mod holder;
mod interface;
mod io;
mod libxdp;
mod mapping;
mod multicast;
mod offloads;
mod options;
mod program;
mod queues;
pub mod ring;
mod rings;
mod rule_maps;
mod socket;
mod sys;
mod tap;
mod umem;

pub use attach::{Attached, Changes, PortReport, QueueReport, QueueStatistics, attach};
pub use error::XdpError;
pub use frame::XdpFrame;
pub use handover::{Handover, PortLinks, prepare};
pub use holder::Holder;
pub use interface::Interface;
pub use io::{FrameAccount, WorkerSockets, XdpIo};
pub use options::{Buffers, Options, PollMode, PortOptions, ZeroCopy};
pub use program::{AttachMode, Class, MacFilter, Offloads, Program};
pub use rings::BoundSocket;
pub use sys::{Statistics, allowed_cpus, inherited_descriptors, pin_current_thread};
pub use tap::TapQueue;
pub use umem::Umem;
