//! Load with a ledger: every sent event has a number, every answer is recorded, and at the end each answer is compared
//! with each row.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

/// The id of event 0.
const BASE: u128 = 0xe7e0_0000_0000_4000_8000_0000_0000_0000;
const SESSIONS: u64 = 50;
/// Longer than any answer may take.
const ANSWER_MOST: Duration = Duration::from_secs(20);

/// Reproducible random numbers: xorshift64*.
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Seeded from the clock and the process. The seed is printed, so that runs can be distinguished.
    pub(crate) fn new() -> Chance {
        use std::hash::{BuildHasher as _, Hasher as _};
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        println!("seed: {seed} (SEED={seed} repeats it)");
        Chance(seed | 1)
    }

    /// An independent stream of random numbers.
    pub(crate) fn split(&mut self) -> Chance {
        Chance(self.next() | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}

/// The id of event `number`.
pub(crate) fn id_of(number: u64) -> Uuid {
    Uuid::from_u128(BASE + u128::from(number))
}

/// Event `number`, which is the same whenever it is sent. One kind of five makes guests misbehave.
pub(crate) fn numbered(number: u64) -> Value {
    json!({
        "id": id_of(number),
        "session_id": Uuid::from_u128(BASE + 0xffff_0000_0000 + u128::from(number % SESSIONS)),
        "category": "load", "name": format!("kind {}", number % 5),
        "timestamp": format!("2021-01-01 09:{:02}:{:02}.{:06}", number / 60 % 60, number % 60, number % 1_000_000),
        "data": {"n": number, "text": "grün", "misbehave": number % 5 == 4},
    })
}

/// The answers for one event, over all times that it was sent.
#[derive(Clone, Default)]
struct Entry {
    stored: u32,
    duplicate: u32,
    quarantined: u32,
    rejected: u32,
}

/// The times between two answers with `stored`.
#[derive(Default)]
struct Pause {
    last: Option<Instant>,
    longest: Duration,
}

impl Pause {
    fn ends(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
    }
}

/// All sent events, with their answers.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<HashMap<u64, Entry>>,
    /// The first number, and the count of reserved numbers.
    first: u64,
    next: AtomicU64,
    pause: Mutex<Pause>,
    pub(crate) sends: AtomicU64,
    /// Events whose request was answered 503.
    pub(crate) refused: AtomicU64,
    /// Events whose request got no answer.
    pub(crate) unanswered: AtomicU64,
    /// Events whose outcome some answer had.
    pub(crate) answered: AtomicU64,
    /// Events that an answer called stored.
    pub(crate) stored: AtomicU64,
}

