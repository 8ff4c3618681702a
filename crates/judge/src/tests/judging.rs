//! What comes of events: verdicts, faults by kind, limits, and isolation.

use std::sync::mpsc::sync_channel;

use super::guests::{ACCEPT, AMEND, CONTRACT, Guest, REJECT, faults, judges, new_for_each_event};
use super::*;

const T: (&str, &str) = ("page", "view");

async fn house_of(guest: &[u8]) -> House {
    let house = House::with(&[("page/view.wasm", guest)]).await;
    house.until("page/view", |report| report.state == State::Active).await;
    house
}

#[tokio::test]
async fn verdicts_come_back_with_the_digest() {
    let accepts = judges(ACCEPT);
    let house =
        House::with(&[("page/view.wasm", &accepts), ("page/_.wasm", &judges(REJECT)), ("_.wasm", &judges(AMEND))])
            .await;
    let accepted = house.judge(T, "{}").await;
    assert_eq!(accepted.outcome, Ok(Verdict::Accept));
    assert_eq!(accepted.digest, Some(Digest::of(&accepts)));
    let rejected = house.judge(("page", "other"), "{}").await;
    let Ok(Verdict::Reject(violations)) = rejected.outcome else { panic!("{rejected:?}") };
    assert_eq!((&*violations[0].code, &*violations[0].message, &*violations[0].pointer), ("no", "no", ""));
    assert_eq!(house.judge(("a", "b"), "{}").await.outcome, Ok(Verdict::Amend("{\"amended\":true}".into())));
    let counts = house.report("page/view").expect("there").counts;
    assert_eq!((counts.accepted, counts.rejected), (1, 0));
    assert!(house.report("page/view").expect("there").judging.is_some());
}

#[tokio::test]
async fn a_component_is_taken_as_it_is() {
    let core = judges(ACCEPT);
    let component = wit_component::ComponentEncoder::default()
        .module(&core)
        .and_then(|mut encoder| encoder.encode())
        .expect("a component");
    let house = house_of(&component).await;
    assert_eq!(house.judge(T, "{}").await.digest, Some(Digest::of(&component)));
}

#[tokio::test]
async fn unknown_event_types_follow_the_setting() {
    let house = House::with(&[]).await;
    assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept));
    let strict = House::start(&[], |options| options.unknown_event_type = UnknownEventType::Reject).await;
    let Ok(Verdict::Reject(violations)) = strict.judge(T, "{}").await.outcome else { panic!("accepted") };
    assert_eq!(violations[0].code, "unknown_event_type");
}

#[tokio::test]
async fn a_request_keeps_the_terms_with_which_it_began() {
    let house = House::with(&[("page/view.wasm", &judges(AMEND))]).await;
    house.until("page/view", |report| report.state == State::Active).await;
    let mut begun = house.validators.begin();
    let terms = Terms {
        unknown_event_type: UnknownEventType::Reject,
        required: Required { contains: Arc::new(|category, _| category == "shop"), each: vec![("shop".into(), None)] },
        check_amended: Arc::new(|_| Err("nothing may be amended".into())),
        wait: Duration::from_secs(1),
        judging: Duration::from_secs(1),
    };
    let away = OffloadLimits::default();
    let changed = house.validators.change(Change {
        terms,
        away,
        compare: CompareLimits::default(),
        deadline_ms_max: 7,
        rules: rules(),
    });
    let outcome = async |judging: &mut Judging<'_>, event_type| judging.judge(subject(event_type, "{}")).await.outcome;
    assert_eq!(outcome(&mut begun, ("a", "b")).await, Ok(Verdict::Accept));
    assert_eq!(outcome(&mut begun, ("shop", "sale")).await, Ok(Verdict::Accept));
    assert!(matches!(outcome(&mut begun, T).await, Ok(Verdict::Amend(_))));
    let mut next = changed.begin();
    assert!(matches!(outcome(&mut next, ("a", "b")).await, Ok(Verdict::Reject(_))));
    assert!(matches!(outcome(&mut next, ("shop", "sale")).await, Err(Unjudged::Unfinished(_))));
    assert!(matches!(outcome(&mut next, T).await, Err(Unjudged::Fault(_))));
    assert_eq!(house.validators.doubts().missing, 1, "reports are about the terms of the last change");
}

