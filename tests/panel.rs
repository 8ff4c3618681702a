//! Signing in to the panel: codes that work once, sessions that count by cookie and header together, and what ends them.

use std::borrow::BorrowMut;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::readers::documented_role;
use crate::support::authority::{Authority, BOTH, shake, with_tls};
use crate::support::cluster::Server;
use crate::support::raw::Wire;
use crate::support::{Answer, Gateway, Setup, eventually, folder, pageview};

/// A code that nobody has made.
const WRONG: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

/// The cookie of a browser, and the secret that its tab keeps.
#[derive(Clone, Debug)]
struct Browser {
    cookie: String,
    secret: String,
}

impl Browser {
    /// Takes the cookie and the secret from the answer to a sign-in.
    fn of(answer: &Answer) -> Browser {
        assert_eq!(answer.status, 201, "{answer:?}");
        let cookie = answer.headers["set-cookie"].to_str().expect("text").split(';').next().expect("a pair").to_owned();
        let secret = answer.json()["secret"].as_str().expect("a secret").to_owned();
        Browser { cookie, secret }
    }

    /// Adds both to a request.
    fn shows(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.header("cookie", format!("theme=dark; {}", self.cookie)).header("x-eye-panel", &self.secret)
    }

    async fn asks(&self, gateway: &Gateway, method: &str, path: &str) -> Answer {
        gateway.answer(self.shows(gateway.request(method, path))).await
    }

    /// Waits until a read by this browser is answered so.
    async fn becomes(&self, gateway: &Gateway, expected: (u16, &str)) {
        eventually(&format!("the session is answered {expected:?}"), async || {
            let answer = self.asks(gateway, "GET", "/v1/categories").await;
            (answer.status == expected.0 && (expected.1.is_empty() || code_of(&answer) == expected.1)).then_some(())
        })
        .await;
    }
}

/// The code of a problem.
fn code_of(answer: &Answer) -> String {
    answer.json()["code"].as_str().unwrap_or_default().to_owned()
}

/// Gets a code for the application of a token.
async fn code(gateway: &Gateway, token: &str) -> String {
    let answer = gateway.answer(gateway.request("POST", "/v1/panel/codes").bearer_auth(token)).await;
    assert_eq!((answer.status, &answer.headers["cache-control"]), (201, &"no-store".parse().expect("a value")));
    answer.json()["code"].as_str().expect("a code").to_owned()
}

fn signing_in(gateway: &Gateway, code: &str) -> reqwest::RequestBuilder {
    let request = gateway.request("POST", "/v1/panel/session").header("content-type", "application/json");
    request.body(json!({"code": code}).to_string())
}

async fn sign_in(gateway: &Gateway, code: &str) -> Answer {
    gateway.answer(signing_in(gateway, code)).await
}

async fn signed_in(gateway: &Gateway, token: &str) -> Browser {
    Browser::of(&sign_in(gateway, &code(gateway, token).await).await)
}

/// Adds an application, and returns its token.
async fn add(gateway: &Gateway, body: Value) -> String {
    let request = gateway.as_admin(gateway.request("POST", "/v1/applications"));
    let answer = gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().expect("a token").to_owned()
}

