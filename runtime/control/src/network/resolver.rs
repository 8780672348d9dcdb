//! Keeps the next hop of each backend up to date: the port, the neighbour and its MAC.
//!
//! Invariant: a next hop is published exactly while the kernel's route leads out of one of our ports
//! and the kernel holds a MAC for the neighbour there. Forwarded frames bypass the kernel, so nothing
//! else keeps its neighbour entries alive: the resolver has the kernel verify each entry that went
//! stale, and ask again for each one without an answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use waxwing_dataplane::BackendId;
use waxwing_dataplane::HopTable;
use waxwing_packet::Address;

use crate::network::hop_state::HopState;
use crate::network::host::HostNetwork;
use crate::network::kernel::{Kernel, NetworkChange, NetworkChanges};
use crate::network::next_hop::NextHopTable;
use crate::network::port::{MovedNeighbour, PortLink};
use crate::network::return_routes::{ReturnPlan, ReturnState};

/// The period of the task; a next hop that packets wait for waits no longer than this.
const TICK: Duration = Duration::from_millis(100);

/// The pause before a failed netlink socket is reopened.
const RECONNECT: Duration = Duration::from_secs(1);

/// A request to the task.
enum ResolverRequest {
    Track(Vec<(BackendId, Address)>),
    SetReturnPlan(ReturnPlan),
    SetPorts(Vec<PortLink>),
}

/// The state of each backend address's next hop.
pub type HopStates = Arc<BTreeMap<Address, HopState>>;

/// A handle to the task that resolves next hops. The task ends when the handle is dropped.
pub struct Resolver {
    requests: mpsc::UnboundedSender<ResolverRequest>,
    states: watch::Receiver<HopStates>,
    return_state: watch::Receiver<Arc<ReturnState>>,
    host: watch::Receiver<Arc<HostNetwork>>,
    task: AbortHandle,
}

