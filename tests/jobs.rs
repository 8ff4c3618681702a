//! Jobs do long work step by step. They are asked for, followed and cancelled over HTTP, and any gateway of the database
//! goes on with them.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, SESSION, Setup, event, eventually};

/// Statements that insert `count` dead letters whose events are good now, as if a module had trapped on them.
fn letters(count: u32) -> String {
    format!(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, event_id, session_id, \
             category, name, raw, raw_bytes) \
         select now() - interval '1 hour' + n * interval '1 millisecond', gen_random_uuid(), 'quarantined', 'trap', '', '[]', \
             1, gen_random_uuid(), '{SESSION}', 'a', 'b', convert_to(text, 'UTF8'), octet_length(text) \
         from generate_series(1, {count}) n cross join lateral (select json_build_object('session_id', '{SESSION}', \
             'category', 'a', 'name', 'b', 'timestamp', '2021-01-01T00:00:00Z', 'data', json_build_object('n', n))::text \
             as text) raw"
    )
}

/// What is stored: all events, and how many of them are different.
const STORED: &str = "select count(*), count(distinct id) from events";
/// How many letters are marked as stored.
const MARKED: &str = "select count(*) from dead_letters where redriven_at is not null";

async fn ask(gateway: &Gateway, body: Value) -> Answer {
    gateway.post("/v1/jobs", "application/json", body.to_string()).await
}

