//! What a page costs on a large table: fills a Postgres of its own with events of three months, then asks the built gateway
//! for first pages over HTTP and prints the median and the 99th percentile of each kind. `ROWS` says how many events
//! (1,000,000; a twentieth as many sessions), `REQUESTS` how many times each page is asked for (200), `STREAMED` how many
//! of them are streamed at the end, while the gateway's memory is watched (all). `cargo bench -p eye --bench reading`

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eye::postgres::{Options, Postgres};
use eye::store::Store;
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// Rows of one statement of the loader.
const CHUNK: i64 = 250_000;

const PREPARE: &str = "
    select make_partitions('2026-07-15', '2026-09-15');
    insert into applications (name, networks, known_by, scopes)
        values ('local', '{127.0.0.0/8}', 'network', '{ingest, read, admin}'), ('shop', '{}', 'token', '{ingest}');
    insert into event_types (category, name) select 'category ' || c, 'name ' || n
        from generate_series(0, 3) c, generate_series(0, 2) n;";

/// Twenty events a session, a hundred sessions at a time; 92 days from the first to the last.
const FILL: &str = "
    insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
    select md5((n / 2000 * 100 + n % 100)::text)::uuid, at, gen_random_uuid(), at + interval '40 ms',
        1 + (n * 7919 % 12)::int, 1 + (n % 10 = 0)::int,
        jsonb_build_object('n', n, 'host', 'www.example.com', 'path', '/reviews/' || n, 'element', 'chat bubble')
    from (select n, '2026-07-01Z'::timestamptz + n * (interval '92 days' / $3::float8) as at
        from generate_series($1::bigint, $2::bigint) n) made";

/// As the gateway would have counted them.
const COUNT: &str = "
    insert into counts (bucket, start, event_type_id, application_id, outcome, count)
    select 'minute', date_trunc('minute', received_at, 'UTC'), event_type_id, application_id, 'stored', count(*)
        from events group by 2, 3, 4;
    insert into counts (bucket, start, event_type_id, application_id, outcome, count)
    select wider, date_trunc(wider, start, 'UTC'), event_type_id, application_id, outcome, sum(count)
        from counts cross join unnest(array['hour', 'day']) wider where bucket = 'minute' group by 1, 2, 3, 4, 5;
    insert into counts (bucket, start, event_type_id, application_id, outcome, count)
    select 'ever', '-infinity', event_type_id, application_id, outcome, sum(count)
        from counts where bucket = 'minute' group by 3, 4, 5;";

fn number(name: &str, usual: i64) -> Result<i64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} must be a whole number")),
        Err(_) => Ok(usual),
    }
}

/// Fills the tables, and gives sessions from all over them.
async fn fill(url: &str, rows: i64) -> Result<Vec<Uuid>> {
    let start = Instant::now();
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(PREPARE).await?;
    for first in (0..rows).step_by(usize::try_from(CHUNK)?) {
        let last = (first + CHUNK).min(rows) - 1;
        sqlx::query(FILL).bind(first).bind(last).bind(rows as f64).execute(&mut connection).await?;
    }
    println!("{rows} events in {} sessions, written in {:.0} s", rows / 20, start.elapsed().as_secs_f64());
    connection.execute(COUNT).await?;
    connection.execute("vacuum analyze").await?;
    println!("counted and analyzed after {:.0} s", start.elapsed().as_secs_f64());
    let scattered = "select md5((n * 7919 % $1)::text)::uuid from generate_series(1, 1000) n";
    Ok(sqlx::query_scalar(scattered).bind(rows / 20).fetch_all(&mut connection).await?)
}

/// The gateway, and the address that it has logged.
fn serve(url: &str, folder: &Path) -> Result<(Child, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--database-url", url, "--modules"]);
    command.arg(folder.join("modules")).arg("--data-dir").arg(folder.join("gateway"));
    let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("the gateway listens")));
    let line = line.context("the gateway did not start")?;
    std::thread::spawn(move || lines.for_each(drop));
    let port: String =
        line.split("127.0.0.1:").nth(1).context("an address")?.chars().take_while(char::is_ascii_digit).collect();
    Ok((child, format!("http://127.0.0.1:{port}")))
}

/// Asks for `path(round)` again and again, and prints how long the answers took.
async fn ask(client: &reqwest::Client, name: &str, requests: i64, path: impl Fn(i64) -> String) -> Result<()> {
    let mut took = Vec::new();
    let mut bytes = 0;
    for round in 0..requests {
        let start = Instant::now();
        let response = client.get(path(round)).send().await?;
        ensure!(response.status() == 200, "{}: {}", path(round), response.text().await?);
        bytes = response.bytes().await?.len();
        took.push(start.elapsed());
    }
    took.sort();
    let ms = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{name:38} p50 {:8.2} ms   p99 {:8.2} ms   {bytes:8} bytes", ms(0.5), ms(0.99));
    Ok(())
}

