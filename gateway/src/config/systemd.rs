//! Reads the variables of the service manager (systemd): its socket for messages, the time between two signs of life, and the
//! names of the sockets that it passes.

use std::ffi::OsString;
use std::time::Duration;

/// The variables of the service manager for this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEnvironment {
    /// `NOTIFY_SOCKET`: the socket that takes messages.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: the longest time between two signs of life.
    pub watchdog: Option<Duration>,
    /// The names of the passed sockets (`LISTEN_FDS`, `LISTEN_FDNAMES`), one for each.
    pub sockets: Vec<String>,
}

/// Most passed sockets. There is use for one of each setting; the start fails with more.
const SOCKETS_MAX: usize = 64;

/// Reads the variables. Those for another process, which may have started this one, are ignored.
pub fn service() -> ServiceEnvironment {
    of(|name| std::env::var_os(name), std::process::id())
}

fn of(variable: impl Fn(&str) -> Option<OsString>, process: u32) -> ServiceEnvironment {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    let text = |name| given(name).and_then(|value| value.into_string().ok());
    let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
    let of_others = |name| given(name).is_some() && number(name) != Some(process.into());
    let watchdog =
        number("WATCHDOG_USEC").filter(|_| !of_others("WATCHDOG_PID")).filter(|microseconds| *microseconds > 0);
    // Without a process id they may be for a program that started this one.
    let count = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(process.into())).unwrap_or_default();
    let count = usize::try_from(count).unwrap_or(SOCKETS_MAX).min(SOCKETS_MAX);
    let names = text("LISTEN_FDNAMES").unwrap_or_default();
    ServiceEnvironment {
        notify_socket: given("NOTIFY_SOCKET"),
        watchdog: watchdog.map(Duration::from_micros),
        sockets: names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new())).take(count).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> ServiceEnvironment {
        of(|name| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into()), 7)
    }

    #[test]
    fn variables_for_another_process_are_ignored() {
        assert_eq!(read(&[]), ServiceEnvironment::default());
        let all = [("NOTIFY_SOCKET", "@eye"), ("WATCHDOG_USEC", "3000000"), ("LISTEN_FDS", "2")];
        let own = read(
            &[&all[..], &[("WATCHDOG_PID", "7"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "listen:admin_listen")]]
                .concat(),
        );
        assert_eq!((own.notify_socket, own.watchdog), (Some("@eye".into()), Some(Duration::from_secs(3))));
        assert_eq!(own.sockets, ["listen", "admin_listen"]);
        let others = read(&[&all[..], &[("WATCHDOG_PID", "8"), ("LISTEN_PID", "8")]].concat());
        assert_eq!((others.watchdog, others.sockets.len()), (None, 0));
        assert_eq!(read(&all).watchdog, Some(Duration::from_secs(3)), "WATCHDOG_PID may be absent");
        assert!(read(&all).sockets.is_empty(), "LISTEN_PID may not");
        let unnamed = read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "listen")]);
        assert_eq!(unnamed.sockets, ["listen", ""]);
        assert!(read(&[("LISTEN_FDS", "-1"), ("LISTEN_PID", "7"), ("WATCHDOG_USEC", "0")]).sockets.is_empty());
    }
}
