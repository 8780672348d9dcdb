//! Whether a config fits this machine: what the text alone does not show.
//!
//! Invariant: it changes nothing on the system, and finds everything in one go; each problem points
//! at the line of the config that it is about.

use std::io;
use std::path::Path;

use futures_util::StreamExt;
use waxwing_packet::{Address, Family};
use waxwing_plugin::Compiler;

use crate::config::{Config, ConfigErrors, Located, Mode, Problem};
use crate::network::bridge;
use crate::network::host::{HostNetwork, forwarding_setting, forwards};
use crate::network::kernel::{Kernel, NoRoute, Route};
use crate::publish::modules::{self, Modules, Shipped};

/// Route questions to the kernel under way at once.
const AT_ONCE: usize = 64;

/// A config that fits this machine, with the host that its modules were checked on.
pub struct Checked {
    /// The config.
    pub config: Config,
    /// What its writer should know.
    pub warnings: Vec<Problem>,
    /// The modules, compiled.
    pub modules: Modules,
}

/// Why a config cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Something is wrong with it; one or many problems, each on lines of its own.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The Wasm engine does not work here.
    #[error(transparent)]
    Host(#[from] waxwing_plugin::HostError),
    /// The kernel's tables could not be read.
    #[error("cannot read the kernel's network tables (rtnetlink): {0}")]
    Netlink(#[from] io::Error),
}

/// Reads a config and checks everything: its text, the network, the modules. `compiler` is who
/// compiles modules of the config's folder, now and later.
///
/// # Errors
/// [`CheckError`].
pub async fn load(
    path: &Path,
    shipped: Shipped,
    compiler: Compiler,
) -> Result<Checked, CheckError> {
    let mut reading = Config::read_file(path)?;
    let kernel = Kernel::connect()?;
    let found = network(reading.config(), &kernel).await?;
    reading.add(found);
    let modules = Modules::start(reading.config(), shipped, compiler)?;
    let config = reading.config().clone();
    reading.add(modules::check(&modules.host, &modules.checks, config).await);
    let (config, warnings) = reading.finish()?;
    Ok(Checked {
        config,
        warnings,
        modules,
    })
}

/// What is wrong between a config and the host's network.
///
/// # Errors
/// The kernel's tables could not be read.
pub(crate) async fn network(config: &Config, kernel: &Kernel) -> io::Result<Vec<Problem>> {
    let facts = HostNetwork::read(kernel).await?;
    let mut problems = ports(config, &facts);
    problems.extend(bridged(config, &facts));
    problems.extend(vips(config, &facts));
    problems.extend(backends(config, &facts, kernel).await);
    if let Some(folder) = &config.modules
        && !folder.value.is_dir()
    {
        let text = format!(
            "there is no folder {}; modules are taken from it once it is made",
            folder.value.display()
        );
        problems.push(config.warning_at(folder.span, text));
    }
    Ok(problems)
}

fn ports(config: &Config, facts: &HostNetwork) -> Vec<Problem> {
    let mut problems = Vec::new();
    for Located { value: name, span } in config.ports.iter().map(|port| &port.interface) {
        let Some(link) = facts.link(name) else {
            let names: Vec<&str> = facts
                .links
                .values()
                .map(|link| link.name.as_str())
                .collect();
            let text = format!(
                "there is no interface {name}; this host has {}",
                names.join(", ")
            );
            problems.push(config.error_at(*span, text));
            continue;
        };
        if link.mac.is_none() {
            let text = format!("{name} is no Ethernet interface; write one that is");
            problems.push(config.error_at(*span, text));
        }
        if !link.up {
            let text = format!("{name} is down; `ip link set {name} up` brings it up");
            problems.push(config.warning_at(*span, text));
        }
        // A bridge is no router.
        let routed = config.mode.value == Mode::Routed;
        for family in families(config).into_iter().filter(|_| routed) {
            if forwards(name, family) == Some(false) {
                let text = format!(
                    "the kernel does not forward {} from {name}, so what is not a \
                     service's goes no further than this host; if it is the servers' router too, \
                     `sysctl -w {}`",
                    match family {
                        Family::V4 => "IPv4",
                        Family::V6 => "IPv6",
                    },
                    forwarding_setting(family)
                );
                problems.push(config.warning_at(*span, text));
            }
        }
    }
    problems
}

/// In transparent mode: what is not as its bridge has to be.
fn bridged(config: &Config, facts: &HostNetwork) -> Vec<Problem> {
    let Some(names) = config.bridged() else {
        return Vec::new();
    };
    let span = |at: usize| config.ports[at].interface.span;
    let faults = bridge::faults(facts, names).into_iter();
    let doubts = bridge::doubts(facts, names).into_iter();
    faults
        .map(|(at, text)| config.error_at(span(at), text))
        .chain(doubts.map(|(at, text)| config.warning_at(span(at), text)))
        .collect()
}

/// The families that services are served in.
fn families(config: &Config) -> Vec<Family> {
    let serves = |family| {
        config
            .services
            .iter()
            .any(|s| s.vip.value.family() == family)
    };
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| serves(*family))
        .collect()
}

