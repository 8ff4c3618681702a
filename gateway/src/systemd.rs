//! Reports to the service manager that started the gateway (systemd, `Type=notify`): that it is ready, reloads or stops, its
//! status, and signs of life. Without a service manager nothing is sent.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::future::pending;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// The time for the service manager to take a message. After it the message is dropped.
const SEND_TIME: Duration = Duration::from_secs(1);
/// Signs of life in the longest time between two of them, so that one may be late or lost.
const SIGNS: u32 = 3;
/// The pause between two requests for more time to start, and the time that each requests.
const EXTENSION_PAUSE: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(30);
/// Most bytes of a status. It may quote a long message of the database.
const STATUS_BYTES_MAX: usize = 500;

/// The socket of the service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// The last status, so that each is sent once.
    status: Mutex<String>,
}

impl ServiceManager {
    /// Connects to the socket in `NOTIFY_SOCKET`. If that fails, it logs a warning and sends nothing later. Must be called
    /// within a Tokio runtime.
    pub fn at(socket: Option<&OsStr>) -> Self {
        let connected = socket.and_then(|path| match connect(path) {
            Ok(connected) => Some(connected),
            Err(error) => {
                let socket = path.to_string_lossy();
                tracing::warn!(%error, %socket, "the service manager cannot be reached (NOTIFY_SOCKET)");
                None
            }
        });
        Self { socket: connected, status: Mutex::default() }
    }

    /// Whether there is a service manager.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Reports that the gateway answers requests.
    pub async fn ready(&self) {
        self.send("READY=1").await;
    }

    /// Reports that the gateway stops, and requests `longest` as the time for that.
    pub async fn stopping(&self, longest: Duration) {
        let status = "Draining";
        self.record(status);
        self.send(&format!("STOPPING=1\n{}\nEXTEND_TIMEOUT_USEC={}", line(status), longest.as_micros())).await;
    }

    /// Reports that the gateway reads its configuration again, until [`ServiceManager::reloaded`].
    pub async fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")).await;
    }

    /// Reports the end of [`ServiceManager::reloading`].
    pub async fn reloaded(&self) {
        self.send("READY=1").await;
    }

    /// Sends the status if it has changed.
    pub async fn status(&self, status: &str) {
        if self.is_there() && self.record(status) {
            self.send(&line(status)).await;
        }
    }

    /// Requests more time while the embedded Postgres starts. It may have to recover for long, and after a kill it would begin
    /// anew.
    pub async fn starting(&self) -> Infallible {
        while self.is_there() {
            let longest = EXTENSION.as_micros();
            self.send(&format!("{}\nEXTEND_TIMEOUT_USEC={longest}", line("Starting the embedded Postgres"))).await;
            sleep(EXTENSION_PAUSE).await;
        }
        pending().await
    }

    /// Sends signs of life while the gateway works: while this task runs, and while the threads that answer requests run a
    /// task in time. `longest` is the longest time between two of them.
    pub async fn signs_of_life(&self, longest: Option<Duration>) -> Infallible {
        let (Some(longest), true) = (longest, self.is_there()) else { return pending().await };
        let every = longest / SIGNS;
        let tasks = TaskTracker::new();
        let mut task = tasks.spawn(yield_now());
        loop {
            if timeout(every, &mut task).await.is_err() {
                let milliseconds = every.as_millis();
                tracing::error!(milliseconds, "the threads that answer requests did not run a task in time");
                continue;
            }
            self.send("WATCHDOG=1").await;
            sleep(every).await;
            task = tasks.spawn(yield_now());
        }
    }

    /// Records a status. Returns whether it has changed.
    fn record(&self, status: &str) -> bool {
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *last != status;
        if is_new {
            status.clone_into(&mut last);
        }
        is_new
    }

    async fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        match timeout(SEND_TIME, socket.send(message.as_bytes())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, message, "the service manager got no message"),
            Err(_) => tracing::debug!(message, "the service manager did not take a message in time"),
        }
    }
}

/// The line of a message with a status, which must be one line.
fn line(status: &str) -> String {
    let end = status.floor_char_boundary(STATUS_BYTES_MAX);
    let words: String = status[..end].chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    format!("STATUS={words}")
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let address = match path.as_encoded_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(path)?,
        _ => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let socket = StdUnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The socket of a service manager, and its path.
    fn service_manager() -> (tempfile::TempDir, StdUnixDatagram, std::ffi::OsString) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("notify");
        let socket = StdUnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("an open socket");
        (folder, socket, path.into())
    }

    fn next(socket: &StdUnixDatagram) -> String {
        let mut bytes = [0; 2_048];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_status_is_one_line_and_is_sent_once() {
        let (_folder, socket, path) = service_manager();
        let manager = ServiceManager::at(Some(&path));
        manager.status("not ready: database\nREADY=1").await;
        manager.status("not ready: database\nREADY=1").await;
        manager.ready().await;
        manager.reloading().await;
        assert_eq!(next(&socket), "STATUS=not ready: database READY=1");
        assert_eq!(next(&socket), "READY=1");
        let reloading = next(&socket);
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload");
        assert!(at.parse::<u64>().is_ok_and(|microseconds| microseconds > 0), "{reloading}");
        let long = "ü".repeat(STATUS_BYTES_MAX);
        assert!(line(&long).len() <= STATUS_BYTES_MAX + "STATUS=".len());
    }

    #[tokio::test]
    async fn without_a_service_manager_nothing_is_sent() {
        for socket in [None, Some("vsock:2:1"), Some("/no/such/socket")] {
            let manager = ServiceManager::at(socket.map(OsStr::new));
            manager.ready().await;
            assert!(
                timeout(Duration::from_millis(20), manager.signs_of_life(Some(Duration::from_millis(3))))
                    .await
                    .is_err()
            );
        }
    }

    #[test]
    fn no_sign_of_life_comes_while_the_thread_that_answers_is_stuck() {
        const LONGEST: Duration = Duration::from_millis(60);
        let (_folder, socket, path) = service_manager();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let manager = ServiceManager::at(Some(&path));
            assert!(timeout(LONGEST, manager.signs_of_life(Some(LONGEST))).await.is_err());
            assert_eq!(next(&socket), "WATCHDOG=1");
            // The only worker of the runtime is blocked.
            let (begun, stuck) = (Instant::now(), 10 * LONGEST);
            let threads = TaskTracker::new();
            threads.spawn(async move { std::thread::sleep(stuck) });
            std::thread::sleep(LONGEST);
            socket.set_nonblocking(true).expect("an open socket");
            while socket.recv(&mut [0; 16]).is_ok() {}
            // The timers of the runtime are blocked too, so another thread checks.
            let quiet = std::thread::spawn(move || {
                std::thread::sleep(stuck / 2);
                let received = socket.recv(&mut [0; 16]).is_ok();
                (!received, begun.elapsed() < stuck)
            });
            let _over = timeout(stuck / 2, manager.signs_of_life(Some(LONGEST))).await;
            assert_eq!(quiet.join().expect("no panic"), (true, true), "no sign of life while it was stuck");
        });
        runtime.shutdown_background();
    }
}
