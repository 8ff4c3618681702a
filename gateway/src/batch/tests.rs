use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::share::{Budget, Share};

#[derive(Clone, Debug)]
struct Item {
    key: u32,
    poison: bool,
}

impl Weigh for Item {
    fn bytes(&self) -> usize {
        10
    }
}

/// A table in memory that fails as told, and remembers what it was given.
#[derive(Default)]
struct Table {
    rows: HashSet<u32>,
    largest: usize,
    writes: usize,
    most_at_once: usize,
    at_once: usize,
}

struct Faulty {
    table: Arc<Mutex<Table>>,
    /// Each write takes the next of these, round and round: how long it takes, and whether it fails.
    script: Vec<(u64, bool)>,
    next: usize,
}

impl Sink for Faulty {
    type Item = Item;

    async fn write(&mut self, items: &[&Item]) -> Result<Vec<Fate>, Failure> {
        let (delay, fails) = self.script[self.next % self.script.len()];
        self.next += 1;
        {
            let mut table = self.table.lock().expect("lock");
            table.writes += 1;
            table.at_once += 1;
            table.most_at_once = table.most_at_once.max(table.at_once);
            table.largest = table.largest.max(items.len());
        }
        sleep(Duration::from_millis(delay)).await;
        let mut table = self.table.lock().expect("lock");
        table.at_once -= 1;
        if fails {
            return Err(Failure::Transient("away".to_owned()));
        }
        if items.iter().any(|item| item.poison) {
            return Err(Failure::Data { code: "22P02".to_owned(), message: "bad".to_owned() });
        }
        let fate = |item: &&Item| {
            if table.rows.insert(item.key) { Fate::Stored } else { Fate::Duplicate }
        };
        Ok(items.iter().map(fate).collect())
    }
}

fn limits(events_max: usize) -> Limits {
    Limits { events_max, bytes_max: events_max * 10, age: Duration::from_millis(5), parcels_max: 100_000 }
}

fn sinks(count: usize, script: &[(u64, bool)]) -> (Vec<Faulty>, Arc<Mutex<Table>>) {
    let table = Arc::new(Mutex::new(Table::default()));
    let sink = |next| Faulty { table: Arc::clone(&table), script: script.to_vec(), next };
    ((0..count).map(sink).collect(), table)
}

fn item(key: u32) -> Item {
    Item { key, poison: false }
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runtime").block_on(test)
}

/// A parcel: how long to wait before it is sent, its items, whether its receipt is dropped at once.
type Sent = (u64, Vec<(u32, bool)>, bool);

async fn all_is_accounted_for(parcels: Vec<Sent>, script: Vec<(u64, bool)>, writers: usize, events_max: usize) {
    let (sinks, table) = sinks(writers, &script);
    let (batcher, tasks) = Batcher::start("test", limits(events_max), sinks);
    let share = Arc::<Share>::default();
    let in_flight = Budget::new(1_000, 100);
    let mut waiting = Vec::new();
    let mut largest = events_max;
    for (pause, items, abandoned) in parcels {
        sleep(Duration::from_millis(pause)).await;
        largest = largest.max(items.len());
        let items: Vec<Item> = items.into_iter().map(|(key, poison)| Item { key, poison }).collect();
        let mut room = Held::none(&in_flight, &share);
        assert!(room.grow_to(1));
        let receipt = batcher.submit(items.clone(), Some(room)).expect("room");
        if !abandoned {
            waiting.push((items, receipt));
        }
    }
    let mut stored = HashSet::new();
    for (items, receipt) in waiting {
        let fates = receipt.await.expect("one receipt for each parcel");
        assert_eq!(fates.len(), items.len(), "one fate for each item");
        for (item, fate) in items.iter().zip(fates) {
            match fate {
                Fate::Stored => assert!(!item.poison && stored.insert(item.key), "stored once"),
                Fate::Duplicate => assert!(!item.poison, "a bad item is never there"),
                Fate::Refused { .. } => assert!(item.poison, "only the bad item is refused"),
            }
        }
    }
    tasks.drain(Duration::from_secs(3_600)).await;
    assert_eq!((in_flight.free(), share.held(), share.waiting()), (1_000, 0, 0), "all room is back");
    assert_eq!(batcher.depth(), 0);
    assert!(matches!(batcher.submit(vec![item(1)], None), Err(Refused::Closed(items)) if items.len() == 1));
    let table = table.lock().expect("lock");
    assert!(stored.is_subset(&table.rows), "what is said to be stored is there");
    assert!(table.largest <= largest, "no batch is larger than its bound or its one parcel");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_item_has_one_fate(
        parcels in proptest::collection::vec(
            (0_u64..12, proptest::collection::vec((0_u32..200, proptest::bool::weighted(0.05)), 0..40),
             proptest::bool::weighted(0.1)),
            0..60,
        ),
        mut script in proptest::collection::vec((0_u64..30, proptest::bool::weighted(0.3)), 1..20),
        writers in 1_usize..5,
        events_max in 1_usize..100,
    ) {
        // At least one write in a round goes well, else nothing ever would.
        script.push((1, false));
        // A key is either good or bad, not both.
        let parcels = parcels.into_iter().map(|(pause, items, abandoned)| {
            (pause, items.into_iter().map(|(key, poison)| (key + if poison { 1_000 } else { 0 }, poison)).collect(), abandoned)
        }).collect();
        paused(all_is_accounted_for(parcels, script, writers, events_max));
    }
}

