//! The XDP program: loading, attaching, counters.
//!
//! Invariant: the program is attached by a link that this process owns, so the kernel detaches it when the
//! process ends in any way.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use waxwing_dataplane::PortId;
use waxwing_dataplane::steering::Rules;
use waxwing_packet::Mac;

use crate::guard::Guard;
use crate::options::LINK_LEN_MAX;
use crate::rule_maps::{self, RuleMaps};
use crate::sys::{self, AttachPoint};
use crate::{Buffers, Holder, Interface, Options, XdpError};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waxwing.bpf.o"));

/// Returns the program's name in the object.
const fn name(buffers: Buffers) -> &'static str {
    match buffers {
        Buffers::One => "waxwing",
        Buffers::Several => "waxwing_jumbo",
    }
}

/// The most receive queues of an interface (`rtnl_create_link`, net/core/rtnetlink.c). The socket map has
/// room for as many of each port, because an interface may get more queues later.
pub(crate) const QUEUES_MAX: u32 = 4096;

/// The oldest supported kernel.
const LINUX_MIN: (u8, u8) = (5, 15);

/// `struct port` of the program: id, queues, longest frame, three MACs, bridged flag, zero.
type PortValue = [u8; 32];
/// `struct offloads` of the program.
type OffloadsValue = [u64; 3];

/// The destination MACs whose frames the program classifies on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacFilter {
    /// The port's own MAC only; frames to others belong to other hosts.
    Own(Mac),
    /// Any MAC: the port is one of the two of a bridge. The MACs are the balancer's own.
    Bridged([Mac; 3]),
}

/// The program's class of a frame; mirrors `enum class` in its source.
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
    /// A fragment to a VIP, or from or to a backend's address.
    Fragment,
    /// An ARP request for a VIP.
    Arp,
    /// A neighbour solicitation for a VIP.
    Ndp,
    /// Any other packet to a VIP.
    Other,
    /// An ICMP or ICMPv6 error about a packet to or from a backend's endpoint.
    Error,
    /// TCP or UDP to a backend's endpoint, past every VIP.
    Direct,
    /// Besides its class: dropped, because its queue has no socket, or no program yet.
    NoSocket,
}

impl Class {
    /// All classes, in the order of the program's counters.
    pub const ALL: [Self; 11] = [
        Self::Pass,
        Self::Service,
        Self::Reply,
        Self::Icmp,
        Self::Fragment,
        Self::Arp,
        Self::Ndp,
        Self::Other,
        Self::Error,
        Self::Direct,
        Self::NoSocket,
    ];

    /// Returns the name in `status` and metrics.
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
            Self::Direct => "direct",
            Self::NoSocket => "no_socket",
        }
    }
}

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel allocates a socket buffer.
    Native,
    /// In the kernel, after that allocation: works with any driver, and copies each frame.
    Generic,
}

impl AttachMode {
    /// Returns the name in `status` and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The loaded program, with its maps and links.
pub struct Program {
    ebpf: Ebpf,
    buffers: Buffers,
    /// By port.
    links: Vec<Option<OwnedFd>>,
    guard: Guard,
    rules: RuleMaps,
    ports: HashMap<MapData, u32, PortValue>,
    sockets: XskMap<MapData>,
    classes: PerCpuArray<MapData, u64>,
    offloads: PerCpuArray<MapData, OffloadsValue>,
}

/// Signs in a port's frames that their senders leave work to a network card that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// SYNs, and a sample of UDP, whose checksums were looked at.
    pub checked: u64,
    /// Of these, checksums of the pseudo-header alone (or, once in 65,536, complete ones that equal it).
    pub partial: u64,
    /// Frames longer than the MTU.
    pub oversized: u64,
}

