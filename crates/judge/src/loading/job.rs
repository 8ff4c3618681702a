//! The messages between gateway and loader: the job, which the bytes of the file follow, and the frames of the answer.
//! This file also has the bounds of a job, and the refusal of a file whose loader broke one.

use std::time::Duration;

use eye_event::envelope::Rules;
use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};

use super::super::component::Step;
use super::super::refusal::Refusal;
use super::super::settings::Limits;

/// Resources that loading a file may use. Each is a setting of the same name with `loader_` before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoaderLimits {
    /// Bytes of memory of a loader.
    pub memory_bytes: u64,
    /// Further bytes of memory for each byte of the file.
    pub memory_per_byte: u64,
    /// Milliseconds that a loader may run.
    pub processor_ms: u64,
    /// Further milliseconds for each MiB of the file.
    pub processor_ms_per_mib: u64,
    /// How many times as long it may take on the wall. Time in which no processor is free comes on top.
    pub wall_factor: u32,
    /// Milliseconds that all examples of a module together may run.
    pub self_test_ms: u64,
    /// Bytes of stack of the thread that reads the file.
    pub stack_bytes: u64,
    /// Milliseconds that the first try of a file may run, in the lane of quick files.
    pub quick_ms: u64,
    /// Percent that the bounds above are multiplied by.
    pub bounds_percent: u64,
}

impl Default for LoaderLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            memory_per_byte: 32,
            processor_ms: 5_000,
            processor_ms_per_mib: 4_000,
            wall_factor: 10,
            self_test_ms: 5_000,
            stack_bytes: 8 << 20,
            quick_ms: 2_000,
            bounds_percent: 100,
        }
    }
}

/// Bytes of finished code that a loader may answer with. More is allowed for each byte of the file and for the module's
/// memory.
const ANSWER_BYTES: u64 = 16 << 20;
const ANSWER_PER_BYTE: u64 = 32;

/// Memory of a module that the bound of a loader's memory already has room for.
const MODULE_BYTES: u64 = 64 << 20;

impl LoaderLimits {
    /// The bounds of one file. `quick` gives those of its first try.
    pub(in super::super) fn of(&self, file_bytes: u64, limits: &Limits, quick: bool) -> Bounds {
        let percent = |number: u64| number.saturating_mul(self.bounds_percent) / 100;
        let mib = file_bytes.div_ceil(1 << 20);
        // A module may ask for more memory than most, and `describe` may use all of it.
        let module = (limits.memory_bytes_max as u64).saturating_sub(MODULE_BYTES);
        let memory = self.memory_bytes.saturating_add(self.memory_per_byte.saturating_mul(file_bytes));
        let whole = percent(self.processor_ms.saturating_add(self.processor_ms_per_mib.saturating_mul(mib)));
        let processor = Duration::from_millis(if quick { self.quick_ms.min(whole) } else { whole });
        Bounds {
            memory_bytes: percent(memory).saturating_add(module),
            processor,
            wall: processor.saturating_mul(self.wall_factor),
            self_test: Duration::from_millis(percent(self.self_test_ms)),
            stack_bytes: percent(self.stack_bytes),
            // The answer also has the memory that `describe` left.
            answer_bytes: percent(ANSWER_BYTES.saturating_add(ANSWER_PER_BYTE.saturating_mul(file_bytes)))
                .saturating_add(limits.memory_bytes_max as u64),
            yields: !quick,
        }
    }
}

/// Resources that one loader may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Bounds {
    pub(in super::super) memory_bytes: u64,
    pub(in super::super) processor: Duration,
    pub(in super::super) wall: Duration,
    pub(in super::super) self_test: Duration,
    pub(in super::super) stack_bytes: u64,
    pub(in super::super) answer_bytes: u64,
    /// The loader lowers its priority, so that other processes run first.
    pub(in super::super) yields: bool,
}

/// Resources that a loader used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Usage {
    pub(in super::super) memory_bytes: u64,
    pub(in super::super) processor: Duration,
    /// Time in which it was ready to run and had no processor.
    pub(in super::super) waited: Duration,
    pub(in super::super) wall: Duration,
}

/// A bound that a loader exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Bound {
    Memory,
    Processor,
    Wall,
    Stack,
    Answer,
}

