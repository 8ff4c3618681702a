//! Candidates and replaced modules: what they judge, what they do not, and what is counted of it.

use super::guests::{ACCEPT, AMEND, REJECT, judges};
use super::keeping::{REDACT, redacting};
use super::*;
use crate::{CandidateTrial, Comparison, Generation, Keep, ModulesFrom, PairCounts, Role, Share, SlotModule, guard};

const TRAP: &str = "unreachable";
const SPIN: &str = "(loop $spin (br $spin)) (i32.const 2048)";

fn start(root: &Path) -> Validators {
    let options = Options { modules_from: ModulesFrom::Database, ..options(root) };
    let validators = Validators::start(options).expect("the engine starts");
    validators.set_canary_key([7; 32]);
    validators
}

fn module(role: Role, content: &[u8], settings: Option<&str>) -> SlotModule {
    let slot = Slot::parse("shop/sale").expect("a slot");
    SlotModule { slot, role, digest: Digest::of(content), settings: settings.map(str::to_owned) }
}

/// Serves a set of modules of one slot, each with its content.
async fn serve(validators: &Validators, number: u64, modules: &[(SlotModule, &[u8])]) {
    for (module, content) in modules {
        validators.prepare(module, Some(content.to_vec().into()), false).await.expect("prepared");
    }
    let slots = modules.iter().map(|(module, _)| module.clone()).collect();
    validators.serve(Generation { id: Uuid::nil(), number, slots }).await;
}