/// Asks for a job, and returns it.
async fn asked(gateway: &Gateway, body: Value) -> Value {
    let answer = ask(gateway, body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let job = answer.json();
    let path = format!("/v1/jobs/{}", text(&job["id"]));
    assert_eq!(answer.headers["location"].to_str().ok(), Some(&*path));
    job
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn shown(gateway: &Gateway, id: &Value) -> Value {
    let answer = gateway.get(&format!("/v1/jobs/{}", text(id))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn cancel(gateway: &Gateway, id: &Value) -> Answer {
    let request = gateway.as_admin(gateway.request("DELETE", &format!("/v1/jobs/{}", text(id))));
    gateway.answer(request).await
}

/// Waits until the job is in this state. While that takes, its counts add up in each answer.
async fn ended(gateway: &Gateway, id: &Value, state: &str) -> Value {
    eventually(&format!("the job is {state}"), async || {
        let job = shown(gateway, id).await;
        adds_up(&job);
        let is_over = ["done", "failed", "cancelled"].contains(&&*text(&job["state"]));
        assert!(!is_over || job["state"] == state, "{job}");
        is_over.then_some(job)
    })
    .await
}

/// Waits until the job has done something.
async fn begun(gateway: &Gateway, id: &Value) {
    eventually("the job has begun", async || {
        (shown(gateway, id).await["progress"]["done"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

const OUTCOMES: [&str; 5] = ["stored", "duplicate", "rejected", "quarantined", "skipped"];

fn counts(progress: &Value) -> [u64; 5] {
    OUTCOMES.map(|word| progress[word].as_u64().expect("a count"))
}

fn adds_up(job: &Value) {
    let progress = &job["progress"];
    assert_eq!(counts(progress).iter().sum::<u64>(), progress["done"].as_u64().expect("a count"), "{job}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_of_all_letters_is_a_job_whose_counts_add_up() {
    let gateway = Gateway::start().await;
    gateway.sql(&letters(450));
    let mut broken = event("a", "b", json!({}));
    broken["surplus"] = json!(1);
    assert_eq!(gateway.send(&broken).await.status, 422);
    let all = async || (gateway.sql("select count(*) from dead_letters") == "451").then_some(());
    eventually("the letters are kept", all).await;

    let dry = asked(&gateway, json!({"kind": "redrive", "filter": {}})).await;
    assert_eq!((&dry["state"], &dry["dry_run"], &dry["result"]), (&json!("waiting"), &json!(true), &Value::Null));
    assert_eq!(dry["requested_by"]["kind"], "application");
    let dry = ended(&gateway, &dry["id"], "done").await;
    assert_eq!((counts(&dry["result"]), &dry["progress"]["total"]), ([450, 0, 1, 0, 0], &json!(451)), "{dry}");
    assert_eq!(dry["result"]["codes"], json!({"envelope": 1}));
    assert_eq!(
        (gateway.sql(STORED), gateway.sql(MARKED)),
        ("0|0".to_owned(), "0".to_owned()),
        "a dry run stores nothing"
    );

    // As if its gateway had died between the last step and the end.
    gateway.sql("update jobs set state = 'running', ended_at = null, result = null");
    let again = ended(&gateway, &dry["id"], "done").await;
    assert_eq!((&again["result"], gateway.sql("select run from jobs")), (&dry["result"], "2".to_owned()));

    let filter = json!({"reason": "quarantined", "from": "2020-01-01T00:00:00Z"});
    let job = asked(&gateway, json!({"kind": "redrive", "filter": filter, "dry_run": false})).await;
    let job = ended(&gateway, &job["id"], "done").await;
    assert_eq!(counts(&job["result"]), [450, 0, 0, 0, 0], "{job}");
    assert_eq!((gateway.sql(STORED), gateway.sql(MARKED)), ("450|450".to_owned(), "450".to_owned()));

    let jobs = gateway.get("/v1/jobs?kind=redrive&limit=1").await.json();
    assert_eq!(jobs["jobs"], json!([job]), "the latest first");
    let next = format!("/v1/jobs?kind=redrive&limit=1&cursor={}", text(&jobs["next"]));
    assert_eq!(gateway.get(&next).await.json(), json!({"jobs": [again], "next": null}));
    let entries = gateway.sql(&format!(
        "select action, subject, details ->> 'dry_run', details ->> 'stored' from audit \
         where details ->> 'job' = '{}' order by at, id",
        text(&job["id"])
    ));
    assert_eq!(entries, "job_ask|redrive|false|\njob_end|redrive|false|450");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_ids_says_which_there_are_not_and_which_are_stored_already() {
    let gateway = Gateway::start().await;
    gateway.sql(&letters(3));
    let ids = gateway.sql("select id from dead_letters order by received_at");
    let mut ids: Vec<String> = ids.lines().map(str::to_owned).collect();
    gateway
        .sql(&format!("update dead_letters set redriven_at = now(), redriven_as = 'stored' where id = '{}'", ids[0]));
    ids.push(Uuid::now_v7().to_string());
    let job = asked(&gateway, json!({"kind": "redrive", "ids": ids, "dry_run": false})).await;
    let job = ended(&gateway, &job["id"], "done").await;
    assert_eq!((counts(&job["result"]), &job["result"]["total"]), ([2, 0, 0, 0, 2], &json!(4)), "{job}");
    assert_eq!(job["result"]["codes"], json!({"redriven": 1, "unknown": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_of_a_kind_runs_at_a_time_and_is_cancelled_between_two_steps() {
    let gateway = Gateway::start().await;
    gateway.sql(&letters(20_000));
    let job = asked(&gateway, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
    begun(&gateway, &job["id"]).await;
    let second = ask(&gateway, json!({"kind": "redrive", "filter": {}})).await;
    assert_eq!(
        (second.status, &second.json()["code"], &second.json()["job"]),
        (409, &json!("job_running"), &job["id"])
    );
    let answer = cancel(&gateway, &job["id"]).await;
    assert_eq!((answer.status, &answer.json()["cancel_requested"]), (202, &json!(true)), "{answer:?}");
    let job = ended(&gateway, &job["id"], "cancelled").await;
    let stored = job["progress"]["stored"].as_u64().expect("a count");
    assert!((1..20_000).contains(&stored), "{job}");
    assert_eq!(gateway.sql(MARKED), stored.to_string(), "what was done stays, and no more is done");
    assert_eq!(gateway.sql(STORED), format!("{stored}|{stored}"));
    let again = cancel(&gateway, &job["id"]).await;
    assert_eq!((again.status, again.json()), (200, job.clone()), "it stays as it is");
    let entries = gateway
        .sql("select string_agg(action || ' ' || subject, ', ' order by at, id) from audit where action like 'job_%'");
    assert_eq!(entries, "job_ask redrive, job_cancel redrive, job_end redrive");

    // The next one goes on with what is left.
    let next = asked(&gateway, json!({"kind": "redrive", "filter": {"to": "2021-01-01T00:00:00Z"}})).await;
    ended(&gateway, &next["id"], "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_named_and_unknown_jobs_are_not_there() {
    let gateway = Gateway::start().await;
    for (body, parameter, words) in [
        (json!({"kind": "bake", "filter": {}}), "kind", "`redrive`"),
        (json!({"kind": "rejudge"}), "kind", "`redrive`"),
        (json!({"filter": {}}), "body", "kind"),
        (json!({"kind": "redrive"}), "body", "ids"),
        (json!({"kind": "redrive", "filter": {"colour": "red"}}), "colour", "known"),
        (json!({"kind": "redrive", "filter": {}, "surplus": 1}), "body", "surplus"),
    ] {
        let answer = ask(&gateway, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(parameter)), "{body}");
        assert!(text(&answer.json()["detail"]).contains(words), "{answer:?}");
    }
    for query in ["?kind=bake", "?state=gone", "?cursor=12", "?surplus=1"] {
        assert_eq!(gateway.get(&format!("/v1/jobs{query}")).await.status, 400, "{query}");
    }
    let nobody = json!(Uuid::now_v7());
    assert_eq!(gateway.get(&format!("/v1/jobs/{}", text(&nobody))).await.status, 404);
    assert_eq!(cancel(&gateway, &nobody).await.status, 404);
    assert_eq!(gateway.sql("select count(*) from jobs"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_leaves_its_job_to_another_one_at_once() {
    let server = Server::start();
    server.prepare();
    server.sql(&letters(20_000));
    let setup = || Setup::default().with("EYE_DATABASE_URL", server.url());
    let mut first = setup().start().await;
    let job = asked(&first, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
    begun(&first, &job["id"]).await;
    let second = setup().start().await;
    first.signal("TERM");
    first.ended().await;
    let job = ended(&second, &job["id"], "done").await;
    let [stored, duplicate, ..] = counts(&job["result"]);
    assert_eq!((stored + duplicate, server.sql(STORED)), (20_000, "20000|20000".to_owned()), "{job}");
    assert_eq!(server.sql("select run, runs_lost from jobs"), "2|0", "it was given up in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_its_database_for_a_moment() {
    let server = Server::start();
    server.prepare();
    server.sql(&letters(5_000));
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let job = asked(&gateway, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
    begun(&gateway, &job["id"]).await;
    server.down();
    let refused = ask(&gateway, json!({"kind": "redrive", "filter": {}})).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    server.up();
    eventually("the gateway is ready again", async || (gateway.get("/readyz").await.status == 200).then_some(())).await;
    let job = ended(&gateway, &job["id"], "done").await;
    let [stored, duplicate, ..] = counts(&job["result"]);
    assert_eq!((stored + duplicate, server.sql(STORED)), (5_000, "5000|5000".to_owned()), "{job}");
    assert_eq!(server.sql("select count(*) from jobs"), "1", "what was asked for in vain is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_a_gateway_redrive_and_look_at_its_jobs() {
    let gateway = Gateway::start().await;
    gateway.sql(&letters(300));
    let dry = gateway.command_line(&["dead-letters", "redrive", "--code", "trap"]);
    assert!(dry.ends_with("dry run: stored 300, duplicate 0, rejected 0, quarantined 0, skipped 0\n"), "{dry}");
    let eye = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = gateway.command_beside(arguments);
        let output =
            command.args(["--data-dir", "data"]).envs(environment.iter().copied()).output().expect("the program");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let words = "stored 100, duplicate 0, rejected 0, quarantined 0, skipped 0\n";
    gateway.sql(
        "update dead_letters set category = 'first' where id in (select id from dead_letters order by id limit 100)",
    );
    let (code, told, beside) = eye(&["dead-letters", "redrive", "--category", "first", "--store"], &[]);
    assert_eq!((code, &*told), (Some(0), words), "{beside}");
    assert!(beside.contains("`eye jobs cancel "), "{beside}");

    let token = gateway.admin_token().expect("a token");
    let url = format!("http://{}", gateway.address());
    let remote = [("EYE_GATEWAY", &*url), ("EYE_TOKEN", &*token)];
    gateway.sql(
        "update dead_letters set category = 'next' where id in \
             (select id from dead_letters where redriven_at is null order by id limit 100)",
    );
    let ask = ["dead-letters", "redrive", "--category", "next", "--store"];
    let mut command = gateway.command_beside(&ask);
    let output = command.envs(remote).output().expect("the program");
    assert_eq!(String::from_utf8_lossy(&output.stdout), words, "{}", String::from_utf8_lossy(&output.stderr));

    let (_, listed, _) = eye(&["jobs", "list", "--kind", "redrive"], &[]);
    let jobs: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let asked: Vec<&Value> = jobs.iter().map(|job| &job["requested_by"]["kind"]).collect();
    assert_eq!(asked, ["application", "command"]);
    for environment in [&remote[..], &[]] {
        let mut command = gateway.command_beside(&["jobs", "show", &text(&jobs[0]["id"])]);
        if environment.is_empty() {
            command.args(["--data-dir", "data"]);
        }
        let output = command.envs(environment.iter().copied()).output().expect("the program");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), jobs[0]);
    }
    let (code, cancelled, _) = eye(&["jobs", "cancel", &text(&jobs[0]["id"])], &[]);
    assert_eq!((code, serde_json::from_str::<Value>(&cancelled).expect("JSON")), (Some(0), jobs[0].clone()));
    let (code, _, told) = eye(&["jobs", "show", &Uuid::now_v7().to_string()], &[]);
    assert!(code == Some(1) && told.contains("there is no job"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_steps_fail_again_and_again_fails_and_says_why() {
    let server = Server::start();
    server.prepare();
    server.sql(&letters(10));
    server.sql(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$; \
         create trigger refuse before update on dead_letters for each row execute function refuse()",
    );
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let job = asked(&gateway, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
    let job = ended(&gateway, &job["id"], "failed").await;
    assert!(text(&job["problem"]).contains("P0001"), "{job}");
    assert_eq!(
        (&job["result"], &job["progress"]["stored"]),
        (&Value::Null, &json!(0)),
        "what is not marked is not counted"
    );
    let entry = "select details ->> 'state' || ' ' || (details ->> 'problem') from audit where action = 'job_end'";
    assert!(server.sql(entry).starts_with("failed "), "{}", server.sql(entry));
    server.sql("drop trigger refuse on dead_letters");
    let job = asked(&gateway, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
    let job = ended(&gateway, &job["id"], "done").await;
    assert_eq!((counts(&job["result"]), server.sql(STORED)), ([0, 10, 0, 0, 0], "10|10".to_owned()), "{job}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_judges_unseen_events_again_can_be_told_to_leave_it_for_a_time() {
    let gateway = Setup::default().with("EYE_REJUDGE_EVENTS_PER_SECOND_MAX", 1).start().await;
    gateway.sql(&letters(500));
    gateway.sql("update dead_letters set code = 'off_path'");
    let jobs = async || gateway.get("/v1/jobs?kind=rejudge").await.json()["jobs"].as_array().expect("jobs").clone();
    let job = eventually("the gateway asks for it", async || jobs().await.first().cloned()).await;
    assert_eq!((&job["requested_by"]["kind"], &job["dry_run"]), (&json!("gateway"), &json!(false)));
    begun(&gateway, &job["id"]).await;
    cancel(&gateway, &job["id"]).await;
    let job = ended(&gateway, &job["id"], "cancelled").await;
    // Meanwhile a job of another kind finds the rest.
    let redrive = asked(&gateway, json!({"kind": "redrive", "filter": {"code": "off_path"}})).await;
    let redrive = ended(&gateway, &redrive["id"], "done").await;
    let left = 500 - job["progress"]["stored"].as_u64().expect("a count");
    assert_eq!(counts(&redrive["result"]), [left, 0, 0, 0, 0], "{redrive}");
    assert_eq!(jobs().await, [job], "it asks for no other one now");
    let entries = gateway.sql("select string_agg(action, ' ' order by at, id) from audit where subject = 'rejudge'");
    assert_eq!(entries, "job_cancel", "what it does by itself has no entries");
}

/// These wait for the end of a lease.
mod long {
    use super::*;
    use crate::support::Frozen;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_goes_on_at_another_gateway_when_its_own_is_killed_and_stores_no_event_twice() {
        let server = Server::start();
        server.prepare();
        server.sql(&letters(20_000));
        let setup = || Setup::default().with("EYE_DATABASE_URL", server.url());
        let mut first = setup().start().await;
        let second = setup().start().await;
        let job = asked(&first, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
        begun(&first, &job["id"]).await;
        first.signal("KILL");
        first.ended().await;
        let at = server.sql("select clock_timestamp()");
        let taken = format!("select run > 1 and clock_timestamp() - '{at}' < interval '30 seconds' from jobs");
        eventually("another gateway takes it up", async || (server.sql(&taken) == "t").then_some(())).await;
        let job = ended(&second, &job["id"], "done").await;
        let [stored, duplicate, ..] = counts(&job["result"]);
        assert_eq!((stored + duplicate, server.sql(STORED)), (20_000, "20000|20000".to_owned()), "{job}");
        assert_eq!(server.sql(MARKED), "20000");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_goes_on_at_another_gateway_when_its_own_freezes_which_writes_nothing_when_it_wakes() {
        let server = Server::start();
        server.prepare();
        server.sql(&letters(20_000));
        let setup = || Setup::default().with("EYE_DATABASE_URL", server.url());
        let first = setup().start().await;
        let second = setup().start().await;
        let job = asked(&first, json!({"kind": "redrive", "filter": {}, "dry_run": false})).await;
        begun(&first, &job["id"]).await;
        let frozen = Frozen::new(&first);
        let at = server.sql("select clock_timestamp()");
        let taken = format!("select run > 1 and clock_timestamp() - '{at}' < interval '30 seconds' from jobs");
        eventually("another gateway takes it up", async || (server.sql(&taken) == "t").then_some(())).await;
        // It wakes while the other one works.
        drop(frozen);
        let job = ended(&second, &job["id"], "done").await;
        eventually("the first one knows", async || {
            first.log().contains("another gateway has taken these duties over").then_some(())
        })
        .await;
        let [stored, duplicate, ..] = counts(&job["result"]);
        assert_eq!((stored + duplicate, server.sql(STORED)), (20_000, "20000|20000".to_owned()), "{job}");
        assert_eq!((server.sql("select run from jobs"), shown(&second, &job["id"]).await), ("2".to_owned(), job));
    }
}
