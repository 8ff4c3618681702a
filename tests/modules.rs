//! Modules in a running gateway: dropped, replaced, broken, removed, and misbehaving.

use serde_json::json;

use crate::support::{Gateway, SESSION, Setup, event, eventually, module, pageview};

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

#[tokio::test]
async fn a_fault_quarantines_the_event_and_harms_no_other() {
    // Long enough for a guest to run into its own limit first, however busy the machine is.
    let gateway = Setup::default().with("EYE_DEADLINE_MS", 2_000).start().await;
    // The 32 MiB of `returns_huge` are copied once on their way out, which is more than the memory that it may have.
    let guests = [
        ("spins", "deadline"),
        ("traps", "trap"),
        ("recurses", "stack"),
        ("hoards", "memory"),
        ("returns_huge", "memory"),
        ("many_violations", "output"),
        ("amends_text", "output"),
        ("amends_list", "output"),
        ("bad_pointers", "output"),
        ("rejects_without_violations", "output"),
    ];
    for (guest, code) in guests {
        gateway.drop_module(&format!("guests/{guest}.wasm"), &module(guest));
        gateway.validator(&format!("guests/{guest}"), "active").await;
        let bad = gateway.send(&event("guests", guest, json!({"misbehave": true}))).await;
        assert_eq!(
            (bad.status, &bad.json()["outcome"], &bad.json()["code"]),
            (202, &json!("quarantined"), &json!(code)),
            "{guest}: {bad:?}"
        );
        let good = gateway.send(&event("guests", guest, json!({}))).await;
        assert_eq!(good.status, 201, "{guest}: {good:?}");
        assert_eq!(
            gateway.sql(&format!("select code from dead_letters where name = '{guest}'")),
            code,
            "kept before the answer"
        );
    }
    assert_eq!(gateway.session(SESSION).await.len(), guests.len());
}

#[tokio::test]
async fn the_same_event_gets_the_same_verdict_whatever_came_before() {
    let gateway = Gateway::start().await;
    gateway.drop_module("guests/counts.wasm", &module("counts_calls"));
    gateway.validator("guests/counts", "active").await;
    for _ in 0..20 {
        let answer = gateway.send(&event("guests", "counts", json!({}))).await;
        assert_eq!(answer.status, 201, "the first call is accepted, and every call is the first: {answer:?}");
    }
    let many = vec![event("guests", "counts", json!({})); 200];
    assert_eq!(gateway.send(&json!(many)).await.status, 200);
}

#[tokio::test]
async fn module_swaps_under_load_fail_no_request() {
    let gateway = Gateway::start().await;
    let (first, second) = (module("accepts"), module("rejects"));
    gateway.drop_module("guests/swapped.wasm", &first);
    gateway.validator("guests/swapped", "active").await;
    let swaps = async {
        for round in 0..20 {
            gateway.drop_module("guests/swapped.wasm", if round % 2 == 0 { &second } else { &first });
            let wanted = if round % 2 == 0 { 422 } else { 201 };
            eventually("the swap is seen", async || {
                (gateway.send(&event("guests", "swapped", json!({}))).await.status == wanted).then_some(())
            })
            .await;
        }
    };
    let mut seen = [0_u32; 2];
    let load = async {
        loop {
            let answer = gateway.send(&event("guests", "swapped", json!({}))).await;
            match answer.status {
                201 => seen[0] += 1,
                422 => seen[1] += 1,
                _ => panic!("a failed request: {answer:?}"),
            }
        }
    };
    tokio::select! {
        () = swaps => {}
        () = load => {}
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both modules judged: {seen:?}");
}
