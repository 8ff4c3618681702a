//! The Postgres of a run, which has the durable settings that the gateway gives its own, and the ceilings that a plain
//! client reaches on it: rows by `copy`, and the commit of one row.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use eye::clock::Clock;
use eye::postgres::{Options, Postgres};
use eye::store::copy::{self, HEADER, Ids, TRAILER};
use eye_event::envelope::{Element, Format, Parsed, Rules, parse};
use eye_event::event::EventRow;
use hdrhistogram::Histogram;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::events::Source;
use crate::load::Tally;
use crate::process::family_time;
use crate::subject::Workshop;

/// Connections of one gateway, of the plain client, and of looks at the tables.
const CONNECTIONS_MAX: u32 = 50;

/// Rows that the plain client commits at once.
const ROWS_PER_COMMIT: usize = 1_000;
/// Batches of the plain client that are encoded at once: about 40 MB.
const BATCHES_AT_ONCE: usize = 100;
const COPY: &str = "copy events (session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data) \
     from stdin (format binary)";
const INSERT: &str = "insert into events \
     (session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data) \
     values ($1, to_timestamp($2::float8 / 1e6), $3, to_timestamp($4::float8 / 1e6), $5, 1, null, $6::jsonb)";

/// Bounds wide enough for every event of a source.
pub(crate) const RULES: Rules = Rules {
    data_bytes_max: 1 << 18,
    nesting_max: 64,
    number_digits_max: 1_000,
    future_us_max: 60_000_000,
    events_max: 10_000,
};

/// The running Postgres.
pub(crate) struct Server {
    postgres: Postgres,
    /// The process that all others of it descend from.
    postmaster: u32,
    /// Where it listens over TCP.
    tcp: SocketAddr,
}

/// The port of embedded servers. They listen on no address; this server listens on a loopback address that other programs
/// hardly use.
const PORT: u16 = 5_432;

/// A folder with the programs of Postgres, of which the server also listens on `address`.
fn programs(folder: &Path, address: IpAddr) -> Result<PathBuf> {
    let installed = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir(installed)?.map(|entry| Ok(entry?.path().join("bin"))).collect::<std::io::Result<_>>()?;
    versions.sort();
    let installed = versions.pop().context("an installed Postgres")?;
    let programs = folder.join("programs");
    std::fs::create_dir_all(&programs)?;
    for entry in std::fs::read_dir(&installed)? {
        let entry = entry?;
        if entry.file_name() != "postgres" {
            std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name()))?;
        }
    }
    let server = installed.join("postgres");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *unix_socket_directories*) exec {0} \"$@\" -c listen_addresses={address};; esac\nexec {0} \"$@\"\n",
        server.display()
    );
    std::fs::write(programs.join("postgres"), script)?;
    std::fs::set_permissions(programs.join("postgres"), std::fs::Permissions::from_mode(0o755))?;
    Ok(programs)
}

impl Server {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let data_dir = folder.join("postgres");
        let [.., high, low] = std::process::id().to_be_bytes();
        let tcp = SocketAddr::from(([127, 37, high, low.clamp(1, 254)], PORT));
        let options = Options {
            data_dir: data_dir.clone(),
            bin_dir: Some(programs(folder, tcp.ip())?),
            search_path: std::env::var_os("PATH"),
            temp_dir: PathBuf::from("/tmp"),
            connections_max: CONNECTIONS_MAX,
        };
        let postgres = Postgres::start(&options).await?;
        // Only this machine gets there, and for as long as the run takes.
        let rules = data_dir.join("postgres/pg_hba.conf");
        let text = std::fs::read_to_string(&rules)?;
        std::fs::write(&rules, text.replace("reject", "trust"))?;
        let mut control = PgConnection::connect(postgres.url()).await?;
        control.execute("select pg_reload_conf()").await?;
        control.close().await?;
        let note = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid"))?;
        let postmaster = note.lines().next().context("a process id")?.trim().parse()?;
        Ok(Self { postgres, postmaster, tcp })
    }

    /// Where it listens over TCP.
    pub(crate) fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Processor time of all its processes so far, in seconds.
    pub(crate) fn used_s(&self) -> Result<f64> {
        Ok(family_time(self.postmaster)?.as_secs_f64())
    }

    pub(crate) async fn stop(self) {
        self.postgres.stop().await;
    }

    /// A new database with the schema, and an application that is known from loopback.
    pub(crate) async fn database(&self, workshop: &Workshop, name: &str) -> Result<Database> {
        let mut control = PgConnection::connect(self.postgres.url()).await?;
        control.execute(AssertSqlSafe(format!("create database {name}"))).await?;
        control.close().await?;
        let (server, parameters) = self.postgres.url().split_once("/eye?").context("the embedded server's URL")?;
        let url = format!("{server}/{name}?{parameters}");
        let tcp_url = over_tcp(&url, self.tcp)?;
        workshop.command(&["migrate", "--database-url", &url])?;
        let known = ["--network", "127.0.0.0/8", "--scope", "ingest", "--scope", "read"];
        workshop.command(&[&["app", "add", "bench", "--database-url", &url][..], &known].concat())?;
        Ok(Database { connection: PgConnection::connect(&url).await?, url, tcp_url })
    }
}

