//! Opens the sockets of the gateway: it takes those that the service manager passes, and binds the others. A passed socket
//! stays open while the gateway restarts, so that connections wait meanwhile and are not refused.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

use crate::server::Listener;

/// The settings with an address. Passed sockets have the same names.
const SETTINGS: [&str; 3] = ["listen", "admin_listen", "metrics_listen"];

/// The context of errors.
const PASSED: &str = "a passed socket";

/// The addresses of the settings, in the order of `SETTINGS`.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The address for senders, or for all callers.
    pub listen: SocketAddr,
    /// The address for reads and administration, if it has one of its own.
    pub admin: Option<SocketAddr>,
    /// The address for monitoring without a token.
    pub metrics: Option<SocketAddr>,
}

/// The passed sockets, with their names.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, TcpListener)>);

impl Passed {
    /// Takes the passed sockets, so that child processes do not inherit them. It changes the environment, so it must be
    /// called before the second thread starts.
    ///
    /// # Errors
    ///
    /// A socket is not a listening TCP socket.
    pub fn take(names: &[String]) -> anyhow::Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut from = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let socket =
                from.take_tcp_listener(index).ok().flatten().filter(|socket| socket_acceptconn(socket) == Ok(true));
            let socket = socket.with_context(|| {
                format!(
                    "passed socket {} with the name {name:?} is not a listening TCP socket: give its unit a ListenStream= with \
                     an address and a port",
                    index + 1
                )
            })?;
            sockets.push((name.clone(), socket));
        }
        Ok(Self(sockets))
    }

    /// Finds the setting of each socket.
    ///
    /// # Errors
    ///
    /// The setting of a socket is not known, or two sockets have the same setting.
    pub fn assign(self, addresses: Addresses) -> anyhow::Result<Assigned> {
        let address = |(_, listener): &(String, TcpListener)| listener.local_addr();
        let found = self.0.iter().map(address).collect::<Result<Vec<_>, _>>().context(PASSED)?;
        let names = self.0.iter().map(|(name, _)| name.as_str());
        let places = assign(&names.zip(found).collect::<Vec<_>>(), addresses)?;
        let mut assigned = Assigned::default();
        for ((_, socket), place) in self.0.into_iter().zip(places) {
            assigned.0[place] = Some(socket);
        }
        Ok(assigned)
    }
}

/// The passed sockets by their setting, in the order of `SETTINGS`.
#[derive(Debug, Default)]
pub struct Assigned([Option<TcpListener>; SETTINGS.len()]);

impl Assigned {
    fn listeners(self) -> anyhow::Result<[Option<Listener>; SETTINGS.len()]> {
        let mut listeners = [None, None, None];
        for ((socket, setting), listener) in self.0.into_iter().zip(SETTINGS).zip(&mut listeners) {
            let Some(socket) = socket else { continue };
            let socket = Listener::passed(socket).context(PASSED)?;
            tracing::info!(address = %socket.address(), setting, "listening on a passed socket");
            *listener = Some(socket);
        }
        Ok(listeners)
    }
}

/// All sockets of the gateway.
#[derive(Debug)]
pub struct Sockets {
    /// Serves senders, or all callers.
    pub listener: Listener,
    /// Serves reads and administration, if they have an address of their own.
    pub admin: Option<Listener>,
    /// Serves monitoring without a token.
    pub metrics: Option<Listener>,
    /// Whether `listener` was passed, so that its connections may wait until the gateway is ready.
    pub passed: bool,
}

impl Sockets {
    /// Takes the passed sockets and binds the other addresses.
    ///
    /// # Errors
    ///
    /// An address is in use.
    pub async fn open(addresses: Addresses, assigned: Assigned) -> anyhow::Result<Self> {
        let [listener, admin, metrics] = assigned.listeners()?;
        let is_passed = listener.is_some();
        let listener = match listener {
            Some(listener) => listener,
            None => bind(addresses.listen).await?,
        };
        let admin = match (admin, addresses.admin) {
            (None, Some(address)) => Some(bind(address).await?),
            (admin, _) => admin,
        };
        let metrics = match (metrics, addresses.metrics) {
            (None, Some(address)) => Some(bind(address).await?),
            (metrics, _) => metrics,
        };
        let admin = admin.map(|admin| admin.counted_with(&listener));
        Ok(Self { listener, admin, metrics, passed: is_passed })
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<Listener> {
    Listener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Finds the setting of each socket, as an index of [`SETTINGS`]: by its name, else by its address. A single socket without
/// either is for `listen`.
fn assign(sockets: &[(&str, SocketAddr)], addresses: Addresses) -> anyhow::Result<Vec<usize>> {
    let set = [Some(addresses.listen), addresses.admin, addresses.metrics];
    let mut taken = [None; SETTINGS.len()];
    let mut places = Vec::with_capacity(sockets.len());
    for (name, address) in sockets {
        let by_name = SETTINGS.iter().position(|setting| setting == name);
        let by_address = || set.iter().position(|set| *set == Some(*address));
        let place = match by_name.or_else(by_address) {
            Some(place) => place,
            None if sockets.len() == 1 => 0,
            None => anyhow::bail!(
                "the setting of the passed socket {address} with the name {name:?} is not known: name it listen, admin_listen \
                 or metrics_listen (FileDescriptorName= of its unit), or set one of these to its address"
            ),
        };
        if let Some(other) = taken[place].replace(address) {
            anyhow::bail!(
                "two sockets were passed for {}, {other} and {address}: pass one (an IPv6 address accepts IPv4 too)",
                SETTINGS[place]
            );
        }
        places.push(place);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(sockets: &[(&str, &str)]) -> Result<Vec<usize>, String> {
        let address = |text: &str| text.parse().expect("an address");
        let addresses =
            Addresses { listen: address("127.0.0.1:8000"), admin: Some(address("127.0.0.1:8001")), metrics: None };
        let sockets: Vec<_> = sockets.iter().map(|(name, at)| (*name, address(at))).collect();
        assign(&sockets, addresses).map_err(|error| error.to_string())
    }

    #[test]
    fn a_socket_has_the_setting_of_its_name_or_address_and_a_single_one_is_for_listen() {
        assert_eq!(assigned(&[]), Ok(vec![]));
        assert_eq!(assigned(&[("eye.socket", "0.0.0.0:80")]), Ok(vec![0]));
        assert_eq!(assigned(&[("metrics_listen", "0.0.0.0:80")]), Ok(vec![2]));
        assert_eq!(assigned(&[("admin_listen", "127.0.0.1:8000"), ("listen", "127.0.0.1:8001")]), Ok(vec![1, 0]));
        assert_eq!(assigned(&[("eye.socket", "127.0.0.1:8001"), ("", "127.0.0.1:8000")]), Ok(vec![1, 0]));
        let unknown = assigned(&[("listen", "0.0.0.0:80"), ("eye.socket", "0.0.0.0:81")]).expect_err("unknown");
        assert!(unknown.contains("0.0.0.0:81") && unknown.contains("FileDescriptorName="), "{unknown}");
        let twice = assigned(&[("listen", "0.0.0.0:80"), ("listen", "[::1]:80")]).expect_err("two");
        assert!(twice.contains("0.0.0.0:80 and [::1]:80"), "{twice}");
    }
}
