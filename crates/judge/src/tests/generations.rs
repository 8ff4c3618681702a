//! Generations: modules that the gateway prepares and serves together, without a modules directory.

use super::guests::{ACCEPT, REJECT, judges};
use super::keeping::{REDACT, redacting};
use super::*;
use crate::{Generation, ModulesFrom, Role, SlotModule, Unprepared};

fn start(root: &Path) -> Validators {
    let options = Options { modules_from: ModulesFrom::Database, ..options(root) };
    Validators::start(options).expect("the engine starts")
}

fn wanted(slot: &str, content: &[u8]) -> SlotModule {
    SlotModule {
        slot: Slot::parse(slot).expect("a slot"),
        role: Role::Live,
        digest: Digest::of(content),
        settings: None,
    }
}

async fn prepare(validators: &Validators, wanted: &SlotModule, content: &[u8]) -> Result<bool, Unprepared> {
    validators.prepare(wanted, Some(content.to_vec().into()), false).await
}

async fn judged_by(validators: &Validators, event_type: (&str, &str)) -> Option<Digest> {
    validators.judge(subject(event_type, "{}")).await.digest
}

fn found(unprepared: Result<bool, Unprepared>) -> String {
    match unprepared {
        Err(Unprepared::Refused(refusal)) => refusal.found,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_generation_serves_all_its_modules_from_one_step_on() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let first = [wanted("page/view", &accept), wanted("shop/*", &accept)];
    let waits = validators.judge(subject(("page", "view"), "{}")).await;
    assert_eq!(unfinished_code(&waits), Some(UnfinishedCode::ModuleLoading), "no event passes before the first");
    assert!(!validators.scanned());
    for module in &first {
        prepare(&validators, module, &accept).await.expect("prepared");
    }
    assert_eq!(validators.generation(), 0, "to prepare changes nothing");
    validators.serve(Generation { id: Uuid::nil(), number: 7, slots: first.to_vec() }).await;
    assert!(validators.scanned());
    assert_eq!(validators.generation(), 7);
    assert_eq!(judged_by(&validators, ("page", "view")).await, Some(Digest::of(&accept)));
    assert_eq!(judged_by(&validators, ("shop", "sale")).await, Some(Digest::of(&accept)));
    let second = [wanted("page/view", &reject)];
    prepare(&validators, &second[0], &reject).await.expect("prepared");
    assert_eq!(judged_by(&validators, ("page", "view")).await, Some(Digest::of(&accept)));
    validators.serve(Generation { id: Uuid::nil(), number: 8, slots: second.to_vec() }).await;
    assert_eq!(judged_by(&validators, ("page", "view")).await, Some(Digest::of(&reject)));
    assert_eq!(judged_by(&validators, ("shop", "sale")).await, None, "it is taken away");
    let reports = validators.report();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.digest, report.versions.len()), (Some(Digest::of(&reject)), 2));
}

#[tokio::test]
async fn a_module_that_is_not_prepared_holds_its_events_and_no_others() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let accept = judges(ACCEPT);
    let (good, bad) = (wanted("a/b", &accept), wanted("c/d", b"no module"));
    prepare(&validators, &good, &accept).await.expect("prepared");
    let refused = prepare(&validators, &bad, b"no module").await;
    assert!(matches!(&refused, Err(Unprepared::Refused(_))), "{refused:?}");
    validators.serve(Generation { id: Uuid::nil(), number: 1, slots: vec![good, bad.clone()] }).await;
    let held = validators.judge(subject(("c", "d"), "{}")).await;
    assert_eq!(unfinished_code(&held), Some(UnfinishedCode::ModuleUnavailable));
    assert_eq!(judged_by(&validators, ("a", "b")).await, Some(Digest::of(&accept)));
    assert_eq!(validators.held(), std::slice::from_ref(&bad));
    let report = validators.report().into_iter().find(|report| report.event_type == "c/d").expect("told");
    let why = report.last_error.expect("told").refusal;
    assert_eq!(Some(&why), validators.unprepared(&bad).as_ref());
}

#[tokio::test]
async fn the_last_generation_serves_again_from_the_data_directory_alone() {
    let root = tempfile::tempdir().expect("a folder");
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let settings = Some("deadline_ms = 7".to_owned());
    let slots = vec![SlotModule { settings, ..wanted("a/b", &accept) }, wanted("c/_", &reject)];
    {
        let validators = start(root.path());
        assert_eq!(validators.last_generation().expect("readable"), None);
        prepare(&validators, &slots[0], &accept).await.expect("prepared");
        prepare(&validators, &slots[1], &reject).await.expect("prepared");
        validators.serve(Generation { id: Uuid::nil(), number: 3, slots: slots.clone() }).await;
    }
    let validators = start(root.path());
    let last = validators.last_generation().expect("readable").expect("one served");
    assert_eq!((last.number, &last.slots), (3, &slots));
    for module in &last.slots {
        validators.prepare(module, None, false).await.expect("its content is kept");
    }
    let unknown = wanted("a/b", b"another");
    assert_eq!(validators.prepare(&unknown, None, false).await, Err(Unprepared::NoContent));
    validators.serve(last).await;
    assert_eq!(judged_by(&validators, ("a", "b")).await, Some(Digest::of(&accept)));
    let report = validators.report().into_iter().find(|report| report.event_type == "a/b").expect("told");
    assert_eq!(report.limits.deadline_ms, 7);
}

#[tokio::test]
async fn a_module_that_stops_to_redact_needs_force() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (secret, plain) = (redacting(REDACT, ""), judges(ACCEPT));
    let (first, second) = (wanted("a/b", &secret), wanted("a/b", &plain));
    prepare(&validators, &first, &secret).await.expect("prepared");
    validators.serve(Generation { id: Uuid::nil(), number: 1, slots: vec![first] }).await;
    let told = found(validators.prepare(&second, Some(plain.clone().into()), true).await);
    assert!(told.contains("kept as they came"), "{told}");
    let told = found(validators.check(&second, plain.clone().into(), None).await);
    assert!(told.contains("kept as they came"), "{told}");
    assert_eq!(validators.prepare(&second, Some(plain.into()), false).await, Ok(false), "forced");
}

#[tokio::test]
async fn settings_that_no_gateway_reads_and_contents_of_another_digest_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let accept = judges(ACCEPT);
    let odd = SlotModule { settings: Some("deadline = 7".to_owned()), ..wanted("a/b", &accept) };
    assert!(found(prepare(&validators, &odd, &accept).await).contains("unknown key"));
    assert_eq!(prepare(&validators, &wanted("a/b", &accept), b"other").await, Err(Unprepared::NoContent));
    validators.check(&wanted("a/b", &accept), accept.into(), None).await.expect("it would be taken");
    assert_eq!(validators.generation(), 0);
}
