//! Events that cannot be judged as their author wanted are not stored, all others go on, and operators and senders
//! learn of it.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, event, eventually, folder, module, pageview};

/// A pageview that its validator rejects.
fn bad_pageview() -> Value {
    event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}))
}

#[tokio::test]
async fn a_new_gateway_with_a_broken_module_stores_none_of_its_events() {
    let mut setup = Setup::default().with_module("guests/accepts.wasm", "accepts");
    setup.modules.push(("page interaction/pageview.wasm".into(), b"fifteen letters".to_vec()));
    let gateway = setup.start().await;
    let ready = gateway.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["refused_modules"])), "{ready:?}");
    let alone = gateway.send(&bad_pageview()).await;
    assert_eq!((alone.status, &alone.json()["code"]), (503, &json!("module_unavailable")), "{alone:?}");
    assert!(alone.headers.contains_key("retry-after"), "{alone:?}");
    let other = event("guests", "accepts", json!({}));
    let many = gateway.send(&json!([other, pageview(), event("nobody", "judges", json!({}))])).await;
    let told = many.json();
    assert_eq!((many.status, &told["stored"], &told["unfinished"]), (207, &json!(2), &json!(1)), "{many:?}");
    assert_eq!(gateway.sql("select count(*) from events"), "2");
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_modules_held", &[("code", "module_unavailable")]), Some(1.0));
    assert_eq!(figures.value("eye_ready", &[]), Some(1.0));
    let report = gateway.validator("page interaction/pageview", "refused").await;
    assert_eq!(report["held"], "module_unavailable");
    // After the mend its events are judged.
    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(gateway.send(&bad_pageview()).await.status, 422);
    assert_eq!(gateway.get("/readyz").await.json()["degraded"], json!([]));
}

