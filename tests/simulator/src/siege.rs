//! A siege: a thousand transfers, attacked for ten minutes of simulated time.
//!
//! Invariant: every transfer sends something every 10 seconds. A connection that is idle for longer after a
//! forged RST may be evicted.

use std::fmt;
use std::io;
use std::path::Path;

use crate::plan::{SIEGE_OPENING_US, SIEGE_US};
use crate::tally::Tally;
use crate::world::World;

/// The longest time until all transfers have ended, in microseconds.
const ENDING_US: u64 = 60 * 1_000_000;

/// The result of a siege. All transfers completed; otherwise the siege would have failed.
#[derive(Clone, Debug)]
pub struct Siege {
    /// Transfers that were active all the time and then completed with every byte correct.
    pub transfers: u64,
    /// The simulated seconds of attacks.
    pub seconds: u64,
    /// Frames of the fuzzer's corpus, unchanged or mutated, that were sent to the balancer.
    pub garbage: u64,
    /// Forged segments and ICMP errors with the addresses of a transfer.
    pub forged: u64,
    /// Clients' gateways that failed over.
    pub fail_overs: u64,
    /// The counts of the simulated world.
    pub tally: Tally,
}

impl fmt::Display for Siege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transfers completed after {} s of attacks: {} packets, {} sessions evicted, \
             {} corpus frames, {} forged packets, {} gateway fail-overs",
            self.transfers,
            self.seconds,
            self.tally.packets,
            self.tally.evicted,
            self.garbage,
            self.forged,
            self.fail_overs
        )
    }
}

/// Reads the fuzzer's corpus, in the order of the file names.
pub fn corpus() -> io::Result<Vec<Vec<u8>>> {
    let directory = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../runtime/dataplane/fuzz/corpus/any_bytes"
    );
    let read = |directory: &Path| -> io::Result<Vec<Vec<u8>>> {
        let entries = std::fs::read_dir(directory)?;
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(std::fs::read).collect()
    };
    read(Path::new(directory)).map_err(|error| {
        let text = format!("cannot read the fuzzer's corpus in {directory}: {error}");
        io::Error::new(error.kind(), text)
    })
}

impl World {
    /// Runs a siege.
    pub(crate) fn run_siege(&mut self) -> Result<Siege, String> {
        let transfers = self.plan().transfers.unwrap_or(0);
        let opened_at_us = self.now_us + SIEGE_OPENING_US;
        self.recover();
        while self.hosts.accepted() < transfers {
            self.next_until(opened_at_us, "not all transfers were accepted in time")?;
        }
        self.attackers.is_active = true;
        let end_us = self.now_us + SIEGE_US;
        while self.now_us < end_us {
            self.next_until(u64::MAX, "")?;
        }
        if self.hosts.active() < transfers {
            return Err("a transfer ended before the siege".into());
        }
        self.settling = true;
        let ended_at_us = self.now_us + ENDING_US;
        while self.hosts.active() > 0 {
            self.next_until(ended_at_us, "not all transfers ended in time")?;
        }
        self.hosts.check_all_completed()?;
        Ok(Siege {
            transfers: self.hosts.completed,
            seconds: SIEGE_US / 1_000_000,
            garbage: self.attackers.garbage,
            forged: self.attackers.forged,
            fail_overs: self.attackers.fail_overs,
            tally: self.tally(),
        })
    }

    /// Handles the next event. Fails with the text `late` after `until_us`.
    fn next_until(&mut self, until_us: u64, late: &str) -> Result<(), String> {
        if self.next()? && self.now_us <= until_us {
            return Ok(());
        }
        Err(format!(
            "{late}: {} of {} are active",
            self.hosts.active(),
            self.hosts.accepted()
        ))
    }
}