impl Resolver {
    /// Starts the task in the network namespace of the calling thread. It writes next hops to `hops`
    /// for the backends given to [`Resolver::track`], and calls `on_move` for each neighbour whose MAC
    /// changed; `on_move` must not block.
    ///
    /// # Errors
    /// The kernel's network tables could not be read.
    pub async fn start(
        ports: Vec<PortLink>,
        hops: Arc<HopTable>,
        on_move: impl Fn(MovedNeighbour) + Send + 'static,
    ) -> io::Result<Self> {
        // Subscribe before reading, so that no change is lost in between.
        let changes = NetworkChanges::subscribe()?;
        let kernel = Kernel::connect()?;
        let mut table = NextHopTable::new(ports, hops);
        table.read(&kernel).await?;

        let (requests, received) = mpsc::unbounded_channel();
        let (host, host_seen) = watch::channel(table.take_host().unwrap_or_default());
        let (states, states_seen) = watch::channel(HopStates::default());
        let (return_state, return_state_seen) = watch::channel(Arc::default());
        let task = Task {
            kernel,
            changes,
            table,
            requests: received,
            on_move: Box::new(on_move),
            return_state,
            host,
            states,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        Ok(Self {
            requests,
            states: states_seen,
            return_state: return_state_seen,
            host: host_seen,
            task,
        })
    }

    /// Replaces the backends to resolve, and clears the next hops of those that left.
    pub fn track(&self, backends: Vec<(BackendId, Address)>) {
        // Cannot fail: the task lives as long as this handle.
        let _ = self.requests.send(ResolverRequest::Track(backends));
    }

    /// Sets whether replies to clients follow the kernel's routes.
    pub fn set_return_plan(&self, plan: ReturnPlan) {
        let _ = self.requests.send(ResolverRequest::SetReturnPlan(plan));
    }

    /// Replaces the ports' links, after interfaces were made again, and reads the kernel's tables again.
    pub fn set_ports(&self, ports: Vec<PortLink>) {
        let _ = self.requests.send(ResolverRequest::SetPorts(ports));
    }

    /// Returns the state of the return path to clients.
    #[must_use]
    pub fn return_state(&self) -> Arc<ReturnState> {
        Arc::clone(&self.return_state.borrow())
    }

    /// Returns the state of each backend address's next hop, except those not looked up yet.
    #[must_use]
    pub fn states(&self) -> HopStates {
        Arc::clone(&self.states.borrow())
    }

    /// Returns a receiver of the same, updated on each change.
    #[must_use]
    pub fn watch_states(&self) -> watch::Receiver<HopStates> {
        self.states.clone()
    }

    /// Waits until the next hop of each address is found or failed, at most `patience`. A next hop
    /// still unknown then is resolved later.
    pub async fn wait_settled(&self, addresses: &[Address], patience: Duration) {
        let mut states = self.states.clone();
        let all = |states: &HopStates| {
            addresses
                .iter()
                .all(|a| states.get(a).is_some_and(HopState::is_settled))
        };
        // On a timeout, or if the task has ended, there is nothing left to wait for.
        let _ = tokio::time::timeout(patience, states.wait_for(all)).await;
    }

    /// Returns a receiver of the host's links and addresses, updated on each change.
    #[must_use]
    pub fn host(&self) -> watch::Receiver<Arc<HostNetwork>> {
        self.host.clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    kernel: Kernel,
    changes: NetworkChanges,
    table: NextHopTable,
    requests: mpsc::UnboundedReceiver<ResolverRequest>,
    on_move: Box<dyn Fn(MovedNeighbour) + Send>,
    return_state: watch::Sender<Arc<ReturnState>>,
    host: watch::Sender<Arc<HostNetwork>>,
    states: watch::Sender<HopStates>,
}

impl Task {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(ResolverRequest::Track(backends)) => self.table.track(backends),
                    Some(ResolverRequest::SetReturnPlan(plan)) => self.table.set_return_plan(plan),
                    Some(ResolverRequest::SetPorts(ports)) => {
                        self.table.set_ports(ports);
                        self.read_tables().await;
                    }
                    None => return,
                },
                change = self.changes.next() => self.note_all(change).await,
                _ = tick.tick() => self.table.note_wanted(),
            }
            let (table, kernel) = (&mut self.table, &self.kernel);
            table.look_up_routes(kernel, Instant::now()).await;
            table.read_return_routes(kernel, Instant::now()).await;
            table.probe(kernel, Instant::now()).await;
            self.publish();
        }
    }

    /// Applies a change and all that are queued behind it, so that a burst costs one pass.
    async fn note_all(&mut self, first: Option<NetworkChange>) {
        let mut next = Some(first);
        while let Some(change) = next {
            match change {
                Some(NetworkChange::Overrun) => {
                    tracing::warn!(
                        "the kernel's network notifications overran their buffer; reading its tables \
                         again"
                    );
                    self.read_tables().await;
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
            match NetworkChanges::subscribe().and_then(|changes| Ok((changes, Kernel::connect()?)))
            {
                Ok((changes, kernel)) => {
                    self.changes = changes;
                    self.kernel = kernel;
                    return self.read_tables().await;
                }
                Err(e) => tracing::error!(
                    "cannot subscribe to the kernel's network changes: {e}; next hops are not updated \
                     until this works; trying again"
                ),
            }
        }
    }

    async fn read_tables(&mut self) {
        if let Err(e) = self.table.read(&self.kernel).await {
            tracing::error!("cannot read the kernel's network tables: {e}; keeping the last state");
        }
    }

    fn publish(&mut self) {
        if let Some(host) = self.table.take_host() {
            self.host.send_replace(host);
        }
        if let Some((states, return_state)) = self.table.publish(Instant::now()) {
            self.states.send_replace(Arc::new(states));
            self.return_state.send_replace(Arc::new(return_state));
        }
        // After the next hops are written: `on_move` relies on them.
        self.table.take_moved().into_iter().for_each(&self.on_move);
    }
}
