//! One guest for each kind of misbehavior, with the expected answer, dead letter, report in `GET /v1/validators` and
//! metrics.

use serde_json::{Value, json};

use crate::support::figures::Figures;
use crate::support::{Answer, Gateway, SESSION, Setup, digest_of, event, eventually, module};

/// A guest that breaks while it judges.
struct Breaks {
    guest: &'static str,
    /// The settings beside it.
    settings: &'static str,
    /// The code of its fault.
    code: &'static str,
    /// A part of the dead letter's detail.
    detail: &'static str,
    /// It breaks on every event, so the test sends no good one after it.
    always: bool,
}

const fn breaks(guest: &'static str, code: &'static str, detail: &'static str) -> Breaks {
    Breaks { guest, settings: "", code, detail, always: false }
}

// A guest must reach its own limit before its deadline, however busy the machine is. Only those that spin must not.
const BREAKS: &[Breaks] = &[
    Breaks { settings: "deadline_ms = 50", ..breaks("spins", "deadline", "it ran past its deadline") },
    Breaks {
        settings: "deadline_ms = 50",
        always: true,
        ..breaks("spins_always", "deadline", "it ran past its deadline")
    },
    breaks("traps", "trap", "unreachable"),
    breaks("recurses", "stack", "it exhausted its call stack"),
    breaks("hoards", "memory", "it was denied more memory and gave up"),
    breaks("grows_tables", "memory", "it was denied more table space and gave up"),
    Breaks { settings: "memory_bytes_max = 268435456", ..breaks("returns_huge", "output", "answer") },
    breaks("many_violations", "output", "answer"),
    breaks("one_violation_too_many", "output", "it gave 101 violations, and 100 are allowed"),
    breaks("amends_text", "output", "it amended to what is no data"),
    breaks("amends_list", "output", "it amended to what is no data"),
    breaks("bad_pointers", "output", "is no JSON Pointer"),
    breaks("rejects_without_violations", "output", "it rejected without a violation"),
];

/// The bytes of a guest: built by cargo, or from WebAssembly text.
fn bytes(guest: &str) -> Vec<u8> {
    if guest == "grows_tables" { grows_tables() } else { module(guest) }
}

/// Grows its table without end, which Rust cannot express.
fn grows_tables() -> Vec<u8> {
    let mut bytes = wat::parse_str(include_str!("guests/grows_tables.wat")).expect("the guest's text is right");
    let mut resolve = wit_parser::Resolve::default();
    let contract = include_str!("../wit/validator.wit");
    let package = resolve.push_str("validator.wit", contract).expect("the contract");
    let world = resolve.select_world(&[package], None).expect("one world");
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, encoding).expect("embedded");
    bytes
}

/// The dead letter of an event type: reason, code, digest, id of the event, and detail.
fn dead_letter(gateway: &Gateway, name: &str) -> Vec<String> {
    let row = gateway.sql(&format!(
        "select concat_ws('|', reason, code, encode(digest, 'hex'), event_id, raw_bytes = length(raw), detail) \
         from dead_letters left join modules on modules.id = module_id where category = 'guests' and name = '{name}'"
    ));
    assert_eq!(row.lines().count(), 1, "one dead letter of {name}: {row}");
    row.splitn(6, '|').map(str::to_owned).collect()
}

fn of_module(figures: &Figures, name: &str, guest: &str, digest: &str, last: (&str, &str)) -> Option<f64> {
    figures.value(name, &[("event_type", &format!("guests/{guest}")), ("digest", digest), last])
}

