//! What the store of one run carries: its target, its connections, and what is left of its limits.
//!
//! Invariant: no limit is passed; a connection is reached by its number only while it is open.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::{StoreLimits, StoreLimitsBuilder};
use waxwing_sdk::abi::health::errors;

use super::connection::{Connection, Failed};
use super::meter::Meter;
use super::options::RunLimits;
use super::target::CheckTarget;
use crate::engine::{CHECK_MEMORY_BYTES, TABLE_ENTRIES_MAX};
use crate::module::CompiledModule;

/// Whose run it is.
pub(super) struct Scene {
    pub(super) module: Arc<CompiledModule>,
    pub(super) target: CheckTarget,
}

/// What a run carries.
pub(crate) struct State {
    pub(super) scene: Scene,
    pub(super) meter: Arc<Meter>,
    pub(super) limits: RunLimits,
    /// What is left of received and sent bytes, and of lines of the log.
    pub(super) left: RunLimits,
    pub(super) start: Instant,
    /// Whether `waxwing_check` runs: before it and after it there is nothing to connect to.
    pub(super) may_connect: bool,
    /// By number; `None` once closed.
    connections: Vec<Option<Connection>>,
    /// The words of the last error.
    pub(super) words: String,
    pub(super) memory: StoreLimits,
}

impl State {
    pub(super) fn new(scene: Scene, limits: RunLimits, start: Instant, meter: Arc<Meter>) -> Self {
        Self {
            scene,
            meter,
            limits,
            left: limits,
            start,
            may_connect: false,
            connections: Vec::new(),
            words: String::new(),
            memory: StoreLimitsBuilder::new()
                .memories(1)
                .memory_size(CHECK_MEMORY_BYTES)
                .tables(1)
                .table_elements(TABLE_ENTRIES_MAX)
                .instances(1)
                .build(),
        }
    }

    /// Whether there may be another connection.
    pub(super) fn check_room(&self) -> Result<(), Failed> {
        let open = self.connections.iter().flatten().count();
        let RunLimits {
            open: open_max,
            connections: max,
            ..
        } = self.limits;
        if self.connections.len() >= max {
            let words = format!("{max} connections were made, the most of one check");
            return Err(Failed::new(errors::LIMIT, words));
        }
        if open >= open_max {
            let words = format!("{open_max} connections are open, the most of one check at once");
            return Err(Failed::new(errors::LIMIT, words));
        }
        Ok(())
    }

    /// Keeps a connection, and gives its number.
    pub(super) fn keep(&mut self, connection: Connection) -> Result<i32, Failed> {
        let number = i32::try_from(self.connections.len());
        self.connections.push(Some(connection));
        number.map_err(|_| Failed::new(errors::LIMIT, "too many connections"))
    }

    /// Closes a connection, if it is open.
    pub(super) fn close(&mut self, number: i32) {
        if let Ok(kept) = self.kept(number) {
            *kept = None;
        }
    }

    /// Where an open connection is kept.
    pub(super) fn kept(&mut self, number: i32) -> Result<&mut Option<Connection>, Failed> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.connections.get_mut(number))
            .filter(|kept| kept.is_some())
            .ok_or_else(|| {
                let words = format!("there is no open connection {number}");
                Failed::new(errors::INVALID, words)
            })
    }

    /// An open connection.
    pub(super) fn connection(&mut self, number: i32) -> Result<&mut Connection, Failed> {
        let kept = self.kept(number)?;
        kept.as_mut()
            .ok_or_else(|| Failed::new(errors::INVALID, "it is closed"))
    }
}
