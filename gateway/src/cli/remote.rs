//! Asks a gateway over HTTP. The token is sent over TLS, or only within this machine. Health checks send no token.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::remote::Remote;
use crate::first_admin;
use crate::tls::{self, Roots};
use crate::trust::host::is_loopback;

/// The time for one request, from its first byte to the last of its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The same for a health check.
const PROBE: Duration = Duration::from_secs(5);
/// Most bytes of an answer: a thousand applications with a thousand networks each.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A gateway and its token.
#[derive(Debug)]
pub(super) struct Gateway {
    url: Uri,
    token: String,
    roots: Option<Roots>,
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct Body {
    /// Its media type.
    pub(super) content_type: &'static str,
    /// Its bytes.
    pub(super) bytes: Bytes,
}

/// A gateway's refusal in its own words.
#[derive(Debug, thiserror::Error)]
#[error("refused with {status} ({code}): {detail}{}", mend(*.status))]
pub(super) struct Refused {
    /// The status of the answer.
    pub(super) status: u16,
    /// The problem's code.
    pub(super) code: String,
    detail: String,
    /// The whole problem.
    pub(super) body: Value,
}

/// A gateway that a health check asks, without a token.
#[derive(Debug)]
pub(super) struct Probe {
    url: Uri,
    roots: Option<Roots>,
}

impl Probe {
    /// Takes the gateway that the environment names.
    pub(super) fn named(remote: &Remote) -> anyhow::Result<Self> {
        let url = url_of(&remote.url)?;
        let secure = url.scheme_str() == Some("https");
        let roots = secure.then(|| Roots::read(remote.roots.as_deref())).transpose().context("SSL_CERT_FILE")?;
        Ok(Self { url, roots })
    }

    /// Takes an address on which a gateway listens. The certificate is not verified: it is for the gateway's public name.
    pub(super) fn of_address(address: SocketAddr, secure: bool) -> anyhow::Result<Self> {
        let scheme = if secure { "https" } else { "http" };
        let url = format!("{scheme}://{address}").parse().context("no URL")?;
        Ok(Self { url, roots: secure.then(Roots::unproved) })
    }

