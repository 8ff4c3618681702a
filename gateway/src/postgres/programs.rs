//! The installed programs of Postgres, and the user that runs them. It finds them in a fixed order of folders, runs
//! each within a time limit, and reports the last lines of one that fails.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::output::Output;
use super::{Error, Options, io_error};

/// The oldest usable major version: `initdb` and the gateway's SQL need it.
pub(super) const VERSION_MIN: u32 = 14;

/// The time for a program that only prints or sends a signal.
pub(super) const TOOL_TIME_MAX: Duration = Duration::from_secs(10);

/// The folders in which installers put server programs: the parent folder, the prefix of the version, and the rest.
pub(super) const SYSTEM_FOLDERS: &[(&str, &str, &str)] = &[
    ("usr/lib/postgresql", "", "bin"),
    ("usr", "pgsql-", "bin"),
    ("usr/libexec", "postgresql", ""),
    ("usr/lib", "postgresql", "bin"),
    ("opt/homebrew/opt", "postgresql@", "bin"),
    ("usr/local/opt", "postgresql@", "bin"),
    ("Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The folders that have no version in their paths.
pub(super) const PLAIN_FOLDERS: &[&str] = &["usr/local/pgsql/bin", "opt/homebrew/bin", "usr/local/bin", "usr/bin"];

/// The unprivileged user that runs Postgres if the gateway runs as root.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// Chooses the user: the gateway's own (`None`) unless that is root; then the owner of the cluster, then
    /// `postgres`, then `nobody`.
    pub(super) async fn choose(root: bool, cluster_dir: &Path) -> Result<Option<User>, Error> {
        let owner = fs::metadata(cluster_dir).ok().map(|found| (found.uid(), found.gid()));
        if !root {
            return match (owner, id(&["-u"]).await) {
                (Some((owner, _)), Some(own)) if owner != own => {
                    Err(Error::NotOurs { path: cluster_dir.to_owned(), owner })
                }
                _ => Ok(None),
            };
        }
        if let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != 0) {
            return Ok(Some(User { name: uid.to_string(), uid, gid }));
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id(&["-u", name]).await, id(&["-g", name]).await)
                && uid != 0
            {
                return Ok(Some(User { name: name.to_owned(), uid, gid }));
            }
        }
        Err(Error::NoUser)
    }
}

/// Asks the program `id`, which every Unix has and which knows every source of users.
pub(super) async fn id(arguments: &[&str]) -> Option<u32> {
    let mut command = Command::new("id");
    command.args(arguments);
    run(command, TOOL_TIME_MAX).await.ok()?.trim().parse().ok()
}

/// The folder and the major version of one installation.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    /// Finds the programs that fit the cluster, or any for a new one.
    pub(super) async fn find(options: &Options, cluster_dir: &Path, user: Option<&User>) -> Result<Programs, Error> {
        let there = cluster_dir.try_exists().map_err(io_error("look for", cluster_dir))?;
        let needed = if there { Some(cluster_version(cluster_dir)?) } else { None };
        if let Some(folder) = &options.bin_dir {
            folder.join("postgres").try_exists().map_err(io_error("look into", folder))?;
        }
        let folders = folders(options.bin_dir.as_deref(), options.search_path.as_deref(), Path::new("/"));
        let mut found = Vec::new();
        for folder in folders {
            let named = options.bin_dir.as_ref() == Some(&folder);
            let programs = Programs::prove(folder, user).await;
            match (programs, needed) {
                (Some(programs), None) => return Ok(programs),
                (Some(programs), Some(needed)) if programs.major == needed => return Ok(programs),
                (Some(programs), Some(_)) => found.push(programs.major),
                // A new cluster must not be made by another version than the one in the folder that the operator named.
                (None, None) if named => break,
                (None, _) => {}
            }
        }
        found.sort_unstable();
        found.dedup();
        let found: Vec<String> = found.iter().map(u32::to_string).collect();
        match (needed, &options.bin_dir) {
            (Some(needed), _) if !found.is_empty() => {
                Err(Error::OtherVersion { cluster: cluster_dir.to_owned(), needed, found: found.join(" and ") })
            }
            (_, Some(folder)) => Err(Error::NotInFolder(folder.clone())),
            (_, None) => Err(Error::NotFound),
        }
    }

    /// Asks the server in this folder for its version, as the user that will run it. The check fails if that user may
    /// not.
    pub(super) async fn prove(folder: PathBuf, user: Option<&User>) -> Option<Programs> {
        if !["postgres", "initdb", "pg_ctl"].iter().all(|name| folder.join(name).is_file()) {
            return None;
        }
        let mut command = as_user(&folder.join("postgres"), Path::new("/"), user);
        command.arg("--version");
        let major = parse_version(&run(command, TOOL_TIME_MAX).await.ok()?)?;
        (major >= VERSION_MIN).then_some(Programs { folder, major })
    }
}

