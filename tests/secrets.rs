//! A secret that a validator takes out of events is in no table, log, file or answer, whatever the outcome of the
//! event.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, SESSION, Setup, event, eventually, module};

/// Registers an application with a token that this test knows.
fn register(gateway: &Gateway, name: &str, scopes: &str, event_types: &str) -> String {
    let (token, digest) = eye::trust::token::make().expect("a token");
    gateway.sql(&format!(
        "insert into applications (name, token_digests, scopes, event_types) \
         values ('{name}', array['\\x{digest}'::bytea], '{{{scopes}}}', '{{{event_types}}}')"
    ));
    token
}

async fn get(gateway: &Gateway, token: &str, path: &str) -> Answer {
    gateway.answer(gateway.request("GET", path).bearer_auth(token)).await
}

async fn send(gateway: &Gateway, token: &str, content_type: &str, body: String) -> Answer {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token).header("content-type", content_type);
    gateway.answer(request.body(body)).await
}

/// Waits until the application of a token is known.
async fn known(gateway: &Gateway, token: &str) {
    eventually("the application is known", async || {
        (get(gateway, token, "/v1/events").await.status != 401).then_some(())
    })
    .await;
}

/// A different secret for each place. None contains another.
fn secret(place: &str) -> String {
    format!("hush-{}-zq", place.bytes().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn vault(place: &str, does: &str) -> Value {
    event("vault", "form", json!({"do": does, "secret": secret(place)}))
}

/// The start of every secret, as text and in hexadecimal.
const BEGINS: [&str; 2] = ["hush-", "687573682d"];

/// Every place at which a secret may start, with the text after it, as text or in hexadecimal.
fn suspects(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let found = BEGINS.iter().flat_map(|begin| text.match_indices(begin));
    found.map(|(at, _)| text[at..].chars().take(200).collect()).collect()
}

fn holds(content: &[u8], secret: &str) -> bool {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    suspects(content).iter().any(|found| found.starts_with(secret) || found.starts_with(&hex))
}

/// All files below a folder, with their content.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, found),
            Ok(kind) if kind.is_file() => {
                found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()))
            }
            _ => {}
        }
    }
}

/// Every table as text, bytes in hexadecimal.
fn dump(gateway: &Gateway) -> String {
    let tables = gateway.sql(
        "select string_agg(format('select %L, t::text from %I t', tablename, tablename), ' union all ') \
         from pg_tables where schemaname = 'public'",
    );
    gateway.sql_script(&tables)
}

/// Everything that a caller with the scope `read` can see.
async fn visible(gateway: &Gateway, token: &str) -> Vec<(String, String)> {
    let mut paths = [
        "/v1/dead-letters?limit=1000",
        "/v1/events?limit=1000",
        "/v1/sessions",
        "/v1/categories",
        "/v1/categories/vault",
        "/v1/validators",
        "/v1/stats?from=2020-01-01T00:00:00Z&to=2040-01-01T00:00:00Z&bucket=day",
        "/metrics",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(format!("/v1/sessions/{SESSION}"));
    let letters = get(gateway, token, "/v1/dead-letters?limit=1000").await.json();
    for letter in letters["dead_letters"].as_array().expect("a list") {
        paths.push(format!("/v1/dead-letters/{}", letter["id"].as_str().expect("an id")));
    }
    let mut seen = Vec::new();
    for path in paths {
        let answer = get(gateway, token, &path).await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        seen.push((path, answer.text));
    }
    seen
}

/// The live stream of a caller with the scope `read`, read in the background until it is dropped.
struct Live {
    seen: Arc<Mutex<String>>,
    _tasks: JoinSet<()>,
}

impl Live {
    async fn open(gateway: &Gateway, token: &str) -> Live {
        let request = gateway.request("GET", "/v1/live").bearer_auth(token);
        let mut response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let live = Arc::new(Mutex::new(String::new()));
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&live));
        tasks.spawn(async move {
            while let Ok(Some(chunk)) = response.chunk().await {
                live.lock().expect("the text").push_str(&String::from_utf8_lossy(&chunk));
            }
        });
        let live = Live { seen, _tasks: tasks };
        eventually("the live view begins", async || live.text().contains("retry").then_some(())).await;
        live
    }

    fn text(&self) -> String {
        self.seen.lock().expect("the text").clone()
    }
}