/// Judges an event of each of so many sessions.
async fn judge(validators: &Validators, sessions: u128) -> Vec<Judgement> {
    let mut judged = Vec::new();
    for session in 0..sessions {
        let subject = Subject { session_id: Uuid::from_u128(session), ..subject(("shop", "sale"), r#"{"a":1}"#) };
        judged.push(validators.begin().judge(subject).await);
    }
    judged
}

/// What was compared, once that is so many events.
async fn compared(validators: &Validators, events: u64) -> Comparison {
    let mut sum: Option<Comparison> = None;
    for _ in 0..2_000 {
        for one in validators.take_comparisons() {
            let sum = sum.get_or_insert_with(|| Comparison {
                counts: PairCounts::default(),
                samples: Vec::new(),
                judged: 0,
                ..one.clone()
            });
            let (all, new) = (&mut sum.counts, one.counts);
            all.same += new.same;
            all.would_refuse += new.would_refuse;
            all.would_take += new.would_take;
            all.amends_otherwise += new.amends_otherwise;
            all.faulted += new.faulted;
            all.not_compared += new.not_compared;
            all.old_refused += new.old_refused;
            all.new_refused += new.new_refused;
            sum.judged += one.judged;
            sum.samples.extend(one.samples);
            (sum.p99_us, sum.calls) = (one.p99_us, one.calls);
        }
        if let Some(sum) = &sum
            && sum.counts.compared() + sum.counts.not_compared >= events
        {
            return sum.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{events} events are not compared: {sum:?}");
}

#[tokio::test]
async fn a_shadow_judges_copies_and_nothing_depends_on_it() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    let shadow = (module(Role::Candidate, &reject, Some("mode = \"shadow\"")), &reject[..]);
    serve(&validators, 1, &[live.clone(), shadow]).await;
    for judgement in judge(&validators, 50).await {
        assert_eq!((judgement.outcome, judgement.digest), (Ok(Verdict::Accept), Some(Digest::of(&accept))));
    }
    let found = compared(&validators, 50).await;
    assert_eq!(
        (found.trial, found.digest, found.against),
        (CandidateTrial::Shadow, Digest::of(&reject), Digest::of(&accept))
    );
    let counts = PairCounts { would_refuse: 50, new_refused: 50, ..PairCounts::default() };
    assert_eq!((found.counts, found.judged), (counts, 0));
    assert_eq!(found.samples.first().map(|sample| (&*sample.what, sample.new.len())), Some(("would_refuse", 1)));
    // A dry run stores nothing, and counts nothing.
    let dry = validators.begin_dry(false).judge(subject(("shop", "sale"), "{}")).await;
    assert_eq!(dry.outcome, Ok(Verdict::Accept));
    let tried = validators.begin_dry(true).judge(subject(("shop", "sale"), "{}")).await;
    assert_eq!(tried.digest, Some(Digest::of(&reject)), "who asks may see what the candidate says");
    serve(&validators, 2, &[live]).await;
    judge(&validators, 5).await;
    assert_eq!((validators.candidates().len(), validators.take_comparisons().len()), (0, 0), "it is discarded");
}

/// A thread that spins slows the one beside it, whatever its priority is.
#[tokio::test]
async fn a_shadow_that_spins_gets_little_time() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, spin) = (judges(ACCEPT), judges(SPIN));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    // With this deadline the next call is due after ten seconds.
    let spins = (module(Role::Candidate, &spin, Some("mode = \"shadow\"\ndeadline_ms = 500")), &spin[..]);
    serve(&validators, 1, &[live, spins]).await;
    judge(&validators, 8).await;
    // On a busy machine the wall clock may end a call. Such a call counts as not compared.
    let counts = compared(&validators, 8).await.counts;
    assert!(counts.faulted <= 1 && counts.not_compared >= 7, "{counts:?}");
}

#[test]
fn only_a_call_that_gives_no_verdict_uses_its_time_in_vain() {
    let fault = eye_event::verdict::Fault { code: FaultCode::Deadline, detail: String::new(), last_words: None };
    let (half, deadline) = (Duration::from_millis(250), Duration::from_millis(500));
    let in_vain = |said: Result<Verdict, Unjudged>, ran| comparing::is_in_vain(&said, ran, deadline);
    assert!(in_vain(Err(fault.clone().into()), deadline) && in_vain(Err(UnfinishedCode::ModuleBusy.into()), half));
    assert!(!in_vain(Ok(Verdict::Accept), deadline), "the guard needs the verdicts of slow modules too");
    assert!(!in_vain(Err(fault.into()), half / 2), "it traps at once, or found no processor");
}

#[tokio::test]
async fn a_shadow_that_spins_or_traps_costs_no_event_and_is_told() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, spin) = (judges(ACCEPT), judges(SPIN));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    // On a busy machine a call may find no processor for its whole deadline. It is not compared then, and costs the candidate a
    // rest, so each trial is a new one.
    let mut found = None;
    for number in 1..=50 {
        let settings = format!("on_fault = \"retry\" # {number}");
        let spins = (module(Role::Candidate, &spin, Some(&settings)), &spin[..]);
        serve(&validators, number, &[live.clone(), spins]).await;
        assert!(judge(&validators, 1).await.iter().all(|one| one.outcome == Ok(Verdict::Accept)));
        let one = compared(&validators, 1).await;
        if one.counts.faulted > 0 {
            found = Some(one);
            break;
        }
        assert_eq!(one.counts, PairCounts { not_compared: 1, ..PairCounts::default() });
    }
    let found = found.expect("it had a processor once");
    assert_eq!(found.counts, PairCounts { faulted: 1, ..PairCounts::default() });
    assert_eq!(found.samples[0].fault.as_deref(), Some("deadline"));
    let totals = guard::Totals { counts: found.counts, ..guard::Totals::default() };
    assert!(guard::verdict(&totals).is_some());
}

