//! The ways of running a module, held against each other: whatever is put to them in whatever order, all say the same. When
//! these tests are built, every setting back also compares the whole memory and all globals with the start.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::guests::{ACCEPT, AMEND, Guest, REJECT, faults, judges};
use super::*;
use crate::answer::check_answer;
use crate::component::Fresh;
use crate::contract::{Broken, CheckAmended, GuestEvent};
use crate::core_module::Unfit;
use crate::memory::Keeper as _;
use crate::resident::Residents;
use crate::rewrite::{self, CARD_BYTES};
use crate::{anatomy, world};

/// Milliseconds that a module which never ends is let run, and those that no other one needs.
const SPINS_MS: u64 = 10;
const ENOUGH_MS: u64 = 10_000;

/// One module in each way: set back, in new instances without the component around it, and as a component.
pub(super) struct Ways {
    sandbox: Sandbox,
    pub(super) residents: Residents,
    exposed: Residents,
    component: Fresh,
    pub(super) limits: Limits,
    check_amended: CheckAmended,
}

/// What an event can differ in, for a validator.
#[derive(Debug, Clone)]
struct Sent {
    application: String,
    category: String,
    timestamp_us: i64,
    data: String,
}

impl Sent {
    fn of(data: &str) -> Self {
        Self { application: "web".into(), category: "page".into(), timestamp_us: 1, data: data.into() }
    }
}

impl Ways {
    /// Fails when the module cannot be set back.
    fn of(bytes: &[u8]) -> Result<Self, Unfit> {
        Self::with_deadline(bytes, SPINS_MS)
    }

    pub(super) fn with_deadline(bytes: &[u8], deadline_ms: u64) -> Result<Self, Unfit> {
        let sandbox = Sandbox::start().expect("the engine starts");
        let component = world::component_of(bytes).expect("a validator");
        let core = anatomy::core_of(&component)?;
        let limits = Limits { deadline_ms, ..Limits::default() };
        let described = |rewritten: &[u8]| {
            let undescribed = Residents::compile(&sandbox, rewritten).expect("it compiles");
            undescribed.describe(&sandbox, &limits).expect("it describes itself").0
        };
        let residents = described(&rewrite::follow(&core)?);
        let exposed = described(&rewrite::expose(&core).expect("what can be followed can be reached"));
        assert!(residents.stay() && !exposed.stay());
        let component = Fresh::compile(&sandbox, &component).expect("it compiles");
        let check_amended = options(Path::new("")).check_amended;
        Ok(Self { sandbox, residents, exposed, component, limits, check_amended })
    }

    fn set_back(&self, sent: &Sent) -> Result<Verdict, Broken> {
        self.judge(&self.residents, sent)
    }

    fn judge(&self, residents: &Residents, sent: &Sent) -> Result<Verdict, Broken> {
        let check_answer = |verdict| check_answer(verdict, &self.limits, &self.check_amended);
        residents.judge(&self.sandbox, &self.limits, &event(sent), check_answer)
    }

    fn as_component(&self, sent: &Sent) -> Result<Verdict, Broken> {
        self.component
            .judge(&self.sandbox, &self.limits, &event(sent))
            .and_then(|verdict| check_answer(verdict, &self.limits, &self.check_amended))
    }

    /// Puts an event to all; they must agree, but for the words in which a fault is told.
    fn agreed(&self, sent: &Sent) -> Result<Verdict, FaultCode> {
        let outcomes = [self.set_back(sent), self.judge(&self.exposed, sent), self.as_component(sent)];
        let [set_back, new, component] = outcomes.map(|outcome| outcome.map_err(|broken| broken.code));
        assert_eq!(set_back, new, "{sent:?}");
        assert_eq!(new, component, "{sent:?}");
        set_back
    }
}

fn event(sent: &Sent) -> GuestEvent<'_> {
    GuestEvent {
        id: "00000000-0000-7000-8000-000000000001",
        application: &sent.application,
        session_id: "00000000-0000-7000-8000-000000000002",
        category: &sent.category,
        name: "view",
        timestamp_us: sent.timestamp_us,
        received_at_us: 2,
        data: &sent.data,
    }
}

