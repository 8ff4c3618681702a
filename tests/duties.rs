//! One gateway of a database does what has to be done once, by a lease. A gateway that stops, dies, freezes or is cut off
//! loses it to another one.

use crate::readers::documented_role;
use crate::support::cluster::Server;
use crate::support::{Gateway, Setup, eventually};

/// A gateway on this server whose sessions have this name.
fn named(server: &Server, name: &str) -> Setup {
    at(&server.url(), name)
}

fn at(url: &str, name: &str) -> Setup {
    let parameters = if url.contains('?') { "&" } else { "?" };
    Setup::default()
        .with("EYE_DATABASE_URL", format!("{url}{parameters}application_name={name}"))
        .with("EYE_RETENTION_SECONDS", 1)
}

/// The holders of leases that are not over, with the number of their duties.
fn holders(server: &Server) -> Vec<(String, u32)> {
    let rows = server.sql("select holder, count(*) from duties where until > now() group by holder");
    let pair = |row: &str| {
        let (holder, count) = row.split_once('|').expect("two columns");
        (holder.to_owned(), count.parse().expect("a count"))
    };
    rows.lines().map(pair).collect()
}

/// Waits until one gateway, and none of `before`, holds all duties. Returns its id.
async fn held(server: &Server, before: &[&str]) -> String {
    eventually("one gateway holds all duties", async || match &holders(server)[..] {
        [(holder, 4)] if !before.contains(&&**holder) => Some(holder.clone()),
        _ => None,
    })
    .await
}

/// Waits until a gateway has renewed its leases twice from now on.
async fn renewed_twice(server: &Server) {
    for _ in 0..2 {
        let until = server.sql("select min(until) from duties");
        let later = format!("select min(until) > '{until}' from duties");
        eventually("the leases are renewed", async || (server.sql(&later) == "t").then_some(())).await;
    }
}

/// How many sessions tend the tables for the gateway with this name.
fn tends(server: &Server, name: &str) -> String {
    server.sql(&format!("select count(*) from pg_stat_activity where application_name = '{name} retention'"))
}

async fn does_tend(server: &Server, name: &str) {
    eventually("it tends the tables", async || (tends(server, name) == "1").then_some(())).await;
}

/// Waits until the tables are tended: a month whose events have no partition gets one.
async fn is_tended(server: &Server, month: &str) {
    server.sql(&format!(
        "insert into event_types (category, name) values ('a', 'b') on conflict do nothing; \
         insert into events_default (session_id, timestamp, id, received_at, event_type_id, application_id, data) \
         values (gen_random_uuid(), '{month}-15T00:00:00Z', gen_random_uuid(), now(), 1, 1, '{{}}')"
    ));
    let made = format!("select to_regclass('events_{}') is not null", month.replace('-', "_"));
    eventually("a partition", async || (server.sql(&made) == "t").then_some(())).await;
}