impl Program {
    /// Loads the program, with room for `ports_max` ports.
    ///
    /// # Errors
    /// [`XdpError::Privilege`], or [`XdpError::Program`] when the kernel is too old or rejects the program.
    pub fn load(options: &Options, buffers: Buffers, ports_max: u32) -> Result<Self, XdpError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            XdpError::program("loading the XDP program", error)
        };
        require_links()?;
        let mut loader = EbpfLoader::new();
        for (name, size) in rule_maps::sizes(options) {
            loader.map_max_entries(name, size);
        }
        let mut ebpf = loader
            .map_max_entries("ports", ports_max.max(1))
            .map_max_entries("offloads", ports_max.max(1))
            .map_max_entries("sockets", ports_max.max(1) * QUEUES_MAX)
            .load(OBJECT)
            .map_err(|error| failed(&error))?;
        xdp(&mut ebpf, buffers)?
            .load()
            .map_err(|error| failed(&error))?;
        let ends = map(&mut ebpf, "guard_ends")?;
        let guard = Guard::load(&mut ebpf, ends, ports_max)?;
        Ok(Self {
            guard,
            rules: RuleMaps::new(&mut ebpf, options)?,
            ports: map(&mut ebpf, "ports")?,
            sockets: map(&mut ebpf, "sockets")?,
            classes: map(&mut ebpf, "classes")?,
            offloads: map(&mut ebpf, "offloads")?,
            links: (0..ports_max).map(|_| None).collect(),
            ebpf,
            buffers,
        })
    }

    /// Configures a port by its interface index and MTU: frames of its first `queues` queues go to their
    /// sockets.
    ///
    /// # Errors
    /// [`XdpError::Program`], for more than `ports_max` ports.
    pub fn set_port(
        &mut self,
        port: PortId,
        (index, mtu): (u32, u32),
        filter: MacFilter,
        queues: u32,
    ) -> Result<(), XdpError> {
        let (macs, bridged) = match filter {
            MacFilter::Own(mac) => ([mac; 3], false),
            MacFilter::Bridged(macs) => (macs, true),
        };
        let mut value = PortValue::default();
        value[0..4].copy_from_slice(&u32::from(port.0).to_ne_bytes());
        value[4..8].copy_from_slice(&queues.to_ne_bytes());
        value[8..12].copy_from_slice(&(mtu + LINK_LEN_MAX).to_ne_bytes());
        value[12..30].copy_from_slice(macs.map(|mac| mac.0).as_flattened());
        value[30] = bridged.into();
        let what = || format!("steering of interface index {index}");
        self.ports
            .insert(index, value, 0)
            .map_err(|error| XdpError::program(what(), &error))
    }

    /// Forgets an interface that is gone, and detaches from it.
    pub(crate) fn remove_port(&mut self, port: PortId, index: u32) {
        // Both fail if the interface has taken them along.
        let _ = self.ports.remove(&index);
        self.guard.detach(port);
        if let Some(link) = self.links.get_mut(port.index()) {
            *link = None;
        }
    }

    /// Stores the socket of a port's queue.
    pub(crate) fn set_socket(
        &mut self,
        port: PortId,
        queue: u32,
        socket: &impl AsRawFd,
    ) -> Result<(), XdpError> {
        let what = || format!("steering to the socket of queue {queue}");
        self.sockets
            .set(
                u32::from(port.0) * QUEUES_MAX + queue,
                socket.as_raw_fd(),
                0,
            )
            .map_err(|error| XdpError::program(what(), &error))
    }

    /// Attaches the program to an interface: in native mode if the driver supports it, otherwise in
    /// generic mode, with the reason.
    ///
    /// # Errors
    /// [`XdpError::Occupied`] when another program is attached, which stays; [`XdpError::Privilege`] or
    /// [`XdpError::Program`].
    pub(crate) fn attach(
        &mut self,
        port: PortId,
        interface: &Interface,
    ) -> Result<(AttachMode, Option<String>), XdpError> {
        if let Err(error) = self.guard.attach(&mut self.ebpf, port, interface.index) {
            let name = &interface.name;
            tracing::warn!(
                "interface {name}: guarding: {error}; frames that reach the kernel past the XDP program, as \
                 a veth's while it gets more queues, are routed past NAT"
            );
        }
        let refused = match self.attach_as(port, interface, AttachPoint::XdpNative) {
            Ok(()) => return Ok((AttachMode::Native, None)),
            Err(error) => error,
        };
        match refused.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => return Err(occupied(interface)),
            Some(libc::EPERM) => {
                return Err(XdpError::Privilege {
                    what: format!("interface {}: attaching the XDP program", interface.name),
                    source: refused,
                });
            }
            _ => {}
        }
        match self.attach_as(port, interface, AttachPoint::XdpGeneric) {
            Ok(()) => Ok((AttachMode::Generic, Some(refused.to_string()))),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Err(occupied(interface)),
                _ => {
                    let what = format!("attaching to interface {}", interface.name);
                    Err(XdpError::program(what, &error))
                }
            },
        }
    }

    /// Replaces the attached program by a new copy, on every port without a gap. A veth runs a program only
    /// on the queues that it had when the program was set (`veth_enable_xdp`, drivers/net/veth.c).
    pub(crate) fn renew(&mut self) -> Result<(), XdpError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            XdpError::program("replacing the XDP program", error)
        };
        let program = xdp(&mut self.ebpf, self.buffers)?;
        program.unload().map_err(|error| failed(&error))?;
        program.load().map_err(|error| failed(&error))?;
        self.update_links().map_err(|error| failed(&error))
    }

    /// Has the links run this program.
    fn update_links(&mut self) -> io::Result<()> {
        let program = xdp(&mut self.ebpf, self.buffers).map_err(io::Error::other)?;
        let program = program.fd().map_err(io::Error::other)?.as_fd();
        self.links
            .iter()
            .flatten()
            .try_for_each(|link| sys::update_link(link, program))
    }

    /// Returns descriptors of the links of the program and of the guard, by port: while one is open, they
    /// stay attached.
    pub(crate) fn links(&self) -> io::Result<Vec<[Option<OwnedFd>; 2]>> {
        let copy = |link: Option<&OwnedFd>| link.map(OwnedFd::try_clone).transpose();
        let ports = (0..).map(PortId).zip(&self.links);
        ports
            .map(|(port, link)| Ok([copy(link.as_ref())?, copy(self.guard.link(port))?]))
            .collect()
    }

    /// Takes links over from another process, and has them run the programs of this one.
    pub(crate) fn take_links(&mut self, links: Vec<[Option<OwnedFd>; 2]>) -> Result<(), XdpError> {
        for (port, [link, guard]) in (0..).map(PortId).zip(links) {
            if let Some(place) = self.links.get_mut(port.index()) {
                *place = link;
            }
            self.guard.take(port, guard);
        }
        let updated = self.guard.update_links(&mut self.ebpf);
        updated
            .and_then(|()| self.update_links())
            .map_err(|error| XdpError::program("replacing the programs of the ports", &error))
    }

    /// Leaves the guard on these interfaces for this long, also after the end of this process.
    pub(crate) fn hold_guard<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a str>,
        span: Duration,
    ) -> Result<(), XdpError> {
        self.guard.hold(&mut self.ebpf, interfaces, span)
    }

    fn attach_as(
        &mut self,
        port: PortId,
        interface: &Interface,
        at: AttachPoint,
    ) -> io::Result<()> {
        let program = xdp(&mut self.ebpf, self.buffers).map_err(io::Error::other)?;
        let program = program.fd().map_err(io::Error::other)?.as_fd();
        let link = sys::create_link(program, interface.index, at)?;
        if let Some(place) = self.links.get_mut(port.index()) {
            *place = Some(link);
        }
        Ok(())
    }

    /// Puts `rules` into effect.
    ///
    /// # Errors
    /// [`XdpError::TooManyRules`], or [`XdpError::Rule`]. Rules in effect that are in `rules` too stay.
    pub fn apply(&mut self, rules: &Rules) -> Result<(), XdpError> {
        self.rules.apply(rules)
    }

    /// Returns the number of frames of each class, over all ports.
    #[must_use]
    pub fn classes(&self) -> [(Class, u64); Class::ALL.len()] {
        Class::ALL.map(|class| {
            let counts = self.classes.get(&(class as u32), 0);
            (class, counts.map_or(0, |counts| counts.iter().sum()))
        })
    }

    /// Returns what a port's frames have shown of their senders' offloads so far.
    #[must_use]
    pub fn offloads(&self, port: PortId) -> Offloads {
        let counts = self.offloads.get(&port.0.into(), 0);
        let sum = |at: usize| -> u64 {
            let counts = counts.iter().flat_map(|counts| counts.iter());
            counts.map(|count| count[at]).sum()
        };
        Offloads {
            checked: sum(0),
            partial: sum(1),
            oversized: sum(2),
        }
    }

    /// Returns the class of a frame received on queue 0 of the loopback device (`BPF_PROG_TEST_RUN`).
    /// For tests; needs [`Program::set_port`] for that device.
    ///
    /// # Errors
    /// [`XdpError::Program`] for a frame shorter than an Ethernet header, and where the guard disagrees: it
    /// drops exactly what is not [`Class::Pass`].
    pub fn classify(&mut self, frame: &[u8]) -> Result<Class, XdpError> {
        let before = self.classes();
        let run = TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::new()
        };
        xdp(&mut self.ebpf, self.buffers)?
            .test_run(run)
            .map_err(|error| XdpError::program("test run", &error))?;
        let after = self.classes();
        let counted = before
            .iter()
            .zip(&after)
            .find(|(before, after)| before.1 != after.1);
        let class = counted.map_or(Class::Pass, |(_, after)| after.0);
        let dropped = self.guard.drops(&mut self.ebpf, frame);
        let dropped = dropped.map_err(|error| XdpError::program("test run", &error))?;
        match dropped {
            Some(dropped) if dropped != (class != Class::Pass) => Err(XdpError::Program {
                what: format!("the guard, of a frame of class {class:?}"),
                text: format!("dropped: {dropped}"),
            }),
            _ => Ok(class),
        }
    }

    /// Returns how many instructions the kernel's verifier looked at; `None` before Linux 5.16. For tests.
    ///
    /// # Errors
    /// [`XdpError::Program`].
    pub fn verified_instructions(&mut self) -> Result<Option<u32>, XdpError> {
        let info = xdp(&mut self.ebpf, self.buffers)?.info();
        let info = info.map_err(|error| XdpError::program("its description", &error))?;
        Ok(info.verified_instruction_count())
    }
}

fn occupied(interface: &Interface) -> XdpError {
    XdpError::Occupied {
        interface: interface.name.clone(),
        holder: Holder::of(interface.index),
    }
}

/// Rejects a kernel without XDP links (Linux 5.9), without which the program would outlive a killed process,
/// without a UMEM shared between devices (5.10), or whose verifier knows no global functions that take memory
/// (5.12).
fn require_links() -> Result<(), XdpError> {
    let (major, minor) = LINUX_MIN;
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(major, minor, 0) => Err(XdpError::Program {
            what: "loading".into(),
            text: format!("the kernel is older than Linux {major}.{minor}; use a newer one"),
        }),
        _ => Ok(()),
    }
}

/// Returns the program of the object.
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

/// Takes a map from the object.
pub(crate) fn map<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, XdpError> {
    let missing = || XdpError::Program {
        what: format!("map {name}"),
        text: "not in the object".into(),
    };
    let map = ebpf.take_map(name).ok_or_else(missing)?;
    T::try_from(map).map_err(|error| XdpError::program(format!("map {name}"), &error))
}