async fn vaults() -> Gateway {
    let setup = Setup::default().with("EYE_DEADLINE_MS", 40).with("EYE_SCRUB_SECONDS", 1);
    let setup = setup.with_module("vault/form.wasm", "redacts").with_module("vault/amends.wasm", "names_one");
    let setup = setup.with_module("vault/gone.wasm", "redacts").with_module("vault/spins.wasm", "redacts");
    let setup = setup.with_module("form interaction/submit.wasm", "form-submit");
    let gateway = setup.start().await;
    for event_type in ["vault/form", "vault/amends", "vault/gone", "vault/spins", "form interaction/submit"] {
        gateway.validator(event_type, "active").await;
    }
    assert_eq!(gateway.validator("form interaction/submit", "active").await["redacts"], true);
    gateway
}

/// Sends an event with a secret for each way in which an event is not stored, and returns the places.
async fn plant(gateway: &Gateway) -> Vec<&'static str> {
    let limited = register(gateway, "limited", "ingest,read", "other/*");
    known(gateway, &limited).await;
    let stored = gateway.send(&vault("amended", "accept")).await;
    assert_eq!(stored.status, 201, "{stored:?}");
    assert_eq!(gateway.send(&vault("rejected", "reject")).await.status, 422);
    let mut again = vault("trap", "trap");
    again["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    for _ in 0..2 {
        assert_eq!(gateway.send(&again).await.status, 202);
    }
    assert_eq!(gateway.send(&vault("deadline", "spin")).await.json()["code"], "deadline");
    assert_eq!(gateway.send(&vault("output", "lie")).await.json()["code"], "output");
    let lost = gateway.send(&vault("both break", "trap twice")).await;
    assert_eq!((lost.status, &lost.json()["code"]), (503, &json!("not_kept")), "{lost:?}");
    let keyed = json!({"secret": secret("key"), "do": "reject", secret("key"): 1});
    assert_eq!(gateway.send(&event("vault", "form", keyed)).await.status, 422);
    let mut broken = vault("surplus", "accept");
    (broken[secret("surplus key")], broken["name"]) = (json!(secret("surplus value")), json!(7));
    broken["category"] = json!(secret("broken category"));
    assert_eq!(gateway.send(&broken).await.status, 422);
    let many = json!([vault("element", "reject"), secret("no object"), {"password": secret("no event")}, vault("element too", "trap")]);
    assert_eq!(gateway.send(&many).await.status, 207);
    let lines =
        format!("password={}\n{}\n{{\"a\": \"{}\n", secret("line"), vault("line too", "trap"), secret("cut line"));
    assert_eq!(gateway.post("/v1/events", "application/x-ndjson", lines).await.status, 207);
    for (place, category, name) in [("not allowed", "vault", "form"), ("not allowed to amend", "vault", "amends")] {
        let refused = event(category, name, json!({"do": "accept", "secret": secret(place)}));
        assert_eq!(send(gateway, &limited, "application/json", refused.to_string()).await.status, 403, "{place}");
    }
    let form = json!({"host": "no host", "path": "/", "form": {"user": "ada", "password": secret("form")}});
    assert_eq!(gateway.send(&event("form interaction", "submit", form)).await.status, 422);
    gateway.sql(
        "create function refuses() returns trigger language plpgsql as $$ begin \
             if new.data::text like '%unstorable%' then raise exception 'no: %', new.data; end if; return new; end; $$; \
         create trigger refuses before insert on events for each row execute function refuses()",
    );
    let unstorable = json!({"do": "accept", "secret": secret("unstorable"), "why": "unstorable"});
    let answer = gateway.send(&event("vault", "form", unstorable)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (202, &json!("unstorable")), "{answer:?}");
    let spins = |place: &str| event("vault", "spins", json!({"do": "spin", "secret": secret(place)}));
    eventually("the module is off the path", async || {
        (gateway.send(&spins("off path")).await.json()["code"] == "off_path").then_some(())
    })
    .await;
    gateway.remove_module("vault/gone.wasm");
    eventually("the module is gone", async || {
        let report = gateway.get("/v1/validators").await.json();
        let list = report["validators"].as_array().expect("a list").clone();
        (!list.iter().any(|one| one["event_type"] == "vault/gone" && one["state"] == "active")).then_some(())
    })
    .await;
    let gone = event("vault", "gone", json!({"do": "accept", "secret": secret("gone")}));
    assert_eq!(send(gateway, &limited, "application/json", gone.to_string()).await.status, 403);
    vec![
        "amended",
        "rejected",
        "trap",
        "deadline",
        "output",
        "both break",
        "key",
        "surplus",
        "surplus key",
        "surplus value",
        "broken category",
        "element",
        "no object",
        "no event",
        "element too",
        "line",
        "line too",
        "cut line",
        "not allowed",
        "not allowed to amend",
        "form",
        "unstorable",
        "off path",
        "gone",
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_a_validator_takes_out_is_nowhere() {
    let gateway = vaults().await;
    let reader = register(&gateway, "reader", "read", "");
    known(&gateway, &reader).await;
    let live = Live::open(&gateway, &reader).await;
    let places = plant(&gateway).await;
    let kept = "select count(*) from dead_letters where code = 'not_allowed'";
    eventually("the dead letters are kept", async || (gateway.sql(kept) == "3").then_some(())).await;
    let redriven = gateway.post("/v1/dead-letters/redrive", "application/json", r#"{"filter":{}}"#).await;
    let really = r#"{"filter":{},"dry_run":false}"#;
    let stored = gateway.post("/v1/dead-letters/redrive", "application/json", really).await;
    assert_eq!((redriven.status, stored.status), (200, 200), "{redriven:?} {stored:?}");
    let told = || live.text().matches("event: outcome").count();
    eventually("those who watch have seen it", async || (told() >= places.len() - 4).then_some(())).await;

    let mut haystacks = vec![
        ("the tables".to_owned(), dump(&gateway).into_bytes()),
        ("the log".to_owned(), gateway.log().into_bytes()),
        ("the live view".to_owned(), live.text().into_bytes()),
        ("a redrive, dry".to_owned(), redriven.text.into_bytes()),
        ("a redrive".to_owned(), stored.text.into_bytes()),
    ];
    for (path, text) in visible(&gateway, &reader).await {
        haystacks.push((path, text.into_bytes()));
    }
    files(&gateway.data_dir(), &mut haystacks);
    assert!(haystacks.iter().any(|(place, _)| place.contains("pg_wal")), "the files of the database are among them");
    let mut found = Vec::new();
    for (name, content) in &haystacks {
        for suspect in suspects(content) {
            found.push(format!("{name}: {suspect}"));
        }
    }
    assert!(found.is_empty(), "secrets of {places:?} are found: {found:#?}");
}

async fn letters(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the dead letters are kept", async || {
        let list = gateway.get("/v1/dead-letters").await.json();
        let list = list["dead_letters"].as_array().expect("a list").clone();
        (list.len() == count).then_some(list)
    })
    .await
}

