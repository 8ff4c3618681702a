//! The programs `pg_dump` and `pg_restore`, which copy a whole database into a file and back. A program must be as new as
//! the server, and `pg_restore` as new as the `pg_dump` that wrote the file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::programs::{TOOL_TIME_MAX, as_user, folders, parse_version, run};
use super::{Error, Options};

/// Longest time for one run. It only keeps a run that hangs from staying for ever.
const RUN_TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// One program of Postgres that talks to a server.
#[derive(Debug, Clone)]
pub struct Tool {
    program: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl Tool {
    /// Finds `name` in versions that are as new as the server. The version of the server comes first, then newer ones,
    /// the oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::NoTool`]: none is installed.
    pub async fn find(options: &Options, name: &'static str, server: u32) -> Result<Vec<Tool>, Error> {
        let mut tools: Vec<Tool> = Vec::new();
        let mut older = Vec::new();
        for folder in folders(options.bin_dir.as_deref(), options.search_path.as_deref(), Path::new("/")) {
            let program = folder.join(name);
            let Some(major) = version(&program).await else { continue };
            match tools.iter().any(|tool| tool.major == major) {
                _ if major < server => older.push(major),
                // The wrapper that Debian has in the path chooses among versions by itself, and the server's folder has
                // the program proper.
                true if folder.join("postgres").is_file() => {
                    tools.retain(|tool| tool.major != major);
                    tools.push(Tool { program, major });
                }
                true => {}
                false => tools.push(Tool { program, major }),
            }
        }
        tools.sort_by_key(|tool| tool.major);
        if tools.is_empty() {
            older.sort_unstable();
            older.dedup();
            let found = match &older[..] {
                [] => "none was found".to_owned(),
                older => format!("found: {}", older.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
            };
            return Err(Error::NoTool { name, server, found });
        }
        Ok(tools)
    }

    /// Runs the program with these arguments, on the database of these variables. Returns its last lines.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] with the last lines, or [`Error::Io`].
    pub async fn run(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        database: &[(&'static str, OsString)],
    ) -> Result<String, Error> {
        let mut command = self.command();
        command.args(arguments).envs(database.iter().cloned());
        run(command, RUN_TIME_MAX).await
    }

    /// Reads the list of contents of a file into memory.
    ///
    /// # Errors
    ///
    /// The error of the program, as text: this version cannot read the file.
    pub async fn list(&self, file: &Path) -> Result<String, String> {
        let mut command = self.command();
        command.arg("--list").arg(file).kill_on_drop(true);
        let output = tokio::time::timeout(RUN_TIME_MAX, command.output()).await;
        let output = output.map_err(|_| "it hangs".to_owned())?.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn command(&self) -> Command {
        as_user(&self.program, Path::new("/"), None)
    }
}

/// The major version of a program, if it is one of Postgres.
async fn version(program: &Path) -> Option<u32> {
    if !program.is_file() {
        return None;
    }
    let mut command = as_user(program, Path::new("/"), None);
    command.arg("--version");
    parse_version(&run(command, TOOL_TIME_MAX).await.ok()?)
}
