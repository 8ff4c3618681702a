//! A separate address for reads and administration: what each of the two addresses answers, and that both drain.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Setup, eventually, pageview};

/// A gateway with both addresses. Returns the gateway and the address for reads and administration.
async fn with_two_addresses(setup: Setup) -> (Gateway, String) {
    let gateway = setup.with("EYE_ADMIN_LISTEN", "127.0.0.1:0").start().await;
    let admin = gateway.announced("reading and administration are answered").expect("the other address");
    assert_ne!(admin, gateway.address());
    (gateway, admin)
}

async fn ask(gateway: &Gateway, address: &str, method: &str, path: &str, token: Option<&str>) -> Answer {
    let request = gateway.request_at(address, method, path);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    gateway.answer(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_see_nothing_of_what_has_an_address_of_its_own() {
    let (gateway, admin) = with_two_addresses(Setup::default().with("EYE_LOCAL", "off")).await;
    let public = gateway.address().to_owned();
    let token = gateway.admin_token().expect("a token");
    for (path, methods) in eye::router::ROUTES {
        for method in methods.split(", ").chain(["TRACE"]) {
            let path = path.replace("{code}", "rule").replace("{file}", "icon.svg").replace(['{', '}'], "");
            let is_panel = ["/", "/panel/icon.svg"].contains(&&*path);
            let is_open = ["/healthz", "/readyz", "/problems/rule"].contains(&&*path);
            let is_sent = method == "POST" && ["/v1/events", "/post/create"].contains(&&*path);
            let expected = match (method, is_open, is_sent) {
                ("TRACE", true, _) => 405,
                (_, true, _) => 200,
                (_, _, true) => 401,
                _ => 404,
            };
            let asked = gateway.request_at(&public, method, &path).send().await.expect("an answer");
            assert_eq!(asked.status(), expected, "{method} {path}");
            if expected == 404 {
                // A token opens no more paths here: the address answers as if they did not exist.
                let told =
                    gateway.request_at(&public, method, &path).bearer_auth(&token).send().await.expect("an answer");
                assert_eq!(told.status(), 404, "{method} {path}");
            }
            let expected = match (method, is_open || is_panel) {
                ("TRACE", _) => 405,
                (_, true) => 200,
                // The code in the body is what it asks for.
                ("POST", _) if path == "/v1/panel/session" => 400,
                _ => 401,
            };
            let asked = gateway.request_at(&admin, method, &path).send().await.expect("an answer");
            assert_eq!(asked.status(), expected, "{method} {path} on the other address");
        }
    }
    let told = async |path: &str| {
        let request = gateway.request_at(&public, "GET", path).bearer_auth(&token);
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        let mut problem: Value = serde_json::from_str(&text).expect("a problem");
        problem.as_object_mut().expect("a problem").remove("request_id");
        problem
    };
    let hidden = told("/v1/applications").await;
    assert_eq!((&hidden["status"], &hidden), (&json!(404), &told("/v1/nowhere").await));
    let page = gateway.request_at(&public, "POST", "/v1/applications").header("origin", "https://evil.example");
    assert_eq!(page.send().await.expect("an answer").status(), 404, "nothing of it is told to pages either");

    // Each address serves its own paths.
    let made = gateway.request_at(&admin, "POST", "/v1/applications").bearer_auth(&token);
    let made = made.header("content-type", "application/json").body(json!({"name": "shop"}).to_string());
    let shop = gateway.answer(made).await.json()["token"].as_str().expect("a token").to_owned();
    for address in [&public, &admin] {
        let send = gateway.request_at(address, "POST", "/v1/events").bearer_auth(&shop);
        let send = send.header("content-type", "application/json").body(pageview().to_string());
        assert_eq!(gateway.answer(send).await.status, 201);
    }
    let events = ask(&gateway, &admin, "GET", "/v1/events", Some(&token)).await.json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(2));
    let command = gateway
        .command_beside(&["app", "list"])
        .env("EYE_GATEWAY", format!("http://{admin}"))
        .env("EYE_TOKEN", &token)
        .output()
        .expect("the built program");
    assert!(command.status.success(), "{command:?}");
    let command = gateway
        .command_beside(&["app", "list"])
        .env("EYE_GATEWAY", format!("http://{public}"))
        .env("EYE_TOKEN", &token)
        .output()
        .expect("the built program");
    let said = String::from_utf8_lossy(&command.stderr).into_owned();
    assert!(!command.status.success() && said.contains("404") && said.contains("admin_listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_addresses_end_with_the_gateway() {
    let (mut gateway, admin) = with_two_addresses(Setup::default()).await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let mut live = gateway.request_at(&admin, "GET", "/v1/live").send().await.expect("an answer");
    assert_eq!(live.status(), 200);
    let figures = ask(&gateway, &admin, "GET", "/metrics", None).await;
    assert!(figures.text.contains("\neye_connections "), "{}", figures.text);
    gateway.signal("TERM");
    while live.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    assert_eq!(gateway.ended().await.code(), Some(0));
    eventually("nothing listens any more", async || std::net::TcpStream::connect(&admin).is_err().then_some(())).await;
}
