//! Attaches ports: the XDP program to each port, a socket to each queue.
//!
//! Invariant: everything is undone when the values created here are dropped, workers first, or when the
//! process ends in any way. Exceptions: only an orderly exit restores the device settings for busy polling,
//! and [`Attached::hold`].
//! The program and its rules stay while sockets are bound again, so the kernel never gets a frame that is
//! for the workers.

use std::time::{Duration, Instant};

use waxwing_dataplane::PortId;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_packet::Mac;

use crate::device::{self, DeviceSetting};
use crate::guard;
use crate::io::WorkerSockets;
use crate::multicast::Memberships;
use crate::offloads::OffloadWatch;
use crate::options::LINK_LEN_MAX;
use crate::program::{AttachMode, Class, MacFilter, Program};
use crate::queues;
use crate::rings::Counts;
use crate::socket::{self, QueueSocket, Sockets};
use crate::sys::Statistics;
use crate::tap::Tap;
use crate::{Buffers, Interface, Options, PortOptions, XdpError};

/// The attached ports, owned by the control thread while the workers run.
///
/// Dropping it detaches the program from every port. Drop it after the workers have dropped their
/// [`crate::XdpIo`]s.
pub struct Attached {
    pub(crate) program: Program,
    pub(crate) options: Options,
    pub(crate) buffers: Buffers,
    /// The number of workers, fixed at start.
    pub(crate) workers: usize,
    pub(crate) reports: Vec<PortReport>,
    pub(crate) counts: Vec<(PortId, u32, Counts)>,
    /// The filters in effect, by port id.
    pub(crate) filters: Vec<MacFilter>,
    /// The MAC addresses of the last rules, by port id. Rules may be older than an interface that was made
    /// again, so only a change of them is news.
    pub(crate) ruled_macs: Vec<Mac>,
    pub(crate) memberships: Memberships,
    pub(crate) tap: Option<Tap>,
    /// By port id.
    pub(crate) offloads: Vec<OffloadWatch>,
    /// Whether the queues have sockets; not after a failed [`Attached::bind_again`].
    pub(crate) is_bound: bool,
    /// Restored on drop.
    pub(crate) device_settings: Vec<DeviceSetting>,
}

/// How a port was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// The interface when it was attached.
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
    /// Index of the queue.
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

/// What [`Attached::follow`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Whether to call [`Attached::bind_again`]: an interface was made again, or has another number of
    /// queues. `false` while an interface is missing.
    pub must_bind: bool,
    /// What needs the operator.
    pub problems: Vec<String>,
}

/// Attaches the ports.
///
/// Returns one [`WorkerSockets`] per worker, in order. There are as many workers as the port with the fewest
/// queues has; worker `w` serves queue `w` of every port, and further queues are shared out. The kernel gets
/// every frame until [`Steering::apply`].
///
/// # Errors
/// An [`XdpError`] with interface, queue and remedy. Nothing stays attached.
pub fn attach(
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, Vec<WorkerSockets>), XdpError> {
    let (mut attached, interfaces) = load(ports, options)?;
    // The program first: it detects an interface in use before anything there changes.
    for (port, interface) in (0..).map(PortId).zip(&interfaces) {
        attached.attach_program(port, interface)?;
    }
    if let Some(name) = &options.kernel_path {
        attached.tap = Some(Tap::create(name, attached.workers, &interfaces[0].name)?);
    }
    let sockets = attached.bind(&interfaces)?;
    Ok((attached, sockets))
}

/// Loads the program, and attaches nothing.
pub(crate) fn load(
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, Vec<Interface>), XdpError> {
    options.check()?;
    let names = ports.iter().map(|port| &*port.interface);
    let interfaces = find_interfaces(names, options)?;
    let buffers = buffers_for(&interfaces, options);
    let ports_count = u32::try_from(interfaces.len()).unwrap_or(u32::MAX);
    let workers = queues::workers(&interfaces);
    let attached = Attached {
        program: Program::load(options, buffers, ports_count)?,
        options: options.clone(),
        buffers,
        workers,
        reports: interfaces.iter().map(unattached).collect(),
        counts: Vec::new(),
        filters: interfaces.iter().map(|it| MacFilter::Own(it.mac)).collect(),
        ruled_macs: interfaces.iter().map(|it| it.mac).collect(),
        memberships: Memberships::default(),
        tap: None,
        offloads: interfaces.iter().map(|_| OffloadWatch::default()).collect(),
        is_bound: false,
        device_settings: Vec::new(),
    };
    Ok((attached, interfaces))
}

/// Returns the report of an interface before it is attached.
fn unattached(interface: &Interface) -> PortReport {
    PortReport {
        interface: interface.clone(),
        attach_mode: AttachMode::Generic,
        attach_why: None,
        interrupts_deferred: false,
        queues: Vec::new(),
    }
}

