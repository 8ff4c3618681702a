//! Counts events by outcome, for each application and each event type. A request counts its events in a small table of
//! its own and adds it up once, so that an event costs a comparison of two words and no shared memory. Event types
//! beyond a bound are counted as `other`, since senders choose their names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use eye_event::event::Text;
use eye_event::outcome::{OutcomeKind, UNFINISHED};
use eye_event::verdict::UnfinishedCode;
use foldhash::HashMap;
use smallvec::SmallVec;

/// The label of the events that are counted together.
pub const OTHER: &str = "other";
/// Most applications with counters of their own. Operators register them, so there are few.
pub const APPLICATIONS_MAX: usize = 1_000;
/// The outcomes that hold only once the sender has the answer. A request that is refused as a whole has none of them.
const REFUSED: [Counted; 3] = [Some(OutcomeKind::Rejected), Some(OutcomeKind::Quarantined), None];
/// Most event types in the table of one request. A full table is added up.
const LINES_MAX: usize = 64;
/// How many lines of the table the search for an event type looks at. An event type further back gets a second line,
/// which is added up as well and costs less than a longer search for each event.
const LINES_SEARCHED: usize = 8;

/// How an event is counted: by its outcome, or as an event without one, which will be counted again when it is sent
/// again.
pub type Counted = Option<OutcomeKind>;

/// Counts in the order of [`OutcomeKind::ALL`], then the events without an outcome.
pub type Counts = [u64; OutcomeKind::ALL.len() + 1];

const fn place_of(counted: Counted) -> usize {
    match counted {
        Some(kind) => kind as usize,
        None => OutcomeKind::ALL.len(),
    }
}

/// Each index of [`Counts`], with its word.
pub fn counted() -> impl Iterator<Item = (&'static str, usize)> {
    let words = OutcomeKind::ALL.into_iter().map(OutcomeKind::as_str).chain([UNFINISHED]);
    words.zip(0..)
}

#[derive(Debug, Default)]
struct Shared([AtomicU64; OutcomeKind::ALL.len() + 1]);

impl Shared {
    fn add(&self, counts: &Counts) {
        for (shared, count) in self.0.iter().zip(counts).filter(|(_, count)| **count > 0) {
            shared.fetch_add(*count, Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        std::array::from_fn(|place| self.0[place].load(Relaxed))
    }
}

/// How the timestamp of an event differs from its receipt by more than a sender on time can explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// The event is older than [`Skew::PAST_US`].
    Past,
    /// The event was rejected because it lies in the future.
    Future,
}

impl Skew {
    /// Both, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::Past, Self::Future];

    /// A quarter of an hour in microseconds: no two time zones are nearer to each other.
    pub const PAST_US: i64 = 15 * 60 * 1_000_000;

    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Future => "future",
        }
    }
}

/// Events by skew, in the order of [`Skew::ALL`].
pub type Skewed = [u64; Skew::ALL.len()];

/// The counts of one application.
#[derive(Debug, Default)]
struct OfApplication {
    counts: Shared,
    skewed: [AtomicU64; Skew::ALL.len()],
}

