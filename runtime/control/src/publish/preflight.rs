//! Checks a config against this machine: its network, its modules.
//!
//! Invariant: it changes nothing on the system, except that machine code is kept, and reports together all
//! problems that do not hide each other (a service without a valid port is left out, so its module is not
//! tried), each at its line of the config. What the network is like at the moment (a route, a
//! neighbour, a link) is a warning: it may change at any time, and the resolver follows it.

use std::io;
use std::path::Path;

use futures_util::StreamExt;
use waxwing_packet::{Address, Family};

use crate::config::added::AddedBackends;
use crate::config::names::remedy;
use crate::config::{Config, ConfigErrors, Located, Mode, Problem};
use crate::network::bridge;
use crate::network::host::{HostNetwork, forwarding_setting, forwards};
use crate::network::kernel::{Kernel, NoRoute, Route};
use crate::publish::modules::{self, ModuleOptions, Modules};

/// Concurrent route requests to the kernel.
const AT_ONCE: usize = 64;

/// A config that fits this machine, with its compiled modules.
pub struct Checked {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// Files of the module folder that are refused, although another build of that name can serve. The
    /// modules' hosts log them too.
    pub refused: Vec<Problem>,
    pub modules: Modules,
}

/// Why a config cannot run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The config has errors; the text lists all of them.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The Wasm engine does not work on this machine.
    #[error(transparent)]
    Host(#[from] waxwing_plugin::HostError),
    /// The kernel's tables could not be read.
    #[error("cannot read the kernel's network tables (rtnetlink): {0}")]
    Netlink(#[from] io::Error),
}

/// Reads a config and checks its text, the network and the modules.
///
/// # Errors
/// [`PreflightError`].
pub async fn load(path: &Path, options: ModuleOptions) -> Result<Checked, PreflightError> {
    let added = |config: &Config| match options.state.clone() {
        Some(program) => AddedBackends::read(config.state_folder(program)),
        None => AddedBackends::default(),
    };
    let mut reading = Config::read_file_with(path, added)?;
    if reading.is_refused() {
        let alone = Config::read_file_with(path, |config| added(config).without_any())?;
        if !alone.is_refused()
            && let Err(errors) = reading.finish()
        {
            tracing::warn!(
                "the backends that an operator has added are left out, which do not fit the config's \
                 file:\n{errors}"
            );
        }
        reading = alone;
    }
    let kernel = Kernel::connect()?;
    let found = network(reading.config(), &kernel).await?;
    reading.add(found);
    let modules = Modules::start(reading.config(), options)?;
    let config = reading.config().clone().with_incomplete();
    let found = modules::check(&modules.policy_host, &modules.check_host, config.clone()).await;
    let refused = modules.refused(&config, &found);
    reading.add(found.problems);
    if reading.is_refused() {
        reading.add(refused.iter().cloned());
    }
    let (config, warnings) = reading.finish()?;
    Ok(Checked {
        config,
        warnings,
        refused,
        modules,
    })
}

/// Returns where a config does not fit the host's network and module folder.
///
/// # Errors
/// The kernel's tables could not be read.
pub(crate) async fn network(config: &Config, kernel: &Kernel) -> io::Result<Vec<Problem>> {
    let host = HostNetwork::read(kernel).await?;
    let mut problems = ports(config, &host);
    problems.extend(bridged(config, &host));
    problems.extend(vips(config, &host));
    problems.extend(backends(config, &host, kernel).await);
    if let Some(folder) = &config.modules
        && !folder.value.is_dir()
    {
        let text = format!(
            "there is no folder {}; modules are loaded from it once it exists",
            folder.value.display()
        );
        problems.push(config.warning_at(folder.span, text));
    }
    Ok(problems)
}

fn ports(config: &Config, host: &HostNetwork) -> Vec<Problem> {
    let mut problems = Vec::new();
    for Located { value: name, span } in config.ports.iter().map(|port| &port.interface) {
        let Some(link) = host.link(name) else {
            let names: Vec<&str> = host.links.values().map(|link| link.name.as_str()).collect();
            let remedy = remedy(name, &names, "this host has");
            let text = format!("there is no interface {name}; {remedy}");
            problems.push(config.error_at(*span, text));
            continue;
        };
        if link.mac.is_none() {
            let text = format!("{name} is not an Ethernet interface; name one that is");
            problems.push(config.error_at(*span, text));
        }
        if !link.up {
            let text = format!("{name} is down; `ip link set {name} up` brings it up");
            problems.push(config.warning_at(*span, text));
        }
        // A bridge does not route.
        let routed = config.mode.value == Mode::Routed;
        for family in families(config).into_iter().filter(|_| routed) {
            if forwards(name, family) == Some(false) {
                let text = format!(
                    "the kernel does not forward {} from {name}, so traffic of no service ends at this \
                     host; if this host is also the servers' router, `sysctl -w {}`",
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

/// Returns where the bridge does not fit transparent mode.
fn bridged(config: &Config, host: &HostNetwork) -> Vec<Problem> {
    let Some(names) = config.bridged() else {
        return Vec::new();
    };
    let span = |at: usize| config.ports[at].interface.span;
    let errors = bridge::errors(host, names).into_iter();
    let warnings = bridge::warnings(host, names).into_iter();
    errors
        .map(|(at, text)| config.error_at(span(at), text))
        .chain(warnings.map(|(at, text)| config.warning_at(span(at), text)))
        .collect()
}

/// Returns the address families of the VIPs.
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

fn vips(config: &Config, host: &HostNetwork) -> Vec<Problem> {
    let vips = config.services.iter().map(|service| ("VIP", &service.vip));
    let sources = config.source_nat.iter().flat_map(|table| &table.addresses);
    let sources = sources.map(|address| ("source address", address));
    let problem = |(what, address): (&str, &Located<Address>)| {
        let holder = host.holder_of(address.value)?;
        Some(config.warning_at(address.span, on_link(what, address.value, &holder)))
    };
    vips.chain(sources).filter_map(problem).collect()
}

/// Returns the text for a VIP or source address that an interface holds.
pub(crate) fn on_link(what: &str, address: Address, link: &str) -> String {
    format!(
        "the {what} {address} is an address of this host, on {link}: the kernel answers for it too, and \
         resets its connections while waxwing is not running; remove it with `ip addr del {address} dev \
         {link}`"
    )
}

async fn backends(config: &Config, host: &HostNetwork, kernel: &Kernel) -> Vec<Problem> {
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
    let routed = addresses.iter().zip(answers);
    routed
        .filter_map(|(address, route)| backend(config, host, *address, route))
        .collect()
}

fn backend(
    config: &Config,
    host: &HostNetwork,
    address: Located<Address>,
    route: Result<Route, NoRoute>,
) -> Option<Problem> {
    let bridge = config
        .bridged()
        .map(|names| bridge::common_bridge(host, names));
    let is_port = |link: u32| {
        let name = host.link_name(link);
        let mut ports = config.ports.iter();
        ports.any(|port| *port.interface.value == *name)
    };
    let leaves = |link| is_port(link) || host.vlan_on(link, is_port).is_some();
    let why = match (route.map(|route| route.link), bridge) {
        (Err(why), _) => why.to_string(),
        // A missing bridge is a problem of its own.
        (_, Some(None)) => return None,
        (Ok(link), Some(Some(bridge))) if link == bridge.index => return None,
        (Ok(link), Some(Some(bridge))) => format!(
            "its route leaves through {}, not through the bridge {}; put this host's address on the \
             bridge, or change the route",
            host.link_name(link),
            bridge.name
        ),
        (Ok(link), None) if leaves(link) => return None,
        (Ok(link), None) => format!(
            "its route leaves through {0}, which is not a [[port]]; add one with \
             `interface = \"{0}\"`, or change the route",
            host.link_name(link)
        ),
    };
    let text = format!(
        "backend {} cannot be reached: {why}. Packets to it are dropped until then",
        address.value
    );
    Some(config.warning_at(address.span, text))
}
