//! Modules in a running gateway: dropped, replaced, broken, removed and rolled back. `hostile.rs` has those that
//! misbehave.

use serde_json::json;

use crate::support::load::Chance;
use crate::support::{Gateway, Setup, digest_of, event, eventually, module, pageview};

#[tokio::test]
async fn a_dropped_module_judges_a_stricter_one_takes_over_and_a_removed_one_is_gone() {
    let gateway = Gateway::start().await;
    let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
    assert_eq!(gateway.send(&bad).await.status, 201, "no module yet");

    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    let first = gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(gateway.send(&bad).await.status, 422);
    assert_eq!(gateway.send(&pageview()).await.status, 201);

    gateway.drop_module("page interaction/pageview.wasm", &module("rejects"));
    eventually("the other module serves", async || {
        let now = gateway.validator("page interaction/pageview", "active").await;
        (now["digest"] != first["digest"]).then_some(())
    })
    .await;
    assert_eq!(gateway.send(&pageview()).await.status, 422);

    gateway.remove_module("page interaction/pageview.wasm");
    eventually("the module is unloaded", async || (gateway.send(&bad).await.status == 201).then_some(())).await;
}

#[tokio::test]
async fn how_a_module_is_judged_is_told() {
    let gateway = Setup::default().with_module("page interaction/pageview.wasm", "pageview").start().await;
    let report = gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(report["isolation"], "set_back");
    assert!(report["isolation_reason"].as_str().is_some_and(|reason| reason.contains("set back")), "{report}");
}

#[tokio::test]
async fn compiled_code_is_kept_in_the_data_directory() {
    let gateway = Setup::default().with_module("page interaction/pageview.wasm", "pageview").start().await;
    gateway.validator("page interaction/pageview", "active").await;
    let built = gateway.data_dir().join("compiled/built");
    let kept = std::fs::read_dir(&built).unwrap_or_else(|error| panic!("{error}: {}", gateway.log())).count();
    assert!(kept > 0, "{}", gateway.log());
}

