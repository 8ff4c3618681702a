//! Readers of live outcomes, and what they miss.

use super::*;
use crate::share::Full;
use eye_event::verdict::{Unfinished, UnfinishedCode};

fn live(events_per_second_max: usize) -> Arc<Live> {
    let heartbeat = Duration::from_secs(10);
    Arc::new(Live::new(Limits { readers_max: 2, share_percent: 100, heartbeat, events_per_second_max }))
}

fn reader(live: &Arc<Live>, query: &str) -> Reader {
    reader_of(live, &Arc::default(), query)
}

fn reader_of(live: &Arc<Live>, visible: &Arc<Visible>, query: &str) -> Reader {
    let filter = Filter::read(Some(query), visible).expect("a filter");
    Reader::new(live.admit(&Arc::default()).expect("room"), filter, Arc::default(), Box::new(|| true))
}

fn tell(live: &Live, stored: usize, rejected: usize) {
    let outcome = |place: usize| {
        if place < stored {
            Outcome::Stored { id: Uuid::from_u128(place as u128) }
        } else if place.is_multiple_of(2) {
            Outcome::Quarantined { id: Uuid::from_u128(place as u128), code: "trap".into() }
        } else {
            let (id, why) = (Some(Uuid::from_u128(place as u128)), Unfinished::of(UnfinishedCode::ModuleBusy));
            Outcome::Unfinished { id, why }
        }
    };
    let outcomes: Vec<Outcome> = (0..stored + rejected).map(outcome).collect();
    let watched =
        |_: &Outcome| Watched { session_id: None, category: Some("a".into()), name: None, module: None, reason: None };
    live.tell("shop", &outcomes, outcomes.iter().map(watched).collect(), 0);
}

fn page(live: &Live) {
    let Window { notes, left_out, .. } = live.gathered();
    let count = notes.len() as u64 + left_out.iter().sum::<u64>();
    live.hand_out(notes.into_iter().map(Message::from).collect(), left_out, count);
}

async fn text(reader: &mut Reader) -> String {
    String::from_utf8(reader.next().await.0.to_vec()).expect("text")
}

#[tokio::test]
async fn a_flood_of_good_events_hides_no_bad_one_and_is_told() {
    let live = live(100);
    let (mut all, mut bad) = (reader(&live, ""), reader(&live, "outcome=quarantined,unfinished"));
    tell(&live, 1_000, 3);
    page(&live);
    let seen = text(&mut all).await;
    assert_eq!(seen.matches("\"outcome\":\"stored\"").count(), 10);
    assert_eq!(seen.matches("\"outcome\":\"quarantined\"").count(), 2);
    assert_eq!(seen.matches("\"code\":\"module_busy\"").count(), 1);
    assert!(seen.ends_with("event: sampled\ndata: {\"left_out\":{\"duplicate\":0,\"quarantined\":0,\"rejected\":0,\"stored\":990,\"unfinished\":0}}\n\n"), "{seen}");
    let seen = text(&mut bad).await;
    assert_eq!((seen.matches("event: outcome").count(), seen.contains("sampled")), (3, false), "{seen}");
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed_and_goes_on() {
    let live = live(1_000);
    let mut slow = reader(&live, "category=a&application=shop");
    tell(&live, 1, 0);
    page(&live);
    assert_eq!(text(&mut slow).await.matches("event: outcome").count(), 1);
    let mut late = reader(&live, "");
    for _ in 0..PAGES_MAX + 5 {
        tell(&live, 2, 1);
        page(&live);
    }
    let seen = text(&mut slow).await;
    assert!(seen.starts_with("event: missed\ndata: {\"missed\":15}\n\n"), "{seen}");
    assert_eq!((seen.matches("event: outcome").count(), live.missed()), (3, 15));
    let seen = text(&mut late).await;
    assert!(seen.starts_with("event: missed\ndata: {\"missed\":15}\n\n"), "also before its first page: {seen}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_reader_hears_that_the_gateway_lives_and_that_it_ends() {
    let live = live(1_000);
    let mut quiet = reader(&live, "name=none");
    tell(&live, 1, 0);
    page(&live);
    assert!(text(&mut quiet).await.starts_with(": "));
    live.end();
    assert_eq!(quiet.next().await, (END, true));
    assert!(matches!(live.admit(&Arc::default()), Err(Refusal::Draining)));
}

#[test]
fn one_application_does_not_take_all_places() {
    let limits =
        Limits { readers_max: 8, share_percent: 75, heartbeat: Duration::from_secs(10), events_per_second_max: 10 };
    let (live, greedy, other) = (Arc::new(Live::new(limits)), Arc::default(), Arc::default());
    let taken: Vec<_> = std::iter::from_fn(|| live.admit(&greedy).ok()).collect();
    assert_eq!((taken.len(), live.readers()), (6, 6));
    let refused = live.admit(&greedy).err();
    assert_eq!(refused, Some(Refusal::TooManyReaders { limit: 8, full: Full::Application }));
    assert!(live.admit(&other).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_may_be_gone_is_written_to_once_a_second() {
    let (live, half_closed) = (live(1_000), Arc::<HalfClosed>::default());
    let place = live.admit(&Arc::default()).expect("room");
    let mut reader = Reader::new(place, Filter::default(), Arc::clone(&half_closed), Box::new(|| true));
    let start = Instant::now();
    let mut looks = Vec::new();
    for _ in 0..3 {
        assert!(text(&mut reader).await.starts_with(": "));
        looks.push(start.elapsed().as_secs());
        half_closed.set();
    }
    assert_eq!(looks, [10, 10, 11], "at once, and then each second");
}

#[test]
fn places_are_bounded_and_come_back() {
    let (live, share) = (live(1_000), Arc::default());
    let (one, _two) = (live.admit(&share).expect("room"), live.admit(&share).expect("room"));
    assert!(live.watched());
    let refused = live.admit(&share).err();
    assert_eq!(refused, Some(Refusal::TooManyReaders { limit: 2, full: Full::All }));
    drop(one);
    assert!(live.admit(&share).is_ok());
    assert!(Filter::read(Some("outcome=lost"), &Arc::default()).is_err());
    assert!(Filter::read(Some("x=1"), &Arc::default()).is_err());
}

#[tokio::test]
async fn a_limited_reader_gets_visible_outcomes_and_no_number_of_others() {
    let live = live(100);
    let visible = |application: &str| Arc::new(Visible::limited(&[], &[application.to_owned()], &[7; 32]));
    let mut own = reader_of(&live, &visible("shop"), "");
    let mut other = reader_of(&live, &visible("kiosk"), "outcome=quarantined");
    tell(&live, 2, 1);
    page(&live);
    assert_eq!(text(&mut own).await.matches("event: outcome").count(), 3);
    tell(&live, 1_000, 0);
    page(&live);
    let seen = text(&mut own).await;
    assert_eq!(seen.matches("event: outcome").count(), 10);
    assert!(seen.ends_with("event: sampled\ndata: {\"left_out\":null}\n\n"), "{seen}");
    // The first page was empty for it.
    assert_eq!(text(&mut other).await, "event: sampled\ndata: {\"left_out\":null}\n\n", "whatever kind it was");
    for _ in 0..PAGES_MAX + 1 {
        tell(&live, 2, 0);
        page(&live);
    }
    assert!(text(&mut own).await.starts_with("event: missed\ndata: {\"missed\":null}\n\n"));
    assert_eq!(text(&mut other).await, "event: missed\ndata: {\"missed\":null}\n\n");
}
