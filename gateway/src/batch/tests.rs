use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tokio::time::sleep;

use super::queue::SWEEP_EVERY;
use super::*;
use crate::share::{Budget, Share};

#[derive(Clone, Debug)]
struct Item {
    key: u32,
    /// Unique among all items.
    serial: u32,
    poison: bool,
}

impl Weigh for Item {
    fn bytes(&self) -> usize {
        1 + self.key as usize % 20
    }
}

fn bytes(items: &[Item]) -> usize {
    items.iter().map(Weigh::bytes).sum()
}

/// A table in memory that records its writes.
#[derive(Default)]
struct Table {
    /// Each key, with the item that wrote it.
    rows: HashMap<u32, u32>,
    largest: usize,
    largest_bytes: usize,
    writes: usize,
    most_at_once: usize,
    at_once: usize,
}

/// The end of a write.
#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    Away,
    /// The items are written, and the answer is lost.
    Unseen,
    /// The writer panics before it writes anything.
    Broken,
}

use How::{Away, Broken, Unseen, Well};

/// A sink that fails as its script says.
struct Faulty {
    table: Arc<Mutex<Table>>,
    /// The writes take these in turn: the duration and the end of each.
    script: Vec<(u64, How)>,
    next: usize,
    /// The items of the current batch, and those of earlier batches.
    seen: HashSet<u32>,
    over: HashSet<u32>,
    /// The duration of `batch_ended`.
    busy: Duration,
}

impl Sink for Faulty {
    type Item = Item;

    async fn write(&mut self, items: &[&Item]) -> Result<Vec<Fate>, Failure> {
        let (delay, how) = self.script[self.next % self.script.len()];
        self.next += 1;
        self.seen.extend(items.iter().map(|item| item.serial));
        assert!(self.seen.is_disjoint(&self.over), "what comes again is of the same batch");
        {
            let mut table = self.table.lock().expect("lock");
            table.writes += 1;
            table.at_once += 1;
            table.most_at_once = table.most_at_once.max(table.at_once);
            table.largest = table.largest.max(items.len());
            table.largest_bytes = table.largest_bytes.max(items.iter().map(|item| item.bytes()).sum());
        }
        sleep(Duration::from_millis(delay)).await;
        let mut table = self.table.lock().expect("lock");
        table.at_once -= 1;
        match how {
            Away => return Err(Failure::Transient("away".to_owned())),
            Broken => {
                drop(table);
                panic!("as the script says");
            }
            Well | Unseen => {}
        }
        if items.iter().any(|item| item.poison) {
            return Err(Failure::Data { code: "22P02".to_owned(), message: "bad".to_owned() });
        }
        let fate = |item: &&Item| {
            let writer = *table.rows.entry(item.key).or_insert(item.serial);
            if writer == item.serial { Fate::Stored } else { Fate::Duplicate }
        };
        let fates = items.iter().map(fate).collect();
        if matches!(how, Unseen) { Err(Failure::Transient("no answer".to_owned())) } else { Ok(fates) }
    }

    async fn batch_ended(&mut self) {
        self.over.extend(self.seen.drain());
        sleep(self.busy).await;
    }
}

fn limits(events_max: usize) -> Limits {
    let (age, wait) = (Duration::from_millis(5), Duration::from_secs(3_600));
    Limits { events_max, bytes_max: events_max * 20, age, submissions_max: 100_000, wait }
}

fn sinks(count: usize, script: &[(u64, How)]) -> (Vec<Faulty>, Arc<Mutex<Table>>) {
    let table = Arc::new(Mutex::new(Table::default()));
    let sink = |next| Faulty {
        table: Arc::clone(&table),
        script: script.to_vec(),
        next,
        seen: HashSet::new(),
        over: HashSet::new(),
        busy: Duration::ZERO,
    };
    ((0..count).map(sink).collect(), table)
}

