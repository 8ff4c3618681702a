//! Calls slow modules away from the request threads: a bounded number at once on tokio's blocking threads, and a bounded
//! number of events that wait for a place. A module gets as many places as its load needs and its cost allows, within its
//! share, and an application its share of the waiting events, so that neither takes all. An event that gets no place in time
//! is not judged and stays unfinished.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eye_event::verdict::{Unjudged, Verdict};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::circuit::Probe;
use super::contract::{CheckAmended, GuestEvent};
use super::engine::{Sandbox, processor_time};
use super::module::{Module, Queue};

/// Bounds of the calls away from the request threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadLimits {
    /// Most calls at once; 0 for two for each processor.
    pub places: usize,
    /// Percent of these that one module may hold alone.
    pub module_share_percent: usize,
    /// Most events that may wait for a place.
    pub waiting_max: usize,
    /// Most bytes of their data.
    pub waiting_bytes_max: usize,
    /// Percent of both that one application may fill alone.
    pub application_share_percent: usize,
}

impl Default for OffloadLimits {
    fn default() -> Self {
        Self {
            places: 0,
            module_share_percent: 75,
            waiting_max: 4_096,
            waiting_bytes_max: 32 << 20,
            application_share_percent: 75,
        }
    }
}

impl OffloadLimits {
    /// Calls at once on this machine.
    pub(super) fn places(&self) -> usize {
        if self.places > 0 { self.places } else { 2 * std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// The time that an event may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// The end of its wait for a place.
    pub(super) place_until: Instant,
    /// The end of the wait for its verdict; none to wait for the whole call.
    pub(super) verdict_until: Option<Instant>,
}

/// The places of all modules together.
#[derive(Clone)]
pub(super) struct Offload(Arc<Shared>);

struct Shared {
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The bounds of the settings. The number of places is that of the start.
    limits: OffloadLimits,
    /// Places that are held.
    held: usize,
    /// Events that wait, and the bytes of their data. New events are compared with the bounds.
    waiting: usize,
    waiting_bytes: usize,
    /// The part of both that each application has.
    by_application: HashMap<Box<str>, Waiting>,
    /// Modules that hold a place or have events that wait, by their number.
    lanes: HashMap<u64, Lane>,
    /// Number of the last event that waited. An event that gives up finds itself by its number.
    tickets: u64,
    /// Number of the last grant. Of two modules, the one with the older grant comes first.
    grants: u64,
}

/// The waiting events of one application.
#[derive(Default, Clone, Copy)]
struct Waiting {
    events: usize,
    bytes: usize,
}

/// The places of one module, and its waiting events. Its applications take turns.
#[derive(Default)]
struct Lane {
    held: usize,
    /// Most places that its load needs and its cost allows.
    most: usize,
    /// Number of its last grant.
    granted: u64,
    turns: VecDeque<(Box<str>, VecDeque<Waiter>)>,
}

/// A waiting event.
struct Waiter {
    ticket: u64,
    bytes: usize,
    grant: oneshot::Sender<()>,
}

/// Whether a share may grow to `own` places if that leaves `free` ones. The allowed share shrinks with the room.
fn within_share(own: usize, free: usize, percent: usize) -> bool {
    own.saturating_mul(100 - percent.min(100)) <= free.saturating_mul(percent)
}

impl Offload {
    pub(super) fn new(limits: OffloadLimits) -> Self {
        let state = State { limits, ..State::default() };
        Self(Arc::new(Shared { places: limits.places(), state: Mutex::new(state) }))
    }

    /// Changes the bounds, except for the number of places. Events beyond a lower bound wait on, and no others come.
    pub(super) fn set_limits(&self, limits: OffloadLimits) {
        let mut state = self.0.lock();
        state.limits = limits;
        // A larger share may have places for events that wait.
        self.0.give(&mut state);
    }

    /// Events that wait for a place now.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    /// Judges an event on a blocking thread, if it gets a place in time. Except for a `probe`, the module must still be on the
    /// path for the application then.
    pub(super) async fn judge(
        &self,
        module: &Arc<Module>,
        sandbox: &Arc<Sandbox>,
        event: GuestEvent<'_>,
        check_amended: &CheckAmended,
        probe: Option<Probe>,
        time: Time,
    ) -> Result<Verdict, Unjudged> {
        let probes = probe.is_some();
        let probe = probe.map(|probe| Probing { module: Arc::clone(module), probe });
        let Some(place) = self.place(&module.queue, event.application, event.data.len(), time.place_until).await else {
            return Err(module.busy());
        };
        if !probes && module.circuit.is_off(event.application) {
            return Err(module.off_path());
        }
        let (owned, owner) = (Owned::of(&event), module);
        let (module, sandbox, check_amended) = (Arc::clone(module), Arc::clone(sandbox), Arc::clone(check_amended));
        // The call gives its place back when it ends, even if the request has given up. A probe ends with it.
        let call = tokio::task::spawn_blocking(move || {
            let _held = (place, probe);
            let ran_before = processor_time();
            let outcome = module.judge(&sandbox, &owned.event(), &check_amended);
            module.queue.ran(processor_time().saturating_sub(ran_before));
            outcome
        });
        let ended = match time.verdict_until {
            Some(until) => timeout_at(until, call).await,
            None => Ok(call.await),
        };
        match ended {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(ended)) => std::panic::resume_unwind(ended.into_panic()),
            // The call goes on within its deadline and its verdict is dropped, since the rest of the request cannot wait.
            Err(_) => Err(owner.busy()),
        }
    }

    /// Waits for a place for a call of this module; none when too many wait or the time is over.
    async fn place(&self, queue: &Queue, application: &str, bytes: usize, until: Instant) -> Option<Place> {
        let (ticket, granted) = match self.0.ask(queue, application, bytes)? {
            Asked::Granted(place) => return Some(place),
            Asked::Waits(ticket, granted) => (ticket, granted),
        };
        // Dropping `waits` leaves the queue, or gives back a place that was granted at that moment.
        let waits = Waits { shared: &self.0, module: queue.number, application, ticket };
        timeout_at(until, granted).await.ok()?.ok()?;
        Some(waits.granted())
    }
}

/// The answer to an event that asks for a place.
enum Asked {
    Granted(Place),
    Waits(u64, oneshot::Receiver<()>),
}

impl Shared {
    /// No code under the lock can leave the state half changed, so a poisoned lock is as good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a place if one is free for this module, or else a place in its queue.
    fn ask(self: &Arc<Self>, queue: &Queue, application: &str, bytes: usize) -> Option<Asked> {
        let mut state = self.lock();
        let most = queue.most(self.places);
        let lane = state.lanes.entry(queue.number).or_default();
        lane.most = most;
        if lane.turns.is_empty() && self.may_hold(&state, queue.number) {
            state.grant(queue.number);
            return Some(Asked::Granted(Place { shared: Arc::clone(self), module: queue.number }));
        }
        if !self.may_wait(&state, application, bytes) {
            state.forget(queue.number);
            return None;
        }
        state.tickets += 1;
        let (ticket, (grant, granted)) = (state.tickets, oneshot::channel());
        state.waiting += 1;
        state.waiting_bytes += bytes;
        let own = state.by_application.entry(application.into()).or_default();
        own.events += 1;
        own.bytes += bytes;
        let turns = &mut state.lanes.entry(queue.number).or_default().turns;
        let waiter = Waiter { ticket, bytes, grant };
        match turns.iter_mut().find(|(name, _)| &**name == application) {
            Some((_, waiters)) => waiters.push_back(waiter),
            None => turns.push_back((application.into(), VecDeque::from([waiter]))),
        }
        Some(Asked::Waits(ticket, granted))
    }

