//! The bridge between sqlx and the database: a socket in this process that passes each connection on to the chosen
//! server. It gives reads, migrations and background tasks what writers have and sqlx's own sockets lack: no delay,
//! keepalives, several hosts, and every kind of TLS. Only this process may use it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_buf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::cause;
use super::hosts::Hosts;

const UP_BYTES: usize = 8 << 10;
const DOWN_BYTES: usize = 64 << 10;
/// How long a server may take to end a session after its client has gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// The listening socket. Its drop ends all connections.
#[derive(Debug)]
pub(super) struct Bridge {
    /// The folder in which sqlx looks for the socket.
    folder: String,
    _task: JoinSet<()>,
}

impl Bridge {
    /// Must be called within a Tokio runtime.
    pub(super) fn start(hosts: Arc<Hosts>) -> io::Result<Bridge> {
        // An abstract name: it has no file and ends with the process. Connections of other processes are refused.
        let folder = format!("\0eye-{}", Uuid::now_v7().simple());
        let listener = UnixListener::bind(format!("{folder}/.s.PGSQL.{PORT}"))?;
        let mut task = JoinSet::new();
        task.spawn(listen(listener, hosts));
        Ok(Bridge { folder, _task: task })
    }

    pub(super) fn folder(&self) -> &str {
        &self.folder
    }
}

/// The part of the socket's name that sqlx adds.
pub(super) const PORT: u16 = 5_432;

async fn listen(listener: UnixListener, hosts: Arc<Hosts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // Most likely the process lacks descriptors. The client that waits has a time limit.
                    hosts.note_no_descriptors();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if is_own(&client) {
                    connections.spawn(carry(client, Arc::clone(&hosts)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn is_own(client: &UnixStream) -> bool {
    let own = i32::try_from(std::process::id()).ok();
    client.peer_cred().is_ok_and(|peer| own.is_some() && peer.pid() == own)
}

async fn carry(mut client: UnixStream, hosts: Arc<Hosts>) {
    let server = match hosts.socket().await {
        Ok(server) => server,
        Err(why) => return tell(&mut client, &why).await,
    };
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        // Whichever side ends first, the other one ends as well.
        let _ = copy_buf(&mut BufReader::with_capacity(UP_BYTES, from_client), &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let _ = copy_buf(&mut BufReader::with_capacity(DOWN_BYTES, from_server), &mut to_client).await;
    };
    let mut down = std::pin::pin!(down);
    tokio::select! {
        () = &mut down => {}
        () = up => {
            let _ = timeout(FAREWELL, down).await;
        }
    }
}

/// Reports that there is no server, in the form of a server's error.
async fn tell(client: &mut UnixStream, why: &io::Error) {
    let said = async {
        // The client sends its first message before it reads.
        let mut begun = [0; 1_024];
        let _heard = client.read(&mut begun).await?;
        let code = if cause::lacks_descriptors(why) { cause::NO_DESCRIPTORS } else { "08001" };
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{why}\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        client.write_all(&[&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat()).await?;
        client.shutdown().await
    };
    // The client may have gone.
    let _ = timeout(FAREWELL, said).await;
}
