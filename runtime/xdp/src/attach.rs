//! Attaches ports: the XDP program to each port, a socket to each queue.
//!
//! Invariant: everything is undone when the values created here are dropped, workers first, or when the
//! process ends in any way. Exception: only an orderly exit restores the device settings for busy polling.

use std::mem;

use waxwing_dataplane::PortId;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use xsk_rs::umem::Umem;

use crate::device::{self, DeviceSetting};
use crate::io::WorkerSockets;
use crate::multicast::Memberships;
use crate::options::LINK_LEN_MAX;
use crate::program::{AttachMode, Class, MacFilter, Program};
use crate::socket::{self, Counts, QueueSocket};
use crate::sys::Statistics;
use crate::tap::{self, TapQueue};
use crate::{Buffers, Interface, Options, PortOptions, XdpError};

/// The attached ports, owned by the control thread while the workers run.
///
/// Dropping it detaches the program from every port. Drop it after the workers have dropped their
/// [`crate::XdpIo`]s.
pub struct Attached {
    program: Program,
    mtu_max: u32,
    reports: Vec<PortReport>,
    counts: Vec<(PortId, u32, Counts)>,
    /// The filters in effect, by port id.
    filters: Vec<MacFilter>,
    memberships: Memberships,
    /// Restored on drop.
    _device_settings: Vec<DeviceSetting>,
}

/// How a port was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// The interface at start.
    pub interface: Interface,
    pub attach_mode: AttachMode,
    /// Why not in native mode.
    pub attach_why: Option<String>,
    /// Whether its interrupts are deferred for busy polling.
    pub interrupts_deferred: bool,
    /// By queue index.
    pub queues: Vec<QueueReport>,
}

/// How a queue was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// Index of the queue, and of its worker.
    pub queue: u32,
    /// Whether the kernel reports zero-copy mode.
    pub zero_copy: bool,
    /// Why zero-copy was tried without success.
    pub why: Option<String>,
}

/// A queue's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatistics {
    pub port: PortId,
    pub queue: u32,
    /// The kernel's counters; `None` after the worker has closed the socket.
    pub counts: Option<Statistics>,
}

/// Attaches the ports.
///
/// Returns one [`WorkerSockets`] per queue index, in order; worker `q` serves queue `q` of every port that
/// has one. The kernel gets every frame until [`Steering::apply`].
///
/// # Errors
/// An [`XdpError`] with interface, queue and remedy. Nothing stays attached.
pub fn attach(
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, Vec<WorkerSockets>), XdpError> {
    options.check()?;
    let interfaces = find_interfaces(ports, options)?;
    let buffers = buffers_for(&interfaces, options);
    let sockets_count = interfaces.iter().map(|interface| interface.queues).sum();
    let ports_count = u32::try_from(interfaces.len()).unwrap_or(u32::MAX);
    let mut program = Program::load(options, buffers, ports_count, sockets_count)?;

    // The program first: it detects an interface in use before anything there changes.
    let mut modes = Vec::with_capacity(interfaces.len());
    for interface in &interfaces {
        modes.push(program.attach(interface)?);
    }
    let sockets = socket::bind_all(&interfaces, options, buffers)?;
    let mut reports = report(&interfaces, modes, &sockets.bound, sockets.why.as_deref());
    let counts = register_sockets(&mut program, &interfaces, &sockets.bound)?;
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
    let workers = split_by_worker(&sockets.umem, sockets.bound, taps, options, buffers);
    let own = |interface: &Interface| MacFilter::Own(interface.mac);
    Ok((
        Attached {
            mtu_max: options.mtu_max(buffers),
            program,
            reports,
            counts,
            filters: interfaces.iter().map(own).collect(),
            memberships: Memberships::default(),
            _device_settings: settings,
        },
        workers,
    ))
}

fn find_interfaces(ports: &[PortOptions], options: &Options) -> Result<Vec<Interface>, XdpError> {
    if ports.is_empty() || ports.len() > usize::from(u8::MAX) {
        let count = ports.len();
        return Err(XdpError::Options(format!(
            "{count} ports: must be from 1 to 255"
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

/// Returns [`Buffers::Several`] only if a port's MTU needs it: few drivers support multi-buffer frames,
/// fewer in zero-copy mode.
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

/// Stores every queue's socket in the program's map.
fn register_sockets(
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
        let own = MacFilter::Own(interface.mac);
        program.set_port(interface.index, own, first, interface.queues)?;
        first += interface.queues;
    }
    Ok(counts)
}

/// Gives each worker its queue of every port, its chunks and its queue of the TAP device.
fn split_by_worker(
    umem: &Umem,
    bound: Vec<Vec<QueueSocket>>,
    taps: Vec<TapQueue>,
    options: &Options,
    buffers: Buffers,
) -> Vec<WorkerSockets> {
    let workers = bound.iter().map(Vec::len).max().unwrap_or(0);
    let mut by_port: Vec<_> = bound.into_iter().map(Vec::into_iter).collect();
    let mut taps = taps.into_iter();
    let mut of_worker = |queue| {
        let mut sockets: Vec<_> = by_port.iter_mut().map(Iterator::next).collect();
        let total = sockets.iter().flatten().count() * options.frames_per_queue as usize;
        let of_socket = |socket: &mut QueueSocket| mem::take(&mut socket.free);
        let free = sockets.iter_mut().flatten().flat_map(of_socket).collect();
        let (umem, tap, poll) = (umem.clone(), taps.next(), options.poll);
        WorkerSockets {
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
    /// Returns how every port was attached, by port id.
    #[must_use]
    pub fn reports(&self) -> &[PortReport] {
        &self.reports
    }

    /// Returns the maximum MTU, in bytes: a port's MTU may grow up to it later.
    #[must_use]
    pub fn mtu_max(&self) -> u32 {
        self.mtu_max
    }

    /// Returns the maximum frame length for the ports' MTU at start, link header and tags included, in
    /// bytes.
    #[must_use]
    pub fn frame_len_max(&self) -> u32 {
        let mtus = self.reports.iter().map(|report| report.interface.mtu);
        mtus.max().unwrap_or(0) + LINK_LEN_MAX
    }

    /// Returns the kernel's counters of every queue.
    #[must_use]
    pub fn statistics(&self) -> Vec<QueueStatistics> {
        let read = |&(port, queue, ref counts): &(PortId, u32, Counts)| QueueStatistics {
            port,
            queue,
            counts: counts.read(),
        };
        self.counts.iter().map(read).collect()
    }

    /// Returns the number of frames of each class, over all ports.
    #[must_use]
    pub fn classes(&self) -> [(Class, u64); Class::ALL.len()] {
        self.program.classes()
    }
}

impl Steering for Attached {
    fn apply(&mut self, rules: &Rules) -> Result<(), SteeringError> {
        let failed = |error: &dyn std::fmt::Display| SteeringError(error.to_string());
        let mut first = 0;
        let ports = self.reports.iter_mut().zip(&mut self.filters);
        for ((report, in_effect), mac) in ports.zip(&rules.macs) {
            let Interface { index, queues, .. } = report.interface;
            let wanted = rules
                .bridge
                .map_or(MacFilter::Own(*mac), MacFilter::Bridged);
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
        if let Err(error) = self.memberships.update(rules, &ports) {
            tracing::warn!(
                "joining the solicited-node multicast groups of the VIPs: {error}; neighbours may not \
                 resolve IPv6 VIPs; enable IPv6 on every port (net.ipv6.conf.*.disable_ipv6 = 0)"
            );
        }
        self.program.apply(rules).map_err(|error| failed(&error))
    }
}
