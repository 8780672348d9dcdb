//! Accessors of `waxwing status --json`; no other file of the test bed knows its format.
//!
//! Invariant: no accessor panics. A missing value reads as zero or `None`, so that the scenario fails with
//! the whole status in its error.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use health::{Change, CheckHealth, Health, Punctuality, Which};

mod health;

#[derive(Clone, PartialEq, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Returns the number of sessions in the table.
    pub fn sessions(&self) -> u64 {
        self.0["sessions"]["used"].as_u64().unwrap_or(0)
    }

    /// Returns the table's memory per slot, in bytes.
    pub fn bytes_per_session(&self) -> f64 {
        self.0["sessions"]["bytes_per_session"]
            .as_f64()
            .unwrap_or(f64::INFINITY)
    }

    /// Returns the frames received by each worker.
    pub fn received_by_worker(&self) -> Vec<u64> {
        let received = |worker: &Value| worker["received"]["packets"].as_u64().unwrap_or(0);
        list(&self.0["workers"]).iter().map(received).collect()
    }

    /// Returns the sockets of all queues of all ports.
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

    /// Returns the sum of a counter over all workers (`too_big_sent`).
    pub fn counted(&self, name: &str) -> u64 {
        let count = |worker: &Value| worker[name].as_u64().unwrap_or(0);
        list(&self.0["workers"]).iter().map(count).sum()
    }

    /// Returns the frames dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops().get(reason).copied().unwrap_or(0)
    }

    /// Returns the frames dropped by all workers, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for worker in list(&self.0["workers"]) {
            for (reason, count) in worker["drops"].as_object().into_iter().flatten() {
                *drops.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        drops
    }

    /// Returns the hash of the module that serves a policy.
    pub fn module_hash(&self, policy: &str) -> Option<&str> {
        let services = list(&self.0["services"]);
        services
            .iter()
            .find(|service| service["policy"] == policy)?["module"]["hash"]
            .as_str()
    }

    /// Returns hash and reason if the latest file of a module was refused.
    pub fn module_refused(&self, policy: &str) -> Option<String> {
        let refused = &self.module(policy)?["refused"];
        let hash = refused["hash"].as_str().unwrap_or("unreadable");
        refused["reason"]
            .as_str()
            .map(|reason| format!("{hash}: {reason}"))
    }

    /// Returns the batch times of all workers.
    pub fn batch_times(&self) -> BatchTimes {
        self.batch_times_since(&Self(Value::Null))
    }

    /// Returns the batch times since an earlier status.
    pub fn batch_times_since(&self, earlier: &Self) -> BatchTimes {
        let buckets = self.buckets();
        let before = earlier.buckets();
        let since = |(time, count): (u64, u64)| {
            let earlier = before.get(&time).copied().unwrap_or(0);
            (time, count.saturating_sub(earlier))
        };
        BatchTimes(buckets.into_iter().map(since).collect())
    }

    /// Returns the batches of all workers by their time.
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

    /// Returns the file from which the serving module comes.
    pub fn module_source(&self, policy: &str) -> Option<&str> {
        self.module(policy)?["serving"]["source"].as_str()
    }

    /// Whether a module has a canary.
    pub fn has_canary(&self, policy: &str) -> bool {
        self.module(policy)
            .is_some_and(|module| !module["canary"].is_null())
    }

    /// Returns the reasons of a module's quarantined builds.
    pub fn module_quarantined(&self, policy: &str) -> Vec<&str> {
        let builds = self.module(policy).map(|module| &module["quarantined"]);
        let builds = builds.map_or(&[][..], list).iter();
        builds
            .filter_map(|build| build["reason"].as_str())
            .collect()
    }

    /// Returns the failures of a module's serving build.
    pub fn module_faults(&self, policy: &str) -> u64 {
        let faults = self
            .module(policy)
            .map(|module| &module["serving"]["faults"]);
        faults.and_then(Value::as_u64).unwrap_or(0)
    }

    /// Returns the recent steps of a module's builds, oldest first.
    pub fn module_steps(&self, policy: &str) -> Vec<&str> {
        let steps = self.module(policy).map(|module| &module["steps"]);
        let steps = steps.map_or(&[][..], list).iter();
        steps.filter_map(|step| step["text"].as_str()).collect()
    }

    fn service(&self, name: &str) -> Option<&Value> {
        let services = list(&self.0["services"]);
        services.iter().find(|service| service["name"] == name)
    }

    /// Returns the entry of a policy, or of a health check.
    fn module(&self, name: &str) -> Option<&Value> {
        let modules = [&self.0["modules"], &self.0["checks"]];
        let mut modules = modules.into_iter().flat_map(list);
        modules.find(|module| module["name"] == name)
    }

    /// Returns the sessions of a service's backend, in any phase.
    pub fn backend_sessions(&self, service: &str, address: IpAddr) -> Result<u64> {
        let backend = self.backend(service, address);
        let phases = ["active", "half_open", "closing"].iter();
        phases
            .map(|phase| backend?[*phase].as_u64())
            .sum::<Option<u64>>()
            .with_context(|| format!("no backend {address} of {service} in {self}"))
    }

    /// Whether a service has a backend of this address.
    pub fn has_backend(&self, service: &str, address: IpAddr) -> bool {
        self.backend(service, address).is_some()
    }

    /// Returns the entry of a port; null if there is none.
    pub fn port(&self, interface: &str) -> &Value {
        let mut ports = list(&self.0["ports"]).iter();
        ports
            .find(|port| port["interface"] == interface)
            .unwrap_or(&Value::Null)
    }

    /// Returns the gateways of return paths, with their MAC addresses if known.
    pub fn gateways(&self) -> BTreeMap<&str, Option<&str>> {
        let gateways = list(&self.0["return_path"]["gateways"]).iter();
        gateways
            .filter_map(|gateway| Some((gateway["via"].as_str()?, gateway["mac"].as_str())))
            .collect()
    }

    /// Returns the next hop of a service's backend; null if there is none.
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

/// An AF_XDP socket of the balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The interface that it is bound to.
    pub interface: String,
    /// Whether the socket's own option reports zero-copy.
    pub zero_copy: bool,
    /// The kernel's counters, by the kernel's names.
    pub statistics: BTreeMap<String, u64>,
}

/// Histogram of batch times, in microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchTimes(BTreeMap<u64, u64>);

impl BatchTimes {
    /// Returns the time that `per_mille` of the batches did not exceed, in microseconds; 0 without batches.
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
