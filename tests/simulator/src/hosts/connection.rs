//! The simulator's record of a TCP connection.

use waxwing_dataplane::session::Tuple;
use waxwing_packet::Address;

use super::behaviour::Behaviour;
use super::tcp::{State, TcpEnd};

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// The client of the connection of this number.
    Client(usize),
    /// The server's socket, by its tuple as the server sees it.
    Server(Tuple),
}

/// A TCP connection, from its client's SYN on.
pub(crate) struct Connection {
    pub(crate) tuple: Tuple,
    pub(crate) client: TcpEnd,
    /// The behaviour of the server that accepts it.
    pub(super) server_behaviour: Behaviour,
    /// The address and port of the server that accepted it.
    pub(crate) accepted_by: Option<(Address, u16)>,
    /// Whether the balancer had an established session for it.
    pub(super) was_established: bool,
    /// Whether that session ended legitimately before the connection did.
    pub(super) lost_session: bool,
    /// Whether one of its ends reset it.
    pub(super) was_aborted: bool,
}

/// A server's socket, and the number of its connection.
pub(super) struct Socket {
    pub(super) connection: usize,
    pub(super) end: TcpEnd,
}

impl Connection {
    /// Whether the connection must still come to a regular end.
    pub(super) fn must_complete(&self) -> bool {
        let is_excused = self.lost_session || self.was_aborted;
        self.was_established && !is_excused && self.client.is_active()
    }

    /// Checks the state of one end: a connection that must not break did not break. Two kinds of sockets are
    /// not checked: of a server that got the SYN but did not accept the connection, and of a connection whose
    /// client is done and may use another one now.
    pub(super) fn check_state(&mut self, side: Side, state: State) -> Result<(), String> {
        let is_checked = match side {
            Side::Client(_) => true,
            Side::Server(tuple) => {
                let here = (tuple.source, tuple.source_port);
                self.accepted_by == Some(here) && !self.client.is_done()
            }
        };
        let is_excused = self.lost_session || self.was_aborted;
        match state {
            State::Aborted => self.was_aborted = true,
            _ if !is_checked => {}
            State::Reset | State::GaveUp if self.was_established && !is_excused => {
                return Err(format!(
                    "a connection broke without a reason ({state:?} at {side:?}): {:?}",
                    self.tuple
                ));
            }
            State::Reset | State::GaveUp => self.was_aborted = true,
            State::SynSent | State::SynReceived | State::Open => {}
        }
        Ok(())
    }
}