/// The database of `url`, reached over TCP at `address`.
fn over_tcp(url: &str, address: SocketAddr) -> Result<String> {
    let (rest, _) = url.split_once('?').context("the parameters of the URL")?;
    let (user, name) = rest.split_once('@').context("the user of the URL")?;
    let (_, name) = name.split_once('/').context("the database of the URL")?;
    Ok(format!("{user}@{address}/{name}?sslmode=disable"))
}

/// How a gateway gets to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By its socket file, as a gateway with a Postgres of its own does.
    SocketFile,
    /// Over TCP on loopback, as a gateway beside a database does.
    Tcp,
}

/// One database, and a plain client's connection to it.
pub(crate) struct Database {
    url: String,
    tcp_url: String,
    connection: PgConnection,
}

impl Database {
    /// The URL that a gateway gets.
    pub(crate) fn url(&self, way: Way) -> &str {
        match way {
            Way::SocketFile => &self.url,
            Way::Tcp => &self.tcp_url,
        }
    }

    /// The URL over TCP of something at `address` that passes all on to the server.
    pub(crate) fn url_at(&self, address: SocketAddr) -> Result<String> {
        over_tcp(&self.url, address)
    }

    /// Empties the table of events, and lets no write of before weigh on what comes next.
    pub(crate) async fn empty(&mut self) -> Result<()> {
        self.connection.execute("truncate events").await?;
        self.connection.execute("checkpoint").await?;
        Ok(())
    }