/// The core modules that were built of the shipped validators and of the guests in `tests/guests/`.
fn built() -> Vec<(String, Vec<u8>)> {
    // A test lies in target/<profile>/deps.
    let own = std::env::current_exe().expect("a test has a file");
    let modules = own.ancestors().nth(3).expect("a target folder").join("wasm32-unknown-unknown/guest");
    let mut found = Vec::new();
    for folder in [modules.clone(), modules.join("examples")] {
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}; run `make test`", folder.display()));
        for file in files {
            let path = file.expect("readable").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            // Cargo keeps each example under a second name with a hash.
            if path.extension().is_some_and(|extension| extension == "wasm") && !name.contains('-') {
                found.push((name, std::fs::read(&path).expect("readable")));
            }
        }
    }
    found.sort();
    found
}

/// Data as senders write it for the shipped validators, right, wrong and misleading.
fn some_data() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{}",
        r#"{"misbehave":true}"#,
        r#"{"host":"shop.example","path":"/shoes"}"#,
        r#"{"host":"shop.example","path":"shoes"}"#,
        r#"{"host":7,"path":null,"element":"chat bubble"}"#,
        r#"{"host":"shop.example","path":"/","element":"chat bubble"}"#,
        r#"{"host":"shop.example","path":"/","form":{"email":"a@b.example","password":"secret","card":"4111111111111111"}}"#,
        r#"{"action":"opened","issue":{"number":1,"title":"x","user":{"login":"a"}},"repository":{"full_name":"a/b"}}"#,
        r#"{"ref":"refs/heads/main","commits":[{"id":"0","message":"m"}],"repository":{"full_name":"a/b"}}"#,
        "not json",
        "[1,2,3]",
        "",
    ])
    .prop_map(str::to_owned);
    let long = (1_usize..60_000)
        .prop_map(|bytes| format!("{{\"host\":\"shop.example\",\"path\":\"/{}\"}}", "x".repeat(bytes)));
    let any = any::<String>().prop_map(|text| serde_json::json!({ "host": text, "path": text }).to_string());
    prop_oneof![6 => known, 1 => long, 2 => any]
}

fn some_event() -> impl Strategy<Value = Sent> {
    (any::<String>(), "[a-z ]{1,200}", any::<i64>(), some_data())
        .prop_map(|(application, category, timestamp_us, data)| Sent { application, category, timestamp_us, data })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
}