fn id(letter: &Value) -> &str {
    letter["id"].as_str().expect("an id")
}

#[tokio::test]
async fn what_is_kept_is_for_those_with_the_scope_raw_alone() {
    let gateway =
        Setup::default().with_module("vault/form.wasm", "redacts").with_module("a/b.wasm", "rejects").start().await;
    gateway.validator("vault/form", "active").await;
    gateway.validator("a/b", "active").await;
    let tokens = ["read", "raw", "admin"].map(|scope| (scope, register(&gateway, scope, scope, "")));
    for (_, token) in &tokens {
        known(&gateway, token).await;
    }
    assert_eq!(gateway.send(&event("a", "b", json!({"n": 1}))).await.status, 422);
    assert_eq!(gateway.send(&vault("rejected", "reject")).await.status, 422);
    assert_eq!(gateway.send(&json!({"id": 1})).await.status, 422);
    let kept = letters(&gateway, 3).await;
    for (letter, form, redrivable) in
        [(&kept[2], "whole", true), (&kept[1], "redacted", true), (&kept[0], "nothing", false)]
    {
        assert_eq!((&letter["kept"], &letter["redrivable"]), (&json!(form), &json!(redrivable)), "{letter}");
        assert_eq!(letter["raw_digest"].is_string(), form == "nothing", "{letter}");
        for (scope, token) in &tokens {
            let shown = get(&gateway, token, &format!("/v1/dead-letters/{}", id(letter))).await.json();
            let may = *scope != "read";
            let needs = if may { Value::Null } else { json!("raw") };
            assert_eq!((shown["raw"].is_string(), &shown["raw_needs_scope"]), (may, &needs), "{scope}: {shown}");
            assert!(form != "whole" || !may || shown["raw"].as_str().expect("text").contains("\"n\":1"), "{shown}");
        }
    }
    let shown = get(&gateway, &tokens[1].1, &format!("/v1/dead-letters/{}", id(&kept[1]))).await.json();
    let raw: Value = serde_json::from_str(shown["raw"].as_str().expect("text")).expect("an event");
    assert_eq!(raw["data"], json!({"do": "reject", "secret": "[redacted]"}));
    assert_eq!((&raw["session_id"], &raw["id"]), (&json!(SESSION), &shown["event_id"]));
    assert_eq!((&shown["violations"][0]["pointer"], &shown["violations"][0]["code"]), (&json!(""), &json!("bad")));
    assert_eq!(kept[0]["raw_bytes"], 8, "the size of what was not kept is told");
    assert_eq!(kept[0]["raw_digest"], crate::support::digest_of(b"{\"id\":1}"));

    let ids: Vec<&str> = kept.iter().map(id).collect();
    let report =
        gateway.post("/v1/dead-letters/redrive", "application/json", json!({"ids": ids}).to_string()).await.json();
    let results = report["results"].as_array().expect("results");
    let told: Vec<(&Value, &Value)> = results.iter().map(|result| (&result["outcome"], &result["code"])).collect();
    assert_eq!(told[2], (&json!("skipped"), &json!("not_kept")), "{report}");
    assert_eq!((&results[0]["redacted"], &results[1]["redacted"]), (&Value::Null, &json!(true)), "{report}");
}

