//! Signals of a command. The first signal drains it, and a later one ends it at once. Signals without a meaning for it
//! change nothing.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::shutdown::Shutdown;

/// The time after the first signal in which further ones change nothing. Supervisors and `timeout` send a signal twice within
/// milliseconds, to a process and to its group.
const SECOND_AFTER: Duration = Duration::from_secs(1);

/// Signals that would kill the process by default and that mean nothing to it: those for log rotation and timers, and the one
/// for a file over its size limit, which the write reports as an error too.
#[cfg(target_os = "linux")]
const HARMLESS: [Number; 9] = [
    Number::USR1,
    Number::USR2,
    Number::ALARM,
    Number::VTALARM,
    Number::PROF,
    Number::IO,
    Number::POWER,
    Number::STKFLT,
    Number::XFSZ,
];
#[cfg(not(target_os = "linux"))]
const HARMLESS: [Number; 6] = [Number::USR1, Number::USR2, Number::ALARM, Number::VTALARM, Number::PROF, Number::XFSZ];

/// Real-time signals, which would kill the process too. The C library uses the two before them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals that stop a command.
pub(super) struct Signals(Vec<Signal>);

impl Signals {
    /// SIGTERM, SIGINT and SIGQUIT. Also SIGXCPU, since the system kills the process soon after it.
    pub(super) fn of_gateway() -> io::Result<Self> {
        Self::listen(&[Number::TERM, Number::INT, Number::QUIT, Number::XCPU])
    }

    /// The same and SIGHUP, for a command that must stop when its terminal closes.
    pub(super) fn with_hangup() -> io::Result<Self> {
        Self::listen(&[Number::TERM, Number::INT, Number::QUIT, Number::XCPU, Number::HUP])
    }

    fn listen(ending: &[Number]) -> io::Result<Self> {
        let listen = |number: i32| signal(SignalKind::from_raw(number));
        for number in HARMLESS.map(Number::as_raw).into_iter().chain(REAL_TIME) {
            // The handler stays for the life of the process. Some systems do not have all of them.
            let _ = listen(number);
        }
        ending.iter().map(|number| listen(number.as_raw())).collect::<Result<_, _>>().map(Self)
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        poll_fn(|cx| {
            // Polls all, so that each can wake this task. Several at once count as one.
            let received =
                self.0.iter_mut().filter_map(|signal| matches!(signal.poll_recv(cx), Poll::Ready(_)).then_some(()));
            if received.count() > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Passes the signals on to `shutdown`.
    pub(super) async fn stop(&mut self, shutdown: &Shutdown) -> Infallible {
        self.next().await;
        shutdown.drain.cancel();
        let first = Instant::now();
        loop {
            self.next().await;
            if first.elapsed() >= SECOND_AFTER {
                break;
            }
            tracing::info!("a second signal within a second changes nothing");
        }
        tracing::warn!("a second signal: ending at once");
        shutdown.at_once.cancel();
        std::future::pending().await
    }
}
