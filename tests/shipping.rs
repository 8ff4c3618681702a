//! Modules over HTTP: pushes, rollbacks and retirements, into the modules directory of one gateway and into the database.

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, event, eventually, module};

/// A push of a module.
async fn push(gateway: &Gateway, token: &str, path: &str, content: &[u8]) -> Answer {
    let request = gateway.request("PUT", &format!("/v1/validators/{path}")).bearer_auth(token);
    gateway.answer(request.header("content-type", "application/wasm").body(content.to_vec())).await
}

async fn post(gateway: &Gateway, token: &str, path: &str, body: Option<Value>) -> Answer {
    let request = gateway.request("POST", path).bearer_auth(token);
    match body {
        Some(body) => gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await,
        None => gateway.answer(request).await,
    }
}

async fn get(gateway: &Gateway, token: &str, path: &str) -> Answer {
    gateway.answer(gateway.request("GET", path).bearer_auth(token)).await
}

/// The digest of the module that judged an event.
async fn judge_of(gateway: &Gateway, token: &str, name: &str) -> Value {
    let sent = event("guests", name, json!({"n": 1}));
    let answer = gateway
        .answer(
            gateway
                .request("POST", "/v1/events")
                .bearer_auth(token)
                .header("content-type", "application/json")
                .body(sent.to_string()),
        )
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/sessions/{}/events/{id}", crate::support::SESSION);
    get(gateway, token, &path).await.json()["validator"].clone()
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Adds an application by the command, and returns its token once the gateway knows it.
async fn add(gateway: &Gateway, database_url: Option<String>, arguments: &[&str]) -> String {
    let mut command = gateway.command_beside(&[&["app", "add", "--token"], arguments].concat());
    let output = command.args(["--data-dir", "data"]).envs(database_url.map(|url| ("EYE_DATABASE_URL", url))).output();
    let output = output.expect("the built program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let known = async || (get(gateway, &token, "/v1/events").await.status != 401).then_some(());
    eventually("the token is known", known).await;
    token
}

#[tokio::test]
async fn a_push_into_the_directory_serves_and_can_be_taken_back() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let (one, two) = (module("names_one"), module("names_two"));
    let (first, second) = (digest_of(&one), digest_of(&two));

    let pushed = push(&gateway, &admin, "guests/named?commit=abc123", &one).await;
    assert_eq!(pushed.status, 200, "{pushed:?}");
    let told = pushed.json();
    assert_eq!((&told["digest"], &told["state"], &told["replaces"]), (&json!(first), &json!("active"), &Value::Null));
    assert_eq!(judge_of(&gateway, &admin, "named").await, json!(first));
    let shown = get(&gateway, &admin, "/v1/validators/guests/named").await;
    assert_eq!(shown.headers["etag"], format!("\"{first}\""), "{shown:?}");
    assert_eq!(shown.json()["digest"], json!(first));

    let late = gateway.request("PUT", "/v1/validators/guests/named").bearer_auth(&admin);
    let late = late.header("content-type", "application/wasm").header("if-match", &second).body(two.clone());
    let late = gateway.answer(late).await;
    assert_eq!((code(&late), &late.json()["digest"]), ((412, "changed_meanwhile".to_owned()), &json!(first)));
    let would = push(&gateway, &admin, "guests/named?dry_run=true", &two).await;
    assert_eq!((would.status, &would.json()["would"]), (200, &json!("install")));
    assert_eq!(judge_of(&gateway, &admin, "named").await, json!(first), "a dry run changes nothing");
    let request = gateway.request("PUT", "/v1/validators/guests/named").bearer_auth(&admin);
    let request = request.header("content-type", "application/wasm").header("if-match", format!("\"{first}\""));
    let pushed = gateway.answer(request.body(two.clone())).await;
    assert_eq!((pushed.status, &pushed.json()["replaces"]), (200, &json!(first)), "{pushed:?}");
    assert_eq!(judge_of(&gateway, &admin, "named").await, json!(second));
    let content = gateway.request("GET", &format!("/v1/validators/guests/named/versions/{first}")).bearer_auth(&admin);
    let content = content.send().await.expect("an answer").bytes().await.expect("a body");
    assert_eq!(digest_of(&content), first);

    let back = post(&gateway, &admin, "/v1/validators/guests/named/rollback", None).await;
    assert_eq!((back.status, &back.json()["digest"]), (200, &json!(first)), "{back:?}");
    let none = "0f".repeat(32);
    let unknown = post(&gateway, &admin, "/v1/validators/guests/named/rollback", Some(json!({"digest": none}))).await;
    assert_eq!(code(&unknown), (409, "no_version".to_owned()));
    let retired = post(&gateway, &admin, "/v1/validators/guests/named/retire", None).await;
    assert_eq!(retired.status, 200, "{retired:?}");
    assert_eq!(judge_of(&gateway, &admin, "named").await, Value::Null);
    let again = post(&gateway, &admin, "/v1/validators/guests/nothing/retire", None).await;
    assert_eq!(code(&again), (409, "no_version".to_owned()));
    let entries = get(&gateway, &admin, "/v1/audit?subject=guests/named").await.json()["entries"].clone();
    let actions: Vec<&str> =
        entries.as_array().expect("entries").iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["validator_push", "validator_rollback", "validator_retire", "module_replace"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
}

/// The settings that serve: the deadline and what a fault means.
async fn limits(gateway: &Gateway, token: &str, name: &str) -> (Value, Value) {
    let shown = get(gateway, token, &format!("/v1/validators/guests/{name}")).await.json();
    (shown["limits"]["deadline_ms"].clone(), shown["on_fault"].clone())
}

#[tokio::test]
async fn settings_go_along_with_a_push_into_the_directory() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let (one, two) = (module("names_one"), module("names_two"));
    let file = gateway.data_dir().join("../modules/guests/named.toml");
    let text = || std::fs::read_to_string(&file).ok();
    let (quarantine, retry) = (json!("quarantine"), json!("retry"));
    let pushed = push(&gateway, &admin, "guests/named?settings=deadline_ms%3D49", &one).await;
    assert_eq!((pushed.status, text().as_deref()), (200, Some("deadline_ms=49")), "{pushed:?}");
    assert_eq!(limits(&gateway, &admin, "named").await, (json!(49), quarantine.clone()));

    let would = push(&gateway, &admin, "guests/named?dry_run=true&settings=deadline_ms%3D48", &two).await;
    assert_eq!((would.status, text().as_deref()), (200, Some("deadline_ms=49")), "a dry run writes nothing: {would:?}");
    for (query, content) in [
        ("settings=deadline_ms%3D48", &module("imports_wasi")),
        ("settings=deadline_ms%3D0", &two),
        ("settings=hunter2", &two),
    ] {
        let refused = push(&gateway, &admin, &format!("guests/named?{query}"), content).await;
        assert_eq!(code(&refused), (422, "module_refused".to_owned()), "{query}: {refused:?}");
        assert!(!refused.json().to_string().contains("hunter2"), "{refused:?}");
        assert_eq!(text().as_deref(), Some("deadline_ms=49"), "{query}: a refused push changes nothing");
    }
    assert_eq!(limits(&gateway, &admin, "named").await, (json!(49), quarantine.clone()));

    let pushed = push(&gateway, &admin, "guests/named", &two).await;
    assert_eq!((pushed.status, text().as_deref()), (200, Some("deadline_ms=49")), "without settings they stay");
    // The same module with other settings: the answer comes once they are in force.
    for (given, deadline, on_fault) in
        [("deadline_ms%3D47", 47, &quarantine), ("deadline_ms%3D47%0Aon_fault%3D%22retry%22", 47, &retry)]
    {
        let pushed = push(&gateway, &admin, &format!("guests/named?settings={given}"), &two).await;
        assert_eq!((pushed.status, &pushed.json()["state"]), (200, &json!("active")), "{pushed:?}");
        assert_eq!(limits(&gateway, &admin, "named").await, (json!(deadline), on_fault.clone()));
    }
    assert_eq!(post(&gateway, &admin, "/v1/validators/guests/named/rollback", None).await.status, 200);
    assert_eq!(limits(&gateway, &admin, "named").await, (json!(47), retry.clone()), "a rollback leaves the file");
    assert_eq!(post(&gateway, &admin, "/v1/validators/guests/named/retire", None).await.status, 200);
    assert!(text().is_some(), "a retirement leaves the file");
    assert_eq!(push(&gateway, &admin, "guests/named", &one).await.status, 200);
    assert_eq!(limits(&gateway, &admin, "named").await, (json!(47), retry), "and the next module has its settings");
    let pushed = push(&gateway, &admin, "guests/named?settings=default", &one).await;
    assert_eq!((pushed.status, text()), (200, None), "{pushed:?}");
    assert_eq!(limits(&gateway, &admin, "named").await, (json!(50), quarantine));
    let entries = get(&gateway, &admin, "/v1/audit?subject=guests/named&action=validator_push").await.json();
    let changed: Vec<bool> = entries["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| entry["details"]["settings"] == json!("changed"))
        .collect();
    assert_eq!(changed, [true, false, true, true, false, true], "{entries}");
}

#[tokio::test]
async fn a_push_over_files_that_were_refused_is_answered_by_what_becomes_of_it() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let (one, two) = (module("names_one"), module("names_two"));
    assert_eq!(push(&gateway, &admin, "guests/named", &one).await.status, 200);
    let error = async |key: &str| {
        let shown = get(&gateway, &admin, "/v1/validators/guests/named").await.json()[key].clone();
        (!shown.is_null()).then_some(shown)
    };
    // Somebody has written settings that are none, and a file that is no module.
    gateway.drop_module("guests/named.toml", b"deadline_ms = 0");
    eventually("the settings are refused", async || error("settings_error").await).await;
    gateway.drop_module("guests/named.wasm", b"none");
    eventually("the file is refused", async || error("last_error").await).await;
    let refused = push(&gateway, &admin, "guests/named", &two).await;
    assert_eq!(code(&refused), (422, "module_refused".to_owned()), "the settings stay, and are none: {refused:?}");
    let pushed = push(&gateway, &admin, "guests/named?settings=deadline_ms%3D49", &two).await;
    assert_eq!((pushed.status, &pushed.json()["state"]), (200, &json!("active")), "{pushed:?}");
    assert_eq!(limits(&gateway, &admin, "named").await.0, json!(49));
}

#[tokio::test]
async fn settings_of_a_push_force_the_module_that_they_name_and_no_other() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    assert_eq!(push(&gateway, &admin, "vault/form", &module("redacts")).await.status, 200);
    let (plain, other) = (module("accepts"), module("names_one"));
    let force = format!("vault/form?settings=force%3D%22{}%22", digest_of(&plain));
    for (path, content) in [("vault/form", &plain), (force.as_str(), &other)] {
        let refused = push(&gateway, &admin, path, content).await;
        assert_eq!(code(&refused), (422, "module_refused".to_owned()), "{path}: {refused:?}");
        assert!(!gateway.data_dir().join("../modules/vault/form.toml").exists(), "{path}");
    }
    let told = push(&gateway, &admin, "vault/form?force=true", &plain).await;
    assert_eq!(code(&told), (400, "bad_parameter".to_owned()));
    assert!(told.json()["detail"].as_str().is_some_and(|told| told.contains(&digest_of(&plain))), "{told:?}");
    let forced = push(&gateway, &admin, &force, &plain).await;
    assert_eq!(forced.status, 200, "{forced:?}");
    let entries = get(&gateway, &admin, "/v1/audit?subject=vault/form&action=validator_push").await.json();
    assert_eq!(entries["entries"][0]["details"]["force"], json!(true), "{entries}");
}

