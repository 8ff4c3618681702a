//! The end of tokens: rotations with lost answers, expiry, and final revocation; the records of their use; and scopes
//! that are too much for a very wide network.

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, eventually, pageview};

async fn manage(gateway: &Gateway, method: &str, path: &str, body: Value) -> Answer {
    let request = gateway.as_admin(gateway.request(method, &format!("/v1/applications{path}")));
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

/// The token in an answer.
fn token(answer: &Answer) -> String {
    answer.json()["token"].as_str().unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
}

async fn add(gateway: &Gateway, body: Value) -> String {
    token(&manage(gateway, "POST", "", body).await)
}

async fn sent(gateway: &Gateway, token: &str) -> Answer {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token).header("content-type", "application/json");
    gateway.answer(request.body(pageview().to_string())).await
}

async fn status(gateway: &Gateway, token: &str) -> u16 {
    sent(gateway, token).await.status
}

/// Runs `eye app ...` beside the gateway. Returns whether it succeeded, and its output or its message.
fn app(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let mut command = gateway.command_beside(&["app"]);
    let output = command.args(arguments).args(["--data-dir", "data"]).output().expect("the built program");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// The line of an application in the list.
fn listed(gateway: &Gateway, name: &str) -> String {
    let (done, list) = app(gateway, &["list"]);
    assert!(done, "{list}");
    list.lines().find(|line| line.starts_with(&format!("{name}\t"))).unwrap_or_else(|| panic!("{list}")).to_owned()
}

async fn becomes(gateway: &Gateway, token: &str, expected: u16) {
    eventually(&format!("the token is answered {expected}"), async || {
        (status(gateway, token).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_ends_no_token_that_senders_use() {
    let gateway = Gateway::start().await;
    let first = add(&gateway, json!({"name": "shop"})).await;
    assert_eq!(status(&gateway, &first).await, 201);
    // Twice over HTTP and twice by the command, as callers do that lost the answer.
    let mut lost = Vec::new();
    for _ in 0..2 {
        lost.push(token(&manage(&gateway, "POST", "/shop/rotate", json!({})).await));
        assert_eq!(status(&gateway, &first).await, 201, "the token of the senders");
    }
    for _ in 0..2 {
        let (done, made) = app(&gateway, &["rotate", "shop"]);
        assert!(done, "{made}");
        lost.push(made);
    }
    let newest = lost.pop().expect("the last");
    becomes(&gateway, &newest, 201).await;
    assert_eq!(status(&gateway, &first).await, 201);
    for ended in &lost {
        assert_eq!(status(&gateway, ended).await, 401, "one that nobody has used made room");
    }
    let shown = gateway.get("/v1/applications/shop").await.json();
    assert_eq!((&shown["tokens"], shown["token_details"].as_array().map(Vec::len)), (&json!(2), Some(2)), "{shown}");

    // Both are in use now: a third token would end one of them.
    let refused = manage(&gateway, "POST", "/shop/rotate", json!({})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("tokens_in_use")), "{refused:?}");
    let told = eventually("the command is told so too", async || {
        let (done, told) = app(&gateway, &["rotate", "shop"]);
        (!done).then_some(told)
    })
    .await;
    assert!(told.contains("--expire-old"), "{told}");
    assert_eq!((status(&gateway, &first).await, status(&gateway, &newest).await), (201, 201));
    // An older token that was not used for a day is replaced. The last rotation has recorded the uses.
    assert_eq!(manage(&gateway, "POST", "/shop/rotate", json!({})).await.status, 409);
    gateway
        .sql("update application_tokens set last_used_at = now() - interval '25 hours' where last_used_at is not null");
    let third = manage(&gateway, "POST", "/shop/rotate", json!({})).await;
    assert_eq!(third.status, 200, "{third:?}");
    let third = token(&third);
    assert_eq!((status(&gateway, &first).await, status(&gateway, &newest).await), (401, 201));
    assert_eq!(manage(&gateway, "POST", "/shop/rotate", json!({"expire_old": true})).await.status, 200);
    assert_eq!((status(&gateway, &newest).await, status(&gateway, &third).await), (401, 201));
}

#[tokio::test]
async fn what_was_revoked_stays_so_and_what_was_suspended_comes_back() {
    let gateway = Gateway::start().await;
    let here = json!({"name": "here", "networks": ["127.0.0.1/32"], "scopes": ["ingest"]});
    assert_eq!(manage(&gateway, "POST", "", here).await.status, 201);
    let shop = add(&gateway, json!({"name": "shop", "note": "till 7"})).await;
    let name = async || {
        assert_eq!(gateway.send(&pageview()).await.status, 201);
        gateway.sql(
            "select a.name from events join applications a on a.id = application_id order by received_at desc limit 1",
        )
    };
    assert_eq!(name().await, "here", "the smallest network decides");
    assert!(listed(&gateway, "shop").contains("\tactive\t") && listed(&gateway, "shop").ends_with("\ttill 7"));
    // Suspended and active again, for both kinds.
    for (path, arguments) in [("/here", ["change", "here", "--active"]), ("/shop", ["change", "shop", "--active"])] {
        assert_eq!(manage(&gateway, "PATCH", path, json!({"active": false})).await.json()["state"], "suspended");
        assert!(listed(&gateway, &path[1..]).contains("\tsuspended\t"));
        assert!(app(&gateway, &[&arguments[..], &["true"]].concat()).0);
        let shown = gateway.get(&format!("/v1/applications{path}")).await.json();
        assert_eq!((&shown["state"], &shown["revoked_at"]), (&json!("active"), &Value::Null));
    }
    becomes(&gateway, &shop, 201).await;
    assert_eq!(name().await, "here");

    for path in ["/here", "/shop"] {
        let revoked = manage(&gateway, "POST", &format!("{path}/revoke"), json!({})).await.json();
        assert_eq!((&revoked["state"], &revoked["active"]), (&json!("revoked"), &json!(false)), "{revoked}");
        assert!(revoked["revoked_at"].is_string(), "{revoked}");
        assert!(listed(&gateway, &path[1..]).contains("\trevoked\t"));
        for body in [json!({"active": true}), json!({"scopes": ["admin"]}), json!({"note": "back"})] {
            let refused = manage(&gateway, "PATCH", path, body).await;
            assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("revoked")), "{refused:?}");
        }
        let (done, told) = app(&gateway, &["change", &path[1..], "--active", "true"]);
        assert!(!done && told.contains("was revoked, and stays so"), "{told}");
        assert_eq!(manage(&gateway, "POST", &format!("{path}/rotate"), json!({})).await.status, 404);
        assert_eq!(manage(&gateway, "POST", &format!("{path}/revoke"), json!({})).await.status, 404);
    }
    assert_eq!(name().await, "local", "its network opens nothing any more");
    assert_eq!(status(&gateway, &shop).await, 401);
    assert_eq!(manage(&gateway, "POST", "", json!({"name": "here"})).await.status, 409, "its name stays taken");

    // A program of the last release knows no revocation: what it revokes is revoked, and it brings nothing back.
    let old = add(&gateway, json!({"name": "old"})).await;
    gateway.sql(
        "update applications set active = false, token_digests = '{}', certificate_digests = '{}', \
         retired_token_digests = (token_digests || retired_token_digests)[:16] where name = 'old'",
    );
    becomes(&gateway, &old, 401).await;
    assert!(listed(&gateway, "old").contains("\trevoked\t"));
    let back = "do $$ begin update applications set active = true where name in ('old', 'here'); \
         exception when check_violation then raise notice 'refused'; end $$; \
         select count(*) from applications where active and name in ('old', 'here')";
    assert_eq!(gateway.sql(back), "0");
}

#[tokio::test]
async fn a_token_whose_time_is_over_is_told_so() {
    let gateway = Gateway::start().await;
    let made = manage(&gateway, "POST", "", json!({"name": "shop", "expires": "90d"})).await;
    let first = token(&made);
    let ends = made.json()["token_details"][0]["expires_at"].as_str().expect("an end").to_owned();
    let in_days = gateway.sql(&format!("select round(extract(epoch from '{ends}'::timestamptz - now()) / 86400)"));
    assert_eq!(in_days, "90", "{ends}");
    assert_eq!(status(&gateway, &first).await, 201);
    assert!(listed(&gateway, "shop").contains(&format!("\texpires {ends}")));
    let figures = gateway.figures().await;
    let ends_in_metrics =
        |name| figures.value("eye_token_expires_seconds", &[("application", name)]).map(|end| end.to_string());
    let epoch = gateway.sql(&format!("select floor(extract(epoch from '{ends}'::timestamptz))::bigint"));
    assert_eq!((ends_in_metrics("shop"), ends_in_metrics("local")), (Some(epoch), Some("0".to_owned())));
    assert!(figures.value("eye_applications_age_seconds", &[]).is_some_and(|age| age < 30.0));
    for wrong in ["soon", "0d", "2001-01-01", "2001-01-01T00:00:00Z", "5000d"] {
        let refused = manage(&gateway, "POST", "", json!({"name": "x", "expires": wrong})).await;
        assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("expires")), "{wrong}: {refused:?}");
        let (done, told) = app(&gateway, &["add", "x", "--token", "--expires", wrong]);
        assert!(!done, "{wrong}: {told}");
        assert_eq!(manage(&gateway, "POST", "/shop/rotate", json!({"expires": wrong})).await.status, 400);
    }
    assert_eq!(gateway.sql("select count(*) from applications where name = 'x'"), "0");

    // It expires while the gateway runs, without a notification.
    gateway.sql("update application_tokens set expires_at = now() + interval '3 seconds' where expires_at is not null");
    eventually("its time is over", async || {
        let answer = sent(&gateway, &first).await;
        assert!([201, 401].contains(&answer.status), "{answer:?}");
        (answer.status == 401).then(|| assert_eq!(answer.json()["code"], "token_expired", "{answer:?}"))
    })
    .await;
    let shown = gateway.get("/v1/applications/shop").await.json();
    assert_eq!(
        (&shown["state"], &shown["tokens"], &shown["refused"]["expired_token"]),
        (&json!("active"), &json!(0), &json!(1))
    );
    let read = gateway.answer(gateway.request("GET", "/v1/events").bearer_auth(&first)).await;
    assert_eq!((read.status, &read.json()["code"]), (401, &json!("token_expired")));
    assert_eq!(read.headers["www-authenticate"], "Bearer");

    // A rotation does not keep it, and a token without an end replaces it.
    let (done, second) = app(&gateway, &["rotate", "shop"]);
    assert!(done, "{second}");
    becomes(&gateway, &second, 201).await;
    let answer = sent(&gateway, &first).await;
    assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("token_expired")), "also once it was ended");
    let (done, third) = app(&gateway, &["rotate", "shop", "--expires", "2100-01-01"]);
    assert!(done, "{third}");
    becomes(&gateway, &third, 201).await;
    assert!(listed(&gateway, "shop").contains("\texpires 2100-01-01T00:00:00.000000Z"));
    // A program of the last release knows no expiry, so an expired token is ended for it too.
    assert_eq!(gateway.sql("select cardinality(token_digests) from applications where name = 'shop'"), "2");
    // After a revocation the answer is that of an unknown token, and not of an expired one.
    assert_eq!(manage(&gateway, "DELETE", "/shop", json!({})).await.status, 200);
    assert_eq!(sent(&gateway, &first).await.json()["code"], "unknown_sender");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_of_each_token_is_noted_and_costs_no_write_for_each_request() {
    let gateway = Gateway::start().await;
    let first = add(&gateway, json!({"name": "shop"})).await;
    let never = gateway.get("/v1/applications/shop").await.json();
    assert_eq!(never["token_details"][0]["last_used_at"], Value::Null, "{never}");
    assert!(listed(&gateway, "shop").contains("\tused never\t"));
    let second = token(&manage(&gateway, "POST", "/shop/rotate", json!({})).await);
    let used = async |place: usize| {
        let shown = gateway.get("/v1/applications/shop").await.json();
        shown["token_details"][place]["last_used_at"].as_str().map(str::to_owned)
    };
    for _ in 0..200 {
        assert_eq!(status(&gateway, &first).await, 201);
    }
    let noted = eventually("its first use is noted", async || used(0).await).await;
    assert_eq!(used(1).await, None, "the other was not used");
    let row = || gateway.sql(&format!("select xmin from application_tokens where last_used_at = '{noted}'"));
    let written = row();
    for _ in 0..200 {
        assert_eq!(status(&gateway, &first).await, 201);
    }
    assert_eq!(status(&gateway, &second).await, 201);
    eventually("the use of the other is noted", async || used(1).await).await;
    assert_eq!((used(0).await, row()), (Some(noted.clone()), written), "within a minute it is written once");
    // A gateway that stops records the uses that are due.
    gateway.sql("update application_tokens set last_used_at = last_used_at - interval '2 minutes'");
    assert_eq!(status(&gateway, &first).await, 201);
    let mut gateway = gateway;
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    let shown = gateway.get("/v1/applications/shop").await.json();
    assert!(shown["token_details"][0]["last_used_at"].as_str() >= Some(noted.as_str()), "{shown} {noted}");
}