async fn manage(gateway: &Gateway, method: &str, path: &str, body: Value) {
    let request = gateway.as_admin(gateway.request(method, &format!("/v1/applications{path}")));
    let answer = gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn database_url(gateway: &Gateway) -> String {
    format!("postgres://eye@localhost/eye?host={}", gateway.data_dir().join("run").display())
}

/// Whether a command succeeded, its output and its messages.
fn ran(mut command: impl BorrowMut<Command>) -> (bool, String, String) {
    let output = command.borrow_mut().output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The address and the code of an address that signs in.
fn parts(address: &str) -> (String, String) {
    let (base, code) = address.split_once("/#code=").unwrap_or_else(|| panic!("no address: {address:?}"));
    assert!(code.len() == 64 && code.bytes().all(|byte| byte.is_ascii_hexdigit()), "{address:?}");
    (base.to_owned(), code.to_owned())
}

/// All rows of all tables as text, with bytes in hexadecimal digits.
fn everything(gateway: &Gateway) -> String {
    let script = "set xmlbinary = 'hex';
        select string_agg(query_to_xml(format('select * from %I', tablename), true, false, '')::text, '')
        from pg_tables where schemaname = 'public'";
    gateway.sql(script).to_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_gives_one_session_however_many_gateways_are_asked() {
    let first = Gateway::start().await;
    let second = Setup::default().with("EYE_DATABASE_URL", database_url(&first)).start().await;
    let token = first.admin_token().expect("a token");
    let code = code(&first, &token).await;
    let sent = (0..20).map(|number| {
        let gateway = if number % 2 == 0 { &first } else { &second };
        gateway.answer(signing_in(gateway, &code))
    });
    let answers = futures_util::future::join_all(sent).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(lost.iter().all(|answer| answer.status == 401 && code_of(answer) == "unknown_code"), "{lost:?}");
    assert_eq!(first.sql("select count(*) from panel_sessions"), "1");
    let answer = won[0];
    assert_eq!(answer.json()["scopes"], json!(["admin"]), "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let cookie = answer.headers["set-cookie"].to_str().expect("text");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    // The host of both gateways is one, so a browser would send its cookie to both; its name is of one port.
    let browser = Browser::of(answer);
    for gateway in [&first, &second] {
        let port = gateway.address().rsplit_once(':').expect("a port").1;
        let (_, value) = browser.cookie.split_once('=').expect("a value");
        let here = Browser { cookie: format!("eye-panel-{port}={value}"), ..browser.clone() };
        let answer = here.asks(gateway, "GET", "/v1/applications").await;
        assert_eq!(answer.status, 200, "a session is known at once everywhere: {answer:?}");
        let shown = here.asks(gateway, "GET", "/v1/panel/session").await.json();
        assert_eq!((&shown["application"], &shown["idle_seconds"]), (&json!("admin.token"), &json!(7200)), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_session_is_nobody() {
    let gateway = Setup::default().with("EYE_CORS_ORIGINS", "https://shop.example").start().await;
    let token = gateway.admin_token().expect("a token");
    let (one, other) = (signed_in(&gateway, &token).await, signed_in(&gateway, &token).await);
    assert_eq!(gateway.answer(gateway.request("GET", "/v1/categories")).await.status, 200, "`local` reads");
    let mixed = Browser { cookie: one.cookie.clone(), secret: other.secret.clone() };
    let garbled = Browser { cookie: one.cookie.clone(), secret: one.secret[1..].to_owned() };
    let made_up = Browser { cookie: one.cookie.clone(), secret: WRONG.to_owned() };
    let ask = |method: &str, path: &str| gateway.request(method, path);
    for path in ["/v1/categories", "/v1/applications", "/v1/live", "/v1/panel/session", "/metrics"] {
        for (what, request) in [
            ("the cookie alone", ask("GET", path).header("cookie", &one.cookie)),
            (
                "an empty cookie",
                ask("GET", path).header("cookie", one.cookie.split('=').next().expect("a name").to_owned() + "="),
            ),
            ("the header alone", ask("GET", path).header("x-eye-panel", &one.secret)),
            ("an empty header", ask("GET", path).header("x-eye-panel", "")),
            ("of two sessions", mixed.shows(ask("GET", path))),
            ("garbled", garbled.shows(ask("GET", path))),
            ("made up", made_up.shows(ask("GET", path))),
            ("twice", one.shows(ask("GET", path)).header("x-eye-panel", &other.secret)),
        ] {
            let answer = gateway.answer(request).await;
            assert_eq!((answer.status, code_of(&answer).as_str()), (401, "no_session"), "{what}: {path}");
        }
    }
    let sent = ask("POST", "/v1/events").header("cookie", &one.cookie).header("content-type", "application/json");
    let sent = gateway.answer(sent.body(pageview().to_string())).await;
    assert_eq!(
        (sent.status, code_of(&sent).as_str()),
        (401, "no_session"),
        "`local` may send, and this is not `local`"
    );

    // What asks for nobody is answered, and a token decides alone.
    assert_eq!(gateway.answer(ask("GET", "/healthz").header("cookie", &one.cookie)).await.status, 200);
    assert_eq!(gateway.answer(mixed.shows(ask("GET", "/v1/applications")).bearer_auth(&token)).await.status, 200);
    assert_eq!(gateway.answer(one.shows(ask("GET", "/v1/applications")).bearer_auth("eye_0")).await.status, 401);
    let other_port = one.cookie.replacen("eye-panel-", "eye-panel-1", 1);
    assert_eq!(gateway.answer(ask("GET", "/v1/categories").header("cookie", other_port)).await.status, 200);
    for browser in [&one, &other] {
        assert_eq!(browser.asks(&gateway, "GET", "/v1/applications").await.status, 200);
    }
    let refused = gateway.figures().await.value("eye_strangers_refused_total", &[("kind", "unknown_session")]);
    assert!(refused.is_some_and(|refused| refused >= 40.0), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_use_no_session() {
    let gateway = Setup::default().with("EYE_CORS_ORIGINS", "https://shop.example").start().await;
    let token = gateway.admin_token().expect("a token");
    let browser = signed_in(&gateway, &token).await;
    let own = format!("http://{}", gateway.address());
    let event = |headers: &[(&str, &str)]| {
        let request = browser.shows(gateway.request("POST", "/v1/events")).header("content-type", "application/json");
        headers
            .iter()
            .fold(request.body(pageview().to_string()), |request, (name, value)| request.header(*name, *value))
    };
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "https://shop.example")],
        &[("origin", "http://127.0.0.1:1")],
        &[("origin", "null")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
    ] {
        let with = |request: reqwest::RequestBuilder| {
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        let answers = [
            gateway.answer(event(headers)).await,
            gateway.answer(with(browser.shows(gateway.request("DELETE", "/v1/panel/session")))).await,
            gateway.answer(with(browser.shows(gateway.request("POST", "/v1/settings/reload")))).await,
            gateway.answer(with(signing_in(&gateway, WRONG))).await,
            // A token in the request does not make a foreign page an own one.
            gateway.answer(with(signing_in(&gateway, WRONG)).bearer_auth(&token)).await,
        ];
        for answer in answers {
            assert_eq!((answer.status, code_of(&answer).as_str()), (403, "foreign_origin"), "{headers:?} {answer:?}");
            assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");
        }
        let read = gateway.answer(with(browser.shows(gateway.request("GET", "/v1/categories")))).await;
        assert_eq!((read.status, code_of(&read).as_str()), (401, "no_session"), "{headers:?}");
    }
    // A preflight never allows the header of a session.
    let preflight = gateway.request("OPTIONS", "/v1/events").header("origin", "https://shop.example");
    let preflight = preflight.header("access-control-request-method", "POST").send().await.expect("an answer");
    let allowed = preflight.headers()["access-control-allow-headers"].to_str().expect("text");
    assert!(!allowed.contains("x-eye-panel") && !preflight.headers().contains_key("access-control-allow-credentials"));
    assert_eq!(gateway.answer(event(&[("origin", &own), ("sec-fetch-site", "same-origin")])).await.status, 201);
    assert_eq!(browser.asks(&gateway, "DELETE", "/v1/panel/session").await.status, 200, "a program has no origin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_may_what_its_application_may_at_that_moment() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, json!({"name": "ops", "scopes": ["read", "ingest"], "event_types": ["shop/*"]})).await;
    let browser = signed_in(&gateway, &token).await;
    let send = async |event: Value| {
        let request = browser.shows(gateway.request("POST", "/v1/events")).header("content-type", "application/json");
        let answer = gateway.answer(request.body(event.to_string())).await;
        (answer.status, code_of(&answer))
    };
    let sale = || crate::support::event("shop", "sale", json!({}));
    assert_eq!(send(sale()).await.0, 201);
    assert_eq!(gateway.sql("select a.name from events join applications a on a.id = application_id"), "ops");
    assert_eq!(send(pageview()).await, (403, "not_allowed".to_owned()), "an event type of others");
    let refused = browser.asks(&gateway, "GET", "/v1/applications").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (403, "not_allowed"));
    let refused = browser.asks(&gateway, "POST", "/v1/panel/codes").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (403, "token_needed"), "a session makes no other");
    let refused = gateway.answer(gateway.request("POST", "/v1/panel/codes")).await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (403, "token_needed"), "`local` has no token");

    // A stream that is open ends with the right to read.
    let mut live = browser.shows(gateway.request("GET", "/v1/live")).send().await.expect("an answer");
    assert_eq!(live.status(), 200);
    manage(&gateway, "PATCH", "/ops", json!({"scopes": ["read"]})).await;
    assert_eq!(send(sale()).await, (403, "not_allowed".to_owned()));
    let shown = browser.asks(&gateway, "GET", "/v1/panel/session").await.json();
    assert_eq!((&shown["application"], &shown["scopes"]), (&json!("ops"), &json!(["read"])));
    manage(&gateway, "PATCH", "/ops", json!({"scopes": ["ingest"]})).await;
    let refused = browser.asks(&gateway, "GET", "/v1/categories").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (403, "not_allowed"));
    tokio::time::timeout(Duration::from_secs(60), async { while let Ok(Some(_)) = live.chunk().await {} })
        .await
        .expect("the stream ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_a_session_ends_it_everywhere() {
    let gateway = Gateway::start().await;
    let second = Setup::default().with("EYE_DATABASE_URL", database_url(&gateway)).start().await;
    let token = add(&gateway, json!({"name": "ops", "scopes": ["read"]})).await;
    let on_second = |browser: &Browser| {
        let ports = [&gateway, &second].map(|one| one.address().rsplit_once(':').expect("a port").1.to_owned());
        Browser { cookie: browser.cookie.replacen(&ports[0], &ports[1], 1), secret: browser.secret.clone() }
    };
    let over = (401, "no_session");
    let is_over = async |browser: &Browser| {
        browser.becomes(&gateway, over).await;
        on_second(browser).becomes(&second, over).await;
    };
    let open = async |token: &str| {
        let browser = signed_in(&gateway, token).await;
        browser.becomes(&gateway, (200, "")).await;
        on_second(&browser).becomes(&second, (200, "")).await;
        browser
    };

    let browser = open(&token).await;
    let kept = open(&token).await;
    let answer = browser.asks(&gateway, "DELETE", "/v1/panel/session").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"signed_out": true})));
    assert!(answer.headers["set-cookie"].to_str().expect("text").ends_with("Max-Age=0"), "{answer:?}");
    assert_eq!(browser.asks(&gateway, "GET", "/v1/panel/session").await.status, 401, "at once where it was asked");
    is_over(&browser).await;
    kept.becomes(&gateway, (200, "")).await;

    // By time, with the clock of the database.
    gateway.sql("update panel_sessions set ends_at = now()");
    is_over(&kept).await;
    let idle = open(&token).await;
    gateway.sql("update panel_sessions set last_used_at = now() - interval '2 hours'");
    is_over(&idle).await;
    // A use is recorded, so that the time begins again.
    let used = open(&token).await;
    gateway.sql("update panel_sessions set last_used_at = now() - interval '119 minutes'");
    used.becomes(&gateway, (200, "")).await;
    add(&gateway, json!({"name": "other"})).await;
    manage(&gateway, "POST", "/other/rotate", json!({})).await;
    let recent = "select count(*) from panel_sessions where last_used_at > now() - interval '1 minute'";
    assert_eq!(gateway.sql(recent), "1");

    // By what is done to the application.
    manage(&gateway, "POST", "/ops/rotate", json!({})).await;
    is_over(&used).await;
    let browser = open(&token).await;
    let unused = code(&gateway, &token).await;
    manage(&gateway, "POST", "/ops/rotate", json!({"expire_old": true})).await;
    is_over(&browser).await;
    assert_eq!(code_of(&sign_in(&gateway, &unused).await), "unknown_code", "a code ends with the tokens too");

    let token = add(&gateway, json!({"name": "tmp", "scopes": ["read"], "expires": "1h"})).await;
    let ends = sign_in(&gateway, &code(&gateway, &token).await).await.json()["ends_at"].clone();
    let within = format!("select '{}'::timestamptz <= now() + interval '1 hour'", ends.as_str().expect("a time"));
    assert_eq!(gateway.sql(&within), "t", "a session does not outlive the token that asked for it");
    let (suspended, revoked) = (open(&token).await, code(&gateway, &token).await);
    manage(&gateway, "PATCH", "/tmp", json!({"active": false})).await;
    is_over(&suspended).await;
    manage(&gateway, "PATCH", "/tmp", json!({"active": true})).await;
    let browser = open(&token).await;
    manage(&gateway, "DELETE", "/tmp", json!({})).await;
    is_over(&browser).await;
    assert_eq!(code_of(&sign_in(&gateway, &revoked).await), "unknown_code");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_and_sessions_of_an_application_are_bounded() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, json!({"name": "ops", "scopes": ["read"]})).await;
    let late = code(&gateway, &token).await;
    gateway.sql("update panel_codes set expires_at = now()");
    assert_eq!(code_of(&sign_in(&gateway, &late).await), "unknown_code", "after ten minutes");
    let ten_minutes = "select count(*) from panel_codes where expires_at = made_at + interval '10 minutes'";
    let first = code(&gateway, &token).await;
    assert_eq!(gateway.sql(ten_minutes), "1");
    let mut codes = Vec::new();
    for _ in 0..10 {
        codes.push(code(&gateway, &token).await);
    }
    assert_eq!(code_of(&sign_in(&gateway, &first).await), "unknown_code", "the eleventh has ended the first");
    let browser = Browser::of(&sign_in(&gateway, &codes[0]).await);
    gateway.sql(
        "update panel_sessions set last_used_at = now() - interval '1 minute';
         insert into panel_sessions (digest, application_id, tokens_digest, ends_at)
         select sha256(number::text::bytea), application_id, tokens_digest, ends_at
         from panel_sessions, generate_series(1, 19) number",
    );
    let next = Browser::of(&sign_in(&gateway, &codes[1]).await);
    assert_eq!(gateway.sql("select count(*) from panel_sessions"), "20");
    browser.becomes(&gateway, (401, "no_session")).await;
    next.becomes(&gateway, (200, "")).await;
    gateway.sql(
        "insert into panel_codes (digest, application_id, tokens_digest)
         select sha256(number::text::bytea), application_id, tokens_digest
         from (select codes.* from panel_codes codes join applications on id = application_id where name = 'ops' limit 1) one, generate_series(1, 60) number",
    );
    let refused = gateway.answer(gateway.request("POST", "/v1/panel/codes").bearer_auth(&token)).await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (429, "too_many_attempts"));
    assert_eq!(refused.headers["retry-after"], "600");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_bounded_and_right_codes_are_not() {
    let gateway = Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    let token = gateway.admin_token().expect("a token");
    let from = async |address: &str, code: &str| {
        gateway.answer(signing_in(&gateway, code).header("x-forwarded-for", address)).await
    };
    for body in ["", "{", "[]", "{\"code\":7}", "{\"code\":\"x\",\"more\":1}", "\"hush\""] {
        let request = gateway.request("POST", "/v1/panel/session").header("content-type", "application/json");
        let answer = gateway.answer(request.body(body)).await;
        assert!(answer.status == 400 && !answer.text.contains("hush"), "{body}: {answer:?}");
    }
    let form = gateway.request("POST", "/v1/panel/session").header("content-type", "text/plain").body("{}");
    assert_eq!(gateway.answer(form).await.status, 415, "a page cannot send it without a preflight");
    let long = signing_in(&gateway, &"x".repeat(2_000));
    assert_eq!(gateway.answer(long).await.status, 413);
    let query =
        gateway.request("POST", "/v1/panel/session?code=x").header("content-type", "application/json").body("{}");
    assert_eq!(code_of(&gateway.answer(query).await), "bad_parameter");
    for number in 0..12 {
        let right = code(&gateway, &token).await;
        assert_eq!(from("198.51.100.7", &right).await.status, 201, "{number}");
    }
    for _ in 0..10 {
        let answer = from("198.51.100.7", WRONG).await;
        assert_eq!((answer.status, code_of(&answer).as_str()), (401, "unknown_code"));
    }
    let right = code(&gateway, &token).await;
    let answer = from("198.51.100.7", &right).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (429, "too_many_attempts"));
    let wait: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=7).contains(&wait), "{wait}");
    assert_eq!(from("198.51.100.8", &right).await.status, 201, "another address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_database_or_in_the_log() {
    let gateway = Setup::default().with("EYE_LOG_LEVEL", "debug").with("EYE_ACCESS_LOG", "all").start().await;
    let token = add(&gateway, json!({"name": "ops", "scopes": ["admin"]})).await;
    let unused = code(&gateway, &token).await;
    let used = code(&gateway, &token).await;
    let browser = Browser::of(&sign_in(&gateway, &used).await);
    assert_eq!(sign_in(&gateway, WRONG).await.status, 401);
    let half = gateway.request("GET", "/v1/audit").header("cookie", &browser.cookie);
    assert_eq!(gateway.answer(half).await.status, 401);
    let made = browser.shows(gateway.request("POST", "/v1/applications")).header("content-type", "application/json");
    assert_eq!(gateway.answer(made.body(json!({"name": "till"}).to_string())).await.status, 201);
    let (done, printed, _) = ran(gateway.command_beside(&["panel", "--data-dir", "data"]));
    assert!(done);
    assert_eq!(browser.asks(&gateway, "DELETE", "/v1/panel/session").await.status, 200);
    let log = eventually("the log has it", async || {
        let log = gateway.log();
        (log.contains("panel_sign_out") && log.contains("DELETE")).then_some(log)
    })
    .await;
    let rows = everything(&gateway);
    let cookie = browser.cookie.split_once('=').expect("a value").1.to_owned();
    let printed = parts(&printed).1;
    for (what, secret) in [
        ("an unused code", &unused),
        ("a used code", &used),
        ("a wrong code", &WRONG.to_owned()),
        ("the code of a command", &printed),
        ("the cookie", &cookie),
        ("the secret of the tab", &browser.secret),
    ] {
        assert!(!log.contains(secret.as_str()) && !rows.contains(secret.as_str()), "{what} is there to be read");
    }
    let digest = eye_event::verdict::Digest::of(unused.as_bytes()).to_string();
    assert!(rows.contains(&digest), "the digest is there, so this test looks where it must");

    // The audit trail tells who, and by which way.
    let trail = gateway.get("/v1/audit?limit=50").await.json();
    let entry = |action: &str, subject: &str| {
        let mut entries = trail["entries"].as_array().expect("entries").iter();
        let found = entries.find(|entry| entry["action"] == action && entry["subject"] == subject);
        found.unwrap_or_else(|| panic!("{action} {subject}: {trail:#}")).clone()
    };
    let made = entry("panel_code", "ops");
    assert!(made["actor"]["name"] == "ops" && made["actor"]["token_id"].is_string(), "{made}");
    assert_eq!(entry("panel_code", "admin.token")["actor"]["kind"], "command");
    let signed = entry("panel_sign_in", "ops");
    assert_eq!((&signed["actor"]["name"], &signed["peer"]), (&json!("ops"), &json!("127.0.0.1")), "{signed}");
    for entry in [signed.clone(), entry("application_add", "till"), entry("panel_sign_out", "ops")] {
        assert_eq!(entry["details"]["way"], "panel session", "{entry}");
        assert_eq!(entry["details"]["panel_session"], signed["details"]["panel_session"], "{entry}");
        assert_eq!((&entry["actor"]["name"], &entry["actor"]["token_id"]), (&json!("ops"), &Value::Null), "{entry}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_needs_its_network_needs_it_in_a_browser_too() {
    let gateway = Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    let token =
        add(&gateway, json!({"name": "ops", "scopes": ["read"], "networks": ["203.0.113.0/24"], "token": true})).await;
    let from = |request: reqwest::RequestBuilder, address: &str| request.header("x-forwarded-for", address.to_owned());
    let asked = gateway.request("POST", "/v1/panel/codes").bearer_auth(&token);
    let code = gateway.answer(from(asked, "203.0.113.9")).await.json()["code"].as_str().expect("a code").to_owned();
    let browser = Browser::of(&sign_in(&gateway, &code).await);
    let read = async |address: &str| {
        gateway.answer(from(browser.shows(gateway.request("GET", "/v1/categories")), address)).await.status
    };
    assert_eq!((read("203.0.113.9").await, read("198.51.100.9").await), (200, 401));
    gateway.sql("update applications set known_by = 'network' where name = 'ops'");
    browser.becomes(&gateway, (401, "no_session")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_panel_there_is_nothing_to_sign_in_to() {
    let gateway = Gateway::start().await;
    let off =
        Setup::default().with("EYE_DATABASE_URL", database_url(&gateway)).with("EYE_PANEL", "false").start().await;
    let token = gateway.admin_token().expect("a token");
    let browser = signed_in(&gateway, &token).await;
    let port = off.address().rsplit_once(':').expect("a port").1.to_owned();
    let value = browser.cookie.split_once('=').expect("a value").1.to_owned();
    let there = Browser { cookie: format!("eye-panel-{port}={value}"), ..browser.clone() };
    for (method, path) in [
        ("POST", "/v1/panel/codes"),
        ("POST", "/v1/panel/session"),
        ("GET", "/v1/panel/session"),
        ("DELETE", "/v1/panel/session"),
        ("TRACE", "/v1/panel/session"),
        ("GET", "/v1/panel/nothing"),
    ] {
        for request in [off.request(method, path), off.request(method, path).bearer_auth(&token)] {
            assert_eq!(request.send().await.expect("an answer").status(), 404, "{method} {path}");
        }
    }
    let refused = there.asks(&off, "GET", "/v1/categories").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (401, "no_session"), "no session is open there");
    browser.becomes(&gateway, (200, "")).await;
    let url = format!("http://{}", off.address());
    let (done, out, said) = ran(gateway.command_beside(&["panel"]).env("EYE_GATEWAY", &url).env("EYE_TOKEN", &token));
    assert!(!done && out.is_empty() && said.contains("panel = false") && said.contains("admin_listen"), "{said}");
    let (done, out, said) = ran(gateway
        .command_beside(&["panel"])
        .env("EYE_DATABASE_URL", database_url(&gateway))
        .env("EYE_PANEL", "false"));
    assert!(!done && out.is_empty() && said.contains("panel = false"), "{said}");

    let mut alone = Setup::default().with("EYE_PANEL", "false").start().await;
    assert!(!alone.log().contains("#code=") && !alone.log().contains("eye panel"), "{}", alone.log());
    let (done, out, said) = ran(alone.command_beside(&["panel", "--data-dir", "data"]));
    assert!(!done && out.is_empty() && said.contains("panel = false"), "{said}");
    alone.signal("TERM");
    alone.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_panel_is_at_the_address_for_administration_alone() {
    let gateway = Setup::default().with("EYE_ADMIN_LISTEN", "127.0.0.1:0").start().await;
    let admin = gateway.announced("reading and administration are answered").expect("the other address");
    let (done, printed, said) = ran(gateway.command_beside(&["panel", "--data-dir", "data"]));
    assert!(done, "{said}");
    let (base, code) = parts(&printed);
    assert_eq!(base, format!("http://{admin}"));
    let at = |address: &str, code: &str| {
        let request =
            gateway.request_at(address, "POST", "/v1/panel/session").header("content-type", "application/json");
        gateway.answer(request.body(json!({"code": code}).to_string()))
    };
    assert_eq!(at(gateway.address(), &code).await.status, 404);
    let browser = Browser::of(&at(&admin, &code).await);
    let read = |address: &str, path: &str| gateway.answer(browser.shows(gateway.request_at(address, "GET", path)));
    assert_eq!(read(&admin, "/v1/applications").await.status, 200);
    let there = browser.shows(gateway.request("GET", "/v1/applications")).send().await.expect("an answer");
    assert_eq!(there.status(), 404);
    // Even with the name that the cookie would have for the other port, a session sends nothing there.
    let port = gateway.address().rsplit_once(':').expect("a port").1;
    let value = browser.cookie.split_once('=').expect("a value").1.to_owned();
    let there = Browser { cookie: format!("eye-panel-{port}={value}"), ..browser.clone() };
    let sent = there.shows(gateway.request("POST", "/v1/events")).header("content-type", "application/json");
    let sent = gateway.answer(sent.body(pageview().to_string())).await;
    assert_eq!((sent.status, code_of(&sent).as_str()), (401, "no_session"));
    let url = format!("http://{}", gateway.address());
    let token = gateway.admin_token().expect("a token");
    let (done, _, said) = ran(gateway.command_beside(&["panel"]).env("EYE_GATEWAY", url).env("EYE_TOKEN", token));
    assert!(!done && said.contains("admin_listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_cookie_is_for_tls_and_this_host_alone() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls(&authority, &files).await;
    let port = gateway.address().rsplit_once(':').expect("a port").1.to_owned();
    let (done, printed, said) = ran(gateway.command_beside(&["panel", "--data-dir", "data"]));
    assert!(done, "{said}");
    let (base, code) = parts(&printed);
    assert_eq!(base, format!("https://{}", gateway.address()));
    let ask = async |method: &str, path: &str, headers: &str, body: &str| {
        let mut wire = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-length: {}\r\n", body.len());
        wire.write(format!("{head}{headers}\r\n{body}").as_bytes()).await;
        wire.answer().await.expect("an answer")
    };
    let body = json!({"code": code}).to_string();
    let json_type = "content-type: application/json\r\n";
    let plain = format!("{json_type}origin: http://localhost:{port}\r\n");
    assert_eq!(ask("POST", "/v1/panel/session", &plain, &body).await.status, 403, "a page that came without TLS");
    let answer =
        ask("POST", "/v1/panel/session", &format!("{json_type}origin: https://localhost:{port}\r\n"), &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.starts_with(&format!("__Host-eye-panel-{port}=")), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/; Secure"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    let secret =
        serde_json::from_str::<Value>(&answer.body).expect("JSON")["secret"].as_str().expect("text").to_owned();
    let shown = format!("cookie: {pair}\r\nx-eye-panel: {secret}\r\n");
    assert_eq!(ask("GET", "/v1/applications", &shown, "").await.status, 200);
    assert_eq!(ask("GET", "/v1/applications", &format!("cookie: {pair}\r\n"), "").await.status, 401);

    // A command asks over TLS too, and gives back the address that it asked.
    let url = format!("https://localhost:{port}");
    let mut command = gateway.command_beside(&["panel"]);
    command.env("EYE_GATEWAY", &url).env("EYE_TOKEN", gateway.admin_token().expect("a token"));
    let (done, printed, said) = ran(command.env("SSL_CERT_FILE", files.path().join("ca.pem")));
    assert!(done, "{said}");
    assert_eq!(parts(&printed).0, url);

    // A proxy that ends TLS is seen by the origin that the browser names.
    let behind = Gateway::start().await;
    let token = behind.admin_token().expect("a token");
    let origin = format!("https://{}", behind.address());
    let code = self::code(&behind, &token).await;
    let answer = behind.answer(signing_in(&behind, &code).header("origin", origin)).await;
    let cookie = answer.headers["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.starts_with("__Host-eye-panel-") && cookie.ends_with("; Secure"), "{cookie}");
    assert_eq!(Browser::of(&answer).asks(&behind, "GET", "/v1/applications").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_finds_its_gateway_or_database_by_each_way() {
    let gateway = Gateway::start().await;
    let (url, own) = (format!("http://{}", gateway.address()), database_url(&gateway));
    let (url, own) = (url.as_str(), own.as_str());
    // The first one is in the log of the start, in the line that says who is trusted.
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("trusted: callers from this machine")).expect("the line");
    let at_start = line.split_whitespace().find(|word| word.contains("#code=")).expect("an address");
    let (base, code) = parts(at_start);
    assert_eq!((base.as_str(), sign_in(&gateway, &code).await.status), (url, 201), "{line}");

    let token = add(&gateway, json!({"name": "ops", "scopes": ["read"]})).await;
    let admin = gateway.admin_token().expect("a token");
    let panel = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = gateway.command_beside(&[&["panel"], arguments].concat());
        ran(command.envs(environment.iter().copied()))
    };
    for (arguments, environment, base, application, found) in [
        (&["--data-dir", "data"][..], &[][..], url, "admin.token", "data dir data, whose gateway runs"),
        (&["--data-dir", "data", "--application", "ops"], &[], url, "ops", "whose gateway runs"),
        (&[], &[("EYE_DATA_DIR", "data")], url, "admin.token", "whose gateway runs"),
        (&[], &[("EYE_GATEWAY", url), ("EYE_TOKEN", &token)], url, "ops", "with the token of EYE_TOKEN"),
        (&[], &[("EYE_GATEWAY", url), ("EYE_DATA_DIR", "data")], url, "admin.token", "data/admin.token"),
        (&[], &[("EYE_DATABASE_URL", own), ("EYE_LISTEN", gateway.address())], url, "admin.token", "EYE_DATABASE_URL"),
        (
            &["--database-url", own, "--application", "ops"],
            &[("EYE_LISTEN", "0.0.0.0:1")],
            "http://127.0.0.1:1",
            "ops",
            "--database-url",
        ),
    ] {
        let (done, out, said) = panel(arguments, environment);
        assert!(done, "{arguments:?} {environment:?}: {said}");
        assert!(said.contains(found) && said.contains(&format!("for the application {application},")), "{said}");
        assert_eq!(out.lines().count(), 1, "{out}");
        let (printed, code) = parts(&out);
        assert_eq!(printed, base, "{arguments:?} {environment:?}");
        assert!(!said.contains(&code) && !said.contains(&token) && !said.contains(&admin), "{said}");
        let answer = sign_in(&gateway, &code).await;
        assert_eq!((answer.status, &answer.json()["application"]), (201, &json!(application)), "{arguments:?}");
    }
    for (arguments, environment, why) in [
        (&["--data-dir", "data", "--application", "local"][..], &[][..], "no active application named local"),
        (&["--data-dir", "data", "--application", "nobody"], &[], "no active application named nobody"),
        (&["--application", "ops"], &[("EYE_GATEWAY", url), ("EYE_TOKEN", token.as_str())], "leave --application out"),
        (&[], &[("EYE_GATEWAY", "http://eye.example"), ("EYE_TOKEN", token.as_str())], "plain HTTP"),
        (&[], &[("EYE_GATEWAY", url), ("EYE_TOKEN", "eye_wrong")], "unknown_sender"),
        (&["--database-url", own], &[("EYE_LISTEN", "127.0.0.1:0")], "name a port"),
        (&[], &[], "no gateway runs on the data dir"),
    ] {
        let (done, out, said) = panel(arguments, environment);
        assert!(!done && out.is_empty() && said.contains(why), "{arguments:?} {environment:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_database_of_ones_own_the_log_shows_no_code() {
    let server = Server::start();
    server.prepare();
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let line = eventually("it says who is trusted", async || {
        gateway.log().lines().find(|line| line.contains("trusted: ")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("`eye panel` prints an address") && !gateway.log().contains("#code="), "{line}");
    let panel = |arguments: &[&str]| {
        let mut command = gateway.command_beside(&[&["panel"], arguments].concat());
        ran(command.env("EYE_DATABASE_URL", server.url()).env("EYE_LISTEN", gateway.address()))
    };
    // `machine` is an administrator, but its network alone identifies it.
    let (done, _, said) = panel(&[]);
    assert!(!done && said.contains("no active application has a token and the scope admin"), "{said}");
    for name in ["ann", "bob"] {
        let mut add = gateway.command_beside(&["app", "add", name, "--token", "--scope", "admin"]);
        assert!(ran(add.env("EYE_DATABASE_URL", server.url())).0);
        let (done, out, said) = panel(&[]);
        match name {
            "ann" => assert!(done && said.contains("for the application ann,"), "{out} {said}"),
            _ => assert!(!done && said.contains("ann, bob"), "{said}"),
        }
    }
    let json = Setup::default().with("EYE_LOG_FORMAT", "json").start().await;
    assert!(json.log().contains("eye panel") && !json.log().contains("#code="), "logs in JSON are for programs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_a_session_is_neither_taken_nor_refused_as_wrong() {
    let server = Server::start();
    server.prepare();
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let mut add = gateway.command_beside(&["app", "add", "ops", "--token", "--scope", "read"]);
    let (_, token, _) = ran(add.env("EYE_DATABASE_URL", server.url()));
    eventually("the token is known", async || {
        let request = gateway.request("GET", "/v1/categories").bearer_auth(&token);
        (gateway.answer(request).await.status == 200).then_some(())
    })
    .await;
    let (browser, unused) = (signed_in(&gateway, &token).await, code(&gateway, &token).await);
    browser.becomes(&gateway, (200, "")).await;
    server.stop();
    let answer = sign_in(&gateway, &unused).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (503, "database_away"), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after") && answer.text.contains("cannot tell"), "{answer:?}");
    let unknown = Browser { secret: WRONG.to_owned(), ..browser.clone() };
    let answer = unknown.asks(&gateway, "GET", "/v1/panel/session").await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (503, "database_away"), "{answer:?}");
    let answer = browser.asks(&gateway, "GET", "/v1/panel/session").await;
    assert_eq!(answer.status, 200, "what was known stays known, as tokens do: {answer:?}");
    let answer = gateway.answer(gateway.request("GET", "/v1/panel/session").header("cookie", &browser.cookie)).await;
    assert_eq!(answer.status, 401, "half a session is wrong in any case");
    server.up();
    eventually("the code works after all", async || (sign_in(&gateway, &unused).await.status == 201).then_some(()))
        .await;
    unknown.becomes(&gateway, (401, "no_session")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_knows_the_sessions_and_makes_none() {
    let primary = Server::start();
    primary.prepare();
    primary.sql(&documented_role("eye_reader"));
    let standby = primary.standby(primary.port());
    let writer = Setup::default().with("EYE_DATABASE_URL", primary.url()).start().await;
    let url = standby.url().replace("postgres://postgres@", "postgres://eye_reader@");
    let reader = Setup::default().with("EYE_DATABASE_URL", url).with("EYE_ROLE", "reader").start().await;
    let mut add = writer.command_beside(&["app", "add", "ops", "--token", "--scope", "read"]);
    let (_, token, _) = ran(add.env("EYE_DATABASE_URL", primary.url()));
    eventually("the token is known", async || {
        let request = writer.request("GET", "/v1/categories").bearer_auth(&token);
        (writer.answer(request).await.status == 200).then_some(())
    })
    .await;
    let browser = signed_in(&writer, &token).await;
    let ports = [&writer, &reader].map(|one| one.address().rsplit_once(':').expect("a port").1.to_owned());
    let there = Browser { cookie: browser.cookie.replacen(&ports[0], &ports[1], 1), secret: browser.secret.clone() };
    there.becomes(&reader, (200, "")).await;
    assert_eq!(there.asks(&reader, "GET", "/v1/panel/session").await.json()["application"], "ops");
    for (method, path) in [("POST", "/v1/panel/session"), ("DELETE", "/v1/panel/session"), ("POST", "/v1/panel/codes")]
    {
        let answer = there.asks(&reader, method, path).await;
        assert_eq!((answer.status, code_of(&answer).as_str()), (503, "reads_only"), "{method} {path}");
    }
    assert_eq!(browser.asks(&writer, "DELETE", "/v1/panel/session").await.status, 200);
    there.becomes(&reader, (401, "no_session")).await;
}

#[tokio::test]
async fn what_is_over_is_removed() {
    let server = Server::start();
    server.prepare();
    server.sql(
        "insert into panel_codes (digest, application_id, tokens_digest, made_at)
         select sha256(hours::text::bytea), 1, sha256(''), now() - hours * interval '50 minutes' from generate_series(0, 3) hours;
         insert into panel_sessions (digest, application_id, tokens_digest, ends_at, last_used_at)
         values (sha256('open'), 1, sha256(''), now() + interval '1 hour', now()),
             (sha256('ended'), 1, sha256(''), now(), now()),
             (sha256('idle'), 1, sha256(''), now() + interval '1 hour', now() - interval '2 hours')",
    );
    let (time, environment) = (Duration::from_secs(10), eye::store::LibpqEnvironment::default());
    let store = eye::store::Store::new(&server.url(), environment, 1, time, time).expect("a store");
    store.forget_panel().await.expect("removed");
    assert_eq!(server.sql("select count(*) from panel_codes"), "2", "codes of the last hour are counted");
    assert_eq!(server.sql("select digest = sha256('open') from panel_sessions"), "t");
}
