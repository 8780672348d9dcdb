//! The workers' metrics.

use std::io;

use waxwing_dataplane::DropReason;
use waxwing_dataplane::counters::WorkerCounters;

use super::text::{Labels, Page};
use crate::admin::report::Reporter;

/// A counter of a worker: its name after `waxwing_worker_`, its help, and its value.
type Row = (&'static str, &'static str, fn(&WorkerCounters) -> u64);

const COUNTERS: &[Row] = &[
    ("received_packets_total", "Frames received.", |it| {
        it.received.packets.get()
    }),
    (
        "received_bytes_total",
        "Bytes received, link headers included.",
        |it| it.received.bytes.get(),
    ),
    ("transmitted_packets_total", "Frames sent.", |it| {
        it.transmitted.packets.get()
    }),
    (
        "transmitted_bytes_total",
        "Bytes sent, link headers included.",
        |it| it.transmitted.bytes.get(),
    ),
    (
        "to_kernel_packets_total",
        "Frames passed to the kernel.",
        |it| it.to_kernel.get(),
    ),
    (
        "bridged_packets_total",
        "Frames of no service, passed from one bridge port to the other.",
        |it| it.bridged.get(),
    ),
    (
        "fragments_held_total",
        "Fragments held until their datagram's first one arrived.",
        |it| it.held.get(),
    ),
    (
        "fragments_released_total",
        "Held fragments that were then sent, passed to the kernel or dropped.",
        |it| it.released.get(),
    ),
    (
        "requests_answered_total",
        "ARP, NDP and ping requests answered.",
        |it| it.responded.get(),
    ),
    (
        "announcements_total",
        "Gratuitous ARP and unsolicited NDP announcements sent.",
        |it| it.announced.get(),
    ),
    ("sessions_opened_total", "Sessions opened.", |it| {
        it.opened.get()
    }),
    (
        "sessions_assured_total",
        "Sessions whose client has shown that it sees what the server sends.",
        |it| it.assured.get(),
    ),
    (
        "sessions_expired_total",
        "Sessions ended by a timeout.",
        |it| it.expired.get(),
    ),
    (
        "sessions_evicted_total",
        "Sessions ended to make room for new ones.",
        |it| it.evicted.get(),
    ),
    (
        "sessions_rejected_total",
        "New sessions rejected for lack of a backend, by RST or ICMP.",
        |it| it.rejected.get(),
    ),
    (
        "sessions_reset_total",
        "Sessions of backends that went down, ended by RST or ICMP to the client.",
        |it| it.reset.get(),
    ),
    (
        "sessions_moved_total",
        "Sessions of backends that went down, moved to another backend.",
        |it| it.repicked.get(),
    ),
    (
        "unserved_rejected_total",
        "Packets to unserved ports of VIPs, answered by RST or ICMP.",
        |it| it.unserved_rejected.get(),
    ),
    (
        "icmp_errors_forwarded_total",
        "ICMP errors about sessions' packets, forwarded to the packets' senders.",
        |it| it.icmp_errors_forwarded.get(),
    ),
    (
        "time_exceeded_sent_total",
        "ICMP errors sent because a packet's TTL or hop limit was exceeded.",
        |it| it.time_exceeded_sent.get(),
    ),
    (
        "too_big_sent_total",
        "ICMP errors sent because a packet exceeded the MTU.",
        |it| it.too_big_sent.get(),
    ),
    (
        "packets_fragmented_total",
        "IPv4 packets that exceeded the MTU and were fragmented.",
        |it| it.packets_fragmented.get(),
    ),
    (
        "fragments_sent_total",
        "Fragments of those packets.",
        |it| it.fragments_sent.get(),
    ),
    (
        "last_hop_fallbacks_total",
        "Replies sent to the last hop because the kernel's route cannot be followed.",
        |it| it.last_hop_fallbacks.get(),
    ),
    (
        "fallback_picks_total",
        "New flows for which the native fallback chose, because the policy gave no valid pick.",
        |it| it.fallback.get(),
    ),
    (
        "epochs_total",
        "Changes of the config, of health or of modules taken.",
        |it| it.epochs.get(),
    ),
];

pub(super) fn write(reporter: &Reporter, page: &mut Page<'_>) -> io::Result<()> {
    let workers: Vec<(Labels, &WorkerCounters)> = reporter
        .counters
        .workers()
        .iter()
        .enumerate()
        .map(|(number, counters)| (Labels::new([("worker", &*number.to_string())]), &**counters))
        .collect();
    for (name, help, value) in COUNTERS {
        let mut family = page.counter(&format!("waxwing_worker_{name}"), help)?;
        for (labels, counters) in &workers {
            family.sample(labels, value(counters))?;
        }
    }
    let mut family = page.histogram(
        "waxwing_worker_batch_seconds",
        "Time of a turn with frames, up to the next turn; the sum is up to a quarter too high.",
    )?;
    for (labels, counters) in &workers {
        family.times(labels, &counters.batch_times(), 1.0)?;
    }
    let mut family = page.counter("waxwing_drops_total", "Frames dropped, by reason.")?;
    for (labels, counters) in &workers {
        for reason in DropReason::ALL {
            let dropped = counters.dropped(*reason).get();
            family.sample_by(labels, ("reason", reason.label()), dropped)?;
        }
    }
    Ok(())
}