#[tokio::test]
async fn a_bad_module_leaves_the_last_good_one_serving_and_says_why() {
    let gateway = Gateway::start().await;
    let path = "page interaction/pageview.wasm";
    gateway.drop_module(path, &module("pageview"));
    let good = gateway.validator("page interaction/pageview", "active").await;
    for bad in ["imports_wasi", "wrong_world", "wrong_version", "self_test_fails", "describe_traps"] {
        gateway.drop_module(path, &module(bad));
        let report = eventually(&format!("{bad} is refused"), async || {
            let report = gateway.get("/v1/validators").await.json();
            let one = report["validators"]
                .as_array()?
                .iter()
                .find(|one| one["event_type"] == "page interaction/pageview")?
                .clone();
            (!one["last_error"].is_null()).then_some(one)
        })
        .await;
        assert_eq!(report["digest"], good["digest"], "{bad}: the last good module serves");
        for part in ["expected", "found", "mend"] {
            assert!(report["last_error"][part].as_str().is_some_and(|text| text.len() > 5), "{bad}: {report}");
        }
        assert_eq!(gateway.send(&pageview()).await.status, 201);
        gateway.drop_module(path, &module("pageview"));
        eventually("the error is gone with its file", async || {
            let one = gateway.validator("page interaction/pageview", "active").await;
            one["last_error"].is_null().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn bad_settings_are_told_and_those_before_stay_in_force() {
    let gateway = Gateway::start().await;
    gateway.drop_module("guests/limited.toml", b"deadline_ms = 40");
    gateway.drop_module("guests/limited.wasm", &module("accepts"));
    let report = gateway.validator("guests/limited", "active").await;
    assert_eq!((&report["limits"]["deadline_ms"], &report["settings_error"]), (&json!(40), &json!(null)));
    // Longer than the time to answer, which is five seconds.
    gateway.drop_module("guests/limited.toml", b"deadline_ms = 5000");
    let report = eventually("the settings are refused", async || {
        let report = gateway.validator("guests/limited", "active").await;
        (!report["settings_error"].is_null()).then_some(report)
    })
    .await;
    assert_eq!(report["limits"]["deadline_ms"], 40);
    let error = &report["settings_error"];
    assert_eq!(error["found"], "`deadline_ms` is 5000, and must be 1 to 4999");
    assert!(error["mend"].as_str().is_some_and(|mend| mend.contains("last good settings stay in force")), "{error}");
    assert_eq!(gateway.send(&event("guests", "limited", json!({}))).await.status, 201);
}

#[tokio::test]
async fn files_that_serve_nothing_are_told_with_the_reason() {
    let gateway = Gateway::start().await;
    let problems = async |file: Option<&str>| {
        eventually(&format!("the problem is {file:?}"), async || {
            let problems = gateway.get("/v1/validators").await.json()["problems"].clone();
            (problems.get(0).and_then(|one| one["file"].as_str()) == file).then_some(problems)
        })
        .await
    };
    let missing = problems(Some(".")).await;
    assert!(missing[0]["why"].as_str().is_some_and(|why| why.contains("modules")), "{missing}");
    gateway.drop_module("stray.wasm", &module("accepts"));
    let stray = problems(Some("stray.wasm")).await;
    assert!(stray[0]["why"].as_str().is_some_and(|why| why.contains("<category>/<name>.wasm")), "{stray}");
    // The log comes through a pipe that another thread reads.
    eventually("it is logged", async || gateway.log().contains("stray.wasm").then_some(())).await;
    gateway.remove_module("stray.wasm");
    problems(None).await;
    assert_eq!(gateway.log().matches("stray.wasm").count(), 1, "{}", gateway.log());
}

#[tokio::test]
async fn a_start_without_a_look_at_the_modules_accepts_no_event_unseen() {
    let mut gateway = Gateway::start().await;
    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    gateway.validator("page interaction/pageview", "active").await;
    gateway.signal("TERM");
    gateway.ended().await;
    let modules = gateway.data_dir().with_file_name("modules");
    let aside = gateway.data_dir().with_file_name("aside");
    std::fs::rename(&modules, &aside).expect("moved");
    std::fs::write(&modules, b"no directory").expect("written");
    gateway.launch().await;
    let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
    let problem = eventually("the directory is told", async || {
        let problems = gateway.get("/v1/validators").await.json()["problems"].clone();
        problems.get(0).cloned()
    })
    .await;
    assert_eq!(problem["file"], ".");
    eventually("the database is there", async || {
        (gateway.get("/readyz").await.json()["database"] == true).then_some(())
    })
    .await;
    let alone = gateway.send(&bad).await;
    assert_eq!((alone.status, &alone.json()["code"]), (503, &json!("module_loading")), "{alone:?}");
    assert!(alone.headers.contains_key("retry-after"), "{alone:?}");
    let many = gateway.send(&json!([bad, pageview(), {"category": "broken"}])).await;
    let told = many.json();
    assert_eq!((many.status, &told["rejected"], &told["unfinished"]), (207, &json!(1), &json!(2)), "{many:?}");
    assert_eq!(gateway.sql("select count(*) from dead_letters where code <> 'envelope'"), "0");
    assert_eq!(gateway.sql("select count(*) from events"), "0");
    let ready = gateway.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["validators"]), (503, &json!(false)), "{ready:?}");
    assert_eq!(gateway.log().matches("the modules directory cannot be read").count(), 1, "{}", gateway.log());

    std::fs::remove_file(&modules).expect("removed");
    std::fs::rename(&aside, &modules).expect("moved");
    gateway.is_ready().await;
    assert_eq!(gateway.send(&bad).await.status, 422);
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_at_the_start_costs_its_own_events_and_no_others() {
    let mut gateway = Gateway::start().await;
    gateway.drop_module("guests/accepts.wasm", &module("accepts"));
    gateway.validator("guests/accepts", "active").await;
    gateway.signal("TERM");
    gateway.ended().await;
    let folder = gateway.data_dir().with_file_name("modules").join("page interaction");
    std::os::unix::fs::symlink("page interaction", &folder).expect("linked to itself");
    gateway.restart().await;
    let other = event("guests", "accepts", json!({}));
    assert_eq!(gateway.send(&other).await.status, 201);
    let alone = gateway.send(&pageview()).await;
    assert_eq!((alone.status, &alone.json()["code"]), (503, &json!("module_unavailable")), "{alone:?}");
    assert!(alone.headers.contains_key("retry-after"), "{alone:?}");
    let many = gateway.send(&json!([other, pageview(), other])).await;
    let told = many.json();
    assert_eq!((many.status, &told["stored"], &told["unfinished"]), (207, &json!(2), &json!(1)), "{many:?}");
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
    let problems = gateway.get("/v1/validators").await.json()["problems"].clone();
    assert_eq!((problems.as_array().map(Vec::len), &problems[0]["file"]), (Some(1), &json!("page interaction")));
    assert_eq!(gateway.log().matches("this folder cannot be read").count(), 1, "{}", gateway.log());

    std::fs::remove_file(&folder).expect("removed");
    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
}

#[tokio::test]
async fn a_start_with_a_bad_file_accepts_no_event_unseen() {
    let mut gateway = Gateway::start().await;
    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    let good = gateway.validator("page interaction/pageview", "active").await;
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.drop_module("page interaction/pageview.wasm", b"broken");
    gateway.restart().await;
    let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
    let answer = gateway.send(&bad).await;
    assert_eq!((answer.status, &answer.json()["validator"]["digest"]), (422, &good["digest"]), "{answer:?}");
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let report = eventually("the file is refused", async || {
        let report = gateway.validator("page interaction/pageview", "active").await;
        (!report["last_error"].is_null()).then_some(report)
    })
    .await;
    assert_eq!((&report["digest"], &report["versions"][0]["digest"]), (&good["digest"], &good["digest"]));
}

#[tokio::test]
async fn a_rollback_puts_the_version_before_back_and_survives_a_restart() {
    let mut gateway = Gateway::start().await;
    let serves = async |gateway: &Gateway, status: u16| {
        eventually("the version serves", async || {
            (gateway.send(&event("guests", "versions", json!({}))).await.status == status).then_some(())
        })
        .await;
    };
    gateway.drop_module("guests/versions.wasm", &module("accepts"));
    gateway.validator("guests/versions", "active").await;
    gateway.drop_module("guests/versions.wasm", &module("rejects"));
    serves(&gateway, 422).await;
    assert_eq!(gateway.command_line(&["validator", "history", "guests/versions"]).lines().count(), 2);
    gateway.command_line(&["validator", "rollback", "guests/versions"]);
    serves(&gateway, 201).await;
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    serves(&gateway, 201).await;
}

/// A module that differs from others only by a section that is never read.
fn salted(name: &str, salt: u8) -> Vec<u8> {
    let mut bytes = module(name);
    bytes.extend([0, 3, 1, b's', salt]);
    bytes
}

#[tokio::test]
async fn a_kill_while_a_version_is_kept_leaves_whole_versions_and_the_last_good_one_serves() {
    let mut gateway = Setup::default().with_module("a/b.wasm", "rejects").start().await;
    let sent = event("a", "b", json!({}));
    let mut chance = Chance::new();
    for salt in 0..5 {
        gateway.drop_module("a/b.wasm", &salted("rejects", salt));
        tokio::time::sleep(std::time::Duration::from_millis(chance.below(150))).await;
        gateway.signal("KILL");
        gateway.ended().await;
        gateway.restart().await;
        eventually("it judges", async || (gateway.send(&sent).await.status == 422).then_some(())).await;
        // The earlier version serves until the file on which a gateway ended was tried once more.
        eventually("the new version serves", async || {
            let report = gateway.validator("a/b", "active").await;
            (report["digest"] == digest_of(&salted("rejects", salt))).then_some(())
        })
        .await;
    }
    let history = gateway.command_line(&["validator", "history", "a/b"]);
    let versions = gateway.data_dir().join("versions");
    let folder = std::fs::read_dir(versions).expect("there").next().expect("one").expect("readable").path();
    for entry in std::fs::read_dir(folder).expect("there") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if let Some(digest) = name.strip_suffix(".wasm").and_then(|name| name.split_once('-')).map(|(_, digest)| digest)
        {
            assert_eq!(digest_of(&std::fs::read(&path).expect("readable")), digest, "{name}");
            assert!(history.contains(digest), "{history}");
        } else {
            assert_eq!(name, "event-type", "nothing is left half written");
        }
    }
}