fn of_type(figures: &Figures, guest: &str, outcome: &str) -> Option<f64> {
    figures.value("eye_event_type_events_total", &[("category", "guests"), ("name", guest), ("outcome", outcome)])
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_guest_that_breaks_costs_its_own_event_and_everybody_is_told() {
    let gateway = Setup::default().with("EYE_DEADLINE_MS", 10_000).with("EYE_ANSWER_MS", 30_000).start().await;
    for case in BREAKS {
        let Breaks { guest, code, .. } = *case;
        let bytes = bytes(guest);
        let digest = digest_of(&bytes);
        gateway.drop_module(&format!("guests/{guest}.toml"), case.settings.as_bytes());
        gateway.drop_module(&format!("guests/{guest}.wasm"), &bytes);
        gateway.validator(&format!("guests/{guest}"), "active").await;

        // The answer to the sender.
        let bad = gateway.send(&event("guests", guest, json!({"misbehave": true}))).await;
        let told = bad.json();
        assert_eq!(
            (bad.status, &told["outcome"], &told["code"]),
            (202, &json!("quarantined"), &json!(code)),
            "{bad:?}"
        );
        if !case.always {
            let good = gateway.send(&event("guests", guest, json!({}))).await;
            assert_eq!(good.status, 201, "{guest}: the next event is none the worse: {good:?}");
        }
        let good = u64::from(!case.always);

        // The dead letter, which exists before the answer.
        let letter = dead_letter(&gateway, guest);
        assert_eq!(letter[..5], ["quarantined".into(), code.into(), digest.clone(), id(&bad), "t".into()], "{guest}");
        assert!(letter[5].contains(case.detail), "{guest}: {letter:?}");

        // The report for the operator.
        let report = gateway.validator(&format!("guests/{guest}"), "active").await;
        assert_eq!(report["digest"], digest, "{guest}");
        assert_eq!(report["counts"]["faulted"], json!({ code: 1 }), "{guest}");
        assert_eq!(report["counts"]["accepted"], good, "{guest}");
        assert_eq!(report["last_error"], Value::Null, "{guest}: a fault is no failure to load");

        // The metrics.
        let figures = gateway.figures().await;
        let fault = of_module(&figures, "eye_module_faults_total", guest, &digest, ("code", code));
        assert_eq!(fault, Some(1.0), "{guest}");
        let accepted = of_module(&figures, "eye_module_verdicts_total", guest, &digest, ("verdict", "accepted"));
        assert_eq!(accepted, Some(good as f64), "{guest}");
        assert_eq!(of_type(&figures, guest, "quarantined"), Some(1.0), "{guest}");
        assert_eq!(of_type(&figures, guest, "stored"), Some(good as f64), "{guest}");
    }
    let stored = BREAKS.iter().filter(|case| !case.always).count();
    assert_eq!(gateway.session(SESSION).await.len(), stored, "every good event is there, and none of the bad ones");
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_dead_letters_kept_total", &[]), Some(BREAKS.len() as f64));
    assert_eq!(figures.value("eye_judging_seconds_count", &[]), Some((BREAKS.len() + stored) as f64));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_its_memory_is_a_fault_of_memory() {
    let gateway = Setup::default().with("EYE_DEADLINE_MS", 10_000).with("EYE_ANSWER_MS", 30_000).start().await;
    gateway.drop_module("guests/returns_huge.wasm", &module("returns_huge"));
    gateway.validator("guests/returns_huge", "active").await;
    let bad = gateway.send(&event("guests", "returns_huge", json!({"misbehave": true}))).await;
    assert_eq!((bad.status, &bad.json()["code"]), (202, &json!("memory")), "{bad:?}");
    let letter = dead_letter(&gateway, "returns_huge");
    assert!(letter[5].contains("it was denied more memory and gave up"), "{letter:?}");
}

#[tokio::test]
async fn an_event_to_be_sent_again_is_unfinished_alone_and_among_others() {
    let gateway = Gateway::start().await;
    gateway.drop_module("guests/traps.toml", b"on_fault = \"retry\"");
    gateway.drop_module("guests/traps.wasm", &module("traps"));
    let report = gateway.validator("guests/traps", "active").await;
    assert_eq!(report["on_fault"], "retry");
    let (good, bad) = (event("guests", "traps", json!({})), event("guests", "traps", json!({"misbehave": true})));

    let alone = gateway.send(&bad).await;
    assert_eq!((alone.status, &alone.json()["code"]), (503, &json!("module_unavailable")), "{alone:?}");
    assert!(alone.headers.contains_key("retry-after"), "{alone:?}");
    assert!(alone.json()["id"].is_string(), "a retry with the id that was made is safe: {alone:?}");
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
    assert_eq!(of_type(&gateway.figures().await, "traps", "quarantined"), Some(0.0), "it has no outcome yet");

    let many = gateway.send(&json!([good, bad, good])).await;
    let told = many.json();
    assert_eq!(many.status, 207, "{many:?}");
    let counts = ["stored", "duplicate", "rejected", "quarantined", "unfinished"].map(|outcome| &told[outcome]);
    assert_eq!(counts, [2, 0, 0, 0, 1], "{many:?}");
    let line = json!({"index": 1, "id": told["results"][0]["id"], "outcome": null, "code": "module_unavailable",
        "retry_after": 5});
    assert_eq!(told["results"], json!([line]), "{many:?}");
    assert!(line["id"].is_string(), "{many:?}");
    assert_eq!(gateway.session(SESSION).await.len(), 2);
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0", "nothing of it is kept");
    let figures = gateway.figures().await;
    assert_eq!(of_type(&figures, "traps", "unfinished"), Some(2.0));
    assert_eq!(figures.value("eye_unfinished_events_total", &[("code", "module_unavailable")]), Some(2.0));

    // The same event, after its module was mended.
    let mut again = bad;
    again["id"] = line["id"].clone();
    gateway.drop_module("guests/traps.wasm", &module("accepts"));
    eventually("the mended module serves", async || (gateway.send(&again).await.status < 300).then_some(())).await;
    assert_eq!(gateway.send(&again).await.status, 200, "it is stored once");
}

/// A file that is refused, the step at which that shows, and a word of the message.
struct Refused {
    file: &'static str,
    step: &'static str,
    expected: &'static str,
    found: &'static str,
    mend: &'static str,
}

const REFUSED: &[Refused] = &[
    Refused {
        file: "imports_wasi",
        step: "checking",
        expected: "a module that imports nothing",
        found: "wasi_snapshot_preview1",
        mend: "wasm32-unknown-unknown",
    },
    Refused {
        file: "imports_host",
        step: "checking",
        expected: "a module that imports nothing",
        found: "acme:clock",
        mend: "import",
    },
    Refused {
        file: "wrong_world",
        step: "checking",
        expected: "describe: func() -> description",
        found: "greet",
        mend: "wit/validator.wit",
    },
    Refused {
        file: "wrong_version",
        step: "checking",
        expected: "eye:validator@1.0.0",
        found: "eye:validator@2.0.0",
        mend: "wit/validator.wit",
    },
    Refused {
        file: "self_test_fails",
        step: "self-test",
        expected: "the example `nothing` to end in reject",
        found: "accept",
        mend: "mend the rule or the example",
    },
    Refused {
        file: "describe_traps",
        step: "self-test",
        expected: "`describe` to answer",
        found: "a fault (trap)",
        mend: "mend `describe`",
    },
    Refused {
        file: "describe_spins",
        step: "self-test",
        expected: "`describe` to answer",
        found: "a fault (deadline)",
        mend: "mend `describe`",
    },
    Refused {
        file: "empty",
        step: "checking",
        expected: "a complete WebAssembly file",
        found: "an empty file",
        mend: "rename",
    },
];

#[tokio::test]
async fn a_file_that_is_no_validator_judges_nothing_and_says_why() {
    let gateway = Gateway::start().await;
    for case in REFUSED {
        let bytes = if case.file == "empty" { Vec::new() } else { module(case.file) };
        gateway.drop_module(&format!("guests/{}.wasm", case.file), &bytes);
    }
    for Refused { file, step, expected, found, mend } in REFUSED {
        // The report for the operator.
        let report = gateway.validator(&format!("guests/{file}"), "refused").await;
        let error = &report["last_error"];
        assert_eq!(error["step"], *step, "{file}: {error}");
        for (part, word) in [("expected", expected), ("found", found), ("mend", mend)] {
            let told = error[part].as_str().expect("a text");
            assert!(told.contains(word), "{file}: {part} is {told:?}");
        }
        assert_eq!((&report["digest"], &report["counts"]["accepted"]), (&Value::Null, &json!(0)), "{file}");

        // The answer to the sender: the module cannot judge, so no event is stored unjudged.
        let answer = gateway.send(&event("guests", file, json!({"misbehave": true}))).await;
        assert_eq!(answer.status, 503, "{file}: {answer:?}");
        let code = answer.json()["code"].as_str().map(str::to_owned);
        assert!(["module_unavailable", "module_loading"].map(Some).contains(&code.as_deref()), "{file}: {answer:?}");
    }
    // There is no dead letter.
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
    assert_eq!(gateway.session(SESSION).await.len(), 0);

    // The metrics.
    let count = Some(REFUSED.len() as f64);
    // A file that ran out of time is tried again now and then.
    let figures = eventually("all are refused at one moment", async || {
        let figures = gateway.figures().await;
        (figures.value("eye_modules", &[("state", "refused")]) == count).then_some(figures)
    })
    .await;
    assert_eq!(figures.value("eye_modules", &[("state", "active")]), Some(0.0));
    assert_eq!(figures.value("eye_module_files_refused", &[]), count);
    assert_eq!(figures.all("eye_module_verdicts_total").count() + figures.all("eye_module_faults_total").count(), 0);
    for Refused { file, .. } in REFUSED {
        assert_eq!(of_type(&figures, file, "stored").unwrap_or_default(), 0.0, "{file}");
    }
}

#[tokio::test]
async fn a_guest_that_remembers_gives_the_same_verdict_whatever_came_before() {
    let gateway = Gateway::start().await;
    for guest in ["counts_calls", "remembers"] {
        let bytes = module(guest);
        let digest = digest_of(&bytes);
        gateway.drop_module(&format!("guests/{guest}.wasm"), &bytes);
        gateway.validator(&format!("guests/{guest}"), "active").await;
        for _ in 0..20 {
            let answer = gateway.send(&event("guests", guest, json!({"secret": "of the one before"}))).await;
            assert_eq!(answer.status, 201, "the first call is accepted, and every call is the first: {answer:?}");
        }
        let many = vec![event("guests", guest, json!({})); 200];
        assert_eq!(gateway.send(&json!(many)).await.status, 200);
        let report = gateway.validator(&format!("guests/{guest}"), "active").await;
        assert_eq!((&report["counts"]["accepted"], &report["counts"]["rejected"]), (&json!(220), &json!(0)), "{guest}");
        assert_eq!(report["counts"]["faulted"], json!({}), "{guest}");
        let figures = gateway.figures().await;
        let accepted = of_module(&figures, "eye_module_verdicts_total", guest, &digest, ("verdict", "accepted"));
        assert_eq!(accepted, Some(220.0), "{guest}");
        assert_eq!(of_type(&figures, guest, "rejected"), Some(0.0), "{guest}");
    }
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
}

#[tokio::test]
async fn a_rejection_is_told_kept_and_counted() {
    let gateway = Gateway::start().await;
    let bytes = module("rejects");
    let digest = digest_of(&bytes);
    gateway.drop_module("guests/rejects.wasm", &bytes);
    gateway.validator("guests/rejects", "active").await;
    let answer = gateway.send(&event("guests", "rejects", json!({}))).await;
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("rule")), "{answer:?}");
    assert_eq!(answer.json()["validator"], json!({"event_type": "guests/rejects", "digest": digest}));
    assert_eq!(answer.violations(), [(String::new(), "always".to_owned())]);
    // It is written after the answer.
    eventually("the dead letter is there", async || {
        (gateway.sql("select count(*) from dead_letters") == "1").then_some(())
    })
    .await;
    let letter = dead_letter(&gateway, "rejects");
    assert_eq!(letter[..5], ["rejected".into(), "rule".into(), digest.clone(), id(&answer), "t".into()]);
    let report = gateway.validator("guests/rejects", "active").await;
    assert_eq!(report["counts"]["rejected"], 1);
    let figures = gateway.figures().await;
    let rejected = of_module(&figures, "eye_module_verdicts_total", "rejects", &digest, ("verdict", "rejected"));
    assert_eq!((rejected, of_type(&figures, "rejects", "rejected")), (Some(1.0), Some(1.0)));
}