#[tokio::test]
async fn what_is_no_module_and_who_may_not_ship_are_told_which_and_what_to_do() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let good = module("accepts");
    let refused = push(&gateway, &admin, "guests/bad", &module("imports_wasi")).await;
    assert_eq!(code(&refused), (422, "module_refused".to_owned()), "{refused:?}");
    for member in ["expected", "found", "mend"] {
        assert!(refused.json()[member].as_str().is_some_and(|text| text.len() > 10), "{member}: {refused:?}");
    }
    for (path, content, wanted) in [
        ("guests/bad", &b"no module"[..], (422, "module_refused")),
        ("guests/bad", b"", (400, "empty")),
        ("*/bad", &good, (400, "bad_parameter")),
        ("gu%0Aests/bad", &good, (400, "bad_parameter")),
        ("%20guests/bad", &good, (400, "bad_parameter")),
        (&format!("guests/{}", "b".repeat(251)), &good, (400, "bad_parameter")),
        ("guests/bad?mode=half", &good, (400, "bad_parameter")),
        ("guests/bad?percent=5", &good, (400, "bad_parameter")),
        ("guests/bad?settings=deadline_ms%3D0", &good, (422, "module_refused")),
        ("guests/bad?force=true", &good, (400, "bad_parameter")),
        ("guests/bad?colour=red", &good, (400, "bad_parameter")),
    ] {
        let answer = push(&gateway, &admin, path, content).await;
        assert_eq!(code(&answer), (wanted.0, wanted.1.to_owned()), "{path}: {answer:?}");
    }
    let json = gateway.request("PUT", "/v1/validators/guests/bad").bearer_auth(&admin);
    let json = gateway.answer(json.header("content-type", "application/json").body("{}")).await;
    assert_eq!(code(&json), (415, "wrong_type".to_owned()));
    assert!(!gateway.data_dir().join("../modules/guests").exists(), "nothing of these was written");

    let reader = add(&gateway, None, &["reader", "--scope", "read"]).await;
    let answer = push(&gateway, &reader, "shop/sale", &good).await;
    assert_eq!((code(&answer), &answer.json()["scope"]), ((403, "not_allowed".to_owned()), &json!("ship")));
    let shipper = add(&gateway, None, &["shipper", "--scope", "ship", "--ship-event-type", "shop/*"]).await;
    for path in ["shop/sale", "shop/*"] {
        let answer = push(&gateway, &shipper, path, &good).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    for path in ["page/view", "page/*", "*/*"] {
        let answer = push(&gateway, &shipper, path, &good).await;
        assert_eq!(code(&answer), (403, "not_allowed".to_owned()), "{path}");
        assert!(answer.json()["detail"].as_str().is_some_and(|told| told.contains("shop/*")), "{answer:?}");
    }
    gateway.send(&event("shop", "sale", json!({}))).await;
    gateway.send(&event("page", "view", json!({}))).await;
    let read = get(&gateway, &shipper, "/v1/events").await.json();
    let types: Vec<&str> =
        read["events"].as_array().expect("events").iter().filter_map(|one| one["category"].as_str()).collect();
    assert_eq!(types, ["shop"], "it reads what its modules see, and nothing else");
    assert_eq!(get(&gateway, &shipper, "/v1/gateways").await.status, 404);
    assert_eq!(get(&gateway, &shipper, "/v1/validators/page/view").await.status, 404);
}

