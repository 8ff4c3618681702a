//! Calls away from the request threads, for modules that take long: a bounded number at once on tokio's blocking threads, and a
//! bounded number of events that wait for one. A module gets as many places as its load needs and its cost allows, within
//! its share, and an application its share of those who wait, so that neither takes them all. An event for which there was no
//! place in time is not judged, and has no outcome yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eye_event::verdict::{Unjudged, Verdict};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::circuit::Probe;
use super::contract::{CheckAmended, GuestEvent};
use super::engine::{Sandbox, processor_time};
use super::module::{Module, Queue};

/// How calls away from the request threads are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadLimits {
    /// Calls at once; 0 for two for each processor.
    pub places: usize,
    /// How much of them one module may hold alone, in percent.
    pub module_share_percent: usize,
    /// Events that may wait for a place.
    pub waiting_max: usize,
    /// Bytes of their data.
    pub waiting_bytes_max: usize,
    /// How much of both one application may fill alone, in percent.
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

/// How long an event may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// Until when it may wait for a place.
    pub(super) place_until: Instant,
    /// Until when its verdict is waited for, if not as long as it takes.
    pub(super) verdict_until: Option<Instant>,
}

/// The places of all modules together.
#[derive(Clone)]
pub(super) struct Offload(Arc<Shared>);

struct Shared {
    limits: OffloadLimits,
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Places that are held.
    held: usize,
    waiting: usize,
    waiting_bytes: usize,
    /// What each application has of both.
    by_application: HashMap<Box<str>, Waiting>,
    /// Modules that hold a place or have events that wait, by their number.
    lanes: HashMap<u64, Lane>,
    /// How many events have waited so far.
    tickets: u64,
    /// Counts the grants, so that of two modules the one that waited longer comes first.
    grants: u64,
}

#[derive(Default, Clone, Copy)]
struct Waiting {
    events: usize,
    bytes: usize,
}

/// One module's places, and the events that wait for one: by application, which take turns.
#[derive(Default)]
struct Lane {
    held: usize,
    most: usize,
    /// The grant that it got last.
    granted: u64,
    turns: VecDeque<(Box<str>, VecDeque<Waiter>)>,
}

struct Waiter {
    ticket: u64,
    bytes: usize,
    grant: oneshot::Sender<()>,
}

/// Whether somebody may have `own` of `all`, of which `free` are left then: a share that shrinks as the room does.
fn within_share(own: usize, free: usize, percent: usize) -> bool {
    own.saturating_mul(100 - percent.min(100)) <= free.saturating_mul(percent)
}

impl Offload {
    pub(super) fn new(limits: OffloadLimits) -> Self {
        Self(Arc::new(Shared { limits, places: limits.places(), state: Mutex::default() }))
    }

    /// Events that wait for a place now.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    /// Judges on a blocking thread, if there is a place until then. Unless the event `probes` the module, it must still be
    /// on the path for this application.
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
        // The place is given back when the call ends, also when nobody waits for it any more; and a probe ends with it.
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
            // The call goes on within its deadline, and nobody hears of its verdict: the rest of the request cannot wait.
            Err(_) => Err(owner.busy()),
        }
    }

    /// A place for a call of this module, or nothing when too many wait or time is up.
    async fn place(&self, queue: &Queue, application: &str, bytes: usize, until: Instant) -> Option<Place> {
        let (ticket, granted) = match self.0.ask(queue, application, bytes)? {
            Asked::Granted(place) => return Some(place),
            Asked::Waits(ticket, granted) => (ticket, granted),
        };
        // Whoever gives up leaves the queue, or gives back what was granted just then.
        let waits = Waits { shared: &self.0, module: queue.number, application, ticket };
        timeout_at(until, granted).await.ok()?.ok()?;
        Some(waits.granted())
    }
}

enum Asked {
    Granted(Place),
    Waits(u64, oneshot::Receiver<()>),
}

impl Shared {
    /// Nothing that runs under the lock can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place if one is free for this module, or one in its queue.
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

    /// Whether a module may hold one place more.
    fn may_hold(&self, state: &State, module: u64) -> bool {
        let Some(lane) = state.lanes.get(&module) else { return false };
        let Some(free) = self.places.checked_sub(state.held + 1) else { return false };
        let own = lane.held + 1;
        own == 1 || own <= lane.most && within_share(own, free, self.limits.module_share_percent)
    }

    fn may_wait(&self, state: &State, application: &str, bytes: usize) -> bool {
        let own = state.by_application.get(application).copied().unwrap_or_default();
        let fits = |own: usize, more: usize, all: usize, most: usize| {
            let free = most.checked_sub(all.saturating_add(more));
            free.is_some_and(|free| own == 0 || within_share(own + more, free, self.limits.application_share_percent))
        };
        fits(own.events, 1, state.waiting, self.limits.waiting_max)
            && fits(own.bytes, bytes, state.waiting_bytes, self.limits.waiting_bytes_max)
    }

    /// Gives places that are free to those who wait: to the module that holds the fewest first.
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
            // Whoever does not wait any more has left the queue first.
            let _ = waiter.grant.send(());
        }
    }
}

