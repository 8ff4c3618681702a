//! `GET /v1/settings`: what is in force and where each setting came from, without any secret.

use eye::config::{Kind, SETTINGS};
use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, eventually, folder};

async fn ask(gateway: &Gateway) -> Answer {
    let answer = gateway.answer(gateway.as_admin(gateway.request("GET", "/v1/settings"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The value of a setting, the kind of place that gave it, and the place.
async fn of(gateway: &Gateway, key: &str) -> [Value; 3] {
    let settings = ask(gateway).await.json();
    let found = settings["settings"].as_array().expect("settings").iter().find(|one| one["key"] == key);
    let found = found.unwrap_or_else(|| panic!("{key} is missing"));
    ["value", "from", "place"].map(|member| found[member].clone())
}

#[tokio::test]
async fn each_setting_in_force_is_shown_with_its_place_also_after_a_reload() {
    let folder = folder();
    let (file, days) = (folder.path().join("eye.toml"), folder.path().join("days"));
    std::fs::write(&file, "# ours\nlog_level = \"debug\"\nwriters = 3\nhosts = [\"a.example\", \"127.0.0.1\"]\n")
        .expect("a file");
    std::fs::write(&days, "90\n").expect("a file");
    let setup = Setup::default().with_argument("--config=eye.toml").with("EYE_ANSWER_MS", 4_000);
    let gateway = setup.with("EYE_EVENTS_DAYS_FILE", days.display()).start_in(folder).await;
    let all = ask(&gateway).await.json();
    let keys: Vec<&str> =
        all["settings"].as_array().expect("settings").iter().filter_map(|one| one["key"].as_str()).collect();
    assert_eq!(keys, SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>());
    for (key, value, from, place) in [
        ("log_level", json!("debug"), "file", json!("eye.toml:2")),
        ("hosts", json!(["a.example", "127.0.0.1"]), "file", json!("eye.toml:4")),
        ("answer_ms", json!(4_000), "environment", json!("EYE_ANSWER_MS")),
        ("events_days", json!(90), "environment", json!("EYE_EVENTS_DAYS_FILE")),
        ("listen", json!("127.0.0.1:0"), "flag", json!("--listen")),
        ("panel", json!(true), "default", Value::Null),
        ("metrics_listen", Value::Null, "default", Value::Null),
        ("database_url", Value::Null, "default", Value::Null),
    ] {
        assert_eq!(of(&gateway, key).await, [value, json!(from), place], "{key}");
    }
    let level = &all["settings"][SETTINGS.iter().position(|setting| setting.key == "log_level").expect("it is one")];
    assert_eq!(
        (&level["default"], &level["needs_restart"], &level["hidden"]),
        (&json!("info"), &json!(false), &json!(false))
    );
    assert!(level["about"].as_str().is_some_and(|about| about.len() > 20 && !about.contains("  ")), "{level}");

    std::fs::write(&file, "log_level = \"warn\"\nwriters = 4\n").expect("a file");
    let answer = gateway.answer(gateway.as_admin(gateway.request("POST", "/v1/settings/reload"))).await;
    assert_eq!((answer.status, &answer.json()["needs_restart"]), (200, &json!(["writers"])), "{answer:?}");
    for (key, value, from, place) in [
        ("log_level", json!("warn"), "file", json!("eye.toml:1")),
        ("writers", json!(3), "file", json!("eye.toml:3")),
        ("hosts", json!([]), "default", Value::Null),
    ] {
        assert_eq!(of(&gateway, key).await, [value, json!(from), place], "{key}");
    }
    assert_eq!(gateway.get("/v1/settings").await.status, 403, "it needs the scope admin");
    let answer = gateway.answer(gateway.as_admin(gateway.request("GET", "/v1/settings?key=listen"))).await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("key")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_shown_whatever_place_gives_it() {
    const PASSWORD: &str = "hunter2-of-the-database";
    const HOOK: &str = "https://hooks.example/hunter3-of-the-hook";
    const SIGNS: &str = "hunter4-which-signs-messages";
    const TOKEN: &str = "eye_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let secrets: Vec<&str> =
        SETTINGS.iter().filter(|one| matches!(one.kind, Kind::Secret)).map(|setting| setting.key).collect();
    assert_eq!(secrets, ["database_url", "notify_url", "notify_secret"], "a new secret setting is to be tried here");
    let server = Server::start();
    server.prepare();
    let url = server.url().replace("postgres@", &format!("postgres:{PASSWORD}@"));
    for from in ["file", "environment", "EYE_DATABASE_URL_FILE", "flag"] {
        let folder = folder();
        let (file, value) = (folder.path().join("eye.toml"), folder.path().join("url"));
        std::fs::write(folder.path().join("token"), TOKEN).expect("a file");
        std::fs::write(&value, &url).expect("a file");
        let line = if from == "file" { format!("database_url = \"{url}\"\n") } else { String::new() };
        std::fs::write(&file, line).expect("a file");
        let setup = Setup::default().with_argument("--config=eye.toml").with("EYE_ADMIN_TOKEN_FILE", "token");
        let setup = setup.with("EYE_NOTIFY_URL", HOOK).with("EYE_NOTIFY_SECRET", SIGNS);
        let (setup, place) = match from {
            "file" => (setup, "eye.toml:1"),
            "environment" => (setup.with("EYE_DATABASE_URL", &url), "EYE_DATABASE_URL"),
            "flag" => (setup.with_argument(&format!("--database-url={url}")), "--database-url"),
            variable => (setup.with(variable, value.display()), variable),
        };
        let gateway = setup.start_in(folder).await;
        let answer = eventually("the caller is known", async || {
            Some(gateway.get("/v1/settings").await).filter(|answer| answer.status == 200)
        })
        .await;
        let all = answer.json();
        let shown = all["settings"].as_array().expect("settings").iter().find(|one| one["key"] == "database_url");
        let shown = shown.expect("the setting");
        assert_eq!((&shown["value"], &shown["hidden"], &shown["place"]), (&Value::Null, &json!(true), &json!(place)));
        for secret in [PASSWORD, &url, TOKEN, HOOK, SIGNS] {
            assert!(!answer.text.contains(secret), "by {from}: {}", answer.text);
        }
    }
}
