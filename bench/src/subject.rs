//! The programs under measure, each a process of its own: gateways, and the bare server that is the ceiling of HTTP.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::events::CATEGORY;

/// Longest wait for a program to listen and be ready; a thousand modules are compiled in it.
const READY_MOST: Duration = Duration::from_secs(600);
/// Longest wait for its end.
const END_MOST: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Connections that a gateway takes: more than any load opens.
const CONNECTIONS_MAX: &str = "10000";

/// A running program.
pub(crate) struct Subject {
    child: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Subject {
    /// Starts `command`, which says on standard error where it listens.
    async fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        command.stdin(Stdio::null()).stderr(File::create(&log)?);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let since = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log)?;
            if let Some(address) = announced(&text) {
                return Ok(Self { child, log, address });
            }
            if child.try_wait()?.is_some() || since.elapsed() > READY_MOST {
                // It may have ended already, which is what is wanted.
                let _ = child.kill();
                bail!("{command:?} does not listen: {text}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts the bare server.
    pub(crate) async fn bare(folder: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare");
        Self::start(command, folder.join("bare.log")).await
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The body of the answer to a GET, and its status.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).context("a status")?;
        let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
        Ok((status, body.to_owned()))
    }

    async fn ready(&self, modules: usize) -> Result<()> {
        let since = Instant::now();
        while self.get("/readyz").await?.0 != 200 {
            ensure!(since.elapsed() < READY_MOST, "not ready: {}", std::fs::read_to_string(&self.log)?);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (_, report) = self.get("/v1/validators").await?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let list = report["validators"].as_array().context("a list")?;
        let active = list.iter().filter(|one| one["state"] == "active").count();
        ensure!(active == modules, "{active} of {modules} modules are active");
        Ok(())
    }

    /// Ends it in its orderly way.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").arg(self.pid().to_string()).status()?;
        ensure!(status.success(), "kill");
        let since = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(since.elapsed() < END_MOST, "the program does not end");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Only when a measurement failed half way is there still something to end.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn announced(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("listens"))?;
    let port: String = line.split("127.0.0.1:").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)))
}

/// How a gateway is set up: all else is its defaults.
pub(crate) struct Setup<'a> {
    /// Names its folder.
    pub(crate) name: &'a str,
    pub(crate) database_url: &'a str,
    pub(crate) modules: Modules,
}

/// What a gateway's modules directory holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modules {
    /// Nothing: every event is accepted as it is.
    None,
    /// One module, for all event types.
    ForAll,
    /// So many modules, each for one event type and each with bytes of its own; and one for the type of a source of one.
    Each(usize),
}

/// The folders of all programs of a run.
pub(crate) struct Workshop {
    pub(crate) folder: PathBuf,
    eye: PathBuf,
    pageview: Vec<u8>,
}

impl Workshop {
    /// Finds the built programs: the gateway beside this one, and the validator where `make modules` installs it.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let module = root.join("target/modules").join(CATEGORY).join("pageview.wasm");
        let pageview = std::fs::read(&module).with_context(|| format!("{}: run `make modules`", module.display()))?;
        Ok(Self { folder: folder.to_owned(), eye: std::env::current_exe()?.with_file_name("eye"), pageview })
    }

    /// The same with another build of the gateway.
    pub(crate) fn with_program(&self, eye: &Path) -> Self {
        Self { folder: self.folder.clone(), eye: eye.to_owned(), pageview: self.pageview.clone() }
    }

    /// Runs a command of the program to its end.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.eye)
            .args(arguments)
            .arg("--data-dir")
            .arg(self.folder.join("commands"))
            .output()
            .with_context(|| format!("{}: build it in release", self.eye.display()))?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The shipped pageview validator, as version `number`: a custom section, which changes nothing but the digest.
    pub(crate) fn module(&self, number: usize) -> Vec<u8> {
        let mut bytes = self.pageview.clone();
        let note = format!("version {number:08}");
        let size = u8::try_from(note.len() + 2).unwrap_or(u8::MAX);
        // Section 0, its size, the length of its name, its name, its bytes.
        bytes.extend_from_slice(&[0, size, 1, b'v']);
        bytes.extend_from_slice(note.as_bytes());
        bytes
    }

    /// Where the module that serves all event types lies.
    pub(crate) fn module_for_all(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("modules").join(CATEGORY).join("_.wasm")
    }

    /// Starts a gateway, and waits until it is ready and its modules serve.
    pub(crate) async fn gateway(&self, setup: &Setup<'_>) -> Result<Subject> {
        let folder = self.folder.join(setup.name);
        let modules = folder.join("modules");
        std::fs::create_dir_all(modules.join(CATEGORY))?;
        let count = match setup.modules {
            Modules::None => 0,
            Modules::ForAll => {
                std::fs::write(self.module_for_all(setup.name), self.module(0))?;
                1
            }
            Modules::Each(count) => {
                let mut names: BTreeSet<String> = (0..count).map(|number| crate::events::name(number, count)).collect();
                names.insert(crate::events::name(0, 1));
                for (number, name) in names.iter().enumerate() {
                    std::fs::write(modules.join(CATEGORY).join(format!("{name}.wasm")), self.module(number))?;
                }
                names.len()
            }
        };
        let mut command = Command::new(&self.eye);
        command.args(["serve", "--no-migrate", "--listen", "127.0.0.1:0", "--database-url", setup.database_url]);
        command.arg("--modules").arg(&modules).arg("--data-dir").arg(folder.join("data"));
        // All connections of a load come from one address.
        command.env("EYE_CONNECTIONS_MAX", CONNECTIONS_MAX).env("EYE_CONNECTIONS_PER_PEER_MAX", CONNECTIONS_MAX);
        // One application sends all event types of all parts.
        command.env("EYE_EVENT_TYPES_MAX", "1000000");
        let gateway = Subject::start(command, folder.join("log")).await?;
        gateway.ready(count).await?;
        Ok(gateway)
    }
}
