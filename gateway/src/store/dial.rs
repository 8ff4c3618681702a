//! Opens sockets to the database: without delay for small writes, with keepalives, with a time limit for unacknowledged
//! bytes, and with TLS as the URL asks for it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::url::{Address, Place, SslMode};
use super::{cause, tls};

/// The message that asks for TLS: its length, and a number that is no protocol version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Both directions of a connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Stream = Box<dyn Duplex>;

/// Connects to one place. An error names the place.
pub(super) async fn dial(address: &Address, place: &Place) -> io::Result<Stream> {
    let stream = match place {
        Place::Unix { folder, port } => {
            let connected = within(address, UnixStream::connect(Place::file(folder, *port))).await;
            connected.map(|stream| Box::new(stream) as Stream)
        }
        Place::Tcp { name, address: number, port } => {
            tcp(address, name, number.as_deref().unwrap_or(name), *port).await
        }
    };
    stream.map_err(|cause| cause::unreached(place, cause))
}

async fn within<T>(address: &Address, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit = address.connect_time;
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} ms", limit.as_millis())))
    })
}

async fn tcp(address: &Address, name: &str, at: &str, port: u16) -> io::Result<Stream> {
    let mut stream = reach(address, at, port).await?;
    if address.ssl_mode == SslMode::Disable {
        return Ok(Box::new(stream));
    }
    let mut answer = [0];
    let asked = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_exact(&mut answer).await
    };
    within(address, asked).await?;
    let preferred = address.ssl_mode == SslMode::Prefer;
    match answer[0] {
        b'S' => match within(address, tls::connect(address, name, stream)).await {
            Ok(stream) => Ok(Box::new(stream)),
            // The server offers TLS and fails at it.
            Err(_) if preferred => Ok(Box::new(reach(address, at, port).await?)),
            Err(cause) => Err(cause),
        },
        b'N' if preferred => Ok(Box::new(stream)),
        b'N' => Err(io::Error::other(
            "the server has no TLS, and sslmode asks for it; switch ssl on there, or use sslmode=prefer",
        )),
        _ => Err(io::Error::other("what answers there is no Postgres; mend the host and the port in database_url")),
    }
}

/// Connects to the first address of a host that answers.
async fn reach(address: &Address, host: &str, port: u16) -> io::Result<TcpStream> {
    let found = within(address, tokio::net::lookup_host((host, port))).await.map_err(|cause| {
        if cause.kind() == io::ErrorKind::TimedOut { cause } else { cause::unresolved(host, &cause) }
    })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in found {
        match within(address, TcpStream::connect(at)).await {
            Ok(stream) => {
                prepare(address, &stream)?;
                return Ok(stream);
            }
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

/// A writer sends small messages in a row, and the second must not wait for the acknowledgment of the first. A peer
/// that loses its power sends nothing, so only keepalives notice it.
fn prepare(address: &Address, stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;

    stream.set_nodelay(true)?;
    if let Some(keepalive) = address.keepalive {
        sockopt::set_tcp_keepidle(stream, keepalive.idle)?;
        sockopt::set_tcp_keepintvl(stream, keepalive.interval)?;
        sockopt::set_tcp_keepcnt(stream, keepalive.count)?;
        sockopt::set_socket_keepalive(stream, true)?;
    }
    if let Some(time) = address.user_timeout {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(time.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}