#[test]
fn every_built_module_says_the_same_set_back_as_new() {
    let mut tried = Vec::new();
    for (name, bytes) in built() {
        // Those that are no validators, or do not load, are tried elsewhere; so is the engine of schemas, which describes
        // itself once it has one.
        if world::component_of(&bytes).is_err() || name.starts_with("describe_") || name == "json_schema" {
            continue;
        }
        // Each event on which one spins costs its deadline three times.
        let (cases, deadline_ms) = if name.starts_with("spins") { (1, SPINS_MS) } else { (12, ENOUGH_MS) };
        let ways = Ways::with_deadline(&bytes, deadline_ms).unwrap_or_else(|unfit| panic!("{name}: {unfit}"));
        runner(cases)
            .run(&prop::collection::vec(some_event(), 1..12), |events| {
                for sent in &events {
                    let _same = ways.agreed(sent);
                }
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{name}: {failure}"));
        tried.push(name);
    }
    for name in ["pageview", "form_submit", "github_push", "counts_calls", "remembers", "hoards", "traps", "recurses"] {
        assert!(tried.iter().any(|tried| tried == name), "{name} is not among {tried:?}");
    }
}

#[test]
fn each_kind_of_fault_is_the_same_set_back_as_new() {
    let mut unfit = 0;
    for (index, (expected, guest)) in faults().iter().enumerate() {
        match Ways::of(guest) {
            Ok(ways) => {
                for _ in 0..3 {
                    assert_eq!(ways.agreed(&Sent::of("{}")), Err(*expected), "case {index}");
                }
            }
            Err(_) => unfit += 1,
        }
    }
    assert_eq!(unfit, 1, "only the one that grows a table");
}

#[test]
fn an_instance_that_answered_what_is_not_believed_ends() {
    for (expected, guest) in faults().iter().filter(|(expected, _)| *expected == FaultCode::Output) {
        let ways = Ways::of(guest).expect("it can be set back");
        assert_eq!(ways.set_back(&Sent::of("{}")).map_err(|broken| broken.code), Err(*expected));
        assert_eq!(ways.residents.at_rest(), 0);
    }
    let healthy = Ways::of(&judges(ACCEPT)).expect("it can be set back");
    assert_eq!(healthy.set_back(&Sent::of("{}")).map_err(|broken| broken.code), Ok(Verdict::Accept));
    assert_eq!(healthy.residents.at_rest(), 1);
}

#[test]
fn the_shipped_validators_stay_after_an_event_of_the_usual_size() {
    let data = format!(r#"{{"host":"shop.example","path":"/","text":"{}"}}"#, "x".repeat(48 << 10));
    for (name, bytes) in built() {
        if !["pageview", "form_submit", "cta_click", "github_push"].contains(&&*name) {
            continue;
        }
        let ways = Ways::with_deadline(&bytes, ENOUGH_MS).expect("it is followed");
        for _ in 0..3 {
            ways.set_back(&Sent::of(&data)).expect("a verdict");
        }
        assert_eq!(ways.residents.at_rest(), 1, "{name} grows its memory for it");
    }
}

#[test]
fn a_module_has_no_more_tables_and_memories_than_the_pool_counts_for_one() {
    let unfit = |more: &str| Ways::of(&Guest { more, ..Guest::default() }.core()).err().map(|unfit| unfit.to_string());
    assert_eq!(unfit(&"(table 1 funcref)".repeat(4)), None);
    let why = unfit(&"(table 1 funcref)".repeat(5));
    assert_eq!(why.as_deref(), Some("it has more tables than one module may have"));
}

/// A guest that accepts if what `load` finds is what it was in the beginning, and then does `store`.
fn remembering(load: &str, store: &str, more: &str) -> Vec<u8> {
    let validate = format!("(if (result i32) {load} (then {store} (i32.const 2048)) (else (i32.const 2064)))");
    Guest { validate: &validate, more, ..Guest::default() }.core()
}

#[test]
fn every_kind_of_store_is_undone_wherever_it_writes() {
    let stores = [
        (4, "i32.store", "", "(i32.const -1)"),
        (1, "i32.store8", "", "(i32.const -1)"),
        (2, "i32.store16", "", "(i32.const -1)"),
        (8, "i64.store", "", "(i64.const -1)"),
        (1, "i64.store8", "", "(i64.const -1)"),
        (2, "i64.store16", "", "(i64.const -1)"),
        (4, "i64.store32", "", "(i64.const -1)"),
        (4, "f32.store", "", "(f32.const -nan:0x7fffff)"),
        (8, "f64.store", "", "(f64.const -nan:0xfffffffffffff)"),
        (16, "v128.store", "", "(v128.const i64x2 -1 -1)"),
        (1, "v128.store8_lane", "3", "(v128.const i64x2 -1 -1)"),
        (2, "v128.store16_lane", "3", "(v128.const i64x2 -1 -1)"),
        (4, "v128.store32_lane", "3", "(v128.const i64x2 -1 -1)"),
        (8, "v128.store64_lane", "1", "(v128.const i64x2 -1 -1)"),
    ];
    let border = 80 * CARD_BYTES;
    for (width, store, lane, value) in stores {
        for at in [border, border - 1, border - width, border - width / 2, border + 1, 131_072 - width] {
            // Half of the address by the offset, so that the mark must count it.
            let store = format!("({store} offset={} {lane} (i32.const {}) {value})", at / 2, at - at / 2);
            // Two bytes of what was written: the first and the last.
            let load = format!(
                "(i32.eqz (i32.or (i32.load8_u (i32.const {at})) (i32.load8_u (i32.const {}))))",
                at + width - 1
            );
            let ways = Ways::of(&remembering(&load, &store, "")).expect("stores are followed");
            for _ in 0..2 {
                assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept), "{store}");
            }
        }
    }
}

#[test]
fn writes_in_bulk_are_undone() {
    let untouched = "(i64.eqz (i64.or (i64.load (i32.const 40000)) (i64.load (i32.const 130000))))";
    for store in [
        // Zeros over data that is not zero, nothing at all, everything from an address on, and a copy onto itself.
        "(memory.fill (i32.const 1100) (i32.const 0) (i32.const 900))",
        "(memory.fill (i32.const 131072) (i32.const 1) (i32.const 0))",
        "(memory.fill (i32.const 40000) (i32.const 255) (i32.const 91072))",
        "(memory.fill (i32.const 40000) (i32.const 255) (i32.const 1))",
        "(memory.copy (i32.const 39999) (i32.const 1100) (i32.const 2))",
        "(memory.copy (i32.const 1101) (i32.const 1100) (i32.const 1200)) (i32.store (i32.const 2048) (i32.const 0))",
        "(memory.copy (i32.const 1100) (i32.const 1900) (i32.const 500))",
        "(memory.copy (i32.const 129000) (i32.const 1100) (i32.const 2072))",
    ] {
        let ways = Ways::of(&remembering(untouched, store, "")).expect("they are followed");
        for _ in 0..3 {
            assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept), "{store}");
        }
    }
    // Those that reach too far fault, in every way, and leave nothing.
    for store in [
        "(memory.fill (i32.const 131072) (i32.const 1) (i32.const 1))",
        "(memory.fill (i32.const 40000) (i32.const 1) (i32.const -1))",
        "(memory.copy (i32.const -1) (i32.const 0) (i32.const 8))",
    ] {
        let ways = Ways::of(&remembering(untouched, store, "")).expect("they are followed");
        for _ in 0..2 {
            assert_eq!(ways.agreed(&Sent::of("{}")), Err(FaultCode::Trap), "{store}");
        }
    }
}

