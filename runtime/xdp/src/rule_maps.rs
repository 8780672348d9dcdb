//! The XDP program's rule maps, which decide the frames that the workers get.
//!
//! Invariant: the maps contain exactly the rules in [`RuleMaps::in_effect`] and
//! [`RuleMaps::servers_in_effect`].

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData};
use aya::{Ebpf, Pod};
use waxwing_dataplane::PortId;
use waxwing_dataplane::model::SOURCES_MAX;
use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Mac};

use crate::program::map;
use crate::{Options, XdpError};

/// `struct endpoint` of the program: address, port, protocol, zero.
type EndpointKey = [u8; 20];
/// `struct address` of the program.
type AddressKey = [u8; 16];
/// `struct port_mac` of the program: port, MAC, zero.
type PortMacKey = [u8; 12];

/// The most addresses of the host, and the most further MACs of its ports.
const LOCALS_MAX: u32 = 65_536;
const FURTHER_MACS_MAX: u32 = 4096;

pub(crate) struct RuleMaps {
    services: HashMap<MapData, EndpointKey, u8>,
    backends: HashMap<MapData, EndpointKey, u8>,
    servers: HashMap<MapData, AddressKey, u8>,
    vips: HashMap<MapData, AddressKey, u8>,
    answered: HashMap<MapData, AddressKey, u8>,
    locals: HashMap<MapData, AddressKey, u8>,
    macs: HashMap<MapData, PortMacKey, u8>,
    in_effect: Rules,
    /// The content of `servers`: [`Rules::servers`] of the rules in effect.
    servers_in_effect: BTreeSet<Address>,
    services_max: u32,
    vips_max: u32,
    backends_max: u32,
}

/// Returns the size of each rule map, by name: twice the limit, because new rules are added before old
/// ones are removed.
pub(crate) fn sizes(options: &Options) -> [(&'static str, u32); 7] {
    [
        ("services", 2 * options.services_max),
        ("vips", 2 * vips_max(options)),
        ("answered", 2 * vips_max(options)),
        ("backends", 2 * options.backends_max),
        ("servers", 2 * options.backends_max),
        ("locals", 2 * LOCALS_MAX),
        ("macs", 2 * FURTHER_MACS_MAX),
    ]
}

/// Returns the maximum number of VIPs and source NAT addresses.
fn vips_max(options: &Options) -> u32 {
    options.services_max.saturating_add(SOURCES_MAX.into())
}

impl RuleMaps {
    /// Takes the maps, all empty, from the loaded object.
    pub(crate) fn new(ebpf: &mut Ebpf, options: &Options) -> Result<Self, XdpError> {
        Ok(Self {
            services: map(ebpf, "services")?,
            backends: map(ebpf, "backends")?,
            servers: map(ebpf, "servers")?,
            vips: map(ebpf, "vips")?,
            answered: map(ebpf, "answered")?,
            locals: map(ebpf, "locals")?,
            macs: map(ebpf, "macs")?,
            in_effect: Rules::default(),
            servers_in_effect: BTreeSet::new(),
            services_max: options.services_max,
            vips_max: vips_max(options),
            backends_max: options.backends_max,
        })
    }

    /// Puts `rules` into effect. Rules that stay are never missing in between.
    ///
    /// # Errors
    /// [`XdpError::TooManyRules`], or [`XdpError::Rule`]. Rules in effect that are in `rules` too stay.
    pub(crate) fn apply(&mut self, rules: &Rules) -> Result<(), XdpError> {
        let Rules {
            services,
            vips,
            backends,
            locals,
            further_macs,
            ..
        } = rules;
        let (services_max, backends_max) = (self.services_max, self.backends_max);
        let (raise_services, raise_backends) = (
            "raise services_max and restart waxwing",
            "raise backends_max and restart waxwing",
        );
        check_count("services", services.len(), services_max, raise_services)?;
        let what = "VIPs and source addresses";
        check_count(what, vips.len(), self.vips_max, raise_services)?;
        check_count(
            "backend endpoints",
            backends.len(),
            backends_max,
            raise_backends,
        )?;
        let (what, remove) = ("addresses of this host", "remove some (`ip addr`)");
        check_count(what, locals.len(), LOCALS_MAX, remove)?;
        let (what, remove) = ("macvlan devices on ports", "remove some (`ip link`)");
        check_count(what, further_macs.len(), FURTHER_MACS_MAX, remove)?;

        let servers = rules.servers();
        let now = &mut self.in_effect;
        let mut services = Change::new(&mut self.services, &mut now.services, &rules.services);
        let mut backends = Change::new(&mut self.backends, &mut now.backends, &rules.backends);
        let mut servers = Change::new(&mut self.servers, &mut self.servers_in_effect, &servers);
        let mut vips = Change::new(&mut self.vips, &mut now.vips, &rules.vips);
        let mut answered = Change::new(&mut self.answered, &mut now.answered, &rules.answered);
        let mut locals = Change::new(&mut self.locals, &mut now.locals, &rules.locals);
        let mut macs = Change::new(&mut self.macs, &mut now.further_macs, &rules.further_macs);

        // Additions first, so that no rule that stays is ever missing. Local addresses are added first and
        // removed last, so that the kernel never misses a reply to the host.
        locals.add(address_key)?;
        vips.add(address_key)?;
        answered.add(address_key)?;
        services.add(endpoint_key)?;
        backends.add(endpoint_key)?;
        servers.add(address_key)?;
        macs.add(port_mac_key)?;

        macs.remove(port_mac_key)?;
        servers.remove(address_key)?;
        backends.remove(endpoint_key)?;
        services.remove(endpoint_key)?;
        answered.remove(address_key)?;
        vips.remove(address_key)?;
        locals.remove(address_key)
    }
}

fn check_count(
    what: &'static str,
    count: usize,
    max: u32,
    remedy: &'static str,
) -> Result<(), XdpError> {
    if count > max as usize {
        return Err(XdpError::TooManyRules {
            what,
            count,
            max,
            remedy,
        });
    }
    Ok(())
}

/// The change of one map to the wanted rules.
struct Change<'a, T, K: Pod> {
    map: &'a mut HashMap<MapData, K, u8>,
    in_effect: &'a mut BTreeSet<T>,
    wanted: &'a BTreeSet<T>,
}