fn item(key: u32) -> Item {
    Item { key, serial: key, poison: false }
}

fn keys(table: &Mutex<Table>) -> HashSet<u32> {
    table.lock().expect("lock").rows.keys().copied().collect()
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runtime").block_on(test)
}

/// A submission: the pause before it, its items, and whether its receipt is dropped at once.
type Sent = (u64, Vec<Item>, bool);

async fn all_is_accounted_for(submissions: Vec<Sent>, script: Vec<(u64, How)>, writers: usize, limits: Limits) {
    let (sinks, table) = sinks(writers, &script);
    let (batcher, tasks) = Batcher::start("test", limits, sinks);
    let share = Arc::<Share>::default();
    let in_flight = Budget::new(1_000, 100);
    let mut waiting = Vec::new();
    let (mut largest, mut largest_bytes) = (limits.events_max, limits.bytes_max);
    for (pause, items, abandoned) in submissions {
        sleep(Duration::from_millis(pause)).await;
        largest = largest.max(items.len());
        largest_bytes = largest_bytes.max(bytes(&items));
        let mut room = Held::none(&in_flight, &share);
        assert!(room.grow_to(1));
        let receipt = batcher.submit(items.clone(), Some(Arc::new(room))).expect("room");
        if !abandoned {
            waiting.push((items, receipt));
        }
    }
    let sent: usize = waiting.iter().map(|(items, _)| items.len()).sum();
    let (mut stored, mut duplicate, mut dead) = (HashMap::new(), 0, 0);
    for (items, receipt) in waiting {
        let fates = receipt.await.expect("one receipt for each submission");
        assert_eq!(fates.len(), items.len(), "one fate for each item");
        let rows = &table.lock().expect("lock").rows;
        for (item, fate) in items.iter().zip(fates) {
            let writer = rows.get(&item.key);
            match fate {
                Fate::Stored => assert_eq!(stored.insert(item.key, item.serial), None, "stored is said once"),
                Fate::Duplicate => duplicate += 1,
                Fate::Refused { .. } => dead += 1,
                Fate::NotNow => panic!("this table refuses nothing for reasons of its own"),
            }
            assert_eq!(fate == Fate::Stored, writer == Some(&item.serial), "{item:?} {fate:?}: its own row or not");
            assert_eq!(matches!(fate, Fate::Refused { .. }), writer.is_none(), "{item:?} {fate:?}: a row or none");
            assert_eq!(item.poison, writer.is_none(), "only a bad item is refused");
        }
    }
    assert_eq!(stored.len() + duplicate + dead, sent, "nothing vanishes");
    tasks.drain(Duration::from_secs(3_600)).await;
    assert_eq!((in_flight.free(), share.held(), share.waiting()), (1_000, 0, 0), "all room is back");
    assert_eq!(batcher.depth(), 0);
    assert!(matches!(batcher.submit(vec![item(1)], None), Err(Refused::Closed(items)) if items.len() == 1));
    let table = table.lock().expect("lock");
    assert!(table.largest <= largest, "no batch has more items than its bound or its one submission");
    assert!(table.largest_bytes <= largest_bytes, "no batch has more bytes than its bound or its one submission");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_item_has_one_fate(
        submissions in proptest::collection::vec(
            (0_u64..12, proptest::collection::vec((0_u32..200, proptest::bool::weighted(0.05)), 0..40),
             proptest::bool::weighted(0.1)),
            0..60,
        ),
        mut script in proptest::collection::vec(
            (0_u64..30, proptest::sample::select(&[Well, Well, Well, Away, Unseen][..])), 1..20,
        ),
        writers in 1_usize..5,
        events_max in 1_usize..100,
        bytes_max in 20_usize..2_000,
    ) {
        // At least one write in a round succeeds; otherwise no item would ever be written.
        script.push((1, Well));
        let mut serial = 0;
        let mut item = |(key, poison)| {
            serial += 1;
            // A key is either good or bad.
            Item { key: key + if poison { 1_000 } else { 0 }, serial, poison }
        };
        let submissions = submissions.into_iter().map(|(pause, items, abandoned)| {
            (pause, items.into_iter().map(&mut item).collect(), abandoned)
        }).collect();
        paused(all_is_accounted_for(submissions, script, writers, Limits { bytes_max, ..limits(events_max) }));
    }
}