#[test]
fn nothing_is_left_by_an_event_that_ends_in_the_middle_of_its_writes() {
    // Writes, then traps, spins, recurses or answers nonsense, as the length of the data says.
    let body = "
        (if (i32.load (i32.const 60000)) (then (return (i32.const 2064))))
        (i32.store (i32.const 60000) (local.get $length)) (global.set $kept (i32.const 1))
        (if (i32.eq (local.get $length) (i32.const 3)) (then (unreachable)))
        (if (i32.eq (local.get $length) (i32.const 4)) (then (loop (br 0))))
        (if (i32.eq (local.get $length) (i32.const 5)) (then (call $deep)))
        (if (i32.eq (local.get $length) (i32.const 6)) (then (return (i32.const 3))))
        (if (i32.eq (local.get $length) (i32.const 7)) (then (drop (memory.grow (i32.const 1)))))
        (i32.const 2048)";
    let more = "(global $kept (mut i32) (i32.const 0)) (func $deep (call $deep))";
    let ways = Ways::of(&Guest { validate: body, more, ..Guest::default() }.core()).expect("it is followed");
    for (data, expected) in [
        ("{}", Ok(Verdict::Accept)),
        ("tra", Err(FaultCode::Trap)),
        ("{}", Ok(Verdict::Accept)),
        ("spin", Err(FaultCode::Deadline)),
        ("{}", Ok(Verdict::Accept)),
        ("stack", Err(FaultCode::Stack)),
        ("{}", Ok(Verdict::Accept)),
        ("answer", Err(FaultCode::Output)),
        ("{}", Ok(Verdict::Accept)),
        ("it grew", Ok(Verdict::Accept)),
        ("{}", Ok(Verdict::Accept)),
    ] {
        assert_eq!(ways.agreed(&Sent::of(data)), expected, "{data}");
    }
}

#[test]
fn globals_of_every_type_are_set_back() {
    let more = "(global $a (mut i32) (i32.const 7)) (global $b (mut i64) (i64.const -7))
        (global $c (mut f32) (f32.const nan:0x7fffff)) (global $d (mut f64) (f64.const 1.5))
        (global $fixed i32 (i32.const 3)) (export \"a\" (global $a)) (export \"marks\" (global $b))
        (export \"global 0\" (global $fixed)) (export \"a again\" (global $a))";
    let load = "(i32.and (i32.and (i32.eq (global.get $a) (i32.const 7)) (i64.eq (global.get $b) (i64.const -7)))
        (i32.and (i32.eq (i32.reinterpret_f32 (global.get $c)) (i32.const 0x7fffffff))
                 (f64.eq (global.get $d) (f64.const 1.5))))";
    let store = "(global.set $a (i32.const 1)) (global.set $b (i64.const 1)) (global.set $c (f32.const 1))
        (global.set $d (f64.const nan))";
    let ways = Ways::of(&remembering(load, store, more)).expect("numbers can be set back");
    for _ in 0..3 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    }
}

#[test]
fn every_event_finds_the_module_as_describe_left_it() {
    // `describe` counts, grows and writes; each event sees that, once.
    let describe = "(drop (memory.grow (i32.const 3))) (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 300000) (i32.const 5))";
    let validate = "(if (result i32) (i32.and (i32.and (i32.eq (global.get $calls) (i32.const 1))
            (i32.eq (i32.load (i32.const 300000)) (i32.const 5))) (i32.eq (memory.size) (i32.const 5)))
        (then (i32.store (i32.const 300000) (i32.const 6)) (i32.store8 (i32.const 327679) (i32.const 6))
              (if (i32.gt_u (local.get $length) (i32.const 2)) (then (unreachable))) (i32.const 2048))
        (else (i32.const 2064)))";
    let guest = Guest { validate, describe, more: "(global $calls (mut i32) (i32.const 0))", ..Guest::default() };
    let ways = Ways::of(&guest.core()).expect("it is followed");
    for round in 0..6 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept), "round {round}");
        // The next one is judged in a new instance.
        assert_eq!(ways.agreed(&Sent::of("traps")), Err(FaultCode::Trap));
    }
}

