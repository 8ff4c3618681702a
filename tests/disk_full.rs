//! The disk is full, and then it is not. Three of these tests need the right to mount a tmpfs; without it they say so
//! and end. The one with a quota always runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::give_to_postgres;
use crate::support::load::{Chance, Load, ROWS, numbered};
use crate::support::{Gateway, Setup, digest_of, event, eventually, folder, module};

/// Longest wait for a stored event once there is room again. A loaded machine may take most of it.
const RECOVERY_MOST: Duration = Duration::from_secs(10);

/// A small file system in memory, which ends with the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, mebibytes: u32) -> Option<Disk> {
        std::fs::create_dir_all(path).expect("the folder");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0711"), "tmpfs"]).arg(path);
        let mounted = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            println!("not tried: no right to mount a tmpfs here");
        }
        mounted.then(|| Disk(path.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Fill for Disk {
    /// Fills all free bytes.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("the filler");
        let zeros = std::io::copy(&mut std::io::repeat(0), &mut file);
        assert!(zeros.is_err(), "the disk is full now");
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Unmounted lazily, since a server may still be using it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A place that can be full.
trait Fill {
    fn fill(&self);
    fn free(&self);
}

/// A bounded tablespace: Postgres refuses statements that add to it, as on a full disk.
struct Quota<'a>(&'a Gateway);

impl Quota<'_> {
    fn set(gateway: &Gateway) -> Quota<'_> {
        gateway.sql_script(
            "create table quota (bytes_max bigint not null);
             insert into quota values (1 << 30);
             create function hold_quota() returns trigger language plpgsql as $$ begin
                 if pg_tablespace_size('small') > (select bytes_max from quota) then
                     raise exception 'could not extend file: No space left on device' using errcode = '53100';
                 end if;
                 return null;
             end $$;
             create trigger hold_quota before insert on events for each statement execute function hold_quota();\n",
        );
        Quota(gateway)
    }
}

impl Fill for Quota<'_> {
    fn fill(&self) {
        self.0.sql("update quota set bytes_max = pg_tablespace_size('small') - 1");
    }

    fn free(&self) {
        self.0.sql("update quota set bytes_max = 1 << 30");
    }
}

/// Puts the month of the numbered events on a tablespace of its own. `full_and_free` removes the event that creates the
/// month.
async fn put_month_in(gateway: &Gateway, folder: &Path) {
    std::fs::create_dir(folder).expect("a folder");
    give_to_postgres(folder);
    assert_eq!(gateway.send(&numbered(1_000_000_000)).await.status, 201);
    // On a busy machine the event's own batch leaves the month to a later attempt.
    let there = || gateway.sql("select to_regclass('events_2021_01') is not null") == "t";
    eventually("the month has a partition", async || there().then_some(())).await;
    gateway.sql_script(&format!(
        "create tablespace small location '{}';
         alter table events_2021_01 set tablespace small;\n",
        folder.display()
    ));
}