/// The end of a request with several events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Told,
    Refused,
    Unanswered,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().expect("the ledger")
    }

    /// A ledger with numbers from `first` on, for a second load on the same database.
    pub(crate) fn beginning_at(first: u64) -> Ledger {
        Ledger { first, ..Ledger::default() }
    }

    /// Whether its numbers begin at `first`.
    pub(crate) fn is_of(&self, first: u64) -> bool {
        self.first == first
    }

    /// Reserves new numbers.
    pub(crate) fn reserve(&self, count: u64) -> Vec<u64> {
        let first = self.first + self.next.fetch_add(count, Ordering::Relaxed);
        (first..first + count).collect()
    }

    /// Starts the measurement of times without a stored event.
    pub(crate) fn watch_pauses(&self) {
        *self.pause.lock().expect("the pause") = Pause { last: Some(Instant::now()), longest: Duration::ZERO };
    }

    /// The longest time without a stored event since then.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.pause.lock().expect("the pause").longest
    }

    /// Numbers that were answered `stored` or `duplicate`.
    pub(crate) fn said_there(&self) -> BTreeSet<u64> {
        let entries = self.entries();
        let said = entries.iter().filter(|(_, entry)| entry.stored + entry.duplicate > 0);
        said.map(|(number, _)| *number).collect()
    }

    /// Numbers that were answered `stored` or `duplicate` and have no row, and the count of rows that occur twice in [`ROWS`].
    pub(crate) fn lost_and_doubled(&self, rows: &str) -> (BTreeSet<u64>, usize) {
        let numbers = rows.lines().filter_map(|line| line.split_once('|')?.1.parse().ok());
        let (mut there, mut doubled) = (BTreeSet::new(), 0);
        for number in numbers {
            doubled += usize::from(!there.insert(number));
        }
        (self.said_there().difference(&there).copied().collect(), doubled)
    }

    /// The count of reserved numbers.
    pub(crate) fn numbers(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends the numbered events in one request, and records the answer.
    pub(crate) async fn send(&self, client: &reqwest::Client, address: &str, numbers: &[u64]) -> Ended {
        self.sends.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        {
            let mut entries = self.entries();
            for number in numbers {
                entries.entry(*number).or_default();
            }
        }
        let events: Vec<Value> = numbers.iter().map(|number| numbered(*number)).collect();
        let body = if let [event] = &events[..] { event.to_string() } else { Value::Array(events).to_string() };
        let request = client.post(format!("http://{address}/v1/events")).header("content-type", "application/json");
        let answer = async {
            let response = request.timeout(ANSWER_MOST).body(body).send().await?;
            let retry_after = response.headers().contains_key("retry-after");
            Ok::<_, reqwest::Error>((response.status().as_u16(), retry_after, response.text().await?))
        };
        match answer.await {
            Ok((503, retry_after, text)) => {
                assert!(retry_after, "a refusal says when to come again: {text}");
                self.refused.fetch_add(numbers.len() as u64, Ordering::Relaxed);
                Ended::Refused
            }
            Ok((status, _, text)) => {
                let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}"));
                self.note(numbers, status, &body);
                Ended::Told
            }
            Err(error) => {
                assert!(!error.is_timeout(), "an answer is always in time: {error:?}");
                self.unanswered.fetch_add(numbers.len() as u64, Ordering::Relaxed);
                Ended::Unanswered
            }
        }
    }

    fn note(&self, numbers: &[u64], status: u16, body: &Value) {
        let mut outcomes = vec!["stored".to_owned(); numbers.len()];
        if let [number] = numbers {
            assert!([200, 201, 202, 422].contains(&status), "{status} {body}");
            assert_eq!(body["id"], id_of(*number).to_string(), "{body}");
            let told = body["outcome"].as_str().unwrap_or("rejected");
            assert_eq!(status == 201, told == "stored", "{status} {body}");
            told.clone_into(&mut outcomes[0]);
        } else {
            assert!([200, 207].contains(&status), "{status} {body}");
            for result in body["results"].as_array().expect("results") {
                let index = usize::try_from(result["index"].as_u64().expect("an index")).expect("small");
                assert_eq!(result["id"], id_of(numbers[index]).to_string(), "{result}");
                result["outcome"].as_str().unwrap_or("unfinished").clone_into(&mut outcomes[index]);
            }
            let stored = outcomes.iter().filter(|outcome| *outcome == "stored").count();
            assert_eq!(body["stored"], stored, "{body}");
        }
        let mut entries = self.entries();
        for (number, outcome) in numbers.iter().zip(&outcomes) {
            let entry = entries.entry(*number).or_default();
            match outcome.as_str() {
                "stored" => entry.stored += 1,
                "duplicate" => entry.duplicate += 1,
                "quarantined" => entry.quarantined += 1,
                "rejected" => entry.rejected += 1,
                // It has no outcome yet, and is sent again like an event without an answer.
                "unfinished" => {}
                other => panic!("an unknown outcome {other}"),
            }
        }
        let stored = outcomes.iter().filter(|outcome| *outcome == "stored").count() as u64;
        if stored > 0 {
            self.pause.lock().expect("the pause").ends();
        }
        self.stored.fetch_add(stored, Ordering::Relaxed);
        self.answered.fetch_add(numbers.len() as u64, Ordering::Relaxed);
    }

    /// The number of events that an answer called stored.
    pub(crate) fn said_stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// The numbers without any answer.
    pub(crate) fn untold(&self) -> Vec<u64> {
        let entries = self.entries();
        let untold = |entry: &Entry| entry.stored + entry.duplicate + entry.quarantined + entry.rejected == 0;
        entries.iter().filter(|(_, entry)| untold(entry)).map(|(number, _)| *number).collect()
    }

    /// The number of events that an answer called stored or duplicate, and of those that it called refused.
    pub(crate) fn there_and_refused(&self) -> (u64, u64) {
        let entries = self.entries();
        let count = |of: fn(&Entry) -> u32| entries.values().filter(|entry| of(entry) > 0).count() as u64;
        (count(|entry| entry.stored + entry.duplicate), count(|entry| entry.quarantined + entry.rejected))
    }

    /// The numbers of events that an answer called quarantined.
    pub(crate) fn quarantined(&self) -> Vec<u64> {
        self.entries().iter().filter(|(_, entry)| entry.quarantined > 0).map(|(number, _)| *number).collect()
    }

    /// Compares every answer with every row. `rows` are lines of `id|n`, as [`ROWS`] selects them.
    pub(crate) fn hold_against(&self, rows: &str) {
        let entries = self.entries();
        let mut found: HashMap<u64, u32> = HashMap::new();
        for line in rows.lines().filter(|line| !line.is_empty()) {
            let (id, n) = line.split_once('|').expect("two columns");
            let n: u64 = n.parse().expect("a number");
            assert_eq!(id, id_of(n).to_string(), "a row holds what was sent under its id");
            assert!(entries.contains_key(&n), "event {n} is in the table and was never sent");
            *found.entry(n).or_default() += 1;
        }
        for (number, entry) in entries.iter() {
            let rows = found.get(number).copied().unwrap_or_default();
            assert!(rows <= 1, "event {number} is there {rows} times");
            assert!(entry.stored <= 1, "event {number} was said to be stored {} times", entry.stored);
            let said = entry.stored + entry.duplicate > 0;
            assert!(!said || rows == 1, "event {number} was said to be stored, and is not");
            assert!(entry.quarantined + entry.rejected == 0 || rows == 0, "event {number} was refused, and is there");
        }
        println!("{}, {} rows, {} events", self.words(), found.len(), entries.len());
    }

    /// Compares every answer that said `quarantined` with every dead letter. `letters` are lines of `id|n`, as
    /// [`LETTERS`] selects them. There may be more letters than answers, since each sending makes one, even if its
    /// answer is lost.
    pub(crate) fn hold_against_letters(&self, letters: &str) {
        let mut found: HashMap<u64, u32> = HashMap::new();
        for line in letters.lines().filter(|line| !line.is_empty()) {
            let (id, n) = line.split_once('|').expect("two columns");
            let n: u64 = n.parse().expect("a number");
            assert_eq!(id, id_of(n).to_string(), "a dead letter holds what was sent under its id");
            *found.entry(n).or_default() += 1;
        }
        let entries = self.entries();
        for (number, entry) in entries.iter() {
            let kept = found.remove(number).unwrap_or_default();
            let said = entry.quarantined;
            assert!(kept >= said, "event {number} was said to be kept {said} times, and is there {kept} times");
        }
        assert!(found.is_empty(), "dead letters of events that were never sent: {found:?}");
        let (said, rejected) = entries.values().fold((0, 0), |(said, rejected), entry| {
            (said + u64::from(entry.quarantined), rejected + u64::from(entry.rejected))
        });
        println!("quarantined {said}, rejected {rejected}, {} dead letters", letters.lines().count());
    }

    /// The counts so far, as text.
    pub(crate) fn words(&self) -> String {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "sent {} (503 {}, unanswered {}), answered {}, stored {}",
            load(&self.sends),
            load(&self.refused),
            load(&self.unanswered),
            load(&self.answered),
            load(&self.stored)
        )
    }
}

