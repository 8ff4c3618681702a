//! `eye health` beside gateways that are well, that are not, and that are not there.

use std::process::{Command, Stdio};

use crate::support::authority::{Authority, with_tls, with_tls_and};
use crate::support::cluster::Server;
use crate::support::proxy::Proxy;
use crate::support::{Gateway, Setup, eventually, folder};

/// The exit code, and both outputs.
fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn eye(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(arguments);
    command
}

#[tokio::test]
async fn a_gateway_that_answers_is_healthy_and_one_that_is_not_ready_says_why() {
    let server = Server::start();
    server.prepare();
    let mut proxy = Proxy::start(server.socket()).await;
    let gateway = Setup::default()
        .with("EYE_DATABASE_URL", proxy.url())
        .with("EYE_METRICS_LISTEN", "127.0.0.1:0")
        .with("EYE_READ_WAIT_MS", 200)
        .start()
        .await;
    let monitoring = gateway.announced("monitoring is answered").expect("another address");
    let listen = ["health", "--listen", gateway.address()];
    let (code, said, problem) = ran(gateway.command_beside(&listen).env("EYE_LISTEN", "127.0.0.1:1"));
    assert_eq!(
        (code, said.as_str()),
        (Some(0), format!("http://{}/healthz answers 200\n", gateway.address()).as_str())
    );
    assert_eq!(problem, "");
    // The settings of the gateway say where, and the address for monitoring comes first.
    let mut command = gateway.command_beside(&["health", "--ready"]);
    let (code, said, _) = ran(command.env("EYE_LISTEN", "127.0.0.1:1").env("EYE_METRICS_LISTEN", &monitoring));
    assert_eq!((code, said.as_str()), (Some(0), format!("http://{monitoring}/readyz answers 200\n").as_str()));
    // Another machine's gateway needs no token either.
    let mut command = gateway.command_beside(&["health", "--ready"]);
    let (code, said, problem) = ran(command.env("EYE_GATEWAY", format!("http://{}", gateway.address())));
    assert_eq!(code, Some(0), "{said}{problem}");

    proxy.leave().await;
    gateway.unready().await;
    assert_eq!(ran(&mut gateway.command_beside(&listen)).0, Some(0), "it answers");
    let (code, said, problem) = ran(gateway.command_beside(&listen).arg("--ready"));
    assert_eq!((code, said.as_str()), (Some(1), ""), "{problem}");
    assert!(problem.contains("/readyz answers 503: database"), "{problem}");
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_not_healthy() {
    let folder = folder();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    // It takes the connection, and answers nothing.
    let start = std::time::Instant::now();
    let (code, _, problem) = ran(eye(&["health", "--listen", &address]).current_dir(folder.path()));
    assert!(code == Some(1) && problem.contains("no answer within 5 s"), "{problem}");
    assert!(start.elapsed().as_secs() < 30);
    drop(listener);
    let (code, _, problem) = ran(eye(&["health", "--listen", &address]).current_dir(folder.path()));
    assert!(code == Some(1) && problem.contains("refused") && problem.contains(&address), "{problem}");
    let (code, _, problem) = ran(eye(&["health", "--listen", "nonsense"]).current_dir(folder.path()));
    assert_eq!(code, Some(64), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_tls_is_asked_over_tls() {
    let (authority, files) = (Authority::new(), folder());
    let health = |gateway: &Gateway, more: &[(&str, &str)]| {
        let mut command = gateway.command_beside(&["health", "--ready", "--listen", gateway.address()]);
        command.env("EYE_TLS_CERTIFICATE", files.path().join("certificate.pem"));
        ran(command.env("EYE_TLS_KEY", files.path().join("key.pem")).envs(more.iter().copied()))
    };
    let gateway = with_tls(&authority, &files).await;
    let (code, said, problem) = health(&gateway, &[]);
    assert_eq!((code, said), (Some(0), format!("https://{}/readyz answers 200\n", gateway.address())), "{problem}");
    // Over the way that others take, its certificate is proved.
    let url = format!("https://localhost:{}", gateway.address().rsplit_once(':').expect("a port").1);
    let named = |roots: &str| {
        let mut command = gateway.command_beside(&["health"]);
        ran(command.env("EYE_GATEWAY", &url).env("SSL_CERT_FILE", files.path().join(roots)))
    };
    std::fs::write(files.path().join("roots.pem"), &authority.pem).expect("a file");
    std::fs::write(files.path().join("others.pem"), Authority::new().pem).expect("a file");
    assert_eq!(named("roots.pem").0, Some(0));
    let (code, _, problem) = named("others.pem");
    assert!(code == Some(1) && problem.contains("TLS"), "{problem}");

    let ca = files.path().join("roots.pem").display().to_string();
    let required = [("EYE_TLS_CLIENT_CA", ca.as_str()), ("EYE_TLS_CLIENT_AUTH", "required")];
    let (code, _, problem) = health(&gateway, &required);
    assert!(code == Some(1) && problem.contains("set metrics_listen"), "{problem}");
    let gateway = with_tls_and(&authority, &files, |setup| setup.with("EYE_METRICS_LISTEN", "127.0.0.1:0")).await;
    let monitoring = eventually("monitoring", async || gateway.announced("monitoring is answered")).await;
    let (code, said, problem) = health(&gateway, &[required[0], required[1], ("EYE_METRICS_LISTEN", &monitoring)]);
    assert_eq!(code, Some(0), "{said}{problem}");
}
