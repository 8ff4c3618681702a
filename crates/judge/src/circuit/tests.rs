//! When a module leaves the path, and when it comes back.

use super::*;

const QUICK: Duration = Duration::from_micros(1);
const SLOW: Duration = SLOW_CALL.saturating_mul(2);

fn overrun(circuit: &Circuit, application: &str) -> Option<TakenOff> {
    circuit.faulted(application, FaultCode::Deadline, SLOW)
}

fn later(circuit: Circuit, time: Duration) -> Circuit {
    Circuit { began: circuit.began.checked_sub(time).expect("the clock is old"), ..circuit }
}

fn is_probe(way: &Route) -> bool {
    matches!(way, Route::Probe(_))
}

#[test]
fn what_breaks_at_once_takes_nothing_off_the_path_however_often() {
    let circuit = Circuit::new(QUICK);
    for code in [FaultCode::Trap, FaultCode::Memory, FaultCode::Stack, FaultCode::Output] {
        assert!((0..10_000).all(|_| circuit.faulted("web", code, QUICK).is_none()));
    }
    assert_eq!((circuit.way("web"), circuit.standing()), (Route::Here, Standing::Healthy));
}

#[test]
fn what_uses_up_time_rarely_does_no_harm_and_often_takes_a_module_off() {
    let circuit = Circuit::new(QUICK);
    for _ in 0..1_000 {
        assert_eq!(circuit.faulted("web", FaultCode::Memory, SLOW), None);
        (0..20).for_each(|_| circuit.judged("web", QUICK));
    }
    assert!(!circuit.troubled.load(Relaxed), "it is forgotten");
    let faults = (1..).find(|_| circuit.faulted("web", FaultCode::Memory, SLOW).is_some());
    assert_eq!(faults, Some(20));
    assert_eq!((circuit.way("web"), circuit.standing()), (Route::Nowhere, Standing::OffPath));
    let circuit = Circuit::new(QUICK);
    assert_eq!((1..).find(|_| overrun(&circuit, "web").is_some()), Some(4));
}

#[test]
fn an_application_alone_takes_a_module_away_from_itself_and_two_from_all() {
    let circuit = Circuit::new(QUICK);
    let taken = (0..50).filter_map(|_| overrun(&circuit, "greedy")).collect::<Vec<_>>();
    assert_eq!(taken, [TakenOff::ForOne]);
    assert_eq!((circuit.way("greedy"), circuit.way("web")), (Route::Nowhere, Route::Offload));
    assert_eq!((circuit.standing(), circuit.off_path_for()), (Standing::OffPath, vec!["greedy".to_owned()]));
    assert_eq!((circuit.is_off("greedy"), circuit.is_off("web")), (true, false));
    // What others are well served with is not taken from them by a second one.
    (0..1_000).for_each(|_| circuit.judged("web", QUICK));
    assert!((0..4).all(|_| overrun(&circuit, "second") != Some(TakenOff::ForAll)));
    assert!(!circuit.is_off("web"));
    assert_eq!((0..50).find_map(|_| overrun(&circuit, "third")), Some(TakenOff::ForAll));
    assert_eq!((circuit.way("web"), circuit.off_path_for()), (Route::Nowhere, Vec::new()));
}

#[test]
fn applications_with_a_score_are_bounded() {
    let circuit = Circuit::new(QUICK);
    let mut trouble = Trouble::default();
    for number in 0..2 * APPLICATIONS_MAX {
        let room = trouble.of_or_new(&number.to_string()).is_some();
        assert_eq!(room, number < APPLICATIONS_MAX);
    }
    // Those that have none of their own still count for all.
    *circuit.trouble() = trouble;
    assert_eq!((1..).find(|_| overrun(&circuit, "one more").is_some()), Some(8));
    assert!(circuit.is_off("web"));
}

#[test]
fn a_probe_brings_a_module_back_and_a_failed_one_waits_longer() {
    let circuit = Circuit::new(QUICK);
    while overrun(&circuit, "web").is_none() {}
    let off = later(circuit, PROBE_AFTER * 2);
    assert!(is_probe(&off.way("web")) && off.way("web") == Route::Nowhere, "one probe at a time");
    assert_eq!(overrun(&off, "web"), None, "it was off before");
    assert_eq!(off.way("web"), Route::Nowhere);
    let off = later(off, PROBE_AFTER * 7);
    assert!(is_probe(&off.way("web")));
    off.judged("web", QUICK);
    assert_eq!(off.way("web"), Route::Offload);
    assert!((0..2).any(|_| overrun(&off, "web").is_some()), "half the faults are enough now");
}

#[test]
fn a_probe_that_breaks_at_once_has_not_used_up_its_time() {
    let circuit = Circuit::new(QUICK);
    while overrun(&circuit, "web").is_none() {}
    let off = later(circuit, PROBE_AFTER * 2);
    assert!(is_probe(&off.way("web")));
    assert_eq!(off.faulted("web", FaultCode::Trap, QUICK), None);
    assert!(!off.is_off("web"));
}

#[test]
fn a_module_that_is_off_for_all_comes_back_by_the_probe_of_any() {
    let circuit = Circuit::new(QUICK);
    let both = ["one", "two"].into_iter().cycle();
    assert!(both.take(50).any(|application| overrun(&circuit, application) == Some(TakenOff::ForAll)));
    let off = later(circuit, PROBE_AFTER * 2);
    assert!(is_probe(&off.way("web")));
    assert_eq!(off.way("other"), Route::Nowhere);
    off.judged("web", QUICK);
    assert_eq!(off.way("web"), Route::Offload);
}

#[test]
fn a_probe_that_was_not_called_leaves_no_other_call_to_count_as_one() {
    let circuit = Circuit::new(QUICK);
    while overrun(&circuit, "web").is_none() {}
    let off = later(circuit, PROBE_AFTER * 2);
    let Route::Probe(probe) = off.way("web") else { panic!("it is due") };
    off.unprobed(&probe);
    // One that began while the module was on the path.
    off.judged("web", QUICK);
    assert!(off.is_off("web"));
}

#[test]
fn a_module_that_may_run_for_long_is_never_called_on_a_request_thread() {
    let circuit = Circuit::new(HERE_DEADLINE_MAX * 2);
    (0..=QUICK_CALLS).for_each(|_| {
        assert_eq!(circuit.way("web"), Route::Offload);
        circuit.judged("web", QUICK);
    });
    assert_eq!((circuit.way("web"), circuit.standing()), (Route::Offload, Standing::Healthy));
    assert_eq!(Circuit::new(HERE_DEADLINE_MAX).way("web"), Route::Here);
}

#[test]
fn a_slow_call_sends_the_next_ones_away() {
    let circuit = Circuit::new(QUICK);
    circuit.judged("web", SLOW);
    assert_eq!((circuit.way("web"), circuit.standing()), (Route::Offload, Standing::Slow));
    (0..QUICK_CALLS).for_each(|_| circuit.judged("web", QUICK));
    assert_eq!((circuit.way("web"), circuit.standing()), (Route::Here, Standing::Healthy));
}

#[test]
fn a_call_that_waited_for_a_processor_only_has_the_next_ones_watched() {
    let circuit = Circuit::new(QUICK);
    assert!(!circuit.watches());
    circuit.judged("web", circuit.suspect(SLOW_CALL * 10));
    assert_eq!(circuit.way("web"), Route::Here);
    assert!((0..WATCHED_CALLS).all(|_| circuit.watches()));
    assert!(!circuit.watches());
    circuit.judged("web", circuit.suspect(SLOW_CALL));
    assert!(!circuit.watches());
}
