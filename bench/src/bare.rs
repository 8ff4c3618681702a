//! The ceiling of HTTP: a hyper server that reads a body and answers 201, and does nothing else. It runs in a process of
//! its own, as the gateway does.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// As long as the gateway's answer to one stored event.
const ANSWER: &[u8] = br#"{"id":"00000000-0000-4000-8000-000000000000","outcome":"stored"}"#;

/// Serves until the process is ended; says its address first.
pub(crate) fn serve() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        eprintln!("the bare server listens on {}", listener.local_addr()?);
        let tasks = TaskTracker::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // How a connection ends is the load's affair.
            tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = request.into_body();
    let mut whole = 0;
    while let Some(Ok(frame)) = body.frame().await {
        whole += frame.data_ref().map_or(0, Bytes::len);
    }
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    let status = if whole > 0 { StatusCode::CREATED } else { StatusCode::BAD_REQUEST };
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
