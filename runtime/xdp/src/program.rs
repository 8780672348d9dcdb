//! The XDP program: loaded, attached, steered.
//!
//! Invariant: it is attached by a link that this process owns, so that the kernel detaches it when
//! the process ends, however it ends. What the maps hold is what `in_effect` says.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::os::fd::AsRawFd;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, Pod, include_bytes_aligned};
use waxwing_dataplane::model::SOURCES_MAX;
use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Mac};

use crate::error::system_cause;
use crate::{Buffers, Interface, Options, XdpError};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waxwing.bpf.o"));

/// The program's name in the object, for frames in one buffer and in several.
const fn name(buffers: Buffers) -> &'static str {
    match buffers {
        Buffers::One => "waxwing",
        Buffers::Several => "waxwing_jumbo",
    }
}

/// The oldest kernel that has what is needed here.
const LINUX_MIN: (u8, u8) = (5, 10);

/// `struct endpoint` of the program: address, port, protocol, zero.
type EndpointKey = [u8; 20];
/// `struct address` of the program.
type AddressKey = [u8; 16];
/// `struct port` of the program: first socket, queues, three MACs, whether it is bridged, a zero.
type PortValue = [u8; 28];

/// By their destination MAC, which frames of a port are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressees {
    /// Those to the port's own MAC: what is addressed to another is another host's.
    Own(Mac),
    /// Those to any: the port is one of the two of a bridge. These MACs are the balancer's own.
    Bridged([Mac; 3]),
}

/// What the program made of a frame; the names are those of `enum class` in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// Left to the kernel.
    Pass,
    /// TCP or UDP to a service.
    Service,
    /// TCP or UDP from a backend.
    Reply,
    /// ICMP or ICMPv6 to a VIP.
    Icmp,
    /// A fragment to a VIP, or from a backend's address.
    Fragment,
    /// An ARP request for a VIP.
    Arp,
    /// A neighbour solicitation for a VIP.
    Ndp,
    /// Anything else to a VIP.
    Other,
    /// An ICMP or ICMPv6 error about a packet to a backend.
    Error,
}

impl Class {
    /// Every class, in the order of the program's counters.
    pub const ALL: [Self; 9] = [
        Self::Pass,
        Self::Service,
        Self::Reply,
        Self::Icmp,
        Self::Fragment,
        Self::Arp,
        Self::Ndp,
        Self::Other,
        Self::Error,
    ];

    /// The name in `status` and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Service => "service",
            Self::Reply => "reply",
            Self::Icmp => "icmp",
            Self::Fragment => "fragment",
            Self::Arp => "arp",
            Self::Ndp => "ndp",
            Self::Other => "other",
            Self::Error => "error",
        }
    }
}

/// Where in the driver's or kernel's receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a buffer of the frame.
    Native,
    /// In the kernel, after that: works with any driver, and costs a copy.
    Generic,
}

