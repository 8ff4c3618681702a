//! What a page costs on a large table, and on one a tenth as large: fills a Postgres of its own with events of three
//! months, asks the built gateway for first pages over HTTP, streams everything while the gateway's memory is watched, and
//! prints the top lines of the plans and a table for BENCHMARKS.md. `ROWS` says how many events (10,000,000; a twentieth as
//! many sessions), `REQUESTS` how many times each page is asked for (200). `cargo bench -p eye --bench reading`

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eye::postgres::{Options, Postgres};
use eye::store::{LibpqEnvironment, Store};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// Rows of one statement of the loader.
const CHUNK: i64 = 250_000;
/// Lines of each plan that are printed.
const PLAN_LINES: usize = 6;

const PREPARE: &str = "
    select make_partitions('2026-07-15', '2026-09-15');
    insert into applications (name, networks, known_by, scopes)
        values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}'), ('shop', '{}', 'token', '{ingest}');
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

/// A gateway that ends with this.
struct Serving {
    child: Child,
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// Starts it, and reads the address that it logs.
    fn start(url: &str, folder: &Path) -> Result<Serving> {
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
        Ok(Serving { child, address: format!("http://127.0.0.1:{port}") })
    }
}

/// How long one kind of page took, in milliseconds.
struct Figure {
    name: &'static str,
    p50: f64,
    p99: f64,
}

/// A kind of page, and its path for each round.
type Page<'a> = (&'static str, Box<dyn Fn(i64) -> String + 'a>);

/// The first pages that are measured.
fn pages(sessions: &[Uuid]) -> Vec<Page<'_>> {
    const MONTHS: &str = "from=2026-07-01T00:00:00Z&to=2026-10-01T00:00:00Z";
    let day = |round: i64| format!("2026-{:02}-{:02}T{:02}:00:00Z", 7 + round % 3, 1 + round * 7 % 30, round % 24);
    vec![
        ("a session", {
            Box::new(|round| {
                let session_id = sessions[usize::try_from(round).unwrap_or_default() % sessions.len()];
                format!("/v1/sessions/{session_id}")
            })
        }),
        (
            "a time range from a day on",
            Box::new(move |round| format!("/v1/events?from={}&to=2026-10-01T00:00:00Z", day(round))),
        ),
        ("three months", Box::new(|_| format!("/v1/events?{MONTHS}"))),
        ("three months, latest first", Box::new(|_| format!("/v1/events?{MONTHS}&order=desc"))),
        ("a category", Box::new(|round| format!("/v1/categories/category%20{}", round % 4))),
        ("a category and name, latest first", {
            Box::new(|round| format!("/v1/categories/category%20{}?name=name%201&order=desc", round % 4))
        }),
        ("recent sessions, 20", Box::new(|_| format!("/v1/sessions?{MONTHS}&limit=20"))),
        ("stats, three months by day", Box::new(|_| format!("/v1/stats?{MONTHS}&bucket=day&limit=10000"))),
        ("stats, three months by hour, first page", Box::new(|_| format!("/v1/stats?{MONTHS}&bucket=hour"))),
        ("categories", Box::new(|_| "/v1/categories".to_owned())),
    ]
}

/// Asks for one kind of page again and again.
async fn ask(client: &reqwest::Client, address: &str, page: &Page<'_>, requests: i64) -> Result<Figure> {
    let mut took = Vec::new();
    for round in 0..requests {
        let url = format!("{address}{}", page.1(round));
        let start = Instant::now();
        let response = client.get(&url).send().await?;
        ensure!(response.status() == 200, "{url}: {}", response.text().await?);
        response.bytes().await?;
        took.push(start.elapsed());
    }
    took.sort();
    let ms = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    Ok(Figure { name: page.0, p50: ms(0.5), p99: ms(0.99) })
}

