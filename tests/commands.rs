//! How commands behave beside their work: they end quietly at a closed pipe, say where they looked, and refuse at once
//! what they cannot do.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::cluster::Server;
use crate::support::{Gateway, digest_of, event, eventually, folder, module};

fn eye(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The exit code and both outputs.
fn ran(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command whose standard output is closed. Returns how it ended, and its messages.
fn unread(arguments: &[&str], folder: &std::path::Path) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut child =
        eye(arguments).current_dir(folder).stdout(writer).stderr(Stdio::piped()).spawn().expect("the program");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (child.wait().expect("it ends").code(), said)
}

#[tokio::test]
async fn a_closed_pipe_ends_every_command_quietly() {
    let server = Server::start();
    server.prepare();
    let url = server.url();
    server.sql(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes)
         select now(), gen_random_uuid(), 'rejected', 'envelope', 'x', '[]', id, 'x', 1
         from applications, generate_series(1, 2000)",
    );
    let folder = folder();
    std::fs::create_dir(folder.path().join("modules")).expect("a folder");
    let gateway = Gateway::start().await;
    gateway.drop_module("guests/accepts.wasm", &module("accepts"));
    gateway.validator("guests/accepts", "active").await;
    let (modules, data) = (gateway.data_dir().with_file_name("modules"), gateway.data_dir());
    let (modules, data) = (modules.to_str().expect("a path"), data.to_str().expect("a path"));
    for arguments in [
        &["app", "list", "--database-url", &url][..],
        &["app", "add", "new", "--token", "--database-url", &url],
        &["app", "rotate", "new", "--database-url", &url],
        &["dead-letters", "list", "--limit", "2000", "--database-url", &url],
        &["dead-letters", "redrive", "--database-url", &url],
        &["partitions", "list", "--database-url", &url],
        &["retention", "show", "--database-url", &url],
        &["migrate", "--database-url", &url],
        &["config", "check"],
        &["validator", "list", "--modules", modules, "--data-dir", data],
        &["validator", "history", "guests/accepts", "--modules", modules, "--data-dir", data],
        &["--help"],
        &["--version"],
        &["app", "--help"],
    ] {
        let (code, said) = unread(arguments, folder.path());
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        // The line that names the database is no complaint.
        let complaints = said.lines().filter(|line| !line.starts_with("eye: on the "));
        let complaint = complaints.into_iter().find(|line| line.contains("panicked") || line.contains("eye: "));
        assert_eq!(complaint, None, "{arguments:?}");
    }
    let (code, said) = unread(&["app", "revoke", "nobody", "--database-url", &url], folder.path());
    assert!(code == Some(1) && said.contains("nobody"), "a failure is a failure: {said}");
}

