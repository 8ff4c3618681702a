//! Places, waiting events and their fair order.

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