/// Waits until a gateway answers for its database.
async fn ready(client: &reqwest::Client, address: &str) -> Result<()> {
    while client.get(format!("{address}/readyz")).send().await?.status() != 200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Prints the top lines of the plans by which the pages are read, as the server logs them for a gateway that asks it to.
async fn print_plans(url: &str, folder: &Path, sessions: &[Uuid]) -> Result<()> {
    let explained = format!(
        "{url}&options[session_preload_libraries]=auto_explain&options[auto_explain.log_min_duration]=0\
         &options[auto_explain.log_analyze]=on&options[auto_explain.log_timing]=off"
    );
    let log = folder.join("data/postgres.log");
    let gateway = Serving::start(&explained, folder)?;
    let client = reqwest::Client::new();
    ready(&client, &gateway.address).await?;
    for page in pages(sessions) {
        let before = std::fs::read_to_string(&log)?.len();
        ask(&client, &gateway.address, &page, 1).await?;
        // The log comes by way of a pipe.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let text = std::fs::read_to_string(&log)?;
        let mut plans = text[before.min(text.len())..].split("duration: ").skip(1);
        // Of the table itself, and of a stretch of time in which there is something.
        let plan = plans.find(|plan| {
            let top = plan.lines().find(|line| line.contains("actual rows="));
            [" from events ", " from counts "].iter().any(|table| plan.contains(table))
                && top.is_some_and(|line| !line.contains("actual rows=0 "))
        });
        println!("\n{}: {}", page.0, page.1(0));
        let tells = |line: &&str| {
            !line.contains("never executed")
                && ["Scan ", "Append", "Limit", "Sort  (", "Aggregate"].iter().any(|word| line.contains(word))
        };
        for line in plan.unwrap_or("(not logged)").lines().skip(2).filter(tells).take(PLAN_LINES) {
            println!("    {}", line.trim());
        }
    }
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

async fn measure(gateway: &Serving, sessions: &[Uuid]) -> Result<(Vec<Figure>, String)> {
    let client = reqwest::Client::new();
    ready(&client, &gateway.address).await?;
    let requests = number("REQUESTS", 200)?;
    let mut figures = Vec::new();
    for page in pages(sessions) {
        // A few times before, for plans and caches of a gateway that has served for a while.
        ask(&client, &gateway.address, &page, 5).await?;
        let figure = ask(&client, &gateway.address, &page, requests).await?;
        println!("{:42} p50 {:8.2} ms   p99 {:8.2} ms", figure.name, figure.p50, figure.p99);
        figures.push(figure);
    }
    let streamed = stream(&client, &gateway.address, gateway.child.id()).await?;
    println!("{streamed}");
    Ok((figures, streamed))
}

async fn stream(client: &reqwest::Client, address: &str, process: u32) -> Result<String> {
    let before = memory(process)?;
    let start = Instant::now();
    let request = client.get(format!("{address}/v1/events")).header("accept", "application/x-ndjson");
    let mut response = request.send().await?;
    let (mut lines, mut bytes) = (0_i64, 0_usize);
    while let Some(piece) = response.chunk().await? {
        lines += i64::try_from(piece.iter().filter(|byte| **byte == b'\n').count())?;
        bytes += piece.len();
    }
    let took = start.elapsed().as_secs_f64();
    let after = memory(process)?;
    Ok(format!(
        "{lines} events streamed, {} MiB, in {took:.0} s; the gateway's memory: {} MiB before, {} MiB after, {} MiB at most",
        bytes >> 20,
        before.1,
        after.1,
        after.0
    ))
}

/// Fills a Postgres of its own with so many events, and measures on it.
async fn run(rows: i64) -> Result<(Vec<Figure>, String)> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let options = Options {
        data_dir: folder.path().join("data"),
        bin_dir: None,
        search_path: std::env::var_os("PATH"),
        temp_dir: PathBuf::from("/tmp"),
        connections_max: 16,
    };
    let postgres = Postgres::start(&options).await?;
    let measured = async {
        Store::new(postgres.url(), LibpqEnvironment::default(), 1, Duration::from_secs(5), Duration::from_secs(5))?
            .migrate()
            .await?;
        let sessions = fill(postgres.url(), rows).await?;
        let measured = measure(&Serving::start(postgres.url(), folder.path())?, &sessions).await?;
        print_plans(postgres.url(), folder.path(), &sessions).await?;
        Ok(measured)
    };
    let measured = measured.await;
    postgres.stop().await;
    measured
}

fn main() -> Result<()> {
    let rows = number("ROWS", 10_000_000)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (small, small_streamed) = runtime.block_on(run(rows / 10))?;
    let (large, large_streamed) = runtime.block_on(run(rows))?;
    println!("\n| first page, ms | {rows} events, p50 | p99 | {} events, p50 | p99 |", rows / 10);
    println!("|---|---|---|---|---|");
    for (large, small) in large.iter().zip(&small) {
        println!("| {} | {:.1} | {:.1} | {:.1} | {:.1} |", large.name, large.p50, large.p99, small.p50, small.p99);
    }
    println!("\n{large_streamed}\n\n{small_streamed}");
    Ok(())
}
