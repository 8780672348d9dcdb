//! Ports attached: the program on each, a socket on every queue, the parts of every worker.
//!
//! Invariant: what was attached is undone when the values made here are dropped, workers first,
//! or when the process ends, in any way it ends (busy polling's two device settings excepted:
//! those only an orderly end restores).

use std::mem;

use waxwing_dataplane::PortId;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use xsk_rs::umem::Umem;

use crate::device::{self, DeviceSetting};
use crate::groups::Groups;
use crate::io::WorkerParts;
use crate::options::LINK_LEN_MAX;
use crate::program::{Addressees, AttachMode, Class, Program};
use crate::socket::{self, Counts, QueueSocket};
use crate::sys::Statistics;
use crate::tap::{self, TapQueue};
use crate::{Buffers, Interface, Options, PortOptions, XdpError};

/// The attached ports, kept by the control thread for as long as the workers run.
///
/// Drop it after the workers have ended and dropped their [`crate::XdpIo`]s: it detaches the
/// program from every port.
pub struct Attached {
    program: Program,
    mtu_max: u32,
    reports: Vec<PortReport>,
    counts: Vec<(PortId, u32, Counts)>,
    /// What the program was told, by port id.
    addressees: Vec<Addressees>,
    groups: Groups,
    /// Restored when this is dropped.
    _device_settings: Vec<DeviceSetting>,
}

/// How a port was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// The interface, as it was at start.
    pub interface: Interface,
    /// Native or generic.
    pub attach_mode: AttachMode,
    /// Why not native, where it is not.
    pub attach_why: Option<String>,
    /// Whether its interrupts are deferred, as preferred busy polling wants them.
    pub interrupts_deferred: bool,
    /// Its queues, in order.
    pub queues: Vec<QueueReport>,
}

/// How a queue was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// Its index, which is its worker's too.
    pub queue: u32,
    /// Whether zero-copy is in effect, as the kernel says.
    pub zero_copy: bool,
    /// Why not, where it was tried and is not.
    pub why: Option<String>,
}

/// A queue's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatistics {
    /// The port.
    pub port: PortId,
    /// The queue.
    pub queue: u32,
    /// What the kernel counted; `None` once the worker has closed the socket.
    pub counts: Option<Statistics>,
}

/// Attaches the ports: the one entry to this crate.
///
/// There is one [`WorkerParts`] per queue index, in order; worker `q` has queue `q` of every port
/// that has one. No frame is taken from the kernel before [`Steering::apply`] says which.
///
/// # Errors
/// What failed, on which interface and queue, and what to do. Nothing stays attached.
pub fn attach(
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, Vec<WorkerParts>), XdpError> {
    options.check()?;
    let interfaces = find_interfaces(ports, options)?;
    let buffers = buffers_for(&interfaces, options);
    let sockets_count = interfaces.iter().map(|interface| interface.queues).sum();
    let ports_count = u32::try_from(interfaces.len()).unwrap_or(u32::MAX);
    let mut program = Program::load(options, buffers, ports_count, sockets_count)?;

    // The program first: it finds an interface that is in use before anything there changes.
    let mut modes = Vec::with_capacity(interfaces.len());
    for interface in &interfaces {
        modes.push(program.attach(interface)?);
    }
    let sockets = socket::bind_all(&interfaces, options, buffers)?;
    let mut reports = report(&interfaces, modes, &sockets.bound, sockets.why.as_deref());
    let counts = steer(&mut program, &interfaces, &sockets.bound)?;
    let workers = interfaces
        .iter()
        .map(|interface| interface.queues)
        .max()
        .unwrap_or(0);
    let taps = match &options.kernel_path {
        Some(name) => tap::create(name, workers as usize, &interfaces[0].name)?,
        None => Vec::new(),
    };
    let settings = device::defer_interrupts_of(&mut reports, &sockets.bound, options);
    let parts = share_out(&sockets.umem, sockets.bound, taps, options, buffers);
    let own = |interface: &Interface| Addressees::Own(interface.mac);
    Ok((
        Attached {
            mtu_max: options.mtu_max(buffers),
            program,
            reports,
            counts,
            addressees: interfaces.iter().map(own).collect(),
            groups: Groups::default(),
            _device_settings: settings,
        },
        parts,
    ))
}

fn find_interfaces(ports: &[PortOptions], options: &Options) -> Result<Vec<Interface>, XdpError> {
    if ports.is_empty() || ports.len() > usize::from(u8::MAX) {
        let count = ports.len();
        return Err(XdpError::Options(format!(
            "{count} ports: there must be from 1 to 255"
        )));
    }
    let mut found: Vec<Interface> = Vec::with_capacity(ports.len());
    for port in ports {
        let interface = Interface::find(&port.interface)?;
        if found.iter().any(|other| other.index == interface.index) {
            return Err(XdpError::InterfaceTwice(interface.name));
        }
        let mtu_max = options.mtu_max(Buffers::Several);
        if interface.mtu > mtu_max {
            return Err(XdpError::MtuTooLarge {
                interface: interface.name,
                mtu: interface.mtu,
                mtu_max,
            });
        }
        if let Some(first) = found.first()
            && first.queues != interface.queues
        {
            return Err(XdpError::QueuesDiffer {
                first: first.name.clone(),
                first_queues: first.queues,
                other: interface.name,
                other_queues: interface.queues,
            });
        }
        found.push(interface);
    }
    Ok(found)
}