#[test]
fn an_idle_writer_starts_at_once_and_then_gathers() {
    paused(async {
        let (sinks, table) = sinks(2, &[(3, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(100), sinks);
        let start = Instant::now();
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let rest: Vec<_> = (1..50).map(|key| batcher.submit(vec![item(key)], None).expect("room")).collect();
        assert_eq!(first.await.expect("receipt")[..], [Fate::Stored]);
        assert_eq!(start.elapsed().as_millis(), 3, "the first did not wait for others");
        for receipt in rest {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        assert_eq!(start.elapsed().as_millis(), 6, "the others went together when the first flush ended");
        assert_eq!(table.lock().expect("lock").writes, 2);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_second_writer_starts_when_the_batch_is_full_or_old() {
    paused(async {
        let (sinks, table) = sinks(2, &[(100, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let start = Instant::now();
        let mut receipts = vec![batcher.submit(vec![item(0)], None).expect("room")];
        sleep(Duration::from_millis(1)).await;
        receipts.push(batcher.submit(vec![item(1)], None).expect("room"));
        for receipt in receipts {
            receipt.await.expect("receipt");
        }
        assert_eq!(start.elapsed().as_millis(), 106, "the second waited for its age of 5 ms only");
        let first = batcher.submit(vec![item(2)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        let full = batcher.submit((10..20).map(item).collect::<Vec<_>>(), None).expect("room");
        full.await.expect("receipt");
        assert_eq!(start.elapsed().as_millis(), 100, "a full batch waits for nothing");
        first.await.expect("receipt");
        assert_eq!(table.lock().expect("lock").most_at_once, 2);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn what_nobody_waits_for_is_not_written() {
    paused(async {
        let (sinks, table) = sinks(1, &[(50, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        drop(batcher.submit(vec![item(1)], None).expect("room"));
        batcher.submit_unanswered(vec![item(2)], None).expect("room");
        first.await.expect("receipt");
        drop(batcher);
        tasks.drain(Duration::from_secs(1)).await;
        assert_eq!(keys(&table), HashSet::from([0, 2]));
    });
}

#[test]
fn a_full_queue_refuses_and_makes_room_for_the_living() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(50, Well)]);
        let (batcher, tasks) = Batcher::start("test", Limits { submissions_max: 2, ..limits(10) }, sinks);
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let kept = batcher.submit(vec![item(1)], None).expect("room");
        let dropped = batcher.submit(vec![item(2)], None).expect("room");
        assert!(matches!(batcher.submit(vec![item(3)], None), Err(Refused::Full(items)) if items.len() == 1));
        drop(dropped);
        assert!(batcher.submit(vec![item(4)], None).is_err(), "the queue was searched just now");
        sleep(SWEEP_EVERY).await;
        let late = batcher.submit(vec![item(4)], None).expect("the place of the one that was given up");
        for receipt in [first, kept, late] {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_queue_with_other_bounds_writes_what_waits_and_takes_as_much_as_they_allow() {
    paused(async {
        let (sinks, table) = sinks(1, &[(50, Well)]);
        let (batcher, tasks) = Batcher::start("test", Limits { submissions_max: 3, ..limits(10) }, sinks);
        let mut receipts = vec![batcher.submit(vec![item(0)], None).expect("room")];
        sleep(Duration::from_millis(1)).await;
        receipts.extend((1..4).map(|key| batcher.submit(vec![item(key)], None).expect("room")));
        batcher.set_limits(Limits { submissions_max: 1, ..limits(1) });
        assert!(batcher.submit(vec![item(4)], None).is_err(), "there is more than may wait");
        for receipt in receipts {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        assert_eq!(table.lock().expect("lock").largest, 1, "a batch has one item now");
        let last = batcher.submit(vec![item(4)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let waits = batcher.submit(vec![item(5)], None).expect("one may wait");
        assert!(batcher.submit(vec![item(6)], None).is_err());
        batcher.set_limits(limits(10));
        let more = batcher.submit(vec![item(6)], None).expect("more may wait again");
        for receipt in [last, waits, more] {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_drain_ends_at_its_limit() {
    paused(async {
        let (sinks, _table) = sinks(2, &[(10, Away)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let receipt = batcher.submit(vec![item(0)], None).expect("room");
        let start = Instant::now();
        tasks.drain(Duration::from_secs(2)).await;
        assert_eq!(start.elapsed().as_secs(), 2);
        assert!(receipt.await.is_err(), "given up");
    });
}

#[test]
fn an_overloaded_queue_answers_in_time_what_it_takes() {
    const ANSWER: Duration = Duration::from_secs(1);
    paused(async {
        // The sink writes a hundred items per second, and three hundred arrive.
        let (sinks, _table) = sinks(1, &[(100, Well)]);
        let limits = Limits { wait: ANSWER / 4, ..limits(10) };
        let (batcher, tasks) = Batcher::start("test", limits, sinks);
        let (mut waiting, mut refused) = (JoinSet::new(), 0);
        for key in 0..3_000 {
            match batcher.submit(vec![item(key)], None) {
                Ok(receipt) => drop(waiting.spawn(timeout(ANSWER, receipt))),
                Err(_) => refused += 1,
            }
            sleep(Duration::from_micros(3_333)).await;
        }
        let (mut in_time, mut late) = (0, 0);
        while let Some(answer) = waiting.join_next().await {
            if answer.expect("a task").is_ok() { in_time += 1 } else { late += 1 }
        }
        assert!(in_time > 900, "{in_time} were answered in time, {late} too late, {refused} were refused at once");
        assert_eq!(late, 0, "what is taken is answered in time");
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn who_sends_little_does_not_pay_for_who_makes_the_queue_slow() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(100, Well)]);
        let limits = Limits { wait: Duration::from_millis(250), ..limits(10) };
        let (batcher, tasks) = Batcher::start("test", limits, sinks);
        let budget = Budget::new(1, 75);
        let room = |share: &Arc<Share>| Some(Arc::new(Held::none(&budget, share)));
        let (greedy, modest) = (Arc::default(), Arc::default());
        let (mut refused, mut refused_modest, mut waiting) = (0, 0, JoinSet::new());
        for key in 0..3_000 {
            match batcher.submit(vec![item(key)], room(&greedy)) {
                Ok(receipt) => drop(waiting.spawn(timeout(Duration::from_secs(1), receipt))),
                Err(_) => refused += 1,
            }
            // A tenth of the items of the other application.
            if key % 10 == 0 {
                match batcher.submit(vec![item(10_000 + key)], room(&modest)) {
                    Ok(receipt) => drop(waiting.spawn(timeout(Duration::from_secs(1), receipt))),
                    Err(_) => refused_modest += 1,
                }
            }
            sleep(Duration::from_micros(3_333)).await;
        }
        assert!(refused > 1_000, "{refused} of the greedy one's 3,000 were refused");
        // At the start the queue grows too long before any submission has waited for long.
        assert!(refused_modest < 15, "{refused_modest} of the modest one's 300 were refused");
        while let Some(answer) = waiting.join_next().await {
            assert!(answer.expect("a task").is_ok(), "what is taken is answered in time");
        }
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_sink_that_is_away_is_waited_for() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(10, Well), (500, Away), (500, Away), (10, Well)]);
        let limits = Limits { wait: Duration::from_millis(100), ..limits(10) };
        let (batcher, tasks) = Batcher::start("test", limits, sinks);
        let first = batcher.submit(vec![item(0)], None).expect("room");
        assert_eq!(first.await.expect("receipt")[..], [Fate::Stored]);
        let mut receipts = Vec::new();
        for key in 1..10 {
            sleep(Duration::from_millis(100)).await;
            receipts.push(batcher.submit(vec![item(key)], None).expect("it may be back at once"));
        }
        for receipt in receipts {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_writer_that_breaks_goes_on_with_the_next_batch() {
    paused(async {
        let (sinks, table) = sinks(1, &[(1, Broken), (1, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let lost = batcher.submit(vec![item(0)], None).expect("room");
        assert!(lost.await.is_err(), "nobody knows what became of it");
        let next = batcher.submit(vec![item(1)], None).expect("room");
        assert_eq!(next.await.expect("receipt")[..], [Fate::Stored]);
        assert_eq!(keys(&table), HashSet::from([1]));
        assert_eq!(batcher.figures().broken.load(Relaxed), 1);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn what_is_lost_unheard_is_counted() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(1, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let bad = |key| Item { poison: true, ..item(key) };
        batcher.submit_unanswered(vec![item(0), bad(1), bad(2)], None).expect("room");
        let heard = batcher.submit(vec![bad(3)], None).expect("room");
        assert!(matches!(heard.await.expect("receipt")[..], [Fate::Refused { .. }]));
        assert_eq!(batcher.figures().lost_unheard.load(Relaxed), 2, "the sink refuses them");
        tasks.drain(Duration::from_secs(1)).await;
    });
    paused(async {
        let (sinks, table) = sinks(1, &[(1, Broken), (1, Well), (1, Away)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let figures = || batcher.figures().lost_unheard.load(Relaxed);
        batcher.submit_unanswered(vec![item(0), item(1)], None).expect("room");
        let heard = batcher.submit(vec![item(2)], None).expect("room");
        assert!(heard.await.is_err());
        assert_eq!(figures(), 2, "a panic ended their batch");
        batcher.submit_unanswered(vec![item(3)], None).expect("room");
        sleep(Duration::from_millis(2)).await;
        assert_eq!((figures(), keys(&table)), (2, HashSet::from([3])), "what is written is not lost");
        // From here on each write fails, and a round of the script takes longer than the drain.
        batcher.submit_unanswered(vec![item(4)], None).expect("room");
        sleep(Duration::from_millis(2)).await;
        batcher.submit_unanswered((5..15).map(item).collect(), None).expect("room");
        let heard = batcher.submit(vec![item(15)], None).expect("room");
        tasks.drain(Duration::from_millis(1)).await;
        assert!(heard.await.is_err());
        assert_eq!(figures(), 13, "one that was tried again and ten that waited behind it");
    });
}

#[test]
fn what_waits_behind_a_writer_that_breaks_is_written_at_once() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(3, Broken), (3, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(100), sinks);
        let lost = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        let waiting: Vec<_> = (1..4).map(|key| batcher.submit(vec![item(key)], None).expect("room")).collect();
        assert!(lost.await.is_err(), "nobody knows");
        for receipt in waiting {
            assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
        }
        assert_eq!(start.elapsed().as_millis(), 5, "the rest of the write that broke, and one of 3 ms");
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn nobody_waits_for_what_a_sink_does_for_itself() {
    paused(async {
        let (mut sinks, _) = sinks(2, &[(0, Well)]);
        for sink in &mut sinks {
            sink.busy = Duration::from_secs(60);
        }
        let (batcher, _tasks) = Batcher::start("test", limits(10), sinks);
        let began = Instant::now();
        for key in 0..2 {
            let receipt = batcher.submit(vec![item(key)], None).expect("room");
            assert_eq!(receipt.await.expect("a receipt")[..], [Fate::Stored]);
            tokio::task::yield_now().await;
        }
        assert!(began.elapsed() < limits(10).age, "the other writer does not wait for company either");
    });
}

/// A sink that rejects some items for a reason of its own.
struct Stubborn {
    refuses: fn(&Item) -> bool,
    writes: Arc<AtomicU64>,
}

impl Sink for Stubborn {
    type Item = Item;

    async fn write(&mut self, items: &[&Item]) -> Result<Vec<Fate>, Failure> {
        self.writes.fetch_add(1, Relaxed);
        if items.iter().any(|item| (self.refuses)(item)) {
            return Err(Failure::Refusal { code: "XX000".to_owned(), message: "no".to_owned() });
        }
        Ok(vec![Fate::Stored; items.len()])
    }

    async fn batch_ended(&mut self) {}
}

#[test]
fn what_the_sink_refuses_for_a_reason_of_its_own_is_found_and_costs_no_neighbor() {
    paused(async {
        let writes = Arc::<AtomicU64>::default();
        let refuses = |item: &Item| item.key % 100 == 7;
        let sinks = vec![Stubborn { refuses, writes: Arc::clone(&writes) }];
        let (batcher, tasks) = Batcher::start("test", limits(1_000), sinks);
        let items: Vec<Item> = (0..1_000).map(item).collect();
        let fates = batcher.submit(items.clone(), None).expect("room").await.expect("a receipt");
        for (item, fate) in items.iter().zip(fates) {
            assert_eq!(fate, if refuses(item) { Fate::NotNow } else { Fate::Stored }, "{item:?}");
        }
        assert!(writes.load(Relaxed) < 300, "by halves: {writes:?}");
        drop(batcher);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_sink_that_refuses_everything_is_not_asked_for_each_item() {
    paused(async {
        let writes = Arc::<AtomicU64>::default();
        let sinks = vec![Stubborn { refuses: |_| true, writes: Arc::clone(&writes) }];
        let (batcher, tasks) = Batcher::start("test", limits(1_000), sinks);
        let fates = batcher.submit((0..1_000).map(item).collect::<Vec<_>>(), None).expect("room");
        assert!(fates.await.expect("a receipt").iter().all(|fate| *fate == Fate::NotNow));
        assert!(writes.load(Relaxed) < 50, "{writes:?}");
        assert_eq!(batcher.figures().not_now.load(Relaxed), 1_000);
        drop(batcher);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn batches_that_are_refused_whole_for_their_data_are_counted() {
    paused(async {
        let (sinks, _) = sinks(1, &[(1, Well)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        for round in 0..4 {
            let items: Vec<Item> =
                (0..3).map(|key| Item { poison: round != 3 || key == 0, ..item(round * 3 + key) }).collect();
            batcher.submit(items, None).expect("room").await.expect("a receipt");
        }
        assert_eq!(batcher.figures().refused_whole.load(Relaxed), 3);
        assert_eq!(batcher.figures().refused_run.load(Relaxed), 0, "something was written since");
        drop(batcher);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn the_end_of_a_flush_wakes_a_writer_that_waits_while_the_other_is_busy_with_itself() {
    paused(async {
        let (mut sinks, _) = sinks(2, &[(10, Well)]);
        sinks.iter_mut().for_each(|sink| sink.busy = Duration::from_secs(3_600));
        let limits = Limits { age: Duration::from_secs(1_000), ..limits(100) };
        let (batcher, tasks) = Batcher::start("test", limits, sinks);
        let first = batcher.submit(vec![item(1)], None).expect("room");
        sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        let second = batcher.submit(vec![item(2)], None).expect("room");
        first.await.expect("a receipt");
        second.await.expect("a receipt");
        assert!(start.elapsed() < Duration::from_secs(1), "written by the other writer at once: {:?}", start.elapsed());
        drop((batcher, tasks));
    });
}
