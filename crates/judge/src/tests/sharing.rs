//! What modules share: places of the engine's pool, memory between calls, and threads for those that take long. None may take
//! what the others need, and none of their events is lost for want of it.

use futures_util::future::join_all;
use wasm_encoder::ComponentSection as _;

use super::guests::{ACCEPT, Guest, judges, new_for_each_event};
use super::*;

const T: (&str, &str) = ("page", "view");

/// A validator that holds `count` more instances of this core module, which it has no use for.
fn crowded(module: &str, count: u32) -> Vec<u8> {
    let (mut component, modules, _) = validator();
    let module = wat::parse_str(module).expect("text");
    wasm_encoder::RawSection { id: wasm_encoder::ComponentSectionId::CoreModule.into(), data: &module }
        .append_to_component(&mut component);
    let mut instances = wasm_encoder::InstanceSection::new();
    for _ in 0..count {
        instances.instantiate::<[(&str, wasm_encoder::ModuleArg); 0], &str>(modules, []);
    }
    instances.append_to_component(&mut component);
    component
}

/// The same by nesting: `count` instances of a component that holds 70.
fn nested(count: u32) -> Vec<u8> {
    let (mut component, _, components) = validator();
    let inner = format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(70));
    let inner = wat::parse_str(inner).expect("text");
    wasm_encoder::RawSection { id: wasm_encoder::ComponentSectionId::Component.into(), data: &inner }
        .append_to_component(&mut component);
    let mut instances = wasm_encoder::ComponentInstanceSection::new();
    for _ in 0..count {
        instances.instantiate::<[(&str, wasm_encoder::ComponentExportKind, u32); 0], &str>(components, []);
    }
    instances.append_to_component(&mut component);
    component
}

/// A validator as a component, and how many core modules and components it holds.
fn validator() -> (Vec<u8>, u32, u32) {
    let component = wit_component::ComponentEncoder::default()
        .module(&judges(ACCEPT))
        .and_then(|mut encoder| encoder.encode())
        .expect("a component");
    let (mut depth, mut modules, mut components) = (0, 0, 0);
    for payload in wasmparser::Parser::new(0).parse_all(&component) {
        match payload.expect("a component") {
            wasmparser::Payload::End(_) => depth -= 1,
            wasmparser::Payload::ModuleSection { .. } => {
                depth += 1;
                modules += u32::from(depth == 1);
            }
            wasmparser::Payload::ComponentSection { .. } => {
                depth += 1;
                components += u32::from(depth == 1);
            }
            _ => {}
        }
    }
    (component, modules, components)
}

