//! Permissions: every kind of caller requests every path and method of the router. A new route that is missing in the
//! table fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, eventually};

/// The right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// None: the path holds no data.
    Nothing,
    Ingest,
    Read,
    /// The scope `read`, and a token.
    Token,
    /// A code for the panel, whoever brings it. These requests have none.
    Code,
    /// A session of the panel. These requests have none.
    Session,
    Ship,
    Admin,
}

use Needs::{Admin, Code, Ingest, Nothing, Read, Session, Ship, Token};

impl Needs {
    fn word(self) -> &'static str {
        match self {
            Nothing | Code | Session => "",
            Ingest => "ingest",
            Read | Token => "read",
            Ship => "ship",
            Admin => "admin",
        }
    }
}

/// The contract for each path and method.
const TABLE: &[(&str, &str, Needs)] = &[
    ("POST", "/v1/events", Ingest),
    ("POST", "/post/create", Ingest),
    ("GET", "/v1/events", Read),
    ("HEAD", "/v1/events", Read),
    ("GET", "/v1/sessions", Read),
    ("HEAD", "/v1/sessions", Read),
    ("GET", "/v1/sessions/{session_id}", Read),
    ("HEAD", "/v1/sessions/{session_id}", Read),
    ("GET", "/v1/sessions/{session_id}/events/{id}", Read),
    ("HEAD", "/v1/sessions/{session_id}/events/{id}", Read),
    ("GET", "/v1/categories", Read),
    ("HEAD", "/v1/categories", Read),
    ("GET", "/v1/categories/{category}", Read),
    ("HEAD", "/v1/categories/{category}", Read),
    ("GET", "/v1/stats", Read),
    ("HEAD", "/v1/stats", Read),
    ("GET", "/v1/dead-letters", Read),
    ("HEAD", "/v1/dead-letters", Read),
    ("GET", "/v1/dead-letters/summary", Read),
    ("HEAD", "/v1/dead-letters/summary", Read),
    ("GET", "/v1/dead-letters/{id}", Read),
    ("HEAD", "/v1/dead-letters/{id}", Read),
    // Without a dry run it needs admin; dead_letters.rs holds it to that.
    ("POST", "/v1/dead-letters/redrive", Read),
    ("GET", "/v1/live", Read),
    ("HEAD", "/v1/live", Read),
    ("GET", "/v1/validators", Read),
    ("HEAD", "/v1/validators", Read),
    ("GET", "/v1/validators/{category}/{name}", Read),
    ("HEAD", "/v1/validators/{category}/{name}", Read),
    ("PUT", "/v1/validators/{category}/{name}", Ship),
    ("DELETE", "/v1/validators/{category}/{name}", Ship),
    ("GET", "/v1/validators/{category}/{name}/candidate", Read),
    ("HEAD", "/v1/validators/{category}/{name}/candidate", Read),
    ("DELETE", "/v1/validators/{category}/{name}/candidate", Ship),
    ("POST", "/v1/validators/{category}/{name}/candidate/promote", Ship),
    ("POST", "/v1/validators/{category}/{name}/rollback", Ship),
    ("POST", "/v1/validators/{category}/{name}/retire", Ship),
    ("GET", "/v1/validators/{category}/{name}/versions/{digest}", Ship),
    ("HEAD", "/v1/validators/{category}/{name}/versions/{digest}", Ship),
    ("GET", "/v1/gateways", Read),
    ("HEAD", "/v1/gateways", Read),
    ("GET", "/v1/generations", Read),
    ("HEAD", "/v1/generations", Read),
    ("GET", "/v1/generations/{number}", Read),
    ("HEAD", "/v1/generations/{number}", Read),
    ("POST", "/v1/generations/{number}/back", Admin),
    ("POST", "/v1/panel/codes", Token),
    ("GET", "/v1/panel/session", Session),
    ("HEAD", "/v1/panel/session", Session),
    ("POST", "/v1/panel/session", Code),
    ("DELETE", "/v1/panel/session", Session),
    ("GET", "/v1/applications", Admin),
    ("HEAD", "/v1/applications", Admin),
    ("POST", "/v1/applications", Admin),
    ("GET", "/v1/applications/{name}", Admin),
    ("HEAD", "/v1/applications/{name}", Admin),
    ("PATCH", "/v1/applications/{name}", Admin),
    ("DELETE", "/v1/applications/{name}", Admin),
    ("POST", "/v1/applications/{name}/rotate", Admin),
    ("POST", "/v1/applications/{name}/revoke", Admin),
    ("GET", "/v1/settings", Admin),
    ("HEAD", "/v1/settings", Admin),
    ("POST", "/v1/settings/reload", Admin),
    ("GET", "/v1/audit", Admin),
    ("HEAD", "/v1/audit", Admin),
    ("GET", "/v1/jobs", Admin),
    ("HEAD", "/v1/jobs", Admin),
    // A replay needs ship; replay.rs holds it to that.
    ("POST", "/v1/jobs", Admin),
    // With ship only replays of its own event types; replay.rs holds it to that too.
    ("GET", "/v1/jobs/{id}", Ship),
    ("HEAD", "/v1/jobs/{id}", Ship),
    ("DELETE", "/v1/jobs/{id}", Ship),
    ("GET", "/healthz", Nothing),
    ("HEAD", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("HEAD", "/readyz", Nothing),
    ("GET", "/metrics", Read),
    ("HEAD", "/metrics", Read),
    ("GET", "/openapi.json", Read),
    ("HEAD", "/openapi.json", Read),
    ("GET", "/problems/{code}", Nothing),
    ("HEAD", "/problems/{code}", Nothing),
    ("GET", "/", Nothing),
    ("HEAD", "/", Nothing),
    ("GET", "/panel/{file}", Nothing),
    ("HEAD", "/panel/{file}", Nothing),
];

/// How a caller is identified.
#[derive(Clone, Debug)]
enum By {
    Nobody,
    Token(String),
    /// From this address, as the trusted proxy reports it.
    Network(String),
}

/// The answer to a caller's requests.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// It is not identified.
    Unknown,
    /// Its token has expired, and the answer says so.
    Expired,
    /// It is identified, with these rights.
    Known(&'static [Needs]),
}

struct Caller {
    what: String,
    by: By,
    gets: Gets,
}

/// The rights of each scope.
const SCOPES: [(&str, &[Needs]); 6] = [
    ("none", &[]),
    ("ingest", &[Ingest]),
    ("read", &[Read]),
    ("raw", &[Read]),
    ("ship", &[Read, Ship]),
    ("admin", &[Ingest, Read, Ship, Admin]),
];

#[test]
fn every_route_has_a_row() {
    let routes =
        eye::router::ROUTES.iter().flat_map(|(path, methods)| methods.split(", ").map(|method| (method, *path)));
    let routes: BTreeSet<(&str, &str)> = routes.collect();
    let rows: BTreeSet<(&str, &str)> = TABLE.iter().map(|(method, path, _)| (*method, *path)).collect();
    assert_eq!(rows.len(), TABLE.len(), "no row is there twice");
    assert_eq!(routes, rows, "each route has a row in the table of this test, and each row is a route");
}

/// Applications of every kind, each with its expected answer.
async fn callers(gateway: &Gateway) -> Vec<Caller> {
    let add = async |name: &str, body: Value| {
        let mut body = body;
        body["name"] = name.into();
        let request = gateway.as_admin(gateway.request("POST", "/v1/applications"));
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = gateway.answer(request).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["token"].as_str().unwrap_or_default().to_owned()
    };
    let mut callers = vec![
        Caller { what: "nobody".to_owned(), by: By::Nobody, gets: Gets::Unknown },
        Caller { what: "an unknown token".to_owned(), by: By::Token("eye_0000".to_owned()), gets: Gets::Unknown },
        Caller {
            what: "an unknown network".to_owned(),
            by: By::Network("198.51.100.9".to_owned()),
            gets: Gets::Unknown,
        },
    ];
    for (number, (scope, may)) in SCOPES.into_iter().enumerate() {
        let scopes = if scope == "none" { "ingest" } else { scope };
        let token = add(&format!("token {scope}"), json!({"scopes": [scopes]})).await;
        callers.push(Caller { what: format!("a token, {scope}"), by: By::Token(token), gets: Gets::Known(may) });
        let address = format!("203.0.113.{number}");
        add(&format!("network {scope}"), json!({"scopes": [scopes], "networks": [format!("{address}/32")]})).await;
        callers.push(Caller { what: format!("a network, {scope}"), by: By::Network(address), gets: Gets::Known(may) });
    }
    for (number, (end, gets)) in
        [("suspended", Gets::Unknown), ("revoked", Gets::Unknown), ("expired", Gets::Expired)].into_iter().enumerate()
    {
        let token = add(&format!("token {end}"), json!({"scopes": ["admin"], "expires": "1d"})).await;
        callers.push(Caller { what: format!("a token, {end}"), by: By::Token(token), gets });
        if end != "expired" {
            let address = format!("203.0.113.{}", 100 + number);
            let body = json!({"scopes": ["admin"], "networks": [format!("{address}/32")]});
            add(&format!("network {end}"), body).await;
            callers.push(Caller { what: format!("a network, {end}"), by: By::Network(address), gets });
        }
    }
    gateway.sql(
        "begin;
         update applications set scopes = '{}' where name like '% none';
         update applications set active = false where name like '% suspended';
         update application_tokens set expires_at = now() - interval '1 second' where application_id in
             (select id from applications where name like '% expired');
         commit",
    );
    for name in ["token%20revoked", "network%20revoked"] {
        let request = gateway.as_admin(gateway.request("DELETE", &format!("/v1/applications/{name}")));
        assert_eq!(gateway.answer(request).await.status, 200);
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_may_do_what_its_scope_says_and_nothing_else() {
    // A proxy reports the networks; this test is the proxy.
    let gateway = Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    let callers = callers(&gateway).await;
    let ask = async |by: &By, method: &str, path: &str| {
        let path = path.replace("{code}", "rule").replace("{file}", "icon.svg").replace(['{', '}'], "");
        let request = gateway.request(method, &path);
        let request = match by {
            By::Nobody => request,
            By::Token(token) => request.bearer_auth(token),
            By::Network(address) => request.header("x-forwarded-for", address),
        };
        // The live stream never ends, and only its head is needed.
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let is_problem = status >= 400 && method != "HEAD";
        let body = if is_problem { response.text().await.expect("a body") } else { "{}".to_owned() };
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let is_over = async |what: &str| {
        let one = callers.iter().find(|one| one.what == what).expect("a caller");
        eventually(what, async || (ask(&one.by, "GET", "/v1/events").await.0 == 401).then_some(())).await;
    };
    is_over("a token, suspended").await;
    is_over("a token, expired").await;
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (method, path, needs) in TABLE {
        for caller in &callers {
            let (status, problem) = ask(&caller.by, method, path).await;
            asked += 1;
            let has_body = *method != "HEAD";
            let said = |code: &str| !has_body || problem["code"] == code;
            let right = match (needs, caller.gets) {
                (Nothing, _) => status == 200,
                (Code, _) => status == 400 && said("empty"),
                (Session, _) => status == 401 && said("no_session"),
                (Token, Gets::Known(may)) if may.contains(&Read) => match caller.by {
                    By::Token(_) => status == 201,
                    By::Nobody | By::Network(_) => status == 403 && said("token_needed"),
                },
                (_, Gets::Unknown) => status == 401 && said("unknown_sender"),
                (_, Gets::Expired) => status == 401 && said("token_expired"),
                (needs, Gets::Known(may)) if may.contains(needs) => ![401, 403, 405].contains(&status) && status < 500,
                (needs, Gets::Known(_)) => {
                    status == 403 && said("not_allowed") && (!has_body || problem["scope"] == needs.word())
                }
            };
            if !right {
                wrong.push(format!("{method} {path} by {}: {status} {problem}", caller.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(asked > 700, "{asked} requests were made");
}
