//! Events to send: varied ids, sessions, times, payloads and, where wanted, event types. Requests are written once and
//! patched in place before each sending, so that making load costs little beside handling it.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use eye::clock::Clock;
use uuid::{Builder, Uuid};

/// The category of all events.
pub(crate) const CATEGORY: &str = "page interaction";
/// Different payloads in a source; also the most event types.
const PAYLOADS: usize = 10_000;
/// Events of one session, one after the other.
const EVENTS_PER_SESSION: u64 = 10;
const ID_CHARACTERS: usize = uuid::fmt::Hyphenated::LENGTH;
/// `YYYY-MM-DD HH:MM:SS.ffffff`
const TIME_CHARACTERS: usize = 26;
const HEAD: &str = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ";

/// The name of event type `number` of `types`.
pub(crate) fn name(number: usize, types: usize) -> String {
    if types == 1 { "pageview".to_owned() } else { format!("pageview {:05}", number % types) }
}

/// Where an event has what changes with each sending.
#[derive(Clone, Copy)]
struct Places {
    id: usize,
    session_id: usize,
    timestamp: usize,
}

struct Template {
    request: Vec<u8>,
    /// Where the body begins.
    body: usize,
    events: Vec<Places>,
}

impl Template {
    fn new(first: usize, count: usize, types: usize) -> Self {
        let mut body = Vec::new();
        let mut events = Vec::new();
        if count > 1 {
            body.push(b'[');
        }
        for number in first..first + count {
            if number > first {
                body.push(b',');
            }
            events.push(write_event(&mut body, number, types));
        }
        if count > 1 {
            body.push(b']');
        }
        let mut request = format!("{HEAD}{}\r\n\r\n", body.len()).into_bytes();
        let start = request.len();
        request.extend_from_slice(&body);
        for place in &mut events {
            place.id += start;
            place.session_id += start;
            place.timestamp += start;
        }
        Self { request, body: start, events }
    }
}

fn write_event(out: &mut Vec<u8>, number: usize, types: usize) -> Places {
    let mut gap = |before: &str, characters: usize| {
        out.extend_from_slice(before.as_bytes());
        let at = out.len();
        out.resize(at + characters, b'0');
        at
    };
    let id = gap("{\"id\":\"", ID_CHARACTERS);
    let session_id = gap("\",\"session_id\":\"", ID_CHARACTERS);
    let before = format!("\",\"category\":\"{CATEGORY}\",\"name\":\"{}\",\"timestamp\":\"", name(number, types));
    let timestamp = gap(&before, TIME_CHARACTERS);
    let data = format!(
        "\",\"data\":{{\"host\":\"shop{}.example\",\"path\":\"/reviews/{number}\",\"element\":\"chat bubble\",\
         \"position\":{},\"referrer\":\"https://www.example.com/search?q={}\"}}}}",
        number % 37,
        number % 40,
        number * 7919 % 100_003,
    );
    gap(&data, 0);
    Places { id, session_id, timestamp }
}