#[test]
fn an_idle_writer_starts_at_once_and_then_gathers() {
    paused(async {
        let (sinks, table) = sinks(2, &[(3, false)]);
        let (batcher, tasks) = Batcher::start("test", limits(100), sinks);
        let start = Instant::now();
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let rest: Vec<_> = (1..50).map(|key| batcher.submit(vec![item(key)], None).expect("room")).collect();
        assert_eq!(first.await.expect("receipt"), [Fate::Stored]);
        assert_eq!(start.elapsed().as_millis(), 3, "the first did not wait for others");
        for receipt in rest {
            assert_eq!(receipt.await.expect("receipt"), [Fate::Stored]);
        }
        assert_eq!(start.elapsed().as_millis(), 6, "the others went together when the first flush ended");
        assert_eq!(table.lock().expect("lock").writes, 2);
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_second_writer_starts_when_the_batch_is_full_or_old() {
    paused(async {
        let (sinks, table) = sinks(2, &[(100, false)]);
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
        let (sinks, table) = sinks(1, &[(50, false)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        drop(batcher.submit(vec![item(1)], None).expect("room"));
        batcher.submit_unanswered(vec![item(2)], None).expect("room");
        first.await.expect("receipt");
        drop(batcher);
        tasks.drain(Duration::from_secs(1)).await;
        assert_eq!(table.lock().expect("lock").rows, HashSet::from([0, 2]));
    });
}

#[test]
fn a_full_queue_refuses_and_makes_room_for_the_living() {
    paused(async {
        let (sinks, _table) = sinks(1, &[(50, false)]);
        let (batcher, tasks) = Batcher::start("test", Limits { parcels_max: 2, ..limits(10) }, sinks);
        let first = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let dropped = batcher.submit(vec![item(1)], None).expect("room");
        let kept = batcher.submit(vec![item(2)], None).expect("room");
        assert!(matches!(batcher.submit(vec![item(3)], None), Err(Refused::Full(items)) if items.len() == 1));
        drop(dropped);
        let late = batcher.submit(vec![item(4)], None).expect("the place of the one that was given up");
        for receipt in [first, kept, late] {
            assert_eq!(receipt.await.expect("receipt"), [Fate::Stored]);
        }
        tasks.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_drain_ends_at_its_limit() {
    paused(async {
        let (sinks, _table) = sinks(2, &[(10, true)]);
        let (batcher, tasks) = Batcher::start("test", limits(10), sinks);
        let receipt = batcher.submit(vec![item(0)], None).expect("room");
        let start = Instant::now();
        tasks.drain(Duration::from_secs(2)).await;
        assert_eq!(start.elapsed().as_secs(), 2);
        assert!(receipt.await.is_err(), "given up");
    });
}

/// The first write of all breaks in the middle.
struct Breaks {
    table: Faulty,
    broken: Arc<AtomicU64>,
}

impl Sink for Breaks {
    type Item = Item;

    async fn write(&mut self, items: &[&Item]) -> Result<Vec<Fate>, Failure> {
        let first = self.broken.fetch_add(1, Relaxed) == 0;
        let written = self.table.write(items).await;
        assert!(!first, "a writer that breaks");
        written
    }
}

#[test]
fn what_waits_behind_a_writer_that_breaks_is_written_by_another() {
    paused(async {
        let (sinks, _table) = sinks(2, &[(3, false)]);
        let broken = Arc::default();
        let sinks = sinks.into_iter().map(|table| Breaks { table, broken: Arc::clone(&broken) }).collect();
        let (batcher, tasks) = Batcher::start("test", limits(100), sinks);
        let lost = batcher.submit(vec![item(0)], None).expect("room");
        sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        let waiting: Vec<_> = (1..4).map(|key| batcher.submit(vec![item(key)], None).expect("room")).collect();
        assert!(lost.await.is_err(), "nobody knows");
        for receipt in waiting {
            assert_eq!(receipt.await.expect("receipt"), [Fate::Stored]);
        }
        assert_eq!(start.elapsed().as_millis(), 8, "they waited for their age of 5 ms, and a write of 3 ms");
        let next = batcher.submit(vec![item(4)], None).expect("room");
        assert_eq!(next.await.expect("receipt"), [Fate::Stored], "the writer that is left serves on");
        tasks.drain(Duration::from_secs(1)).await;
    });
}