#[tokio::test]
async fn a_redacted_letter_is_redriven_as_redacted() {
    let gateway = Setup::default().with_module("vault/form.wasm", "redacts").start().await;
    gateway.validator("vault/form", "active").await;
    assert_eq!(gateway.send(&vault("trap", "trap")).await.status, 202);
    gateway.drop_module("vault/form.toml", b"keep_raw = true");
    gateway.drop_module("vault/form.wasm", &module("accepts"));
    let digest = crate::support::digest_of(&module("accepts"));
    let refused = eventually("a version that does not redact is refused", async || {
        let report = gateway.validator("vault/form", "active").await;
        report["last_error"]["found"].is_string().then_some(report)
    })
    .await;
    assert!(refused["last_error"]["expected"].as_str().expect("text").contains("`redact`"), "{refused}");
    assert!(refused["last_error"]["mend"].as_str().expect("text").contains(&digest), "{refused}");
    gateway.drop_module("vault/form.toml", format!("force = \"{digest}\"").as_bytes());
    eventually("it is taken by force", async || {
        (gateway.validator("vault/form", "active").await["digest"] == digest).then_some(())
    })
    .await;
    let body = r#"{"filter":{},"dry_run":false}"#;
    let report = gateway.post("/v1/dead-letters/redrive", "application/json", body).await.json();
    assert_eq!((&report["stored"], &report["results"][0]["redacted"]), (&json!(1), &json!(true)), "{report}");
    assert_eq!(gateway.session(SESSION).await[0]["data"]["secret"], "[redacted]");
}