/// Chance that is the same in every run: splitmix64.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn id(&mut self) -> Uuid {
        let bytes = (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes();
        Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// An endless row of requests, no two of which hold the same event.
pub(crate) struct Source {
    templates: Vec<Template>,
    next: usize,
    chance: Chance,
    session_id: Uuid,
    events: u64,
    clock: Clock,
    /// The second that `time` tells.
    second: i64,
    time: [u8; TIME_CHARACTERS],
    per_request: usize,
    /// One event of so many was sent before; 0 for none.
    repeated_every: u64,
    /// The last events, by what makes them the same: those in front were answered long ago.
    past: VecDeque<Key>,
}

/// Events after which one may come again: more than wait for their answers at once.
const PAST_EVENTS: usize = 20_000;

impl Source {
    /// Requests of so many events each, over so many event types.
    pub(crate) fn new(events_per_request: usize, types: usize) -> Self {
        let count = (PAYLOADS / events_per_request).max(1);
        let clock = Clock::default();
        // Another row in every run: the clock's microseconds are the seed.
        let seed = clock.now_us().unsigned_abs();
        Self {
            templates: (0..count)
                .map(|number| Template::new(number * events_per_request, events_per_request, types))
                .collect(),
            next: 0,
            chance: Chance(seed),
            session_id: Uuid::nil(),
            events: 0,
            clock,
            second: 0,
            time: [b'0'; TIME_CHARACTERS],
            per_request: events_per_request,
            repeated_every: 0,
            past: VecDeque::new(),
        }
    }

    /// With one event of so many that was sent before.
    pub(crate) fn with_repeated(self, repeated_every: u64) -> Self {
        Self { repeated_every, ..self }
    }

    /// The statuses that say of each event of a request that it is stored.
    pub(crate) fn good_statuses(&self) -> &'static [u16] {
        match (self.per_request, self.repeated_every) {
            (1, 0) => &[201],
            // An event that was sent before is a duplicate.
            (1, _) => &[201, 200],
            _ => &[200],
        }
    }

    /// Events of each request.
    pub(crate) fn events_per_request(&self) -> usize {
        self.per_request
    }

    /// Writes the next request, head and body, in place of what `out` holds, and says where the body begins.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) -> usize {
        let at = self.next % self.templates.len();
        self.next += 1;
        out.clear();
        out.extend_from_slice(&self.templates[at].request);
        let now_us = self.clock.now_us();
        if now_us / 1_000_000 != self.second {
            self.second = now_us / 1_000_000;
            let time = DateTime::<Utc>::from_timestamp_micros(now_us).unwrap_or_default();
            self.time.copy_from_slice(time.format("%Y-%m-%d %H:%M:%S%.6f").to_string().as_bytes());
        }
        let micros = now_us % 1_000_000;
        for number in 0..self.templates[at].events.len() {
            let place = self.templates[at].events[number];
            if self.events.is_multiple_of(EVENTS_PER_SESSION) {
                self.session_id = self.chance.id();
            }
            self.events += 1;
            let id = self.chance.id();
            // Within the same second, so that only the digits after the point change.
            let mut rest = (micros + number as i64) % 1_000_000;
            for digit in self.time[TIME_CHARACTERS - 6..].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            let (id, session_id, time) = self.perhaps_again((id, self.session_id, self.time));
            id.hyphenated().encode_lower(&mut out[place.id..place.id + ID_CHARACTERS]);
            session_id.hyphenated().encode_lower(&mut out[place.session_id..place.session_id + ID_CHARACTERS]);
            out[place.timestamp..place.timestamp + TIME_CHARACTERS].copy_from_slice(&time);
        }
        self.templates[at].body
    }

    /// An event that was sent before, when it is time for one.
    fn perhaps_again(&mut self, new: Key) -> Key {
        if self.repeated_every == 0 {
            return new;
        }
        if self.past.len() < PAST_EVENTS {
            self.past.push_back(new);
            return new;
        }
        let old = self.past.pop_front().unwrap_or(new);
        let again = self.events.is_multiple_of(self.repeated_every);
        self.past.push_back(if again { old } else { new });
        if again { old } else { new }
    }
}

/// What makes two events the same: id, session, time.
type Key = (Uuid, Uuid, [u8; TIME_CHARACTERS]);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use eye_event::envelope::{Format, Parsed, Rules, parse};

    use super::*;

    #[test]
    fn a_tenth_of_the_events_comes_again_where_that_is_wanted() {
        let mut source = Source::new(100, 1).with_repeated(10);
        let (mut request, mut ids, mut again) = (Vec::new(), HashSet::new(), 0);
        for _ in 0..400 {
            source.fill(&mut request);
            for place in &source.templates[(source.next - 1) % source.templates.len()].events {
                again += usize::from(!ids.insert(request[place.id..place.id + ID_CHARACTERS].to_vec()));
            }
        }
        assert_eq!(again, (400 * 100 - PAST_EVENTS) / 10);
    }

    #[test]
    fn no_event_is_sent_twice_and_all_keep_the_rules() {
        let rules = Rules {
            data_bytes_max: 1 << 18,
            nesting_max: 64,
            number_digits_max: 1_000,
            future_us_max: 60_000_000,
            events_max: 10_000,
        };
        let mut source = Source::new(100, 1_000);
        let (mut request, mut ids, mut names) = (Vec::new(), HashSet::new(), HashSet::new());
        for _ in 0..250 {
            let body = source.fill(&mut request);
            let now_us = Clock::default().now_us();
            let parsed = parse(&Bytes::copy_from_slice(&request[body..]), Format::Json, &rules, now_us).expect("JSON");
            let Parsed::Many(elements) = parsed else { panic!("an array") };
            for element in elements {
                let event = element.expect("an event that keeps the rules");
                assert!(ids.insert(event.id));
                names.insert(event.name.to_string());
            }
        }
        assert_eq!((ids.len(), names.len()), (25_000, 1_000));
    }
}
