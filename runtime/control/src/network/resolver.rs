//! Finds out and keeps up where each backend's packets go: the port, the next hop and its MAC.
//!
//! Invariant: a next hop is published exactly while the kernel's route leads out of one of our
//! ports and the kernel holds a MAC for the neighbour there. Forwarded frames bypass the kernel, so
//! nothing but this module keeps those entries alive: it has the kernel check every one again
//! that went stale, and ask again for every one that has no answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use waxwing_dataplane::BackendId;
use waxwing_dataplane::snapshot::NextHops;
use waxwing_packet::Address;

use crate::network::hop_state::HopState;
use crate::network::host::HostNetwork;
use crate::network::kernel::{Change, Changes, Kernel};
use crate::network::next_hop::Table;
use crate::network::port::{MovedNeighbour, PortLink};
use crate::network::return_routes::{ReturnPlan, ReturnState};

/// How often the clock is looked at: a wanted hop waits no longer than this.
const TICK: Duration = Duration::from_millis(100);

/// The pause before a failed netlink socket is opened again.
const RECONNECT: Duration = Duration::from_secs(1);

/// What the resolver is told.
enum Told {
    Backends(Vec<(BackendId, Address)>),
    Returns(ReturnPlan),
}

/// What is known of the way to each backend's address.
pub type HopStates = Arc<BTreeMap<Address, HopState>>;

/// The task that resolves next hops. It ends when the value is dropped.
pub struct Resolver {
    tell: mpsc::UnboundedSender<Told>,
    states: watch::Receiver<HopStates>,
    returns: watch::Receiver<Arc<ReturnState>>,
    facts: watch::Receiver<Arc<HostNetwork>>,
    task: AbortHandle,
}

impl Resolver {
    /// Starts it in the network namespace of the calling thread, for backends to be told with
    /// [`Resolver::track`]; their next hops are written to `hops`. A neighbour that has another MAC
    /// than before is told to `on_move`, which is not to wait for anything.
    ///
    /// # Errors
    /// The kernel's network tables could not be read.
    pub async fn start(
        ports: Vec<PortLink>,
        hops: Arc<NextHops>,
        on_move: impl Fn(MovedNeighbour) + Send + 'static,
    ) -> io::Result<Self> {
        // Subscribed before it is read, so that no change falls between the two.
        let changes = Changes::subscribe()?;
        let kernel = Kernel::connect()?;
        let mut table = Table::new(ports, hops);
        table.read(&kernel).await?;

        let (tell, told) = mpsc::unbounded_channel();
        let (facts, facts_seen) = watch::channel(table.take_facts().unwrap_or_default());
        let (states, states_seen) = watch::channel(HopStates::default());
        let (returns, returns_seen) = watch::channel(Arc::default());
        let task = Task {
            on_move: Box::new(on_move),
            returns,
            kernel,
            changes,
            table,
            told,
            facts,
            states,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        Ok(Self {
            tell,
            states: states_seen,
            returns: returns_seen,
            facts: facts_seen,
            task,
        })
    }

    /// Replaces the list of backends to resolve. The next hops of those that are no longer in it
    /// are cleared.
    pub fn track(&self, backends: Vec<(BackendId, Address)>) {
        // The task ends only with this value, so somebody listens.
        let _ = self.tell.send(Told::Backends(backends));
    }

    /// Has replies to clients go by the kernel's routes, or not.
    pub fn follow(&self, plan: ReturnPlan) {
        let _ = self.tell.send(Told::Returns(plan));
    }

    /// What is known of the ways back to clients.
    #[must_use]
    pub fn returns(&self) -> Arc<ReturnState> {
        Arc::clone(&self.returns.borrow())
    }

    /// What is known of the way to each backend's address; one that was not looked at yet is not in.
    #[must_use]
    pub fn states(&self) -> HopStates {
        Arc::clone(&self.states.borrow())
    }

    /// Waits until the ways to all of these are known, or known not to be, `patience` at most.
    /// What is still unknown then is resolved later, when it can be.
    pub async fn settled(&self, addresses: &[Address], patience: Duration) {
        let mut states = self.states.clone();
        let all = |states: &HopStates| {
            addresses
                .iter()
                .all(|a| states.get(a).is_some_and(HopState::is_settled))
        };
        // Out of patience, or the task has ended: either way there is nothing to wait for.
        let _ = tokio::time::timeout(patience, states.wait_for(all)).await;
    }

    /// The host's links and addresses, as they change.
    #[must_use]
    pub fn facts(&self) -> watch::Receiver<Arc<HostNetwork>> {
        self.facts.clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    kernel: Kernel,
    changes: Changes,
    table: Table,
    told: mpsc::UnboundedReceiver<Told>,
    on_move: Box<dyn Fn(MovedNeighbour) + Send>,
    returns: watch::Sender<Arc<ReturnState>>,
    facts: watch::Sender<Arc<HostNetwork>>,
    states: watch::Sender<HopStates>,
}

impl Task {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = self.told.recv() => match told {
                    Some(Told::Backends(backends)) => self.table.track(backends),
                    Some(Told::Returns(plan)) => self.table.follow(plan),
                    None => return,
                },
                change = self.changes.next() => self.note_all(change).await,
                _ = tick.tick() => self.table.note_wanted(),
            }
            self.table
                .look_up_routes(&self.kernel, Instant::now())
                .await;
            self.table.read_routes(&self.kernel, Instant::now()).await;
            self.table.ask(&self.kernel, Instant::now()).await;
            self.publish();
        }
    }

    /// Takes in a change and all that wait behind it, so that a burst costs one pass.
    async fn note_all(&mut self, first: Option<Change>) {
        let mut next = Some(first);
        while let Some(change) = next {
            match change {
                Some(Change::Overrun) => {
                    tracing::warn!(
                        "the kernel's network notifications overran their buffer; reading all anew"
                    );
                    self.read_again().await;
                }
                Some(change) => self.table.note(change),
                None => return self.reconnect().await,
            }
            next = self.changes.next().now_or_never();
        }
    }

    async fn reconnect(&mut self) {
        loop {
            tokio::time::sleep(RECONNECT).await;
            match Changes::subscribe().and_then(|changes| Ok((changes, Kernel::connect()?))) {
                Ok((changes, kernel)) => {
                    self.changes = changes;
                    self.kernel = kernel;
                    return self.read_again().await;
                }
                Err(e) => tracing::error!(
                    "cannot subscribe to the kernel's network changes: {e}; next hops are not \
                     kept up meanwhile, trying again"
                ),
            }
        }
    }

    async fn read_again(&mut self) {
        if let Err(e) = self.table.read(&self.kernel).await {
            tracing::error!("cannot read the kernel's network tables: {e}; keeping what was known");
        }
    }

    fn publish(&mut self) {
        if let Some(facts) = self.table.take_facts() {
            self.facts.send_replace(facts);
        }
        if let Some((states, returns)) = self.table.publish() {
            self.states.send_replace(Arc::new(states));
            self.returns.send_replace(Arc::new(returns));
        }
        // After the next hops are written: what is told of goes by them already.
        self.table.take_moved().into_iter().for_each(&self.on_move);
    }
}
