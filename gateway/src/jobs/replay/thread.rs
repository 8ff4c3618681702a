//! The thread on which a replay judges. On Linux it has the lowest priority, so that it takes the processor time that nothing else
//! wants. Reading the bytes of letters and comparing amended data are done there too.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eye_event::envelope::{Element, Event};
use eye_judge::Aside;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::difference::{Difference, differences};
use crate::judging::{End, Judged, Judges, Judging, Origin};

/// The priority of the thread, as `nice` has it: the lowest.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// An event of the past.
#[derive(Debug)]
pub(super) enum Input {
    /// It is stored.
    Stored(Box<Event>),
    /// A dead letter has its bytes.
    Letter {
        raw: Bytes,
        /// The id of the event, or of the letter.
        id: Uuid,
        /// When the letter is read.
        now_us: i64,
    },
}

/// An event of the past with what judging needs beside it.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) input: Input,
    pub(super) application_id: i32,
    pub(super) application: String,
    pub(super) received_at_us: i64,
}

/// What the module says of an event.
#[derive(Debug)]
pub(super) enum Told {
    Stored,
    /// Accepted with other data, which differs at these places and so many more.
    Amended(Vec<Difference>, u64),
    /// Refused, with the pointer and code of each violation.
    Refused(Vec<(String, String)>),
    /// The module broke in this way.
    Faulted(String),
    /// The bytes break the gateway's own rules, so no module sees them.
    Broken,
}

/// What was done of a task: the first events of it, in order, and the processor time that they took.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) told: Vec<Told>,
    pub(super) processor: Duration,
}

struct Task {
    judges: Judges,
    past: Vec<Past>,
    time: Duration,
    answer: oneshot::Sender<Done>,
}

/// The thread. It ends when this is dropped, after the event that it judges.
#[derive(Debug)]
pub(super) struct Thread(SyncSender<Task>);

impl Thread {
    /// Starts the thread.
    pub(super) fn start(module: Aside) -> std::io::Result<Self> {
        // One task at a time is asked for. The second place is for the rest of one whose step was cut off.
        let (tasks, asked) = sync_channel(2);
        let runtime = Handle::current();
        std::thread::Builder::new().name("eye-replay".into()).spawn(move || run(&module, &asked, &runtime))?;
        Ok(Self(tasks))
    }

    /// Judges events until the time is over, at least one if the module has room. Returns `None` if the thread is busy with
    /// a task that nobody waits for.
    pub(super) async fn judge(&self, judges: Judges, past: Vec<Past>, time: Duration) -> Option<Done> {
        if past.is_empty() {
            return Some(Done::default());
        }
        let (answer, done) = oneshot::channel();
        match self.0.try_send(Task { judges, past, time, answer }) {
            Ok(()) => done.await.ok(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }
}

fn run(module: &Aside, tasks: &Receiver<Task>, runtime: &Handle) {
    // On Linux it is the priority of this thread alone. A system that does not allow it gives the thread the usual share.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the thread of a replay has the priority of the others");
    }
    while let Ok(Task { judges, past, time, answer }) = tasks.recv() {
        let (began, ran_before) = (Instant::now(), processor_time());
        let mut judging = judges.begin_aside(module);
        let mut done = Done::default();
        for past in past {
            if answer.is_closed() || (!done.told.is_empty() && began.elapsed() >= time) {
                break;
            }
            let Some(told) = runtime.block_on(judge(&judges, &mut judging, past)) else { break };
            done.told.push(told);
        }
        done.processor = processor_time().saturating_sub(ran_before);
        // The step may have been cut off meanwhile; another one does the same again.
        let _ = answer.send(done);
    }
}

/// Judges one event. Returns `None` if there is no room for the module now.
async fn judge(judges: &Judges, judging: &mut Judging<'_>, past: Past) -> Option<Told> {
    let Past { input, application_id, application, received_at_us } = past;
    let element: Element = match input {
        Input::Stored(event) => Ok(*event),
        Input::Letter { raw, id, now_us } => judges.read(raw, now_us).map(|event| Event { id, ..event }),
    };
    let Ok(event) = element else { return Some(Told::Broken) };
    let sent = event.data.clone();
    let origin = Origin::Replayed { application_id, application: &application };
    // A replay asks the database nothing, so there is no error of it.
    match judging.judge(Ok(event), received_at_us, origin).await.ok()? {
        Judged::Row(row) if *row.data == *sent => Some(Told::Stored),
        Judged::Row(row) => Some(match differences(&sent, &row.data) {
            (places, _) if places.is_empty() => Told::Stored,
            (places, more) => Told::Amended(places, more),
        }),
        Judged::NotStored(event) => match event.end {
            End::Rejected { violations, .. } => {
                let place = |one: eye_event::verdict::Violation| (one.pointer, one.code.into_owned());
                Some(Told::Refused(violations.into_iter().map(place).collect()))
            }
            End::Quarantined { code, .. } => Some(Told::Faulted(code.into_owned())),
            End::Unfinished(_) | End::Duplicate => None,
        },
    }
}

/// How long this thread has run.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