#[tokio::test]
async fn a_canary_judges_its_share_and_the_same_sessions_on_every_gateway() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (one, other) = (start(one.path()), start(other.path()));
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    let canary = (module(Role::Candidate, &reject, Some("mode = \"canary\"\npercent = 10")), &reject[..]);
    for gateway in [&one, &other] {
        serve(gateway, 1, &[live.clone(), canary.clone()]).await;
    }
    let (first, second) = (judge(&one, 2_000).await, judge(&other, 2_000).await);
    assert_eq!(first, second, "the same session has the same judge");
    let refused = first.iter().filter(|one| matches!(one.outcome, Ok(Verdict::Reject(_)))).count();
    let of_canary = first.iter().filter(|one| one.digest == Some(Digest::of(&reject))).count();
    assert_eq!(refused, of_canary);
    let found = compared(&one, of_canary as u64).await;
    assert_eq!((found.judged, found.counts.would_refuse), (of_canary as u64, of_canary as u64));
    let candidates = &one.inner.candidates;
    let beside = candidates.now().expect("one")[&canary.0.slot].candidate.clone().expect("one");
    let chosen = |sessions: std::ops::Range<u128>| -> Vec<bool> {
        sessions.map(|session| candidates.is_chosen(&beside, Uuid::from_u128(session))).collect()
    };
    let before = chosen(0..100_000);
    let share = before.iter().filter(|is_chosen| **is_chosen).count();
    assert!((9_500..=10_500).contains(&share), "{share} of 100,000 sessions are tried");
    one.set_canary_key([8; 32]);
    assert_ne!(before, chosen(0..100_000), "nobody who lacks the secret knows which");
    assert_eq!(beside.trial, CandidateTrial::Canary(Share::of_percent(10.0).expect("a share")));
}

#[tokio::test]
async fn a_canary_that_takes_long_leaves_the_module_that_serves_its_part_of_the_time() {
    let root = tempfile::tempdir().expect("a folder");
    let mut options = Options { modules_from: ModulesFrom::Database, ..options(root.path()) };
    (options.shared.wait, options.shared.judging) = (Duration::from_secs(6), Duration::from_secs(8));
    let validators = Validators::start(options).expect("the engine starts");
    validators.set_canary_key([7; 32]);
    let (amend, spin) = (judges(AMEND), judges(SPIN));
    // Both are called away from the request, since their deadlines are long. The canary uses up more than all the time.
    let live = (module(Role::Live, &amend, Some("deadline_ms = 5000")), &amend[..]);
    let long = "mode = \"canary\"\npercent = 100\ndeadline_ms = 9000";
    serve(&validators, 1, &[live, (module(Role::Candidate, &spin, Some(long)), &spin[..])]).await;
    let judgement = judge(&validators, 1).await.remove(0);
    assert!(matches!(judgement.outcome, Ok(Verdict::Amend(_))), "{judgement:?}");
    assert_eq!(judgement.digest, Some(Digest::of(&amend)));
    let found = compared(&validators, 1).await;
    assert_eq!((found.counts.not_compared, found.counts.faulted), (1, 0), "it had no time to say anything");
}

/// The candidate of the slot, and the live module as the queue of comparisons sees them.
fn beside(validators: &Validators) -> Arc<candidate::Beside> {
    let slot = Slot::parse("shop/sale").expect("a slot");
    validators.inner.candidates.now().expect("candidates")[&slot].candidate.clone().expect("one")
}

#[tokio::test]
async fn a_call_that_found_no_processor_is_not_compared() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, other) = (judges(ACCEPT), judges(AMEND));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    serve(&validators, 1, &[live, (module(Role::Candidate, &other, None), &other[..])]).await;
    let beside = beside(&validators);
    let late = || {
        let fault = eye_event::verdict::Fault { code: FaultCode::Deadline, detail: String::new(), last_words: None };
        Err(Unjudged::from(fault))
    };
    // It waited for a processor, and used none.
    let (waited, _) = comparing::patiently(&beside.module, late);
    assert_eq!(waited, Err(UnfinishedCode::ModuleBusy.into()));
    // It used up its deadline of 50 ms.
    let (spun, _) = comparing::patiently(&beside.module, || {
        let began = engine::processor_time();
        while engine::processor_time().saturating_sub(began) < Duration::from_millis(60) {
            std::hint::black_box(began);
        }
        late()
    });
    assert_eq!(spun, late());
    let event = candidate::Paired { id: "", session_id: "", application: "a", received_at_us: 0, data: "{}" };
    beside.pair(&event, &waited, &Ok(Verdict::Accept));
    beside.pair(&event, &spun, &Ok(Verdict::Accept));
    let counts = validators.take_comparisons().remove(0).counts;
    assert_eq!((counts.not_compared, counts.faulted), (1, 1), "only what it did itself counts against it");
}

