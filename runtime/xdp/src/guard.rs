//! The guard: a program where a port's frames become the kernel's, behind the XDP program.
//!
//! Invariant: the kernel, which would route it past NAT, gets no frame for the workers: neither from a veth,
//! which runs no XDP program on queues that are added later, until the program is set again
//! (`veth_enable_xdp`, drivers/net/veth.c), nor, for a while, between the end of this process and the next
//! one. It attaches by links, which end with the process, from Linux 6.6 on. What outlives the process is a
//! filter that ends itself.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::tc::{self, NlOptions, TcAttachOptions, TcAttachType, TcError};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use rustix::time::{ClockId, clock_gettime};
use waxwing_dataplane::PortId;

use crate::XdpError;
use crate::sys::{self, AttachPoint};

/// The program's name in the object.
const NAME: &str = "waxwing_guard";
/// What it returns for a frame that the kernel must not get (`linux/pkt_cls.h`).
const TC_ACT_SHOT: u32 = 2;
/// The first kernel with links for it.
const LINKS_MIN: KernelVersion = KernelVersion::new(6, 6, 0);

pub(crate) struct Guard {
    /// By port; none on an older kernel.
    links: Vec<Option<OwnedFd>>,
    ends: Array<MapData, u64>,
}

impl Guard {
    pub(crate) fn load(
        ebpf: &mut Ebpf,
        ends: Array<MapData, u64>,
        ports_max: u32,
    ) -> Result<Self, XdpError> {
        let loaded = program(ebpf).and_then(SchedClassifier::load);
        loaded.map_err(|error| XdpError::program("loading the guard", &error))?;
        let has_links = KernelVersion::current().is_ok_and(|version| version >= LINKS_MIN);
        let count = if has_links { ports_max } else { 0 };
        Ok(Self {
            links: (0..count).map(|_| None).collect(),
            ends,
        })
    }

    /// Attaches it to a port that has none yet.
    pub(crate) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        port: PortId,
        interface: u32,
    ) -> io::Result<()> {
        if let Some(place @ None) = self.links.get_mut(port.index()) {
            let program = program(ebpf).map_err(io::Error::other)?;
            let program = program.fd().map_err(io::Error::other)?.as_fd();
            *place = Some(sys::create_link(
                program,
                interface,
                AttachPoint::TcIngress,
            )?);
        }
        Ok(())
    }

    pub(crate) fn link(&self, port: PortId) -> Option<&OwnedFd> {
        self.links.get(port.index())?.as_ref()
    }

    /// Takes a port's link over; [`Guard::update_links`] has it run this program.
    pub(crate) fn take(&mut self, port: PortId, link: Option<OwnedFd>) {
        if let Some(place) = self.links.get_mut(port.index()) {
            *place = link;
        }
    }

    pub(crate) fn update_links(&self, ebpf: &mut Ebpf) -> io::Result<()> {
        let program = program(ebpf).map_err(io::Error::other)?;
        let program = program.fd().map_err(io::Error::other)?.as_fd();
        let mut links = self.links.iter().flatten();
        links.try_for_each(|link| sys::update_link(link, program))
    }

    /// Leaves it on these interfaces for this long, whatever becomes of this process.
    pub(crate) fn hold<'a>(
        &mut self,
        ebpf: &mut Ebpf,
        interfaces: impl Iterator<Item = &'a str>,
        span: Duration,
    ) -> Result<(), XdpError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            XdpError::program("leaving the guard for the next start", error)
        };
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::try_from(now).map_err(|error| failed(&error))?;
        let ends = u64::try_from((now + span).as_nanos()).unwrap_or(u64::MAX);
        self.ends.set(0, ends, 0).map_err(|error| failed(&error))?;
        let program = program(ebpf).map_err(|error| failed(&error))?;
        for interface in interfaces {
            release(interface);
            // It fails if there is one; if it fails otherwise, so does what follows.
            let _ = tc::qdisc_add_clsact(interface);
            let options = TcAttachOptions::Netlink(NlOptions::default());
            let link = program
                .attach_with_options(interface, TcAttachType::Ingress, options)
                .and_then(|id| program.take_link(id));
            // Dropping the link would detach it.
            std::mem::forget(link.map_err(|error| failed(&error))?);
        }
        Ok(())
    }

    /// Detaches it from a port, whose interface may be gone.
    pub(crate) fn detach(&mut self, port: PortId) {
        self.take(port, None);
    }

    /// Returns whether it drops a frame received on the loopback device (`BPF_PROG_TEST_RUN`); `None` for a
    /// frame that the kernel makes no packet of in a test run: its network header is truncated, or it is
    /// longer than a page.
    pub(crate) fn drops(
        &self,
        ebpf: &mut Ebpf,
        frame: &[u8],
    ) -> Result<Option<bool>, ProgramError> {
        let run = TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::new()
        };
        match program(ebpf)?.test_run(run) {
            Ok(result) => Ok(Some(result.return_value == TC_ACT_SHOT)),
            Err(ProgramError::SyscallError(error)) if is_no_packet(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Removes what [`Guard::hold`] of an earlier process left on an interface.
pub(crate) fn release(interface: &str) {
    match tc::qdisc_detach_program(interface, TcAttachType::Ingress, NAME) {
        Ok(()) => {}
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
        // It ends itself, and a new one takes its place.
        Err(error) => {
            tracing::debug!("interface {interface}: the guard of an earlier run: {error}");
        }
    }
}

fn is_no_packet(error: &SyscallError) -> bool {
    error.io_error.raw_os_error() == Some(libc::EINVAL)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    ebpf.program_mut(NAME)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}
