//! Frame I/O over AF_XDP: the one crate of Waxwing that needs `unsafe`.
//!
//! Start at [`attach()`]: it attaches the XDP program to every port, binds a socket to every
//! queue over one UMEM, and returns
//! - [`Attached`], for the control thread: the program's links, the [`Steering`] that says which
//!   frames come here, reports and counts;
//! - one [`WorkerParts`] per queue index, to be sent to that worker's thread, where
//!   [`WorkerParts::into_io`] makes the [`XdpIo`] that implements [`FrameIo`].
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
//!     .map(|parts| {
//!         std::thread::spawn(move || {
//!             let cpu = parts.queue() as usize;
//!             waxwing_xdp::pin_current_thread(cpu).ok();
//!             let io = parts.into_io();
//!             // the worker loop over `io`, until it is told to end; then `io` is dropped here
//! #           drop(io);
//!         })
//!     })
//!     .collect();
//! attached.apply(&Rules::default())?;
//! // ... at the end: the workers first, then the program.
//! for thread in threads {
//!     thread.join().ok();
//! }
//! drop(attached);
//! # Ok(())
//! # }
//! ```
//!
//! What keeps `unsafe` in check, file by file: `sys` wraps system calls as safe functions; `frame`
//! makes a frame a value that cannot be copied; `rings` gives such values up to the kernel and
//! takes them back; `loan`, `window` and `assembly` are the arithmetic, free of both. All else is safe code.
//!
//! [`Steering`]: waxwing_dataplane::steering::Steering
//! [`FrameIo`]: waxwing_dataplane::FrameIo

#![expect(
    unsafe_code,
    reason = "memory shared with the kernel; every block says why it is sound"
)]

mod assembly;
mod attach;
mod device;
mod error;
mod frame;
mod groups;
mod interface;
mod io;
mod loan;
mod options;
mod program;
mod rings;
mod socket;
mod sys;
mod tap;
mod window;

pub use attach::{Attached, PortReport, QueueReport, QueueStatistics, attach};
pub use error::XdpError;
pub use frame::XdpFrame;
pub use interface::Interface;
pub use io::{FrameAccount, WorkerParts, XdpIo};
pub use options::{Buffers, Options, PollMode, PortOptions, ZeroCopy};
pub use program::{Addressees, AttachMode, Class, Program};
pub use sys::{Statistics, allowed_cpus, pin_current_thread};