/// Under load: fills the disk, waits for refusals, and frees it. Returns the time until events are stored again.
async fn full_and_free(gateway: &Gateway, disk: &impl Fill, what: &str, stay: Duration) -> Duration {
    let mut load = Load::start(gateway.address(), 4, 100, &mut Chance::new());
    load.stores(500).await;
    disk.fill();
    eventually("events are refused", async || {
        let answer = gateway.send(&numbered(1_000_000_000)).await;
        assert!([200, 201, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 503).then_some(())
    })
    .await;
    if stay > Duration::ZERO {
        // The log needs a new segment and has no room for it, so Postgres ends.
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-U", "eye", "-d", "eye", "-c", "select pg_switch_wal()", "-c", "analyze", "-h"]);
        let ended = command.arg(gateway.data_dir().join("run")).stdout(Stdio::null()).stderr(Stdio::null()).status();
        println!(
            "{what}: a new segment of the log is {}",
            if ended.is_ok_and(|it| it.success()) { "there" } else { "not there" }
        );
    }
    let full = Instant::now();
    let mut refused = 0;
    while full.elapsed() < stay {
        let answer = gateway.send(&numbered(1_000_000_000)).await;
        assert!([200, 201, 503].contains(&answer.status), "{answer:?}");
        refused += u32::from(answer.status == 503);
    }
    println!("{what}: {refused} more events refused in {} ms", full.elapsed().as_millis());
    assert_eq!(gateway.get("/healthz").await.status, 200);
    disk.free();
    let start = Instant::now();
    load.stores(1).await;
    let recovery = start.elapsed();
    println!("{what}: stored again {} ms after there was room", recovery.as_millis());
    load.stores(200).await;
    load.stop().await;
    gateway.sql("delete from events where data ->> 'n' = '1000000000'");
    load.ledger.hold_against(&gateway.sql_script(ROWS));
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0", "a full disk is no event's fault");
    recovery
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_a_table_refuses_until_there_is_room() {
    let folder = folder();
    let Some(disk) = Disk::mount(&folder.path().join("small"), 24) else { return };
    let gateway = Setup::default().with("EYE_ANSWER_MS", 1_000).start().await;
    put_month_in(&gateway, &disk.0.join("tables")).await;
    let recovery = full_and_free(&gateway, &disk, "a full tablespace", Duration::ZERO).await;
    assert!(recovery < RECOVERY_MOST, "{recovery:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_of_a_table_refuses_until_there_is_room() {
    let folder = folder();
    let gateway = Setup::default().with("EYE_ANSWER_MS", 1_000).start().await;
    put_month_in(&gateway, &folder.path().join("tables")).await;
    let recovery = full_and_free(&gateway, &Quota::set(&gateway), "a full quota", Duration::ZERO).await;
    assert!(recovery < RECOVERY_MOST, "{recovery:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_whole_cluster_refuses_until_there_is_room() {
    let folder = folder();
    let data = folder.path().join("data");
    let Some(disk) = Disk::mount(&data, 160) else { return };
    let gateway = Setup::default().with("EYE_ANSWER_MS", 1_000).start_in(folder).await;
    let postmaster = gateway.postmaster();
    // Postgres ends for lack of room, and is started again until it stays.
    let recovery = full_and_free(&gateway, &disk, "a full disk with the log on it", Duration::from_secs(8)).await;
    println!("the server is another one: {}", gateway.postmaster() != postmaster);
    assert!(recovery < RECOVERY_MOST, "{recovery:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_versions_of_modules_costs_no_module_and_is_made_up_for() {
    let folder = folder();
    let Some(disk) = Disk::mount(&folder.path().join("data/versions"), 4) else { return };
    let gateway = Setup::default().with_module("a/b.wasm", "accepts").start_in(folder).await;
    let sent = event("a", "b", json!({}));
    assert_eq!(gateway.send(&sent).await.status, 201);
    disk.fill();
    gateway.drop_module("a/b.wasm", &module("rejects"));
    let report = async |what: &str, wanted: fn(&serde_json::Value) -> bool| {
        eventually(what, async || {
            let report = gateway.validator("a/b", "active").await;
            (report["digest"] == digest_of(&module("rejects")) && wanted(&report)).then_some(report)
        })
        .await
    };
    let full = report("it serves, and is told not to be kept", |report| !report["last_error"].is_null()).await;
    assert!(full["last_error"]["found"].as_str().is_some_and(|found| found.contains("No space left")), "{full}");
    assert_eq!(full["versions"].as_array().map(Vec::len), Some(1), "{full}");
    assert_eq!(gateway.send(&sent).await.status, 422);
    assert_eq!(gateway.get("/readyz").await.status, 200);
    disk.free();
    let kept = report("it is kept once there is room", |report| report["last_error"].is_null()).await;
    assert_eq!(kept["versions"].as_array().map(Vec::len), Some(2), "{kept}");
    assert_eq!(kept["versions"][0]["digest"], digest_of(&module("rejects")));
    let back = gateway.command_line(&["validator", "rollback", "a/b"]);
    assert!(back.contains(&digest_of(&module("accepts"))), "{back}");
    eventually("the version before serves", async || (gateway.send(&sent).await.status == 201).then_some(())).await;
}
