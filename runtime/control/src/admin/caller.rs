//! Who made a request, for the record of changes.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

/// Who made a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    /// A process on this host.
    Process { uid: u32, pid: Option<i32> },
    /// A client of a TCP listener.
    Address(SocketAddr),
}

impl Display for Caller {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid } => {
                write!(f, "uid {uid}, pid {}", pid.unwrap_or_default())
            }
            Self::Address(address) => address.fmt(f),
        }
    }
}
