//! The running server. The supervisor starts it again when it dies, and stops it with growing force.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::output::Output;
use super::programs::{User, describe};

/// The time for a fast shutdown, which writes all dirty pages, before an immediate one.
pub(super) const FAST_STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// The same if the gateway ends at once. The immediate shutdown after it loses no commit; the next start replays the log.
pub(super) const HURRIED_STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// The time for an immediate shutdown before the server is killed.
pub(super) const IMMEDIATE_STOP_TIME_MAX: Duration = Duration::from_secs(6);

/// The first and the longest pause before a restart. The pause doubles while the server keeps dying. The longest is
/// short, so that a server without disk space is back soon after there is some.
pub(super) const RESTART_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// After this run time a server counts as healthy, and a restart needs no pause.
pub(super) const WELL_AFTER: Duration = Duration::from_secs(60);

/// The server's process. A drop while it runs sends the signal for a fast stop, so that no error of the gateway leaves
/// a server behind.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) child: Child,
    pub(super) output: Output,
    pub(super) started: Instant,
    pub(super) pg_ctl: PathBuf,
    pub(super) user: Option<User>,
}

impl Server {
    /// Stops the server fast, then immediately, then by a kill, each within a time limit. `at_once` shortens the first.
    pub(super) async fn stop(mut self, cluster: &Cluster, at_once: &CancellationToken) {
        for (signal, time_max) in [("INT", FAST_STOP_TIME_MAX), ("QUIT", IMMEDIATE_STOP_TIME_MAX)] {
            let Some(process) = self.child.id() else {
                return;
            };
            cluster.signal(signal, process).await;
            let hurried = async {
                at_once.cancelled().await;
                sleep(HURRIED_STOP_TIME_MAX).await;
            };
            tokio::select! {
                _ = self.child.wait() => return,
                () = hurried, if signal == "INT" => {}
                () = sleep(time_max) => {}
            }
            tracing::warn!(signal, "Postgres did not stop in time");
        }
        // On an error it has just ended.
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
        // This takes a few milliseconds. If it fails, the next start takes the server over.
        let _ = command.status();
    }
}

/// Keeps the server running until `stop`.
pub(super) async fn supervise(
    cluster: Cluster,
    mut server: Server,
    started: watch::Sender<u64>,
    mut stop: oneshot::Receiver<()>,
    at_once: CancellationToken,
) {
    let mut delay = Duration::ZERO;
    loop {
        let status = tokio::select! {
            // The owner sent the stop, or was dropped.
            _ = &mut stop => return server.stop(&cluster, &at_once).await,
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
        // Most of the processes that share the dead server's memory notice its death and end.
        server.output.end().await;
        let restarted = tokio::select! {
            _ = &mut stop => None,
            server = restart(&cluster, &mut delay) => Some(server),
        };
        let Some(restarted) = restarted else {
            // The drop has sent the signal to a server that was just started.
            cluster.family_gone(IMMEDIATE_STOP_TIME_MAX).await;
            return;
        };
        server = restarted;
        started.send_modify(|starts| *starts += 1);
        let ready = tokio::select! {
            _ = &mut stop => return server.stop(&cluster, &at_once).await,
            ready = cluster.ready(&mut server) => ready,
        };
        // The next turn of the loop logs a server that has ended. One that still starts gets more time.
        if let (Err(error), Some(_)) = (ready, server.child.id()) {
            tracing::error!(%error, "Postgres did not come back yet");
        }
    }
}

/// Starts the server's process again after the pause, which grows with each call.
pub(super) async fn restart(cluster: &Cluster, delay: &mut Duration) -> Server {
    loop {
        sleep(*delay).await;
        *delay = (*delay * 2).clamp(RESTART_DELAYS.0, RESTART_DELAYS.1);
        match cluster.spawn().await {
            Ok(server) => return server,
            Err(error) => tracing::error!(%error, "Postgres cannot be started again yet"),
        }
    }
}
