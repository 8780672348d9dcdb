//! The trait that a policy's author implements.

use alloc::vec::Vec;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Backend, Backends, ClosedSession, ConfigError, Flow};

/// Chooses the backend of each new session of one service.
///
/// Each worker has a value of its own for each service, so a policy needs no locks; the workers' values share
/// [`Policy::SHARED`] cells.
///
/// ```
/// use serde::Deserialize;
/// use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy, hash};
///
/// /// Keeps a client on one backend until that has `sessions_max` sessions.
/// struct ByClient {
///     sessions_max: u32,
///     spilled: u64,
/// }
///
/// /// `policy_config = { sessions_max = 1000 }`
/// #[derive(Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Config {
///     sessions_max: u32,
/// }
///
/// impl Default for Config {
///     fn default() -> Self {
///         Self { sessions_max: 1000 }
///     }
/// }
///
/// impl Policy for ByClient {
///     type Config = Config;
///     const COUNTERS: &'static [&'static str] = &["spilled"];
///
///     fn new(config: Config, _: &Backends<'_>) -> Result<Self, ConfigError> {
///         if config.sessions_max == 0 {
///             return Err("policy_config.sessions_max = 0: expected 1 or more".into());
///         }
///         let Config { sessions_max } = config;
///         Ok(Self { sessions_max, spilled: 0 })
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         let own = backends.by_hash(hash::bytes(flow.source_octets()));
///         if own.is_some_and(|backend| backend.load() >= self.sessions_max) {
///             self.spilled += 1;
///             return backends.by_hash(flow.hash()).into();
///         }
///         own.into()
///     }
///
///     fn counters(&self, values: &mut [u64]) {
///         values[0] = self.spilled;
///     }
/// }
///
/// export_policy!(ByClient);
/// ```
pub trait Policy: Sized + 'static {
    /// The service's `policy_config`, deserialized from JSON. Derive `serde::Deserialize` with
    /// `#[serde(default, deny_unknown_fields)]`, so that a misspelled key is an error that names the key.
    /// [`NoConfig`] takes no keys.
    type Config: DeserializeOwned + 'static;

    /// Bytes of a flow's first payload that [`Flow::payload`] has at most, up to
    /// [`crate::abi::PAYLOAD_MAX`]. The first packet of a TCP connection has no payload.
    const PAYLOAD_BYTES: usize = 0;

    /// Whether the host calls [`Policy::closed`]. Only then does the balancer count the bytes of each
    /// session.
    const WANTS_CLOSED: bool = false;

    /// Milliseconds between two calls of [`Policy::tick`], 10 to 60000; 0 for none.
    const TICK_MS: u32 = 0;

    /// Number of the cells that the policies of all workers share for a service, at most 65536:
    /// [`Backends::shared`]. The host goes over all of them every 10 milliseconds, at about a nanosecond
    /// each.
    const SHARED: usize = 0;

    /// Whether state goes on in the policy that takes this one's place: [`Policy::save`],
    /// [`Policy::restore`].
    const SAVES: bool = false;

    /// Names of the counters that `waxwing status` and the metrics show for each service, over all workers:
    /// with [`Policy::GAUGES`] at most 16, each of 1 to 32 of `a-z`, `0-9` and `_`. [`Policy::counters`]
    /// writes their values.
    const COUNTERS: &'static [&'static str] = &[];

    /// Names of numbers that also fall, such as the entries of a table; shown as the counters are. A gauge of
    /// a service is the sum over the workers' policies that serve it.
    const GAUGES: &'static [&'static str] = &[];

    /// Makes the policy for a service. Runs off the hot path and may take up to a second, for example to
    /// build tables.
    ///
    /// # Errors
    /// Says which value is wrong and what is expected. The host shows the text to the operator and keeps
    /// what ran before.
    fn new(config: Self::Config, backends: &Backends<'_>) -> Result<Self, ConfigError>;

    /// Picks the backend of one new flow.
    ///
    /// The host calls it for up to 64 flows in a row and expects all of them within about 100
    /// microseconds, so do no more than a lookup or a scan of a bounded number of backends.
    /// [`Backend::active`] already counts the earlier picks of the batch.
    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick;

    /// Takes over changed backends: some came, went, or changed in weight, health or tag, and an index
    /// may stand for another backend than before. Between two calls only the live numbers change
    /// (sessions, latency, failures, signals).
    ///
    /// Write it if the policy has state that must go on, such as whose turn it is, an average or a rate
    /// limit; `Ok(())` is enough if none of it depends on the backends. State of a backend belongs to
    /// its [`Backend::id`]: [`crate::PerBackend`] moves it along. Called between two batches, with the
    /// time limit of a batch: aim for 100 microseconds.
    ///
    /// The default lets a new value replace this one. That is right for a policy of which nothing but
    /// tables would be kept: the host has made the new value off the hot path, with time to build them.
    ///
    /// # Errors
    /// After any error a new value replaces this one.
    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        let _ = backends;
        Err("a new policy serves changed backends".into())
    }

    /// Appends the state that the next policy of the service starts with: after a new build of the module, a
    /// changed config, or a restart. Called only with [`Policy::SAVES`], between two batches and with the
    /// time limit of one: aim for 200 microseconds.
    ///
    /// The host keeps at most [`STATE_MAX`](crate::abi::STATE_MAX) bytes, and none of a longer state. Every
    /// worker's policy saves its own; [`Saved`](crate::Saved) reads it. Name a backend by its
    /// [`Backend::key`], which is the same after a restart, and put a version in front that a later build
    /// can tell.
    fn save(&self, backends: &Backends<'_>, out: &mut Vec<u8>) {
        let _ = (backends, out);
    }

    /// As [`Policy::new`], with what the policy before this one saved: on the same worker, or, if a restart
    /// changed the number of workers, on one of them. Called only with [`Policy::SAVES`], and if there is a
    /// state. What was picked after it was saved is not in it.
    ///
    /// The bytes may come from another build or another config of the module, so check them.
    ///
    /// # Errors
    /// Says what is wrong with the state. [`Policy::new`] then makes the policy, and the host logs the text.
    fn restore(
        config: Self::Config,
        backends: &Backends<'_>,
        saved: &[u8],
    ) -> Result<Self, ConfigError> {
        let _ = saved;
        Self::new(config, backends)
    }

    /// Handles the end of a session. Called only with [`Policy::WANTS_CLOSED`].
    fn closed(&mut self, closed: &ClosedSession<'_>, backends: &Backends<'_>) {
        let _ = (closed, backends);
    }

    /// Writes the values of [`Policy::COUNTERS`], then of [`Policy::GAUGES`], in their order. Counters start
    /// at 0 and only increase.
    /// Called after each batch, so copy numbers and compute nothing.
    fn counters(&self, values: &mut [u64]) {
        let _ = values;
    }

    /// Runs every [`Policy::TICK_MS`] between batches, with or without traffic: decays averages, expires
    /// entries. It has the time limit of a batch; aim for 100 microseconds.
    fn tick(&mut self, backends: &Backends<'_>) {
        let _ = backends;
    }
}

/// A policy's choice for one new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// The backend at this index of [`Backends`].
    Backend(usize),
    /// The backend at this index of [`Backends`], even if it is draining: the flow belongs to a
    /// connection that the backend already has, such as that of a QUIC client with a new address.
    Keep(usize),
    /// Drop the packet and create no session.
    Drop,
    /// The host chooses by weighted rendezvous hashing. If no backend is available it counts the flow as
    /// such.
    Fallback,
}

impl From<Backend<'_>> for Pick {
    fn from(backend: Backend<'_>) -> Self {
        Self::Backend(backend.index())
    }
}

/// `None` becomes [`Pick::Fallback`], so the result of a search among available backends is a pick.
impl From<Option<Backend<'_>>> for Pick {
    fn from(backend: Option<Backend<'_>>) -> Self {
        backend.map_or(Self::Fallback, Self::from)
    }
}

/// The config of a policy or a health check without keys: any key is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
