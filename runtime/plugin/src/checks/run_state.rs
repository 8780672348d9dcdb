//! The store's data of one run: its target, its connections, and the rest of its limits.
//!
//! Invariant: no limit is exceeded; a connection is reachable by its number only while it is open.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{StoreLimits, StoreLimitsBuilder};
use waxwing_sdk::abi::health::errors;

use super::connection::{Connection, ImportError};
use super::cpu_budget::CpuBudget;
use super::limits::RunLimits;
use super::target::CheckTarget;
use crate::build::engine::{CHECK_MEMORY_BYTES, TABLE_ENTRIES_MAX};
use crate::build::module::CompiledModule;

/// The module and the target of a run.
pub(super) struct RunContext {
    pub(super) module: Arc<CompiledModule>,
    pub(super) target: CheckTarget,
    pub(super) log: RunLog,
}

/// An open connection, and its share of the open files that checks may use.
pub(super) struct OpenConnection {
    pub(super) connection: Connection,
    pub(super) file: OwnedSemaphorePermit,
}

/// The lines that a run logs. They outlive its guest, which ends at a timeout.
pub(super) type RunLog = Arc<Mutex<Vec<String>>>;

/// The state of a run.
pub(crate) struct RunState {
    pub(super) context: RunContext,
    pub(super) budget: Arc<CpuBudget>,
    pub(super) limits: RunLimits,
    /// The remaining received and sent bytes and log lines.
    pub(super) left: RunLimits,
    pub(super) start: Instant,
    /// Whether `waxwing_check` runs: a module may use its target only then.
    pub(super) may_connect: bool,
    /// By number; `None` once closed.
    connections: Vec<Option<OpenConnection>>,
    /// The open files left for connections of all runs.
    files: Arc<Semaphore>,
    /// The text of the last error.
    pub(super) error_text: String,
    pub(super) memory: StoreLimits,
}

impl RunState {
    pub(super) fn new(
        context: RunContext,
        limits: RunLimits,
        start: Instant,
        budget: Arc<CpuBudget>,
        files: Arc<Semaphore>,
    ) -> Self {
        Self {
            context,
            budget,
            files,
            limits,
            left: limits,
            start,
            may_connect: false,
            connections: Vec::new(),
            error_text: String::new(),
            memory: StoreLimitsBuilder::new()
                .memories(1)
                .memory_size(CHECK_MEMORY_BYTES)
                .tables(1)
                .table_elements(TABLE_ENTRIES_MAX)
                .instances(1)
                .build(),
        }
    }

    /// Checks that the limits allow another connection, and takes an open file for it.
    pub(super) fn take_file(&self) -> Result<OwnedSemaphorePermit, ImportError> {
        let open = self.connections.iter().flatten().count();
        let RunLimits {
            open: open_max,
            connections: max,
            ..
        } = self.limits;
        if self.connections.len() >= max {
            let text = format!("a check may make at most {max} connections");
            return Err(ImportError::new(errors::LIMIT, text));
        }
        if open >= open_max {
            let text = format!("a check may have at most {open_max} connections open");
            return Err(ImportError::new(errors::LIMIT, text));
        }
        let file = Arc::clone(&self.files).try_acquire_owned();
        file.map_err(|_| ImportError::out_of_files())
    }

    /// Stores a connection. Returns its number.
    pub(super) fn keep(&mut self, connection: OpenConnection) -> Result<i32, ImportError> {
        let number = i32::try_from(self.connections.len());
        self.connections.push(Some(connection));
        number.map_err(|_| ImportError::new(errors::LIMIT, "too many connections"))
    }

    /// Closes a connection if it is open.
    pub(super) fn close(&mut self, number: i32) {
        if let Ok(slot) = self.slot(number) {
            *slot = None;
        }
    }

    /// Returns the slot of an open connection.
    pub(super) fn slot(&mut self, number: i32) -> Result<&mut Option<OpenConnection>, ImportError> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.connections.get_mut(number))
            .filter(|slot| slot.is_some())
            .ok_or_else(|| {
                let text = format!("connection {number} is not open");
                ImportError::new(errors::INVALID, text)
            })
    }

    /// Returns an open connection.
    pub(super) fn connection(&mut self, number: i32) -> Result<&mut Connection, ImportError> {
        let slot = self.slot(number)?;
        slot.as_mut()
            .map(|open| &mut open.connection)
            .ok_or_else(|| ImportError::new(errors::INVALID, "the connection is closed"))
    }
}
