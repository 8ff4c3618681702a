//! `eye backup` and `eye restore`: the whole database in one file, and back. The file is an archive of `pg_dump`, so
//! `pg_restore` reads it without this program too. A restored database may be of another major version of Postgres.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use uuid::Uuid;

use super::output::say;
use super::reach::{Database, ENDED_BY_SIGNAL};
use super::signals::Signals;
use super::{Failure, Source};
use crate::postgres::Tool;
use crate::shutdown::Shutdown;
use crate::store::Partition;

/// The first bytes of every archive of `pg_dump`.
const ARCHIVE: &[u8] = b"PGDMP";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file of the backup
    file: PathBuf,
    #[command(flatten)]
    source: Source,
}

/// Writes the database into a new file. The gateway may run meanwhile: the backup is the state of one moment.
pub(super) async fn backup(arguments: Arguments) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    with_signals(&shutdown, write(arguments, &shutdown)).await
}

async fn write(arguments: Arguments, shutdown: &Shutdown) -> Result<(), Failure> {
    let Arguments { file, source } = arguments;
    let (settings, config) = source.gather(Vec::new())?;
    let part = Part::create(&file)?;
    let database = Database::find(&settings, &config, Some(shutdown)).await?;
    let written = or_interrupted(shutdown, dump(&database, &config.postgres_options(), &part.path)).await;
    database.close().await;
    let (summary, major) = written?;
    let bytes = part.finish(&file)?;
    say(format!("{}: {summary}, of PostgreSQL {major}, {bytes} bytes", file.display()))?;
    Ok(())
}

/// Runs a command, and passes signals on to it.
async fn with_signals(shutdown: &Shutdown, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut signals = Signals::with_hangup().context("signals cannot be heard")?;
    tokio::select! {
        ended = command => ended,
        never = signals.stop(shutdown) => match never {},
    }
}

/// Does the work unless a signal asks to stop. The drop of the work ends the program of Postgres that it runs.
async fn or_interrupted<T>(shutdown: &Shutdown, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    shutdown.drain.run_until_cancelled(work).await.context(ENDED_BY_SIGNAL)?
}

async fn dump(database: &Database, options: &crate::postgres::Options, file: &Path) -> anyhow::Result<(String, u32)> {
    let store = database.store();
    let described = store.describe().await?;
    ensure!(described.is_ours, "the database has no tables of a gateway, so there is nothing to back up");
    let tools = Tool::find(options, "pg_dump", described.major).await?;
    let tool = tools.first().context("a program was found")?;
    // Owners and rights name roles, which another server need not have.
    let arguments = ["--format=custom", "--no-owner", "--no-privileges", "--no-password"];
    let mut arguments: Vec<_> = arguments.map(std::ffi::OsString::from).into();
    arguments.push("--file".into());
    arguments.push(file.into());
    tool.run(arguments, &store.libpq_variables()).await?;
    Ok((summary(&store.partitions().await?), described.major))
}

/// Fills an empty database from a file. All of it is restored, or nothing.
pub(super) async fn restore(arguments: Arguments) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    with_signals(&shutdown, read(arguments, &shutdown)).await
}

async fn read(arguments: Arguments, shutdown: &Shutdown) -> Result<(), Failure> {
    let Arguments { file, source } = arguments;
    let (settings, config) = source.gather(Vec::new())?;
    let file = prove_archive(&file)?;
    let database = Database::find(&settings, &config, Some(shutdown)).await?;
    let restored = or_interrupted(shutdown, fill(&database, &config.postgres_options(), &file)).await;
    database.close().await;
    let (summary, major, schema) = restored?;
    say(format!("{}: restored {summary}, into PostgreSQL {major}", file.display()))?;
    say(schema)?;
    Ok(())
}