/// Whether the MTU of any port asks for frames in several chunks. What is not needed is not asked for:
/// not every driver has it, least of all in zero-copy mode.
fn buffers_for(interfaces: &[Interface], options: &Options) -> Buffers {
    let mtu_max = options.mtu_max(Buffers::One);
    if interfaces.iter().all(|interface| interface.mtu <= mtu_max) {
        Buffers::One
    } else {
        Buffers::Several
    }
}

fn report(
    interfaces: &[Interface],
    modes: Vec<(AttachMode, Option<String>)>,
    bound: &[Vec<QueueSocket>],
    why: Option<&str>,
) -> Vec<PortReport> {
    let of_queue = |(queue, socket): (u32, &QueueSocket)| QueueReport {
        queue,
        zero_copy: socket.zero_copy,
        why: why.map(str::to_owned),
    };
    let ports = interfaces.iter().zip(modes).zip(bound);
    ports
        .map(
            |((interface, (attach_mode, attach_why)), sockets)| PortReport {
                interface: interface.clone(),
                attach_mode,
                attach_why,
                interrupts_deferred: false,
                queues: (0..).zip(sockets).map(of_queue).collect(),
            },
        )
        .collect()
}

/// Tells the program where every queue's socket is.
fn steer(
    program: &mut Program,
    interfaces: &[Interface],
    bound: &[Vec<QueueSocket>],
) -> Result<Vec<(PortId, u32, Counts)>, XdpError> {
    let mut counts = Vec::new();
    let mut first = 0;
    for (port, (interface, sockets)) in (0..).map(PortId).zip(interfaces.iter().zip(bound)) {
        for (queue, socket) in (0..).zip(sockets) {
            program.set_socket(first + queue, socket.rings.socket())?;
            counts.push((port, queue, socket.counts.0.clone()));
        }
        let own = Addressees::Own(interface.mac);
        program.set_port(interface.index, own, first, interface.queues)?;
        first += interface.queues;
    }
    Ok(counts)
}

/// Gives each worker its queue of every port, its frames and its way to the kernel.
fn share_out(
    umem: &Umem,
    bound: Vec<Vec<QueueSocket>>,
    taps: Vec<TapQueue>,
    options: &Options,
    buffers: Buffers,
) -> Vec<WorkerParts> {
    let workers = bound.iter().map(Vec::len).max().unwrap_or(0);
    let mut by_port: Vec<_> = bound.into_iter().map(Vec::into_iter).collect();
    let mut taps = taps.into_iter();
    let mut of_worker = |queue| {
        let mut sockets: Vec<_> = by_port.iter_mut().map(Iterator::next).collect();
        let total = sockets.iter().flatten().count() * options.frames_per_queue as usize;
        let of_socket = |socket: &mut QueueSocket| mem::take(&mut socket.free);
        let free = sockets.iter_mut().flatten().flat_map(of_socket).collect();
        let (umem, tap, poll) = (umem.clone(), taps.next(), options.poll);
        WorkerParts {
            queue,
            umem,
            free,
            total,
            sockets,
            tap,
            poll,
            buffers,
        }
    };
    (0..).take(workers).map(&mut of_worker).collect()
}

impl Attached {
    /// How every port was attached, by port id.
    #[must_use]
    pub fn reports(&self) -> &[PortReport] {
        &self.reports
    }

    /// The largest MTU of which frames fit, in bytes: that of a port may grow later.
    #[must_use]
    pub fn mtu_max(&self) -> u32 {
        self.mtu_max
    }

    /// The longest frame that the ports' MTU at the start asks for, link header and tags included, in
    /// bytes.
    #[must_use]
    pub fn frame_len_max(&self) -> u32 {
        let mtus = self.reports.iter().map(|report| report.interface.mtu);
        mtus.max().unwrap_or(0) + LINK_LEN_MAX
    }

    /// The kernel's counts of every queue.
    #[must_use]
    pub fn statistics(&self) -> Vec<QueueStatistics> {
        let read = |&(port, queue, ref counts): &(PortId, u32, Counts)| QueueStatistics {
            port,
            queue,
            counts: counts.read(),
        };
        self.counts.iter().map(read).collect()
    }

    /// How many frames the program put in each class, over all ports.
    #[must_use]
    pub fn classes(&self) -> [(Class, u64); Class::ALL.len()] {
        self.program.classes()
    }
}

impl Steering for Attached {
    fn apply(&mut self, rules: &Rules) -> Result<(), SteeringError> {
        let failed = |error: &dyn std::fmt::Display| SteeringError(error.to_string());
        let mut first = 0;
        let ports = self.reports.iter_mut().zip(&mut self.addressees);
        for ((report, in_effect), mac) in ports.zip(&rules.macs) {
            let Interface { index, queues, .. } = report.interface;
            let wanted = rules
                .bridge
                .map_or(Addressees::Own(*mac), Addressees::Bridged);
            if *in_effect != wanted {
                self.program
                    .set_port(index, wanted, first, queues)
                    .map_err(|error| failed(&error))?;
                *in_effect = wanted;
            }
            report.interface.mac = *mac;
            first += queues;
        }
        let ports: Vec<u32> = self.reports.iter().map(|r| r.interface.index).collect();
        if let Err(error) = self.groups.follow(rules, &ports) {
            tracing::warn!(
                "neighbours may not find an IPv6 VIP, for no port hears the group that they ask in: \
                 {error}; is IPv6 on at every port (net.ipv6.conf.*.disable_ipv6)?"
            );
        }
        self.program.apply(rules).map_err(|error| failed(&error))
    }
}