#[tokio::test]
async fn each_kind_of_fault_has_its_code() {
    for (index, (expected, guest)) in faults().iter().enumerate() {
        let house = house_of(guest).await;
        let judgement = house.judge(T, "{}").await;
        assert_eq!(code(&judgement), Some(*expected), "case {index}: {judgement:?}");
        assert_eq!(judgement.digest, Some(Digest::of(guest)));
        assert_eq!(
            house.report("page/view").expect("there").counts.faulted.get(expected.as_str()),
            Some(&1),
            "case {index}"
        );
    }
}

#[tokio::test]
async fn a_guest_that_counts_its_calls_cannot_tell_them_apart() {
    // Accepts the first call ever, in whichever place it might remember it: a global, memory, grown memory, a table.
    for (validate, more) in [
        ("(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (if (result i32) (i32.eq (global.get $calls) (i32.const 1)) (then (i32.const 2048)) (else (i32.const 2064)))",
         "(global $calls (mut i32) (i32.const 0))"),
        ("(i32.store (i32.const 100000) (i32.add (i32.load (i32.const 100000)) (i32.const 1)))
          (if (result i32) (i32.eq (i32.load (i32.const 100000)) (i32.const 1)) (then (i32.const 2048)) (else (i32.const 2064)))",
         ""),
        ("(if (result i32) (i32.eq (memory.grow (i32.const 1)) (i32.const 2)) (then (i32.const 2048)) (else (i32.const 2064)))", ""),
        ("(if (result i32) (ref.is_null (table.get $t (i32.const 0)))
           (then (table.set $t (i32.const 0) (ref.func $f)) (i32.const 2048)) (else (i32.const 2064)))",
         "(table $t 1 funcref) (func $f) (elem declare func $f)"),
        // Its own data segment, dropped after the first call.
        ("(memory.init $kept (i32.const 2048) (i32.const 0) (i32.const 1)) (data.drop $kept) (i32.const 2048)",
         "(data $kept \"\\00\")"),
    ] {
        let house = house_of(&Guest { validate, more, ..Guest::default() }.core()).await;
        for call in 0..3 {
            assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept), "call {call} of {validate}");
        }
    }
}

#[tokio::test]
async fn nothing_of_an_event_is_left_for_the_next_one() {
    // Rejects when the place where it put the data of an earlier event holds anything.
    let guest = Guest {
        validate: "(drop (memory.grow (i32.const 1)))
            (if (result i32) (i64.eqz (i64.load (i32.const 150000))) (then
               (memory.copy (i32.const 150000) (local.get $data) (local.get $length)) (i32.const 2048))
             (else (i32.const 2064)))",
        ..Guest::default()
    };
    let house = house_of(&guest.core()).await;
    for _ in 0..5 {
        assert_eq!(house.judge(T, "{\"secret\":1234567}").await.outcome, Ok(Verdict::Accept));
    }
}

/// Files that are no validators, and a word of what must be told as expected, found and mend.
fn wrong_files() -> Vec<(&'static str, Vec<u8>, [&'static str; 3])> {
    let bare = wat::parse_str("(module (memory (export \"memory\") 1))").expect("text");
    let wasi = wat::parse_str("(module (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func)))").expect("text");
    let version = Guest { wit: &CONTRACT.replace("@1.0.0", "@2.0.0"), ..Guest::default() }.core();
    let unsigned = Guest { wit: &CONTRACT.replace("timestamp: s64", "timestamp: u64"), ..Guest::default() }.core();
    let fails = Guest { validate: REJECT, example: Some(("{}", 0)), ..Guest::default() }.core();
    let traps = Guest { describe: "unreachable", ..Guest::default() }.core();
    vec![
        ("empty", Vec::new(), ["complete WebAssembly file", "an empty file", "rename"]),
        (
            "text",
            b"hello, this is no wasm".into(),
            ["complete WebAssembly file", "text, which begins with `hello", "the build made"],
        ),
        ("cut", judges(ACCEPT)[..100].to_vec(), ["complete WebAssembly file", "do not parse", "rename"]),
        ("bare", bare, ["component-type", "core module without it", "eye-validator"]),
        ("wasi", wasi, ["imports nothing", "wasi_snapshot_preview1#clock_time_get", "wasm32-unknown-unknown"]),
        ("version", version, ["eye:validator@1.0.0", "eye:validator@2.0.0", "wit/validator.wit"]),
        ("world", other_world(), ["describe: func() -> description", "string instead of description", "validator.wit"]),
        ("type", unsigned, ["validate: func(event: event)", "event.timestamp is u64 instead of s64", "validator.wit"]),
        ("fails", fails, ["`guest` to end in accept", "reject: no", "mend the rule"]),
        ("traps", traps, ["`describe` to answer", "trap", "mend `describe`"]),
    ]
}