impl State {
    /// Takes the next event of a module out of its queue: applications take turns.
    fn next_of(&mut self, module: u64) -> Option<(Box<str>, Waiter)> {
        let turns = &mut self.lanes.get_mut(&module)?.turns;
        let (application, mut waiters) = turns.pop_front()?;
        let waiter = waiters.pop_front()?;
        if !waiters.is_empty() {
            turns.push_back((application.clone(), waiters));
        }
        Some((application, waiter))
    }

    /// An event does not wait any more.
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

    /// Forgets a module that holds nothing and for which nobody waits.
    fn forget(&mut self, module: u64) {
        if self.lanes.get(&module).is_some_and(|lane| lane.held == 0 && lane.turns.is_empty()) {
            self.lanes.remove(&module);
        }
    }

    /// Takes one that gave up out of the queue. False when it is not there: it was granted a place just then.
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

/// A place, until it is dropped.
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

/// One who waits, until it is dropped.
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

/// A probe, until it is dropped: at the end of its call, or without one when there was no place, or when nobody waited
/// for it any more.
struct Probing {
    module: Arc<Module>,
    probe: Probe,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.module.circuit.unprobed(&self.probe);
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
    received_at_us: i64,
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
            received_at_us: event.received_at_us,
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
            received_at_us: self.received_at_us,
            data: &self.data,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const LIMITS: OffloadLimits = OffloadLimits {
        places: 4,
        module_share_percent: 75,
        waiting_max: 8,
        waiting_bytes_max: 1_000,
        application_share_percent: 75,
    };

    fn queue(cost_ms: u64) -> Queue {
        let queue = Queue::new();
        queue.ran(Duration::from_millis(cost_ms));
        queue
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// As many places as a module gets without waiting.
    fn fill(away: &Offload, queue: &Queue) -> Vec<Place> {
        let take = || away.place(queue, "web", 1, later()).now_or_never().flatten();
        std::iter::from_fn(take).collect()
    }

    #[tokio::test]
    async fn a_module_gets_places_by_its_cost_and_never_all_of_them() {
        let away = Offload::new(LIMITS);
        for (cost_ms, places) in [(1, 3), (5, 3), (10, 2), (50, 1), (5_000, 1)] {
            let held = fill(&away, &queue(cost_ms));
            assert_eq!(held.len(), places, "{cost_ms} ms");
            // Another module gets its place at once.
            assert_eq!(fill(&away, &queue(5_000)).len(), 1, "{cost_ms} ms");
        }
        assert_eq!(fill(&away, &Queue::new()).len(), 1, "nobody knows yet what it costs");
        let state = away.0.lock();
        assert_eq!((state.held, state.waiting, state.lanes.len(), state.by_application.len()), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn those_who_wait_are_bounded_and_one_application_leaves_room_for_others() {
        let away = Offload::new(LIMITS);
        let slow = queue(1_000);
        let held = fill(&away, &slow);
        let mut waits = Vec::new();
        let mut wait = |application: &'static str, bytes| {
            let mut place = Box::pin(away.place(&slow, application, bytes, later()));
            match place.as_mut().now_or_never() {
                None => waits.push(place),
                Some(place) => assert!(place.is_none(), "there is no place"),
            }
            waits.len()
        };
        assert_eq!((0..20).map(|_| wait("greedy", 10)).max(), Some(6));
        assert_eq!(wait("other", 10), 7);
        assert_eq!(wait("greedy", 10), 7, "who holds more than its share gets nothing");
        assert_eq!(wait("large", 5_000), 7, "bytes are bounded too");
        drop(waits);
        assert_eq!(away.waiting(), 0, "who gives up leaves the queue");
        drop(held);
        assert!(away.0.lock().lanes.is_empty());
    }

    #[tokio::test]
    async fn applications_take_turns_and_nobody_is_passed_over() {
        let away = Offload::new(LIMITS);
        let slow = queue(1_000);
        let mut held = fill(&away, &slow);
        let mut waits: Vec<_> = ["a", "a", "a", "b"]
            .into_iter()
            .map(|application| (application, Box::pin(away.place(&slow, application, 1, later()))))
            .collect();
        for (_, place) in &mut waits {
            assert!(place.as_mut().now_or_never().is_none());
        }
        let mut order = Vec::new();
        while !waits.is_empty() {
            held.clear();
            let granted = waits.iter_mut().position(|(_, place)| match place.as_mut().now_or_never() {
                Some(place) => {
                    held.extend(place);
                    true
                }
                None => false,
            });
            order.push(waits.remove(granted.expect("one is granted the place")).0);
        }
        assert_eq!(order, ["a", "b", "a", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_granted_to_one_who_gives_up_goes_to_the_next() {
        let away = Offload::new(LIMITS);
        let slow = queue(1_000);
        let held = fill(&away, &slow);
        let mut first = Box::pin(away.place(&slow, "a", 1, later()));
        let mut second = Box::pin(away.place(&slow, "b", 1, later()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(held);
        drop(first);
        assert!(second.await.is_some());
        let held = fill(&away, &slow);
        assert!(away.place(&slow, "a", 1, Instant::now() + Duration::from_secs(1)).await.is_none(), "time is up");
        drop(held);
        assert!(away.0.lock().lanes.is_empty());
    }
}
