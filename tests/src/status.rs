//! What `waxwing status --json` says, by name: the only place of the bed that knows its form.
//!
//! Invariant: what is not there reads as zero or as nothing, and a scenario then fails with the whole
//! status in its text; no accessor panics.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use health::{Change, CheckHealth, Health, Punctuality, Which};

mod health;

/// A status.
#[derive(Clone, PartialEq, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Sessions in the table.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.0["sessions"]["active"].as_u64().unwrap_or(0)
    }

    /// Memory of the table for each session that it has room for, in bytes.
    #[must_use]
    pub fn bytes_per_session(&self) -> f64 {
        self.0["sessions"]["bytes_per_session"]
            .as_f64()
            .unwrap_or(f64::INFINITY)
    }

    /// Frames received by each worker.
    #[must_use]
    pub fn received_by_worker(&self) -> Vec<u64> {
        let received = |worker: &Value| worker["received"]["packets"].as_u64().unwrap_or(0);
        list(&self.0["workers"]).iter().map(received).collect()
    }

    /// The socket of every queue of every port.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for port in list(&self.0["ports"]) {
            for queue in list(&port["queues"]) {
                let statistics = queue["statistics"].as_object().into_iter().flatten();
                sockets.push(Socket {
                    interface: port["interface"].as_str().unwrap_or_default().to_owned(),
                    zero_copy: queue["zero_copy"] == true,
                    statistics: statistics
                        .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)))
                        .collect(),
                });
            }
        }
        sockets
    }

    /// What all workers counted under a name (`too_big_sent`).
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        let count = |worker: &Value| worker[name].as_u64().unwrap_or(0);
        list(&self.0["workers"]).iter().map(count).sum()
    }

    /// Frames dropped for a reason, by its label.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops().get(reason).copied().unwrap_or(0)
    }

    /// Frames dropped by all workers, by reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for worker in list(&self.0["workers"]) {
            for (reason, count) in worker["drops"].as_object().into_iter().flatten() {
                *drops.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        drops
    }

    /// The hash of the module that the workers use for a policy's name.
    #[must_use]
    pub fn module_hash(&self, policy: &str) -> Option<&str> {
        let services = list(&self.0["services"]);
        services
            .iter()
            .find(|service| service["policy"] == policy)?["module"]["hash"]
            .as_str()
    }

    /// Why the module of a name that came last was refused, with its hash; nothing where it was not.
    #[must_use]
    pub fn module_refused(&self, policy: &str) -> Option<String> {
        let refused = &self.module(policy)?["refused"];
        let hash = refused["hash"].as_str().unwrap_or("unreadable");
        refused["reason"]
            .as_str()
            .map(|reason| format!("{hash}: {reason}"))
    }

    /// How long all workers' batches took, as p50, p99 and p99.9 in microseconds.
    #[must_use]
    pub fn batch_times(&self) -> BatchTimes {
        self.batch_times_since(&Self(Value::Null))
    }

    /// The same of the batches since an earlier status.
    #[must_use]
    pub fn batch_times_since(&self, earlier: &Self) -> BatchTimes {
        let buckets = self.buckets();
        let before = earlier.buckets();
        let since = |(time, count): (u64, u64)| {
            let earlier = before.get(&time).copied().unwrap_or(0);
            (time, count.saturating_sub(earlier))
        };
        BatchTimes(buckets.into_iter().map(since).collect())
    }

    /// Batches by the time they took, over all workers.
    fn buckets(&self) -> BTreeMap<u64, u64> {
        let mut buckets = BTreeMap::new();
        for worker in list(&self.0["workers"]) {
            let of_worker = worker["batch_times"]["buckets"].as_object();
            for (time, count) in of_worker.into_iter().flatten() {
                let time = time.parse().unwrap_or(u64::MAX);
                *buckets.entry(time).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        buckets
    }

    /// Where the module that serves a name is from.
    #[must_use]
    pub fn module_source(&self, policy: &str) -> Option<&str> {
        self.module(policy)?["serving"]["source"].as_str()
    }

    /// Whether a new build of a module serves on the first worker only.
    #[must_use]
    pub fn has_canary(&self, policy: &str) -> bool {
        self.module(policy)
            .is_some_and(|module| !module["canary"].is_null())
    }

    /// Why builds of a module are quarantined.
    #[must_use]
    pub fn module_quarantined(&self, policy: &str) -> Vec<&str> {
        let builds = self.module(policy).map(|module| &module["quarantined"]);
        let builds = builds.map_or(&[][..], list).iter();
        builds
            .filter_map(|build| build["reason"].as_str())
            .collect()
    }

    /// How often the build of a module that serves has failed.
    #[must_use]
    pub fn module_faults(&self, policy: &str) -> u64 {
        let faults = self
            .module(policy)
            .map(|module| &module["serving"]["faults"]);
        faults.and_then(Value::as_u64).unwrap_or(0)
    }

    /// What happened to a module's builds lately, the oldest first.
    #[must_use]
    pub fn module_steps(&self, policy: &str) -> Vec<&str> {
        let steps = self.module(policy).map(|module| &module["steps"]);
        let steps = steps.map_or(&[][..], list).iter();
        steps.filter_map(|step| step["text"].as_str()).collect()
    }

    fn service(&self, name: &str) -> Option<&Value> {
        let services = list(&self.0["services"]);
        services.iter().find(|service| service["name"] == name)
    }

    /// A module of either kind: a policy, else a health check.
    fn module(&self, name: &str) -> Option<&Value> {
        let modules = [&self.0["modules"], &self.0["checks"]];
        let mut modules = modules.into_iter().flat_map(list);
        modules.find(|module| module["name"] == name)
    }

    /// Sessions of a service's backend now.
    ///
    /// # Errors
    /// The status has no such backend.
    pub fn backend_sessions(&self, service: &str, address: IpAddr) -> Result<u64> {
        self.backend(service, address)
            .and_then(|backend| backend["active"].as_u64())
            .with_context(|| format!("no backend {address} of {service} in {self}"))
    }

    /// Whether a service has a backend of this address.
    #[must_use]
    pub fn has_backend(&self, service: &str, address: IpAddr) -> bool {
        self.backend(service, address).is_some()
    }

    /// What the status says of a port, by its interface; nothing where there is none.
    #[must_use]
    pub fn port(&self, interface: &str) -> &Value {
        let mut ports = list(&self.0["ports"]).iter();
        ports
            .find(|port| port["interface"] == interface)
            .unwrap_or(&Value::Null)
    }

    /// The gateways of the ways back to clients, with their MAC addresses where they are known.
    #[must_use]
    pub fn gateways(&self) -> BTreeMap<&str, Option<&str>> {
        let gateways = list(&self.0["return_path"]["gateways"]).iter();
        gateways
            .filter_map(|gateway| Some((gateway["via"].as_str()?, gateway["mac"].as_str())))
            .collect()
    }

    /// What the status says of the way to a service's backend; nothing where there is none.
    #[must_use]
    pub fn next_hop(&self, service: &str, address: IpAddr) -> &Value {
        self.backend(service, address)
            .map_or(&Value::Null, |backend| &backend["next_hop"])
    }

    fn backend(&self, service: &str, address: IpAddr) -> Option<&Value> {
        let address = address.to_string();
        list(&self.service(service)?["backends"])
            .iter()
            .find(|backend| backend["address"] == address.as_str())
    }
}

/// An AF_XDP socket of the balancer's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The interface that it is bound to.
    pub interface: String,
    /// Whether it shares frames with the driver, by the socket's own option.
    pub zero_copy: bool,
    /// What the kernel counted for it, by the kernel's names.
    pub statistics: BTreeMap<String, u64>,
}

/// How long batches took: how many, by microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchTimes(BTreeMap<u64, u64>);

impl BatchTimes {
    /// What this many of a thousand did not exceed, in microseconds; 0 where there are none.
    #[must_use]
    pub fn per_mille(&self, rank: u64) -> u64 {
        let wanted = self.0.values().sum::<u64>() * rank / 1000;
        let mut below = 0;
        let reached = self.0.iter().find(|(_, count)| {
            below += **count;
            below > wanted.saturating_sub(1)
        });
        reached.map_or(0, |(time, _)| *time)
    }
}

impl fmt::Display for BatchTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = [500, 990, 999].map(|rank| self.per_mille(rank));
        let count: u64 = self.0.values().sum();
        write!(
            f,
            "{count}, of {p50} us (p50), {p99} us (p99), {p999} us (p99.9)"
        )
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