#[tokio::test]
async fn verdicts_that_wait_to_be_compared_have_their_place_in_the_bounds() {
    let root = tempfile::tempdir().expect("a folder");
    let mut options = Options { modules_from: ModulesFrom::Database, ..options(root.path()) };
    options.shared.compare = CompareLimits { waiting_max: 4, waiting_bytes_max: 1_000 };
    let validators = Validators::start(options).expect("the engine starts");
    let (accept, other) = (judges(ACCEPT), judges(AMEND));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    serve(&validators, 1, &[live, (module(Role::Candidate, &other, None), &other[..])]).await;
    let beside = beside(&validators);
    let compare = |said: Result<Verdict, Unjudged>| {
        let (mut id, mut session_id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let subject = subject(("shop", "sale"), "{}");
        let event = subject.guest_event(&mut id, &mut session_id);
        let check_amended = &validators.terms.check_amended;
        validators.inner.comparing.compare(&beside, &event, &said, candidate::Missing::Beside, check_amended);
    };
    let huge = || Violation { pointer: String::new(), code: "bad".into(), message: "x".repeat(1_000).into() };
    compare(Ok(Verdict::Reject(vec![huge()])));
    compare(Ok(Verdict::Amend("x".repeat(1_000))));
    assert_eq!(compared(&validators, 2).await.counts.not_compared, 2, "they do not fit, whatever waits");
    compare(Ok(Verdict::Accept));
    let counts = compared(&validators, 1).await.counts;
    assert_eq!((counts.not_compared, counts.amends_otherwise), (0, 1));
    // Bounds may change while it runs, also to none at all.
    validators.inner.comparing.set_limits(CompareLimits { waiting_max: 0, waiting_bytes_max: 1_000 });
    compare(Ok(Verdict::Accept));
    assert_eq!(compared(&validators, 1).await.counts.not_compared, 1);
}

#[tokio::test]
async fn a_canary_without_the_secret_judges_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let options = Options { modules_from: ModulesFrom::Database, ..options(root.path()) };
    let validators = Validators::start(options).expect("the engine starts");
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    let canary = (module(Role::Candidate, &reject, Some("mode = \"canary\"\npercent = 100")), &reject[..]);
    serve(&validators, 1, &[live, canary]).await;
    assert!(judge(&validators, 20).await.iter().all(|one| one.outcome == Ok(Verdict::Accept)));
}

#[tokio::test]
async fn the_module_that_serves_judges_what_a_canary_breaks_on() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (amend, trap) = (judges(AMEND), judges(TRAP));
    let live = (module(Role::Live, &amend, None), &amend[..]);
    let canary = (module(Role::Candidate, &trap, Some("mode = \"canary\"\npercent = 100")), &trap[..]);
    serve(&validators, 1, &[live, canary]).await;
    for judgement in judge(&validators, 20).await {
        assert!(matches!(judgement.outcome, Ok(Verdict::Amend(_))), "{judgement:?}");
        assert_eq!(judgement.digest, Some(Digest::of(&amend)));
    }
    let found = compared(&validators, 20).await;
    assert_eq!((found.counts.faulted, found.judged), (20, 0));
}

