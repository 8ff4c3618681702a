//! The audit trail: its entries, their actors and addresses. A change and its entry are one transaction, and no entry holds
//! a secret or a part of an event.

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, event, eventually, module, pageview};

/// A page of the trail, the latest entries first.
async fn trail(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("/v1/audit?limit=1000{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["entries"].as_array().expect("entries").clone()
}

/// The latest entry of an action, once there is one.
async fn entry(gateway: &Gateway, action: &str) -> Value {
    eventually(action, async || trail(gateway, &format!("&action={action}")).await.into_iter().next()).await
}

async fn manage(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let request = gateway.as_admin(gateway.request(method, &format!("/v1/applications{path}")));
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

/// Runs a command beside the gateway: whether it went well, and what it printed.
fn eye(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let mut command = gateway.command_beside(arguments);
    let output = command.args(["--data-dir", "data"]).output().expect("the built program");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

fn user() -> String {
    let output = std::process::Command::new("id").arg("-un").output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_an_application_has_an_entry_that_says_who_and_from_where() {
    let gateway = Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    let admin = &trail(&gateway, "&action=application_bootstrap&subject=admin.token").await[0];
    assert_eq!((&admin["actor"]["kind"], &admin["actor"]["name"]), (&json!("gateway"), &json!("")), "{admin}");
    let own = admin["details"]["token_id"].as_str().expect("the id of a token").to_owned();
    assert_eq!(entry(&gateway, "postgres_start").await["details"]["start"], 1);

    // By a request.
    let body = json!({"name": "shop", "scopes": ["ingest"], "note": "hush", "expires": "30d", "event_types": ["a/*"]});
    let request =
        gateway.as_admin(gateway.request("POST", "/v1/applications")).header("x-forwarded-for", "203.0.113.9");
    let added = gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await;
    let token = added.json()["token"].as_str().expect("a token").to_owned();
    let told = entry(&gateway, "application_add").await;
    assert_eq!(told["subject"], "shop");
    let actor = &told["actor"];
    assert_eq!(
        (&actor["kind"], &actor["name"], &actor["token_id"]),
        (&json!("application"), &json!("admin.token"), &json!(own))
    );
    assert_eq!((&told["peer"], &told["forwarded"]), (&json!("127.0.0.1"), &json!("203.0.113.9")));
    assert_eq!(told["request_id"].as_str(), added.headers["x-request-id"].to_str().ok());
    assert_eq!((&told["details"]["scopes"], &told["details"]["event_types"]), (&json!(["ingest"]), &json!(["a/*"])));
    let made = told["details"]["token_id"].clone();
    assert_ne!(made, json!(own));
    assert_eq!(
        manage(&gateway, "PATCH", "/shop", &json!({"scopes": ["read"], "note": "still hush"})).await.status,
        200
    );
    let told = entry(&gateway, "application_change").await;
    let expected = json!({"scopes": {"before": ["ingest"], "after": ["read"]}, "note": "changed"});
    assert_eq!((&told["subject"], &told["details"]), (&json!("shop"), &expected));
    // What changes nothing, or is refused, has no entry.
    for (method, path, body, status) in [
        ("PATCH", "/shop", json!({"scopes": ["read"]}), 200),
        ("POST", "", json!({"name": "shop"}), 409),
        ("PATCH", "/nobody", json!({"active": false}), 404),
        ("PATCH", "/shop", json!({"networks": ["10.0.0.0/8"]}), 400),
        ("POST", "/nobody/revoke", json!({}), 404),
        ("POST", "/shop/rotate", json!({"expire_old": true}), 200),
    ] {
        assert_eq!(manage(&gateway, method, path, &body).await.status, status, "{method} {path} {body}");
    }
    let count = trail(&gateway, "&subject=shop").await.len();
    assert_eq!((count, trail(&gateway, "&subject=nobody").await.len()), (2, 0));

    // By a command, which a person runs on this machine.
    let (done, second) = eye(&gateway, &["app", "rotate", "shop"]);
    assert!(done, "{second}");
    let told = entry(&gateway, "application_rotate").await;
    assert_eq!((&told["actor"]["kind"], &told["actor"]["name"]), (&json!("command"), &json!(user())), "{told}");
    assert!(told["actor"]["host"].as_str().is_some_and(|host| !host.is_empty()) && told["peer"].is_null(), "{told}");
    assert!(eye(&gateway, &["app", "rotate", "shop", "--expire-old"]).0);
    let expired = entry(&gateway, "application_expire").await;
    let kept = told["details"]["token_id"].clone();
    assert_eq!(expired["details"]["token_ids"], json!({"before": [made, kept], "after": [kept]}));
    assert!(eye(&gateway, &["app", "revoke", "shop"]).0);
    assert_eq!(
        entry(&gateway, "application_revoke").await["details"]["active"],
        json!({"before": true, "after": false})
    );
    assert!(!eye(&gateway, &["app", "revoke", "shop"]).0, "it is revoked already");
    assert_eq!(trail(&gateway, "&action=application_revoke").await.len(), 1);

    // By a command that asks the gateway: then it is the application whose token it has.
    let output = gateway
        .command_beside(&["app", "add", "till", "--token"])
        .env("EYE_GATEWAY", format!("http://{}", gateway.address()))
        .env("EYE_TOKEN", gateway.admin_token().expect("a token"))
        .output();
    assert!(output.expect("the built program").status.success());
    assert_eq!(trail(&gateway, "&subject=till").await[0]["actor"]["token_id"], json!(own));

    // A token whose time is over is ended by the gateway.
    let brief = manage(&gateway, "POST", "", &json!({"name": "brief", "expires": "1d"})).await;
    gateway.sql("update application_tokens set expires_at = now() - interval '1 hour' where expires_at is not null");
    assert_eq!(brief.status, 201);

    // Nothing of it is secret, and each entry is a line of the log.
    let all = gateway.sql("select string_agg(audit::text, ' ') from audit");
    let log = gateway.log();
    for secret in [&*token, &*second, "hush", &gateway.admin_token().expect("a token")] {
        assert!(!all.contains(secret) && !log.contains(secret), "{secret}");
    }
    let digests = gateway.sql(
        "select count(*) from audit, applications, unnest(token_digests || retired_token_digests) digest \
         where audit::text like '%' || encode(digest, 'hex') || '%'",
    );
    assert_eq!(digests, "0");
    for action in ["application_add", "application_change", "application_bootstrap", "postgres_start"] {
        assert!(log.contains(&format!("audit action=\"{action}\"")), "{action}: {log}");
    }
}

/// A removal that retention has announced, for somebody to confirm.
const ANNOUNCED: &str = "
    update retention_rounds set announced_limit = 7, announced_at = now(), announced_seconds = 0, seen_at = now()
    where rule = 'audit_age'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_made_that_cannot_be_noted() {
    let gateway = Setup::default().with_module("shop/sale.wasm", "rejects").start().await;
    gateway.validator("shop/sale", "active").await;
    let sale = event("shop", "sale", json!({}));
    assert_eq!(gateway.send(&sale).await.status, 422);
    eventually("it is kept", async || (gateway.sql("select count(*) from dead_letters") == "1").then_some(())).await;
    let first = manage(&gateway, "POST", "", &json!({"name": "shop"})).await;
    assert_eq!(first.status, 201);
    assert_eq!(manage(&gateway, "POST", "/shop/rotate", &json!({})).await.status, 200);
    let all = "select string_agg(applications::text || xmin::text, ' ' order by id) from applications";
    gateway.remove_module("shop/sale.wasm");
    eventually("the module is gone", async || {
        let report = gateway.get("/v1/validators").await.json();
        report["validators"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    eventually("that is noted", async || trail(&gateway, "&action=module_unload").await.pop()).await;

    gateway.sql(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no room'; end $$;
         create trigger refuse before insert on audit for each row execute function refuse()",
    );
    let before = gateway.sql(all);
    for (method, path, body) in [
        ("POST", "", json!({"name": "other"})),
        ("PATCH", "/shop", json!({"active": false})),
        ("POST", "/shop/rotate", json!({})),
        ("POST", "/shop/rotate", json!({"expire_old": true})),
        ("POST", "/shop/revoke", json!({})),
    ] {
        let refused = manage(&gateway, method, path, &body).await;
        assert_eq!(refused.status, 500, "{method} {path}: {refused:?}");
    }
    for arguments in [&["app", "add", "other", "--token"][..], &["app", "revoke", "shop"]] {
        let (done, told) = eye(&gateway, arguments);
        assert!(!done && told.contains("no room"), "{arguments:?}: {told}");
    }
    let redrive = json!({"filter": {}, "dry_run": false}).to_string();
    let refused = gateway.post("/v1/dead-letters/redrive", "application/json", redrive.clone()).await;
    assert!(refused.status >= 500, "{refused:?}");
    let (done, told) = eye(&gateway, &["dead-letters", "redrive", "--store", "--modules", "modules"]);
    assert!(!done && told.contains("no room"), "{told}");
    gateway.sql(
        "update retention_rounds set announced_limit = 7, announced_at = now(), announced_seconds = 0, seen_at = now()
         where rule = 'audit_age'",
    );
    assert!(!eye(&gateway, &["retention", "confirm"]).0);
    assert_eq!(gateway.sql("select count(*) from retention_rounds where confirmed"), "0");
    assert_eq!(gateway.sql("select count(*) from events"), "0");
    assert_eq!(gateway.sql(all), before, "nothing has changed");

    // An entry counts what was redriven in the transaction that marks it; a dry run changes nothing and has none.
    gateway.sql("drop trigger refuse on audit");
    let dry = json!({"filter": {}}).to_string();
    assert_eq!(gateway.post("/v1/dead-letters/redrive", "application/json", dry).await.status, 200);
    assert_eq!(trail(&gateway, "&action=redrive").await.len(), 0);
    let done = gateway.post("/v1/dead-letters/redrive", "application/json", redrive).await;
    assert_eq!((done.status, &done.json()["stored"]), (200, &json!(1)), "{done:?}");
    let told = entry(&gateway, "redrive").await;
    let expected = json!({"filter": {}, "limit": 100, "stored": 1, "duplicate": 0});
    assert_eq!((&told["details"], &told["actor"]["name"]), (&expected, &json!("admin.token")));
    gateway.sql("update dead_letters set redriven_at = null, redriven_as = null");
    let (done, told) =
        eye(&gateway, &["dead-letters", "redrive", "--store", "--category", "shop", "--modules", "modules"]);
    assert!(done, "{told}");
    let told = &trail(&gateway, "&action=redrive").await[0];
    let expected = json!({"filter": {"category": "shop"}, "limit": 500, "stored": 0, "duplicate": 1});
    assert_eq!((&told["details"], &told["actor"]["kind"]), (&expected, &json!("command")), "{told}");
    gateway.sql(ANNOUNCED);
    assert!(eye(&gateway, &["retention", "confirm"]).0);
    let told = entry(&gateway, "retention_confirm").await;
    assert_eq!((&told["subject"], &told["details"]["limit"]), (&json!("audit_age"), &json!(7)));
    assert_eq!((&told["actor"]["kind"], &told["actor"]["name"]), (&json!("command"), &json!(user())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_does_by_itself_and_what_commands_do_to_files_is_noted() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with_module("shop/sale.wasm", "accepts");
    let mut gateway = setup.start().await;
    let (accepts, rejects) = (digest_of(&module("accepts")), digest_of(&module("rejects")));
    let first = entry(&gateway, "module_replace").await;
    assert_eq!((&first["subject"], &first["details"]), (&json!("shop/sale"), &json!({"digest": accepts})));
    assert_eq!(first["actor"]["kind"], "gateway");
    gateway.drop_module("shop/sale.wasm", &module("rejects"));
    let replaced = async |digest: &str, before: &str| {
        eventually("it is replaced", async || {
            let told = trail(&gateway, "&action=module_replace&subject=shop/sale").await.remove(0);
            (told["details"] == json!({"digest": digest, "before": before})).then_some(())
        })
        .await;
    };
    replaced(&rejects, &accepts).await;
    let put_back = gateway.command_line(&["validator", "rollback", "shop/sale"]);
    assert!(put_back.contains(&accepts), "{put_back}");
    replaced(&accepts, &rejects).await;
    let told = entry(&gateway, "validator_rollback").await;
    assert_eq!((&told["subject"], &told["details"]["digest"]), (&json!("shop/sale"), &json!(accepts)));
    assert_eq!((&told["actor"]["kind"], &told["actor"]["name"]), (&json!("command"), &json!(user())), "{told}");
    gateway.drop_module("shop/sale.wasm", b"no module");
    let refused = entry(&gateway, "module_refuse").await;
    assert_eq!(refused["details"]["digest"], digest_of(b"no module"));
    assert!(refused["details"]["why"].as_str().is_some_and(|why| why.contains("expected")), "{refused}");

    // Reloads, by a signal and by a request.
    gateway.signal("HUP");
    let told = entry(&gateway, "settings_reload").await;
    assert_eq!(
        (&told["actor"]["kind"], &told["details"]),
        (&json!("gateway"), &json!({"changed": [], "needs_restart": []}))
    );
    assert_eq!(gateway.answer(gateway.request("POST", "/v1/settings/reload")).await.status, 200);
    eventually("the request is noted", async || {
        let told = trail(&gateway, "&action=settings_reload").await.remove(0);
        (told["actor"]["name"] == "machine" && told["request_id"].is_string()).then_some(())
    })
    .await;

    // Partitions, made for senders and dropped by retention, and migrations, by their own transactions.
    let late = json!({"session_id": crate::support::SESSION, "category": "a", "name": "b", "timestamp": "2019-05-05T00:00:00Z", "data": {}});
    assert_eq!(gateway.send(&late).await.status, 201);
    let made = trail(&gateway, "&action=partition_make&subject=events_2019_05").await;
    assert_eq!((made.len(), &made[0]["actor"]["kind"]), (1, &json!("gateway")), "{made:?}");
    let migrated = trail(&gateway, "&action=migrate").await;
    assert!(migrated.iter().any(|one| one["subject"] == "19" && one["actor"]["kind"] == "command"), "{migrated:?}");

    // What happens while the database is away, and what commands do while no gateway runs, comes later, once.
    server.down();
    gateway.unready().await;
    gateway.drop_module("shop/return.wasm", &module("accepts"));
    eventually("it is in the log", async || gateway.log().contains("subject=\"shop/return\"").then_some(())).await;
    server.up();
    gateway.is_ready().await;
    eventually("it is noted", async || trail(&gateway, "&subject=shop/return").await.pop()).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let retired = gateway.command_line(&["validator", "retire", "shop/return"]);
    assert!(retired.contains("is retired"), "{retired}");
    server.sql("update retention_rounds set cutoff = now() - interval '1 day', bytes_max = 0");
    gateway.set("EYE_EVENTS_DAYS", 60);
    gateway.set("EYE_RETENTION_SECONDS", 1);
    gateway.restart().await;
    let told = entry(&gateway, "validator_retire").await;
    assert_eq!((&told["subject"], &told["actor"]["kind"]), (&json!("shop/return"), &json!("command")));
    assert!(std::fs::read_dir(gateway.data_dir().join("audit")).is_ok_and(|mut notes| notes.next().is_none()));
    let dropped = entry(&gateway, "partition_drop").await;
    assert_eq!((&dropped["subject"], &dropped["details"]["cause"]), (&json!("events_2019_05"), &json!("age")));
    // The same module as before the restart is no change.
    let again = trail(&gateway, "&action=module_replace&subject=shop/sale").await;
    assert_eq!(again.len(), 3, "{again:?}");
    assert_eq!(gateway.figures().await.value("eye_audit_omitted_total", &[]), Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_is_read_by_filters_and_pages_by_administrators_alone() {
    let gateway = Gateway::start().await;
    for number in 0..5 {
        assert_eq!(manage(&gateway, "POST", "", &json!({"name": format!("shop {number}")})).await.status, 201);
    }
    let subjects = |entries: &[Value]| -> Vec<String> {
        entries.iter().map(|entry| entry["subject"].as_str().expect("a text").to_owned()).collect()
    };
    let all = trail(&gateway, "&action=application_add").await;
    assert_eq!(subjects(&all), ["shop 4", "shop 3", "shop 2", "shop 1", "shop 0"]);
    // Page by page it is the same, and as lines.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.get(&format!("/v1/audit?action=application_add&limit=2{cursor}")).await.json();
        paged.extend(page["entries"].as_array().expect("entries").clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all);
    let request = gateway.as_admin(gateway.request("GET", "/v1/audit?action=application_add"));
    let lines = gateway.answer(request.header("accept", "application/x-ndjson")).await;
    crate::support::openapi::check_lines("/v1/audit", &lines.text);
    let lines: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines, all);
    let at = all[2]["at"].as_str().expect("a time");
    assert_eq!(
        subjects(&trail(&gateway, &format!("&action=application_add&from={at}")).await),
        ["shop 4", "shop 3", "shop 2"]
    );
    assert_eq!(subjects(&trail(&gateway, &format!("&action=application_add&to={at}")).await), ["shop 1", "shop 0"]);
    assert_eq!(subjects(&trail(&gateway, "&subject=shop%203").await), ["shop 3"]);
    assert_eq!(trail(&gateway, "&actor=admin.token&action=application_add").await.len(), 5);
    assert_eq!(trail(&gateway, "&actor=application&action=application_add").await.len(), 5);
    assert_eq!(trail(&gateway, "&actor=command&action=application_add").await.len(), 0);
    assert_eq!(trail(&gateway, "&action=nothing").await.len(), 0);
    for wrong in ["action=", "from=yesterday", "actor=%00", "limit=0", "color=red", "cursor=x"] {
        let answer = gateway.get(&format!("/v1/audit?{wrong}")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_parameter")), "{wrong}: {answer:?}");
    }

    // Whoever may not read it, or manage the gateway, may ask as often as it likes: it has one entry an hour.
    let added = manage(&gateway, "POST", "", &json!({"name": "sender", "scopes": ["ingest", "read"]})).await.json();
    let sender = added["token"].as_str().expect("a token");
    for number in 0..300 {
        let path = ["/v1/audit", "/v1/applications", "/v1/applications/shop/revoke", "/v1/settings/reload"][number % 4];
        let method = if number % 4 < 2 { "GET" } else { "POST" };
        let asked = gateway.request(method, path);
        assert_eq!(gateway.answer(asked.bearer_auth(sender)).await.status, 403);
        let asked = gateway.request(method, path);
        assert_eq!(gateway.answer(asked.bearer_auth("eye_0000")).await.status, 401);
        assert_eq!(gateway.send(&pageview()).await.status, 201);
    }
    let refused = eventually("both are noted", async || {
        let refused = trail(&gateway, "&action=admin_refused").await;
        (refused.len() >= 2).then_some(refused)
    })
    .await;
    assert_eq!(refused.len(), 2, "{refused:?}");
    let known = refused.iter().find(|one| one["subject"] == "sender").expect("the application");
    let expected = json!({"code": "not_allowed", "count": 1, "method": "GET", "route": "/v1/audit"});
    assert_eq!((&known["actor"]["name"], &known["details"]), (&json!("sender"), &expected));
    let unknown = refused.iter().find(|one| one["subject"] == "127.0.0.0/24").expect("the network");
    assert_eq!((&unknown["actor"]["kind"], &unknown["peer"]), (&json!("gateway"), &json!("127.0.0.1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_has_a_retention_of_its_own() {
    let server = Server::start();
    server.prepare();
    server.sql(
        "insert into audit (at, action, actor) select now() - n * interval '1 day', 'redrive', 'gateway' \
             from generate_series(390, 3000) n; \
         update retention_rounds set cutoff = now() - interval '401 days', bytes_max = 0",
    );
    let setup = || Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_RETENTION_SECONDS", 1);
    let gateway = setup().start().await;
    eventually("what is older than 400 days is trimmed", async || {
        (server.sql("select count(*) from audit where at < now() - interval '400 days'") == "0").then_some(())
    })
    .await;
    assert_eq!(server.sql("select count(*) from audit where action = 'redrive'"), "10");
    drop(gateway);
    // A mistyped setting removes nothing without notice.
    let gateway = setup().with("EYE_AUDIT_DAYS", 4).start().await;
    eventually("it is announced", async || {
        (gateway.get("/readyz").await.json()["degraded"] == json!(["trimming_announced"])).then_some(())
    })
    .await;
    // All but what would fall due within the two days after the last round.
    assert_eq!(server.sql("select count(*) from audit where action = 'redrive'"), "8");
}