    /// Whether a module may hold one more place.
    fn may_hold(&self, state: &State, module: u64) -> bool {
        let Some(lane) = state.lanes.get(&module) else { return false };
        let Some(free) = self.places.checked_sub(state.held + 1) else { return false };
        let own = lane.held + 1;
        own == 1 || own <= lane.most && within_share(own, free, state.limits.module_share_percent)
    }

    /// Whether one more event of an application may wait.
    fn may_wait(&self, state: &State, application: &str, bytes: usize) -> bool {
        let own = state.by_application.get(application).copied().unwrap_or_default();
        let fits = |own: usize, more: usize, all: usize, most: usize| {
            let free = most.checked_sub(all.saturating_add(more));
            free.is_some_and(|free| own == 0 || within_share(own + more, free, state.limits.application_share_percent))
        };
        fits(own.events, 1, state.waiting, state.limits.waiting_max)
            && fits(own.bytes, bytes, state.waiting_bytes, state.limits.waiting_bytes_max)
    }

    /// Gives free places to waiting events: those of the module that holds the fewest places come first.
    fn give(&self, state: &mut State) {
        loop {
            let waits = state.lanes.iter().filter(|(_, lane)| !lane.turns.is_empty());
            let next = waits.filter(|(module, _)| self.may_hold(state, **module));
            let Some(module) = next.min_by_key(|(_, lane)| (lane.held, lane.granted)).map(|(module, _)| *module) else {
                return;
            };
            let Some((application, waiter)) = state.next_of(module) else { return };
            state.left(&application, waiter.bytes);
            state.grant(module);
            // The event still waits: one that gives up leaves the queue first.
            let _ = waiter.grant.send(());
        }
    }
}

impl State {
    /// Takes the next event of a module from its queue. Applications take turns.
    fn next_of(&mut self, module: u64) -> Option<(Box<str>, Waiter)> {
        let turns = &mut self.lanes.get_mut(&module)?.turns;
        let (application, mut waiters) = turns.pop_front()?;
        let waiter = waiters.pop_front()?;
        if !waiters.is_empty() {
            turns.push_back((application.clone(), waiters));
        }
        Some((application, waiter))
    }