#[tokio::test]
async fn what_a_canary_calls_a_secret_is_not_kept() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    validators.know_taking(HashSet::new());
    let (reject, redacts) = (judges(REJECT), redacting(REDACT, ""));
    let live = (module(Role::Live, &reject, None), &reject[..]);
    let shadow = |mode: &str| (module(Role::Candidate, &redacts, Some(mode)), &redacts[..]);
    serve(&validators, 1, &[live.clone(), shadow("mode = \"shadow\"")]).await;
    let kept = validators.begin().keep("shop", "sale", r#"{"a":1}"#).await;
    assert_eq!(kept, Keep::Whole, "nothing depends on a shadow");
    assert!(validators.begin().keeps_unread());
    serve(&validators, 2, &[live, shadow("mode = \"canary\"")]).await;
    let judging = validators.begin();
    assert!(matches!(judging.keep("shop", "sale", r#"{"a":1}"#).await, Keep::Redacted(_)));
    assert!(judging.takes_out("shop", "sale") && !judging.keeps_unread());
}

#[tokio::test]
async fn a_module_is_compared_with_the_one_that_it_replaced() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    serve(&validators, 1, &[(module(Role::Live, &accept, None), &accept[..])]).await;
    serve(&validators, 2, &[(module(Role::Live, &reject, None), &reject[..])]).await;
    assert!(judge(&validators, 10).await.iter().all(|one| one.digest == Some(Digest::of(&reject))));
    let found = compared(&validators, 10).await;
    let counts = PairCounts { would_refuse: 10, new_refused: 10, ..PairCounts::default() };
    assert_eq!((found.trial, found.digest, found.counts), (CandidateTrial::Replacement, Digest::of(&reject), counts));
    assert_eq!(found.against, Digest::of(&accept));
    validators.forget_replaced(&Slot::parse("shop/sale").expect("a slot"));
    judge(&validators, 3).await;
    assert_eq!(validators.take_comparisons(), []);
    // Other settings of the same code are no replacement.
    let slower = (module(Role::Live, &reject, Some("deadline_ms = 7")), &reject[..]);
    serve(&validators, 3, &[slower]).await;
    assert_eq!(validators.candidates(), []);
}

/// Waits until it is so.
async fn until(is: impl Fn() -> bool, what: &str) {
    for _ in 0..4_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} in vain");
}

#[tokio::test]
async fn a_file_below_candidates_is_tried_beside_the_one_that_serves() {
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("shop/sale.wasm", &accept)]).await;
    house.validators.set_canary_key([7; 32]);
    let sale = ("shop", "sale");
    let judge = || async { house.validators.begin().judge(subject(sale, "{}")).await.digest };
    house.put(".candidates/shop/sale.toml", b"mode = \"canary\"\npercent = 100");
    house.put(".candidates/shop/sale.wasm", &reject);
    until(|| house.validators.candidates().len() == 1, "a candidate is waited for").await;
    assert_eq!(judge().await, Some(Digest::of(&reject)), "all sessions are tried");
    assert_eq!(house.report("shop/sale").expect("it serves").digest, Some(Digest::of(&accept)));
    assert_eq!(house.problems(), [], "the folder is no stray");
    // A file that is no module leaves the last good candidate.
    house.put(".candidates/shop/sale.wasm", b"broken");
    let is_told = || house.validators.candidate_files().iter().any(|report| report.last_error.is_some());
    until(is_told, "the refusal of a candidate is waited for").await;
    assert_eq!(judge().await, Some(Digest::of(&reject)));
    // One in shadow judges nothing.
    house.put(".candidates/shop/sale.wasm", &reject);
    house.put(".candidates/shop/sale.toml", b"mode = \"shadow\"");
    let is_shadow = || house.validators.candidates().iter().all(|one| one.trial == CandidateTrial::Shadow);
    until(is_shadow, "a shadow is waited for").await;
    assert_eq!(judge().await, Some(Digest::of(&accept)));
    house.remove(".candidates/shop/sale.wasm");
    until(|| house.validators.candidates().is_empty(), "the end of a candidate is waited for").await;
    assert_eq!(judge().await, Some(Digest::of(&accept)));
    // What was taken away does not come back because the next file is none, nor because that one was taken back.
    house.put(".candidates/shop/sale.wasm", b"broken");
    until(is_told, "the refusal of a candidate is waited for").await;
    assert_eq!(house.validators.candidates(), []);
    let other = judges(AMEND);
    house.put(".candidates/shop/sale.wasm", &other);
    until(|| house.validators.candidates().len() == 1, "another candidate is waited for").await;
    let slot = Slot::parse("shop/sale").expect("a slot");
    house.validators.take_back(&slot, Digest::of(&other), "it broke", None).expect("noted");
    until(is_told, "the refusal of a candidate is waited for").await;
    assert_eq!(house.validators.candidates(), []);
}