/// The major version in the output of `postgres --version`, such as `postgres (PostgreSQL) 15.13 (Debian 15.13-0)`.
pub(super) fn parse_version(output: &str) -> Option<u32> {
    let (_, version) = output.split_once("(PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// The major version of a cluster.
pub(super) fn cluster_version(cluster_dir: &Path) -> Result<u32, Error> {
    let file = cluster_dir.join("PG_VERSION");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        // An unreadable file may still belong to a cluster.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(io_error("read", &file)(error)),
        Err(_) => return Err(Error::NotACluster(cluster_dir.to_owned())),
    };
    text.trim().parse().map_err(|_| Error::NotACluster(cluster_dir.to_owned()))
}

/// The folders in the order of the search: the named one, the search path, then the system's, newest first.
pub(super) fn folders(bin_dir: Option<&Path>, search_path: Option<&OsStr>, root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = bin_dir.map(Path::to_owned).into_iter().collect();
    let searched = search_path.map(std::env::split_paths);
    folders.extend(searched.into_iter().flatten().filter(|folder| folder.is_absolute()));
    let mut versioned: Vec<(u32, PathBuf)> = SYSTEM_FOLDERS
        .iter()
        .flat_map(|(parent, prefix, suffix)| {
            let entries = fs::read_dir(root.join(parent)).into_iter().flatten().flatten();
            entries.filter_map(move |entry| {
                let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((version, entry.path().join(suffix)))
            })
        })
        .collect();
    versioned.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    folders.extend(versioned.into_iter().map(|(_, folder)| folder));
    folders.extend(PLAIN_FOLDERS.iter().map(|folder| root.join(folder)));
    folders
}

/// A program of Postgres. It has a process group of its own, so that Ctrl-C in a terminal reaches only the gateway, and
/// no environment of the gateway, which may hold secrets. As root, std also drops the supplementary groups.
pub(super) fn as_user(program: &Path, directory: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).process_group(0).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Runs a program to its end, and returns its last lines.
pub(super) async fn run(mut command: Command, time_max: Duration) -> Result<String, Error> {
    let path = PathBuf::from(command.as_std().get_program());
    let (writer, mut output) = Output::collect(None).map_err(io_error("watch", &path))?;
    let stderr = writer.try_clone().map_err(io_error("watch", &path))?;
    command.stdout(writer).stderr(stderr).kill_on_drop(true);
    let mut child = command.spawn().map_err(io_error("run", &path))?;
    // The command holds the pipe open. Its end is awaited below.
    drop(command);
    let ending = match timeout(time_max, child.wait()).await {
        Ok(Ok(status)) if status.success() => return Ok(output.rest().await),
        Ok(status) => describe(status),
        Err(_) => format!("it took more than {} s", time_max.as_secs()),
    };
    drop(child);
    let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Err(Error::Program { program, ending, output: output.rest().await })
}

pub(super) fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_builder_prints_them() {
        let cases = [
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18.1", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres (SomethingElse) 15.1", None),
            ("", None),
        ];
        for (output, major) in cases {
            assert_eq!(parse_version(output), major, "{output}");
        }
    }

    #[test]
    fn named_folder_comes_first_then_the_path_then_the_newest() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for version in ["9", "15", "17", "not-a-version"] {
            fs::create_dir_all(root.path().join("usr/lib/postgresql").join(version)).expect("a folder");
        }
        fs::create_dir_all(root.path().join("usr/pgsql-16")).expect("a folder");
        let found = folders(Some(Path::new("/named")), Some(OsStr::new("/a:relative:/b")), root.path());
        let expected =
            ["usr/lib/postgresql/17/bin", "usr/pgsql-16/bin", "usr/lib/postgresql/15/bin", "usr/lib/postgresql/9/bin"];
        assert_eq!(found[..3], [Path::new("/named"), Path::new("/a"), Path::new("/b")]);
        assert_eq!(found[3..7], expected.map(|folder| root.path().join(folder)));
    }

    #[tokio::test]
    async fn failed_program_is_told_with_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done; exit 3"]);
        let error = run(command, TOOL_TIME_MAX).await.expect_err("it exits with 3").to_string();
        assert!(error.starts_with("sh failed (exit status: 3): line 2 | ") && error.ends_with("line 9"), "{error}");
    }
}
