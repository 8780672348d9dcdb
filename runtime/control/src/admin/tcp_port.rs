//! A TCP port to serve HTTP on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

/// How often, and how many times, a port is tried on which another process listens that is about to end.
const TRY_AGAIN: Duration = Duration::from_millis(100);
const TRIES: u32 = 100;

/// A port that listens, or will.
pub(crate) enum TcpPort {
    Listens(std::net::TcpListener),
    Later(SocketAddr),
}

impl TcpPort {
    /// Listens.
    pub(crate) fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Listens(listener))
    }

    /// Returns the listener. One that was to listen later tries for some seconds: the process that this one
    /// takes over from listens there until it has ended.
    pub(crate) async fn listen(self) -> io::Result<TcpListener> {
        let mut tries = 0;
        let listen = match self {
            Self::Listens(listener) => return TcpListener::from_std(listener),
            Self::Later(listen) => listen,
        };
        loop {
            tries += 1;
            match TcpListener::bind(listen).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                listening => return listening,
            }
        }
    }
}