#[tokio::test]
async fn the_newest_kept_version_that_can_redact_does_it_and_without_one_nothing_is_kept() {
    let gateway = Setup::default().with_module("vault/form.wasm", "redacts").start().await;
    gateway.validator("vault/form", "active").await;
    let newer = module("redacts_newer");
    gateway.drop_module("vault/form.wasm", &newer);
    let digest = crate::support::digest_of(&newer);
    eventually("the newer version serves", async || {
        (gateway.validator("vault/form", "active").await["digest"] == digest).then_some(())
    })
    .await;
    assert_eq!(gateway.send(&vault("older", "trap")).await.status, 202);
    let kept = letters(&gateway, 1).await;
    assert_eq!(kept[0]["kept"], "redacted", "{kept:?}");
    let lost = gateway.send(&vault("none", "trap twice")).await;
    assert_eq!((lost.status, &lost.json()["code"]), (503, &json!("not_kept")), "{lost:?}");
    assert!(lost.headers.contains_key("retry-after"));
    let both = json!([vault("among others", "trap twice"), event("free", "type", json!({}))]);
    let answer = gateway.send(&both).await;
    assert_eq!((&answer.json()["unfinished"], &answer.json()["stored"]), (&json!(1), &json!(1)), "{answer:?}");
    assert_eq!(answer.json()["results"][0]["code"], "not_kept");
    assert_eq!(letters(&gateway, 1).await.len(), 1);

    gateway.drop_module("vault/form.toml", b"keep_raw = false");
    eventually("the setting is in force", async || {
        (gateway.send(&vault("off", "trap")).await.status == 503).then_some(())
    })
    .await;
    gateway.drop_module("vault/form.toml", b"keep_raw = true");
    // While a file is being written it lacks a setting for a moment, and the older version redacts.
    eventually("one is kept whole", async || {
        let sent = gateway.send(&vault("on", "trap")).await.status == 202;
        (sent && gateway.sql("select count(*) from dead_letters where kept = 'whole'") != "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_module_that_says_it_wrong_is_refused_in_words() {
    let gateway = Gateway::start().await;
    for (guest, expected) in [
        ("redacts_badly", "`redact` to say what may be kept of the example `nothing`"),
        ("codes_differ", "the example `a code` to end in reject with wanted"),
    ] {
        gateway.drop_module(&format!("a/{guest}.wasm"), &module(guest));
        let refused = gateway.validator(&format!("a/{guest}"), "refused").await;
        assert!(refused["last_error"]["expected"].as_str().expect("text").contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn an_event_is_judged_by_its_first_receipt_and_a_late_retry_is_a_duplicate() {
    let gateway = Setup::default().with_module("a/b.wasm", "judges_at").start().await;
    gateway.validator("a/b", "active").await;
    let late = event("a", "b", json!({}));
    assert_eq!(gateway.send(&late).await.json()["violations"][0]["code"], "late");
    let mut fresh = event("a", "b", json!({"n": 1}));
    fresh["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    fresh["timestamp"] = json!(gateway.sql("select to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US')"));
    assert_eq!(gateway.send(&fresh).await.status, 201);
    // As if it had come long ago, and its sender had lost the answer.
    gateway.sql("update events set timestamp = timestamp - interval '2 days'");
    let then = gateway.sql("select to_char(timestamp at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US') from events");
    fresh["timestamp"] = json!(then);
    assert_eq!(gateway.send(&fresh).await.json()["outcome"], "duplicate");
    let kept = letters(&gateway, 1).await;
    let body = json!({"ids": [id(&kept[0])]}).to_string();
    let report = gateway.post("/v1/dead-letters/redrive", "application/json", body).await.json();
    assert_eq!(report["results"][0]["outcome"], "rejected", "by the time of its first receipt: {report}");
}

fn by_kept(gateway: &Gateway) -> String {
    gateway.sql("select string_agg(kept || ' ' || n, ', ' order by kept) from (select kept, count(*) n from dead_letters group by 1) k")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_letters_are_rewritten_once_their_module_redacts() {
    let setup = Setup::default().with("EYE_SCRUB_SECONDS", 1).with("EYE_SCRUB_GRACE_DAYS", 1);
    let gateway = setup.with_module("vault/form.wasm", "rejects").start().await;
    gateway.validator("vault/form", "active").await;
    for place in ["one", "two", "three"] {
        assert_eq!(gateway.send(&vault(place, "reject")).await.status, 422);
    }
    assert_eq!(gateway.send(&json!({"secret": secret("four")})).await.status, 422);
    letters(&gateway, 4).await;
    assert_eq!(by_kept(&gateway), "whole 4");
    gateway.sql(
        "update dead_letters set violations = jsonb_build_array(jsonb_build_object('pointer', '/secret', 'code', \
        'bad', 'message', encode(raw, 'escape'))) where category = 'vault'",
    );
    // Cut, so it can be neither judged nor redacted.
    gateway.sql(
        "update dead_letters set raw = substr(raw, 1, 200), raw_bytes = 300 where id = \
        (select id from dead_letters where category = 'vault' order by received_at limit 1)",
    );

    gateway.drop_module("vault/form.wasm", &module("redacts"));
    eventually("what can be redacted is", async || (by_kept(&gateway) == "redacted 2, whole 2").then_some(())).await;
    assert!(
        gateway.sql("select violations::text from dead_letters where kept = 'redacted' limit 1").contains("/secret")
    );
    eventually("it is noted", async || {
        (gateway.sql("select coalesce(sum(redacted), 0) from scrubs") == "2").then_some(())
    })
    .await;
    // The days of grace pass.
    gateway.sql("update redacting_types set began_at = began_at - interval '2 days'");
    eventually("the rest loses its bytes", async || (by_kept(&gateway) == "nothing 2, redacted 2").then_some(())).await;
    let dump = dump(&gateway);
    for place in ["one", "two", "three", "four"] {
        assert!(!holds(dump.as_bytes(), &secret(place)), "{place}");
    }
    let audit = gateway.sql("select sum(redacted) || ' ' || sum(emptied) from scrubs");
    eventually("it is noted", async || {
        (gateway.sql("select sum(redacted) || ' ' || sum(emptied) from scrubs") == "2 2").then_some(())
    })
    .await;
    assert!(!audit.is_empty() && gateway.log().contains("older dead letters were rewritten"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_would_be_rewritten_before_it_does() {
    let server = Server::start();
    server.prepare();
    let url = server.url();
    let gateway =
        Setup::default().with("EYE_DATABASE_URL", &url).with_module("vault/form.wasm", "rejects").start().await;
    gateway.validator("vault/form", "active").await;
    assert_eq!(gateway.send(&vault("one", "reject")).await.status, 422);
    letters(&gateway, 1).await;
    let modules = crate::support::folder();
    std::fs::create_dir(modules.path().join("vault")).expect("a folder");
    std::fs::write(modules.path().join("vault/form.wasm"), module("redacts")).expect("a module");
    let eye = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_eye"));
        let command =
            command.args(["dead-letters", "scrub"]).args(arguments).args(["--database-url", &url, "--modules"]);
        let command = command.arg(modules.path()).arg("--data-dir").arg(gateway.data_dir().join("of-the-command"));
        let output = command.output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        lines.into_iter().find(|line| line["event_type"] == "vault/form").expect("its line")
    };
    assert_eq!(eye(&["--dry-run"]), json!({"event_type": "vault/form", "redacted": 1, "emptied": 0, "waiting": 0}));
    assert_eq!(server.sql("select kept from dead_letters"), "whole");
    assert_eq!(server.sql("select count(*) from redacting_types"), "0", "a dry run notes nothing");
    assert_eq!(eye(&[])["redacted"], 1);
    assert_eq!(server.sql("select kept from dead_letters"), "redacted");
    assert!(!psql_dump(&server).contains(&secret("one")));
}

fn psql_dump(server: &Server) -> String {
    server.sql("select string_agg(t::text || encode(raw, 'escape'), ' ') from dead_letters t")
}
