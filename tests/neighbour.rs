//! A module that spins on every event, beside a healthy one. Every healthy event is stored and every other one is
//! quarantined, whatever the load. The bench `neighbour` measures the times of the healthy ones.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::support::{Setup, event, module};

const HEALTHY: usize = 300;
const SPINNING: usize = 200;
/// Two hundred per second.
const SPINS_EVERY: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_spins_costs_its_own_events_and_no_others() {
    // A module that is off the path stays so; otherwise its letters would be judged again and their codes would change.
    let gateway = Setup::default().with("EYE_REJUDGE_EVENTS_PER_SECOND_MAX", 0).start().await;
    // A busy machine may interrupt a call. Only the spinning module must exceed its deadline for that reason.
    gateway.drop_module("guests/healthy.toml", b"deadline_ms = 4000");
    gateway.drop_module("guests/healthy.wasm", &module("accepts"));
    gateway.drop_module("guests/spins.wasm", &module("spins_always"));
    gateway.validator("guests/healthy", "active").await;
    gateway.validator("guests/spins", "active").await;
    let healthy = async {
        for _ in 0..HEALTHY {
            let answer = gateway.send(&event("guests", "healthy", json!({}))).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    };
    let spinning = async {
        // Sent at fixed times, whether or not the earlier ones are answered.
        let sent = (0..SPINNING).map(|place| {
            let gateway = &gateway;
            async move {
                tokio::time::sleep(SPINS_EVERY * u32::try_from(place).expect("few")).await;
                gateway.send(&event("guests", "spins", json!({}))).await
            }
        });
        futures_util::future::join_all(sent).await
    };
    let ((), answers) = tokio::join!(healthy, spinning);
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let code = answer.json()["code"].as_str().expect("a code").to_owned();
        match (answer.status, code.as_str()) {
            // Not judged, because the call took too long or because the module is off the path.
            (202, "deadline" | "off_path") => {}
            // More of them at once than may wait for a slow module. They must be sent again.
            (503, _) => assert!(answer.headers.contains_key("retry-after"), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
        *codes.entry(code).or_default() += 1;
    }
    println!("{HEALTHY} healthy events stored; of {SPINNING} spinning ones: {codes:?}");
    assert!(codes.contains_key("deadline") && codes.contains_key("off_path"), "{codes:?}");
    assert_eq!(gateway.sql("select count(*) from events"), HEALTHY.to_string());
    let kept = gateway.sql("select code, count(*) from dead_letters group by code order by code");
    let told: Vec<String> = ["deadline", "off_path"].iter().map(|code| format!("{code}|{}", codes[*code])).collect();
    assert_eq!(kept.lines().collect::<Vec<_>>(), told, "each that was told to be quarantined is kept");
    let report = gateway.validator("guests/spins", "active").await;
    assert_eq!(report["standing"], "off-path", "{report}");
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_modules_serving", &[("standing", "off-path")]), Some(1.0));
}