/// Selects all rows, for [`Ledger::hold_against`].
pub(crate) const ROWS: &str = "select id, data ->> 'n' from events";

/// Selects all quarantined events, for [`Ledger::hold_against_letters`].
pub(crate) const LETTERS: &str =
    "select event_id, convert_from(raw, 'UTF8')::json -> 'data' ->> 'n' from dead_letters where reason = 'quarantined'";

/// Selects the counts that differ from the rows, for each width of bucket, folded or not. There must never be any.
/// Duplicates are left out, since they leave no rows for the comparison.
pub(crate) const WRONG_COUNTS: &str = "
    with said as (
        select bucket, start, event_type_id, application_id, outcome, sum(count) as count from (
            select bucket, start, event_type_id, application_id, outcome, count from counts
            union all
            select bucket, date_trunc(bucket, minute, 'UTC'), event_type_id, application_id, outcome, count
            from unfolded_counts cross join unnest(array['minute', 'hour', 'day']) bucket
            union all
            select 'ever', '-infinity'::timestamptz, event_type_id, application_id, outcome, count from unfolded_counts
        ) figures where outcome <> 'duplicate' group by 1, 2, 3, 4, 5
    ), there as (
        select received_at, event_type_id, application_id, 'stored' as outcome from events
        union all
        select received_at, coalesce(event_types.id, 0), application_id, reason
        from dead_letters left join event_types using (category, name)
    ), counted as (
        select bucket, date_trunc(bucket, received_at, 'UTC') as start, event_type_id, application_id, outcome, count(*)
        from there cross join unnest(array['minute', 'hour', 'day']) bucket group by 1, 2, 3, 4, 5
        union all
        select 'ever', '-infinity'::timestamptz, event_type_id, application_id, outcome, count(*) from there group by 1, 2, 3, 4, 5
    )
    select bucket, start, event_type_id, application_id, outcome, said.count, counted.count
    from said full join counted using (bucket, start, event_type_id, application_id, outcome)
    where said.count is distinct from counted.count";