#[tokio::test]
async fn a_component_that_asks_for_more_than_a_place_has_is_refused_with_the_bound() {
    let globals = format!("(module {})", "(global (mut i64) (i64.const 1))".repeat(20_000));
    let cases = [
        ("nested", nested(40), "64 core instances"),
        ("memories", crowded("(module (memory 1))", 17), "16 memories"),
        ("tables", crowded("(module (table 1 funcref))", 17), "16 tables"),
        ("elements", crowded("(module (table 30000 funcref))", 1), "20000 entries"),
        ("globals", crowded(&globals, 8), "1048576 bytes of globals"),
    ];
    let files: Vec<_> = cases.iter().map(|(name, bytes, _)| (format!("x/{name}.wasm"), bytes.as_slice())).collect();
    let mut files: Vec<_> = files.iter().map(|(file, bytes)| (file.as_str(), *bytes)).collect();
    let (several, healthy) = (crowded("(module (memory 1))", 15), judges(ACCEPT));
    files.extend([("page/several.wasm", several.as_slice()), ("page/view.wasm", &healthy)]);
    let house = House::with(&files).await;
    for (name, bytes, bound) in &cases {
        let report = house.until(&format!("x/{name}"), refused).await;
        let told = report.last_error.expect("refused for a reason").refusal;
        assert!(told.expected.contains(bound), "{name}, {} bytes: {told:#?}", bytes.len());
        assert!(told.mend.contains("fewer"), "{name}: {told:#?}");
    }
    house.until("page/several", |report| report.state == State::Active).await;
    assert_eq!(house.judge(("page", "several"), "{}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn modules_that_ask_for_all_that_a_place_has_leave_the_others_theirs() {
    let large = crowded("(module (memory 1) (table 1 funcref))", 15);
    let names: Vec<_> = (0..8).map(|number| format!("large/{number}.wasm")).collect();
    let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), large.as_slice())).collect();
    let (fresh, resident) = (new_for_each_event(), judges(ACCEPT));
    files.extend([("page/fresh.wasm", fresh.as_slice()), ("page/view.wasm", &resident)]);
    let house = House::with(&files).await;
    let judges = (0..32).map(|number: u32| {
        let validators = house.validators.clone();
        tokio::task::spawn(async move {
            let large = (number % 8).to_string();
            for _ in 0..30 {
                for event_type in [("large", large.as_str()), ("page", "fresh"), ("page", "view")] {
                    let judgement = validators.judge(subject(event_type, "{}")).await;
                    assert_eq!(judgement.outcome, Ok(Verdict::Accept), "{event_type:?}");
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for judged in join_all(judges.collect::<Vec<_>>()).await {
        judged.expect("each has its place");
    }
}

/// Fills so many pages of 64 KiB of its memory in `describe`.
fn fills(pages: u32, salt: &str) -> Vec<u8> {
    let describe = format!(
        "(drop (memory.grow (i32.const {pages})))
         (memory.fill (i32.const 131072) (i32.const 7) (i32.mul (i32.const {pages}) (i32.const 65536)))"
    );
    Guest { describe: &describe, salt, ..Guest::default() }.core()
}

#[tokio::test]
async fn modules_share_one_memory_and_those_that_do_not_fit_are_refused_with_the_bound() {
    const MAX: usize = 64 << 20;
    let modules: Vec<_> = (0..12).map(|number| (format!("x/{number}"), fills(160, &number.to_string()))).collect();
    let named: Vec<_> = modules.iter().map(|(name, bytes)| (format!("{name}.wasm"), bytes)).collect();
    let healthy = judges(ACCEPT);
    let mut files: Vec<_> = named.iter().map(|(file, bytes)| (file.as_str(), bytes.as_slice())).collect();
    files.insert(0, ("page/view.wasm", &healthy));
    let house = House::start(&files, |options| options.shared.memory_bytes_max = MAX).await;
    let serves = |name: &str| house.report(name).is_some_and(|report| report.digest.is_some());
    let (active, refused): (Vec<_>, Vec<_>) =
        modules.iter().map(|(name, _)| name.as_str()).partition(|name| serves(name));
    for name in &refused {
        let told = house.until(name, |report| report.last_error.is_some()).await.last_error.expect("a reason").refusal;
        assert!(told.expected.contains("67108864 bytes (`modules_memory_bytes_max`)"), "{told:#?}");
        assert!(told.found.contains("`describe` left") && told.passing, "{told:#?}");
    }
    assert!((4..=6).contains(&active.len()), "{active:?} fit");
    // Each instance would take as much again.
    for _ in 0..3 {
        for name in &active {
            let (category, name) = name.split_once('/').expect("a type");
            let judgement = house.judge((category, name), "{}").await;
            assert_eq!(judgement.outcome, Ok(Verdict::Accept), "no event is lost for want of memory");
            assert_eq!(house.judge(T, "{}").await.outcome, Ok(Verdict::Accept));
            let (taken, most) = house.validators.memory_bytes();
            assert!(taken <= most && most == MAX, "{taken} of {most}");
        }
    }
    // One that goes makes room for one that was refused.
    house.remove(&format!("{}.wasm", active[0]));
    house.until_gone(active[0]).await;
    house.wait(|| refused.iter().any(|name| serves(name)).then_some(()), "one that was refused serves").await;
}

#[tokio::test]
async fn instances_that_rest_make_room_for_a_module_that_is_loaded() {
    let (first, second) = (fills(320, "first"), fills(320, "second"));
    let house = House::start(&[("x/first.wasm", &first)], |options| options.shared.memory_bytes_max = 50 << 20).await;
    assert_eq!(house.judge(("x", "first"), "{}").await.outcome, Ok(Verdict::Accept));
    let kept = house.validators.memory_bytes().0;
    assert!(kept > 40 << 20, "its state, and an instance in it: {kept}");
    house.put("x/second.wasm", &second);
    house.until("x/second", |report| report.state == State::Active).await;
    for name in ["first", "second"] {
        assert_eq!(house.judge(("x", name), "{}").await.outcome, Ok(Verdict::Accept));
    }
    assert!(house.validators.memory_bytes().0 <= 50 << 20);
}

/// Takes a few milliseconds for each event.
fn slow() -> Vec<u8> {
    Guest {
        validate: "(local.set 0 (i32.const 6000000))
            (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))) (i32.const 2048)",
        ..Guest::default()
    }
    .core()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_module_gets_more_than_one_place_and_none_of_its_events_is_lost() {
    let slow = slow();
    let house = House::start(&[("a/slow.wasm", &slow), ("a/slow.toml", b"deadline_ms = 5000")], |options| {
        options.shared.wait = PATIENCE;
    })
    .await;
    let crowd = (0..120).map(|number: u32| {
        let validators = &house.validators;
        async move {
            let application = if number.is_multiple_of(2) { "web" } else { "shop" };
            validators.judge(Subject { application, ..subject(("a", "slow"), "{}") }).await
        }
    });
    for judgement in join_all(crowd).await {
        assert_eq!(judgement.outcome, Ok(Verdict::Accept), "it waited for its place");
    }
    assert_eq!(house.validators.waiting(), 0);
    let report = house.report("a/slow").expect("there");
    assert_eq!((report.counts.accepted, report.counts.faulted.len()), (120, 0));
}

#[tokio::test]
async fn the_events_of_a_request_that_are_not_judged_in_time_are_unfinished_and_the_others_are_not() {
    let files: [(&str, &[u8]); 2] = [("a/slow.wasm", &slow()), ("a/slow.toml", b"deadline_ms = 5000")];
    let house = House::start(&files, |options| {
        options.shared.judging = Duration::from_millis(200);
    })
    .await;
    let mut judging = house.validators.begin();
    let (mut judged, mut unfinished) = (0, 0);
    while unfinished < 40 {
        let judgement = judging.judge(subject(("a", "slow"), "{}")).await;
        match unfinished_code(&judgement) {
            Some(why) => {
                assert_eq!((why, judgement.digest.is_some()), (UnfinishedCode::ModuleBusy, true));
                unfinished += 1;
            }
            None => {
                assert_eq!((judgement.outcome, unfinished), (Ok(Verdict::Accept), 0), "time does not come back");
                judged += 1;
            }
        }
        assert!(judged < 10_000);
    }
    assert_eq!(judging.judge(subject(("no", "module"), "{}")).await.outcome, Ok(Verdict::Accept));
}
