//! Three gateways on one Postgres, over TCP, that serve the same generation: `make test-fleet`. What is measured is
//! printed; what must be true is asserted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::proxy::Proxy;
use crate::support::{Answer, Gateway, Setup, digest_of, event, eventually, module};

/// Activations of the test under load.
const ACTIVATIONS: usize = 100;
/// Senders at each gateway.
const SENDERS: usize = 2;

fn named(url: &str, name: &str) -> Setup {
    let setup = Setup::default().with("EYE_DATABASE_URL", url).with("EYE_MODULES_FROM", "database");
    // `PROGRAM` names another build, such as one that is optimized, for figures.
    let setup = match std::env::var_os("PROGRAM") {
        Some(program) => setup.with_program(program.as_ref()).with("EYE_DRAIN_DELAY_MS", 0),
        None => setup,
    };
    setup.with("EYE_GATEWAY_NAME", name).with("EYE_DEADLINE_MS", 2_000)
}

/// Three gateways, and the token of an administrator.
async fn three(server: &Server) -> (Vec<Gateway>, String) {
    let mut gateways = Vec::new();
    for name in ["one", "two", "three"] {
        gateways.push(named(&server.url(), name).start().await);
    }
    let token = administrator(&gateways[0], server).await;
    for gateway in &gateways {
        known(gateway, &token).await;
    }
    (gateways, token)
}

