//! A pooler between gateway and database: session pooling works, and other modes are refused with a reason.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::support::cluster::{Server, as_postgres, free_port};
use crate::support::load::{Chance, Load, ROWS, numbered};
use crate::support::{Setup, eventually};

/// `./setup operate` installs it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A pgbouncer that belongs to a test.
struct Pooler {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Pooler {
    fn start(server: &Server, mode: &str) -> Pooler {
        assert!(Path::new(PROGRAM).exists(), "there is no {PROGRAM}: `./setup operate` installs it");
        let (folder, port) = (crate::support::folder(), free_port());
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\ndefault_pool_size = 40\n",
            server.port()
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).expect("written");
        let process = Pooler::run(folder.path());
        Pooler { folder, port, process }
    }

    fn run(folder: &Path) -> Child {
        as_postgres(PROGRAM).arg("-q").arg(folder.join("pgbouncer.ini")).spawn().expect("pgbouncer")
    }

    fn end(&mut self) {
        self.process.kill().expect("ended");
        self.process.wait().expect("gone");
    }

    fn restart(&mut self) {
        self.end();
        self.process = Pooler::run(self.folder.path());
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_gives_sessions_to_transactions_is_refused_in_words() {
    let server = Server::start();
    server.prepare();
    for mode in ["transaction", "statement"] {
        let pooler = Pooler::start(&server, mode);
        let gateway = Setup::default().with("EYE_DATABASE_URL", pooler.url()).listen().await;
        let told = eventually("the gateway says what is wrong", async || {
            let answer = gateway.get("/readyz").await;
            let problem = answer.json()["problem"].as_str().map(str::to_owned)?;
            assert_eq!(answer.status, 503, "{problem}");
            Some(problem)
        })
        .await;
        assert!(told.contains("pool_mode = session"), "{mode}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_pooler_that_gives_a_session_to_each_client_serves_and_may_be_restarted() {
    let server = Server::start();
    server.prepare();
    let mut pooler = Pooler::start(&server, "session");
    let gateway = Setup::default().with("EYE_DATABASE_URL", pooler.url()).start().await;
    assert_eq!(gateway.send(&numbered(1_000_000)).await.status, 201);
    assert_eq!(
        gateway
            .get(&format!("/v1/sessions/{}", numbered(1_000_000)["session_id"].as_str().expect("an id")))
            .await
            .status,
        200
    );
    let mut load = Load::start(gateway.address(), 4, 20, &mut Chance::new());
    load.stores(300).await;
    load.ledger.watch_pauses();
    pooler.restart();
    load.stores(300).await;
    load.stop().await;
    server.sql("delete from events where (data ->> 'n')::bigint = 1000000");
    load.ledger.hold_against(&server.sql(ROWS));
    let gap = load.ledger.longest_pause();
    println!("pgbouncer was killed and started again: nothing was stored for {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(20), "{gap:?}");
}