    /// Counts an event that no longer waits.
    fn left(&mut self, application: &str, bytes: usize) {
        self.waiting -= 1;
        self.waiting_bytes -= bytes;
        if let Some(own) = self.by_application.get_mut(application) {
            own.events -= 1;
            own.bytes -= bytes;
            if own.events == 0 {
                self.by_application.remove(application);
            }
        }
    }

    fn grant(&mut self, module: u64) {
        self.held += 1;
        self.grants += 1;
        let lane = self.lanes.entry(module).or_default();
        lane.held += 1;
        lane.granted = self.grants;
    }

    fn release(&mut self, module: u64) {
        self.held -= 1;
        if let Some(lane) = self.lanes.get_mut(&module) {
            lane.held -= 1;
        }
        self.forget(module);
    }

    /// Drops a module without places and waiting events.
    fn forget(&mut self, module: u64) {
        if self.lanes.get(&module).is_some_and(|lane| lane.held == 0 && lane.turns.is_empty()) {
            self.lanes.remove(&module);
        }
    }

    /// Removes an event that gives up from the queue. Returns false when it is not there, since it was granted a place.
    fn give_up(&mut self, module: u64, application: &str, ticket: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(&module) else { return false };
        let Some(turn) = lane.turns.iter().position(|(name, _)| &**name == application) else { return false };
        let waiters = &mut lane.turns[turn].1;
        let found = waiters.iter().position(|waiter| waiter.ticket == ticket);
        let Some(waiter) = found.and_then(|place| waiters.remove(place)) else { return false };
        if waiters.is_empty() {
            lane.turns.remove(turn);
        }
        self.left(application, waiter.bytes);
        self.forget(module);
        true
    }
}

/// A place. Dropping it gives the place back.
struct Place {
    shared: Arc<Shared>,
    module: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.release(self.module);
        self.shared.give(&mut state);
    }
}

/// A wait for a place. Dropping it gives up.
struct Waits<'a> {
    shared: &'a Arc<Shared>,
    module: u64,
    application: &'a str,
    ticket: u64,
}

impl Waits<'_> {
    fn granted(self) -> Place {
        let place = Place { shared: Arc::clone(self.shared), module: self.module };
        std::mem::forget(self);
        place
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if !state.give_up(self.module, self.application, self.ticket) {
            state.release(self.module);
        }
        self.shared.give(&mut state);
    }
}

/// A probe. Dropping it ends the probe: after its call, or without one when there was no place or the request gave up.
struct Probing {
    module: Arc<Module>,
    probe: Probe,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.module.circuit.unprobed(&self.probe);
    }
}

/// An event with its own texts, since the call may outlive the request.
pub(super) struct Owned {
    id: String,
    application: String,
    session_id: String,
    category: String,
    name: String,
    timestamp_us: i64,
    received_at_us: i64,
    data: String,
}

impl Owned {
    pub(super) fn of(event: &GuestEvent<'_>) -> Self {
        Self {
            id: event.id.into(),
            application: event.application.into(),
            session_id: event.session_id.into(),
            category: event.category.into(),
            name: event.name.into(),
            timestamp_us: event.timestamp_us,
            received_at_us: event.received_at_us,
            data: event.data.into(),
        }
    }

    pub(super) fn event(&self) -> GuestEvent<'_> {
        GuestEvent {
            id: &self.id,
            application: &self.application,
            session_id: &self.session_id,
            category: &self.category,
            name: &self.name,
            timestamp_us: self.timestamp_us,
            received_at_us: self.received_at_us,
            data: &self.data,
        }
    }
}

#[cfg(test)]
mod tests;
