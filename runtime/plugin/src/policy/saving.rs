//! An instance's answers when the control thread asks for its state.
//!
//! Invariant: a few services are saved between two batches, each within a batch's time limit; what the guest
//! returns is checked before it is copied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waxwing_sdk::abi::STATE_MAX;

use crate::build::engine::CallBudget;
use crate::policy::guest::CallFailure;
use crate::policy::instance::WasmPolicy;
use crate::policy::records::write_host;
use crate::policy::saved_states::{SavedState, StateDesk};

/// The services that are saved between two batches.
const SERVICES_PER_TURN: usize = 4;

/// What an instance has answered.
pub(crate) struct Saving {
    pub(crate) desk: Arc<StateDesk>,
    /// The latest question that it has answered, or that came before it.
    answered: u64,
    /// The next service to save.
    next: usize,
}

impl Saving {
    pub(crate) fn new(desk: Arc<StateDesk>) -> Self {
        Self {
            answered: desk.question(),
            desk,
            next: 0,
        }
    }
}

/// A state, or why it is not kept.
pub(crate) type State = Result<Arc<[u8]>, String>;

impl WasmPolicy {
    /// Answers if it is asked.
    #[inline]
    pub(crate) fn save_if_asked(&mut self, now_ms: u64) {
        if !self.module.info.saves {
            return;
        }
        let question = self.saving.desk.question();
        if question != self.saving.answered {
            self.save_some(question, now_ms);
        }
    }

    #[cold]
    fn save_some(&mut self, question: u64, now_ms: u64) {
        for _ in 0..SERVICES_PER_TURN {
            let at = self.saving.next;
            if self.disabled || at >= self.hosted.len() || !self.module.keeps_state() {
                self.saving.next = 0;
                self.saving.answered = question;
                self.saving.desk.finish(question, self.worker);
                return;
            }
            self.saving.next += 1;
            match self.save(at, now_ms) {
                Ok(None) => {}
                Ok(Some(Ok(state))) => self.saving.desk.answer(
                    question,
                    SavedState {
                        service: Arc::clone(&self.hosted[at].name),
                        worker: self.worker,
                        state,
                    },
                ),
                Ok(Some(Err(why))) => {
                    self.module
                        .counters
                        .saves_badly
                        .store(true, Ordering::Relaxed);
                    let (service, worker) = (&self.hosted[at].name, self.worker);
                    let problem = format!("service {service}, worker {worker}: {why}");
                    self.saving.desk.answer_problem(question, problem);
                }
                Err(mut failure) => {
                    self.module
                        .counters
                        .saves_badly
                        .store(true, Ordering::Relaxed);
                    failure.text = format!("{} in waxwing_save; its state is lost", failure.text);
                    self.fail(at, failure);
                }
            }
        }
    }

    /// Has the module save a service; `None` if it has no state.
    pub(crate) fn save(&mut self, at: usize, now_ms: u64) -> Result<Option<State>, CallFailure> {
        let (Some(save), hosted) = (&self.functions.save, &self.hosted[at]) else {
            return Ok(None);
        };
        let regions = hosted.regions;
        write_host(self.guest.memory(), &regions, hosted, now_ms);
        let packed = self.guest.call(save, regions.header, CallBudget::BATCH)?;
        if packed == 0 {
            return Ok(None);
        }
        let (start, len) = (
            packed.cast_unsigned() >> 32,
            packed.cast_unsigned() & 0xffff_ffff,
        );
        if len > STATE_MAX as u64 {
            return Ok(Some(Err(format!(
                "waxwing_save returned {len} bytes; at most {STATE_MAX} are kept"
            ))));
        }
        let end = start + len;
        let place = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let state = place.and_then(|(start, end)| self.guest.memory().get(start..end));
        Ok(Some(state.map(Arc::from).ok_or_else(|| {
            format!("waxwing_save returned {start:#x} to {end:#x}, outside of memory")
        })))
    }
}
