//! Candidates: a module that is tried beside the one that serves changes nothing that it should not, what both say is counted
//! once over all gateways, and the guard takes back what breaks or refuses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::clocks::Hands;
use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, eventually, module};

/// The event type of all events here, and its path.
const CATEGORY: &str = "guests";
const NAME: &str = "named";
pub(crate) const PATH: &str = "/v1/validators/guests/named";

/// A gateway of a fleet, the administrator's token, and the database.
pub(crate) struct House {
    pub(crate) server: Server,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) admin: String,
}

impl House {
    /// So many gateways on one database.
    pub(crate) async fn of(gateways: usize) -> Self {
        Self::with(gateways, |setup| setup).await
    }

    pub(crate) async fn with(count: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let server = Server::start();
        let mut gateways = Vec::new();
        for number in 0..count {
            let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_MODULES_FROM", "database");
            // A module is slow on a busy machine, and must not be taken back for that.
            let setup = setup.with("EYE_GATEWAY_NAME", format!("gateway {number}")).with("EYE_DEADLINE_MS", 2_000);
            gateways.push(change(setup).start().await);
        }
        let mut house = Self { server, gateways, admin: String::new() };
        house.admin = house.add("admin", &["--scope", "admin"]).await;
        house
    }

    /// Adds an application. Returns its token once all gateways know it.
    async fn add(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = self.gateways[0].command_beside(&[&["app", "add", name, "--token"], arguments].concat());
        let output = command.env("EYE_DATABASE_URL", self.server.url()).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        for gateway in &self.gateways {
            let known = async || {
                let request = gateway.request("GET", "/v1/categories").bearer_auth(&token);
                (gateway.answer(request).await.status != 401).then_some(())
            };
            eventually("the token is known", known).await;
        }
        token
    }

    pub(crate) async fn ask(&self, method: &str, path: &str) -> Answer {
        let gateway = &self.gateways[0];
        gateway.answer(gateway.request(method, path).bearer_auth(&self.admin)).await
    }