async fn fill(
    database: &Database,
    options: &crate::postgres::Options,
    file: &Path,
) -> anyhow::Result<(String, u32, String)> {
    let store = database.store();
    let described = store.describe().await?;
    ensure!(
        !described.has_tables,
        "the database has tables already, and a restore replaces nothing: name an empty database. For the embedded one, \
         stop the gateway and move the folder postgres in its data dir away, or name another --data-dir"
    );
    let (tool, list) = readable(Tool::find(options, "pg_restore", described.major).await?, file).await?;
    // The schema `public` is there in every new database.
    let wanted: Vec<&str> = list.lines().filter(|line| !line.contains(" SCHEMA - public ")).collect();
    ensure!(
        wanted.iter().any(|line| line.contains(" TABLE ") && line.contains(" applications ")),
        "{} is a backup of another program: it has no table of applications",
        file.display()
    );
    let contents = Part::create(&std::env::temp_dir().join(format!("eye-restore-{}", Uuid::now_v7())))?;
    fs::write(&contents.path, wanted.join("\n")).with_context(|| contents.path.display().to_string())?;
    let variables = store.libpq_variables();
    let name = variables.iter().find(|(name, _)| *name == "PGDATABASE").map(|(_, value)| value.to_string_lossy());
    let name = name.unwrap_or_default().replace('\\', "\\\\").replace('\'', "\\'");
    let arguments = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", "--no-password"];
    let mut arguments: Vec<_> = arguments.map(std::ffi::OsString::from).into();
    arguments.push(format!("--dbname=dbname='{name}'").into());
    arguments.push("--use-list".into());
    arguments.push(contents.path.clone().into());
    arguments.push(file.into());
    tool.run(arguments, &variables).await?;
    store.close_functions().await?;
    store.analyze().await?;
    let schema = match store.prove_schema().await {
        Ok(schema) => schema.to_string(),
        // `eye serve` and `eye migrate` bring it up.
        Err(error) => error.to_string(),
    };
    Ok((summary(&store.partitions().await?), described.major, schema))
}

/// The oldest program that reads the file, and the list of its contents.
async fn readable(tools: Vec<Tool>, file: &Path) -> anyhow::Result<(Tool, String)> {
    let mut refused = String::new();
    for tool in tools {
        match tool.list(file).await {
            Ok(list) => return Ok((tool, list)),
            Err(why) => refused = format!("pg_restore of version {} says: {why}", tool.major),
        }
    }
    bail!(
        "{} cannot be read: {refused}. The file is damaged, or a newer pg_dump wrote it: then install that version of \
         Postgres, or name its folder in EYE_POSTGRES_BIN",
        file.display()
    )
}

/// The numbers of rows, as the planner estimates them.
fn summary(partitions: &[Partition]) -> String {
    let rows = |table: &str| -> i64 {
        partitions
            .iter()
            .filter(|partition| partition.table_name == table)
            .filter_map(|partition| partition.rows_estimate)
            .sum()
    };
    format!("about {} events and {} dead letters", rows("events"), rows("dead_letters"))
}

/// Proves that a file is an archive, so that a wrong one costs no start of a database.
fn prove_archive(file: &Path) -> anyhow::Result<PathBuf> {
    let mut first = [0; ARCHIVE.len()];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut first));
    match read {
        Ok(()) if first == ARCHIVE => fs::canonicalize(file).with_context(|| file.display().to_string()),
        Ok(()) => bail!("{} is no backup: it does not begin as the files of `eye backup` do", file.display()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            bail!("{} is no backup: it is empty or cut off", file.display())
        }
        Err(error) => bail!("{} cannot be read: {error}", file.display()),
    }
}

/// A backup that is not complete yet. It has another name, and is removed if it stays incomplete.
struct Part {
    path: PathBuf,
    finished: bool,
}

impl Part {
    /// Creates the file, for this user alone.
    fn create(file: &Path) -> anyhow::Result<Self> {
        ensure!(
            fs::symlink_metadata(file).is_err(),
            "{} exists already, and a backup replaces no file: name another, or remove it",
            file.display()
        );
        let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(folder).with_context(|| format!("the folder {}", folder.display()))?;
        let mut part = name.to_owned();
        part.push(".part");
        let path = folder.join(part);
        let created = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        created.with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self { path, finished: false })
    }

    /// Writes the file through to the disk and gives it its name. Returns its size.
    fn finish(mut self, file: &Path) -> anyhow::Result<u64> {
        let finished = File::open(&self.path).and_then(|part| {
            part.sync_all()?;
            let bytes = part.metadata()?.len();
            fs::rename(&self.path, file)?;
            if let Some(folder) = self.path.parent() {
                File::open(folder)?.sync_all()?;
            }
            Ok(bytes)
        });
        self.finished = true;
        finished.with_context(|| format!("{} cannot be kept", file.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // An incomplete backup is of no use, and there is nobody left to tell of an error.
            let _ = fs::remove_file(&self.path);
        }
    }
}