    /// Lets no write of before weigh on what comes next.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        self.connection.execute("checkpoint").await?;
        Ok(())
    }

    /// Holds what was answered since the table was empty against what is there.
    pub(crate) async fn prove(&mut self, tally: &Tally) -> Result<()> {
        let rows: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut self.connection).await?;
        let rows = rows.unsigned_abs();
        ensure!(rows == tally.all_events, "{} events were said to be stored, and {rows} are there", tally.all_events);
        Ok(())
    }

    /// How many modules have judged stored events.
    pub(crate) async fn modules_seen(&mut self) -> Result<u64> {
        let query = "select count(distinct module_id) from events";
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut self.connection).await?;
        Ok(count.unsigned_abs())
    }

    pub(crate) async fn version(&mut self) -> Result<String> {
        Ok(sqlx::query_scalar("show server_version").fetch_one(&mut self.connection).await?)
    }

    /// The ids that stand in a row for its event type and module; makes them where they are missing.
    async fn ids(&mut self) -> Result<Ids> {
        let (category, name) = (crate::events::CATEGORY, crate::events::name(0, 1));
        sqlx::query("insert into event_types (category, name) values ($1, $2) on conflict do nothing")
            .bind(category)
            .bind(&name)
            .execute(&mut self.connection)
            .await?;
        let query = "select id from event_types where category = $1 and name = $2";
        let event_type = sqlx::query_scalar(query).bind(category).bind(&name).fetch_one(&mut self.connection).await?;
        let make = "insert into modules (digest) values (sha256('bench')) on conflict do nothing";
        self.connection.execute(make).await?;
        let query = "select id from modules where digest = sha256('bench')";
        let module = sqlx::query_scalar(query).fetch_one(&mut self.connection).await?;
        Ok(Ids { event_type, module: Some(module) })
    }

    /// The ceiling of batches: rows a second by `copy`, one client, a commit for each batch; and the server's seconds of
    /// processor time for a row. Rows are encoded beforehand, some batches at a time while the clock stands, so that
    /// they take little memory.
    pub(crate) async fn copy(&mut self, server: &Server, source: &mut Source, most: Duration) -> Result<(f64, f64)> {
        let ids = self.ids().await?;
        let (mut rows, mut used_s, mut took) = (0, 0.0, Duration::ZERO);
        while took < most {
            let batches = (0..BATCHES_AT_ONCE).map(|_| batch(source, ids)).collect::<Result<Vec<_>>>()?;
            let (used_before_s, start) = (server.used_s()?, Instant::now());
            for batch in &batches {
                if took + start.elapsed() >= most {
                    break;
                }
                let mut copy = self.connection.copy_in_raw(COPY).await?;
                copy.send(&batch[..]).await?;
                rows += copy.finish().await?;
            }
            took += start.elapsed();
            used_s += server.used_s()? - used_before_s;
        }
        ensure!(rows > 0, "no rows were copied");
        Ok((rows as f64 / took.as_secs_f64(), used_s / rows as f64))
    }

    /// Adds rows, many to a commit, without measuring.
    pub(crate) async fn fill(&mut self, rows: usize) -> Result<()> {
        let mut source = Source::new(100, 1);
        let ids = self.ids().await?;
        for _ in 0..rows / ROWS_PER_COMMIT {
            let batch = batch(&mut source, ids)?;
            let mut copy = self.connection.copy_in_raw(COPY).await?;
            copy.send(batch).await?;
            copy.finish().await?;
        }
        self.connection.execute("vacuum analyze events").await?;
        Ok(())
    }

    /// The ceiling of answers: how long the commit of one row takes for a plain client, in microseconds.
    pub(crate) async fn commits(&mut self, most: Duration) -> Result<Histogram<u64>> {
        let ids = self.ids().await?;
        let mut source = Source::new(1, 1);
        let mut times = Histogram::<u64>::new(3)?;
        let start = Instant::now();
        while start.elapsed() < most {
            let row = rows(&mut source)?.pop().context("a row")?;
            let statement = sqlx::query(INSERT)
                .bind(row.session_id)
                .bind(row.timestamp_us as f64)
                .bind(row.id)
                .bind(row.received_at_us as f64)
                .bind(ids.event_type)
                .bind(str::from_utf8(row.data.as_bytes())?);
            let begin = Instant::now();
            statement.execute(&mut self.connection).await?;
            times.record(u64::try_from(begin.elapsed().as_micros())?.max(1))?;
        }
        Ok(times)
    }
}

fn batch(source: &mut Source, ids: Ids) -> Result<Vec<u8>> {
    let mut batch = HEADER.to_vec();
    let mut count = 0;
    while count < ROWS_PER_COMMIT {
        for row in rows(source)? {
            copy::event(&row, ids, &mut batch);
            count += 1;
        }
    }
    batch.extend_from_slice(&TRAILER);
    Ok(batch)
}

/// The events of the next request, as the gateway would hand them to its writers.
pub(crate) fn rows(source: &mut Source) -> Result<Vec<EventRow>> {
    let mut request = Vec::new();
    let body = source.fill(&mut request);
    let now_us = Clock::default().now_us();
    let body = Bytes::from(request).slice(body..);
    let elements = match parse(&body, Format::Json, &RULES, now_us) {
        Ok(Parsed::One(element)) => vec![element],
        Ok(Parsed::Many(elements)) => elements,
        Err(unreadable) => anyhow::bail!("{unreadable:?}"),
    };
    elements.into_iter().map(|element| row(element, now_us)).collect()
}

pub(crate) fn row(element: Element, now_us: i64) -> Result<EventRow> {
    let event = element.map_err(|broken| anyhow::anyhow!("{:?}", broken.violations))?;
    Ok(EventRow {
        id: event.id,
        session_id: event.session_id,
        timestamp_us: event.timestamp_us,
        received_at_us: now_us,
        category: event.category,
        name: event.name,
        application_id: 1,
        module: None,
        data: event.data,
        raw: event.raw,
        redriven: false,
    })
}