/// Tries every change with conditions that do not hold, and some that do.
async fn conditions(gateway: &Gateway, admin: &str) {
    let (one, two) = (module("names_one"), module("names_two"));
    let (first, second) = (digest_of(&one), digest_of(&two));
    let change = async |(method, path): (&str, &str), header: &str, value: &str, content: &[u8]| {
        let path = format!("/v1/validators/guests/named{path}");
        let request = gateway.request(method, &path).bearer_auth(admin).header(header, value);
        let request = match method {
            "PUT" => request.header("content-type", "application/wasm").body(content.to_vec()),
            _ => request,
        };
        gateway.answer(request).await
    };
    let none = change(("PUT", ""), "if-match", "*", &one).await;
    assert_eq!((code(&none), &none.json()["digest"]), ((412, "changed_meanwhile".to_owned()), &Value::Null));
    assert_eq!(change(("PUT", ""), "if-none-match", "*", &one).await.status, 200);
    let changes = [("PUT", ""), ("DELETE", ""), ("POST", "/retire"), ("POST", "/rollback")];
    for (change_of, header, value) in [
        (("PUT", ""), "if-none-match", "*"),
        (changes[0], "if-match", second.as_str()),
        (changes[1], "if-match", second.as_str()),
        (changes[2], "if-match", second.as_str()),
        (changes[3], "if-match", second.as_str()),
    ] {
        let late = change(change_of, header, value, &two).await;
        assert_eq!((code(&late), &late.json()["digest"]), ((412, "changed_meanwhile".to_owned()), &json!(first)));
    }
    for change_of in changes {
        let bad = change(change_of, "if-match", "abc", &two).await;
        assert_eq!(code(&bad), (400, "bad_parameter".to_owned()), "{change_of:?}");
    }
    assert_eq!(judge_of(gateway, admin, "named").await, json!(first), "none of these changed anything");
    assert_eq!(change(("PUT", ""), "if-match", "*", &two).await.status, 200);
    assert_eq!(change(("POST", "/rollback"), "if-match", &second, &[]).await.status, 200);
    assert_eq!(change(("DELETE", ""), "if-match", &format!("\"{first}\""), &[]).await.status, 200);
    assert_eq!(judge_of(gateway, admin, "named").await, Value::Null);
}