#[tokio::test]
async fn what_was_taken_back_serves_no_more_not_after_a_restart_and_not_by_another_file() {
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("shop/sale.wasm", &accept)]).await;
    let slot = Slot::parse("shop/sale").expect("a slot");
    house.put("shop/sale.wasm", &reject);
    house.until("shop/sale", |report| report.digest == Some(Digest::of(&reject))).await;
    house.validators.take_back(&slot, Digest::of(&reject), "it refused 30 of 200 events", None).expect("noted");
    let is_back = |report: &TypeReport| report.digest == Some(Digest::of(&accept)) && report.last_error.is_some();
    let report = house.until("shop/sale", is_back).await;
    let refusal = report.last_error.expect("told").refusal;
    assert!(refusal.found.contains("30 of 200") && refusal.mend.contains("force = "), "{refusal}");
    assert_eq!(house.judge(("shop", "sale"), "{}").await.digest, Some(Digest::of(&accept)));
    let house = house.restart();
    house.validators.wait_scanned().await;
    house.until("shop/sale", is_back).await;
    house.remove("shop/sale.wasm");
    house.put("shop/sale.wasm", &reject);
    let house = house.restart();
    house.validators.wait_scanned().await;
    house.until("shop/sale", is_back).await;
    assert_eq!(house.judge(("shop", "sale"), "{}").await.digest, Some(Digest::of(&accept)));
    // Nor as a candidate.
    house.put(".candidates/shop/sale.wasm", &reject);
    let is_told = || house.validators.candidate_files().iter().any(|report| report.last_error.is_some());
    until(is_told, "the refusal of a candidate is waited for").await;
    assert_eq!(house.validators.candidates(), []);
    house.put("shop/sale.toml", format!("force = \"{}\"", Digest::of(&reject)).as_bytes());
    house.until("shop/sale", |report| report.digest == Some(Digest::of(&reject))).await;
}

#[tokio::test]
async fn what_was_taken_back_without_a_version_before_it_judges_nothing_and_its_events_wait() {
    let reject = judges(REJECT);
    let house = House::with(&[("shop/sale.wasm", &reject), ("_.wasm", &judges(ACCEPT))]).await;
    let slot = Slot::parse("shop/sale").expect("a slot");
    assert_eq!(house.judge(("shop", "sale"), "{}").await.digest, Some(Digest::of(&reject)));
    house.validators.take_back(&slot, Digest::of(&reject), "it refused 30 of 200 events\n{}", None).expect("noted");
    house.until("shop/sale", |report| report.digest.is_none() && report.last_error.is_some()).await;
    let waits = || async { house.judge(("shop", "sale"), "{}").await.outcome };
    assert_eq!(waits().await, Err(UnfinishedCode::ModuleUnavailable.into()), "a wider module does not judge either");
    let notes = house.validators.taken_back_notes().expect("they can be read");
    assert_eq!(notes.len(), 1);
    assert_eq!((&notes[0].slot, notes[0].digest), (&slot, Digest::of(&reject)));
    assert_eq!(house.validators.taken_back(&slot, Digest::of(&reject)).as_deref(), Some("it refused 30 of 200 events"));
    house.put("shop/sale.toml", format!("force = \"{}\"", Digest::of(&reject)).as_bytes());
    house.until("shop/sale", |report| report.digest == Some(Digest::of(&reject))).await;
    assert_eq!(house.validators.forced(), [(slot, Digest::of(&reject))]);
}

#[tokio::test]
async fn a_file_that_is_taken_back_while_it_is_loaded_serves_in_no_order_of_the_two() {
    let house = House::with(&[]).await;
    let reject = judges(REJECT);
    let slots: Vec<Slot> = (0..30).map(|number| Slot::parse(&format!("shop/sale {number}")).expect("a slot")).collect();
    for (number, slot) in slots.iter().enumerate() {
        house.put(&format!("shop/sale {number}.wasm"), &reject);
        // Some before it is seen, some while it is loaded, and some while it serves.
        tokio::time::sleep(Duration::from_millis(number as u64)).await;
        house.validators.take_back(slot, Digest::of(&reject), "it broke", None).expect("noted");
    }
    for slot in &slots {
        house.until(&slot.to_string(), |report| report.digest.is_none() && report.last_error.is_some()).await;
    }
    let report = house.validators.report();
    assert!(report.iter().all(|one| one.digest.is_none()), "{report:#?}");
}

