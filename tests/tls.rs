//! TLS: certificates that change, are out of date or do not fit, their log lines, and client certificates.

use rcgen::KeyPair;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::authority::{Authority, BOTH, NEWER, OLDER, setup, shake, shake_at, shown, with_tls, with_tls_and};
use crate::support::raw::Wire;
use crate::support::{Gateway, eventually, folder, pageview};

async fn told_in_the_log(gateway: &Gateway, words: &str) {
    eventually(words, async || gateway.log().contains(words).then_some(())).await;
}

#[tokio::test]
async fn certificates_change_while_connections_stay() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls(&authority, &files).await;
    for versions in [OLDER, NEWER] {
        let mut wire = Wire::over(shake(&gateway, &authority.client(None, versions)).await);
        assert_eq!(wire.send_event(&pageview(), &[]).await, 201, "{versions:?}");
    }
    let client = authority.client(None, BOTH);
    let first = shake(&gateway, &client).await;
    let before = shown(&first);
    let mut kept = Wire::over(first);
    assert_eq!(kept.send_event(&pageview(), &[]).await, 201);
    let after = authority.install(files.path());
    assert_ne!(before, after);
    eventually("the new certificate is shown", async || {
        (shown(&shake(&gateway, &client).await) == after).then_some(())
    })
    .await;
    assert_eq!(kept.send_event(&pageview(), &[]).await, 201, "the connection from before goes on");
    std::fs::write(files.path().join("certificate.pem"), "nonsense").expect("a file");
    told_in_the_log(&gateway, "last good ones stay").await;
    assert_eq!(shown(&shake(&gateway, &client).await), after);
    let mut plain = Wire::connect(gateway.address()).await;
    plain.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!plain.rest().await.starts_with("HTTP/1.1"), "nothing is answered without TLS");
    told_in_the_log(&gateway, "tls_handshake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_for_administration_speaks_tls_and_commands_prove_it() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls_and(&authority, &files, |setup| setup.with("EYE_ADMIN_LISTEN", "127.0.0.1:0")).await;
    let admin = gateway.announced("reading and administration are answered").expect("the other address");
    let client = authority.client(None, BOTH);
    let token = gateway.admin_token().expect("a token");
    let get = format!("GET /v1/applications HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    for (address, expected) in [(admin.as_str(), 200), (gateway.address(), 404)] {
        let mut wire = Wire::over(shake_at(address, &client).await);
        wire.write(get.as_bytes()).await;
        assert_eq!(wire.answer().await.expect("an answer").status, expected, "{address}");
    }
    let mut plain = Wire::connect(&admin).await;
    plain.write(get.as_bytes()).await;
    assert!(!plain.rest().await.starts_with("HTTP/1.1"), "nothing is answered without TLS");

    // A command checks the certificate before it sends anything.
    let url = format!("https://localhost:{}", admin.rsplit_once(':').expect("a port").1);
    let list = |roots: Option<&str>| {
        let mut command = gateway.command_beside(&["app", "list"]);
        command.env("EYE_GATEWAY", &url).env("EYE_TOKEN", &token).env_remove("SSL_CERT_FILE");
        if let Some(file) = roots {
            command.env("SSL_CERT_FILE", files.path().join(file));
        }
        command.output().expect("the built program")
    };
    let listed = list(Some("ca.pem"));
    assert!(
        listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("admin.token\tactive"),
        "{listed:?}"
    );
    for roots in [None, Some("key.pem")] {
        let refused = list(roots);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && (said.contains("TLS") || said.contains("SSL_CERT_FILE")), "{said}");
    }
}

#[tokio::test]
async fn a_sender_that_closes_its_sending_half_is_answered_with_tls_and_without() {
    let (authority, files) = (Authority::new(), folder());
    let (plain, tls) = (Gateway::start().await, with_tls(&authority, &files).await);
    let post = |version: &str, kind: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /v1/events HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/{kind}\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    let event = pageview().to_string();
    let many = format!("[{}]", vec![event.clone(); 100].join(","));
    let lines = format!("{event}\n").repeat(3);
    for round in 0..12 {
        for (sent, status, answers) in [
            (post("1.1", "json", &event), 201, 1),
            (post("1.1", "json", &many), 200, 1),
            (post("1.1", "x-ndjson", &lines), 200, 1),
            (post("1.1", "json", &event).repeat(4), 201, 4),
        ] {
            let mut wire = match round % 3 {
                0 => Wire::connect(plain.address()).await,
                1 => Wire::over(shake(&tls, &authority.client(None, OLDER)).await),
                _ => Wire::over(shake(&tls, &authority.client(None, NEWER)).await),
            };
            if round % 2 == 1 {
                assert_eq!(wire.send_event(&pageview(), &[]).await, 201, "the connection was used before");
            }
            assert!(wire.write(sent.as_bytes()).await);
            wire.close_half().await;
            let told = wire.rest().await;
            assert_eq!(told.matches(&format!("HTTP/1.1 {status} ")).count(), answers, "{round}: {told}");
        }
        let mut old = Wire::connect(plain.address()).await;
        assert!(old.write(post("1.0", "json", &event).as_bytes()).await);
        old.close_half().await;
        let told = old.rest().await;
        assert!(told.starts_with("HTTP/1.0 "), "{told}");
    }
}