#[test]
fn what_runs_when_a_module_starts_runs_once_before_describe() {
    // The digits are appended: start, `describe`, event.
    let digit = |digit: u32| {
        format!(
            "(i32.store (i32.const 60000) (i32.add (i32.mul (i32.load (i32.const 60000)) (i32.const 10)) (i32.const {digit})))"
        )
    };
    let validate = format!(
        "{} (if (result i32) (i32.eq (i32.load (i32.const 60000)) (i32.const 123)) (then (i32.const 2048)) (else unreachable))",
        digit(3)
    );
    let more = format!("(func $s {}) (start $s)", digit(1));
    let guest = Guest { validate: &validate, describe: &digit(2), more: &more, ..Guest::default() };
    let ways = Ways::of(&guest.core()).expect("it is followed");
    for _ in 0..3 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    }
}

/// A guest that keeps a record of how it is called, and amends to it: each place that is asked for, with what stands at
/// the place before; `describe`'s answer and each verdict's, when they were read. Its own answers lie at 2048.
fn recording() -> Vec<u8> {
    let core = r#"(module
        (memory (export "memory") 2)
        (global $top (mut i32) (i32.const 16384))
        (global $end (mut i32) (i32.const 40000))
        (func $note (param i32)
          (i32.store8 (global.get $end) (local.get 0))
          (global.set $end (i32.add (global.get $end) (i32.const 1))))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          ;; A letter for the size, and the first byte of what was put where the last place was.
          (call $note (i32.add (i32.const 97) (i32.rem_u (local.get 3) (i32.const 26))))
          (call $note (select (i32.load8_u (global.get $top)) (i32.const 45)
            (i32.gt_u (i32.load8_u (global.get $top)) (i32.const 34))))
          (global.set $top (i32.add (global.get $top) (i32.const 512)))
          (global.get $top))
        (func (export "describe") (result i32)
          (call $note (i32.const 68)) (i32.const 1024))
        (func (export "cabi_post_describe") (param i32)
          (call $note (i32.const 80)))
        (func (export "validate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
          (call $note (i32.const 86))
          ;; {"r":"..."} around the record.
          (memory.copy (i32.const 39994) (i32.const 3000) (i32.const 6))
          (memory.copy (global.get $end) (i32.const 3006) (i32.const 2))
          (i32.store8 (i32.const 2048) (i32.const 1))
          (i32.store (i32.const 2052) (i32.const 39994))
          (i32.store (i32.const 2056) (i32.sub (i32.add (global.get $end) (i32.const 2)) (i32.const 39994)))
          (i32.const 2048))
        (func (export "cabi_post_validate") (param i32)
          ;; Told twice without a setting back, it breaks; and what is told is the answer.
          (if (i32.ne (local.get 0) (i32.const 2048)) (then (unreachable)))
          (if (i32.load (i32.const 39000)) (then (unreachable)))
          (i32.store (i32.const 39000) (i32.const 1))
          (if (i32.eq (i32.load8_u (i32.add (global.get $top) (i32.const 1))) (i32.const 33)) (then (unreachable))))
        (data (i32.const 1024) "\00\08\00\00\01\00\00\00\00\00\00\00\00\00\00\00")
        (data (i32.const 3000) "{\22r\22:\22\22}"))"#;
    let mut bytes = wat::parse_str(core).expect("right");
    Guest::default().embed(&mut bytes);
    bytes
}

#[test]
fn the_calls_of_the_canonical_abi_are_the_same_and_in_one_order() {
    let ways = Ways::of(&recording()).expect("it is followed");
    // `describe` and that it was read. Then a letter for the bytes of each text, in order, with the first byte of the one
    // before, which is in its place by then; at last `validate`.
    let record = r#"{"r":"DPk-d0kwe0epcvV"}"#;
    for _ in 0..3 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Amend(record.into())));
        // Told that its answer was read, it may still break.
        assert_eq!(ways.agreed(&Sent::of("{!}")), Err(FaultCode::Trap));
    }
}

#[test]
fn an_empty_section_of_imports_is_no_import() {
    let core = judges(ACCEPT);
    // After the types, which come first.
    let types = 8 + 2 + usize::from(core[9]);
    let with = [&core[..types], &[2, 1, 0], &core[types..]].concat();
    let ways = Ways::of(&with).expect("it is followed");
    assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
}