    /// Ships a module; `query` says how.
    pub(crate) async fn ship(&self, query: &str, content: &[u8]) -> Answer {
        let gateway = &self.gateways[0];
        let request = gateway.request("PUT", &format!("{PATH}{query}")).bearer_auth(&self.admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=60");
        gateway.answer(request.body(content.to_vec())).await
    }

    /// Ships a module that must be taken, and waits until all gateways have it.
    pub(crate) async fn shipped(&self, query: &str, content: &[u8]) -> String {
        let answer = self.ship(query, content).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        let generation = answer.json()["generation"].clone();
        self.serve(&generation).await;
        digest_of(content)
    }

    /// Waits until all gateways serve a generation.
    async fn serve(&self, generation: &Value) {
        let wanted = generation.as_i64().expect("a number");
        eventually("all gateways serve it", async || {
            let rows = self.ask("GET", "/v1/gateways").await.json();
            let rows = rows["gateways"].as_array().expect("gateways").clone();
            rows.iter().all(|row| row["generation"].as_i64() >= Some(wanted)).then_some(())
        })
        .await;
    }

    pub(crate) async fn shown(&self) -> Value {
        let answer = self.ask("GET", PATH).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn candidate(&self) -> Value {
        let answer = self.ask("GET", &format!("{PATH}/candidate")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Whether the first gateway compares no module with one that it replaced.
    pub(crate) async fn compares_none(&self) -> bool {
        self.ask("GET", "/metrics").await.text.contains("eye_candidates{trial=\"replacement\"} 0")
    }

    /// The candidate once so many events were compared.
    async fn compared(&self, count: u64) -> Value {
        eventually("they are compared", async || {
            let candidate = self.candidate().await;
            (candidate["compared"].as_u64() >= Some(count)).then_some(candidate)
        })
        .await
    }

    /// Waits until the guard took something back. Returns what the type says of it.
    async fn taken_back(&self) -> Value {
        eventually("it is taken back", async || self.shown().await["taken_back"].get(0).cloned()).await
    }

    pub(crate) async fn send(&self, gateway: usize, token: &str, events: &[Value]) -> Value {
        let gateway = &self.gateways[gateway];
        let request = gateway.request("POST", "/v1/events").bearer_auth(token);
        let body = Value::from(events).to_string();
        let answer = gateway.answer(request.header("content-type", "application/json").body(body)).await;
        assert!(matches!(answer.status, 200 | 207), "{answer:?}");
        answer.json()
    }

    /// The digests of the modules that judged the stored events of each session.
    fn judges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let rows = self.server.sql(
            "select session_id, encode(digest, 'hex') from events join modules on modules.id = module_id order by 1, 2",
        );
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (session, digest) in rows.lines().filter_map(|line| line.split_once('|')) {
            found.entry(session.to_owned()).or_default().insert(digest.to_owned());
        }
        found
    }
}

/// An event of a session of its own.
pub(crate) fn one(data: Value) -> Value {
    in_session(Uuid::now_v7(), data)
}

fn in_session(session: Uuid, data: Value) -> Value {
    json!({
        "id": Uuid::now_v7(), "session_id": session, "category": CATEGORY, "name": NAME,
        "timestamp": "2021-01-01 09:15:27.243860", "data": data,
    })
}

/// So many events, of which every `nth` has the data.
fn every(count: usize, nth: usize, data: &Value) -> Vec<Value> {
    (0..count).map(|number| one(if number % nth == 0 { data.clone() } else { json!({"n": number}) })).collect()
}

pub(crate) fn refused() -> Value {
    json!({"refuse": true})
}

pub(crate) fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// The same module with another digest.
pub(crate) fn salted(content: &[u8], number: u8) -> Vec<u8> {
    let text = [&b"\x04salt"[..], &[b'0' + number]].concat();
    [content, &[0, u8::try_from(text.len()).expect("short")], &text].concat()
}

#[tokio::test]
async fn a_shadow_changes_no_answer_and_no_row_and_its_counts_add_up() {
    let house = House::of(2).await;
    let live = house.shipped("", &module("accepts")).await;
    let candidate = house.shipped("?mode=shadow&settings=guard%3Dfalse", &module("refuses_some")).await;
    for gateway in 0..2 {
        let told = house.send(gateway, &house.admin, &every(300, 10, &refused())).await;
        assert_eq!((&told["stored"], &told["rejected"]), (&json!(300), &json!(0)), "the live module judges");
    }
    let shown = house.compared(600).await;
    assert_eq!((&shown["digest"], &shown["against"]), (&json!(candidate), &json!(live)));
    assert_eq!((&shown["mode"], &shown["percent"], &shown["by"]), (&json!("shadow"), &Value::Null, &json!("admin")));
    let counts = &shown["counts"];
    assert_eq!((&counts["same"], &counts["would_refuse"]), (&json!(540), &json!(60)), "{shown}");
    assert_eq!((&counts["new_refused"], &counts["old_refused"]), (&json!(60), &json!(0)), "{shown}");
    assert_eq!((&counts["judged"], &counts["not_compared"]), (&json!(0), &json!(0)), "{shown}");
    let samples = shown["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 20, "{shown}");
    assert_eq!((&samples[0]["what"], &samples[0]["new"][0]["code"]), (&json!("would_refuse"), &json!("told_to")));
    assert_eq!(shown["applications"], json!([{"application": "admin", "compared": 600, "would_refuse": 60}]));
    assert!(house.judges().values().all(|judges| judges.iter().eq([&live])), "every row is of the live module");
    assert_eq!(house.server.sql("select count(*) from events"), "600");
    assert_eq!(house.server.sql("select count(*) from dead_letters"), "0");
}

#[tokio::test]
async fn a_session_has_one_judge_on_all_gateways_and_after_a_restart() {
    let mut house = House::of(2).await;
    let live = house.shipped("", &module("names_one")).await;
    let canary = house.shipped("?mode=canary&percent=10&settings=guard%3Dfalse", &module("names_two")).await;
    let sessions: Vec<Uuid> = (0..1_000).map(|_| Uuid::now_v7()).collect();
    let events = |number: u64| -> Vec<Value> {
        sessions.iter().map(|session| in_session(*session, json!({"n": number}))).collect()
    };
    // Each gateway waits for the secret before its canary judges.
    house.send(0, &house.admin, &events(1)).await;
    house.send(1, &house.admin, &events(2)).await;
    let of_canary = house.judges().values().filter(|judges| judges.contains(&canary)).count();
    // What waits to be compared is lost with its gateway.
    house.compared(u64::try_from(of_canary).expect("few") * 2).await;
    house.gateways[0].signal("TERM");
    house.gateways[0].ended().await;
    house.gateways[0].restart().await;
    house.send(0, &house.admin, &events(3)).await;
    let judges = house.judges();
    assert_eq!(judges.len(), 1_000);
    assert!(judges.values().all(|judges| judges.len() == 1), "each session has one judge");
    let of_canary = judges.values().filter(|judges| judges.contains(&canary)).count();
    assert!(judges.values().filter(|judges| judges.contains(&live)).count() + of_canary == 1_000);
    // Six standard deviations of a tenth of a thousand.
    assert!((43..=157).contains(&of_canary), "{of_canary} of 1,000 sessions");
    println!("{of_canary} of 1,000 sessions were judged by a canary of 10 %");
    let compared = u64::try_from(of_canary).expect("few") * 3;
    let shown = house.compared(compared).await;
    let counts = &shown["counts"];
    assert_eq!((&counts["judged"], &counts["amends_otherwise"]), (&json!(compared), &json!(compared)), "{shown}");
}

#[tokio::test]
async fn a_candidate_is_tried_promoted_and_discarded_on_terms() {
    let house = House::of(1).await;
    let (one, two) = (module("names_one"), module("names_two"));
    let (first, second) = (digest_of(&one), digest_of(&two));
    let nothing_serves = house.ship("?mode=shadow", &two).await;
    assert_eq!(code(&nothing_serves), (422, "module_refused".to_owned()), "{nothing_serves:?}");
    assert!(nothing_serves.text.contains("mode=live"), "{nothing_serves:?}");
    house.shipped("?settings=deadline_ms%3D700", &one).await;
    let same = house.ship("?mode=shadow", &one).await;
    assert_eq!(code(&same), (422, "module_refused".to_owned()), "{same:?}");
    for (method, path) in [("GET", ""), ("HEAD", ""), ("DELETE", ""), ("POST", "/promote")] {
        let none = house.ask(method, &format!("{PATH}/candidate{path}")).await;
        assert_eq!(none.status, 404, "{method} {path}");
        assert!(method == "HEAD" || code(&none).1 == "no_candidate", "{none:?}");
    }
    let would = house.ship("?mode=canary&percent=2.5&dry_run=true", &two).await;
    assert_eq!((would.status, &would.json()["would"]), (200, &json!("try")), "{would:?}");
    assert_eq!(house.ask("GET", &format!("{PATH}/candidate")).await.status, 404);

    let tried = house.ship("?mode=canary&percent=2.5", &two).await.json();
    assert_eq!((&tried["digest"], &tried["against"]), (&json!(second), &json!(first)), "{tried}");
    assert_eq!((&tried["replaces"], &tried["percent"]), (&Value::Null, &json!(2.5)), "{tried}");
    let shown = house.shown().await;
    assert_eq!((&shown["digest"], &shown["candidate"]["digest"]), (&json!(first), &json!(second)), "{shown}");
    let listed = house.ask("GET", "/v1/validators").await.json();
    assert_eq!(listed["validators"][0]["candidate"]["percent"], json!(2.5), "{listed}");
    let gateway = &house.gateways[0];
    for (method, path) in [("DELETE", ""), ("POST", "/promote")] {
        let request = gateway.request(method, &format!("{PATH}/candidate{path}")).bearer_auth(&house.admin);
        let late = gateway.answer(request.header("if-match", &first)).await;
        assert_eq!(code(&late), (412, "changed_meanwhile".to_owned()), "{late:?}");
        let would = house.ask(method, &format!("{PATH}/candidate{path}?dry_run=true")).await;
        assert_eq!(would.status, 200, "{would:?}");
    }
    let discarded = house.ask("DELETE", &format!("{PATH}/candidate")).await;
    assert_eq!((discarded.status, &discarded.json()["digest"]), (200, &Value::Null), "{discarded:?}");
    assert_eq!(house.ask("GET", &format!("{PATH}/candidate")).await.status, 404);

    house.shipped("?mode=shadow", &two).await;
    let promoted = house.ask("POST", &format!("{PATH}/candidate/promote")).await;
    assert_eq!((promoted.status, &promoted.json()["state"]), (200, &json!("active")), "{promoted:?}");
    let shown = house.shown().await;
    assert_eq!((&shown["digest"], &shown["candidate"]), (&json!(second), &Value::Null), "{shown}");
    assert_eq!(shown["limits"]["deadline_ms"], json!(700), "the settings stay");
    let settings = "select settings from generation_set() where event_type = 'guests/named'";
    assert_eq!(house.server.sql(settings), "deadline_ms = 700");

    // Whoever lets the candidate serve by a push, or takes the module away, has no candidate any more.
    for end in ["push", "retire"] {
        house.shipped("?mode=shadow", &one).await;
        match end {
            "push" => drop(house.shipped("", &one).await),
            _ => assert_eq!(house.ask("DELETE", PATH).await.status, 200),
        }
        assert_eq!(house.ask("GET", &format!("{PATH}/candidate")).await.status, 404, "{end}");
        house.shipped("", &two).await;
    }
    let causes = house.server.sql("select string_agg(cause, ' ' order by number) from generations");
    assert_eq!(causes, "push try discard try promote try push push try retire push");
    let back = house.ask("POST", "/v1/generations/2/back").await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(house.candidate().await["digest"], json!(second), "a generation has its candidates");
}

/// An event of which it is random who judges it, and that only the stricter module refuses; 15 of 100 are so.
pub(crate) fn fifteen_percent(count: usize) -> Vec<Value> {
    (0..count).map(|number| one(if number % 20 < 3 { refused() } else { json!({"n": number}) })).collect()
}

#[tokio::test]
async fn a_candidate_that_refuses_much_more_is_taken_back_once_and_stays_so() {
    let mut house = House::of(2).await;
    let live = house.shipped("", &module("accepts")).await;
    let strict = module("refuses_some");
    let candidate = house.shipped("?mode=shadow", &strict).await;
    let mut sent = 0;
    let back = eventually("it is taken back", async || {
        for gateway in 0..2 {
            house.send(gateway, &house.admin, &fifteen_percent(100)).await;
            sent += 100;
        }
        house.shown().await["taken_back"].get(0).cloned()
    })
    .await;
    println!("a candidate that refuses 15 % was taken back after at most {sent} events");
    assert_eq!((&back["digest"], &back["code"]), (&json!(candidate), &json!("refuses")), "{back}");
    assert_eq!((&back["trial"], &back["serves"], &back["refused"]), (&json!("shadow"), &json!(live), &json!(0)));
    assert!(back["counts"]["would_refuse"].as_u64() >= Some(30), "{back}");
    assert_eq!(house.ask("GET", &format!("{PATH}/candidate")).await.status, 404);
    let entries = house.ask("GET", "/v1/audit?action=guard").await.json()["entries"].clone();
    let entries = entries.as_array().expect("entries");
    assert_eq!(entries.len(), 1, "two gateways take it back once: {entries:?}");
    assert_eq!((&entries[0]["subject"], &entries[0]["details"]["digest"]), (&json!("guests/named"), &json!(candidate)));
    assert_eq!(house.server.sql("select string_agg(cause, ' ' order by number) from generations"), "push try guard");

    house.gateways[0].signal("TERM");
    house.gateways[0].ended().await;
    house.gateways[0].restart().await;
    for query in ["", "?dry_run=true", "?mode=shadow", "?mode=canary&expect_refusals=true", "?auto=shadow:1m"] {
        let answer = house.ship(query, &strict).await;
        assert_eq!((code(&answer), &answer.json()["digest"]), ((409, "taken_back".to_owned()), &json!(candidate)));
        assert!(answer.json()["detail"].as_str().is_some_and(|told| told.contains("and the module before")));
    }
    assert_eq!(house.shown().await["digest"], json!(live));
    // Whoever forces it lifts that, and its trial begins anew.
    house.shipped("?mode=shadow&force=true&expect_refusals=true", &strict).await;
    assert_eq!(house.shown().await["taken_back"], json!([]));
    assert_eq!(house.candidate().await["compared"], json!(0));
    house.send(0, &house.admin, &fifteen_percent(400)).await;
    let shown = house.compared(400).await;
    assert_eq!((&shown["expects_refusals"], &shown["counts"]["would_refuse"]), (&json!(true), &json!(60)), "{shown}");
    house.send(0, &house.admin, &fifteen_percent(100)).await;
    house.compared(500).await;
    assert_eq!(house.shown().await["taken_back"], json!([]), "the refusals are meant");
}

#[tokio::test]
async fn a_replacement_that_refuses_much_more_is_taken_back_and_what_it_refused_is_stored() {
    let house = House::of(1).await;
    let lenient = house.shipped("?settings=deadline_ms%3D700", &module("accepts")).await;
    let strict = house.shipped("?settings=default", &module("refuses_some")).await;
    let mut refused = 0;
    let back = eventually("it is taken back", async || {
        refused += house.send(0, &house.admin, &fifteen_percent(100)).await["rejected"].as_u64().expect("a count");
        house.shown().await["taken_back"].get(0).cloned()
    })
    .await;
    assert_eq!((&back["digest"], &back["trial"]), (&json!(strict), &json!("replacement")), "{back}");
    let shown = eventually("the version before serves", async || {
        let shown = house.shown().await;
        (shown["digest"] == json!(lenient)).then_some(shown)
    })
    .await;
    assert_eq!(shown["limits"]["deadline_ms"], json!(700), "with its own settings");
    let told = house.send(0, &house.admin, &fifteen_percent(100)).await;
    assert_eq!(told["rejected"], json!(0));
    let letters = "select count(*) from dead_letters join modules on modules.id = module_id \
                   where digest = decode('DIGEST', 'hex') and redriven_at is null";
    let letters = letters.replace("DIGEST", &strict);
    assert_eq!(house.server.sql(&letters), refused.to_string());
    let body = json!({"filter": {"validator": strict}, "limit": 1000, "dry_run": false});
    let gateway = &house.gateways[0];
    let request = gateway.request("POST", "/v1/dead-letters/redrive").bearer_auth(&house.admin);
    let answer = gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await;
    assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(refused)), "{answer:?}");
    let stored = house.server.sql("select count(*) from events").parse::<u64>().expect("a number");
    let all = house.server.sql("select count(*) from dead_letters").parse::<u64>().expect("a number");
    assert_eq!((stored % 100, all), (0, refused), "each event is a row");

    // What somebody puts back on purpose is not taken back, though it refuses more.
    for path in ["/rollback?force=true"] {
        let gateway = &house.gateways[0];
        let request = gateway.request("POST", &format!("{PATH}{path}")).bearer_auth(&house.admin);
        let body = json!({"digest": strict}).to_string();
        let answer = gateway.answer(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    eventually("it is not compared", async || house.compares_none().await.then_some(())).await;
    house.send(0, &house.admin, &fifteen_percent(600)).await;
    assert!(house.compares_none().await);
    assert_eq!(house.shown().await["digest"], json!(strict));
}

#[tokio::test]
async fn a_replacement_that_took_secrets_out_leaves_none_when_it_is_taken_back() {
    let house = House::of(1).await;
    let before = house.shipped("", &module("refuses_some")).await;
    house.shipped("", &module("redacts")).await;
    let events: Vec<Value> = (0..100)
        .map(|number| one(if number % 3 == 0 { json!({"do": "reject", "secret": "HUSH"}) } else { json!({}) }))
        .collect();
    eventually("the version before serves", async || {
        house.send(0, &house.admin, &events).await;
        (house.shown().await["digest"] == json!(before)).then_some(())
    })
    .await;
    let told = house.send(0, &house.admin, &[one(json!({"refuse": true, "secret": "HUSH"}))]).await;
    assert_eq!(told["rejected"], json!(1), "{told}");
    let letters = "select count(*) from dead_letters join modules on modules.id = module_id \
                   where digest = decode('DIGEST', 'hex')";
    let letters = letters.replace("DIGEST", &before);
    eventually("it is kept", async || (house.server.sql(&letters) == "1").then_some(())).await;
    let secrets = "select count(*) from dead_letters where position('HUSH'::bytea in raw) > 0";
    assert_eq!(house.server.sql(secrets), "0", "what once was a secret stays one");
}

#[tokio::test]
async fn refusals_that_are_meant_serve_on_and_a_replacement_is_compared_only_for_a_while() {
    let house = House::with(1, |setup| setup.with("EYE_GUARD_MINUTES", 1)).await;
    let lenient = house.shipped("", &module("accepts")).await;
    let strict = house.shipped("?expect_refusals=true", &module("refuses_some")).await;
    let told = house.send(0, &house.admin, &fifteen_percent(600)).await;
    assert_eq!(told["rejected"], json!(90));
    let pairs = "select coalesce(sum(same + would_refuse), 0) >= 600 from candidate_pairs where trial = 'replacement'";
    eventually("they are compared", async || (house.server.sql(pairs) == "t").then_some(())).await;
    let shown = house.shown().await;
    assert_eq!((&shown["digest"], &shown["taken_back"]), (&json!(strict), &json!([])), "{shown}");
    // A rollback says what can be judged again, and how.
    let back = house.ask("POST", &format!("{PATH}/rollback")).await;
    let redrive = back.json()["redrive"].clone();
    assert_eq!((back.json()["digest"].clone(), &redrive["letters"]), (json!(lenient), &json!(90)), "{back:?}");
    assert_eq!(redrive["command"], json!(format!("eye dead-letters redrive --validator {strict} --store")));
    // Without the guard nothing is compared.
    let house = House::with(1, |setup| setup.with("EYE_GUARD_MINUTES", 0)).await;
    house.shipped("", &module("accepts")).await;
    let strict = house.shipped("", &module("refuses_some")).await;
    eventually("it is not compared any more", async || house.compares_none().await.then_some(())).await;
    house.send(0, &house.admin, &fifteen_percent(400)).await;
    assert_eq!(house.shown().await["digest"], json!(strict));
}

#[tokio::test]
async fn one_bad_application_does_not_undo_a_good_rule() {
    let house = House::of(1).await;
    let (good, bad) = (house.add("good", &[]).await, house.add("bad", &[]).await);
    house.shipped("", &module("accepts")).await;
    house.shipped("?mode=canary&percent=50", &module("refuses_some")).await;
    let mut sent = 0;
    while sent < 800 {
        house.send(0, &good, &every(100, 1_000, &json!({"n": 0}))).await;
        house.send(0, &bad, &every(100, 1, &refused())).await;
        sent += 200;
    }
    let shown = house.compared(250).await;
    assert!(shown["counts"]["would_refuse"].as_u64() > Some(100), "{shown}");
    house.send(0, &good, &every(200, 1_000, &json!({"n": 0}))).await;
    house.compared(shown["compared"].as_u64().expect("a count") + 20).await;
    assert_eq!(house.shown().await["taken_back"], json!([]));
    // Once a second application is hit too, it is no longer the data of one.
    eventually("it is taken back", async || {
        house.send(0, &good, &every(100, 2, &refused())).await;
        house.shown().await["taken_back"].get(0).cloned()
    })
    .await;
}

#[tokio::test]
async fn a_canary_that_traps_costs_no_event_and_is_taken_back() {
    let house = House::of(1).await;
    let live = house.shipped("", &module("accepts")).await;
    let traps = module("traps");
    house.shipped("?mode=canary&percent=100&settings=guard%3Dfalse", &traps).await;
    let misbehaves = json!({"misbehave": true});
    let told = house.send(0, &house.admin, &every(3_000, 1_000, &misbehaves)).await;
    assert_eq!((&told["stored"], &told["quarantined"]), (&json!(3_000), &json!(0)), "{told}");
    let shown = house.compared(3_000).await;
    assert_eq!((&shown["counts"]["faulted"], &shown["counts"]["judged"]), (&json!(3), &json!(2_997)), "{shown}");
    assert_eq!(house.server.sql("select count(*) from dead_letters"), "0");
    assert_eq!(shown["samples"][0]["fault"], json!("trap"), "{shown}");
    // Without that setting, one fault is enough.
    house.shipped("?mode=canary&percent=100&settings=default", &salted(&traps, 1)).await;
    house.send(0, &house.admin, &every(10, 10, &misbehaves)).await;
    let back = house.taken_back().await;
    assert_eq!((&back["code"], &back["trial"]), (&json!("faulted"), &json!("canary")), "{back}");
    assert_eq!((&back["serves"], &back["refused"]), (&json!(live), &json!(0)), "{back}");
    assert_eq!(house.server.sql("select count(*) from events"), "3010");
}

#[tokio::test]
async fn steps_promote_a_candidate_by_itself_once_enough_was_compared() {
    let mut house = House::of(2).await;
    let live = house.shipped("", &module("accepts")).await;
    let steps = "auto=shadow:1s,50%25:1s";
    let candidate = house.shipped(&format!("?{steps}"), &salted(&module("accepts"), 1)).await;
    house.send(0, &house.admin, &every(150, 1_000, &json!({}))).await;
    let shown = house.compared(150).await;
    assert_eq!((&shown["mode"], &shown["auto"]["text"]), (&json!("shadow"), &json!("shadow:1s,50%:1s")), "{shown}");
    let states = |shown: &Value| -> Vec<Value> {
        let steps = shown["auto"]["steps"].as_array().expect("steps").iter();
        steps.map(|step| step["state"].clone()).collect()
    };
    assert_eq!(states(&shown), ["running", "waiting"], "{shown}");
    let step = &shown["auto"]["steps"][0];
    assert_eq!((&step["compared"], &step["compared_min"]), (&json!(150), &json!(200)), "too few to go on: {shown}");
    assert_eq!(house.shown().await["digest"], json!(live));

    // Whichever gateway has the duty stops, and another one goes on.
    house.gateways[0].signal("TERM");
    house.gateways[0].ended().await;
    house.gateways[0].restart().await;
    let shown = eventually("the next step", async || {
        house.send(1, &house.admin, &every(100, 1_000, &json!({}))).await;
        let shown = house.candidate().await;
        (shown["mode"] == "canary").then_some(shown)
    })
    .await;
    assert_eq!((states(&shown), &shown["percent"]), (vec![json!("done"), json!("running")], &json!(50.0)), "{shown}");
    assert_eq!(shown["by"], json!("admin"));
    eventually("it serves", async || {
        house.send(1, &house.admin, &every(100, 1_000, &json!({}))).await;
        (house.shown().await["digest"] == json!(candidate)).then_some(())
    })
    .await;
    assert_eq!(house.ask("GET", &format!("{PATH}/candidate")).await.status, 404);
    let causes = house.server.sql("select string_agg(cause, ' ' order by number) from generations");
    assert_eq!(causes, "push try promote promote");
    let settings = "select settings is null from generation_set() where event_type = 'guests/named'";
    assert_eq!(house.server.sql(settings), "t");

    // A trial without steps ends them.
    house.shipped(&format!("?{steps}"), &salted(&module("accepts"), 2)).await;
    house.shipped("?mode=shadow", &salted(&module("accepts"), 2)).await;
    assert_eq!(house.candidate().await["auto"], Value::Null);
}

/// Takes one request, and answers it with this status. Returns its head and body.
async fn take(listener: &tokio::net::TcpListener, status: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut text = Vec::new();
    loop {
        let mut some = [0; 4_096];
        let read = stream.read(&mut some).await.expect("bytes");
        assert_ne!(read, 0, "the request has no end: {text:?}");
        text.extend(&some[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if body.len() >= length.parse().expect("a number") {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            return (head.to_owned(), body.to_owned());
        }
    }
}

#[tokio::test]
async fn what_is_taken_back_is_told_to_the_url_of_the_operator_and_to_live_readers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let url = format!("http://{address}/hooks/eye");
    let mut house = House::with(1, |setup| {
        setup.with("EYE_NOTIFY_URL", &url).with("EYE_NOTIFY_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    })
    .await;
    let mut live =
        house.gateways[0].request("GET", "/v1/live").bearer_auth(&house.admin).send().await.expect("a stream");
    house.shipped("", &module("accepts")).await;
    let candidate = house.shipped("?mode=shadow", &module("traps")).await;
    house.send(0, &house.admin, &[one(json!({"misbehave": true}))]).await;
    let (head, body) = take(&listener, "500 No").await;
    let (again, same) = take(&listener, "204 Yes").await;
    assert_eq!(body, same, "it is sent again, as it was");
    let header = |head: &str, name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name}: {head}"))
    };
    assert_eq!(header(&head, "webhook-id"), header(&again, "webhook-id"));
    assert!(
        header(&head, "webhook-timestamp").parse::<i64>().is_ok() && head.starts_with("POST /hooks/eye "),
        "{head}"
    );
    assert!(header(&head, "webhook-signature").starts_with("v1,"), "{head}");
    let told: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&told["type"], &told["data"]["digest"]), (&json!("module.taken_back"), &json!(candidate)), "{told}");
    assert!(told["data"]["reason"].as_str().is_some_and(|reason| reason.contains("broke on 1 of")), "{told}");
    let mut text = String::new();
    while !text.contains("event: taken_back") {
        text.push_str(&String::from_utf8_lossy(&live.chunk().await.expect("a chunk").expect("more")));
    }
    assert!(text.contains(&candidate), "{text}");
    let figures = house.ask("GET", "/metrics").await.text;
    assert!(figures.contains("eye_modules_taken_back_total{reason=\"faulted\"} 1"), "{figures}");
    eventually("it is counted", async || {
        house.ask("GET", "/metrics").await.text.contains("eye_notifications_total{state=\"sent\"} 1").then_some(())
    })
    .await;
    // A message that was not taken is sent after a restart, also after one without a warning.
    drop(live);
    house.shipped("?mode=shadow", &salted(&module("traps"), 1)).await;
    house.send(0, &house.admin, &[one(json!({"misbehave": true}))]).await;
    let (head, body) = take(&listener, "500 No").await;
    house.gateways[0].signal("KILL");
    house.gateways[0].ended().await;
    // The killed gateway may have sent its message again. A new listener does not see that.
    drop(listener);
    let listener = tokio::net::TcpListener::bind(address).await.expect("the port again");
    house.gateways[0].restart().await;
    let (again, same) = take(&listener, "204 Yes").await;
    assert_eq!((header(&head, "webhook-id"), body), (header(&again, "webhook-id"), same));
    let folder = house.gateways[0].data_dir().join("notifications");
    eventually("it is kept no more", async || (std::fs::read_dir(&folder).ok()?.count() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_modules_directory_has_candidates_and_keeps_what_was_taken_back() {
    let hands = Hands::new("+0s");
    let setup = hands.on(Setup::default()).with("EYE_DEADLINE_MS", 2_000).with("EYE_RESCAN_SECONDS", 1);
    let mut gateway = setup.start().await;
    let admin = gateway.admin_token().expect("it made one");
    let (lenient, strict) = (module("accepts"), module("refuses_some"));
    let (first, second) = (digest_of(&lenient), digest_of(&strict));
    let ask = async |gateway: &Gateway, method: &str, path: &str| {
        gateway.answer(gateway.request(method, &format!("{PATH}{path}")).bearer_auth(&admin)).await
    };
    let ship = async |gateway: &Gateway, query: &str, content: &[u8]| {
        let request = gateway.request("PUT", &format!("{PATH}{query}")).bearer_auth(&admin);
        gateway.answer(request.header("content-type", "application/wasm").body(content.to_vec())).await
    };
    let send = async |gateway: &Gateway, events: &[Value]| {
        let answer = gateway.post("/v1/events", "application/json", Value::from(events).to_string()).await;
        assert!(matches!(answer.status, 200 | 207), "{answer:?}");
        answer.json()
    };
    assert_eq!(ship(&gateway, "", &lenient).await.status, 200);
    let tried = ship(&gateway, "?mode=canary&percent=50", &salted(&lenient, 1)).await;
    assert_eq!((tried.status, &tried.json()["state"]), (200, &json!("active")), "{tried:?}");
    let file = gateway.data_dir().join("../modules/.candidates/guests/named.wasm");
    assert!(file.exists() && file.with_extension("toml").exists());
    send(&gateway, &every(200, 1_000, &json!({}))).await;
    let shown = eventually("it is compared", async || {
        let shown = ask(&gateway, "GET", "/candidate").await.json();
        (shown["compared"].as_u64() >= Some(50)).then_some(shown)
    })
    .await;
    assert_eq!((&shown["mode"], &shown["percent"]), (&json!("canary"), &json!(50.0)), "{shown}");
    assert_eq!(ask(&gateway, "DELETE", "/candidate").await.status, 200);
    assert!(!file.exists() && !file.with_extension("toml").exists());
    assert_eq!(code(&ask(&gateway, "GET", "/candidate").await), (404, "no_candidate".to_owned()));
    let steps = ship(&gateway, "?auto=shadow:1m", &salted(&lenient, 1)).await;
    assert_eq!(code(&steps), (400, "bad_parameter".to_owned()), "{steps:?}");

    // A candidate is promoted by a move, and a replacement that refuses too much is taken back.
    assert_eq!(ship(&gateway, "?mode=shadow", &strict).await.status, 200);
    let promoted = ask(&gateway, "POST", "/candidate/promote").await;
    assert_eq!((promoted.status, &promoted.json()["digest"]), (200, &json!(second)), "{promoted:?}");
    assert!(!file.exists());
    eventually("it is taken back", async || {
        send(&gateway, &fifteen_percent(100)).await;
        let shown = ask(&gateway, "GET", "").await.json();
        (shown["digest"] == json!(first) && shown["taken_back"][0]["digest"] == json!(second)).then_some(())
    })
    .await;
    let again = ship(&gateway, "", &strict).await;
    assert_eq!(code(&again), (409, "taken_back".to_owned()), "{again:?}");
    // Neither a restart nor a rescan nor another day takes the file, which still lies there.
    gateway.signal("TERM");
    gateway.ended().await;
    hands.set("+1d");
    gateway.restart().await;
    let told = eventually("its file is refused", async || {
        let shown = ask(&gateway, "GET", "").await.json();
        shown["last_error"]["found"].as_str().map(str::to_owned)
    })
    .await;
    assert!(told.contains("the module before"), "{told}");
    assert_eq!(send(&gateway, &[one(refused())]).await["stored"], json!(1));
    let forced = ship(&gateway, "?force=true&expect_refusals=true", &strict).await;
    assert_eq!((forced.status, &forced.json()["digest"]), (200, &json!(second)), "{forced:?}");
    assert_eq!(send(&gateway, &[one(refused())]).await["rejected"], json!(1));
    assert_eq!(ask(&gateway, "GET", "").await.json()["taken_back"], json!([]));
}

#[tokio::test]
async fn promoting_and_discarding_under_load_loses_nothing_and_judges_nothing_twice() {
    let house = House::of(1).await;
    let modules = [module("names_one"), module("names_two")];
    house.shipped("", &modules[0]).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = async {
        let mut stored = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let told = house.send(0, &house.admin, &every(50, 1_000, &json!({"n": 0}))).await;
            assert_eq!(told["stored"], json!(50), "{told}");
            stored += 50;
        }
        stored
    };
    let changes = async {
        for round in 0..6 {
            let next = &modules[(round / 2 + 1) % 2];
            house.shipped("?mode=canary&percent=50&settings=guard%3Dfalse", next).await;
            let (method, path) = if round % 2 == 0 { ("DELETE", "") } else { ("POST", "/promote") };
            let answer = house.ask(method, &format!("{PATH}/candidate{path}")).await;
            assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (stored, ()) = tokio::join!(load, changes);
    assert_eq!(house.server.sql("select count(*) from events"), stored.to_string());
    assert_eq!(house.server.sql("select count(*) from dead_letters"), "0");
    // A module that judges amends the event with its name, so one that was judged twice would have two.
    let twice = "select count(*) from events where data ->> 'judge' is null \
                 or data ->> 'judge' <> case when digest = decode('DIGEST', 'hex') then 'one' else 'two' end";
    let twice = twice.replace("from events where", "from events join modules on modules.id = module_id where");
    assert_eq!(house.server.sql(&twice.replace("DIGEST", &digest_of(&modules[0]))), "0");
}

#[tokio::test]
async fn a_project_tries_promotes_and_discards_without_arguments() {
    let house = House::of(1).await;
    house.shipped("", &module("accepts")).await;
    let folder = house.gateways[0].data_dir().join("../project");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("module.wasm"), salted(&module("accepts"), 1)).expect("a module");
    let eye = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_eye"));
        let url = format!("http://{}", house.gateways[0].address());
        command.args(["validator"]).args(arguments).current_dir(&folder);
        let output = command.env("EYE_GATEWAY", url).env("EYE_TOKEN", &house.admin).output().expect("the program");
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), told)
    };
    let file = ["module.wasm", "--type", "guests/named"];
    let (status, told) = eye(&[&["try"], &file[..]].concat());
    assert_eq!(status, Some(64), "it says how: {told}");
    let (status, told) = eye(&[&["try"], &file[..], &["--canary", "2.5"]].concat());
    assert!(status == Some(0) && told.contains("tried as a canary of 2.5 %"), "{told}");
    let (status, told) = eye(&["status", "guests/named"]);
    assert!(status == Some(0) && told.contains("candidate ") && told.contains("would_refuse 0"), "{told}");
    let (status, told) = eye(&["discard", "guests/named"]);
    assert!(status == Some(0) && told.contains("active"), "{told}");
    let (status, told) = eye(&[&["push"], &file[..], &["--auto", "shadow:1h,5%:1h"]].concat());
    assert!(status == Some(0) && told.contains("tried as a shadow"), "{told}");
    let (status, told) = eye(&["status", "guests/named"]);
    assert!(status == Some(0) && told.contains("step shadow:3600s\trunning"), "{told}");
    // In a project's folder the type is known.
    std::fs::write(folder.join("eye.toml"), "type = \"guests/named\"\nlanguage = \"rust\"\n").expect("a project");
    let (status, told) = eye(&["promote"]);
    assert!(status == Some(0) && told.contains(&digest_of(&salted(&module("accepts"), 1))), "{told}");
    let (status, told) = eye(&["discard"]);
    assert!(status == Some(1) && told.contains("no_candidate"), "{told}");
}