    /// Requests a path. Returns the URL, the status, and the JSON of the answer or null.
    ///
    /// # Errors
    ///
    /// No answer came.
    pub(super) async fn ask(&self, path: &str) -> anyhow::Result<(String, u16, Value)> {
        let url = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let asked = timeout(PROBE, self.answer(path)).await;
        let answered = asked.map_err(|_| anyhow::anyhow!("no answer within {} s", PROBE.as_secs()));
        let (status, bytes) = answered.and_then(|answered| answered).with_context(|| url.clone())?;
        Ok((url, status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    async fn answer(&self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let (name, port, authority) = place_of(&self.url)?;
        let path = format!("{}{path}", self.url.path().trim_end_matches('/'));
        let request = Request::builder().uri(path).header(HOST, authority).header(ACCEPT, "application/json");
        let stream = TcpStream::connect((name, port)).await?;
        send(name, stream, self.roots.as_ref(), request.body(Full::default())?).await
    }
}

/// What whoever runs a command can do about a refusal that its own words leave open.
fn mend(status: u16) -> &'static str {
    match status {
        401 => {
            " EYE_TOKEN is the token of an application; on the gateway's machine `eye app add NAME --token --scope SCOPE` makes \
             one."
        }
        403 => " On the gateway's machine `eye app change NAME` changes what an application may do.",
        _ => "",
    }
}

impl Gateway {
    /// Reads the gateway from the environment, and says where its token came from: `EYE_TOKEN`, or the data dir for a
    /// gateway on this machine.
    pub(super) fn new(remote: Remote, data_dir: &Path) -> anyhow::Result<(Self, String)> {
        let told = shown(&remote.url);
        let url = url_of(&remote.url)?;
        let is_here = url.host().is_some_and(is_loopback);
        let secure = url.scheme_str() == Some("https");
        ensure!(
            secure || is_here,
            "EYE_GATEWAY is {told}: over plain HTTP everybody on the way could read the token, so none is sent beyond this \
             machine; use https"
        );
        let (token, token_from) = match remote.token {
            Some(token) => (token.expose().to_owned(), "EYE_TOKEN".to_owned()),
            None if is_here => {
                let file = first_admin::token_file(data_dir);
                let missing = || {
                    format!(
                        "EYE_TOKEN is not set, and there is no token in {}: set it, or name the data dir of that gateway \
                         (--data-dir)",
                        file.display()
                    )
                };
                (first_admin::read(&file).with_context(missing)?.with_context(missing)?, file.display().to_string())
            }
            None => bail!("EYE_GATEWAY names {told}, and EYE_TOKEN, which opens it, is not set"),
        };
        ensure!(token.bytes().all(|byte| byte.is_ascii_graphic()), "the token of {token_from} is none");
        let roots = secure.then(|| Roots::read(remote.roots.as_deref())).transpose().context("SSL_CERT_FILE")?;
        Ok((Self { url, token, roots }, token_from))
    }

    /// The URL, for messages.
    pub(super) fn url(&self) -> String {
        self.url.to_string().trim_end_matches('/').to_owned()
    }

    /// Sends a request and returns the JSON of the answer.
    ///
    /// # Errors
    ///
    /// The gateway's own message if it refuses; otherwise the reason why there is no answer.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let body = body.map(|body| Body { content_type: "application/json", bytes: body.to_string().into() });
        self.request(method, path, &[], body, ANSWER).await
    }

    /// Reads a path, and returns the JSON of the answer.
    ///
    /// # Errors
    ///
    /// Those of [`Gateway::ask`].
    pub(super) async fn read(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Sends a JSON body to a path, and returns the JSON of the answer.
    ///
    /// # Errors
    ///
    /// Those of [`Gateway::ask`].
    pub(super) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Sends a request with further headers and any body, and returns the JSON of the answer.
    ///
    /// # Errors
    ///
    /// Those of [`Gateway::ask`].
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Body>,
        time: Duration,
    ) -> anyhow::Result<Value> {
        let asked = timeout(time, self.answer(method, path, headers, body)).await;
        let answered = asked.map_err(|_| anyhow::anyhow!("it did not answer within {} s", time.as_secs()));
        answered.and_then(|answered| answered).with_context(|| format!("the gateway {}", self.url()))
    }

    /// Requests a path whose answer is no JSON, and returns the bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Gateway::ask`].
    pub(super) async fn bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let asked = timeout(ANSWER, self.exchanged(Method::GET, path, &[], None)).await;
        let answered = asked.map_err(|_| anyhow::anyhow!("it did not answer within {} s", ANSWER.as_secs()));
        let (_, bytes) =
            answered.and_then(|answered| answered).with_context(|| format!("the gateway {}", self.url()))?;
        Ok(bytes)
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Body>,
    ) -> anyhow::Result<Value> {
        let (_, bytes) = self.exchanged(method, path, headers, body).await?;
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        ensure!(json.is_object(), "its answer is not JSON: is it a gateway?");
        Ok(json)
    }