impl AttachMode {
    /// The name in `status` and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The loaded program with its maps and links.
pub struct Program {
    ebpf: Ebpf,
    buffers: Buffers,
    rules: RuleMaps,
    ports: HashMap<MapData, u32, PortValue>,
    sockets: XskMap<MapData>,
    classes: PerCpuArray<MapData, u64>,
}

impl Program {
    /// Loads it, for frames as long as that, with room for `ports_max` ports and `sockets_max` sockets.
    ///
    /// # Errors
    /// No privilege, or a kernel that refuses the program.
    pub fn load(
        options: &Options,
        buffers: Buffers,
        ports_max: u32,
        sockets_max: u32,
    ) -> Result<Self, XdpError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            XdpError::program("loading the XDP program", error)
        };
        require_links()?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("services", 2 * options.services_max)
            .map_max_entries("vips", 2 * vips_max(options))
            .map_max_entries("backends", 2 * options.backends_max)
            .map_max_entries("servers", 2 * options.backends_max)
            .map_max_entries("locals", 2 * options.locals_max)
            .map_max_entries("ports", ports_max.max(1))
            .map_max_entries("sockets", sockets_max.max(1))
            .load(OBJECT)
            .map_err(|error| failed(&error))?;
        xdp(&mut ebpf, buffers)?
            .load()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            rules: RuleMaps {
                services: map(&mut ebpf, "services")?,
                backends: map(&mut ebpf, "backends")?,
                servers: map(&mut ebpf, "servers")?,
                vips: map(&mut ebpf, "vips")?,
                locals: map(&mut ebpf, "locals")?,
                in_effect: Rules::default(),
                servers_in_effect: BTreeSet::new(),
                services_max: options.services_max,
                vips_max: vips_max(options),
                backends_max: options.backends_max,
                locals_max: options.locals_max,
            },
            ports: map(&mut ebpf, "ports")?,
            sockets: map(&mut ebpf, "sockets")?,
            classes: map(&mut ebpf, "classes")?,
            ebpf,
            buffers,
        })
    }

    /// Tells it of a port: frames of its queue `q` go to the socket at `first_socket + q`.
    ///
    /// # Errors
    /// More ports than there is room for.
    pub fn set_port(
        &mut self,
        index: u32,
        addressees: Addressees,
        first_socket: u32,
        queues: u32,
    ) -> Result<(), XdpError> {
        let (macs, bridged) = match addressees {
            Addressees::Own(mac) => ([mac; 3], false),
            Addressees::Bridged(macs) => (macs, true),
        };
        let mut value = PortValue::default();
        value[0..4].copy_from_slice(&first_socket.to_ne_bytes());
        value[4..8].copy_from_slice(&queues.to_ne_bytes());
        value[8..26].copy_from_slice(macs.map(|mac| mac.0).as_flattened());
        value[26] = bridged.into();
        let what = || format!("steering of interface index {index}");
        self.ports
            .insert(index, value, 0)
            .map_err(|error| XdpError::program(what(), &error))
    }

    /// Puts a bound socket in its place.
    pub(crate) fn set_socket(&mut self, at: u32, socket: &impl AsRawFd) -> Result<(), XdpError> {
        let what = || format!("steering to socket {at}");
        self.sockets
            .set(at, socket.as_raw_fd(), 0)
            .map_err(|error| XdpError::program(what(), &error))
    }

    /// Attaches it to an interface, natively where the driver can; says why where it cannot.
    ///
    /// # Errors
    /// [`XdpError::Occupied`] and nothing changed where another program is attached.
    pub(crate) fn attach(
        &mut self,
        interface: &Interface,
    ) -> Result<(AttachMode, Option<String>), XdpError> {
        let native = self.attach_as(interface, XdpMode::Driver);
        let refused = match native {
            Ok(()) => return Ok((AttachMode::Native, None)),
            Err(error) => error,
        };
        let cause = system_cause(&refused).unwrap_or_else(|| io::Error::other(refused));
        match cause.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                return Err(XdpError::Occupied(interface.name.clone()));
            }
            Some(libc::EPERM) => {
                let what = format!("interface {}: attaching the XDP program", interface.name);
                return Err(XdpError::Privilege {
                    what,
                    source: cause,
                });
            }
            _ => {}
        }
        match self.attach_as(interface, XdpMode::Skb) {
            Ok(()) => Ok((AttachMode::Generic, Some(cause.to_string()))),
            Err(error) => match system_cause(&error).and_then(|e| e.raw_os_error()) {
                Some(libc::EBUSY | libc::EEXIST) => Err(XdpError::Occupied(interface.name.clone())),
                _ => {
                    let what = format!("attaching it to {}", interface.name);
                    Err(XdpError::program(what, &error))
                }
            },
        }
    }

    fn attach_as(&mut self, interface: &Interface, mode: XdpMode) -> Result<(), ProgramError> {
        let Some(program) = self.ebpf.program_mut(name(self.buffers)) else {
            return Err(ProgramError::NotLoaded);
        };
        let program: &mut Xdp = program.try_into()?;
        program.attach_to_if_index(interface.index, mode)?;
        Ok(())
    }

    /// Brings the rules in effect to `rules`.
    ///
    /// # Errors
    /// A text for the operator. Rules in effect that are in `rules` too stay in effect.
    pub fn apply(&mut self, rules: &Rules) -> Result<(), String> {
        self.rules.apply(rules)
    }

    /// How many frames each class has had, over all ports.
    #[must_use]
    pub fn classes(&self) -> [(Class, u64); Class::ALL.len()] {
        Class::ALL.map(|class| {
            let counts = self.classes.get(&(class as u32), 0);
            (class, counts.map_or(0, |counts| counts.iter().sum()))
        })
    }

    /// Runs the program on a frame as if the loopback device had received it on queue 0, and
    /// says what it made of it. For tests: `set_port` must have named the loopback device.
    ///
    /// # Errors
    /// The kernel does not run it: a frame shorter than an Ethernet header.
    pub fn classify(&mut self, frame: &[u8]) -> Result<Class, XdpError> {
        let before = self.classes();
        let run = TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::new()
        };
        xdp(&mut self.ebpf, self.buffers)?
            .test_run(run)
            .map_err(|error| XdpError::program("a test run", &error))?;
        let after = self.classes();
        let counted = before
            .iter()
            .zip(&after)
            .find(|(before, after)| before.1 != after.1);
        Ok(counted.map_or(Class::Pass, |(_, after)| after.0))
    }
}

/// The most addresses of ours: VIPs and source addresses.
fn vips_max(options: &Options) -> u32 {
    options.services_max.saturating_add(SOURCES_MAX.into())
}

/// Refuses a kernel without XDP links: a program attached in another way would outlive a killed
/// process. (Links are of Linux 5.9, a UMEM shared over devices of 5.10.)
fn require_links() -> Result<(), XdpError> {
    let (major, minor) = LINUX_MIN;
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(major, minor, 0) => Err(XdpError::Program {
            what: "loading it".into(),
            text: format!("this kernel is older than Linux {major}.{minor}; run a later one"),
        }),
        _ => Ok(()),
    }
}