#[tokio::test]
async fn a_module_whose_new_limits_were_refused_is_taken_back_all_the_same() {
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("shop/sale.wasm", &accept)]).await;
    let slot = Slot::parse("shop/sale").expect("a slot");
    house.put("shop/sale.wasm", &reject);
    house.until("shop/sale", |report| report.digest == Some(Digest::of(&reject))).await;
    house.put("shop/sale.toml", b"memory_bytes_max = 65536");
    house.until("shop/sale", |report| report.settings_error.is_some()).await;
    house.validators.take_back(&slot, Digest::of(&reject), "it broke", Some(Digest::of(&accept))).expect("noted");
    let is_back = |report: &TypeReport| report.digest == Some(Digest::of(&accept)) && report.last_error.is_some();
    house.until("shop/sale", is_back).await;
}

#[tokio::test]
async fn a_version_that_is_not_taken_back_any_more_is_taken() {
    let (accept, reject) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("shop/sale.wasm", &accept)]).await;
    let slot = Slot::parse("shop/sale").expect("a slot");
    house.validators.take_back(&slot, Digest::of(&reject), "it broke", None).expect("noted");
    house.put("shop/sale.wasm", &reject);
    house.until("shop/sale", refused).await;
    assert_eq!(house.judge(("shop", "sale"), "{}").await.digest, Some(Digest::of(&accept)));
    house.validators.lift(&slot, Digest::of(&reject)).expect("lifted");
    house.until("shop/sale", |report| report.digest == Some(Digest::of(&reject))).await;
}

#[tokio::test]
async fn samples_say_nothing_where_a_module_takes_secrets_out_and_are_short() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, reject, redacts) = (judges(ACCEPT), judges(REJECT), redacting(REDACT, ""));
    let live = (module(Role::Live, &redacts, None), &redacts[..]);
    serve(&validators, 1, &[live, (module(Role::Candidate, &accept, None), &accept[..])]).await;
    judge(&validators, 3).await;
    let found = compared(&validators, 3).await;
    assert_eq!(found.counts.would_take, 3);
    assert!(found.samples.iter().all(|sample| sample.old.is_empty()), "{:?}", found.samples);
    let live = (module(Role::Live, &accept, None), &accept[..]);
    serve(&validators, 2, &[live, (module(Role::Candidate, &reject, None), &reject[..])]).await;
    judge(&validators, 3).await;
    let found = compared(&validators, 3).await;
    assert!(found.samples.iter().any(|sample| sample.new.len() == 1), "{:?}", found.samples);
}

#[tokio::test]
async fn a_canary_that_keeps_nothing_and_one_that_judges_anew_are_believed() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    validators.know_taking(HashSet::new());
    let (accept, redacts) = (judges(ACCEPT), redacting(REDACT, ""));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    let canary = (module(Role::Candidate, &redacts, Some("mode = \"canary\"\nkeep_raw = false")), &redacts[..]);
    serve(&validators, 1, &[live.clone(), canary]).await;
    assert_eq!(validators.begin().keep("shop", "sale", "{}").await, Keep::Nothing);
    assert!(validators.begin().judges_anew("shop", "sale"), "another module may have taken the event before");
    serve(&validators, 2, &[live]).await;
    assert!(!validators.begin().judges_anew("shop", "sale"));
}

#[tokio::test]
async fn a_candidate_is_measured_by_what_it_runs() {
    let root = tempfile::tempdir().expect("a folder");
    let validators = start(root.path());
    let (accept, other) = (judges(ACCEPT), judges(AMEND));
    let live = (module(Role::Live, &accept, None), &accept[..]);
    serve(&validators, 1, &[live, (module(Role::Candidate, &other, None), &other[..])]).await;
    judge(&validators, 20).await;
    let found = compared(&validators, 20).await;
    assert_eq!((found.calls, found.counts.amends_otherwise), (20, 20));
    // Whatever else the machine does, it runs for less than a tick.
    assert!(found.p99_us.is_some_and(|p99| p99 < 5_000.0), "{:?}", found.p99_us);
}