#[tokio::test]
async fn a_rollout_with_a_broken_module_is_not_ready_where_that_is_asked_for() {
    let mut setup = Setup::default().with("EYE_READY_REQUIRES_MODULES", true);
    setup.modules.push(("page interaction/pageview.wasm".into(), b"broken".to_vec()));
    let gateway = setup.listen().await;
    eventually("the refusal is all that keeps it from being ready", async || {
        let ready = gateway.get("/readyz").await;
        (ready.status == 503 && ready.json()["reasons"] == json!(["refused_modules"])).then_some(())
    })
    .await;
    gateway.drop_module("page interaction/pageview.wasm", &module("pageview"));
    gateway.validator("page interaction/pageview", "active").await;
    // A bad file beside a good version in memory changes nothing.
    gateway.drop_module("page interaction/pageview.wasm", b"broken");
    eventually("it is told", async || {
        let ready = gateway.get("/readyz").await;
        (ready.status == 200 && ready.json()["degraded"] == json!(["refused_modules"])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_type_that_must_have_a_module_is_not_stored_without_one() {
    let gateway = Setup::default().with("EYE_REQUIRE_MODULE", "page interaction/*, shop/sale").start().await;
    let answer = gateway.send(&pageview()).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("module_unavailable")), "{answer:?}");
    assert_eq!(gateway.send(&event("shop", "theft", json!({}))).await.status, 201);
    let ready = gateway.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["missing_modules"])), "{ready:?}");
    gateway.drop_module("page interaction/_.wasm", &module("pageview"));
    eventually("its category's module judges it", async || {
        (gateway.send(&pageview()).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_type_that_nobody_judges_is_told_with_the_file_that_was_meant() {
    let gateway = Setup::default().with_module("Page Interaction/page_view.wasm", "pageview").start().await;
    for _ in 0..2 {
        assert_eq!(gateway.send(&event("page interaction", "page view", json!({}))).await.status, 201);
    }
    gateway.drop_module("shop/eu/sale.wasm", &module("accepts"));
    gateway.drop_module("shop/sale.WASM", &module("accepts"));
    gateway.drop_module("shop/theft.toml", b"deadline_ms = 5");
    let told = eventually("all is told", async || {
        let told = gateway.get("/v1/validators").await.json();
        (told["problems"].as_array().is_some_and(|problems| problems.len() == 4)).then_some(told)
    })
    .await;
    let unjudged = json!([{"category": "page interaction", "name": "page view", "stored": 2,
        "nearest": "Page Interaction/page_view.wasm"}]);
    assert_eq!(told["without_validator"], unjudged);
    let near: Vec<_> =
        told["problems"].as_array().expect("a list").iter().map(|one| (&one["file"], &one["nearest"])).collect();
    let expected = [
        ("shop/eu/sale.wasm", json!("shop/sale.wasm")),
        ("shop/sale.WASM", json!("shop/sale.wasm")),
        ("shop/theft.toml", json!(null)),
        ("Page Interaction/page_view.wasm", json!("page interaction/page view.wasm")),
    ]
    .map(|(file, nearest)| (json!(file), nearest));
    assert_eq!(near, expected.iter().map(|(file, nearest)| (file, nearest)).collect::<Vec<_>>(), "{told}");
}

#[tokio::test]
async fn a_modules_directory_that_loses_its_files_loses_no_rule_until_it_is_confirmed() {
    let files = ["page interaction/pageview.wasm", "guests/one.wasm", "guests/two.wasm"];
    let setup = files.iter().fold(Setup::default(), |setup, file| setup.with_module(file, "pageview"));
    let mut gateway = setup.start().await;
    let modules = gateway.data_dir().with_file_name("modules");
    let is_lost = async |gateway: &Gateway| {
        eventually("the loss is told", async || {
            let ready = gateway.get("/readyz").await;
            (ready.status == 200 && ready.json()["degraded"] == json!(["lost_modules"])).then_some(())
        })
        .await;
        assert_eq!(gateway.send(&bad_pageview()).await.status, 422);
    };
    for entry in std::fs::read_dir(&modules).expect("readable") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("removed");
    }
    is_lost(&gateway).await;
    assert!(gateway.log().contains("an accident in the modules directory"), "{}", gateway.log());
    assert_eq!(gateway.figures().await.value("eye_modules_lost", &[]), Some(3.0));
    gateway.signal("KILL");
    gateway.ended().await;
    gateway.restart().await;
    is_lost(&gateway).await;
    let listed = gateway.command_line(&["validator", "list"]);
    assert_eq!(listed.lines().filter(|line| line.contains("\tmissing\t")).count(), 3, "{listed}");
    let told = gateway.command_line(&["validator", "retire", "guests/one"]);
    assert_eq!(told.trim(), "guests/one is retired; its file was gone already");
    assert_eq!(gateway.command_line(&["validator", "retire", "--missing"]).lines().count(), 2);
    eventually("nobody judges it any more", async || (gateway.send(&bad_pageview()).await.status == 201).then_some(()))
        .await;
    eventually("all is well", async || (gateway.get("/readyz").await.json()["degraded"] == json!([])).then_some(()))
        .await;
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    assert_eq!(gateway.send(&bad_pageview()).await.status, 201);
}

#[tokio::test]
async fn a_retired_module_is_gone_and_comes_back_by_a_rollback() {
    let gateway = Setup::default().with_module("page interaction/pageview.wasm", "pageview").start().await;
    assert_eq!(gateway.send(&bad_pageview()).await.status, 422);
    let told = gateway.command_line(&["validator", "retire", "page interaction/pageview"]);
    assert!(told.contains("page interaction/pageview.wasm is removed"), "{told}");
    eventually("nobody judges it", async || (gateway.send(&bad_pageview()).await.status == 201).then_some(())).await;
    gateway.command_line(&["validator", "rollback", "page interaction/pageview"]);
    eventually("it judges again", async || (gateway.send(&bad_pageview()).await.status == 422).then_some(())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn odd_files_and_links_hold_up_no_start_and_tell_no_secrets() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let (modules, data) = (folder.path().join("modules"), folder.path().join("data"));
    let setup = Setup::default().with_module("page interaction/pageview.wasm", "pageview");
    std::fs::create_dir_all(modules.join("page interaction")).expect("made");
    symlink("/", modules.join("disk")).expect("linked");
    symlink("/", modules.join("page interaction/disk")).expect("linked");
    symlink("/proc/self/environ", modules.join("page interaction/pageview.toml")).expect("linked");
    let pipe = |path: &std::path::Path| {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    };
    pipe(&modules.join("guests/pipe.wasm"));
    pipe(&modules.join("guests/pipe.toml"));
    for place in ["compiled/code/modules/wasmtime-odd/pipe", "compiled/seals/pipe", "roster/pipe", "versions/odd/pipe"]
    {
        pipe(&data.join(place));
    }
    let gateway = setup.start_in(folder).await;
    let report = gateway.validator("page interaction/pageview", "refused").await;
    assert_eq!(report["settings_error"]["found"], "it is a link to a file outside the modules directory");
    for text in [gateway.get("/v1/validators").await.text, gateway.log()] {
        assert!(!text.contains("PATH="), "{text}");
    }
    // No watch uses the disk.
    let fdinfo = std::fs::read_dir(format!("/proc/{}/fdinfo", gateway.pid())).expect("Linux tells it");
    let watches: usize = fdinfo
        .filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok())
        .map(|text| text.lines().filter(|line| line.starts_with("inotify wd")).count())
        .sum();
    assert!((1..10).contains(&watches), "{watches}");
    assert_eq!(gateway.send(&event("guests", "pipe", json!({}))).await.status, 503);
    assert_eq!(gateway.send(&event("disk", "anything", json!({}))).await.status, 503);
    assert_eq!(gateway.send(&event("guests", "other", json!({}))).await.status, 201);
}