impl Bound {
    /// The refusal of a file whose loader exceeded this bound.
    pub(in super::super) fn refusal(self, bounds: &Bounds, used: &Usage, limits: &LoaderLimits) -> Refusal {
        let (expected, found, setting, value) = match self {
            Self::Memory => (
                format!("a file that is loaded with {} MiB of memory", bounds.memory_bytes >> 20),
                "one that takes more".to_owned(),
                "loader_memory_bytes",
                limits.memory_bytes,
            ),
            Self::Processor => (
                format!("a file that is loaded within {} ms of processor time", bounds.processor.as_millis()),
                "one that takes longer".to_owned(),
                "loader_processor_ms",
                limits.processor_ms,
            ),
            Self::Wall => (
                format!(
                    "a file that is loaded within {} ms, beside the time for which no processor is free",
                    bounds.wall.as_millis()
                ),
                "one that was not, as when a loader is stopped".to_owned(),
                "loader_wall_factor",
                u64::from(limits.wall_factor),
            ),
            Self::Stack => (
                format!("a file that is read with {} KiB of stack", bounds.stack_bytes >> 10),
                "one whose parts are nested too deeply for it".to_owned(),
                "loader_stack_bytes",
                limits.stack_bytes,
            ),
            Self::Answer => (
                format!("a file of which at most {} MiB of code are made", bounds.answer_bytes >> 20),
                "one of which more is made".to_owned(),
                "loader_bounds_percent",
                limits.bounds_percent,
            ),
        };
        let Usage { memory_bytes, processor, waited, wall } = used;
        let found = format!(
            "{found}; its loader was ended after {} ms of processor time, {} ms in all of which it waited {} ms for a \
             processor, with {} MiB of memory",
            processor.as_millis(),
            wall.as_millis(),
            waited.as_millis(),
            memory_bytes >> 20
        );
        let mend = format!(
            "make the file smaller, or its functions, types and parts fewer and flatter; or raise {setting} (now {value}) or \
             all bounds by loader_bounds_percent (now {})",
            limits.bounds_percent
        );
        Refusal { passing: self == Self::Wall, ..Refusal::new(expected, found, mend) }
    }
}

/// What a loader makes of the bytes that follow its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// They are a module.
    Module,
    /// There are none: it compiles the engine of schema files, which it has itself.
    Engine,
    /// They are that engine, compiled, in so many bytes, and a schema.
    Schema(u64),
}

/// The job of a loader. The bytes of the file follow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) file_bytes: u64,
    pub(super) limits: Limits,
    pub(super) rules: Rules,
    pub(super) category: String,
    pub(super) name: String,
    pub(super) bounds: Bounds,
    /// The examples are not judged but listed.
    pub(super) lists_examples: bool,
}

/// Bytes of a job without its file. The two halves of an event type are its largest parts.
pub(super) const JOB_BYTES_MAX: usize = 64 << 10;

/// A frame of an answer begins with one byte for its kind and eight for the bytes that follow.
pub(super) const FRAME_HEAD: usize = 9;

/// The kinds of messages of a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    Step(Step),
    Built,
    Refused,
}

impl Frame {
    const ALL: [Self; 5] = [
        Self::Step(Step::Checking),
        Self::Step(Step::Compiling),
        Self::Step(Step::SelfTest),
        Self::Built,
        Self::Refused,
    ];

    pub(super) fn head(self, bytes: usize) -> [u8; FRAME_HEAD] {
        let kind = Self::ALL.iter().position(|frame| *frame == self).expect("it is one of them");
        let mut head = [0; FRAME_HEAD];
        head[0] = u8::try_from(kind).expect("there are few");
        head[1..].copy_from_slice(&(bytes as u64).to_le_bytes());
        head
    }

    /// Reads the head of a frame: its kind, and the bytes that follow.
    pub(super) fn read(head: [u8; FRAME_HEAD]) -> Option<(Self, u64)> {
        let [kind, bytes @ ..] = head;
        Some((*Self::ALL.get(usize::from(kind))?, u64::from_le_bytes(bytes)))
    }
}

/// A refusal as it goes from one process to another. It also carries the part that people do not see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct Told {
    expected: String,
    found: String,
    mend: String,
    passing: bool,
}

impl From<Refusal> for Told {
    fn from(refusal: Refusal) -> Self {
        let Refusal { expected, found, mend, passing } = refusal;
        Self { expected, found, mend, passing }
    }
}

impl From<Told> for Refusal {
    fn from(told: Told) -> Self {
        Self { passing: told.passing, ..Self::new(told.expected, told.found, told.mend) }
    }
}

/// The digest of built code, which stands before it. The gateway checks it before the engine sees any of the code.
pub(super) fn seal(built: &[u8]) -> [u8; 32] {
    Digest::of(built).0
}