/// Peak and present memory of a process in MiB.
fn memory(process: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
    };
    Ok((field("VmHWM:").context("VmHWM")?, field("VmRSS:").context("VmRSS")?))
}

async fn measure(address: &str, process: u32, sessions: &[Uuid], rows: i64) -> Result<()> {
    let client = reqwest::Client::new();
    while client.get(format!("{address}/readyz")).send().await?.status() != 200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let requests = number("REQUESTS", 200)?;
    let months = "from=2026-07-01T00:00:00Z&to=2026-10-01T00:00:00Z";
    let day = |round: i64| format!("2026-{:02}-{:02}T{:02}:00:00Z", 7 + round % 3, 1 + round * 7 % 30, round % 24);
    // Each once before, for plans and caches of a gateway that has served for a while.
    for (times, told) in [(5, false), (requests, true)] {
        let name = |name: &'static str| if told { name } else { "(first requests)" };
        ask(&client, name("session, first page"), times, |round| {
            let session_id = sessions[usize::try_from(round).unwrap_or_default() % sessions.len()];
            format!("{address}/v1/sessions/{session_id}")
        })
        .await?;
        ask(&client, name("time range of a day, first page"), times, |round| {
            format!("{address}/v1/events?from={}&to=2026-10-01T00:00:00Z", day(round))
        })
        .await?;
        ask(&client, name("three months, first page"), times, |_| format!("{address}/v1/events?{months}")).await?;
        ask(&client, name("three months, latest first"), times, |_| format!("{address}/v1/events?{months}&order=desc"))
            .await?;
        ask(&client, name("category, first page"), times, |round| {
            format!("{address}/v1/categories/category%20{}", round % 4)
        })
        .await?;
        ask(&client, name("category and name, latest first"), times, |round| {
            format!("{address}/v1/categories/category%20{}?name=name%201&order=desc", round % 4)
        })
        .await?;
        ask(&client, name("recent sessions, page of 20"), times, |_| {
            format!("{address}/v1/sessions?{months}&limit=20")
        })
        .await?;
        ask(&client, name("stats, three months by day"), times, |_| {
            format!("{address}/v1/stats?{months}&bucket=day&limit=10000")
        })
        .await?;
        ask(&client, name("stats, three months by hour, a page"), times, |_| {
            format!("{address}/v1/stats?{months}&bucket=hour")
        })
        .await?;
        ask(&client, name("categories"), times, |_| format!("{address}/v1/categories")).await?;
    }
    stream(&client, address, process, number("STREAMED", rows)?).await
}

async fn stream(client: &reqwest::Client, address: &str, process: u32, rows: i64) -> Result<()> {
    let before = memory(process)?;
    let start = Instant::now();
    let request = client.get(format!("{address}/v1/events")).header("accept", "application/x-ndjson");
    let mut response = request.send().await?;
    let (mut lines, mut bytes) = (0_i64, 0_usize);
    while let Some(piece) = response.chunk().await? {
        lines += i64::try_from(piece.iter().filter(|byte| **byte == b'\n').count())?;
        bytes += piece.len();
        if lines >= rows {
            break;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let after = memory(process)?;
    println!(
        "streamed {lines} events, {} MiB, in {took:.0} s; the gateway's memory: {} MiB before, {} MiB after, {} MiB at most",
        bytes >> 20,
        before.1,
        after.1,
        after.0
    );
    Ok(())
}

fn main() -> Result<()> {
    let rows = number("ROWS", 1_000_000)?;
    let folder = tempfile::tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let options = Options {
        data_dir: folder.path().join("data"),
        bin_dir: None,
        search_path: std::env::var_os("PATH"),
        temp_dir: PathBuf::from("/tmp"),
        connections_max: 16,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let postgres = Postgres::start(&options).await?;
        let measured = async {
            Store::new(postgres.url(), 1, Duration::from_secs(5), Duration::from_secs(5))?.migrate().await?;
            let sessions = fill(postgres.url(), rows).await?;
            let (mut gateway, address) = serve(postgres.url(), folder.path())?;
            let measured = measure(&address, gateway.id(), &sessions, rows).await;
            gateway.kill()?;
            gateway.wait()?;
            measured
        };
        let measured = measured.await;
        postgres.stop().await;
        measured
    })
}
