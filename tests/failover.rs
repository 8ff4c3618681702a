//! Failover to a promoted standby under load. The gateway finds the new primary by itself. With synchronous replication every
//! event that was answered `stored` is there, once. The tests print tables with the lost events and the time without a
//! stored event.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::block_in_place;

use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS};
use crate::support::relay::Relay;
use crate::support::{Setup, eventually};

/// Senders, and most events of a request.
const SENDERS: u32 = 8;
const EVENTS_MOST: u64 = 20;
/// Events that the load stores before and after the failover.
const EVENTS: u64 = 400;
/// Much longer than each measured gap.
const GAP_MOST: Duration = Duration::from_secs(20);

/// The end of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGKILL to all its processes.
    Killed,
    /// SIGSTOP to all its processes: it hangs.
    Frozen,
    /// A fast shutdown.
    Stopped,
}

/// A failover.
struct Case {
    /// `synchronous_commit`. None for asynchronous replication.
    waits: Option<&'static str>,
    end: End,
    /// How long before the end the standby stops receiving.
    behind: Duration,
}

/// The result of a failover.
struct Came {
    said: usize,
    lost: BTreeSet<u64>,
    /// Lost events that were answered `stored` while the standby still received.
    lost_before: usize,
    doubled: usize,
    gap: Duration,
}

impl Case {
    fn words(&self) -> String {
        let behind = match self.behind.as_millis() {
            0 => String::new(),
            time => format!(", the standby {time} ms behind"),
        };
        format!("{} | {:?}{behind}", self.waits.unwrap_or("asynchronous"), self.end)
    }

    /// Fails over under load, and compares the answers with the rows of the promoted standby.
    async fn run(&self, chance: &mut Chance) -> Came {
        let primary = Server::start();
        primary.prepare();
        let relay = Relay::start(primary.port());
        let standby = primary.standby(relay.port());
        if let Some(level) = self.waits {
            primary.sql("alter system set synchronous_standby_names = '*'");
            primary.sql(&format!("alter system set synchronous_commit = '{level}'"));
            primary.sql("select pg_reload_conf()");
            let state = || primary.sql("select sync_state from pg_stat_replication");
            eventually("the primary waits for the standby", async || (state() == "sync").then_some(())).await;
        }
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
        let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
        let gateway = Setup::default().with("EYE_DATABASE_URL", url).with("EYE_ANSWER_MS", 1_500).start().await;
        let mut load = Load::start(gateway.address(), SENDERS, EVENTS_MOST, chance);
        load.stores(EVENTS).await;
        let before = load.ledger.said_there();
        let written = primary.sql("select pg_current_wal_lsn()");
        let replayed = || standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{written}'"));
        eventually("the standby has what was said so far", async || (replayed() == "t").then_some(())).await;
        if !self.behind.is_zero() {
            relay.hold();
            tokio::time::sleep(self.behind).await;
        }
        load.ledger.watch_pauses();
        let gone = Instant::now();
        block_in_place(|| {
            match self.end {
                End::Killed => primary.kill(),
                End::Frozen => primary.freeze(),
                End::Stopped => primary.stop(),
            }
            relay.cut();
            standby.sql("select pg_promote()");
        });
        load.stores(EVENTS).await;
        load.stop().await;
        let reads = ["/readyz", "/v1/categories", "/v1/dead-letters"];
        for path in reads {
            eventually("the gateway reads too", async || (gateway.get(path).await.status == 200).then_some(())).await;
        }
        println!("{}: reads after {} ms", self.words(), gone.elapsed().as_millis());
        let rows = standby.sql(ROWS);
        let (lost, doubled) = load.ledger.lost_and_doubled(&rows);
        if self.waits.is_some() {
            load.ledger.hold_against(&rows);
        }
        let lost_before = lost.intersection(&before).count();
        Came { said: load.ledger.said_there().len(), lost, lost_before, doubled, gap: load.ledger.longest_pause() }
    }
}

/// Runs the cases and prints their results.
async fn table(cases: &[Case]) -> Vec<Came> {
    let mut chance = Chance::new();
    let mut table =
        "| replication | the primary | said stored | lost | doubled | gap ms |\n|---|---|---|---|---|---|\n".to_owned();
    let mut all = Vec::new();
    for case in cases {
        let came = case.run(&mut chance).await;
        table.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            case.words(),
            came.said,
            came.lost.len(),
            came.doubled,
            came.gap.as_millis()
        ));
        all.push(came);
    }
    println!("{table}");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_synchronous_standby_has_all_that_was_said_to_be_stored() {
    let case = |waits, end, behind| Case { waits: Some(waits), end, behind: Duration::from_millis(behind) };
    let cases = [
        case("remote_apply", End::Killed, 0),
        case("remote_apply", End::Frozen, 0),
        case("remote_apply", End::Stopped, 0),
        case("remote_apply", End::Killed, 4_000),
        case("on", End::Killed, 0),
        case("on", End::Killed, 4_000),
    ];
    for (came, case) in table(&cases).await.iter().zip(&cases) {
        assert!(came.lost.is_empty() && came.doubled == 0, "{}: {:?}", case.words(), came.lost);
        assert!(came.gap < GAP_MOST, "{}: {:?}", case.words(), came.gap);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_asynchronous_standby_lacks_what_it_did_not_get() {
    let case = |end, behind| Case { waits: None, end, behind: Duration::from_millis(behind) };
    let cases = [case(End::Killed, 0), case(End::Frozen, 0), case(End::Stopped, 0), case(End::Killed, 500)];
    let all = table(&cases).await;
    for (came, case) in all.iter().zip(&cases) {
        assert!(came.lost_before == 0 && came.doubled == 0, "{}: {:?}", case.words(), came.lost);
        assert!(came.gap < GAP_MOST, "{}: {:?}", case.words(), came.gap);
    }
    assert!(all[2].lost.is_empty(), "a primary that is stopped in order sends all of its log first");
    assert!(!all[3].lost.is_empty(), "what half a second of load has stored was only on the primary");
}
