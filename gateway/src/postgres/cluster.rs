//! One cluster in the data dir. It creates it as a whole or not at all, starts it with durable settings, and first ends
//! the processes that an earlier gateway left.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::output::{Log, Output};
use super::programs::{Programs, TOOL_TIME_MAX, User, as_user, describe, run};
use super::server::{RESTART_DELAYS, Server};
use super::settings::{SETTINGS, memory_bytes, sized};
use super::{Error, NAME, PORT, cluster_name, io_error, make_private};
use crate::shutdown::Shutdown;

/// The time for `initdb`. It takes about a second, but its final sync takes much longer on a slow disk.
pub(super) const CREATE_TIME_MAX: Duration = Duration::from_secs(120);

/// The time for a start: the replay of `max_wal_size` after a crash and the checkpoint after it, also on a slow disk. A
/// start that is given up begins anew, so the time must not be too short.
pub(super) const START_TIME_MAX: Duration = Duration::from_secs(600);

/// The time for the server of an earlier gateway to stop fast. A restarted gateway waits for it.
pub(super) const ORPHAN_STOP_SECONDS_MAX: u32 = 5;

/// The time for processes to end after a signal.
pub(super) const QUIT_TIME_MAX: Duration = Duration::from_secs(3);

/// What Postgres prints while processes of a killed server still hold its memory. The start is retried for the time
/// below.
pub(super) const MEMORY_HELD: &str = "pre-existing shared memory block";

pub(super) const MEMORY_HELD_TIME_MAX: Duration = Duration::from_secs(20);

/// One cluster, with all that a start needs.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) programs: Programs,
    pub(super) user: Option<User>,
    pub(super) data_dir: PathBuf,
    pub(super) cluster_dir: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) connections_max: u32,
}

impl Cluster {
    pub(super) fn command(&self, program: &str, directory: &Path) -> Command {
        as_user(&self.programs.folder.join(program), directory, self.user.as_ref())
    }

