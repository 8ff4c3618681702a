//! Trials of single modules, as the author's commands run them.

use eye_event::verdict::{FaultCode, Verdict};

use super::guests::{Guest, REJECT};
use super::*;
use crate::trial_event::Expected;

fn load(bytes: &[u8], settings: Option<&str>, self_tests: bool) -> Result<Trial, TrialError> {
    let root = tempfile::tempdir().expect("a directory for the test");
    let Options { loading, limits, deadline_ms_max, check_amended, .. } = options(root.path());
    let data_dir = root.path();
    let options = TrialOptions {
        kind: Kind::of_content(bytes),
        loading,
        data_dir,
        limits,
        deadline_ms_max,
        settings,
        check_amended,
        self_tests,
    };
    Trial::load(&Slot::parse("shop/sale").expect("a type"), bytes, options)
}

#[test]
fn a_module_that_fails_its_example_is_loaded_and_lists_it_unless_it_tests_itself() {
    let bytes = Guest { validate: REJECT, example: Some(("{}", 0)), ..Guest::default() }.core();
    let Err(TrialError::Refused(refusal)) = load(&bytes, None, true) else { panic!("refused as by a gateway") };
    assert!(refusal.found.contains("reject"), "{refusal}");
    let trial = load(&bytes, None, false).expect("loaded");
    let [example] = trial.examples() else { panic!("one example: {:?}", trial.examples()) };
    assert_eq!((example.expect, example.event.data.as_str()), (Expected::Accept, "{}"));
    assert_eq!((example.event.category.as_str(), example.event.name.as_str()), ("shop", "sale"));
    let tried = trial.judge(&example.event);
    assert_eq!(tried.outcome.map(|verdict| Expected::of(&verdict)), Ok(Expected::Reject));
}

#[test]
fn a_fault_is_told_and_the_next_event_is_judged_as_if_it_were_the_first() {
    let traps = "(if (i32.eq (local.get $length) (i32.const 9)) (then unreachable)) (i32.const 2048)";
    let trial = load(&Guest { validate: traps, ..Guest::default() }.core(), None, true).expect("loaded");
    let (whole, short) = (trial.event("{\"a\":123}"), trial.event("{}"));
    for _ in 0..2 {
        let fault = trial.judge(&whole).outcome.expect_err("it traps");
        assert_eq!(fault.code, FaultCode::Trap);
        assert_eq!(trial.judge(&short).outcome, Ok(Verdict::Accept));
    }
}

#[test]
fn the_memory_of_an_event_is_the_least_with_which_it_is_judged() {
    let trial = load(&Guest::default().core(), None, true).expect("loaded");
    assert_eq!(trial.memory_bytes(&trial.event("{}")), 2 << 16);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(200 << 10));
    let needed = trial.memory_bytes(&trial.event(&long));
    assert!((5 << 16..8 << 16).contains(&needed), "{needed}");
}

#[test]
fn wrong_settings_refuse_the_module_and_right_ones_change_its_limits() {
    let bytes = Guest::default().core();
    assert_eq!(load(&bytes, Some("deadline_ms = 7"), true).expect("loaded").limits().deadline_ms, 7);
    assert!(load(&bytes, Some("deadline = 7"), true).is_err_and(|why| why.to_string().contains("unknown key")));
}

#[test]
fn a_core_module_becomes_a_component_and_what_is_neither_is_refused() {
    let component = to_component(&Guest::default().core()).expect("a component");
    assert!(load(&component, None, true).is_ok());
    assert_eq!(to_component(&component).expect("one already"), component);
    assert!(to_component(b"text").is_err());
}