#[tokio::test]
async fn a_condition_holds_for_every_change() {
    let gateway = Gateway::start().await;
    conditions(&gateway, gateway.admin_token().expect("it made one").as_str()).await;
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    conditions(&gateway, admin).await;
}

#[tokio::test]
async fn a_module_that_stops_to_redact_needs_force_after_a_retirement_and_on_every_gateway() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    assert_eq!(push(&gateway, admin, "vault/form", &module("redacts")).await.status, 200);
    let retired = post(&gateway, admin, "/v1/validators/vault/form/retire", None).await;
    assert_eq!(retired.status, 200, "{retired:?}");
    let other = of_database(&server).start().await;
    for gateway in [&gateway, &other] {
        for query in ["", "?dry_run=true"] {
            let refused = push(gateway, admin, &format!("vault/form{query}"), &module("accepts")).await;
            assert_eq!(code(&refused), (422, "module_refused".to_owned()), "{query}: {refused:?}");
        }
    }
    // Nor does a command take it while no gateway is there.
    let mut gateway = gateway;
    let mut other = other;
    for gateway in [&mut gateway, &mut other] {
        gateway.signal("TERM");
        gateway.ended().await;
    }
    gateway.drop_module("vault/form.wasm", &module("accepts"));
    let import = |arguments: &[&str]| {
        let mut command = gateway.command_beside(&[&["fleet", "import", "modules", "--yes"], arguments].concat());
        command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program")
    };
    let refused = import(&[]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("takes none out"), "{told}");
    assert_eq!(server.sql("select string_agg(cause, ' ' order by number) from generations"), "push retire");
    let forced = import(&["--force"]);
    assert!(forced.status.success(), "{}", String::from_utf8_lossy(&forced.stderr));
}

