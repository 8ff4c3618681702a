//! The sources of settings: the environment of Kubernetes and of people, and files that hold one value; and what `eye
//! config check` checks of all of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::support::{Setup, folder, pageview};

/// Runs `eye config check` with these variables alone. Returns the exit code and both outputs.
fn check(variables: &[(&str, &OsStr)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(["config", "check"]).args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn variable<'a>(name: &'a str, value: &'a str) -> (&'a str, &'a OsStr) {
    (name, OsStr::new(value))
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

/// All problems in one run of `eye config check`.
fn problems(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let variables: Vec<_> = variables.iter().map(|(name, value)| variable(name, value)).collect();
    let (code, _, problems) = check(&variables, arguments);
    assert_eq!(code, Some(64), "{problems}");
    problems
}

#[tokio::test]
async fn a_service_of_kubernetes_named_eye_stops_no_pod() {
    let made = [
        ("EYE_PORT", "tcp://10.96.0.7:8000"),
        ("EYE_SERVICE_HOST", "10.96.0.7"),
        ("EYE_SERVICE_PORT", "8000"),
        ("EYE_SERVICE_PORT_HTTP", "8000"),
        ("EYE_PORT_8000_TCP", "tcp://10.96.0.7:8000"),
        ("EYE_PORT_8000_TCP_ADDR", "10.96.0.7"),
        ("EYE_PORT_8000_TCP_PORT", "8000"),
        ("EYE_PORT_8000_TCP_PROTO", "tcp"),
        ("EYE_PORT_9000_UDP_PROTO", "udp"),
    ];
    let mut setup = Setup::default();
    for (name, value) in made {
        setup = setup.with(name, value);
    }
    // An empty variable counts as not set.
    let gateway = setup.with("EYE_WRITERS", "").start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let variables: Vec<_> = made.iter().map(|(name, value)| variable(name, value)).collect();
    assert_eq!(check(&variables, &[]).0, Some(0));
    assert!(problems(&[("EYE_PORT", "8000")], &[]).contains("EYE_PORT"));
}

#[test]
fn an_empty_variable_does_not_beat_the_file() {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, "database_url = \"postgres://u@h/d\"\nwriters = 3\n").expect("a file");
    let file = file.to_str().expect("a path");
    let empty = [variable("EYE_DATABASE_URL", ""), variable("EYE_WRITERS", ""), variable("EYE_ANYTHING", "")];
    let (code, shown, problems) = check(&empty, &["--config", file]);
    assert_eq!(code, Some(0), "{problems}");
    assert!(shown.contains(&format!("writers = 3  # {file}:2")), "{shown}");
    assert!(shown.contains(&format!("database_url = [hidden]  # {file}:1")), "{shown}");
}

#[test]
fn a_variable_that_is_no_utf_8_is_wrong_configuration_and_named() {
    for name in ["EYE_DATABASE_URL", "EYE_LISTEN", "EYE_NONSENSE", "EYE_WRITERS_FILE", "PGPASSWORD"] {
        let (code, _, problems) = check(&[(name, OsStr::from_bytes(b"\xff\xfe"))], &[]);
        assert_eq!(code, Some(64), "{name}: {problems}");
        assert!(problems.contains(name) && problems.contains("UTF-8"), "{problems}");
    }
}

#[tokio::test]
async fn a_setting_is_read_from_the_file_that_its_variable_names() {
    let folder = folder();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let setup = Setup::default().with("EYE_UNKNOWN_EVENT_TYPE_FILE", path("unknown", "reject\n"));
    let gateway = setup.start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 422);
    drop(gateway);
    let (url, gone) = (path("url", "postgres://u:hush@h/d\n"), folder.path().join("gone").display().to_string());
    let (code, shown, _) = check(&[variable("EYE_DATABASE_URL_FILE", &url)], &[]);
    assert_eq!(code, Some(0));
    assert!(
        shown.contains(&format!("environment EYE_DATABASE_URL_FILE ({url})")) && !shown.contains("hush"),
        "{shown}"
    );
    let large = path("large", &"x".repeat(100_000));
    for (file, words) in [(&gone, "cannot be read"), (&large, "more than"), (&path("empty", "\n"), "empty")] {
        let told = problems(&[("EYE_DATABASE_URL_FILE", file)], &[]);
        assert!(told.contains("EYE_DATABASE_URL_FILE") && told.contains(&**file) && told.contains(words), "{told}");
    }
    let told = problems(&[("EYE_DATABASE_URL_FILE", &url), ("EYE_DATABASE_URL", "postgres://u@h/d")], &[]);
    assert!(told.contains("EYE_DATABASE_URL") && told.contains("EYE_DATABASE_URL_FILE"), "{told}");
    assert!(!told.contains("hush"), "{told}");
}