#[tokio::test]
async fn a_gateway_goes_on_when_nobody_reads_its_log() {
    let folder = folder();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let url = "postgres://u@127.0.0.1:1/d";
    let arguments = ["serve", "--listen", &address, "--database-url", url, "--data-dir", "data"];
    let mut child = eye(&arguments).current_dir(folder.path()).stderr(writer).spawn().expect("the program");
    let client = reqwest::Client::new();
    for path in ["healthz", "readyz", "v1/events", "healthz"] {
        eventually("it answers", async || client.get(format!("http://{address}/{path}")).send().await.ok()).await;
    }
    assert!(child.try_wait().expect("a child").is_none(), "it runs");
    crate::support::kill(child.id(), "TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[tokio::test]
async fn a_redrive_without_a_modules_directory_is_refused_at_once() {
    let server = Server::start();
    server.prepare();
    for what in ["redrive", "scrub"] {
        let command = eye(&["dead-letters", what, "--modules", "/etc/hostname", "--database-url", &server.url()]);
        let (code, _, said) = ran(command);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("/etc/hostname is no directory") && said.contains("--modules"), "{said}");
    }
}

#[tokio::test]
async fn a_redrive_works_over_http_whether_it_stores_or_not() {
    let gateway = Gateway::start().await;
    let (strict, lenient) = (module("refuses_some"), module("accepts"));
    gateway.drop_module("guests/named.wasm", &strict);
    gateway.validator("guests/named", "active").await;
    for _ in 0..3 {
        assert_eq!(gateway.send(&event("guests", "named", json!({"refuse": true}))).await.status, 422);
    }
    eventually("the letters are kept", async || {
        (gateway.sql("select count(*) from dead_letters") == "3").then_some(())
    })
    .await;
    gateway.drop_module("guests/named.wasm", &lenient);
    eventually("it serves", async || {
        let shown = gateway.validator("guests/named", "active").await;
        (shown["digest"] == digest_of(&lenient)).then_some(())
    })
    .await;
    let add = |name: &str, scope: &[&str]| {
        let arguments = [&["app", "add", name, "--token", "--data-dir", "data"], scope].concat();
        let (code, token, said) = ran(gateway.command_beside(&arguments));
        assert_eq!(code, Some(0), "{said}");
        token.trim().to_owned()
    };
    let reader = add("reader", &["--scope", "read"]);
    let shipper = add("shipper", &["--scope", "ship", "--ship-event-type", "guests/*"]);
    let admin = gateway.admin_token().expect("it made one");
    let redrive = |token: &str, arguments: &[&str]| {
        let mut command = eye(&[&["dead-letters", "redrive"], arguments].concat());
        command.env("EYE_GATEWAY", format!("http://{}", gateway.address())).env("EYE_TOKEN", token);
        ran(command)
    };
    let digest = digest_of(&strict);
    for token in [&reader, &shipper, &admin] {
        let known = async || {
            let request = gateway.request("GET", "/v1/dead-letters").bearer_auth(token);
            (gateway.answer(request).await.status != 401).then_some(())
        };
        eventually("the token is known", known).await;
        let (code, told, said) = redrive(token, &["--validator", &digest]);
        let sums = "dry run: stored 3, duplicate 0, rejected 0, quarantined 0, skipped 0\n";
        assert!(code == Some(0) && told.ends_with(sums), "{told}{said}");
        assert_eq!(told.lines().count(), 4, "a line for each letter: {told}");
        let (code, told, said) = redrive(token, &["--validator", &digest_of(&lenient)]);
        assert!(code == Some(0) && told.starts_with("dry run: stored 0"), "{told}{said}");
    }
    assert_eq!(gateway.sql("select count(*) from events"), "0");
    let id = gateway.sql("select id from dead_letters order by received_at limit 1");
    let (code, _, said) = redrive(&reader, &[&id, "--store"]);
    assert!(code == Some(1) && said.contains("not_allowed"), "{said}");
    let (code, _, said) = redrive(&admin, &[&id, "--code", "rule"]);
    assert!(code == Some(1) && said.contains("ids or a filter"), "{said}");
    let (code, told, said) = redrive(&admin, &[&id, "--store"]);
    assert!(code == Some(0) && told.contains("\nstored 1, "), "{told}{said}");
    let (code, told, said) = redrive(&shipper, &["--validator", &digest, "--store"]);
    assert!(code == Some(0) && told.contains("stored 2, "), "{told}{said}");
    assert_eq!(gateway.sql("select count(*) from events"), "3");
    // A modules directory of its own is for the database alone.
    let (code, _, said) = redrive(&admin, &["--modules", "modules"]);
    assert!(code == Some(1) && said.contains("unset EYE_GATEWAY"), "{said}");
}

#[test]
fn a_command_on_files_says_where_it_looked() {
    let folder = folder();
    let here = folder.path().display().to_string();
    for (arguments, code) in [
        (&["validator", "rollback", "shop/sale"][..], Some(1)),
        (&["validator", "history", "shop/sale"], Some(0)),
        (&["validator", "retire", "shop/sale"], Some(1)),
    ] {
        let mut command = eye(arguments);
        command.current_dir(folder.path());
        let (found, _, said) = ran(command);
        assert_eq!(found, code, "{arguments:?}: {said}");
        for part in ["shop/sale", &format!("{here}/modules"), &format!("{here}/eye-data"), "--data-dir"] {
            if arguments[1] != "retire" || part != "shop/sale" {
                assert!(said.contains(part), "{arguments:?}: {part}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_change_takes_networks_scopes_and_event_types_away() {
    let server = Server::start();
    server.prepare();
    let url = server.url();
    let app = |arguments: &[&str]| ran(eye(&[&["app"], arguments, &["--database-url", &url]].concat()));
    let digest = "0f".repeat(32);
    let added = app(&[
        "add",
        "shop",
        "--token",
        "--network",
        "10.0.0.0/8",
        "--network",
        "192.0.2.0/24",
        "--network",
        "::ffff:198.51.100.0/120",
        "--scope",
        "ingest",
        "--scope",
        "read",
        "--event-type",
        "shop/sale",
        "--event-type",
        "shop/*",
        "--certificate-sha256",
        &digest,
    ]);
    assert_eq!(added.0, Some(0), "{added:?}");
    let row = |column: &str| server.sql(&format!("select {column} from applications where name = 'shop'"));
    let done = app(&[
        "change",
        "shop",
        "--remove-network",
        "10.0.0.0/8",
        "--remove-network",
        "198.51.100.0/24",
        "--remove-scope",
        "read",
        "--remove-event-type",
        "shop/*",
        "--remove-certificate-sha256",
        &digest.to_uppercase(),
    ]);
    assert_eq!(done.0, Some(0), "{done:?}");
    assert_eq!(row("networks, scopes, event_types, certificate_digests"), "{192.0.2.0/24}|{ingest}|{shop/sale}|{}");
    for (arguments, words) in [
        (&["--remove-network", "10.0.0.0/8"][..], "it has 192.0.2.0/24"),
        (&["--remove-scope", "read"], "it has ingest"),
        (&["--remove-event-type", "shop/theft"], "it has shop/sale"),
        (&["--remove-event-type", "shop/sale"], "--any-event-type"),
        (&["--remove-network", "192.0.2.0/24"], "known by its network and has none"),
    ] {
        let (code, _, said) = app(&[&["change", "shop"], arguments].concat());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(row("networks, scopes, event_types"), "{192.0.2.0/24}|{ingest}|{shop/sale}", "nothing was changed");
    let done = app(&["change", "shop", "--known-by", "token", "--remove-network", "192.0.2.0/24"]);
    assert_eq!(done.0, Some(0), "{done:?}");
    assert_eq!(row("networks, known_by"), "{}|token");
    assert_eq!(app(&["change", "nobody", "--remove-scope", "read"]).0, Some(1));
    assert_eq!(app(&["change", "shop", "--network", "10.0.0.0/8", "--remove-network", "192.0.2.0/24"]).0, Some(64));
}

#[test]
fn every_shell_gets_its_completions_and_every_command_its_page() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, said, problem) = ran(eye(&["completions", shell]));
        assert_eq!((code, problem.as_str()), (Some(0), ""), "{shell}");
        for word in ["dead-letters", "redrive", "health", "event-type"] {
            assert!(said.contains(word), "{shell} completes {word}");
        }
        assert!(!said.contains(eye_judge::LOADER_COMMAND), "{shell}: what gateways call is for nobody else");
    }
    let (code, said, _) = ran(eye(&["completion", "bash"]));
    assert!(code == Some(0) && said.contains("validator"), "the other name, and the author's commands");
    assert_eq!(ran(eye(&["completions", "tcsh"])).0, Some(64));
    let folder = folder();
    let pages = folder.path().join("pages");
    let (code, said, problem) = ran(eye(&["man", pages.to_str().expect("a path")]));
    assert_eq!((code, problem.as_str()), (Some(0), ""));
    let there = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap_or_default();
    for name in said.lines() {
        let page = there(name);
        assert!(page.contains(".SH NAME") && page.contains(".SH \"EXIT STATUS\""), "{name}: {page}");
    }
    assert!(there("eye-app-add.1").contains("burst"), "{said}");
    assert_eq!(ran(eye(&["man"])).1.trim_end(), there("eye.1").trim_end());
    assert!(!said.contains(eye_judge::LOADER_COMMAND));
}