impl<'a, T: Ord + Copy, K: Pod> Change<'a, T, K> {
    fn new(
        map: &'a mut HashMap<MapData, K, u8>,
        in_effect: &'a mut BTreeSet<T>,
        wanted: &'a BTreeSet<T>,
    ) -> Self {
        Self {
            map,
            in_effect,
            wanted,
        }
    }

    /// Adds the wanted rules that are not in effect.
    fn add(&mut self, key: fn(&T) -> K) -> Result<(), XdpError> {
        let missing: Vec<T> = self.wanted.difference(self.in_effect).copied().collect();
        for rule in missing {
            let added = self.map.insert(key(&rule), 1, 0);
            added.map_err(|source| XdpError::Rule {
                doing: "adding",
                source,
            })?;
            self.in_effect.insert(rule);
        }
        Ok(())
    }

    /// Removes the rules in effect that are not wanted.
    fn remove(&mut self, key: fn(&T) -> K) -> Result<(), XdpError> {
        let surplus: Vec<T> = self.in_effect.difference(self.wanted).copied().collect();
        for rule in surplus {
            let removed = self.map.remove(&key(&rule));
            removed.map_err(|source| XdpError::Rule {
                doing: "removing",
                source,
            })?;
            self.in_effect.remove(&rule);
        }
        Ok(())
    }
}

fn address_key(address: &Address) -> AddressKey {
    address.octets()
}

fn port_mac_key(&(port, mac): &(PortId, Mac)) -> PortMacKey {
    let mut key = PortMacKey::default();
    key[0..4].copy_from_slice(&u32::from(port.0).to_ne_bytes());
    key[4..10].copy_from_slice(&mac.0);
    key
}

fn endpoint_key(&(address, port, protocol): &(Address, u16, u8)) -> EndpointKey {
    let mut key = EndpointKey::default();
    key[0..16].copy_from_slice(&address.octets());
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol;
    key
}