/// Many senders, until they are stopped.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    address: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    senders: JoinSet<()>,
}

impl Load {
    /// Starts `connections` senders of single events and of batches. Now and then they send events again, and always
    /// those without an answer.
    pub(crate) fn start(address: &str, connections: u32, batch_max: u64, chance: &mut Chance) -> Load {
        Load::start_with(Arc::default(), address, connections, batch_max, chance)
    }

    /// Starts the load with an existing ledger.
    pub(crate) fn start_with(
        ledger: Arc<Ledger>,
        address: &str,
        connections: u32,
        batch_max: u64,
        chance: &mut Chance,
    ) -> Load {
        let mut load = Load {
            ledger,
            address: Arc::new(Mutex::new(address.to_owned())),
            stop: Arc::default(),
            senders: JoinSet::new(),
        };
        for _ in 0..connections {
            let sender = Sender {
                ledger: Arc::clone(&load.ledger),
                address: Arc::clone(&load.address),
                stop: Arc::clone(&load.stop),
                chance: chance.split(),
                batch_max,
            };
            load.senders.spawn(sender.run());
        }
        load
    }

    /// Sends to this address from now on.
    pub(crate) fn turn_to(&self, address: &str) {
        address.clone_into(&mut self.address.lock().expect("the address"));
    }

    /// Waits until `count` more events are stored by the answers. Returns the time until the first one.
    pub(crate) async fn stores(&self, count: u64) -> Duration {
        let (start, before) = (Instant::now(), self.ledger.stored.load(Ordering::Relaxed));
        let since = |wanted: u64| async move {
            super::eventually("events are stored", async || {
                (self.ledger.stored.load(Ordering::Relaxed) >= before + wanted).then_some(())
            })
            .await;
            start.elapsed()
        };
        let first = since(1).await;
        since(count).await;
        first
    }

    /// Stops the senders after their running requests. Fails if one of them has failed.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(sender) = self.senders.join_next().await {
            sender.expect("a sender that did not fail");
        }
    }
}

struct Sender {
    ledger: Arc<Ledger>,
    address: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    chance: Chance,
    batch_max: u64,
}

impl Sender {
    async fn run(mut self) {
        let client = reqwest::Client::new();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = None;
        while !self.stop.load(Ordering::Relaxed) {
            let numbers = again.take().unwrap_or_else(|| self.choose());
            let address = self.address.lock().expect("the address").clone();
            if self.ledger.send(&client, &address, &numbers).await != Ended::Told {
                again = Some(numbers);
                pace.tick().await;
            }
        }
    }

    fn choose(&mut self) -> Vec<u64> {
        let count = if self.chance.below(3) == 0 { 1 } else { 1 + self.chance.below(self.batch_max) };
        let known = self.ledger.numbers();
        if known > 0 && self.chance.below(10) == 0 {
            // Other senders may be sending the same ones now.
            let place = self.chance.below(known);
            return (place..known.min(place + count)).map(|place| self.ledger.first + place).collect();
        }
        self.ledger.reserve(count)
    }
}
