//! The ways to the database: its socket file, TCP on loopback, and a network that takes its time. What one way costs beside
//! another, in the same run; and what events cost that come again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Run;
use crate::database::Way;
use crate::events::Source;
use crate::load::{Closed, Shared, shared};
use crate::report::{Goal, Series};
use crate::series;
use crate::subject::{Modules, Setup, Subject};
use crate::throughput::{BATCH_CONNECTIONS, EVENTS_PER_BATCH};

/// Senders of one event a request. More wait than go by one statement.
const SENDERS: usize = 128;
/// One event of so many was sent before.
const REPEATED_EVERY: u64 = 10;
/// How long a byte takes each way, at least.
const DISTANCE: Duration = Duration::from_millis(1);

/// A network between a gateway and the server: each byte comes later.
struct Distance {
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Distance {
    async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                // Only what is measured may wait.
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                connections.spawn(carry(from_client, to_server));
                connections.spawn(carry(from_server, to_client));
            }
        });
        Ok(Self { address, _connections: tasks })
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(DISTANCE).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Events a second of a load on a gateway.
async fn rate(run: &mut Run, gateway: &Subject, connections: usize, source: &Shared) -> Result<f64> {
    run.main.empty().await?;
    let load = Closed {
        address: gateway.address,
        connections,
        source: Shared::clone(source),
        warm_up: run.plan.warm_up,
        window: run.plan.window,
    };
    Ok(load.run(|| Ok(Vec::new())).await?.sound()?.per_second)
}

/// The same loads over each way.
pub(crate) async fn to_the_database(run: &mut Run) -> Result<()> {
    let distance = Distance::start(run.server.tcp()).await?;
    let far_url = run.main.url_at(distance.address)?;
    let setup = |name, url| Setup { name, database_url: url, modules: Modules::ForAll };
    let file = run.workshop.gateway(&setup("way-file", run.main.url(Way::SocketFile))).await?;
    let tcp = run.workshop.gateway(&setup("way-tcp", run.main.url(Way::Tcp))).await?;
    let far = run.workshop.gateway(&setup("way-far", &far_url)).await?;
    let (batches, singles) = (shared(EVENTS_PER_BATCH, 1), shared(1, 1));
    let repeated =
        |count| std::sync::Arc::new(std::sync::Mutex::new(Source::new(count, 1).with_repeated(REPEATED_EVERY)));
    let (batches_again, singles_again) = (repeated(EVENTS_PER_BATCH), repeated(1));
    let mut all: [[Series; 5]; 3] = std::array::from_fn(|_| series());
    for _ in 0..run.plan.repeats {
        for (gateway, series) in [&file, &tcp, &far].into_iter().zip(&mut all) {
            series[0].push(rate(run, gateway, BATCH_CONNECTIONS, &batches).await?);
            series[1].push(rate(run, gateway, SENDERS, &singles).await?);
            series[2].push(rate(run, gateway, 1, &batches).await? / EVENTS_PER_BATCH as f64);
            series[3].push(rate(run, gateway, BATCH_CONNECTIONS, &batches_again).await?);
            series[4].push(rate(run, gateway, SENDERS, &singles_again).await?);
        }
    }
    tell(run, &all);
    for gateway in [file, tcp, far] {
        gateway.stop()?;
    }
    Ok(())
}

fn tell(run: &mut Run, [file, tcp, far]: &[[Series; 5]; 3]) {
    let table = &mut run.table;
    let beside = "over the socket file";
    table.ratio("events/s over TCP, 100 a request, 32 connections", &tcp[0], (beside, &file[0]), Goal::AtLeast(0.9));
    table.ratio("events/s over TCP, one a request, 128 connections", &tcp[1], (beside, &file[1]), Goal::AtLeast(0.9));
    table.ratio("requests/s over TCP of one sender, 100 a request", &tcp[2], (beside, &file[2]), Goal::AtLeast(0.9));
    for (way, of) in [("the socket file", file), ("TCP", tcp)] {
        let all_new = "all of them new";
        let figure = format!("events/s over {way}, 100 a request, a tenth of them sent before");
        table.ratio(&figure, &of[3], (all_new, &of[0]), Goal::AtLeast(0.8));
        let figure = format!("events/s over {way}, one a request, a tenth of them sent before");
        table.ratio(&figure, &of[4], (all_new, &of[1]), Goal::AtLeast(0.8));
    }
    let beside = "over TCP on loopback";
    table.ratio("events/s, 1 ms and more each way, 100 a request", &far[0], (beside, &tcp[0]), Goal::None);
    table.ratio("events/s, 1 ms and more each way, one a request", &far[1], (beside, &tcp[1]), Goal::None);
    // A round trip takes 2 ms at least, and up to twice that by the machine's timers, so this has no goal. That a batch costs one
    // is counted in `tests/store_writer.rs`.
    table.plain("requests/s of one sender, 1 ms and more each way", &far[2], Goal::None);
}