#[tokio::test]
async fn a_gateway_that_was_away_follows_what_was_retired_meanwhile_without_a_doubt() {
    let server = Server::start();
    let (mut gateway, other) = (of_database(&server).start().await, of_database(&server).start().await);
    let admin = &add(&other, Some(server.url()), &["admin", "--scope", "admin"]).await;
    assert_eq!(push(&other, admin, "guests/named", &module("rejects")).await.status, 200);
    gateway.signal("TERM");
    gateway.ended().await;
    assert_eq!(post(&other, admin, "/v1/validators/guests/named/retire", None).await.status, 200);
    // Many generations later the one that it served last is still known.
    server.sql(
        "insert into generations (number, made_by, cause) select number, 'others', 'push' from generate_series(3, 200) number",
    );
    gateway.restart().await;
    assert_eq!(judge_of(&gateway, admin, "named").await, Value::Null);
    assert!(!gateway.log().contains("has lost most modules"), "{}", gateway.log());
}

#[tokio::test]
async fn what_no_gateway_prepared_in_time_comes_to_nothing() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    assert_eq!(push(&gateway, admin, "guests/named", &module("names_one")).await.status, 200);
    server.sql(
        "with asked as (insert into preparations (id, cause, forced, asked_at, ends_at, asked_by) \
             values (gen_random_uuid(), 'push', false, now() - interval '3 days', now() - interval '3 days', \
                 '{\"actor\":\"application\",\"name\":\"late\"}') returning id) \
         insert into preparation_slots (preparation_id, event_type, digest) \
             select asked.id, 'guests/other', digest from asked, module_contents",
    );
    eventually("it ends", async || {
        (server.sql("select string_agg(state, ' ' order by state) from preparations") == "active refused").then_some(())
    })
    .await;
    let shown = get(&gateway, admin, "/v1/validators/guests/other").await.json()["preparations"][0].clone();
    assert_eq!((&shown["by"], &shown["state"]), (&json!("late"), &json!("refused")), "{shown}");
    assert_eq!(server.sql("select count(*) from generations"), "1");
}

#[tokio::test]
async fn pushes_that_wait_are_so_many_and_no_more() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    server.sql(
        "insert into gateways (id, name, version, listen, modules_from, seen) \
         values (gen_random_uuid(), 'silent', '0', '-', 'database', now() + interval '1 hour')",
    );
    let content = module("names_one");
    let asked = (0..12).map(|number| {
        let request = gateway.request("PUT", &format!("/v1/validators/guests/{number}")).bearer_auth(admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=0");
        gateway.answer(request.body(content.clone()))
    });
    let answers = futures_util::future::join_all(asked).await;
    let (waiting, full): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 202);
    assert_eq!((waiting.len(), full.len()), (10, 2), "{answers:?}");
    assert!(full.iter().all(|answer| code(answer) == (503, "overloaded".to_owned())), "{full:?}");
    assert_eq!(server.sql("select count(*) from preparations"), "10");
}

#[tokio::test]
async fn a_database_that_lost_its_generations_is_doubted_and_a_command_says_what_is_meant() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    let one = module("names_one");
    for name in ["named", "other", "third", "fourth"] {
        assert_eq!(push(&gateway, admin, &format!("guests/{name}"), &one).await.status, 200);
        gateway.drop_module(&format!("guests/{name}.wasm"), &one);
    }
    server.sql("truncate generations, generation_changes");
    let ready = async || gateway.answer(gateway.request("GET", "/readyz")).await;
    eventually("it doubts", async || (ready().await.status == 503).then_some(())).await;
    assert!(ready().await.text.contains("behind"), "{:?}", ready().await);
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(digest_of(&one)), "it serves what it had");
    let refused = push(&gateway, admin, "guests/named", &module("names_two")).await;
    assert_eq!(code(&refused), (409, "modules_elsewhere".to_owned()), "{refused:?}");
    eventually("its row tells", async || {
        let rows = get(&gateway, admin, "/v1/gateways").await.json();
        rows["gateways"][0]["problems"].to_string().contains("eye fleet import").then_some(())
    })
    .await;
    let mut command = gateway.command_beside(&["fleet", "import", "modules", "--yes"]);
    let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the doubt is over", async || (ready().await.status == 200).then_some(())).await;
    let pushed = push(&gateway, admin, "guests/named", &module("names_two")).await;
    assert_eq!((pushed.status, &pushed.json()["generation"]), (200, &json!(2)), "{pushed:?}");
}

#[tokio::test]
async fn a_generation_with_the_number_of_another_is_another() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    let (one, two) = (module("names_one"), module("names_two"));
    for content in [&one, &two] {
        assert_eq!(push(&gateway, admin, "guests/named", content).await.status, 200);
    }
    // A restored database forgets the last commit, and another gateway makes its own of the same number.
    server.sql(
        "begin; delete from generation_changes where number = 2; delete from generations where number = 2; \
         insert into generations (number, made_by, cause) values (2, 'another', 'push'); \
         insert into generation_changes (number, event_type, digest, settings) \
         select 2, 'guests/other', digest, settings from generation_changes; commit",
    );
    eventually("the other is followed", async || {
        (judge_of(&gateway, admin, "other").await == json!(digest_of(&one))).then_some(())
    })
    .await;
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(digest_of(&one)));
}