fn vips(config: &Config, facts: &HostNetwork) -> Vec<Problem> {
    let vips = config.services.iter().map(|service| ("VIP", &service.vip));
    let sources = config.source_nat.iter().flat_map(|table| &table.addresses);
    let sources = sources.map(|address| ("source address", address));
    let problem = |(what, address): (&str, &Located<Address>)| {
        let holder = facts.holder_of(address.value)?;
        Some(config.warning_at(address.span, on_link(what, address.value, &holder)))
    };
    vips.chain(sources).filter_map(problem).collect()
}

/// What is wrong with a VIP, or a source address, that an interface has.
pub(crate) fn on_link(what: &str, address: Address, link: &str) -> String {
    format!(
        "the {what} {address} is an address of this host, on {link}: the kernel answers for it too, and \
         resets its connections whenever waxwing is not running; take it off with `ip addr del {address} \
         dev {link}`"
    )
}

async fn backends(config: &Config, facts: &HostNetwork, kernel: &Kernel) -> Vec<Problem> {
    let all = config.services.iter().flat_map(|service| &service.backends);
    let addresses: Vec<Located<Address>> = all.map(|backend| backend.address).collect();
    let answers: Vec<Result<Route, NoRoute>> = futures_util::stream::iter(
        addresses
            .iter()
            .map(|address| address.value)
            .collect::<Vec<_>>(),
    )
    .map(async |address| kernel.route_to(address).await)
    .buffered(AT_ONCE)
    .collect()
    .await;
    let judged = addresses.iter().zip(answers);
    judged
        .filter_map(|(address, route)| backend(config, facts, *address, route))
        .collect()
}

fn backend(
    config: &Config,
    facts: &HostNetwork,
    address: Located<Address>,
    route: Result<Route, NoRoute>,
) -> Option<Problem> {
    let bridge = config.bridged().map(|names| bridge::shared(facts, names));
    let is_port = |link: u32| {
        let name = facts.link_name(link);
        let mut ports = config.ports.iter();
        ports.any(|port| *port.interface.value == *name)
    };
    let leaves = |link| is_port(link) || facts.vlan_on(link, is_port).is_some();
    let why = match (route.map(|route| route.link), bridge) {
        (Err(why), _) => why.to_string(),
        // That there is no such bridge is another problem's text.
        (_, Some(None)) => return None,
        (Ok(link), Some(Some(bridge))) if link == bridge.index => return None,
        (Ok(link), Some(Some(bridge))) => format!(
            "its route leaves through {}, and not through the bridge {}; put this host's address on \
             the bridge, or change the route",
            facts.link_name(link),
            bridge.name
        ),
        (Ok(link), None) if leaves(link) => return None,
        (Ok(link), None) => format!(
            "its route leaves through {0}, which is not a [[port]]; add one with \
             `interface = \"{0}\"`, or change the route",
            facts.link_name(link)
        ),
    };
    let text = format!("backend {} cannot be reached: {why}", address.value);
    Some(config.error_at(address.span, text))
}
