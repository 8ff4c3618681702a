//! Calls away from the request threads, for modules that were slow: a bounded number at once on tokio's blocking threads,
//! and a bounded number that waits. One module holds one place, so that it cannot take them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::component::{CheckAmended, GuestEvent};
use super::engine::Sandbox;
use super::module::Module;
use crate::verdict::{Unjudged, Verdict};

/// Calls of one module at once.
const PLACES_PER_MODULE: usize = 1;
/// Events of one module that may wait for its place.
const WAITING_MAX: usize = 64;
/// The longest time that an event waits for its place.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The place of one module, and those who wait for it.
pub(super) struct Queue {
    place: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { place: Arc::new(Semaphore::new(PLACES_PER_MODULE)), waiting: AtomicUsize::new(0) }
    }
}

/// The places of all modules together.
pub(super) struct Away(Arc<Semaphore>);

impl Away {
    /// As many calls at once as the machine has processors.
    pub(super) fn new() -> Self {
        let places = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Judges on a blocking thread, once there is a place. Unless the event `probes` the module, it must still be on the
    /// path then.
    pub(super) async fn judge(
        &self,
        module: &Arc<Module>,
        sandbox: &Arc<Sandbox>,
        event: GuestEvent<'_>,
        check_amended: &CheckAmended,
        probes: bool,
    ) -> Result<Verdict, Unjudged> {
        let probe = probes.then(|| Probe(Arc::clone(module)));
        let Some(_waits) = Waits::among(&module.queue.waiting) else { return Err(module.busy()) };
        let places = async {
            let own = Arc::clone(&module.queue.place).acquire_owned().await;
            (own, Arc::clone(&self.0).acquire_owned().await)
        };
        let Ok((Ok(own), Ok(shared))) = tokio::time::timeout(WAIT_MAX, places).await else {
            return Err(module.busy());
        };
        if !probes && module.circuit.is_off() {
            return Err(module.off_path());
        }
        let owned = Owned::of(&event);
        let (module, sandbox, check_amended) = (Arc::clone(module), Arc::clone(sandbox), Arc::clone(check_amended));
        // The places are given back when the call ends, also when nobody waits for it any more; and a probe ends with it.
        let call = tokio::task::spawn_blocking(move || {
            let _held = (own, shared, probe);
            module.judge(&sandbox, &owned.event(), &check_amended)
        });
        match call.await {
            Ok(outcome) => outcome,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}

/// A probe, until it is dropped: at the end of its call, or without one when there was no place, or when nobody waited
/// for it any more.
struct Probe(Arc<Module>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.circuit.unprobed();
    }
}

/// Counts one who waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let own = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < WAITING_MAX).then_some(own)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// An event that outlives its request.
struct Owned {
    id: String,
    application: String,
    session_id: String,
    category: String,
    name: String,
    timestamp_us: i64,
    data: String,
}

impl Owned {
    fn of(event: &GuestEvent<'_>) -> Self {
        Self {
            id: event.id.into(),
            application: event.application.into(),
            session_id: event.session_id.into(),
            category: event.category.into(),
            name: event.name.into(),
            timestamp_us: event.timestamp_us,
            data: event.data.into(),
        }
    }

    fn event(&self) -> GuestEvent<'_> {
        GuestEvent {
            id: &self.id,
            application: &self.application,
            session_id: &self.session_id,
            category: &self.category,
            name: &self.name,
            timestamp_us: self.timestamp_us,
            data: &self.data,
        }
    }
}
