//! The guard: a program where a port's frames become the kernel's, behind the XDP program.
//!
//! Invariant: the kernel, which would route it past NAT, gets no frame for the workers. A veth runs no XDP
//! program on queues that are added later, until the program is set again (`veth_enable_xdp`,
//! drivers/net/veth.c). Before Linux 6.6 there is no guard: it would outlive a killed process.

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLinkId, TcAttachType};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use waxwing_dataplane::PortId;

/// The program's name in the object.
const NAME: &str = "waxwing_guard";
/// What it returns for a frame that the kernel must not get (`linux/pkt_cls.h`).
const TC_ACT_SHOT: u32 = 2;
/// The first kernel with links for it.
const LINUX_MIN: KernelVersion = KernelVersion::new(6, 6, 0);

/// The guard's links, by port.
pub(crate) struct Guard(Vec<Option<SchedClassifierLinkId>>);

impl Guard {
    /// Loads the program; on an older kernel there is none.
    pub(crate) fn load(ebpf: &mut Ebpf, ports_max: u32) -> Result<Self, ProgramError> {
        if !KernelVersion::current().is_ok_and(|version| version >= LINUX_MIN) {
            return Ok(Self(Vec::new()));
        }
        program(ebpf)?.load()?;
        Ok(Self((0..ports_max).map(|_| None).collect()))
    }

    /// Attaches it to a port that has none yet.
    pub(crate) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        port: PortId,
        interface: &str,
    ) -> Result<(), ProgramError> {
        if let Some(place @ None) = self.0.get_mut(port.index()) {
            *place = Some(program(ebpf)?.attach(interface, TcAttachType::Ingress)?);
        }
        Ok(())
    }

    /// Detaches it from a port, whose interface may be gone.
    pub(crate) fn detach(&mut self, ebpf: &mut Ebpf, port: PortId) {
        let link = self.0.get_mut(port.index()).and_then(Option::take);
        if let (Some(link), Ok(program)) = (link, program(ebpf)) {
            let _ = program.detach(link);
        }
    }

    /// Returns whether it drops a frame received on the loopback device (`BPF_PROG_TEST_RUN`); `None` on a
    /// kernel without a guard, and for a frame that the kernel makes no packet of in a test run: its network
    /// header is truncated, or it is longer than a page.
    pub(crate) fn drops(
        &self,
        ebpf: &mut Ebpf,
        frame: &[u8],
    ) -> Result<Option<bool>, ProgramError> {
        if self.0.is_empty() {
            return Ok(None);
        }
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

fn is_no_packet(error: &SyscallError) -> bool {
    error.io_error.raw_os_error() == Some(libc::EINVAL)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    ebpf.program_mut(NAME)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}