#[tokio::test]
async fn a_directory_that_something_else_fills_is_not_written() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let folder = gateway.data_dir().join("..");
    let elsewhere = async |why: &str| {
        let answer = push(&gateway, &admin, "shop/sale", &module("accepts")).await;
        assert_eq!(code(&answer), (409, "modules_elsewhere".to_owned()), "{why}: {answer:?}");
        let told = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(told.contains(why) && told.contains("modules_from"), "{why}: {told}");
    };
    let modules = folder.join("modules");
    std::fs::create_dir_all(modules.join(".git")).expect("made");
    elsewhere("git checkout").await;
    std::fs::remove_dir(modules.join(".git")).expect("removed");
    std::fs::create_dir(folder.join(".git")).expect("made");
    elsewhere("git checkout").await;
    // As after `make run` in a clone: the checkout is not what fills it.
    std::fs::write(folder.join(".gitignore"), "/target\n/modules\n").expect("written");
    assert_eq!(push(&gateway, &admin, "shop/sale", &module("accepts")).await.status, 200);
    std::fs::remove_dir(folder.join(".git")).expect("removed");
    std::fs::rename(&modules, folder.join("synced")).expect("moved");
    std::os::unix::fs::symlink("synced", &modules).expect("linked");
    elsewhere("is a link").await;
    std::fs::remove_file(&modules).expect("removed");
    std::fs::write(&modules, "no folder").expect("written");
    elsewhere("cannot be written").await;
    std::fs::remove_file(&modules).expect("removed");
    assert_eq!(push(&gateway, &admin, "shop/sale", &module("accepts")).await.status, 200, "now it may");
}

/// A gateway whose modules come from the database of `server`.
fn of_database(server: &Server) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_MODULES_FROM", "database")
}

#[tokio::test]
async fn pushes_into_the_database_make_generations_and_a_restart_without_it_serves_the_last() {
    let server = Server::start();
    let mut gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    let (one, two) = (module("names_one"), module("names_two"));
    let (first, second) = (digest_of(&one), digest_of(&two));
    let pushed = push(&gateway, admin, "guests/named?commit=abc", &one).await;
    let told = pushed.json();
    assert_eq!((pushed.status, &told["state"], &told["generation"]), (200, &json!("active"), &json!(1)), "{pushed:?}");
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(first));
    let same = push(&gateway, admin, "guests/named", &one).await.json();
    assert_eq!((&same["state"], &same["generation"]), (&json!("active"), &json!(1)), "the same again changes nothing");
    let settings = "guests/named?settings=deadline_ms%3D49";
    let pushed = push(&gateway, admin, settings, &two).await.json();
    assert_eq!((&pushed["generation"], &pushed["replaces"]), (&json!(2), &json!(first)));
    let shown = get(&gateway, admin, "/v1/validators/guests/named").await.json();
    assert_eq!((&shown["limits"]["deadline_ms"], &shown["shipped"]["by"]), (&json!(49), &json!("admin")), "{shown}");
    assert_eq!(shown["versions"][1]["commit"], json!("abc"), "{shown}");
    let refused = push(&gateway, admin, "guests/named?settings=deadline%3D49", &one).await;
    assert_eq!(code(&refused), (422, "module_refused".to_owned()), "{refused:?}");

    let back = post(&gateway, admin, "/v1/validators/guests/named/rollback", None).await.json();
    assert_eq!((&back["digest"], &back["generation"]), (&json!(first), &json!(3)), "{back}");
    assert_eq!(get(&gateway, admin, "/v1/validators/guests/named").await.json()["limits"]["deadline_ms"], json!(50));
    let other = push(&gateway, admin, "guests/*", &two).await.json();
    assert_eq!((&other["event_type"], &other["generation"]), (&json!("guests/_"), &json!(4)));
    let retired = gateway.answer(gateway.request("DELETE", "/v1/validators/guests/named").bearer_auth(admin)).await;
    assert_eq!((retired.status, &retired.json()["generation"]), (200, &json!(5)), "{retired:?}");
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(second), "the wider one judges");

    let diff = post(&gateway, admin, "/v1/generations/2/back?dry_run=true", None).await.json();
    let changes = diff["changes"].as_array().expect("changes").clone();
    assert_eq!(changes.len(), 2, "{diff}");
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(second), "a diff changes nothing");
    let back = post(&gateway, admin, "/v1/generations/2/back", None).await.json();
    assert_eq!((&back["state"], &back["generation"]), (&json!("active"), &json!(6)), "{back}");
    let list = get(&gateway, admin, "/v1/generations").await.json();
    let causes: Vec<&str> =
        list["generations"].as_array().expect("a list").iter().filter_map(|one| one["cause"].as_str()).collect();
    assert_eq!(causes, ["back", "retire", "push", "rollback", "push", "push"]);
    let set = get(&gateway, admin, "/v1/generations/6").await.json();
    assert_eq!(set["slots"], json!([{"event_type": "guests/named", "digest": second, "settings": "deadline_ms=49"}]));
    let row = get(&gateway, admin, "/v1/gateways").await.json()["gateways"][0].clone();
    eventually("its row is current", async || {
        let row = get(&gateway, admin, "/v1/gateways").await.json()["gateways"][0].clone();
        (row["generation"] == 6 && row["problems"] == json!([])).then_some(())
    })
    .await;
    assert_eq!((&row["modules_from"], &row["live"]), (&json!("database"), &json!(true)));

    server.down();
    gateway.signal("KILL");
    gateway.ended().await;
    gateway.launch().await;
    eventually("the last generation serves", async || {
        gateway.log().contains("the last generation serves").then_some(())
    })
    .await;
    assert!(!gateway.data_dir().join("../modules").exists(), "no directory is needed");
    server.up();
    gateway.is_ready().await;
    assert_eq!(judge_of(&gateway, admin, "named").await, json!(second));
}