/// A component of two core modules of which one calls the other, with what links them: tools make such of adapters.
fn of_two_modules() -> Vec<u8> {
    // Accepts if the other module was asked once before, by `describe`.
    let ask = "(call $count)";
    let validate =
        "(if (result i32) (i32.eq (call $count) (i32.const 2)) (then (i32.const 2048)) (else (unreachable)))";
    let describe = format!("(drop {ask})");
    let guest = Guest { validate, describe: &describe, ..Guest::default() };
    let import = r#"(module (import "counter" "count" (func $count (result i32)))"#;
    let mut main = wat::parse_str(guest.text().replacen("(module", import, 1)).expect("right");
    guest.embed(&mut main);
    let counter = r#"(module (global $calls (mut i32) (i32.const 0)) (func (export "count") (result i32)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls)))"#;
    let counter = wat::parse_str(counter).expect("right");
    let encoder = wit_component::ComponentEncoder::default().module(&main).expect("a module");
    encoder.adapter("counter", &counter).expect("an adapter").encode().expect("a component")
}

#[test]
fn core_modules_that_call_each_other_are_set_back_as_one() {
    let ways = Ways::of(&of_two_modules()).expect("it is followed");
    for _ in 0..3 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    }
}

#[test]
fn what_a_new_instance_takes_counts_within_the_deadline() {
    // `describe` leaves 60 MiB, which take longer than a millisecond to be put in place.
    let describe =
        "(drop (memory.grow (i32.const 960))) (memory.fill (i32.const 131072) (i32.const 7) (i32.const 62914560))";
    let mut ways = Ways::with_deadline(&Guest { describe, ..Guest::default() }.core(), 1_000).expect("it is followed");
    assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    ways.limits.deadline_ms = 1;
    for residents in [&ways.exposed, &ways.residents] {
        residents.let_go();
        let broken = ways.judge(residents, &Sent::of("{}")).expect_err("it takes too long");
        assert_eq!((broken.code, residents.at_rest()), (FaultCode::Deadline, 0), "{}", broken.detail);
        assert!(residents.try_start(&ways.sandbox, &ways.limits).is_err());
    }
    let component = ways.as_component(&Sent::of("{}")).map_err(|broken| broken.code);
    assert_eq!(component, Err(FaultCode::Deadline), "`describe` counts too where it runs before each event");
}

#[test]
fn a_global_of_a_vector_is_set_back() {
    let more = "(global $g (mut v128) (v128.const i64x2 3 4))";
    let load = "(i64x2.all_true (i64x2.eq (global.get $g) (v128.const i64x2 3 4)))";
    let store = "(global.set $g (v128.const i64x2 5 6))";
    let ways = Ways::of(&remembering(load, store, more)).expect("it is followed");
    for _ in 0..3 {
        assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    }
}

#[test]
fn a_limit_that_is_less_than_the_module_has_is_a_fault() {
    let mut ways = Ways::of(&judges(ACCEPT)).expect("it is followed");
    ways.limits.memory_bytes_max = 100_000;
    assert_eq!(ways.agreed(&Sent::of("{}")), Err(FaultCode::Memory));
    ways.limits.memory_bytes_max = 131_072;
    assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept));
    // The marks do not count: what is left is the guest's, to the last page.
    let grows = "(if (i32.eq (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable)) (i32.const 2048)";
    let mut ways = Ways::of(&judges(grows)).expect("it is followed");
    for (pages, expected) in [(4, Ok(Verdict::Accept)), (3, Err(FaultCode::Memory)), (4, Ok(Verdict::Accept))] {
        ways.limits.memory_bytes_max = pages << 16;
        assert_eq!(ways.agreed(&Sent::of("{}")), expected, "{pages} pages");
    }
}

/// A guest whose allocator hands out what `allocate` leaves, for a size in local 3.
fn allocating(allocate: &str, validate: &str) -> Vec<u8> {
    let salt = "";
    let guest = Guest { validate, salt, ..Guest::default() };
    let text = guest.text();
    let start = text.find("(local $at i32)").expect("the allocator");
    let end = text[start..].find("(func (export \"describe\")").expect("what follows it") + start;
    let mut bytes = wat::parse_str(format!("{} {allocate}) {}", &text[..start], &text[end..])).expect("right");
    guest.embed(&mut bytes);
    bytes
}