impl OfApplication {
    fn add(&self, counts: &Counts, skewed: &Skewed) {
        self.counts.add(counts);
        for (shared, count) in self.skewed.iter().zip(skewed).filter(|(_, count)| **count > 0) {
            shared.fetch_add(*count, Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct EventTypes {
    /// By category, then by name, so that a lookup allocates no key.
    categories: HashMap<Box<str>, HashMap<Box<str>, Shared>>,
    count: usize,
}

/// The counts of all events since the start. Requests add to them; each scrape reads them.
#[derive(Debug)]
pub struct Tallies {
    event_types_max: usize,
    event_types: RwLock<EventTypes>,
    other_event_types: Shared,
    applications: RwLock<HashMap<Box<str>, OfApplication>>,
    other_applications: OfApplication,
    /// Events without an outcome, by cause, in the order of [`UnfinishedCode::ALL`].
    unfinished: [AtomicU64; UnfinishedCode::ALL.len()],
}

impl Tallies {
    /// Counts event types beyond `event_types_max` together.
    pub fn new(event_types_max: usize) -> Self {
        Self {
            event_types_max,
            event_types: RwLock::default(),
            other_event_types: Shared::default(),
            applications: RwLock::default(),
            other_applications: OfApplication::default(),
            unfinished: Default::default(),
        }
    }

    /// Counts an event without an outcome by its cause.
    pub fn count_unfinished(&self, code: UnfinishedCode) {
        self.unfinished[code.index()].fetch_add(1, Relaxed);
    }

    /// The number of events without an outcome for this cause.
    pub fn unfinished(&self, code: UnfinishedCode) -> u64 {
        self.unfinished[code.index()].load(Relaxed)
    }

    /// Starts the table of one request of an application.
    pub fn begin<'a>(&'a self, application: &'a str) -> Tally<'a> {
        Tally {
            tallies: self,
            application,
            lines: SmallVec::new(),
            last: 0,
            untyped: Counts::default(),
            waiting: Vec::new(),
            sum: Counts::default(),
            skewed: Skewed::default(),
            is_answered: false,
        }
    }

    /// The counts of each application, in order of their names.
    pub fn by_application(&self) -> BTreeMap<String, Counts> {
        let applications = read(&self.applications);
        let mut found: BTreeMap<String, Counts> =
            applications.iter().map(|(name, shared)| (name.to_string(), shared.counts.counts())).collect();
        merge(&mut found, OTHER.to_owned(), self.other_applications.counts.counts());
        found
    }

    /// The events of each application with a skewed timestamp, in order of the applications' names.
    pub fn skewed_by_application(&self) -> BTreeMap<String, Skewed> {
        let applications = read(&self.applications);
        let skewed = |shared: &OfApplication| shared.skewed.each_ref().map(|count| count.load(Relaxed));
        let mut found: BTreeMap<String, Skewed> =
            applications.iter().map(|(name, shared)| (name.to_string(), skewed(shared))).collect();
        merge(&mut found, OTHER.to_owned(), skewed(&self.other_applications));
        found
    }

    /// The counts of each event type, sorted.
    pub fn by_event_type(&self) -> BTreeMap<(String, String), Counts> {
        let mut found = BTreeMap::new();
        for (category, names) in &read(&self.event_types).categories {
            for (name, shared) in names {
                found.insert((category.to_string(), name.to_string()), shared.counts());
            }
        }
        merge(&mut found, (OTHER.to_owned(), OTHER.to_owned()), self.other_event_types.counts());
        found
    }

    fn add_event_type(&self, category: &str, name: &str, counts: &Counts) {
        let add = |types: &EventTypes| {
            types.categories.get(category).and_then(|names| names.get(name)).map(|shared| shared.add(counts)).is_some()
        };
        {
            let types = read(&self.event_types);
            if add(&types) {
                return;
            }
            // The table stays full, so this needs no write lock.
            if types.count >= self.event_types_max {
                self.other_event_types.add(counts);
                return;
            }
        }
        self.add_new_event_type(category, name, counts);
    }

    /// Counts an event type that was missing a moment ago. Another thread may have added it since.
    fn add_new_event_type(&self, category: &str, name: &str, counts: &Counts) {
        let mut types = write(&self.event_types);
        let there = types.categories.get(category).is_some_and(|names| names.contains_key(name));
        if !there && types.count >= self.event_types_max {
            self.other_event_types.add(counts);
            return;
        }
        let names = types.categories.entry(category.into()).or_default();
        let before = names.len();
        names.entry(name.into()).or_default().add(counts);
        let new = names.len() - before;
        types.count += new;
    }

    fn add_application(&self, application: &str, counts: &Counts, skewed: &Skewed) {
        if let Some(shared) = read(&self.applications).get(application) {
            shared.add(counts, skewed);
            return;
        }
        let mut applications = write(&self.applications);
        if applications.len() < APPLICATIONS_MAX || applications.contains_key(application) {
            applications.entry(application.into()).or_default().add(counts, skewed);
        } else {
            self.other_applications.add(counts, skewed);
        }
    }
}

/// Adds counts to a key. An application or event type may itself be called `other`.
fn merge<K: Ord, const N: usize>(found: &mut BTreeMap<K, [u64; N]>, key: K, counts: [u64; N]) {
    if counts.iter().any(|count| *count > 0) {
        let line = found.entry(key).or_insert([0; N]);
        for (sum, count) in line.iter_mut().zip(counts) {
            *sum += count;
        }
    }
}

/// No code under these locks can leave a map half changed, so a poisoned one is used.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The table of one request. Its drop adds it up, so that events count even if their sender left.
#[derive(Debug)]
pub struct Tally<'a> {
    tallies: &'a Tallies,
    application: &'a str,
    lines: SmallVec<[Line; 1]>,
    /// The line that was used last. The next event probably has the same type.
    last: usize,
    /// Events whose type could not be read.
    untyped: Counts,
    /// Events that were not stored. They count once the request is answered.
    waiting: Vec<Line>,
    /// The sum of the lines added so far. The drop adds it to the application.
    sum: Counts,
    /// Events with a skewed timestamp. They count if the request is answered.
    skewed: Skewed,
    is_answered: bool,
}

#[derive(Debug)]
struct Line {
    category: Text,
    name: Text,
    counts: Counts,
}

impl Tally<'_> {
    /// Counts one event. Events that were not stored count only after [`Tally::told`].
    pub fn count(&mut self, category: &Text, name: &Text, counted: Counted) {
        let is = |line: &Line| line.name == *name && line.category == *category;
        if !self.lines.get(self.last).is_some_and(is) {
            let searched = self.lines.len().saturating_sub(LINES_SEARCHED);
            self.last = match self.lines[searched..].iter().position(is) {
                Some(place) => searched + place,
                None => self.new_line(category.clone(), name.clone()),
            };
        }
        self.lines[self.last].counts[place_of(counted)] += 1;
    }

    /// Counts one event whose type could not be read.
    pub fn count_untyped(&mut self, counted: Counted) {
        self.untyped[place_of(counted)] += 1;
    }

    /// Counts one event with a skewed timestamp, if the request is answered.
    pub fn count_skewed(&mut self, skew: Skew) {
        self.skewed[skew as usize] += 1;
    }

    /// Counts the events that were not stored, since the answer is ready and the sender gets their outcomes.
    pub fn told(&mut self) {
        self.is_answered = true;
        self.add_lines();
        for line in std::mem::take(&mut self.waiting) {
            self.add(&line);
        }
        let untyped = std::mem::take(&mut self.untyped);
        if untyped.iter().any(|count| *count > 0) {
            self.tallies.other_event_types.add(&untyped);
            self.sum.iter_mut().zip(untyped).for_each(|(sum, count)| *sum += count);
        }
    }

    fn new_line(&mut self, category: Text, name: Text) -> usize {
        if self.lines.len() >= LINES_MAX {
            self.add_lines();
        }
        self.lines.push(Line { category, name, counts: Counts::default() });
        self.lines.len() - 1
    }

    /// Adds up all lines. The events that were not stored wait for the answer.
    fn add_lines(&mut self) {
        for mut line in std::mem::take(&mut self.lines) {
            let mut refused = Counts::default();
            for counted in REFUSED {
                let place = place_of(counted);
                refused[place] = std::mem::take(&mut line.counts[place]);
            }
            self.add(&line);
            if refused.iter().any(|count| *count > 0) {
                line.counts = refused;
                self.waiting.push(line);
            }
        }
    }

    fn add(&mut self, line: &Line) {
        if line.counts.iter().any(|count| *count > 0) {
            self.tallies.add_event_type(&line.category, &line.name, &line.counts);
            self.sum.iter_mut().zip(line.counts).for_each(|(sum, count)| *sum += count);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.add_lines();
        if self.sum.iter().any(|count| *count > 0) {
            let skewed = if self.is_answered { self.skewed } else { Skewed::default() };
            self.tallies.add_application(self.application, &self.sum, &skewed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(category: &str, name: &str) -> (String, String) {
        (category.to_owned(), name.to_owned())
    }

    #[test]
    fn a_request_is_added_up_once_it_is_over() {
        let tallies = Tallies::new(10);
        let (page, view, click) = (Text::from("page"), Text::from("view"), Text::from("click"));
        let mut tally = tallies.begin("shop");
        for _ in 0..3 {
            tally.count(&page, &view, Some(OutcomeKind::Stored));
            tally.count(&page, &click, Some(OutcomeKind::Rejected));
        }
        tally.count(&page, &view, Some(OutcomeKind::Quarantined));
        tally.count_untyped(Some(OutcomeKind::Rejected));
        assert!(tallies.by_event_type().is_empty());
        tally.told();
        drop(tally);
        let types = tallies.by_event_type();
        assert_eq!(types[&key("page", "view")], [3, 0, 0, 1, 0]);
        assert_eq!(types[&key("page", "click")], [0, 0, 3, 0, 0]);
        assert_eq!(types[&key(OTHER, OTHER)], [0, 0, 1, 0, 0]);
        assert_eq!(tallies.by_application()["shop"], [3, 0, 4, 1, 0]);
    }

    #[test]
    fn event_types_that_come_again_after_many_others_are_added_to_what_was_counted() {
        let tallies = Tallies::new(100);
        let mut tally = tallies.begin("shop");
        for round in 0..5 {
            for number in 0..3 * LINES_SEARCHED {
                let counted = if round == 0 { Some(OutcomeKind::Rejected) } else { Some(OutcomeKind::Stored) };
                tally.count(&Text::from("many"), &Text::from(number.to_string().as_str()), counted);
            }
        }
        tally.told();
        drop(tally);
        let types = tallies.by_event_type();
        assert_eq!(types.len(), 3 * LINES_SEARCHED);
        assert!(types.values().all(|counts| *counts == [4, 0, 1, 0, 0]), "{types:?}");
    }

    #[test]
    fn an_event_type_that_another_thread_has_just_added_at_the_bound_is_counted_once() {
        let tallies = Tallies::new(1);
        let mut counts = Counts::default();
        counts[0] = 1;
        tallies.add_event_type("page", "view", &counts);
        // What a thread does after its search found nothing.
        tallies.add_new_event_type("page", "view", &counts);
        tallies.add_new_event_type("page", "click", &counts);
        let types = tallies.by_event_type();
        assert_eq!((types[&key("page", "view")][0], types[&key(OTHER, OTHER)][0]), (2, 1));
    }

    #[test]
    fn a_request_that_is_refused_as_a_whole_counts_nothing() {
        let tallies = Tallies::new(10);
        let mut tally = tallies.begin("shop");
        tally.count(&Text::from("a"), &Text::from("b"), Some(OutcomeKind::Rejected));
        tally.count(&Text::from("a"), &Text::from("c"), Some(OutcomeKind::Quarantined));
        tally.count_untyped(Some(OutcomeKind::Rejected));
        drop(tally);
        assert!(tallies.by_event_type().is_empty() && tallies.by_application().is_empty());
    }

    #[test]
    fn skewed_timestamps_count_once_the_request_is_answered() {
        let tallies = Tallies::new(10);
        for is_answered in [false, true] {
            let mut tally = tallies.begin("shop");
            tally.count(&Text::from("a"), &Text::from("b"), Some(OutcomeKind::Stored));
            tally.count_skewed(Skew::Past);
            tally.count_skewed(Skew::Future);
            tally.count_skewed(Skew::Future);
            if is_answered {
                tally.told();
            }
        }
        assert_eq!(tallies.skewed_by_application(), BTreeMap::from([("shop".to_owned(), [1, 2])]));
    }

    #[test]
    fn what_is_committed_counts_also_when_its_sender_is_not_told() {
        let tallies = Tallies::new(10);
        let mut tally = tallies.begin("shop");
        tally.count(&Text::from("a"), &Text::from("b"), Some(OutcomeKind::Stored));
        tally.count(&Text::from("a"), &Text::from("b"), Some(OutcomeKind::Rejected));
        drop(tally);
        assert_eq!(tallies.by_event_type()[&key("a", "b")], [1, 0, 0, 0, 0]);
        assert_eq!(tallies.by_application()["shop"], [1, 0, 0, 0, 0]);
    }

    #[test]
    fn event_types_beyond_the_bound_are_counted_together_and_no_event_is_lost() {
        let tallies = Tallies::new(100);
        for _ in 0..2 {
            let mut tally = tallies.begin("shop");
            for number in 0..1_000 {
                let counted = if number % 3 == 0 { Some(OutcomeKind::Quarantined) } else { Some(OutcomeKind::Stored) };
                tally.count(&Text::from("many"), &Text::from(number.to_string().as_str()), counted);
            }
            tally.count(&Text::from(OTHER), &Text::from(OTHER), Some(OutcomeKind::Stored));
            tally.told();
        }
        let types = tallies.by_event_type();
        assert_eq!(types.len(), 101);
        let sum = types.values().fold(Counts::default(), |sum, one| std::array::from_fn(|at| sum[at] + one[at]));
        assert_eq!(sum, [1_334, 0, 0, 668, 0]);
        assert_eq!(tallies.by_application()["shop"], sum);
    }
}
