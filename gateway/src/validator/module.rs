//! A module that serves a slot: its program, what it may use, and what became of the events put to it.

use std::sync::Arc;
use std::time::Instant;

use super::component::{CheckAmended, GuestEvent, Program};
use super::engine::Sandbox;
use super::figures::Figures;
use super::settings::{OnFault, Settings};
use super::slot::Slot;
use crate::verdict::{Digest, Fault, FaultCode, Verdict};

/// One version of the code of one slot, with the settings of now.
pub(super) struct Module {
    pub(super) slot: Slot,
    pub(super) digest: Digest,
    pub(super) program: Arc<Program>,
    pub(super) settings: Settings,
    /// Shared with the next `Module` of the same code, when only the settings change.
    pub(super) figures: Arc<Figures>,
}

impl Module {
    /// Judges one event on this thread, and counts what came of it.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Fault> {
        let began = Instant::now();
        let outcome = self.program.judge(sandbox, &self.settings.limits, event, check_amended);
        match outcome {
            Ok(verdict) => {
                self.figures.record(Ok(&verdict), began.elapsed());
                Ok(verdict)
            }
            Err(broken) => {
                self.figures.record(Err(broken.code), began.elapsed());
                Err(self.fault(broken.code, broken.detail))
            }
        }
    }

    /// A fault as this module's settings want it told.
    pub(super) fn fault(&self, code: FaultCode, detail: String) -> Fault {
        Fault { code, detail, retry: code == FaultCode::Busy || self.settings.on_fault == OnFault::Retry }
    }
}
