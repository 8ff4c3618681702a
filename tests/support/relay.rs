//! A TCP relay between a primary and its standby that a test can hold and cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// How often a thread checks the state.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    held: AtomicBool,
    ended: AtomicBool,
}

/// Relays connections to a port of this machine until it is cut or dropped.
pub(crate) struct Relay {
    port: u16,
    state: Arc<State>,
}

impl Relay {
    pub(crate) fn start(target: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let (port, state) = (listener.local_addr().expect("an address").port(), Arc::<State>::default());
        let accepting = Arc::clone(&state);
        spawn(move || {
            while !accepting.ended.load(Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => connect(client, target, &accepting),
                    Err(_) => sleep(LOOK),
                }
            }
        });
        Relay { port, state }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds all bytes back. The connections stay open.
    pub(crate) fn hold(&self) {
        self.state.held.store(true, Relaxed);
    }

    /// Ends all connections. Held bytes are lost.
    pub(crate) fn cut(&self) {
        self.state.ended.store(true, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

fn connect(client: TcpStream, target: u16, state: &Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let both = || Ok::<_, io::Error>((client.try_clone()?, server.try_clone()?));
    for stream in [&client, &server] {
        stream.set_nonblocking(false).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(LOOK)).expect("a socket");
    }
    let (client_again, server_again) = both().expect("a socket");
    let (up, down) = (Arc::clone(state), Arc::clone(state));
    spawn(move || pass(client_again, server_again, &up));
    spawn(move || pass(server, client, &down));
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while !state.ended.load(Relaxed) {
        if state.held.load(Relaxed) {
            sleep(LOOK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                while state.held.load(Relaxed) && !state.ended.load(Relaxed) {
                    sleep(LOOK);
                }
                if state.ended.load(Relaxed) || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // The other side may have closed it already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