async fn administrator(gateway: &Gateway, server: &Server) -> String {
    let mut command = gateway.command_beside(&["app", "add", "admin", "--token", "--scope", "admin"]);
    let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn known(gateway: &Gateway, token: &str) {
    eventually("the token is known", async || (get(gateway, token, "/v1/gateways").await.status == 200).then_some(()))
        .await;
}

async fn get(gateway: &Gateway, token: &str, path: &str) -> Answer {
    gateway.answer(gateway.request("GET", path).bearer_auth(token)).await
}

async fn push(gateway: &Gateway, token: &str, path: &str, content: &[u8], wait: u64) -> Answer {
    let request = gateway.request("PUT", &format!("/v1/validators/{path}")).bearer_auth(token);
    let request = request.header("content-type", "application/wasm").header("prefer", format!("wait={wait}"));
    gateway.answer(request.body(content.to_vec())).await
}

/// Sends until it is stopped. Each request must be stored.
async fn send(gateway: &Gateway, token: &str, stop: &AtomicBool, sent: &AtomicU64) {
    let one = event("guests", "named", json!({"n": 1})).to_string();
    while !stop.load(Relaxed) {
        let request = gateway.request("POST", "/v1/events").bearer_auth(token);
        let answer = gateway.answer(request.header("content-type", "application/json").body(one.clone())).await;
        assert_eq!(answer.status, 201, "a failed request: {answer:?}");
        sent.fetch_add(1, Relaxed);
    }
}

/// Since when a gateway serves its module.
async fn since(gateway: &Gateway, token: &str, digest: &str) -> DateTime<Utc> {
    eventually("the gateway serves it", async || {
        let shown = get(gateway, token, "/v1/validators/guests/named").await.json();
        (shown["digest"] == digest).then(|| shown["since"].as_str().expect("a time").parse().expect("a time"))
    })
    .await
}

fn median(times: &mut [i64]) -> i64 {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activations_under_load_reach_all_gateways_together_and_fail_no_request() {
    let server = Server::start();
    let (gateways, token) = three(&server).await;
    // Each activation has a module of its own, so that a digest names its generation.
    let bases = [module("names_one"), module("names_two")];
    let contents: Vec<Vec<u8>> = (0..=ACTIVATIONS).map(|number| salted(&bases[number % 2], number)).collect();
    let digests: Vec<String> = contents.iter().map(|content| digest_of(content)).collect();
    assert_eq!(push(&gateways[0], &token, "guests/named", &contents[0], 60).await.status, 200);
    for gateway in &gateways {
        since(gateway, &token, &digests[0]).await;
    }
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let senders = gateways.iter().flat_map(|gateway| (0..SENDERS).map(move |_| gateway));
    let senders = futures_util::future::join_all(senders.map(|gateway| send(gateway, &token, &stop, &sent)));
    let activations = async {
        let (mut skews, mut took) = (Vec::new(), Vec::new());
        for number in 1..=ACTIVATIONS {
            let began = Instant::now();
            let answer = push(&gateways[number % 3], &token, "guests/named", &contents[number], 60).await;
            assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
            took.push(i64::try_from(began.elapsed().as_micros()).expect("short"));
            let mut times = Vec::new();
            for gateway in &gateways {
                times.push(since(gateway, &token, &digests[number]).await);
            }
            let (first, last) = (times.iter().min().expect("three"), times.iter().max().expect("three"));
            skews.push((*last - *first).num_microseconds().expect("short"));
        }
        stop.store(true, Relaxed);
        (skews, took)
    };
    let (mut skews, mut took) = tokio::join!(activations, senders).0;

    let rows: u64 = server.sql("select count(*) from events").parse().expect("a number");
    assert_eq!(rows, sent.load(Relaxed), "each request that was answered is a row");
    let strangers = server.sql(
        "select count(*) from events left join modules on modules.id = module_id \
         where digest is null or digest not in (select digest from generation_changes where digest is not null)",
    );
    assert_eq!(strangers, "0", "each event was judged by the module of a generation");
    let judges = server.sql(
        "select encode(digest, 'hex'), data ->> 'judge' from events join modules on modules.id = module_id group by 1, 2",
    );
    for line in judges.lines() {
        let (digest, judge) = line.split_once('|').expect("two columns");
        let number = digests.iter().position(|one| one == digest).expect("one of ours");
        assert_eq!(judge, ["one", "two"][number % 2], "the verdict is that of the digest");
    }
    // For each activation, the time in which events of the module before and of the new one were received.
    let mixed = server.sql(
        "with judged as ( \
             select digest, min(received_at) as first, max(received_at) as last \
             from events join modules on modules.id = module_id group by 1 \
         ) \
         select greatest(extract(epoch from before.last - own.first) * 1e6, 0)::bigint \
         from generation_changes changes join judged own using (digest) \
         join generation_changes earlier on earlier.number = changes.number - 1 \
         join judged before on before.digest = earlier.digest order by changes.number",
    );
    let mut mixed: Vec<i64> = mixed.lines().map(|line| line.parse().expect("a number")).collect();
    println!(
        "activations {ACTIVATIONS}, events {rows}, failed requests 0, events of no generation {strangers}\n\
         between the first and the last gateway (us): median {}, longest {}\n\
         events of both modules (us): median {}, longest {}\n\
         push until it serves (us): median {}, longest {}",
        median(&mut skews),
        skews[skews.len() - 1],
        median(&mut mixed),
        mixed[mixed.len() - 1],
        median(&mut took),
        took[took.len() - 1]
    );
}

/// The rows of the living gateways, by name.
async fn rows(gateway: &Gateway, token: &str) -> Vec<(String, Value)> {
    let told = get(gateway, token, "/v1/gateways").await.json();
    let list = told["gateways"].as_array().expect("a list").clone();
    let live = list.into_iter().filter(|row| row["live"] == true);
    live.map(|row| (row["name"].as_str().expect("a name").to_owned(), row)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_hangs_or_is_cut_off_holds_nothing_up_for_long_and_catches_up() {
    let server = Server::start();
    let mut proxy = Proxy::start(server.socket()).await;
    let one = named(&server.url(), "one").start().await;
    let mut two = named(&server.url(), "two").start().await;
    let three = named(&proxy.url(), "three").start().await;
    let token = administrator(&one, &server).await;
    for gateway in [&one, &two, &three] {
        known(gateway, &token).await;
    }
    let modules = [module("names_one"), module("names_two")];
    let digests = [digest_of(&modules[0]), digest_of(&modules[1])];
    assert_eq!(push(&one, &token, "guests/named", &modules[0], 60).await.status, 200);

    two.signal("KILL");
    two.ended().await;
    let began = Instant::now();
    let answer = push(&one, &token, "guests/named", &modules[1], 60).await;
    assert_eq!(answer.json()["state"], json!("active"), "{answer:?}");
    println!("killed: the push took {} ms", began.elapsed().as_millis());
    since(&three, &token, &digests[1]).await;
    two.restart().await;
    since(&two, &token, &digests[1]).await;

    three.signal("STOP");
    let began = Instant::now();
    let answer = push(&one, &token, "guests/named", &modules[0], 60).await;
    assert_eq!(answer.json()["state"], json!("active"), "{answer:?}");
    println!("frozen: the push took {} ms", began.elapsed().as_millis());
    since(&two, &token, &digests[0]).await;
    three.signal("CONT");
    since(&three, &token, &digests[0]).await;

    proxy.leave().await;
    let began = Instant::now();
    let answer = push(&one, &token, "guests/named", &modules[1], 60).await;
    assert_eq!(answer.json()["state"], json!("active"), "{answer:?}");
    println!("cut off: the push took {} ms", began.elapsed().as_millis());
    three.unready().await;
    proxy.come_back().await;
    since(&three, &token, &digests[1]).await;
    eventually("it is ready again", async || (three.get("/readyz").await.status == 200).then_some(())).await;

    let four = named(&server.url(), "four").start().await;
    let shown = get(&four, &token, "/v1/validators/guests/named").await.json();
    assert_eq!(shown["digest"], json!(digests[1]), "a gateway that is ready serves the current generation");
    let live: BTreeSet<String> = rows(&one, &token).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(live, ["four", "one", "three", "two"].map(str::to_owned).into());
    let wrong = server.sql("select count(*) from generations where forced");
    assert_eq!(wrong, "0", "no gateway was passed over while it lived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_cannot_take_a_module_refuses_it_for_all_and_is_named() {
    let server = Server::start();
    let one = named(&server.url(), "one").start().await;
    // A guest needs more memory than this for its stack alone.
    let small = named(&server.url(), "small").with("EYE_MEMORY_BYTES_MAX", 65_536).with("EYE_OUTPUT_BYTES_MAX", 65_536);
    let small = small.start().await;
    let token = administrator(&one, &server).await;
    known(&one, &token).await;
    known(&small, &token).await;
    let content = module("names_one");
    let answer = push(&one, &token, "guests/named", &content, 60).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["code"]), (409, &json!("fleet_refused")), "{answer:?}");
    assert_eq!(
        (&told["gateways"][0]["gateway"], told["gateways"].as_array().map(Vec::len)),
        (&json!("small"), Some(1))
    );
    for member in ["expected", "found", "mend"] {
        assert!(told["gateways"][0]["refusal"][member].as_str().is_some_and(|text| text.len() > 5), "{member}: {told}");
    }
    println!("{}", told["detail"]);
    assert_eq!(get(&one, &token, "/v1/generations").await.json()["generations"], json!([]), "nothing has changed");
    let answer = push(&one, &token, "guests/named?force=true", &content, 60).await;
    assert_eq!((answer.status, &answer.json()["generation"]), (200, &json!(1)), "{answer:?}");
    let send = async |gateway: &Gateway, name: &str| {
        let sent = event("guests", name, json!({"n": 1})).to_string();
        let request = gateway.request("POST", "/v1/events").bearer_auth(&token).body(sent);
        gateway.answer(request.header("content-type", "application/json")).await
    };
    assert_eq!(send(&one, "named").await.status, 201);
    eventually("it holds the events of the type", async || {
        let answer = send(&small, "named").await;
        (answer.status == 503 && answer.json()["code"] == "module_unavailable").then_some(())
    })
    .await;
    assert_eq!(send(&small, "other").await.status, 201, "and no others");
    let problem = eventually("its row names the problem", async || {
        let (_, row) = rows(&one, &token).await.into_iter().find(|(name, _)| name == "small")?;
        row["problems"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(problem["event_type"], json!("guests/named"), "{problem}");
    let mut status = one.command_beside(&["fleet", "status"]);
    let status = status.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("small") && status.contains("guests/named"), "{status}");
    println!("{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_between_prepare_and_activate_leaves_nothing_half_done() {
    let server = Server::start();
    let (gateways, token) = three(&server).await;
    let modules = [module("names_one"), module("names_two")];
    assert_eq!(push(&gateways[0], &token, "guests/named", &modules[0], 60).await.status, 200);
    // A gateway that says nothing holds the generation up.
    server.sql(
        "insert into gateways (id, name, version, listen, modules_from, seen) \
         values (gen_random_uuid(), 'silent', '0', '-', 'database', now() + interval '1 hour')",
    );
    let answer = push(&gateways[0], &token, "guests/named", &modules[1], 1).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    eventually("all three have prepared it", async || {
        (server.sql("select count(*) from prepared where refusal is null") == "6").then_some(())
    })
    .await;
    server.down();
    let answer = push(&gateways[1], &token, "guests/other", &modules[1], 1).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    server.up();
    assert_eq!(server.sql("select count(*) from generations"), "1");
    server.sql("delete from gateways where name = 'silent'");
    for gateway in &gateways {
        since(gateway, &token, &digest_of(&modules[1])).await;
    }
    assert_eq!(server.sql("select string_agg(state, ' ') from preparations where cause = 'push'"), "active active");
    assert_eq!(server.sql("select count(*) from module_versions where event_type = 'guests/other'"), "0");
}

/// A module with another digest: it has one custom section more.
fn salted(content: &[u8], number: usize) -> Vec<u8> {
    let mut salted = content.to_vec();
    let text = format!("\u{4}salt{number:04}");
    salted.extend([0, u8::try_from(text.len()).expect("short")]);
    salted.extend(text.as_bytes());
    salted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_a_thousand_modules_is_imported_and_a_warm_start_is_short() {
    let server = Server::start();
    let mut gateway = named(&server.url(), "one").start().await;
    let token = administrator(&gateway, &server).await;
    known(&gateway, &token).await;
    let content = module("accepts");
    for number in 0..1_000 {
        gateway.drop_module(&format!("many/{number}.wasm"), &salted(&content, number));
    }
    let fleet = |arguments: &[&str]| {
        let mut command = gateway.command_beside(&[&["fleet"], arguments].concat());
        let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(fleet(&["import", "modules"]).lines().count(), 1_000, "the difference");
    assert_eq!(server.sql("select count(*) from generations"), "0", "which is only shown");
    let began = Instant::now();
    let told = fleet(&["import", "modules", "--yes", "--wait", "600"]);
    assert!(told.ends_with("active\tgeneration 1\n"), "{}", told.lines().last().unwrap_or_default());
    println!("import of 1,000 modules: {} ms", began.elapsed().as_millis());
    let serves = async |gateway: &Gateway| {
        eventually("all serve", async || {
            let all = get(gateway, &token, "/v1/validators").await.json();
            let active = all["validators"].as_array()?.iter().filter(|one| one["state"] == "active").count();
            (active == 1_000).then_some(())
        })
        .await;
    };
    serves(&gateway).await;
    assert!(fleet(&["import", "modules", "--yes"]).is_empty(), "nothing differs");
    gateway.signal("TERM");
    gateway.ended().await;
    let began = Instant::now();
    gateway.restart().await;
    println!("ready with 1,000 modules and a warm disk: {} ms", began.elapsed().as_millis());
    serves(&gateway).await;
    assert!(began.elapsed() < Duration::from_secs(60), "it is no first start");
    let digest = digest_of(&salted(&content, 777));
    assert_eq!(get(&gateway, &token, "/v1/validators/many/777").await.json()["digest"], json!(digest));
    std::fs::remove_file(gateway.data_dir().join("../modules/many/7.wasm")).expect("it is there");
    let diff = String::from_utf8(
        gateway
            .command_beside(&["fleet", "import", "modules"])
            .env("EYE_DATABASE_URL", server.url())
            .output()
            .expect("the built program")
            .stdout,
    )
    .expect("text");
    assert_eq!(diff.lines().count(), 1, "{diff}");
    assert!(diff.starts_with("many/7\t") && diff.trim_end().ends_with("-> none"), "{diff}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_one_processor_prepares_many_modules_at_once() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let pinned = folder.path().join("pinned");
    let program = std::env::var("PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_eye").to_owned());
    std::fs::write(&pinned, format!("#!/bin/sh\nexec taskset -c 0 {program} \"$@\"\n")).expect("written");
    std::fs::set_permissions(&pinned, std::fs::Permissions::from_mode(0o755)).expect("set");
    let gateway = named(&server.url(), "one").with_program(&pinned).start().await;
    let token = administrator(&gateway, &server).await;
    known(&gateway, &token).await;
    let content = module("accepts");
    for number in 0..60 {
        gateway.drop_module(&format!("many/{number}.wasm"), &salted(&content, number));
    }
    let mut command = gateway.command_beside(&["fleet", "import", "modules", "--yes", "--wait", "60"]);
    let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.ends_with("active\tgeneration 1\n"), "{told} {}", String::from_utf8_lossy(&output.stderr));
    // Pushes at once wait for each other and for nothing else.
    let pushed = (0..8).map(|number| {
        let content = salted(&content, 100 + number);
        let (gateway, token) = (&gateway, &token);
        async move { push(gateway, token, &format!("more/{number}"), &content, 30).await }
    });
    for answer in futures_util::future::join_all(pushed).await {
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
    }
}