#[tokio::test]
async fn who_may_ship_redrives_the_letters_of_its_event_types_and_no_others() {
    let setup = Setup::default().with_module("shop/sale.wasm", "traps").with_module("other/sale.wasm", "traps");
    let gateway = setup.start().await;
    let mut letters = Vec::new();
    for category in ["shop", "other"] {
        let before = gateway.validator(&format!("{category}/sale"), "active").await["digest"].clone();
        let answer = gateway.send(&event(category, "sale", json!({"misbehave": true}))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        gateway.drop_module(&format!("{category}/sale.wasm"), &module("accepts"));
        eventually("the mended module serves", async || {
            (gateway.validator(&format!("{category}/sale"), "active").await["digest"] != before).then_some(())
        })
        .await;
        letters.push(gateway.sql(&format!("select id from dead_letters where category = '{category}'")));
    }
    let author = &add(&gateway, None, &["author", "--scope", "ship", "--ship-event-type", "shop/*"]).await;
    let redrive = async |body: Value| {
        let answer = post(&gateway, author, "/v1/dead-letters/redrive", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let others = redrive(json!({"ids": [letters[1]], "dry_run": false})).await;
    assert_eq!((&others["skipped"], &others["results"][0]["code"]), (&json!(1), &json!("unknown")), "{others}");
    let others = redrive(json!({"filter": {"category": "other"}, "dry_run": false})).await;
    assert_eq!((&others["results"], &others["next"]), (&json!([]), &Value::Null), "{others}");
    let dry = redrive(json!({"filter": {}})).await;
    assert_eq!(
        (&dry["dry_run"], &dry["stored"], &dry["results"][0]["id"]),
        (&json!(true), &json!(1), &json!(letters[0]))
    );
    let own = redrive(json!({"filter": {}, "dry_run": false})).await;
    assert_eq!((&own["stored"], own["results"].as_array().map(Vec::len)), (&json!(1), Some(1)), "{own}");
    let left = gateway.sql("select category from dead_letters where redriven_at is null");
    assert_eq!((left.as_str(), gateway.sql("select count(*) from events").as_str()), ("other", "1"));
    let entry =
        "select details ->> 'stored' from audit where action = 'redrive' and name = 'author' order by id desc limit 1";
    assert_eq!(gateway.sql(entry), "1");
    // A job is for administrators.
    let job = post(&gateway, author, "/v1/jobs", Some(json!({"kind": "redrive", "filter": {}}))).await;
    assert_eq!(code(&job), (403, "not_allowed".to_owned()), "{job:?}");
}

#[tokio::test]
async fn commands_judge_by_the_generation_too() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    assert_eq!(push(&gateway, admin, "guests/named", &module("rejects")).await.status, 200);
    let sent = event("guests", "named", json!({"n": 1})).to_string();
    let request = gateway.request("POST", "/v1/events").bearer_auth(admin).header("content-type", "application/json");
    assert_eq!(gateway.answer(request.body(sent)).await.status, 422);
    assert_eq!(push(&gateway, admin, "guests/named", &module("names_one")).await.status, 200);
    eventually("the letter is kept", async || (server.sql("select count(*) from dead_letters") == "1").then_some(()))
        .await;
    let command = |arguments: &[&str]| {
        let mut command = gateway.command_beside(arguments);
        command.env("EYE_DATABASE_URL", server.url()).env("EYE_MODULES_FROM", "database");
        command.args(["--data-dir", "data"]).output().expect("the built program")
    };
    let redriven = command(&["dead-letters", "redrive", "--store"]);
    assert!(redriven.status.success(), "{}", String::from_utf8_lossy(&redriven.stderr));
    assert_eq!(server.sql("select data ->> 'judge' from events"), "one");
    for arguments in [
        &["validator", "list"][..],
        &["validator", "history", "guests/named"],
        &["validator", "retire", "guests/named"],
    ] {
        let answer = command(arguments);
        let told = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(!answer.status.success() && told.contains("modules_from"), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn a_push_that_comes_second_changes_nothing_and_says_what_came_first() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    // A gateway that says nothing keeps both pushes waiting.
    server.sql(
        "insert into gateways (id, name, version, listen, modules_from, seen) \
         values (gen_random_uuid(), 'silent', '0', '-', 'database', now() + interval '1 hour')",
    );
    let (one, two) = (module("names_one"), module("names_two"));
    let asking = |content: Vec<u8>| {
        let request = gateway.request("PUT", "/v1/validators/guests/named").bearer_auth(admin);
        gateway.answer(request.header("content-type", "application/wasm").header("prefer", "wait=1").body(content))
    };
    let (first, second) = tokio::join!(asking(one.clone()), asking(two.clone()));
    for answer in [&first, &second] {
        assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("preparing")), "{answer:?}");
        assert_eq!(answer.json()["waits_for"][0]["gateway"], json!("silent"), "{answer:?}");
        assert_eq!(answer.headers["preference-applied"], "wait=1");
    }
    server.sql("delete from gateways where name = 'silent'");
    eventually("one of them serves", async || {
        (get(&gateway, admin, "/v1/generations").await.json()["generations"].as_array()?.len() == 1).then_some(())
    })
    .await;
    eventually("the other is told", async || {
        (server.sql("select string_agg(state, ' ' order by state) from preparations") == "active changed").then_some(())
    })
    .await;
    let shown = get(&gateway, admin, "/v1/validators/guests/named").await.json();
    for answer in [&first, &second] {
        let asked = shown["preparations"].as_array().expect("a list").iter();
        let asked: Vec<&Value> = asked.filter(|one| one["id"] == answer.json()["preparation"]).collect();
        assert_eq!(asked.len(), 1, "{shown}");
        let became =
            (&asked[0]["state"], &asked[0]["generation"], asked[0]["problem"]["slots"][0]["event_type"].as_str());
        let expected = match asked[0]["digest"] == shown["digest"] {
            true => (&json!("active"), &json!(1), None),
            false => (&json!("changed"), &Value::Null, Some("guests/named")),
        };
        assert_eq!(became, expected, "{shown}");
    }
    let served = shown["digest"].clone();
    let late = if served == json!(digest_of(&one)) { &one } else { &two };
    let request = gateway.request("PUT", "/v1/validators/guests/named").bearer_auth(admin);
    let request = request.header("content-type", "application/wasm").header("if-match", "0f".repeat(32));
    let answer = gateway.answer(request.body(late.clone())).await;
    assert_eq!((code(&answer), &answer.json()["digest"]), ((412, "changed_meanwhile".to_owned()), &served));
}

#[tokio::test]
async fn the_same_push_twice_at_once_is_one_change() {
    let server = Server::start();
    let gateway = of_database(&server).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    let content = module("names_one");
    let asked = async || push(&gateway, admin, "guests/named", &content).await;
    for answer in <[Answer; 3]>::from(tokio::join!(asked(), asked(), asked())) {
        let told = answer.json();
        assert_eq!((answer.status, &told["state"], &told["generation"]), (200, &json!("active"), &json!(1)));
    }
}

#[tokio::test]
async fn a_directory_of_one_gateway_is_written_and_one_of_several_is_not() {
    let server = Server::start();
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let admin = &add(&gateway, Some(server.url()), &["admin", "--scope", "admin"]).await;
    let alike = |seen: &str| {
        server.sql(&format!(
            "insert into gateways (id, name, version, listen, modules_from, since, seen) \
             select gen_random_uuid(), name, version, listen, modules_from, since, {seen} from gateways",
        ))
    };
    eventually("its row is written", async || (server.sql("select count(*) from gateways") == "1").then_some(())).await;
    // It was killed and started again.
    alike("since - interval '1 second'");
    assert_eq!(push(&gateway, admin, "shop/sale", &module("accepts")).await.status, 200);
    server.sql("delete from gateways where seen < since");
    // Another machine has the same name, and listens on the same address of its own.
    alike("now() + interval '1 hour'");
    let answer = push(&gateway, admin, "shop/sale", &module("names_one")).await;
    assert_eq!(code(&answer), (409, "modules_elsewhere".to_owned()), "{answer:?}");
}