#[tokio::test]
async fn no_cache_keeps_a_token() {
    let gateway = Gateway::start().await;
    for (method, path, body) in [
        ("POST", "", json!({"name": "shop"})),
        ("POST", "/shop/rotate", json!({})),
        ("PATCH", "/shop", json!({"note": "x"})),
        ("GET", "/shop", json!({})),
        ("GET", "", json!({})),
        ("POST", "/shop/revoke", json!({})),
    ] {
        let answer = manage(&gateway, method, path, body).await;
        assert!(answer.status < 300, "{answer:?}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{method} {path}");
    }
}

#[tokio::test]
async fn much_is_not_given_to_a_large_part_of_the_internet() {
    let gateway = Gateway::start().await;
    for (network, scope) in [("0.0.0.0/0", "admin"), ("::/0", "admin"), ("0.0.0.0/0", "raw"), ("128.0.0.0/1", "admin")]
    {
        let body = json!({"name": "all", "networks": [network], "scopes": [scope]});
        let refused = manage(&gateway, "POST", "", body).await;
        assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("networks")), "{refused:?}");
        let (done, told) = app(&gateway, &["add", "all", "--network", network, "--scope", scope]);
        assert!(!done && told.contains("--force") && told.contains(network), "{told}");
    }
    assert_eq!(gateway.sql("select count(*) from applications where name = 'all'"), "0");
    // Two steps have the same result.
    assert!(app(&gateway, &["add", "all", "--network", "0.0.0.0/0", "--scope", "ingest"]).0);
    assert_eq!(manage(&gateway, "PATCH", "/all", json!({"scopes": ["admin"]})).await.status, 400);
    assert!(!app(&gateway, &["change", "all", "--scope", "raw"]).0);
    assert!(app(&gateway, &["change", "all", "--network", "10.0.0.0/8", "--scope", "raw"]).0);
    assert!(!app(&gateway, &["change", "all", "--network", "::/0"]).0);
    assert_eq!(manage(&gateway, "PATCH", "/all", json!({"networks": ["::/0"], "force": true})).await.status, 200);
    assert!(app(&gateway, &["add", "everybody", "--network", "0.0.0.0/0", "--scope", "admin", "--force"]).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_could_read_the_applications_needs_nothing_more() {
    let server = Server::start();
    server.prepare();
    // The role has the rights that the documentation of the last release lists.
    server.sql(
        "create role gate login; grant usage on schema public to gate; \
         grant select, insert on events, dead_letters, event_types, modules, count_deltas to gate; \
         grant update on dead_letters to gate; grant delete on count_deltas to gate; \
         grant select, insert, update, delete on counts to gate; \
         grant select on applications, _sqlx_migrations, schema_floor, retention_rounds to gate; \
         grant select, insert, update on redacting_types to gate; grant insert on scrubs to gate; \
         insert into applications (name, token_digests, known_by) values ('shop', array[sha256('eye_shop')], 'token')",
    );
    // The rights that the migration gives to existing roles, for a role that was made later.
    let migration = include_str!("../migrations/0018_token_facts.sql");
    let (_, grants) = migration.split_once("do $$\ndeclare").expect("the block that grants");
    server.sql(&format!("do $$\ndeclare{grants}"));
    let url = server.url().replace("postgres://postgres@", "postgres://gate@");
    let setup = Setup::default().with("EYE_DATABASE_URL", url).with_argument("--no-migrate");
    let gateway = setup.with("EYE_METRICS_LISTEN", "127.0.0.1:0").start().await;
    becomes(&gateway, "eye_shop", 201).await;
    // It sees the condition of the tables, except for default partitions: rights on a table do not reach those.
    let monitoring = gateway.announced("monitoring is answered").expect("its address");
    let metrics = eventually("the tables were looked at", async || {
        let answer = reqwest::get(format!("http://{monitoring}/metrics")).await.ok()?.text().await.ok()?;
        answer.contains("\neye_unfolded_count_rows ").then_some(answer)
    })
    .await;
    for (metric, is_there) in
        [("eye_table_bytes", true), ("eye_partitions_ahead_seconds", true), ("eye_default_partition_rows", false)]
    {
        assert_eq!(metrics.contains(&format!("\n{metric}{{table=\"events\"}} ")), is_there, "{metric}");
    }
    eventually("its use is noted", async || {
        (server.sql("select count(*) from application_tokens where last_used_at is not null") == "1").then_some(())
    })
    .await;
    // Without the right to record uses everything else works, and the log says so once.
    server.sql(
        "revoke insert, update on application_tokens from gate; update application_tokens set last_used_at = null",
    );
    server.sql(
        "insert into applications (name, token_digests, known_by) values ('till', array[sha256('eye_till')], 'token')",
    );
    becomes(&gateway, "eye_till", 201).await;
    eventually("it is told", async || gateway.log().contains("uses of tokens could not be recorded").then_some(()))
        .await;
    assert_eq!(status(&gateway, "eye_shop").await, 201);
    // Without the right to read them the expiry is unknown: the gateway says so and is not ready.
    server.sql("revoke select on application_tokens from gate");
    let blind = server.url().replace("postgres://postgres@", "postgres://gate@");
    let blind = Setup::default().with("EYE_DATABASE_URL", blind).with_argument("--no-migrate").listen().await;
    eventually("it is told", async || {
        let problem = blind.get("/readyz").await.json()["problem"].as_str().unwrap_or_default().to_owned();
        problem.contains("select on application_tokens").then_some(())
    })
    .await;
    assert_eq!(status(&blind, "eye_shop").await, 503);
}
