//! The resolver at work in a network namespace.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use waxwing_control::network::kernel::Kernel;
use waxwing_control::network::port::{MovedNeighbour, PortLink};
use waxwing_control::network::resolver::Resolver;
use waxwing_dataplane::HopTable;
use waxwing_dataplane::{BackendId, NextHop, PortId};
use waxwing_packet::Mac;

use crate::bed::{Namespaces, SERVER_MAC, ip, parse, sysctl};

pub(crate) const BACKEND: BackendId = BackendId(3);
pub(crate) const PORT: PortId = PortId(1);
pub(crate) const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
/// Long enough for the kernel to give up a neighbour with the short timers set below.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The namespaces and the resolver that runs in one of them.
pub(crate) struct Bed {
    pub(crate) namespaces: Namespaces,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) resolver: Resolver,
    pub(crate) hops: Arc<HopTable>,
    pub(crate) moves: Arc<Mutex<Vec<MovedNeighbour>>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let namespaces = Namespaces::enter();
        // Short timers, so that the kernel gives up within the test: tenths of seconds, not seconds.
        for family in ["ipv4", "ipv6"] {
            for setting in [
                "base_reachable_time_ms=1000",
                "retrans_time_ms=100",
                "delay_first_probe_time=1",
            ] {
                sysctl(
                    &namespaces.balancer,
                    &format!("net.{family}.neigh.p1.{setting}"),
                );
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let hops = Arc::new(HopTable::new(64));
        let moves = Arc::new(Mutex::default());
        let resolver = runtime.block_on(start(Arc::clone(&hops), Arc::clone(&moves)));
        Self {
            moves,
            namespaces,
            runtime,
            resolver,
            hops,
        }
    }

    pub(crate) fn track(&self, address: &str) {
        self.resolver.track(vec![(BACKEND, parse(address))]);
    }

    pub(crate) fn resolves(&self, address: &str) {
        self.track(address);
        self.expect(address, "resolved", Some(SERVER_MAC));
        let state = &self.resolver.states()[&parse(address)];
        assert_eq!(state.via, Some(parse(address)));
    }

    /// Waits until the backend has this next hop and its state's text begins with `text`.
    pub(crate) fn expect(&self, address: &str, text: &str, mac: Option<Mac>) {
        self.expect_at(PORT, address, text, mac);
    }

    pub(crate) fn expect_at(&self, port: PortId, address: &str, text: &str, mac: Option<Mac>) {
        let hop = mac.map(|mac| NextHop { port, mac });
        let deadline = Instant::now() + PATIENCE;
        let observe = || {
            let states = self.resolver.states();
            let condition = states
                .get(&parse(address))
                .map(|state| state.condition.to_string());
            let good = self.hops.get(BACKEND) == hop
                && condition.as_ref().is_some_and(|it| it.starts_with(text));
            (good, condition)
        };
        while !observe().0 {
            assert!(
                Instant::now() < deadline,
                "waited for {hop:?} and \"{text}\", got {:?} and {:?}",
                self.hops.get(BACKEND),
                observe().1
            );
            self.wait(20);
        }
    }

    /// Lets the resolver run for a while.
    pub(crate) fn wait(&self, millis: u64) {
        self.runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(millis)).await });
    }

    pub(crate) fn set_server_mac(&self, mac: Mac) {
        ip(&format!(
            "-n {} link set s1 address {}",
            self.namespaces.server, mac
        ));
    }
}

async fn start(hops: Arc<HopTable>, moves: Arc<Mutex<Vec<MovedNeighbour>>>) -> Resolver {
    let links = Kernel::connect().unwrap().links().await.unwrap();
    let link = links.iter().find(|link| link.name == "p1").unwrap();
    let port = PortLink {
        id: PORT,
        name: "p1".into(),
        link: link.index,
    };
    let on_move = move |moved| moves.lock().unwrap().push(moved);
    Resolver::start(vec![port], hops, on_move).await.unwrap()
}
