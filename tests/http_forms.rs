//! Forms of HTTP without ambiguity: one host for each request, no body that two readers would end at different places,
//! a bound on frames beside requests, and the answer to pages of other sites.

use tokio::net::TcpStream;

use crate::support::http2::{END_HEADERS, END_STREAM, GET, Heard, POST, frame, heard, http2, literal, to};
use crate::support::raw::{Told, Wire};
use crate::support::{Gateway, Setup, eventually, pageview};

/// Sends a head of HTTP/1 as it is. Returns the answer, and whether the connection was closed after it.
async fn told(address: &str, head: &[u8]) -> (Told, bool) {
    let mut wire = Wire::connect(address).await;
    wire.write(head).await;
    let told = wire.answer().await.unwrap_or_else(|| panic!("no answer to {}", String::from_utf8_lossy(head)));
    let closes = told.header("connection") == Some("close");
    assert!(!closes || wire.rest().await.is_empty(), "nothing is read after the answer");
    (told, closes)
}

fn code(told: &Told) -> String {
    let problem: serde_json::Value = serde_json::from_str(&told.body).expect("a problem");
    problem["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_that_does_not_say_for_which_host_it_is_is_a_bad_one() {
    let gateway = Setup::default().with("EYE_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let monitoring = gateway.announced("monitoring is answered").expect("its address");
    for hosts in [
        &b""[..],
        b"host: localhost\r\nhost: localhost\r\n",
        b"host: localhost\r\nHost: evil.example\r\n",
        b"host:\r\n",
        b"host: local host\r\n",
        b"host: b\xc3\xbccher.example\r\n",
        b"host: localhost\xff\r\n",
        b"host: localhost:http\r\n",
        b"host: localhost:65536\r\n",
        b"host: localhost, evil.example\r\n",
        b"host: http://localhost\r\n",
        b"host: localhost/v1\r\n",
        b"host: user@localhost\r\n",
        b"host: [::1\r\n",
        b"host: ::1\r\n",
    ] {
        for (address, path) in [
            (gateway.address(), "/healthz"),
            (gateway.address(), "/v1/events"),
            (gateway.address(), "/nothing"),
            (&monitoring, "/metrics"),
        ] {
            let head =
                [format!("GET {path} HTTP/1.1\r\n").as_bytes(), hosts, b"\r\nGET /healthz HTTP/1.1\r\n\r\n"].concat();
            let (told, closes) = told(address, &head).await;
            let shown = String::from_utf8_lossy(hosts);
            assert_eq!((told.status, code(&told).as_str(), closes), (400, "bad_host", true), "{path} {shown:?}");
            assert!(told.header("x-request-id").is_some());
        }
    }
    for target in ["http://user@localhost/healthz", "http://localhost/healthz"] {
        let (told, _) = told(gateway.address(), format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).await;
        assert_eq!(told.status, 400, "{target} without a `Host`");
    }
    for host in ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "eye_1.example.", "gate:"] {
        let (told, closes) =
            told(gateway.address(), format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!((told.status, closes), (200, false), "{host}");
    }
    let (told, _) = told(gateway.address(), b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(told.status, 200, "HTTP/1.0 knew no hosts");
    let figures = gateway.figures().await;
    assert!(figures.value("eye_requests_total", &[("route", "unknown"), ("status", "400")]) > Some(30.0));
}

#[tokio::test]
async fn an_http2_request_says_for_which_host_it_is_too() {
    let gateway = Gateway::start().await;
    let asked = async |headers: Vec<u8>| {
        let stream = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
        let mut wire = Wire::over(stream);
        let farewell = frame(7, 0, 0, &[0; 8]);
        wire.write(&[http2(), frame(1, END_STREAM | END_HEADERS, 1, &headers), farewell].concat()).await;
        let bytes = wire.rest_bytes().await;
        let (heard, text) = (Heard::read(&bytes), String::from_utf8_lossy(&bytes).into_owned());
        (heard.resets.len(), text.contains("bad_host"), text.contains("alive"))
    };
    let host =
        |name: &str| [&[0x00, 4][..], b"host", &[u8::try_from(name.len()).expect("short")], name.as_bytes()].concat();
    let path = |more: &[u8]| [GET, &literal(4, "/healthz"), more].concat();
    assert_eq!(asked(path(&literal(1, "localhost"))).await, (0, false, true));
    assert_eq!(asked(path(&[literal(1, "localhost"), host("LocalHost")].concat())).await, (0, false, true));
    assert_eq!(asked(path(&host("localhost"))).await, (0, false, true));
    for wrong in [
        path(&[]),
        path(&[literal(1, "localhost"), host("evil.example")].concat()),
        path(&[host("localhost"), host("localhost")].concat()),
        path(&literal(1, "user@localhost")),
        path(&literal(1, "localhost:99999")),
    ] {
        let (resets, refused, served) = asked(wrong.clone()).await;
        assert!((refused || resets > 0) && !served, "{:?}", String::from_utf8_lossy(&wrong));
    }
}

#[tokio::test]
async fn a_body_that_comes_in_another_coding_than_chunks_is_not_read() {
    let gateway = Gateway::start().await;
    let body = pageview().to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let smuggled = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    let sent = async |codings: &str| {
        let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        told(gateway.address(), format!("{head}{codings}\r\n{chunks}{smuggled}").as_bytes()).await
    };
    for codings in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "content-length: 4\r\ntransfer-encoding: deflate,chunked\r\n",
    ] {
        let (told, closes) = sent(codings).await;
        assert_eq!((told.status, code(&told).as_str(), closes), (501, "wrong_transfer_encoding", true), "{codings:?}");
    }
    // A body whose last coding is not chunked has no end on which both sides agree.
    for codings in ["transfer-encoding: chunked, gzip\r\n", "transfer-encoding: identity\r\n"] {
        let mut wire = Wire::connect(gateway.address()).await;
        let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        wire.write(format!("{head}{codings}\r\n{chunks}{smuggled}").as_bytes()).await;
        let rest = wire.rest().await;
        assert!(rest.starts_with("HTTP/1.1 400 ") && rest.matches("HTTP/1.1").count() == 1, "{codings:?}: {rest}");
    }
    assert_eq!(gateway.sql("select count(*) from events"), "0", "nothing of it was taken");
    let (told, _) = sent("Transfer-Encoding: Chunked\r\n").await;
    assert_eq!(told.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_beside_requests_have_an_end() {
    let setup = Setup::default().with("EYE_HTTP2_CONTROL_FRAMES_PER_SECOND_MAX", 10);
    let gateway = setup.with("EYE_BODY_READ_MS", 1_000).start().await;
    let connect = async || TcpStream::connect(gateway.address()).await.expect("the gateway listens");
    let sending = [to(POST, "/v1/events"), literal(31, "application/json")].concat();
    let open = frame(1, END_HEADERS, 1, &sending);
    for (name, begin, one) in [
        ("window updates", &[][..], frame(8, 0, 0, &[0, 0, 0, 1])),
        ("window updates of a stream", &open, frame(8, 0, 1, &[0, 0, 0, 1])),
        ("priorities", &[], frame(2, 0, 1, &[0, 0, 0, 3, 16])),
        ("settings", &[], frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("pings", &[], frame(6, 0, 0, &[0; 8])),
        ("empty data", &open, frame(0, 0, 1, &[])),
        ("unknown frames", &[], frame(200, 0, 0, &[0; 4])),
    ] {
        // The gateway accepts as many frames as a client may need on a machine that stood still for seconds.
        let mut wire = Wire::over(connect().await);
        wire.write(&[&http2(), begin, &one.repeat(60), &frame(7, 0, 0, &[0; 8])].concat()).await;
        let few = Heard::read(&wire.rest_bytes().await);
        assert_ne!(few.goaway, Some(11), "60 {name}: {few:?}");
        let many = heard(connect().await, [begin, &one.repeat(2_000_000)].concat()).await;
        assert_eq!(many.goaway, Some(11), "2,000,000 {name}: {many:?}");
    }
    let ended = eventually("the floods are counted", async || {
        let figures = gateway.figures().await;
        figures.value("eye_connections_refused_total", &[("class", "http2_frames")]).filter(|ended| *ended > 0.0)
    })
    .await;
    assert!((7.0..9.0).contains(&ended), "{ended}");
    assert!(gateway.log().contains("http2_frames"), "{}", gateway.log());
    // Each request allows the client the frames that it needs for it.
    let busy: Vec<u8> = (0..500)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            let window = [frame(8, 0, 0, &[0, 0, 0, 1]), frame(8, 0, stream, &[0, 0, 0, 1])].concat();
            [frame(1, END_STREAM | END_HEADERS, stream, &to(GET, "/healthz")), window].concat()
        })
        .collect();
    let mut wire = Wire::over(connect().await);
    wire.write(&http2()).await;
    // In parts, since the gateway also bounds the streams of a connection.
    for some in busy.chunks(busy.len() / 10) {
        wire.write(some).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    wire.write(&frame(7, 0, 0, &[0; 8])).await;
    let bytes = wire.rest_bytes().await;
    assert_ne!(Heard::read(&bytes).goaway, Some(11));
    assert_eq!(bytes.windows(18).filter(|part| part == br#"{"status":"alive"}"#).count(), 500);
}

#[tokio::test]
async fn a_page_of_any_origin_is_told_what_is_not_there() {
    const SHOP: &str = "https://shop.example";
    let gateway = Setup::default().with("EYE_CORS_ORIGINS", SHOP).start().await;
    for origin in [SHOP, "https://evil.example"] {
        for (method, path, status) in [
            ("POST", "/v1/nothing", 404),
            ("OPTIONS", "/v1/nothing", 404),
            ("POST", "/v1/events/", 404),
            ("PUT", "/v1/event", 404),
            ("PUT", "/v1/events", 405),
            ("DELETE", "/post/create", 405),
            ("POST", "/v1/applications", 403),
        ] {
            let request = gateway.request(method, path).header("origin", origin);
            let answer = gateway.answer(request.header("access-control-request-method", "POST")).await;
            assert_eq!(answer.status, status, "{method} {path} of {origin}: {answer:?}");
            assert_eq!(answer.headers.get("access-control-allow-origin"), None, "{method} {path} of {origin}");
        }
    }
    let bad =
        b"OPTIONS /v1/events HTTP/1.1\r\norigin: https://shop.example\r\naccess-control-request-method: POST\r\n\r\n";
    assert_eq!(told(gateway.address(), bad).await.0.status, 400, "a browser says for which host it asks");
}

#[tokio::test]
async fn no_browser_guesses_what_an_answer_is() {
    let gateway = Setup::default().with("EYE_CORS_ORIGINS", "https://shop.example").start().await;
    let event = pageview();
    let answers = [
        gateway.send(&event).await,
        gateway.send(&serde_json::json!([event, 7])).await,
        gateway.post("/v1/events", "application/json", "[").await,
        gateway.get("/healthz").await,
        gateway.get("/readyz").await,
        gateway.get("/metrics").await,
        gateway.get("/openapi.json").await,
        gateway.get("/nothing").await,
        gateway.get("/v1/events").await,
        gateway.answer(gateway.request("GET", "/v1/events").header("accept", "application/x-ndjson")).await,
        gateway.get("/problems/rule").await,
        gateway.answer(gateway.request("GET", "/v1/events").bearer_auth("eye_nobody")).await,
        gateway
            .answer(
                gateway
                    .request("OPTIONS", "/v1/events")
                    .header("origin", "https://shop.example")
                    .header("access-control-request-method", "POST"),
            )
            .await,
    ];
    for answer in answers {
        let told: Vec<_> = answer.headers.get_all("x-content-type-options").iter().collect();
        assert_eq!(told, ["nosniff"], "{answer:?}");
    }
}