#[test]
fn an_allocator_that_lies_hurts_only_its_own_event() {
    let fits = |allocate: &str, validate: &str, data: &str| {
        let ways = Ways::of(&allocating(allocate, validate)).expect("it is followed");
        let first = ways.agreed(&Sent::of(data));
        assert_eq!(ways.agreed(&Sent::of(data)), first, "{allocate}");
        first
    };
    // Everything at one place, which is also where the answer lies: the data comes last, and overwrites it.
    assert_eq!(fits("(i32.const 2048)", ACCEPT, "\0\0\0\0\0\0\0\0"), Ok(Verdict::Accept));
    assert_eq!(fits("(i32.const 2048)", ACCEPT, "{}"), Err(FaultCode::Output));
    // Over the data of the module, which must be back for the next event.
    assert_eq!(fits("(i32.const 2064)", REJECT, "\u{9}......."), Err(FaultCode::Output));
    // At the very end, beyond it, and at addresses that wrap.
    assert_eq!(fits("(i32.sub (i32.const 131072) (local.get 3))", ACCEPT, "{}"), Ok(Verdict::Accept));
    assert_eq!(fits("(i32.sub (i32.const 131073) (local.get 3))", ACCEPT, "{}"), Err(FaultCode::Output));
    assert_eq!(fits("(i32.sub (i32.const 0) (local.get 3))", ACCEPT, "{}"), Err(FaultCode::Output));
    assert_eq!(fits("(i32.const -1)", ACCEPT, "{}"), Err(FaultCode::Output));
    assert_eq!(fits("unreachable", ACCEPT, "{}"), Err(FaultCode::Trap));
    assert_eq!(fits("(loop (br 0)) unreachable", ACCEPT, "{}"), Err(FaultCode::Deadline));
}

#[test]
fn what_could_keep_something_unseen_is_not_set_back() {
    let unfit = |validate: &str, more: &str, word: &str| {
        let Err(Unfit(why)) = Ways::of(&Guest { validate, more, ..Guest::default() }.core()).map(|_| ()) else {
            panic!("`{validate}` with `{more}` is set back")
        };
        assert!(why.contains(word), "{why}");
    };
    let table = "(table $t 4 funcref) (func $f) (elem $e declare func $f) (elem $p func $f)";
    unfit("(table.set $t (i32.const 0) (ref.func $f)) (i32.const 2048)", table, "table");
    unfit("(table.fill $t (i32.const 0) (ref.func $f) (i32.const 1)) (i32.const 2048)", table, "table");
    unfit("(table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 1)) (i32.const 2048)", table, "table");
    unfit("(table.init $t $p (i32.const 0) (i32.const 0) (i32.const 1)) (i32.const 2048)", table, "table");
    unfit("(drop (table.grow $t (ref.null func) (i32.const 1))) (i32.const 2048)", table, "table");
    unfit("(elem.drop $p) (i32.const 2048)", table, "segments");
    unfit("(data.drop $d) (i32.const 2048)", "(data $d \"x\")", "segments");
    let init = "(memory.init $d (i32.const 9000) (i32.const 0) (i32.const 1)) (i32.const 2048)";
    unfit(init, "(data $d \"x\")", "segments");
    unfit(ACCEPT, "(global $g (mut funcref) (ref.null func))", "no number");
    unfit(ACCEPT, "(global $g (mut externref) (ref.null extern))", "no number");
    unfit(ACCEPT, &"(global (mut i32) (i32.const 0))".repeat(2_000), "more mutable globals");
    unfit(ACCEPT, "(memory $m 1) (export \"marks\" (memory $m))", "understood");
    unfit(ACCEPT, "(memory $m i64 1)", "understood");
    unfit("(return_call $f)", "(func $f (result i32) (i32.const 2048))", "understood");
    unfit("(i32.atomic.store (i32.const 9000) (i32.const 1)) (i32.const 2048)", "", "understood");
    unfit("(throw $e)", "(tag $e)", "understood");
}

