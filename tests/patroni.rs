//! A cluster of Patroni under load: a switchover, then a kill of the primary. One gateway connects through HAProxy, another
//! one to both hosts. The test prints a table with the lost and doubled events and the time without a stored event.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;

use crate::support::cluster::prepare;
use crate::support::load::{Chance, Ledger, Load};
use crate::support::patroni::Cluster;
use crate::support::{Gateway, Setup, eventually};

/// First number of the second gateway's events.
const SECOND: u64 = 10_000_000;
/// Events that each gateway stores before and after each failover.
const EVENTS: u64 = 300;
/// Patroni promotes the standby 20 s after the primary was last seen.
const GAP_MOST: Duration = Duration::from_secs(50);

/// A gateway with its load.
struct Way {
    name: &'static str,
    gateway: Gateway,
    ledger: Arc<Ledger>,
    first: u64,
}

impl Way {
    async fn start(name: &'static str, url: String, first: u64) -> Way {
        let gateway = Setup::default().with("EYE_DATABASE_URL", url).start().await;
        Way { name, gateway, ledger: Arc::new(Ledger::beginning_at(first)), first }
    }

    fn load(&self, chance: &mut Chance) -> Load {
        Load::start_with(Arc::clone(&self.ledger), self.gateway.address(), 4, 20, chance)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_cluster_that_promotes_its_standby_loses_nothing() {
    let mut chance = Chance::new();
    let mut cluster = Cluster::start().await;
    let leader = cluster.settles().await;
    block_in_place(|| prepare(&cluster.hosts_url(), |script| cluster.sql(leader, script)));
    let ways = [
        Way::start("HAProxy", cluster.proxy_url(), 0).await,
        Way::start("several hosts", cluster.hosts_url(), SECOND).await,
    ];
    let mut table =
        "| to Patroni's primary by | event | said stored | lost | doubled | gap ms |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for event in ["switchover", "primary killed"] {
        let leader = cluster.settles().await;
        let mut loads = ways.each_ref().map(|way| way.load(&mut chance));
        for load in &loads {
            load.stores(EVENTS).await;
        }
        ways.iter().for_each(|way| way.ledger.watch_pauses());
        match event {
            "switchover" => cluster.switch_over(leader).await,
            _ => block_in_place(|| cluster.kill(leader)),
        }
        // Until then the old primary may still store events.
        eventually("the other one is the primary", async || cluster.is_primary(1 - leader).await.then_some(())).await;
        for load in &mut loads {
            load.stores(EVENTS).await;
            load.stop().await;
        }
        for Way { name, ledger, first, .. } in &ways {
            let of_way = format!("(data ->> 'n')::bigint between {first} and {}", first + SECOND - 1);
            let rows = cluster.sql(1 - leader, &format!("select id, data ->> 'n' from events where {of_way}"));
            let (lost, doubled) = ledger.lost_and_doubled(&rows);
            let (said, gap) = (ledger.said_there().len(), ledger.longest_pause());
            table.push_str(&format!(
                "| {name} | {event} | {said} | {} | {doubled} | {} |\n",
                lost.len(),
                gap.as_millis()
            ));
            ledger.hold_against(&rows);
            assert!(gap < GAP_MOST, "{name}, {event}: {gap:?}");
        }
    }
    println!("{table}");
}
