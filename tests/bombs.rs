//! Malicious module files. Whatever a file contains: the gateway lives, other modules judge, a small fix loads
//! meanwhile, the file is refused with a reason, a stop is prompt, a restart works, and the memory is free again. `make
//! test-modules` runs the tests that take minutes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bombs::{self, Bomb};
use crate::support::{Gateway, Setup, event, eventually, module, pageview};

/// Longest wait for a file that uses all of its bounds.
const PATIENCE: Duration = Duration::from_secs(400);

/// A gateway with one rule. Its log has the usage of each loader.
fn setup() -> Setup {
    Setup::default().with("EYE_LOG_LEVEL", "debug").with_module("page interaction/pageview.wasm", "pageview")
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// The loaders of a gateway: its children other than Postgres.
fn loaders(gateway: &Gateway) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let own = format!("load-module\0--gateway\0{}\0", gateway.pid());
        String::from_utf8_lossy(&command).contains(&own).then_some(id)
    });
    processes.collect()
}

/// Processor time of a process, in hundredths of a second.
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|place| fields.get(*place)?.parse::<u64>().ok()).sum()
}

async fn report(gateway: &Gateway, event_type: &str) -> Option<Value> {
    let answer = gateway.get("/v1/validators").await.json();
    answer["validators"].as_array()?.iter().find(|one| one["event_type"] == event_type).cloned()
}