fn find_interfaces<'a>(
    names: impl ExactSizeIterator<Item = &'a str>,
    options: &Options,
) -> Result<Vec<Interface>, XdpError> {
    let count = names.len();
    if count == 0 || count > usize::from(u8::MAX) {
        return Err(XdpError::Options(format!(
            "{count} ports: must be from 1 to 255"
        )));
    }
    let mut found: Vec<Interface> = Vec::with_capacity(count);
    for name in names {
        let interface = Interface::find(name)?;
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

/// Returns whether an interface must be attached again: it was made again, or its queues changed.
fn has_changed(then: &Interface, now: &Interface) -> bool {
    let queues = |it: &Interface| (it.index, it.queues, it.transmit_queues);
    queues(then) != queues(now)
}

/// Returns how each queue of a port was bound.
fn queue_reports(sockets: &[QueueSocket], why: Option<&str>) -> Vec<QueueReport> {
    let report = |(queue, socket): (u32, &QueueSocket)| QueueReport {
        queue,
        zero_copy: socket.rings.bound().zero_copy,
        why: why.map(str::to_owned),
    };
    (0..).zip(sockets).map(report).collect()
}

impl Attached {
    /// Follows the ports' interfaces and the TAP device, except for sockets: attaches the program to an
    /// interface that was made again, takes over MTUs, makes the TAP device again.
    pub fn follow(&mut self) -> Changes {
        let mut problems: Vec<String> = self.tap.iter().filter_map(Tap::follow).collect();
        let find = |report: &PortReport| Interface::find(&report.interface.name).ok();
        let now: Vec<Option<Interface>> = self.reports.iter().map(find).collect();
        let mut all_attached = true;
        for (port, now) in (0..).map(PortId).zip(&now) {
            let then = &self.reports[port.index()].interface;
            let is_new = now.as_ref().filter(|now| now.index != then.index);
            if let Some(Err(error)) = is_new.map(|now| self.attach_new(port, now)) {
                problems.push(format!("{error}; tried again every second"));
                all_attached = false;
            }
        }
        self.follow_mtu(&now);
        for (port, watch) in (0..).map(PortId).zip(&mut self.offloads) {
            let Interface { name, mtu, .. } = &self.reports[port.index()].interface;
            let counts = self.program.offloads(port);
            problems.extend(watch.problems((name, *mtu), counts, Instant::now()));
        }
        let mut ports = self.reports.iter().zip(&now);
        let is_there = now.iter().all(Option::is_some);
        let has_changed = ports.any(|(report, now)| {
            now.as_ref()
                .is_some_and(|now| has_changed(&report.interface, now))
        });
        Changes {
            must_bind: all_attached && is_there && (has_changed || !self.is_bound),
            problems,
        }
    }

    /// Attaches the program to an interface that was made again under a port's name: at once, before it is
    /// up, so that the kernel never routes a server's reply past NAT.
    fn attach_new(&mut self, port: PortId, now: &Interface) -> Result<(), XdpError> {
        self.is_bound = false;
        let then = self.reports[port.index()].interface.index;
        self.program.remove_port(port, then);
        let filter = &mut self.filters[port.index()];
        if let MacFilter::Own(mac) = filter {
            *mac = now.mac;
        }
        // Before it is attached, so that no frame misses its rules.
        let at = (now.index, now.mtu);
        self.program.set_port(port, at, *filter, 0)?;
        self.attach_program(port, now)
    }

    /// Binds every queue of the ports again, as they are now. The workers must have dropped their
    /// [`crate::XdpIo`]s. Returns the same number of [`WorkerSockets`] as [`attach`]: without sockets for
    /// workers that a port has too few queues for.
    ///
    /// # Errors
    /// As [`attach`]. The workers then have no sockets; call it again.
    pub fn bind_again(&mut self) -> Result<Vec<WorkerSockets>, XdpError> {
        self.is_bound = false;
        let before = self.without_socket();
        let names: Vec<String> = self
            .reports
            .iter()
            .map(|r| r.interface.name.clone())
            .collect();
        let interfaces = find_interfaces(names.iter().map(String::as_str), &self.options)?;
        for (port, now) in (0..).map(PortId).zip(&interfaces) {
            if self.reports[port.index()].interface.index != now.index {
                self.attach_new(port, now)?;
            }
        }
        self.program.renew()?;
        let sockets = self.bind(&interfaces)?;
        if let Err(error) = self.memberships.move_to(&self.indices()) {
            warn_of_memberships(&error);
        }
        let missed = self.without_socket() - before;
        tracing::info!("ports attached again; {missed} frames were dropped meanwhile");
        Ok(sockets)
    }

    fn attach_program(&mut self, port: PortId, interface: &Interface) -> Result<(), XdpError> {
        let (mode, why) = self.program.attach(port, interface)?;
        let report = &mut self.reports[port.index()];
        (report.attach_mode, report.attach_why) = (mode, why);
        report.interface = interface.clone();
        Ok(())
    }

    /// Binds a socket to every queue, and steers to it.
    fn bind(&mut self, interfaces: &[Interface]) -> Result<Vec<WorkerSockets>, XdpError> {
        // Restored before they are changed again.
        self.device_settings.clear();
        let Sockets { umem, bound, why } =
            socket::bind_all(interfaces, &self.options, self.buffers)?;
        self.counts.clear();
        let ports = (0..).map(PortId).zip(interfaces.iter().zip(&bound));
        for (port, (interface, sockets)) in ports {
            for (queue, socket) in (0..).zip(sockets) {
                self.program
                    .set_socket(port, queue, socket.rings.socket())?;
                self.counts.push((port, queue, socket.rings.counts()));
            }
            let report = &mut self.reports[port.index()];
            report.queues = queue_reports(sockets, why.as_deref());
            report.interface = interface.clone();
            let filter = self.filters[port.index()];
            self.program.set_port(
                port,
                (interface.index, interface.mtu),
                filter,
                interface.queues,
            )?;
        }
        self.device_settings =
            device::defer_interrupts_of(&mut self.reports, &bound, &self.options);
        let shares = queues::share_out(bound, queues::workers(interfaces), self.workers);
        let taps = self.tap.as_ref().map_or_else(Vec::new, Tap::queues);
        self.is_bound = true;
        Ok(queues::by_worker(
            &umem,
            shares,
            taps,
            &self.options,
            self.buffers,
        ))
    }

    /// Keeps frames for the workers from the kernel for this long, also after the end of this process: drop
    /// the value then. [`Attached::release`] of the next process ends it.
    ///
    /// # Errors
    /// [`XdpError`]; the kernel gets these frames of some ports when the value is dropped.
    pub fn hold(&mut self, span: Duration) -> Result<(), XdpError> {
        let names = self.reports.iter().map(|it| &*it.interface.name);
        self.program.hold_guard(names, span)
    }

    /// Ends what [`Attached::hold`] of an earlier process left. Call it once the rules are applied.
    pub fn release(&self) {
        let names = self.reports.iter().map(|it| &*it.interface.name);
        names.for_each(guard::release);
    }

    /// Takes over the ports' MTUs: longer frames show a sender's offloads.
    fn follow_mtu(&mut self, interfaces: &[Option<Interface>]) {
        for (port, now) in (0..).map(PortId).zip(interfaces) {
            let then = &mut self.reports[port.index()].interface;
            if let Some(now) = now
                && !has_changed(then, now)
                && then.mtu != now.mtu
            {
                let filter = self.filters[port.index()];
                let set = self
                    .program
                    .set_port(port, (now.index, now.mtu), filter, now.queues);
                match set {
                    Ok(()) => then.mtu = now.mtu,
                    Err(error) => tracing::error!("{error}"),
                }
            }
        }
    }

    fn indices(&self) -> Vec<u32> {
        self.reports.iter().map(|r| r.interface.index).collect()
    }

    /// Returns the number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Returns the number of frames for workers that were dropped because their queue had no socket.
    fn without_socket(&self) -> u64 {
        let classes = self.program.classes();
        classes
            .into_iter()
            .find(|(class, _)| *class == Class::NoSocket)
            .map_or(0, |(_, n)| n)
    }

    /// Returns how every port was attached, by port id.
    #[must_use]
    pub fn reports(&self) -> &[PortReport] {
        &self.reports
    }

    /// Returns the maximum MTU, in bytes: a port's MTU may grow up to it later.
    #[must_use]
    pub fn mtu_max(&self) -> u32 {
        self.options.mtu_max(self.buffers)
    }

    /// Returns the maximum frame length for the ports' MTU now, link header and tags included, in
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
        let ports = self.reports.iter_mut().zip(&mut self.filters);
        let ruled = self.ruled_macs.iter_mut().zip(&rules.macs);
        for (port, ((report, in_effect), (ruled, mac))) in (0..).map(PortId).zip(ports.zip(ruled)) {
            let Interface {
                index, queues, mtu, ..
            } = report.interface;
            if std::mem::replace(ruled, *mac) != *mac {
                report.interface.mac = *mac;
            }
            let own = MacFilter::Own(report.interface.mac);
            let wanted = rules.bridge.map_or(own, MacFilter::Bridged);
            if *in_effect != wanted {
                self.program
                    .set_port(port, (index, mtu), wanted, queues)
                    .map_err(|error| failed(&error))?;
                *in_effect = wanted;
            }
        }
        if let Err(error) = self.memberships.update(rules, &self.indices()) {
            warn_of_memberships(&error);
        }
        self.program.apply(rules).map_err(|error| failed(&error))
    }
}

fn warn_of_memberships(error: &std::io::Error) {
    tracing::warn!(
        "joining the solicited-node multicast groups of the VIPs: {error}; neighbours may not resolve IPv6 \
         VIPs; enable IPv6 on every port (net.ipv6.conf.*.disable_ipv6 = 0)"
    );
}
