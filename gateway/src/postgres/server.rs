//! The running server: watched, started again when it dies, and stopped by steps of growing force.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::output::Output;
use super::programs::{User, describe};

/// How long a fast shutdown may take, which ends with writing all dirty pages, before an immediate one.
pub(super) const FAST_STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// How long an immediate shutdown may take before the server is killed.
pub(super) const IMMEDIATE_STOP_TIME_MAX: Duration = Duration::from_secs(6);

/// Restarts wait from the first to the second of these, doubling, while the server keeps dying. A server that cannot
/// start for want of disk space must be back soon after there is room, so the second is short.
pub(super) const RESTART_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A server that ran for this long was well: its death is answered by an immediate restart.
pub(super) const WELL_AFTER: Duration = Duration::from_secs(60);

/// The server's process. Dropped while it runs, it is told to stop fast: an error on the gateway's way up or down must
/// not leave a server behind.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) child: Child,
    pub(super) output: Output,
    pub(super) started: Instant,
    pub(super) pg_ctl: PathBuf,
    pub(super) user: Option<User>,
}

impl Server {
    /// Fast, then immediate, then by force; each with a bound.
    pub(super) async fn stop(mut self, cluster: &Cluster) {
        for (signal, time_max) in [("INT", FAST_STOP_TIME_MAX), ("QUIT", IMMEDIATE_STOP_TIME_MAX)] {
            let Some(process) = self.child.id() else {
                return;
            };
            cluster.signal(signal, process).await;
            if timeout(time_max, self.child.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(signal, seconds = time_max.as_secs(), "Postgres did not stop in time");
        }
        // An error means that it has just ended.
        let _ = self.child.start_kill();
        let _ = timeout(IMMEDIATE_STOP_TIME_MAX, self.child.wait()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(process) = self.child.id() else {
            return;
        };
        let mut command = std::process::Command::new(&self.pg_ctl);
        command.args(["kill", "INT", &process.to_string()]).current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        // Takes a few milliseconds. If it fails, the next start takes the server up.
        let _ = command.status();
    }
}

/// Keeps the server running until told to stop.
pub(super) async fn supervise(cluster: Cluster, mut server: Server, mut stop: oneshot::Receiver<()>) {
    let mut delay = Duration::ZERO;
    loop {
        let status = tokio::select! {
            // Either told, or the handle was dropped.
            _ = &mut stop => return server.stop(&cluster).await,
            status = server.child.wait() => status,
        };
        if server.started.elapsed() > WELL_AFTER {
            delay = Duration::ZERO;
        }
        tracing::error!(
            ending = describe(status),
            restart_in_milliseconds = delay.as_millis(),
            output = server.output.tail(),
            "Postgres ended by itself and is started again"
        );
        // Most of the processes that share the dead server's memory notice and end by themselves.
        server.output.end().await;
        server = tokio::select! {
            _ = &mut stop => return,
            server = restart(&cluster, &mut delay) => server,
        };
        let ready = tokio::select! {
            _ = &mut stop => return server.stop(&cluster).await,
            ready = cluster.ready(&mut server) => ready,
        };
        // One that has ended is told of above; one that still tries is given more time.
        if let (Err(error), Some(_)) = (ready, server.child.id()) {
            tracing::error!(%error, "Postgres did not come back yet");
        }
    }
}

/// Starts the server's process again, after the delay, which grows with each call.
pub(super) async fn restart(cluster: &Cluster, delay: &mut Duration) -> Server {
    loop {
        tokio::time::sleep(*delay).await;
        *delay = (*delay * 2).clamp(RESTART_DELAYS.0, RESTART_DELAYS.1);
        match cluster.spawn().await {
            Ok(server) => return server,
            Err(error) => tracing::error!(%error, "Postgres cannot be started again yet"),
        }
    }
}