/// Waits until the gateway has decided on a file.
async fn decided(gateway: &Gateway, event_type: &str, began: Instant) -> Value {
    loop {
        if let Some(report) = report(gateway, event_type).await
            && ["refused", "active"].contains(&report["state"].as_str().unwrap_or_default())
        {
            return report;
        }
        assert!(began.elapsed() < PATIENCE, "{event_type} was never decided:\n{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Drops a bomb, checks the gateway's promises meanwhile, and prints the cost.
async fn explode(gateway: &Gateway, number: usize, bomb: &Bomb) {
    let file = format!("bombs/{number}.wasm");
    let event_type = format!("bombs/{number}");
    if !bomb.settings.is_empty() {
        gateway.drop_module(&format!("bombs/{number}.toml"), bomb.settings.as_bytes());
    }
    let lines = gateway.log().lines().count();
    let began = Instant::now();
    gateway.drop_module(&file, &bomb.bytes);
    // The fix of another team, at the same time.
    let fix = format!("fixes/{number}");
    gateway.drop_module(&format!("{fix}.wasm"), &module("accepts"));
    gateway.validator(&fix, "active").await;
    let fixed = began.elapsed();
    assert_eq!(gateway.send(&pageview()).await.status, 201, "{}", bomb.name);
    let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
    assert_eq!(gateway.send(&bad).await.status, 422, "{}", bomb.name);
    let report = decided(gateway, &event_type, began).await;
    let log = gateway.log();
    let words = log.lines().skip(lines).filter(|line| line.contains("at an end") && line.contains("bombs"));
    let used = words.map(|line| line.split("name=").nth(1).unwrap_or_default()).collect::<Vec<_>>().join("; ");
    println!(
        "{:<60} {:>8} bytes, {} after {:.1} s, a fix after {:.2} s | {used} | {}",
        bomb.name,
        bomb.bytes.len(),
        report["state"].as_str().unwrap_or_default(),
        began.elapsed().as_secs_f64(),
        fixed.as_secs_f64(),
        report["last_error"]["found"].as_str().unwrap_or_default().chars().take(220).collect::<String>(),
    );
    assert!(fixed < Duration::from_secs(30), "{}: a fix waited {fixed:?}", bomb.name);
    if report["state"] == "refused" {
        for part in ["expected", "found", "mend"] {
            assert!(report["last_error"][part].as_str().is_some_and(|text| text.len() > 5), "{}: {report}", bomb.name);
        }
    }
    gateway.remove_module(&file);
}

/// Runs all bombs, one after the other.
async fn all_of(all: Vec<Bomb>) {
    let mut gateway = setup().start().await;
    let before = resident_mib(gateway.pid());
    for (number, bomb) in all.iter().enumerate() {
        explode(&gateway, number, bomb).await;
    }
    assert_eq!(loaders(&gateway), [0; 0], "none is left");
    let after = resident_mib(gateway.pid());
    println!("the gateway had {before} MiB resident before, and has {after} MiB");
    assert!(after < before + 100, "{before} MiB grew to {after} MiB");
    // The gateway also starts with all of them in place.
    for (number, bomb) in all.iter().enumerate() {
        gateway.drop_module(&format!("bombs/{number}.wasm"), &bomb.bytes);
    }
    gateway.signal("TERM");
    let began = Instant::now();
    assert_eq!(gateway.ended().await.code(), Some(0));
    println!("stopped in {} ms with all of them dropped", began.elapsed().as_millis());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gateway.launch().await;
    eventually("the rule judges", async || (gateway.send(&pageview()).await.status == 201).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_break_their_reader_break_nothing_else() {
    all_of(bombs::fast()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_take_all_they_may_cost_nobody_else() {
    all_of(bombs::slow()).await;
}

/// A file that takes much longer than its bounds, which are small, in a slot that was served before.
fn hasty() -> Setup {
    setup()
        .with("EYE_LOADER_PROCESSOR_MS", 1_500)
        .with("EYE_LOADER_PROCESSOR_MS_PER_MIB", 0)
        .with("EYE_LOADER_QUICK_MS", 500)
        .with("EYE_LOADER_MEMORY_BYTES", 2_u64 << 30)
}

fn bomb(name: &str) -> Vec<u8> {
    let found = bombs::slow().into_iter().find(|bomb| bomb.name == name);
    found.unwrap_or_else(|| panic!("there is no bomb {name}")).bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_in_words_and_not_tried_again_until_a_bound_is_raised() {
    let mut gateway = hasty().start().await;
    let loops = bomb("100,000 nested loops");
    let path = "page interaction/pageview";
    let refused = async |gateway: &Gateway| {
        eventually("it is refused", async || {
            let report = report(gateway, path).await?;
            (!report["last_error"].is_null() && report["loading"].is_null()).then_some(report)
        })
        .await
    };
    let is_judged = async |gateway: &Gateway| {
        let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
        eventually("the rule judges", async || (gateway.send(&bad).await.status == 422).then_some(())).await;
    };
    gateway.drop_module(&format!("{path}.wasm"), &loops);
    let report = refused(&gateway).await;
    let error = &report["last_error"];
    let holds = |part: &str, words: &str| {
        assert!(error[part].as_str().is_some_and(|text| text.contains(words)), "{part} says {words}: {error}");
    };
    holds("expected", "within 1500 ms of processor time");
    holds("found", "MiB of memory");
    holds("mend", "loader_processor_ms (now 1500)");
    is_judged(&gateway).await;
    for (signal, tried) in [("TERM", false), ("KILL", false), ("TERM", true)] {
        gateway.signal(signal);
        gateway.ended().await;
        if tried {
            gateway.set("EYE_LOADER_BOUNDS_PERCENT", 101);
        }
        gateway.restart().await;
        let again = refused(&gateway).await;
        assert_eq!(again["digest"], report["digest"], "the last good one serves");
        is_judged(&gateway).await;
        let loads = gateway.log().lines().filter(|line| line.contains("a loader is at an end")).count();
        assert_eq!(loads > 0, tried, "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_loader_outlives_its_gateway_or_holds_a_stop_and_a_fix_for_its_own_file_does_not_wait() {
    let mut gateway = setup().with("EYE_LOADER_QUICK_MS", 100).start().await;
    let loops = bomb("100,000 nested loops");
    let heavy = async |gateway: &Gateway| {
        gateway.drop_module("a/b.wasm", &loops);
        eventually("it is in the heavy lane", async || {
            // The quick lane ends a loader long before.
            loaders(gateway).into_iter().find(|loader| processor_ticks(*loader) >= 40)
        })
        .await
    };
    let gone = async |loader: u32| {
        eventually("the loader is gone", async || {
            let stat = std::fs::read_to_string(format!("/proc/{loader}/stat"));
            (!stat.is_ok_and(|stat| stat.contains("load"))).then_some(())
        })
        .await;
    };
    let loader = heavy(&gateway).await;
    // The rest: the three pipes, and the memory from which it maps code.
    let environment = std::fs::read(format!("/proc/{loader}/environ")).expect("it lives");
    assert_eq!(environment, b"");
    eventually("it has given up all", async || {
        let status = std::fs::read_to_string(format!("/proc/{loader}/status")).expect("it lives");
        (status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2")).then_some(())
    })
    .await;
    let score = std::fs::read_to_string(format!("/proc/{loader}/oom_score_adj")).expect("it lives");
    assert_eq!(score.trim(), "1000");
    assert_eq!(gateway.get("/readyz").await.status, 200);
    // A fix replaces the file that is being loaded.
    let began = Instant::now();
    gateway.drop_module("a/b.wasm", &module("accepts"));
    gateway.validator("a/b", "active").await;
    println!("a fix for the same file serves after {} ms", began.elapsed().as_millis());
    gone(loader).await;

    gateway.remove_module("a/b.wasm");
    let loader = heavy(&gateway).await;
    gateway.signal("KILL");
    gateway.ended().await;
    gone(loader).await;
    gateway.restart().await;
    assert!(gateway.log().contains("a gateway ended while it loaded a file"), "{}", gateway.log());
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let loader = heavy(&gateway).await;
    gateway.signal("TERM");
    let began = Instant::now();
    assert_eq!(gateway.ended().await.code(), Some(0));
    println!("stopped in {} ms while a loader was at work", began.elapsed().as_millis());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gone(loader).await;
}
