//! What one process gives another in an upgrade, as text and descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxwing_control::admin::ports::GivenPorts;
use waxwing_dataplane::PortId;
use waxwing_packet::Mac;
use waxwing_xdp::{AttachMode, BoundSocket, Buffers, Handover, Options, PortLinks, TapQueue, Umem};

/// The text. The descriptors are those of the memory; of each worker's sockets and its queue of the TAP
/// device; of each port's links.
#[derive(Serialize, Deserialize)]
struct Text {
    has_several_buffers: bool,
    workers: Vec<WorkerText>,
    ports: Vec<PortText>,
}

#[derive(Default, Serialize, Deserialize)]
struct WorkerText {
    /// See [`Handover::free`].
    free: Vec<u64>,
    /// The port of each socket.
    ports: Vec<u8>,
    /// The TAP device's MAC address, if it has a queue of it.
    tap: Option<[u8; 6]>,
}

#[derive(Serialize, Deserialize)]
struct PortText {
    is_native: bool,
    why: Option<String>,
    has_program: bool,
    has_guard: bool,
}

/// Returns what another process needs of the workers and ports.
pub(crate) fn given(
    workers: Vec<Option<Handover>>,
    links: Vec<PortLinks>,
) -> io::Result<GivenPorts> {
    let some = || workers.iter().flatten().next();
    let first = some().ok_or_else(|| io::Error::other("no worker has a socket"))?;
    let mut descriptors = vec![first.umem.as_fd().try_clone_to_owned()?];
    let has_several_buffers = first.buffers == Buffers::Several;
    let mut text = Text {
        has_several_buffers,
        workers: Vec::new(),
        ports: Vec::new(),
    };
    for worker in workers {
        let Some(Handover {
            sockets, free, tap, ..
        }) = worker
        else {
            text.workers.push(WorkerText::default());
            continue;
        };
        text.workers.push(WorkerText {
            free,
            ports: sockets.iter().map(|(port, _)| port.0).collect(),
            tap: tap.as_ref().map(|tap| tap.mac().0),
        });
        for (_, bound) in &sockets {
            descriptors.push(bound.socket.try_clone()?);
        }
        if let Some(tap) = &tap {
            descriptors.push(tap.as_fd().try_clone_to_owned()?);
        }
    }
    for links in links {
        text.ports.push(PortText {
            is_native: links.mode == AttachMode::Native,
            why: links.why,
            has_program: links.program.is_some(),
            has_guard: links.guard.is_some(),
        });
        descriptors.extend(links.program);
        descriptors.extend(links.guard);
    }
    Ok(GivenPorts {
        text: serde_json::to_vec(&text)?,
        descriptors,
    })
}

/// Reads what [`given`] returned in the other process, whose options are the same.
pub(crate) fn taken(
    given: GivenPorts,
    options: &Options,
) -> io::Result<(Vec<Handover>, Vec<PortLinks>)> {
    let GivenPorts { text, descriptors } = given;
    let text: Text = serde_json::from_slice(&text)?;
    let mut descriptors = descriptors.into_iter();
    let mut next = || -> io::Result<OwnedFd> {
        let missing = || io::Error::other("a descriptor is missing");
        descriptors.next().ok_or_else(missing)
    };
    let umem = Arc::new(Umem::adopt(next()?, options.frame_size)?);
    let mut workers = Vec::with_capacity(text.workers.len());
    for (number, worker) in (0..).zip(text.workers) {
        let mut sockets = Vec::with_capacity(worker.ports.len());
        for port in worker.ports {
            sockets.push((PortId(port), BoundSocket::of(next()?)?));
        }
        let tap = match worker.tap {
            Some(mac) => Some(TapQueue::of(File::from(next()?), Mac(mac))),
            None => None,
        };
        workers.push(Handover {
            worker: number,
            umem: Arc::clone(&umem),
            sockets,
            free: worker.free,
            tap,
            buffers: match text.has_several_buffers {
                true => Buffers::Several,
                false => Buffers::One,
            },
        });
    }
    let mut links = Vec::with_capacity(text.ports.len());
    for port in text.ports {
        let mut link = |has: bool| has.then(&mut next).transpose();
        links.push(PortLinks {
            program: link(port.has_program)?,
            guard: link(port.has_guard)?,
            mode: match port.is_native {
                true => AttachMode::Native,
                false => AttachMode::Generic,
            },
            why: port.why,
        });
    }
    Ok((workers, links))
}