/// Writes a certificate that is valid between two years, and its key, as files.
fn pair(folder: &Path, name: &str, years: (i32, i32)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let (file, key_file) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&file, certificate.pem()).expect("a file");
    std::fs::write(&key_file, key.serialize_pem()).expect("a file");
    (file.display().to_string(), key_file.display().to_string())
}

#[test]
fn a_check_proves_the_files_of_tls() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (good, key) = pair(folder.path(), "good", (2020, 2090));
    let (_, other_key) = pair(folder.path(), "other", (2020, 2090));
    let (old, old_key) = pair(folder.path(), "old", (2020, 2021));
    let (early, early_key) = pair(folder.path(), "early", (2090, 2091));
    let sound = [variable("EYE_TLS_CERTIFICATE", &good), variable("EYE_TLS_KEY", &key)];
    let (code, _, told) = check(&sound, &[]);
    assert_eq!(code, Some(0), "{told}");
    let tls =
        |certificate: &str, key: &str| problems(&[("EYE_TLS_CERTIFICATE", certificate), ("EYE_TLS_KEY", key)], &[]);
    let missing = tls(&at("none.pem"), &at("none.key"));
    for name in ["none.pem", "none.key"] {
        assert!(missing.lines().any(|line| line.contains(name) && line.contains("cannot be read")), "{missing}");
    }
    assert!(tls(&key, &key).contains("no certificate"));
    assert!(tls(&good, &good).contains("no private key"));
    let unlike = tls(&good, &other_key);
    assert!(unlike.contains("cannot be used"), "{unlike}");
    let old = tls(&old, &old_key);
    assert!(old.contains("has expired") && old.contains("2021-01-01"), "{old}");
    let early = tls(&early, &early_key);
    assert!(early.contains("is not valid yet") && early.contains("2090-01-01"), "{early}");
}

#[test]
fn a_check_tells_all_that_is_wrong_at_once() {
    let folder = folder();
    let gone = folder.path().join("gone").display().to_string();
    let told = problems(
        &[
            ("EYE_WRITERS", "0"),
            ("EYE_NONSENSE", "1"),
            ("EYE_LISTEN", "127.0.0.1:8000"),
            ("EYE_METRICS_LISTEN", "127.0.0.1:8000"),
            ("EYE_REQUEST_BYTES_MAX", "1000"),
            ("EYE_MODULES", &gone),
            ("EYE_TLS_CERTIFICATE", &gone),
            ("EYE_TLS_KEY", &gone),
            ("EYE_CORS_ORIGINS", "https://x.example:443"),
            ("EYE_DATABASE_URL", "postgres://u:hush@h:99999/d"),
        ],
        &[],
    );
    for words in [
        "EYE_WRITERS",
        "EYE_NONSENSE",
        "metrics_listen must be another",
        "data_bytes_max must not exceed request_bytes_max",
        "the modules directory",
        "cannot be read",
        "leave out the port",
        "a port must be",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("hush"), "{told}");
    let told = problems(&[("EYE_DATABASE_URL", "postgres://u@h/d?sslmode=requre")], &[]);
    assert!(told.contains("sslmode must be"), "{told}");
    let url = format!("postgres://u@h/d?sslmode=verify-full&sslrootcert={gone}");
    assert!(problems(&[("EYE_DATABASE_URL", &url)], &[]).contains("sslrootcert"));
}

#[test]
fn a_check_looks_who_may_read_a_password() {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "database_url = \"postgres://u:hush@h/d\"\n").expect("a file");
    mode(&file, 0o644);
    let told = problems(&[], &["--config", path]);
    assert!(told.contains("eye.toml:1") && told.contains("everybody") && !told.contains("hush"), "{told}");
    mode(&file, 0o640);
    assert_eq!(check(&[], &["--config", path]).0, Some(0));
    std::fs::write(&file, "database_url = \"postgres://u@h/d\"\nwriters = 2\n").expect("a file");
    mode(&file, 0o644);
    assert_eq!(check(&[], &["--config", path]).0, Some(0), "there is no password in it");
}

#[test]
fn a_settings_file_beyond_its_bound_is_not_cut() {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    let comment = format!("# {}\n", "x".repeat(1_000));
    std::fs::write(&file, comment.repeat(2_000) + "writers = 3\n").expect("a file");
    let told = problems(&[], &["--config", file.to_str().expect("a path")]);
    assert!(told.contains("eye.toml") && told.contains("more than"), "{told}");
}