    /// Creates the cluster with its database under another name, and renames it when it is complete and on disk. A kill
    /// in between leaves a directory that the next start removes.
    pub(super) async fn create(&self) -> Result<(), Error> {
        let started = Instant::now();
        let prefix = "postgres.new-";
        for entry in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                // A directory that cannot be removed does no harm, since the new one has another name.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        // The process id in the name keeps an `initdb` that outlived its gateway from writing into this directory.
        let unfinished = self.data_dir.join(format!("{prefix}{}", std::process::id()));
        make_private(&unfinished, self.user.as_ref())?;
        self.prove_reachable(&unfinished).await?;

        // Texts are compared by bytes (C), which is fastest and independent of the system's libraries. Unicode
        // (C.UTF-8) decides which characters are letters, if the system has it.
        if self.initdb(&unfinished, "C.UTF-8").await.is_err() {
            self.initdb(&unfinished, "C").await?;
        }
        self.create_database(&unfinished).await?;
        fs::rename(&unfinished, &self.cluster_dir).map_err(io_error("rename", &unfinished))?;
        File::open(&self.data_dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &self.data_dir))?;
        tracing::info!(
            directory = %self.cluster_dir.display(), version = self.programs.major,
            milliseconds = started.elapsed().as_millis(), "created a Postgres cluster"
        );
        Ok(())
    }

    /// Local connections need no password, since only this user can enter the directory of the socket, and there are no
    /// other connections. Checksums detect a faulty disk.
    pub(super) async fn initdb(&self, directory: &Path, character_type: &str) -> Result<(), Error> {
        let mut command = self.command("initdb", directory);
        command.arg("--pgdata").arg(directory).args([
            "--username",
            NAME,
            "--encoding=UTF8",
            "--locale=C",
            &format!("--lc-ctype={character_type}"),
            "--auth-local=trust",
            "--auth-host=reject",
            "--data-checksums",
            "--no-instructions",
        ]);
        run(command, CREATE_TIME_MAX).await.map(drop)
    }

    /// Runs the server in single-user mode, which needs neither a socket nor a client program, and syncs at its end.
    pub(super) async fn create_database(&self, directory: &Path) -> Result<(), Error> {
        let path = self.data_dir.join("create.sql");
        fs::write(&path, format!("create database {NAME}\n")).map_err(io_error("write", &path))?;
        let input = File::open(&path).map_err(io_error("open", &path))?;
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        let mut command = self.command("postgres", directory);
        command.args(["--single", "-j", "-c", "exit_on_error=on", "-D"]).arg(directory).arg("postgres").stdin(input);
        run(command, CREATE_TIME_MAX).await.map(drop)
    }

    /// Checks that the user of Postgres can enter a directory, by trying it: the rights on its path are of many kinds.
    pub(super) async fn prove_reachable(&self, directory: &Path) -> Result<(), Error> {
        let mut command = self.command("postgres", directory);
        command.arg("--version");
        match (run(command, TOOL_TIME_MAX).await, &self.user) {
            (Err(Error::Io { source, .. }), Some(user)) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::OutOfReach {
                    user: user.name.clone(),
                    path: directory.to_owned(),
                    closed: first_closed(directory).to_owned(),
                })
            }
            (outcome, _) => outcome.map(drop),
        }
    }

    /// Starts the server and waits until it is ready. After a kill the old processes may still hold their memory;
    /// Postgres then refuses to start, and is started again. If `shutdown` drains first, it stops the server again and
    /// returns `None`.
    pub(super) async fn launch(&self, shutdown: &Shutdown) -> Result<Option<Server>, Error> {
        let begin = Instant::now();
        loop {
            // A stop waits for this: it ends the server of an earlier gateway.
            let mut server = self.spawn().await?;
            let ready = shutdown.drain.run_until_cancelled(self.ready(&mut server)).await;
            let error = match ready {
                Some(Ok(())) => return Ok(Some(server)),
                Some(Err(error)) => error,
                None => {
                    server.stop(self, &shutdown.at_once).await;
                    return Ok(None);
                }
            };
            server.stop(self, &shutdown.at_once).await;
            let held = matches!(&error, Error::NotReady { output, .. } if output.contains(MEMORY_HELD));
            if !held || begin.elapsed() > MEMORY_HELD_TIME_MAX {
                return Err(error);
            }
            tokio::time::sleep(RESTART_DELAYS.0).await;
        }
    }

    /// Starts the server's process after the processes of an earlier one have ended.
    pub(super) async fn spawn(&self) -> Result<Server, Error> {
        self.clear_the_way().await;
        let program = self.programs.folder.join("postgres");
        let (writer, output) = Output::collect(Some(self.log.clone())).map_err(io_error("watch", &program))?;
        let stderr = writer.try_clone().map_err(io_error("watch", &program))?;
        let mut command = self.command("postgres", &self.cluster_dir);
        command.arg("-D").arg(&self.cluster_dir).stdout(writer).stderr(stderr);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(sized(memory_bytes()).iter().flat_map(|setting| ["-c", setting]));
        command.args(["-c", &format!("port={PORT}")]);
        command.args(["-c", &format!("max_connections={}", self.connections_max)]);
        command.args(["-c", &format!("cluster_name={}", cluster_name(&self.data_dir))]);
        let mut socket = OsString::from("unix_socket_directories=");
        socket.push(&self.socket_dir);
        command.arg("-c").arg(socket);
        let child = command.spawn().map_err(io_error("run", &program))?;
        let pg_ctl = self.programs.folder.join("pg_ctl");
        Ok(Server { child, output, started: Instant::now(), pg_ctl, user: self.user.clone() })
    }

    /// Waits until the server accepts connections.
    pub(super) async fn ready(&self, server: &mut Server) -> Result<(), Error> {
        let ending = tokio::select! {
            biased;
            Ok(()) = &mut server.output.ready => {
                tracing::info!(
                    version = self.programs.major, process = server.child.id(), directory = %self.cluster_dir.display(),
                    milliseconds = server.started.elapsed().as_millis(), "Postgres accepts connections"
                );
                return Ok(());
            }
            status = server.child.wait() => describe(status),
            () = tokio::time::sleep(START_TIME_MAX) => {
                format!("it was not ready after {} s", START_TIME_MAX.as_secs())
            }
        };
        let log = self.data_dir.join("postgres.log");
        Err(Error::NotReady { ending, log, output: server.output.rest().await })
    }

    /// Ends the processes that an earlier gateway or server left, so that the next server is the only one. A stop and a
    /// start take less than a second, and make the new server a child of this process, which learns of its end.
    pub(super) async fn clear_the_way(&self) {
        let family = self.family();
        if let Some(postmaster) = family.postmaster {
            tracing::warn!(process = postmaster, "a Postgres that an earlier gateway left is stopped first");
            for mode in ["fast", "immediate"] {
                let mut command = self.command("pg_ctl", &self.cluster_dir);
                command.args(["stop", "--silent", "--mode", mode, "--timeout", &ORPHAN_STOP_SECONDS_MAX.to_string()]);
                command.arg("-D").arg(&self.cluster_dir);
                let time_max = TOOL_TIME_MAX + Duration::from_secs(ORPHAN_STOP_SECONDS_MAX.into());
                match run(command, time_max).await {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(%error, mode, "the left Postgres did not stop"),
                }
            }
        }
        for signal in ["QUIT", "KILL"] {
            let family = self.family();
            for process in family.postmaster.iter().chain(&family.children) {
                self.signal(signal, *process).await;
            }
            if self.family_gone(QUIT_TIME_MAX).await {
                break;
            }
        }
        self.remove_stale_files();
    }

    /// Sends a signal through `pg_ctl` as the user of Postgres, which can reach only that user's processes.
    pub(super) async fn signal(&self, signal: &str, process: u32) {
        let mut command = self.command("pg_ctl", Path::new("/"));
        command.args(["kill", signal, &process.to_string()]);
        // On an error the process has ended, or the wait for its end will fail.
        let _ = run(command, TOOL_TIME_MAX).await;
    }

    /// Waits for the end of the cluster's processes. They are not children of this process, so it polls.
    pub(super) async fn family_gone(&self, time_max: Duration) -> bool {
        let started = Instant::now();
        while !self.family().is_empty() {
            if started.elapsed() > time_max {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// The running processes of this cluster, found by their command lines, which every user may read.
    pub(super) fn family(&self) -> Family {
        let name = cluster_name(&self.data_dir);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let process: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((process, fs::read(entry.path().join("cmdline")).ok()?))
        });
        let mut family = Family::default();
        for (process, command_line) in processes {
            match kin(&command_line, &self.cluster_dir, &name) {
                Some(Kin::Postmaster) => family.postmaster = Some(process),
                Some(Kin::Child) => family.children.push(process),
                None => {}
            }
        }
        if !Path::new("/proc/self").exists() {
            // A system without /proc has only the file that Postgres writes.
            family.postmaster = self.noted_process();
        }
        family
    }

    /// The process in `postmaster.pid`.
    pub(super) fn noted_process(&self) -> Option<u32> {
        let text = fs::read_to_string(self.cluster_dir.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Removes files that would block the start. Postgres ignores a `postmaster.pid` whose process has ended. But after
    /// a crash of the machine another process may have that number, and Postgres would take it for a running server. No
    /// process of this cluster runs here, and the key of the shared memory guards against a mistake.
    pub(super) fn remove_stale_files(&self) {
        let noted = self.noted_process();
        if self.family().is_empty() && noted.is_some_and(|id| Path::new("/proc").join(id.to_string()).exists()) {
            tracing::warn!("removing a postmaster.pid that names a process of another program");
            let _ = fs::remove_file(self.cluster_dir.join("postmaster.pid"));
        }
        for suffix in ["", ".lock"] {
            let _ = fs::remove_file(self.socket_dir.join(format!(".s.PGSQL.{PORT}{suffix}")));
        }
    }
}

/// The first directory of the path that only its owner may enter.
pub(super) fn first_closed(directory: &Path) -> &Path {
    let closed = |path: &&Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 == 0);
    let mut way: Vec<&Path> = directory.ancestors().skip(1).collect();
    way.reverse();
    way.into_iter().find(closed).unwrap_or(directory)
}

/// The processes of one cluster.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) postmaster: Option<u32>,
    pub(super) children: Vec<u32>,
}