#[test]
fn what_looks_odd_and_keeps_nothing_is_set_back() {
    let untouched = "(i32.eqz (i32.load (i32.const 40000)))";
    let write = "(i32.store (i32.const 40000) (i32.const 1))";
    let fits = |store: &str, more: &str| {
        let ways = Ways::of(&remembering(untouched, store, more)).expect("it is followed");
        for _ in 0..3 {
            assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Accept), "{store}");
        }
    };
    // Through a table that nobody changes, out of nested blocks with many results, and after code that is never reached.
    fits(
        "(call_indirect $t (type $w) (i32.const 0))",
        &format!("(type $w (func)) (table $t 1 funcref) (elem (table $t) (i32.const 0) func $f) (func $f {write})"),
    );
    fits(
        "(i32.const 40000) (i32.const 1) (block (param i32 i32) (result i32 i32) (br_table 0 0 (local.get $length))) i32.store",
        "",
    );
    fits(&format!("(block (br 0) (i32.store (i32.const 1) (i32.const 1)) drop (i64.store)) {write}"), "");
    fits("(call $f)", &format!("(func $f (local i32 i64 i32 f32) (local f64 v128) {write})"));
    // Fifty thousand locals in front of those that the rewriting adds.
    fits("(call $f)", &format!("(func $f (local {}) {write})", "i64 ".repeat(49_990)));
    // A store to memory that the same event has grown.
    fits("(i32.store (i32.shl (memory.grow (i32.const 1)) (i32.const 16)) (i32.const 1))", "");
    // A memory that could have grown to 4 GiB, and exports that are called as those of the rewriting.
    fits(write, "(export \"realloc\" (func $allocate)) (export \"described\" (func $allocate))");
}

/// A statement of a program that writes here and there.
fn some_write() -> impl Strategy<Value = String> {
    let address = prop_oneof![
        8 => 20_000_i64..131_072,
        2 => (39_i64..256).prop_map(|card| card * 512 - 1),
        1 => 131_056_i64..131_080,
        1 => Just(-3_i64),
    ];
    let store = prop::sample::select(vec![
        ("i32.store", "(i32.const -1)"),
        ("i32.store16", "(i32.const 7)"),
        ("i64.store", "(i64.extend_i32_u (local.get $length))"),
        ("i64.store8", "(i64.const 3)"),
        ("f64.store", "(f64.const 2.5)"),
        ("v128.store", "(v128.const i32x4 1 2 3 4)"),
    ]);
    let offset = prop_oneof![4 => Just(0_u32), 1 => 0_u32..2_000, 1 => Just(u32::MAX)];
    prop_oneof![
        6 => (address.clone(), offset, store)
            .prop_map(|(address, offset, (name, value))| format!("({name} offset={offset} (i32.const {address}) {value})")),
        1 => (address.clone(), address.clone(), 0_u32..3_000)
            .prop_map(|(to, from, bytes)| format!("(memory.copy (i32.const {to}) (i32.const {from}) (i32.const {bytes}))")),
        1 => (address, any::<u8>(), 0_u32..3_000)
            .prop_map(|(to, byte, bytes)| format!("(memory.fill (i32.const {to}) (i32.const {byte}) (i32.const {bytes}))")),
        1 => Just("(global.set $top (i32.add (global.get $top) (i32.const 8)))".to_owned()),
        1 => Just("(drop (memory.grow (i32.const 1)))".to_owned()),
    ]
}

#[test]
fn programs_that_write_anywhere_are_set_back() {
    let programs = prop::collection::vec(some_write(), 1..40);
    runner(150)
        .run(&programs, |writes| {
            // The first writes happen on every event, the rest only on long data.
            let (always, sometimes) = writes.split_at(writes.len() / 2);
            let validate = format!(
                "{} (if (i32.gt_u (local.get $length) (i32.const 2)) (then {})) (i32.const 2128)",
                always.concat(),
                sometimes.concat()
            );
            let ways = Ways::of(&judges(&validate)).expect("it is followed");
            for data in ["{}", "{\"a\":1}", "{}", "{\"a\":2}", "{}"] {
                let _same = ways.agreed(&Sent::of(data));
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn events_of_many_threads_are_judged_apart() {
    let guest = remembering(
        "(i32.eqz (i32.load (i32.const 40000)))",
        "(memory.copy (i32.const 40000) (local.get $data) (local.get $length))",
        "",
    );
    let ways = Ways::of(&guest).expect("it is followed");
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let ways = &ways;
            threads.spawn(move || {
                let data = format!("{{\"secret\":{thread}}}");
                for _ in 0..500 {
                    assert_eq!(ways.set_back(&Sent::of(&data)), Ok(Verdict::Accept));
                }
            });
        }
    });
}

#[test]
fn an_amendment_and_a_rejection_are_read_whole() {
    let ways = Ways::of(&judges(AMEND)).expect("it is followed");
    assert_eq!(ways.agreed(&Sent::of("{}")), Ok(Verdict::Amend("{\"amended\":true}".into())));
    let ways = Ways::of(&judges(REJECT)).expect("it is followed");
    let Ok(Verdict::Reject(violations)) = ways.agreed(&Sent::of("{}")) else { panic!("it rejects") };
    assert_eq!((violations.len(), &*violations[0].code, &*violations[0].message), (1, "no", "no"));
}