#[tokio::test]
async fn a_client_certificate_proves_its_application() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls(&authority, &files).await;
    let (certificate, _, key) = authority.issue("till");
    let digest = eye_event::verdict::Digest::of(&certificate).to_string();
    let mut admin = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
    let body = json!({"name": "till", "certificates": [digest]}).to_string();
    let token = format!("Bearer {}", gateway.admin_token().expect("a token"));
    let token = [("authorization", token.as_str())];
    let added = admin.post("/v1/applications", &token, &body).await.expect("an answer");
    assert_eq!(added.status, 201, "{added:?}");
    let mut till = Wire::over(shake(&gateway, &authority.client(Some((certificate, key)), BOTH)).await);
    assert_eq!(till.send_event(&pageview(), &[]).await, 201);
    let name = gateway.sql("select a.name from events join applications a on a.id = application_id");
    assert_eq!(name, "till");
    let revoked = admin.post("/v1/applications/till/revoke", &token, "").await.expect("an answer");
    assert_eq!(revoked.status, 200, "{revoked:?}");
    gateway.sql("delete from applications where name = 'local'");
    eventually("the certificate proves nothing any more, on the open connection too", async || {
        (till.send_event(&pageview(), &[]).await == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_not_taken_over() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls(&authority, &files).await;
    let client = authority.client(None, BOTH);
    let good = shown(&shake(&gateway, &client).await);
    for (years, words) in
        [((2019, 2021), "has expired: it was valid until 2021-01-01"), ((2090, 2099), "is not valid yet")]
    {
        authority.install_for(files.path(), years);
        told_in_the_log(&gateway, words).await;
        assert_eq!(shown(&shake(&gateway, &client).await), good, "{words}");
    }
    // A key of another certificate.
    let (_, other, _) = authority.issue("localhost");
    std::fs::write(files.path().join("certificate.pem"), other).expect("a file");
    told_in_the_log(&gateway, "the certificate and its key cannot be used").await;
    assert_eq!(shown(&shake(&gateway, &client).await), good);
    let warned = gateway.log().lines().filter(|line| line.contains("last good ones stay")).count();
    assert!((3..=6).contains(&warned), "once for each pair, and for halves of one: {}", gateway.log());
    let next = authority.install(files.path());
    eventually("a good one is taken over", async || (shown(&shake(&gateway, &client).await) == next).then_some(()))
        .await;
}

#[tokio::test]
async fn the_end_of_the_certificate_is_told() {
    let (authority, files) = (Authority::new(), folder());
    let gateway = with_tls(&authority, &files).await;
    let expires = async || {
        let mut wire = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
        wire.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let told = wire.answer().await.expect("an answer").body;
        let line =
            told.lines().find(|line| line.starts_with("eye_tls_certificate_expires_seconds ")).expect("a figure");
        line.split(' ').nth(1).expect("a value").parse::<f64>().expect("a number")
    };
    assert_eq!(expires().await, 67_090_118_400.0, "the year 4096");
    authority.install_for(files.path(), (2020, 2090));
    eventually("the new end is told", async || (expires().await == 3_786_912_000.0).then_some(())).await;
    let plain = Gateway::start().await.figures().await;
    assert_eq!(plain.value("eye_tls_certificate_expires_seconds", &[]), Some(0.0));
}

#[tokio::test]
async fn a_gateway_that_starts_with_an_expired_certificate_says_so_and_one_with_a_wrong_key_does_not_start() {
    let (authority, files) = (Authority::new(), folder());
    authority.install_for(files.path(), (2019, 2021));
    let gateway = setup(&authority, &files).listen().await;
    assert!(gateway.log().contains("has expired: it was valid until 2021-01-01"), "{}", gateway.log());
    drop(gateway);
    let (_, other, _) = authority.issue("localhost");
    std::fs::write(files.path().join("certificate.pem"), other).expect("a file");
    let mut gateway = setup(&authority, &files).begin();
    assert_eq!(gateway.ended().await.code(), Some(1));
    told_in_the_log(&gateway, "the certificate and its key cannot be used").await;
}

#[tokio::test]
async fn a_client_certificate_can_be_required() {
    let (authority, files) = (Authority::new(), folder());
    authority.install(files.path());
    let gateway = setup(&authority, &files).with("EYE_TLS_CLIENT_AUTH", "required").listen().await;
    let (certificate, _, key) = authority.issue("till");
    let known = authority.client(Some((certificate, key)), BOTH);
    eventually("who shows one is served", async || {
        let mut wire = Wire::over(shake(&gateway, &known).await);
        wire.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        wire.answer().await.filter(|told| told.status == 200)
    })
    .await;
    let stranger = Authority::new();
    let (certificate, _, key) = stranger.issue("till");
    for versions in [OLDER, NEWER] {
        for own in [None, Some((certificate.clone(), KeyPair::from_pem(&key.serialize_pem()).expect("the same key")))] {
            let client = authority.client(own, versions);
            let stream = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
            let name = ServerName::try_from("localhost").expect("a name");
            // In TLS 1.3 the client's side is done before the server has checked the client's certificate.
            let Ok(stream) = client.connect(name, stream).await else { continue };
            let mut wire = Wire::over(stream);
            wire.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            assert_eq!(wire.rest().await, "", "nothing is answered");
        }
    }
    told_in_the_log(&gateway, "tls_handshake").await;
}
