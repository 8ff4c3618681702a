//! Callers without a token: those from this machine are `local`, as far as the setting says, and never through a proxy;
//! the administrator that a gateway makes by itself; and how commands find their gateway or database.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::raw::Wire;
use crate::support::{Answer, Gateway, Setup, event, eventually, folder, pageview};

async fn bare(gateway: &Gateway, method: &str, path: &str) -> Answer {
    gateway.answer(gateway.request(method, path)).await
}

/// The result of a command: whether it succeeded, its output, and its messages.
fn ran(command: &mut Command) -> (bool, String, String) {
    let output = command.output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn mode(gateway: &Gateway) -> u32 {
    let file = std::fs::metadata(gateway.data_dir().join("admin.token")).expect("the file");
    file.permissions().mode() & 0o7777
}

async fn scopes_of(gateway: &Gateway, name: &str) -> Value {
    gateway.get(&format!("/v1/applications/{name}")).await.json()["scopes"].clone()
}

#[tokio::test]
async fn this_machine_may_send_and_read_and_all_else_needs_the_token_of_the_data_dir() {
    let mut gateway = Setup::default().without_cluster().start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    assert_eq!(gateway.send(&event("", "broken", json!({}))).await.status, 422);
    assert_eq!(bare(&gateway, "GET", "/v1/events").await.status, 200);
    let letter = eventually("the dead letter is kept", async || {
        let letters = bare(&gateway, "GET", "/v1/dead-letters").await.json();
        letters["dead_letters"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let letter = format!("/v1/dead-letters/{letter}");
    let shown = bare(&gateway, "GET", &letter).await.json();
    assert_eq!((&shown["raw"], &shown["raw_needs_scope"]), (&Value::Null, &json!("raw")), "{shown}");
    for (method, path) in [("GET", "/v1/applications"), ("POST", "/v1/applications"), ("POST", "/v1/settings/reload")] {
        let refused = bare(&gateway, method, path).await;
        let problem = refused.json();
        assert_eq!(
            (refused.status, &problem["code"], &problem["scope"]),
            (403, &json!("not_allowed"), &json!("admin"))
        );
        assert!(problem["detail"].as_str().expect("text").contains("`admin.token`"), "{problem}");
    }
    let token = gateway.admin_token().expect("a token");
    assert_eq!(mode(&gateway), 0o600);
    assert!(token.starts_with("eye_") && token.len() == 68, "a token like all others");
    assert_eq!(scopes_of(&gateway, "admin.token").await, json!(["admin"]));
    assert_eq!(scopes_of(&gateway, "local").await, json!(["ingest", "read"]));
    assert!(gateway.get(&letter).await.json()["raw"].is_string());
    for name in ["local", "admin.token", "bootstrap"] {
        let body = json!({ "name": name }).to_string();
        assert_eq!(gateway.post("/v1/applications", "application/json", body).await.status, 400, "{name} is not given");
    }
    let log = gateway.log();
    let said = log.lines().find(|line| line.contains("trusted: ")).expect("who is trusted is said");
    assert!(said.contains("`local`, which may send and read") && said.contains("admin.token"), "{said}");
    assert!(!log.contains(&token), "the token is nowhere to be read");

    // The file stays, and a file that others may read is closed.
    let file = gateway.data_dir().join("admin.token");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    assert_eq!((mode(&gateway), gateway.admin_token().as_ref()), (0o600, Some(&token)));
    assert_eq!(gateway.get("/v1/applications").await.status, 200);

    // A file that is gone is made again with another token, and the old one opens nothing.
    std::fs::remove_file(&file).expect("the file");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    assert_ne!(gateway.admin_token().as_ref(), Some(&token));
    assert_eq!(gateway.get("/v1/applications").await.status, 200);
    let before = gateway.request("GET", "/v1/applications").bearer_auth(&token);
    assert_eq!(gateway.answer(before).await.status, 401);
    // The old file brings nothing back.
    std::fs::write(&file, &token).expect("the file");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    assert_ne!(gateway.admin_token().as_ref(), Some(&token), "a token that was ended stays so");
    assert_eq!(gateway.get("/v1/applications").await.status, 200);
}

#[tokio::test]
async fn how_far_this_machine_is_trusted_is_for_the_setting_to_say_and_for_nothing_else() {
    let mut gateway = Gateway::start().await;
    let may = async |gateway: &Gateway| {
        let sent = gateway.send(&pageview()).await.status;
        (sent, bare(gateway, "GET", "/v1/events").await.status)
    };
    // As earlier releases made it, with too wide a network.
    let wide =
        "update applications set scopes = '{ingest, read, admin}', networks = '{0.0.0.0/0}' where name = 'local'";
    for (setting, expected, said) in [
        ("ingest", (201, 403), "`local`, which may send;"),
        ("off", (401, 401), "callers from this machine are nobody"),
        ("read", (201, 200), "`local`, which may send and read;"),
    ] {
        gateway.sql(wide);
        gateway.set("EYE_LOCAL", setting);
        gateway.signal("TERM");
        gateway.ended().await;
        gateway.restart().await;
        assert_eq!(may(&gateway).await, expected, "{setting}");
        assert!(gateway.log().contains(said), "{setting}: {}", gateway.log());
        gateway.sql(wide);
        let body = json!({"scopes": ["admin"]}).to_string();
        let request = gateway.request("PATCH", "/v1/applications/local").header("content-type", "application/json");
        let refused = gateway.answer(gateway.as_admin(request).body(body)).await;
        assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("name")), "{refused:?}");
        // Adding an application reads all of them again.
        let body = json!({"name": setting}).to_string();
        assert_eq!(gateway.post("/v1/applications", "application/json", body).await.status, 201);
        assert_eq!(may(&gateway).await, expected, "{setting}, whatever the row says");
    }
}

/// Headers that proxies add to a request, some of each kind.
const ADDED_BY_PROXIES: &[&str] = &[
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Real-IP",
    "CF-Connecting-IP",
    "CF-Ray",
    "True-Client-IP",
    "X-Client-IP",
    "Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "X-Envoy-External-Address",
    "X-Original-URL",
    "X-Original-Forwarded-For",
    "X-Remote-Addr",
    "Proxy-Connection",
    "X-Azure-ClientIP",
    "X-Amzn-Trace-Id",
    "X-Scheme",
    "CDN-Loop",
    "WL-Proxy-Client-IP",
    "Forwarded-For",
    "X-ProxyUser-Ip",
    "X-Arr-Log-Id",
];

#[tokio::test]
async fn no_sign_of_a_proxy_is_overlooked() {
    let gateway = Gateway::start().await;
    let token = gateway.admin_token().expect("a token");
    let sent = async |head: String| {
        let body = pageview().to_string();
        let mut wire = Wire::connect(gateway.address()).await;
        let request = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        wire.write(request.as_bytes()).await;
        let told = wire.answer().await.expect("an answer");
        let body: Value = serde_json::from_str(&told.body).unwrap_or_default();
        (told.status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let post = |version: &str, headers: &str| format!("POST /v1/events HTTP/{version}\r\n{headers}");
    let stored = (201, String::new());
    for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000"] {
        assert_eq!(sent(post("1.1", &format!("host: {host}\r\n"))).await, stored, "{host}");
    }
    // As nginx passes a request on by `proxy_pass http://127.0.0.1:8000` alone.
    let plain = "host: 127.0.0.1:8000\r\nconnection: close\r\n";
    assert_eq!(sent(post("1.0", plain)).await, (401, "unnamed_proxy".to_owned()));
    for name in ADDED_BY_PROXIES {
        let head = post("1.1", &format!("host: localhost\r\n{name}: 127.0.0.1\r\n"));
        assert_eq!(sent(head.clone()).await, (401, "unnamed_proxy".to_owned()), "{name}");
        assert_eq!(sent(format!("{head}authorization: Bearer {token}\r\n")).await, stored, "{name} with a token");
    }
    for host in
        ["gateway", "eye.example", "10.1.2.3:8000", "0.0.0.0:8000", "[::]", "localhost.evil.example", "upstream"]
    {
        let (status, code) = sent(post("1.1", &format!("host: {host}\r\n"))).await;
        assert_eq!((status, &code[..]), (403, "foreign_host"), "{host}");
    }
    // No host, or several of which one is another. Whatever the answer is, nothing is stored.
    for hosts in [
        "",
        "host: localhost\r\nhost: eye.example\r\n",
        "host: eye.example\r\nhost: localhost\r\n",
        "host: caf\u{e9}\r\n",
    ] {
        let (status, _) = sent(post("1.1", hosts)).await;
        assert!((400..500).contains(&status), "{hosts:?}: {status}");
    }
    assert_eq!(
        sent(post("1.0", &format!("{plain}authorization: Bearer {token}\r\n"))).await,
        stored,
        "a token decides alone"
    );
    let list = gateway.get("/v1/applications/local").await.json();
    assert!(
        list["refused"]["unnamed_proxy"].as_u64() > Some(25) && list["refused"]["foreign_page"].as_u64() > Some(5),
        "{list}"
    );
}

#[tokio::test]
async fn commands_beside_a_gateway_find_its_database_by_themselves_and_say_so() {
    let mut gateway = Gateway::start().await;
    let app = |arguments: &[&str]| ran(gateway.command_beside(arguments).env("EYE_DATA_DIR", "data"));
    let (done, token, said) = app(&["app", "add", "shop", "--token"]);
    assert!(done && token.starts_with("eye_") && said.contains("data dir data, whose gateway runs"), "{token} {said}");
    eventually("the token is known", async || {
        let request =
            gateway.request("POST", "/v1/events").bearer_auth(&token).header("content-type", "application/json");
        (gateway.answer(request.body(pageview().to_string())).await.status == 201).then_some(())
    })
    .await;
    let (done, list, _) = app(&["app", "list"]);
    assert!(
        done && ["admin.token\tactive", "local\tactive", "shop\tactive"].iter().all(|row| list.contains(row)),
        "{list}"
    );
    for arguments in [
        &["app", "change", "shop", "--active", "false"][..],
        &["app", "revoke", "shop"],
        &["dead-letters", "list"],
        &["partitions", "list"],
        &["retention", "show"],
        &["migrate"],
    ] {
        let (done, out, said) = app(arguments);
        assert!(done && said.contains("whose gateway runs"), "{arguments:?}: {out} {said}");
    }
    // The default folder.
    let (done, _, said) = ran(&mut gateway.command_beside(&["app", "list"]));
    assert!(!done && said.contains("no gateway runs on the data dir ./eye-data (default)"), "{said}");
    assert!(!gateway.data_dir().with_file_name("eye-data").exists(), "nothing was made");
    gateway.signal("TERM");
    gateway.ended().await;
    let (done, _, said) = ran(gateway.command_beside(&["app", "list"]).args(["--data-dir", "data"]));
    assert!(
        !done
            && said.contains("no gateway runs on the data dir data (flag --data-dir)")
            && said.contains("EYE_GATEWAY"),
        "{said}"
    );
    assert!(!gateway.data_dir().join("run/.s.PGSQL.5432").exists(), "nothing was started");
}

#[tokio::test]
async fn commands_ask_a_gateway_over_http_when_the_environment_names_one() {
    let gateway = Gateway::start().await;
    let url = format!("http://{}", gateway.address());
    let asked = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = gateway.command_beside(arguments);
        ran(command.env("EYE_GATEWAY", &url).envs(environment.iter().copied()))
    };
    let admin = gateway.admin_token().expect("a token");
    let opened = [("EYE_TOKEN", admin.as_str())];
    let (done, token, said) = asked(
        &[
            "app",
            "add",
            "shop/é",
            "--token",
            "--scope",
            "ingest",
            "--scope",
            "read",
            "--events-per-second",
            "5",
            "--event-type",
            "shop/*",
        ],
        &opened,
    );
    assert!(
        done && token.starts_with("eye_")
            && said.contains(&format!("on the gateway {url}, with the token of EYE_TOKEN")),
        "{token} {said}"
    );
    assert!(!said.contains(&admin));
    let (done, list, _) = asked(&["app", "list"], &opened);
    assert!(
        done && list.contains(
            "shop/é\tactive\tby token\ttokens 1\tcertificates 0\t[]\tingest read\t5 events/s, 5 at once\tshop/*"
        ),
        "{list}"
    );
    // The use of a token is noted a moment after it.
    eventually("a list is one, whatever way it came", async || {
        let (_, list, _) = asked(&["app", "list"], &opened);
        let (direct, same, _) = ran(gateway.command_beside(&["app", "list"]).env("EYE_DATA_DIR", "data"));
        (direct && list == same).then_some(())
    })
    .await;
    assert!(asked(&["app", "change", "shop/é", "--any-rate", "--any-event-type", "--scope", "ingest"], &opened).0);
    let (done, second, _) = asked(&["app", "rotate", "shop/é"], &opened);
    assert!(done && second.starts_with("eye_") && second != token, "{second}");
    assert!(asked(&["app", "rotate", "shop/é", "--expire-old"], &opened).0);
    let (_, list, _) = asked(&["app", "list"], &opened);
    assert!(
        list.contains("shop/é\tactive\tby token\ttokens 1\tcertificates 0\t[]\tingest\tany rate\tall types"),
        "{list}"
    );
    assert!(asked(&["app", "revoke", "shop/é"], &opened).0);
    // For a gateway on this machine the token of the data dir is found. Without a token nothing is done.
    let (done, _, said) = asked(&["app", "list"], &[("EYE_DATA_DIR", "data")]);
    assert!(done && said.contains("with the token of data/admin.token"), "{said}");
    let (done, _, said) = asked(&["app", "list"], &[]);
    assert!(!done && said.contains("EYE_TOKEN is not set") && said.contains("eye-data/admin.token"), "{said}");
    let (done, _, said) = asked(&["app", "list"], &[("EYE_TOKEN", "eye_wrong")]);
    assert!(!done && said.contains("401 (unknown_sender)"), "{said}");
    let (done, _, said) = asked(&["app", "change", "nobody", "--active", "true"], &opened);
    assert!(!done && said.contains("404 (not_found)"), "{said}");
    let (done, _, said) = asked(&["app", "add", "x", "--token", "--event-type", "nonsense"], &opened);
    assert!(!done && said.contains("event_types"), "{said}");
    // Flags come first; a command that cannot work over HTTP says so; no token is sent over plain HTTP.
    let (done, _, said) = asked(&["app", "list", "--data-dir", "data"], &opened);
    assert!(done && said.contains("whose gateway runs"), "{said}");
    for arguments in [&["dead-letters", "list"][..], &["partitions", "list"], &["retention", "show"], &["migrate"]] {
        let (done, _, said) = asked(arguments, &opened);
        assert!(!done && said.contains("works on a database alone"), "{arguments:?}: {said}");
    }
    for elsewhere in ["http://eye.example", "http://10.255.255.1:8000"] {
        let (done, _, said) = ran(gateway.command_beside(&["app", "list"]).env("EYE_GATEWAY", elsewhere).envs(opened));
        assert!(!done && said.contains("plain HTTP"), "{said}");
    }
    // The gateway and the check of the settings ignore these variables.
    let (done, shown, said) = ran(gateway.command_beside(&["config", "check"]).env("EYE_GATEWAY", &url).envs(opened));
    assert!(done && !shown.contains(&admin), "{said}");
}

/// A gateway on a database of its own without applications, whose operator has put a token into a file.
fn with_bootstrap(server: &Server, folder: &tempfile::TempDir, token: &str) -> Setup {
    let file = folder.path().join("token");
    std::fs::write(&file, token).expect("a file");
    Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_ADMIN_TOKEN_FILE", file.display())
}

#[tokio::test]
async fn the_first_administrator_of_a_database_is_the_one_of_the_file() {
    const TOKEN: &str = "a-token-that-the-operator-has-chosen-1";
    let (server, folder) = (Server::start(), folder());
    let mut gateway = with_bootstrap(&server, &folder, &format!("{TOKEN}\n")).start().await;
    let list = async |gateway: &Gateway, token: &str| {
        gateway.answer(gateway.request("GET", "/v1/applications").bearer_auth(token)).await
    };
    eventually("the token is known", async || (list(&gateway, TOKEN).await.status == 200).then_some(())).await;
    let found = list(&gateway, TOKEN).await.json();
    assert_eq!(
        (&found["applications"][0]["name"], &found["applications"][0]["scopes"]),
        (&json!("bootstrap"), &json!(["admin"]))
    );
    let is_said = || gateway.log().contains("trusted: the registered applications");
    eventually("the log says who is trusted", async || is_said().then_some(())).await;
    assert!(!gateway.log().contains(TOKEN), "{}", gateway.log());
    assert_eq!(gateway.send(&pageview()).await.status, 401, "this machine is nobody");
    assert!(gateway.admin_token().is_none());

    // Another token in the file replaces the first one, while there is no other administrator.
    let other = TOKEN.replace('1', "2");
    std::fs::write(folder.path().join("token"), &other).expect("a file");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    eventually("the other is known", async || (list(&gateway, &other).await.status == 200).then_some(())).await;
    assert_eq!(list(&gateway, TOKEN).await.status, 401);

    // Once there is one, the gateway does not read the file.
    let body = json!({"name": "boss", "scopes": ["admin"]}).to_string();
    let request = gateway.request("POST", "/v1/applications").header("content-type", "application/json");
    let boss = gateway.answer(request.bearer_auth(&other).body(body)).await.json();
    let boss = boss["token"].as_str().expect("a token").to_owned();
    let request = gateway.request("POST", "/v1/applications/bootstrap/revoke").bearer_auth(&boss);
    assert_eq!(gateway.answer(request).await.status, 200);
    let third = TOKEN.replace('1', "3");
    std::fs::write(folder.path().join("token"), &third).expect("a file");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    eventually("the boss is known", async || (list(&gateway, &boss).await.status == 200).then_some(())).await;
    assert_eq!((list(&gateway, &other).await.status, list(&gateway, &third).await.status), (401, 401));
    assert!(gateway.log().contains("the gateway does not read admin_token_file"), "{}", gateway.log());
}

#[tokio::test]
async fn a_file_without_a_token_makes_nobody_administrator() {
    let (server, folder) = (Server::start(), folder());
    let gateway = with_bootstrap(&server, &folder, "short").start().await;
    eventually("it is told", async || gateway.log().contains("holds no token").then_some(())).await;
    eventually("who is trusted is told", async || gateway.log().contains("trusted: nobody").then_some(())).await;
    let request = gateway.request("GET", "/v1/applications").bearer_auth("short");
    assert_eq!(gateway.answer(request).await.status, 401);
    assert_eq!(server.sql("select count(*) from applications"), "0");
}