impl Family {
    pub(super) fn is_empty(&self) -> bool {
        self.postmaster.is_none() && self.children.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kin {
    Postmaster,
    Child,
}

/// The role of a process in the cluster. The postmaster keeps its arguments; its children replace theirs by a title
/// such as `postgres: eye-0123456789abcdef: checkpointer`.
pub(super) fn kin(command_line: &[u8], cluster_dir: &Path, cluster_name: &str) -> Option<Kin> {
    let title = format!("postgres: {cluster_name}: ");
    if command_line.starts_with(title.as_bytes()) {
        return Some(Kin::Child);
    }
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next()?;
    let data = cluster_dir.as_os_str().as_encoded_bytes();
    let starts = arguments.next() == Some(b"-D") && arguments.next() == Some(data);
    (starts && program.ends_with(b"/postgres")).then_some(Kin::Postmaster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kin_are_known_by_their_command_lines() {
        let kin = |command_line: &str| kin(command_line.as_bytes(), Path::new("/d/postgres"), "eye-1");
        assert_eq!(kin("/usr/lib/postgresql/15/bin/postgres\0-D\0/d/postgres\0-c\0fsync=on\0"), Some(Kin::Postmaster));
        assert_eq!(kin("postgres: eye-1: checkpointer \0"), Some(Kin::Child));
        assert_eq!(kin("postgres: eye-12: checkpointer \0"), None);
        assert_eq!(kin("/usr/lib/postgresql/15/bin/postgres\0-D\0/d/postgres2\0"), None);
        assert_eq!(kin("vi\0-D\0/d/postgres\0"), None);
        assert_eq!(kin(""), None);
    }
}