/// The program in the object.
fn xdp(ebpf: &mut Ebpf, buffers: Buffers) -> Result<&mut Xdp, XdpError> {
    let name = name(buffers);
    let missing = || XdpError::Program {
        what: name.into(),
        text: "not in the object".into(),
    };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program
        .try_into()
        .map_err(|error: ProgramError| XdpError::program(name, &error))
}

/// A map of the object, by name and type.
fn map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, XdpError> {
    let missing = || XdpError::Program {
        what: format!("map {name}"),
        text: "not in the object".into(),
    };
    let map = ebpf.take_map(name).ok_or_else(missing)?;
    T::try_from(map).map_err(|error| XdpError::program(format!("map {name}"), &error))
}

/// The maps that say which frames the workers want, and what is in them.
struct RuleMaps {
    services: HashMap<MapData, EndpointKey, u8>,
    backends: HashMap<MapData, EndpointKey, u8>,
    servers: HashMap<MapData, AddressKey, u8>,
    vips: HashMap<MapData, AddressKey, u8>,
    locals: HashMap<MapData, AddressKey, u8>,
    in_effect: Rules,
    /// What [`Rules::servers`] gives of those in effect, but for what is being changed.
    servers_in_effect: BTreeSet<Address>,
    services_max: u32,
    vips_max: u32,
    backends_max: u32,
    locals_max: u32,
}

impl RuleMaps {
    fn apply(&mut self, rules: &Rules) -> Result<(), String> {
        bounded("services", rules.services.len(), self.services_max)?;
        bounded("VIPs and source addresses", rules.vips.len(), self.vips_max)?;
        bounded("backend endpoints", rules.backends.len(), self.backends_max)?;
        bounded("local addresses", rules.locals.len(), self.locals_max)?;

        let servers = rules.servers();

        // The new before the old, so that no rule that stays is ever missing; local addresses
        // first in and last out, so that a reply to the host is never taken from the kernel.
        let now = &mut self.in_effect;
        let servers_now = &mut self.servers_in_effect;
        add(
            &mut self.locals,
            &mut now.locals,
            &rules.locals,
            address_key,
        )?;
        add(&mut self.vips, &mut now.vips, &rules.vips, address_key)?;
        add(
            &mut self.services,
            &mut now.services,
            &rules.services,
            endpoint_key,
        )?;
        add(
            &mut self.backends,
            &mut now.backends,
            &rules.backends,
            endpoint_key,
        )?;
        add(&mut self.servers, servers_now, &servers, address_key)?;
        remove(&mut self.servers, servers_now, &servers, address_key)?;
        remove(
            &mut self.backends,
            &mut now.backends,
            &rules.backends,
            endpoint_key,
        )?;
        remove(
            &mut self.services,
            &mut now.services,
            &rules.services,
            endpoint_key,
        )?;
        remove(&mut self.vips, &mut now.vips, &rules.vips, address_key)?;
        remove(
            &mut self.locals,
            &mut now.locals,
            &rules.locals,
            address_key,
        )
    }
}

fn bounded(what: &str, count: usize, max: u32) -> Result<(), String> {
    if count > max as usize {
        return Err(format!(
            "{count} {what}: this process has room for {max}; start it with more"
        ));
    }
    Ok(())
}

/// Inserts what is wanted and not in effect.
fn add<T: Ord + Copy, K: Pod>(
    map: &mut HashMap<MapData, K, u8>,
    in_effect: &mut BTreeSet<T>,
    wanted: &BTreeSet<T>,
    key: fn(&T) -> K,
) -> Result<(), String> {
    let missing: Vec<T> = wanted.difference(in_effect).copied().collect();
    for rule in missing {
        map.insert(key(&rule), 1, 0)
            .map_err(|error| failed("adding", &error))?;
        in_effect.insert(rule);
    }
    Ok(())
}

/// Removes what is in effect and not wanted.
fn remove<T: Ord + Copy, K: Pod>(
    map: &mut HashMap<MapData, K, u8>,
    in_effect: &mut BTreeSet<T>,
    wanted: &BTreeSet<T>,
    key: fn(&T) -> K,
) -> Result<(), String> {
    let surplus: Vec<T> = in_effect.difference(wanted).copied().collect();
    for rule in surplus {
        map.remove(&key(&rule))
            .map_err(|error| failed("removing", &error))?;
        in_effect.remove(&rule);
    }
    Ok(())
}

fn failed(doing: &str, error: &dyn Display) -> String {
    format!("{doing} a rule of the XDP program: {error}; the rules in effect before stay")
}

fn address_key(address: &Address) -> AddressKey {
    address.octets()
}

fn endpoint_key(&(address, port, protocol): &(Address, u16, u8)) -> EndpointKey {
    let mut key = EndpointKey::default();
    key[0..16].copy_from_slice(&address.octets());
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol;
    key
}