fn other_world() -> Vec<u8> {
    let mut bytes = wat::parse_str(
        "(module (memory (export \"memory\") 1) (func (export \"validate\") (result i32) i32.const 0)
         (func (export \"describe\") (result i32) i32.const 0))",
    )
    .expect("text");
    let wit = "package a:b; world other { export validate: func() -> bool; export describe: func() -> string; }";
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("a.wit", wit).expect("WIT");
    let world = resolve.select_world(&[package], None).expect("one");
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, wit_component::StringEncoding::UTF8)
        .expect("in");
    bytes
}

#[tokio::test]
async fn what_is_no_validator_is_refused_in_plain_words() {
    let cases = wrong_files();
    let names: Vec<_> = cases.iter().map(|(name, ..)| format!("x/{name}.wasm")).collect();
    let files: Vec<_> = names.iter().zip(&cases).map(|(file, (_, bytes, _))| (&**file, &**bytes)).collect();
    let house = House::with(&files).await;
    for (name, _, [expected, found, mend]) in &cases {
        let report = house.until(&format!("x/{name}"), refused).await;
        let told = report.last_error.expect("refused for a reason").refusal;
        assert!(told.expected.contains(expected), "{name}: {told:#?}");
        assert!(told.found.contains(found), "{name}: {told:#?}");
        assert!(told.mend.contains(mend), "{name}: {told:#?}");
        assert_eq!(report.digest, None);
    }
}

#[tokio::test]
async fn a_module_that_keeps_faulting_is_taken_off_and_comes_back_by_a_probe_or_a_replacement() {
    // Spins on data longer than two characters.
    let moody = judges("(if (i32.gt_u (local.get $length) (i32.const 2)) (then (loop (br 0)))) (i32.const 2048)");
    let house = House::with(&[("page/view.wasm", &moody), ("page/view.toml", b"deadline_ms = 5")]).await;
    let faults = async {
        loop {
            let judgement = house.judge(T, "{\"bad\":1}").await;
            match code(&judgement) {
                Some(FaultCode::OffPath) => break,
                other => assert_eq!(other, Some(FaultCode::Deadline)),
            }
        }
    };
    tokio::time::timeout(PATIENCE, faults).await.expect("it is taken off");
    let report = house.report("page/view").expect("there");
    assert_eq!((report.standing, report.counts.faulted["deadline"]), (Some(Standing::OffPath), 4));
    assert_eq!(report.off_path_for, ["web"]);
    let of_another = Subject { application: "shop", ..subject(T, "{}") };
    assert_eq!(house.validators.judge(of_another).await.outcome, Ok(Verdict::Accept), "nobody else pays for it");
    let good = async {
        while house.judge(T, "{}").await.outcome != Ok(Verdict::Accept) {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, good).await.expect("a probe brings it back");
    assert_ne!(house.report("page/view").expect("there").standing, Some(Standing::OffPath));

    while code(&house.judge(T, "{\"bad\":1}").await) != Some(FaultCode::OffPath) {}
    house.put("page/view.wasm", &judges(ACCEPT));
    house.until("page/view", |report| report.standing == Some(Standing::Healthy)).await;
    assert_eq!(house.judge(T, "{\"bad\":1}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn a_module_that_spins_does_not_hold_the_request_threads() {
    let house = House::with(&[
        ("page/view.wasm", &judges(ACCEPT)),
        ("bad/spins.wasm", &judges("(loop (br 0)) unreachable")),
        ("bad/spins.toml", b"deadline_ms = 500"),
    ])
    .await;
    assert_eq!(code(&house.judge(("bad", "spins"), "{}").await), Some(FaultCode::Deadline));
    assert_eq!(house.report("bad/spins").expect("there").standing, Some(Standing::Slow));
    // There is one request thread: were it held, nothing would be judged while the module spins.
    let spinning = house.validators.clone();
    let spins = tokio::task::spawn(async move { spinning.judge(subject(("bad", "spins"), "{}")).await });
    let mut judged = 0_u64;
    while !spins.is_finished() {
        assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept));
        judged += 1;
        tokio::task::yield_now().await;
    }
    assert!(judged > 100, "{judged}");
    assert_eq!(code(&spins.await.expect("it ends")), Some(FaultCode::Deadline));
}

#[tokio::test]
async fn a_module_that_breaks_at_once_stays_on_the_path_however_often_it_does() {
    let house =
        house_of(&judges("(if (i32.gt_u (local.get $length) (i32.const 2)) (then unreachable)) (i32.const 2048)"))
            .await;
    for _ in 0..200 {
        assert_eq!(code(&house.judge(T, "{\"bad\":1}").await), Some(FaultCode::Trap));
        let good = Subject { application: "shop", ..subject(T, "{}") };
        assert_eq!(house.validators.judge(good).await.outcome, Ok(Verdict::Accept));
    }
    assert_ne!(house.report("page/view").expect("there").standing, Some(Standing::OffPath));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_for_a_slow_module_is_told_to_come_again() {
    let files: [(&str, &[u8]); 2] =
        [("a/b.wasm", &judges("(loop (br 0)) unreachable")), ("a/b.toml", b"deadline_ms = 500")];
    let house = House::start(&files, |options| options.shared.away.waiting_max = 64).await;
    assert_eq!(code(&house.judge(("a", "b"), "{}").await), Some(FaultCode::Deadline));
    let crowd = (0..200).map(|_| house.judge(("a", "b"), "{}"));
    let judgements = futures_util::future::join_all(crowd).await;
    let busy = judgements.iter().filter(|judgement| unfinished_code(judgement) == Some(UnfinishedCode::ModuleBusy));
    assert!(busy.clone().count() >= 130, "{}", busy.count());
}

#[tokio::test]
async fn who_waits_for_a_module_that_is_taken_off_the_path_is_not_put_to_it() {
    // With such a deadline its events wait for each other.
    let files: [(&str, &[u8]); 2] =
        [("a/b.wasm", &judges("(loop (br 0)) unreachable")), ("a/b.toml", b"deadline_ms = 101")];
    let house = House::start(&files, |options| options.shared.wait = PATIENCE).await;
    let crowd = (0..60).map(|_| house.judge(("a", "b"), "{}"));
    let judgements = futures_util::future::join_all(crowd).await;
    let with = |wanted| judgements.iter().filter(|judgement| code(judgement) == Some(wanted)).count();
    // Four overruns take it off.
    assert_eq!((with(FaultCode::Deadline), with(FaultCode::OffPath)), (4, 56));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn a_probe_that_nobody_waits_for_any_more_leaves_no_other_call_to_count_as_one() {
    // As many modules as may be called away at once, each held until the test lets it go.
    let places = OffloadLimits::default().places();
    let (hold, held) = sync_channel::<()>(0);
    let (began, mut begins) = tokio::sync::mpsc::channel(places);
    let held = Mutex::new(held);
    let waits = move |_: &str| {
        began.try_send(()).expect("there is room for all");
        let held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.recv().expect_err("nothing is sent, it ends when it is let go");
        Ok(())
    };
    let files: [(&str, &[u8]); 2] =
        [("page/view.wasm", &judges("(loop (br 0)) unreachable")), ("page/view.toml", b"deadline_ms = 5")];
    let house = House::start(&files, |options| options.check_amended = Arc::new(waits)).await;
    let names: Vec<_> = (0..places).map(|place| place.to_string()).collect();
    for name in &names {
        house.put(&format!("held/{name}.toml"), b"deadline_ms = 5000");
        house.put(&format!("held/{name}.wasm"), &Guest { validate: AMEND, salt: name, ..Guest::default() }.core());
        house.until(&format!("held/{name}"), |report| report.state == State::Active).await;
    }
    while code(&house.judge(T, "{}").await) != Some(FaultCode::OffPath) {}
    let calls = names.clone().into_iter().map(|name| {
        let validators = house.validators.clone();
        tokio::task::spawn(async move { validators.judge(subject(("held", &name), "{}")).await })
    });
    let calls: Vec<_> = calls.collect();
    for _ in &names {
        begins.recv().await.expect("it is called");
    }

    let gives_up = async {
        // Who is no probe is answered at once.
        while tokio::time::timeout(Duration::from_millis(50), house.judge(T, "{}")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gives_up).await.expect("a probe is due, and finds no place");
    let modules = house.validators.begin().modules;
    let Some(Place::Taken(module)) = modules.find(T.0, T.1) else { panic!("it serves") };
    // The end of a call that began while the module was on the path.
    module.circuit.judged("web", Duration::ZERO);
    assert!(module.circuit.is_off("web"));
    drop(hold);
    for call in calls {
        assert!(call.await.expect("it ends").outcome.is_ok());
    }
}

#[tokio::test]
async fn a_machine_without_room_does_not_weigh_against_a_module() {
    let house = house_of(&new_for_each_event()).await;
    let full = fill(&house);
    // Twenty faults would take it off the path.
    for _ in 0..100 {
        let judgement = house.judge(T, "{}").await;
        assert_eq!(unfinished_code(&judgement), Some(UnfinishedCode::ModuleBusy), "{judgement:?}");
    }
    let report = house.report("page/view").expect("there");
    assert_eq!((report.standing, report.counts.faulted["busy"]), (Some(Standing::Healthy), 100));
    assert_eq!(report.judging, None, "none was called");
    drop(full);
    assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn the_first_event_of_a_module_with_a_long_deadline_does_not_hold_a_request_thread() {
    let house = House::with(&[
        ("page/view.wasm", &judges(ACCEPT)),
        ("bad/spins.wasm", &judges("(loop (br 0)) unreachable")),
        ("bad/spins.toml", b"deadline_ms = 500"),
    ])
    .await;
    let spinning = house.validators.clone();
    let spins = tokio::task::spawn(async move { spinning.judge(subject(("bad", "spins"), "{}")).await });
    let mut judged = 0_u64;
    while !spins.is_finished() {
        assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept));
        judged += 1;
        tokio::task::yield_now().await;
    }
    assert!(judged > 100, "{judged}");
    assert_eq!(code(&spins.await.expect("it ends")), Some(FaultCode::Deadline));
}

#[test]
fn what_may_take_long_to_describe_itself_has_a_bound() {
    let describing = |deadline_ms| contract::for_describing(&Limits { deadline_ms, ..Limits::default() }).deadline_ms;
    assert_eq!([5, 50, 500, 10_000].map(describing), [100, 1_000, 2_000, 10_000]);
}

#[tokio::test]
async fn each_way_of_judging_is_told_with_its_reason_and_means_the_same() {
    // `describe` counts itself, and each event counts on from there.
    let count = "(global.set $count (i32.add (global.get $count) (i32.const 1)))";
    let validate =
        format!("{count} (if (result i32) (i32.eq (global.get $count) (i32.const 2)) (then {ACCEPT}) (else {REJECT}))");
    let cases = [
        ("plain", "", Isolation::SetBack, "set back after each event"),
        ("called", "(func $last (return_call $last))", Isolation::Fresh, "tail calls"),
        ("kept", "(global $kept (mut funcref) (ref.null func))", Isolation::Fresh, "`describe` runs before it"),
    ];
    for (name, more, isolation, reason) in cases {
        let more = format!("(global $count (mut i32) (i32.const 0)) {more}");
        let guest = Guest { validate: &validate, describe: count, more: &more, ..Guest::default() };
        let house = House::with(&[(&format!("a/{name}.wasm"), &guest.core())]).await;
        let report = house.report(&format!("a/{name}")).expect("there");
        assert_eq!(report.isolation, Some(isolation), "{name}");
        let told = report.isolation_reason.expect("told");
        assert!(told.contains(reason), "{name}: {told}");
        for _ in 0..3 {
            assert_eq!(house.judge(("a", name), "{}").await.outcome, Ok(Verdict::Accept), "{name}");
        }
    }
}

#[tokio::test]
async fn a_module_whose_instances_are_not_ready_in_time_is_not_taken() {
    // Without an example nothing else would show it before the first event.
    let describe =
        "(drop (memory.grow (i32.const 960))) (memory.fill (i32.const 131072) (i32.const 7) (i32.const 62914560))";
    let guest = Guest { describe, ..Guest::default() };
    let house = House::start(&[("a/b.wasm", &guest.core())], |options| options.limits.deadline_ms = 1).await;
    let report = house.until("a/b", |report| report.last_error.is_some()).await;
    let refusal = report.last_error.expect("refused").refusal;
    // On a machine that is busy `describe` itself is late already.
    assert!(refusal.to_string().contains("deadline") && report.digest.is_none(), "{refusal}");
}