async fn logged(gateway: &Gateway, words: &str) {
    eventually(words, async || gateway.log().contains(words).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_gives_its_duties_to_another_at_once_and_a_reader_takes_none() {
    let server = Server::start();
    server.prepare();
    let mut first = named(&server, "first").start().await;
    let holder = held(&server, &[]).await;
    let _reader = named(&server, "reader").with("EYE_ROLE", "reader").start().await;
    let second = named(&server, "second").start().await;
    does_tend(&server, "first").await;
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(0));
    let over = server.sql("select coalesce(max(until), now()) from duties where until > now()");
    let next = held(&server, &[&holder]).await;
    let waited = server.sql(&format!("select max(since) - '{over}' < interval '10 seconds' from duties"));
    assert_eq!(waited, "t", "it did not wait for the end of a lease");
    logged(&second, "the gateway takes these duties").await;
    does_tend(&server, "second").await;
    assert_eq!(holders(&server), [(next, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_later_than_any_can_holds_nobody_up() {
    let server = Server::start();
    server.prepare();
    server.sql(
        "insert into duties (duty, holder, holder_name, until) \
         select duty, gen_random_uuid(), 'gone', now() + interval '1 day' \
         from unnest('{retention,folds,scrub,jobs}'::text[]) duty",
    );
    let _gateway = named(&server, "only").start().await;
    held(&server, &[]).await;
    assert_eq!(server.sql("select count(*) from duties where holder_name = 'gone'"), "0");
    is_tended(&server, "2030-01").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_another_role_is_waited_for_and_told() {
    use sqlx::{Connection as _, Executor as _};
    let server = Server::start();
    server.prepare();
    server.sql(&documented_role("eye_gateway"));
    // The session of a gateway whose lease is over, as a role that this one may not touch.
    let mut before = sqlx::PgConnection::connect(&server.url()).await.expect("connected");
    before.execute("select pg_advisory_lock(hashtext('eye_retention'))").await.expect("locked");
    before
        .execute(
            "insert into duties (duty, holder, holder_name, until, session_pid, session_started) \
             select 'retention', gen_random_uuid(), 'before', now(), pid, backend_start from pg_stat_activity \
             where pid = pg_backend_pid()",
        )
        .await
        .expect("noted");
    let url = server.url().replace("postgres://postgres@", "postgres://eye_gateway@");
    let gateway = at(&url, "after").with_argument("--no-migrate").start().await;
    logged(&gateway, "a session that this gateway may not end works on its duty").await;
    before.close().await.expect("closed");
    is_tended(&server, "2030-01").await;
    assert_eq!(gateway.log().matches("may not end").count(), 1, "{}", gateway.log());
}

/// These wait for the end of a lease.
mod long {
    use super::*;
    use crate::clocks::Hands;
    use crate::support::Frozen;
    use crate::support::proxy::Proxy;

    /// Waits until another gateway than `holder` has all duties, and proves that it took no longer than it may.
    async fn taken_over(server: &Server, holder: &str, since: &str) -> String {
        let next = held(server, &[holder]).await;
        let late = server.sql(&format!("select max(since) - '{since}' from duties"));
        let within = server.sql(&format!("select max(since) - '{since}' < interval '30 seconds' from duties"));
        assert_eq!(within, "t", "{late}");
        next
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_frozen_gateway_loses_its_duties_and_does_nothing_when_it_wakes() {
        let server = Server::start();
        server.prepare();
        let first = named(&server, "first").start().await;
        let holder = held(&server, &[]).await;
        does_tend(&server, "first").await;
        let second = named(&server, "second").start().await;
        let frozen = Frozen::new(&first);
        let since = server.sql("select clock_timestamp()");
        let next = taken_over(&server, &holder, &since).await;
        does_tend(&server, "second").await;
        assert_eq!(tends(&server, "first"), "0", "its session was ended");
        is_tended(&server, "2030-01").await;

        drop(frozen);
        logged(&first, "another gateway has taken these duties over").await;
        renewed_twice(&server).await;
        assert_eq!((tends(&server, "first"), tends(&server, "second")), ("0".to_owned(), "1".to_owned()));
        assert_eq!(holders(&server), [(next, 4)]);
        is_tended(&server, "2030-02").await;
        drop(second);
        held(&server, &[]).await;
        does_tend(&server, "first").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_gateway_that_is_cut_off_from_the_database_loses_its_duties() {
        let server = Server::start();
        server.prepare();
        let proxy = Proxy::start(server.socket()).await;
        let first = at(&proxy.url(), "first").start().await;
        let holder = held(&server, &[]).await;
        does_tend(&server, "first").await;
        let _second = named(&server, "second").start().await;
        proxy.freeze(true);
        let since = server.sql("select clock_timestamp()");
        let next = taken_over(&server, &holder, &since).await;
        does_tend(&server, "second").await;
        assert_eq!(tends(&server, "first"), "0", "its session was ended");
        is_tended(&server, "2030-01").await;
        proxy.freeze(false);
        logged(&first, "another gateway has taken these duties over").await;
        renewed_twice(&server).await;
        assert_eq!((tends(&server, "first"), holders(&server)), ("0".to_owned(), vec![(next, 4)]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_standby_that_is_away_takes_no_duties_from_a_gateway() {
        let server = Server::start();
        server.prepare();
        let _gateway = named(&server, "only").start().await;
        let holder = held(&server, &[]).await;
        server.sql("alter system set synchronous_standby_names = 'nobody'");
        server.sql("select pg_reload_conf()");
        eventually("commits wait", async || (server.sql("show synchronous_standby_names") == "nobody").then_some(()))
            .await;
        renewed_twice(&server).await;
        assert_eq!(holders(&server), [(holder, 4)]);
        server.sql("alter system reset synchronous_standby_names");
        server.sql("select pg_reload_conf()");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_clock_that_is_a_day_ahead_keeps_and_loses_duties_like_any_other() {
        a_day_apart("+1d").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_clock_that_is_a_day_behind_keeps_and_loses_duties_like_any_other() {
        a_day_apart("-1d").await;
    }

    /// The first gateway has a wrong clock, and the second one a right one.
    async fn a_day_apart(offset: &str) {
        let server = Server::start();
        server.prepare();
        let hands = Hands::new(offset);
        let mut first = hands.on(named(&server, "first")).start().await;
        let holder = held(&server, &[]).await;
        does_tend(&server, "first").await;
        let _second = named(&server, "second").start().await;
        renewed_twice(&server).await;
        assert_eq!(holders(&server), [(holder.clone(), 4)], "it keeps them while it renews them");
        first.signal("KILL");
        first.ended().await;
        let since = server.sql("select clock_timestamp()");
        taken_over(&server, &holder, &since).await;
        does_tend(&server, "second").await;
    }
}
