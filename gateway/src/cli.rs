//! The program's commands and their arguments. Each command has a file of its own.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use eye_judge::LOADER_COMMAND;

use crate::config::{self, Config, Problems, ServiceEnvironment, Settings};
use crate::sockets::Passed;
use crate::trust::Scope;

mod app;
mod app_removals;
mod author;
mod backup;
mod completions;
mod config_check;
mod dead_letters;
mod fleet;
mod health;
mod jobs;
mod load_module;
mod man;
mod migrate;
mod output;
mod panel;
mod partitions;
mod reach;
mod remote;
mod retention;
mod serve;
mod shipment;
mod signals;
mod validator;

/// An event ingestion gateway whose rules are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "eye", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Arguments),
    /// Ask a running gateway whether it answers, for container and unit files
    Health(health::Arguments),
    /// Bring a database to the current schema
    Migrate(Source),
    /// Manage the applications that may send and read
    #[command(subcommand)]
    App(Box<app::Command>),
    /// Print an address that signs a browser in to the panel, once
    Panel(panel::Arguments),
    /// List events that were not stored, and judge them again
    #[command(subcommand)]
    DeadLetters(Box<dead_letters::Command>),
    /// List, show and cancel jobs: long work that gateways do step by step
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// See the partitions of the database
    #[command(subcommand)]
    Partitions(partitions::Command),
    /// Show the removals that retention has announced, and confirm them
    #[command(subcommand)]
    Retention(retention::Command),
    /// Write the whole database into a file, while the gateway runs or not
    Backup(backup::Arguments),
    /// Fill an empty database from such a file, also under another major version of Postgres
    Restore(backup::Arguments),
    /// Write, try and ship validators, show them and their earlier versions, and roll back to one
    #[command(subcommand)]
    Validator(Box<validator::Command>),
    /// Show the gateways on one database, and the sets of modules that they serve
    #[command(subcommand)]
    Fleet(fleet::Command),
    /// Read, prove and print the configuration, secrets hidden
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell
    #[command(visible_alias = "completion")]
    Completions(completions::Arguments),
    /// Print the manual page, or write the pages of all commands
    Man(man::Arguments),
    /// Load one module for a gateway, which starts this itself
    #[command(name = LOADER_COMMAND, hide = true)]
    LoadModule(load_module::Arguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print all problems at once, or each setting with its value and its source
    Check(Source),
}

/// The arguments of every command that say where its settings come from.
#[derive(Debug, Args)]
struct Source {
    /// The settings' file (TOML); see eye.example.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database; without one, the embedded Postgres under the data dir
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The gateway's own data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl Source {
    fn gather(&self, mut flags: Vec<(&'static str, String)>) -> Result<(Settings, Config), Problems> {
        flags.extend(self.database_url.clone().map(|url| ("database_url", url)));
        flags.extend(self.data_dir.clone().map(|dir| ("data_dir", dir)));
        Settings::gather(self.config.as_deref(), &flags)
    }

    /// Does the same and also checks the files and folders that the settings name.
    fn prove(&self) -> Result<(Settings, Config), Problems> {
        let mut flags = Vec::new();
        flags.extend(self.database_url.clone().map(|url| ("database_url", url)));
        flags.extend(self.data_dir.clone().map(|dir| ("data_dir", dir)));
        Settings::prove(self.config.as_deref(), &flags)
    }
}

/// A scope as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    Ingest,
    Read,
    Raw,
    Ship,
    Admin,
}

impl ScopeName {
    /// The scopes as the database writes them.
    fn words(names: &[Self]) -> Vec<String> {
        let word = |name: &Self| match name {
            Self::Ingest => Scope::Ingest,
            Self::Read => Scope::Read,
            Self::Raw => Scope::Raw,
            Self::Ship => Scope::Ship,
            Self::Admin => Scope::Admin,
        };
        names.iter().map(|name| word(name).as_str().to_owned()).collect()
    }
}

/// The reasons why a command fails. They decide the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings are wrong.
    #[error("{0}")]
    Configuration(#[from] Problems),
    /// The command failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// The command worked, and what it found is beyond a bound that its caller set.
    #[error("{0}")]
    Beyond(String),
}

impl Failure {
    /// Whether the reader of the output has closed the pipe. The command then ends quietly, with success.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is::<output::ClosedPipe>())
    }
}

impl Cli {
    /// Runs a command to its end. It is not `async`, since the compiler generates the code of an `async` function where
    /// it is polled: the program would compile most of this crate a second time.
    ///
    /// # Errors
    ///
    /// [`Failure`], which decides the exit code.
    pub fn run(self) -> Result<(), Failure> {
        // The loader of modules starts no runtime, since its process may have no further threads.
        if let Command::LoadModule(arguments) = &self.command {
            return load_module::run(arguments);
        }
        // Taking sockets changes the environment, so it comes before the first thread.
        let service = config::service();
        let passed = match &self.command {
            Command::Serve(_) => {
                Passed::take(&service.sockets).map_err(|error| Problems(vec![format!("{error:#}")]))?
            }
            _ => Passed::default(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context("the runtime does not start")?;
        let ended = runtime.block_on(run(self.command, service, passed));
        // After a second signal some work still runs. It must not keep the program from ending.
        runtime.shutdown_background();
        ended
    }
}

/// The commands without the hidden ones, for completions and manual pages.
fn shown_commands() -> clap::Command {
    let whole = Cli::command();
    let shown: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let about = whole.get_about().cloned().unwrap_or_default();
    clap::Command::new("eye")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .subcommand_required(true)
        .subcommands(shown)
}

async fn run(command: Command, service: ServiceEnvironment, passed: Passed) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::run(arguments, service, passed).await,
        Command::Health(arguments) => health::run(arguments).await,
        Command::Migrate(source) => migrate::run(source).await,
        Command::App(command) => app::run(*command).await,
        Command::Panel(arguments) => panel::run(arguments).await,
        Command::DeadLetters(command) => dead_letters::run(*command).await,
        Command::Jobs(command) => jobs::run(command).await,
        Command::Partitions(command) => partitions::run(command).await,
        Command::Retention(command) => retention::run(command).await,
        Command::Backup(arguments) => backup::backup(arguments).await,
        Command::Restore(arguments) => backup::restore(arguments).await,
        Command::Validator(command) => validator::run(*command).await,
        Command::Fleet(command) => fleet::run(command).await,
        Command::Config(ConfigCommand::Check(source)) => config_check::run(&source),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::LoadModule(arguments) => load_module::run(&arguments),
    }
}
