//! What a policy is: the trait that its author writes.

use alloc::string::String;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Backend, Backends, Closed, Flow};

/// Chooses the backend of each new session of one service. Each worker has a value of its own
/// for each service, so no state is shared and none needs a lock.
pub trait Policy: Sized + 'static {
    /// The service's `policy_config`, read from JSON. Derive `serde::Deserialize`, with
    /// `#[serde(default, deny_unknown_fields)]` so that a misspelt key is an error that names
    /// it. [`NoConfig`] takes no keys.
    type Config: DeserializeOwned + 'static;

    /// How many bytes of a flow's first payload [`Flow::payload`] should hold, at most
    /// [`crate::abi::PAYLOAD_MAX`]. (The first packet of a TCP connection has none.)
    const PAYLOAD: usize = 0;

    /// Whether [`Policy::closed`] is to be called. The balancer then counts each session's bytes,
    /// which it does not do otherwise.
    const CLOSED: bool = false;

    /// Milliseconds between two calls of [`Policy::tick`], from 10 to 60000; 0 for none.
    const TICK_MS: u32 = 0;

    /// Names of counters that `waxwing status` shows for each service: at most 16, each of at most
    /// 32 of a-z, 0-9 and `_`. [`Policy::counters`] gives their values.
    const COUNTERS: &'static [&'static str] = &[];

    /// Whether this value goes on serving where backends came, went or changed, and is told so by
    /// [`Policy::backends_changed`]: for what it remembers. That call then has a batch's time, about
    /// 100 microseconds, and what does not manage in it starts anew. Otherwise each such change makes a
    /// new value, off the packet's way, which has time to build tables.
    const KEEP: bool = false;

    /// Makes the policy for a service. Called off the packet's way: take the time you need (up
    /// to a second) to build tables.
    ///
    /// # Errors
    /// A text for the operator: which value is wrong and what is expected. The host shows it and
    /// keeps what ran before.
    fn new(config: Self::Config, backends: &Backends<'_>) -> Result<Self, String>;

    /// The backend of one new flow. Called for up to 64 flows in a row with about 100
    /// microseconds for them all, so keep it to a look-up, or a scan of a bounded number of
    /// backends. [`Backend::active`] already counts the picks made earlier in the batch.
    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick;

    /// Backends came, went, or changed in weight or health: build tables anew. Called with
    /// [`Policy::KEEP`], between two batches of packets. Between two such calls only the live numbers change (sessions, latency, failures,
    /// signals).
    ///
    /// # Errors
    /// As [`Policy::new`].
    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
        let _ = backends;
        Ok(())
    }

    /// A session ended. Only with [`Policy::CLOSED`].
    fn closed(&mut self, closed: &Closed<'_>, backends: &Backends<'_>) {
        let _ = (closed, backends);
    }

    /// Writes the values of [`Policy::COUNTERS`], in their order. They count up from 0, which they
    /// are when the policy is made. Called after each batch: copy numbers, do not work them out.
    fn counters(&self, values: &mut [u64]) {
        let _ = values;
    }

    /// Every [`Policy::TICK_MS`], between batches and also when there are none: a time to let
    /// averages decay and to forget what is old. About 100 microseconds, as for a batch.
    fn tick(&mut self, backends: &Backends<'_>) {
        let _ = backends;
    }
}

/// What a policy says of one new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// The session goes to the backend at this index of [`Backends`].
    Backend(usize),
    /// The session goes to the backend at this index of [`Backends`] even if that is draining: the
    /// flow belongs to a connection that the backend has already, as of a QUIC client that has
    /// changed its address.
    Keep(usize),
    /// The packet is dropped; no session is made.
    Drop,
    /// The host chooses, by weighted rendezvous; where no backend is available it counts the
    /// flow as such.
    Fallback,
}

impl From<Backend<'_>> for Pick {
    fn from(backend: Backend<'_>) -> Self {
        Self::Backend(backend.index())
    }
}

/// `None` is [`Pick::Fallback`], so that a search among the available backends is a pick.
impl From<Option<Backend<'_>>> for Pick {
    fn from(backend: Option<Backend<'_>>) -> Self {
        backend.map_or(Self::Fallback, Self::from)
    }
}

/// The config of a policy that has none: `{ }`, and any key is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
