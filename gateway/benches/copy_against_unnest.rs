//! The store's way into `events` for large batches, binary `copy`, against `insert .. select from unnest .. on
//! conflict do nothing`. Both write the same rows into the same durable Postgres, in turn; each is measured in rows a
//! second and in the processor time of its server process. `cargo bench -p eye --bench copy_against_unnest`

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eye::batch::{Fate, Sink as _};
use eye::postgres::{Options, Postgres};
use eye::store::{EventSink, LibpqEnvironment, Store};
use eye_event::event::{EventRow, Text};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

const ROUNDS: usize = 7;
const ROWS: usize = 20_000;
const BATCHES: [usize; 2] = [100, 1_000];
/// What `getconf CLK_TCK` says on Linux, everywhere.
const TICKS_PER_SECOND: f64 = 100.0;
/// 2021-01-01, in microseconds since 1970.
const START_US: i64 = 1_609_459_200_000_000;

const UNNEST: &str = "insert into events \
     (session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data) \
     select s, t, i, r, e, a, null, d::jsonb from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], \
         $4::timestamptz[], $5::integer[], $6::integer[], $7::text[]) rows (s, t, i, r, e, a, d) \
     on conflict do nothing returning id";

fn row(number: usize) -> EventRow {
    let n = number as u128;
    let data = format!(
        "{{\"host\":\"www.example.com\",\"path\":\"/reviews/{number}\",\"element\":\"chat bubble\",\"position\":{},\
         \"referrer\":\"https://www.example.com/search?q={number}\",\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\"}}",
        number % 40
    );
    EventRow {
        // Scattered as version 4 ids of clients are.
        id: Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
        session_id: Uuid::from_u128((n / 10).wrapping_mul(0xd1b5_4a32_d192_ed03_9e37_79b9_7f4a_7c15)),
        timestamp_us: START_US + number as i64,
        received_at_us: START_US + number as i64,
        category: Text::from("page interaction"),
        name: Text::from("pageview"),
        application_id: 1,
        module: None,
        data: Text::from(data.as_str()),
        raw: Bytes::new(),
        redriven: false,
    }
}

/// One way of writing, on a connection of its own.
enum Way {
    Copy(Box<EventSink>),
    Unnest { connection: PgConnection, event_type: i32 },
}

impl Way {
    async fn write(&mut self, rows: &[&EventRow]) -> Result<()> {
        let stored = match self {
            Way::Copy(sink) => match sink.write(rows).await {
                Ok(fates) => fates.iter().filter(|fate| **fate == Fate::Stored).count(),
                Err(failure) => bail!("{failure:?}"),
            },
            Way::Unnest { connection, event_type } => unnest(connection, *event_type, rows).await?,
        };
        ensure!(stored == rows.len(), "{stored} of {} rows are stored", rows.len());
        Ok(())
    }
}

async fn unnest(connection: &mut PgConnection, event_type: i32, rows: &[&EventRow]) -> Result<usize> {
    // In the order of the key, as the store does it.
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| (row.session_id, row.timestamp_us, row.id));
    let time = |us| DateTime::<Utc>::from_timestamp_micros(us).context("a time");
    let data: Vec<&str> = rows.iter().map(|row| str::from_utf8(row.data.as_bytes())).collect::<Result<_, _>>()?;
    let new = sqlx::query(UNNEST)
        .bind(rows.iter().map(|row| row.session_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| time(row.timestamp_us)).collect::<Result<Vec<_>>>()?)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| time(row.received_at_us)).collect::<Result<Vec<_>>>()?)
        .bind(vec![event_type; rows.len()])
        .bind(rows.iter().map(|row| row.application_id).collect::<Vec<_>>())
        .bind(data)
        .fetch_all(connection)
        .await?;
    Ok(new.len())
}

/// Processor time of a process so far.
fn processor_time(process: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("needs Linux's /proc")?;
    let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
    // User and system time are the fields 14 and 15; the first of these is field 3.
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

struct Measured {
    rows_per_second: f64,
    server_us_per_row: f64,
}

async fn round(way: &mut Way, process: i32, rows: &[&EventRow], batch: usize) -> Result<Measured> {
    let (before, start) = (processor_time(process)?, Instant::now());
    for batch in rows.chunks(batch) {
        way.write(batch).await?;
    }
    let (took, spent) = (start.elapsed(), processor_time(process)? - before);
    let count = rows.len() as f64;
    Ok(Measured { rows_per_second: count / took.as_secs_f64(), server_us_per_row: spent.as_secs_f64() * 1e6 / count })
}

/// The median, and from the least to the most.
fn words(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let place = |part: usize| values.get(part).copied().unwrap_or_default();
    format!("{:9.1} ({:.1} to {:.1})", place(values.len() / 2), place(0), place(values.len().saturating_sub(1)))
}

fn report(batch: usize, name: &str, measured: Vec<Measured>) {
    let (rates, times) = measured.into_iter().map(|one| (one.rows_per_second, one.server_us_per_row)).unzip();
    println!("batches of {batch:5}  {name:6}  rows/s {}   server us/row {}", words(rates), words(times));
}

async fn compare(url: &str) -> Result<()> {
    let store = Store::new(url, LibpqEnvironment::default(), 1, Duration::from_secs(5), Duration::from_secs(30))?;
    store.migrate().await?;
    let mut control = PgConnection::connect(url).await?;
    let rows: Vec<EventRow> = (0..ROWS).map(row).collect();
    let rows: Vec<&EventRow> = rows.iter().collect();

    let mut copy = Way::Copy(Box::new(store.event_sink()));
    // The first batch connects, and makes the event type.
    copy.write(&rows[..1]).await?;
    let activity = "select pid from pg_stat_activity where application_name = 'eye writer events'";
    let copy_process: i32 = sqlx::query_scalar(activity).fetch_one(&mut control).await?;
    let event_type = sqlx::query_scalar("select id from event_types").fetch_one(&mut control).await?;
    let mut connection = PgConnection::connect(url).await?;
    let unnest_process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let mut unnest = Way::Unnest { connection, event_type };

    println!("{ROUNDS} rounds of {ROWS} rows each, in turn; median, and least to most");
    for batch in BATCHES {
        let (mut by_copy, mut by_unnest) = (Vec::new(), Vec::new());
        for number in 0..=ROUNDS {
            control.execute("truncate events").await?;
            let first = round(&mut copy, copy_process, &rows, batch).await?;
            control.execute("truncate events").await?;
            let second = round(&mut unnest, unnest_process, &rows, batch).await?;
            // The first round warms up.
            if number > 0 {
                by_copy.push(first);
                by_unnest.push(second);
            }
        }
        report(batch, "copy", by_copy);
        report(batch, "unnest", by_unnest);
    }
    Ok(())
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let options = Options {
        data_dir: folder.path().join("data"),
        bin_dir: None,
        search_path: std::env::var_os("PATH"),
        temp_dir: PathBuf::from("/tmp"),
        connections_max: 2,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let postgres = Postgres::start(&options).await?;
        let compared = compare(postgres.url()).await;
        postgres.stop().await;
        compared
    })
}