    /// The status and the body of an answer that is no refusal.
    async fn exchanged(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Body>,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let (name, port, authority) = place_of(&self.url)?;
        let path = format!("{}{path}", self.url.path().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
        request = request.header(AUTHORIZATION, format!("Bearer {}", self.token)).header(ACCEPT, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, body.content_type);
        }
        let request = request.body(Full::new(body.map_or_else(Bytes::new, |body| body.bytes)))?;
        let path = request.uri().path().to_owned();
        let stream = connect(name, port, self.roots.is_none()).await?;
        let (status, bytes) = send(name, stream, self.roots.as_ref(), request).await?;
        if (200..300).contains(&status) {
            return Ok((status, bytes));
        }
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match (json["code"].as_str(), json["detail"].as_str()) {
            (Some("not_found"), _) if path.ends_with("/v1/applications") => bail!(
                "it answers 404 for applications: if it has an address of its own for administration (admin_listen), name that"
            ),
            (Some("not_found"), _) if path.ends_with("/v1/panel/codes") => bail!(
                "it answers 404 for the panel: its panel is off (panel = false), it is of an older release, or it has an address \
                 of its own for the panel (admin_listen); then name that"
            ),
            (Some(code), Some(detail)) => {
                let (code, detail) = (code.to_owned(), detail.to_owned());
                Err(Refused { status, code, detail, body: json }.into())
            }
            _ => bail!("refused with {status}, and not in the words of a gateway"),
        }
    }
}

/// Parses the URL in `EYE_GATEWAY`.
fn url_of(text: &str) -> anyhow::Result<Uri> {
    let told = shown(text);
    let wrong = format!("EYE_GATEWAY is {told}, and must be such as https://eye.example or http://127.0.0.1:8000");
    let url: Uri = text.parse().context(wrong.clone())?;
    ensure!(url.host().is_some(), wrong);
    ensure!(matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none(), wrong);
    ensure!(!url.authority().is_some_and(|authority| authority.as_str().contains('@')), wrong);
    Ok(url)
}

/// The name, the port and the authority of a URL.
fn place_of(url: &Uri) -> anyhow::Result<(&str, u16, &str)> {
    let authority = url.authority().context("no host")?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    Ok((name, url.port_u16().unwrap_or(usual), authority.as_str()))
}

/// A URL for messages: it loses the user and the password.
pub(super) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

/// Connects to an address of the host. Over plain HTTP it uses only addresses of this machine.
async fn connect(name: &str, port: u16, is_plain: bool) -> anyhow::Result<TcpStream> {
    let found = tokio::net::lookup_host((name, port)).await.context("it is not found")?;
    let addresses: Vec<SocketAddr> =
        found.filter(|address| !is_plain || address.ip().to_canonical().is_loopback()).collect();
    ensure!(!addresses.is_empty(), "it is not on this machine, and plain HTTP goes no further");
    let connected = TcpStream::connect(&addresses[..]).await;
    connected
        .context("no gateway answers there: start it (`eye serve`), or name another one in EYE_GATEWAY or eye.toml")
}

/// Sends a request, over TLS if there are roots, and reads its whole answer.
async fn send(
    name: &str,
    stream: TcpStream,
    roots: Option<&Roots>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(u16, Vec<u8>)> {
    match roots {
        None => exchange(stream, request).await,
        Some(roots) => exchange(tls::connect(name, stream, roots).await.context("TLS")?, request).await,
    }
}

/// Sends a request and reads its whole answer.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<(u16, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async move { whole(sender.send_request(request).await?).await };
    // The answer may still be read after the connection has ended. An error of the connection also fails the answer.
    let driven = async move {
        let _ended = connection.await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        answered = answered => answered,
        () = driven => bail!("the connection has ended"),
    }
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<(u16, Vec<u8>)> {
    let status = response.status().as_u16();
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            ensure!(bytes.len() + data.len() <= ANSWER_BYTES_MAX, "its answer is larger than {ANSWER_BYTES_MAX} bytes");
            bytes.extend_from_slice(&data);
        }
    }
    Ok((status, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn gateway(url: &str) -> anyhow::Result<(Gateway, String)> {
        let environment = [("EYE_DATABASE_URL".into(), "postgres://u:eye_token_of_thirty_two_characters@h/d".into())];
        let (_, config) = Settings::from_parts(None, environment.into_iter(), &[]).expect("sound");
        // The secret of any setting serves as a token here.
        Gateway::new(Remote { url: url.to_owned(), token: config.database_url, roots: None }, Path::new("/nowhere"))
    }

    #[test]
    fn no_password_of_a_url_is_shown() {
        assert_eq!(shown("https://u:hush@h:1/x"), "https://h:1/x");
        assert_eq!(shown("https://u:hu@sh@h"), "https://h");
        assert_eq!(shown("h:8000"), "h:8000");
    }

    #[test]
    fn a_token_goes_nowhere_over_plain_http() {
        for url in [
            "http://127.0.0.1:8000",
            "http://localhost",
            "http://[::1]:8000/",
            "https://eye.example",
            "https://10.0.0.1/eye",
        ] {
            assert!(gateway(url).is_ok(), "{url}: {:?}", gateway(url).err());
        }
        for url in
            ["http://eye.example", "http://10.0.0.1:8000", "http://localhost.evil.example", "http://[2001:db8::1]"]
        {
            let error = format!("{:#}", gateway(url).expect_err(url));
            assert!(error.contains("plain HTTP"), "{error}");
        }
        for url in
            ["eye.example", "ftp://eye.example", "https://u:hush@eye.example", "https://eye.example?x=1", "https://"]
        {
            let error = format!("{:#}", gateway(url).expect_err(url));
            assert!(error.contains("must be such as") && !error.contains("hush"), "{error}");
        }
        let remote = Remote { url: "https://eye.example".to_owned(), token: None, roots: None };
        let error = format!("{:#}", Gateway::new(remote, Path::new("/nowhere")).expect_err("no token"));
        assert!(error.contains("EYE_TOKEN"), "{error}");
    }
}
