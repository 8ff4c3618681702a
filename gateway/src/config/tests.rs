use std::collections::BTreeSet;

use super::*;
use crate::telemetry::LogFormat;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, String)],
) -> Result<(Settings, Config), Problems> {
    let environment = environment.iter().map(|(name, value)| (OsString::from(*name), OsString::from(*value)));
    Settings::from_parts(Some(("eye.toml", file)), environment, flags)
}

#[test]
fn later_sources_win() {
    let file = "writers = 3\nlog_format = \"json\"\nanswer_ms = 1_000\n";
    let flags = [("listen", "127.0.0.1:9".to_owned())];
    let (settings, config) = load(file, &[("EYE_WRITERS", "4"), ("OTHER", "x")], &flags).expect("sound");
    assert_eq!(
        (config.writers, config.log_format, config.answer_ms, config.listen.port()),
        (4, LogFormat::Json, 1_000, 9)
    );
    assert!(settings.show().contains("writers = 4  # environment EYE_WRITERS"));
    assert!(settings.show().contains("log_format = \"json\"  # eye.toml:2"));
}

#[test]
fn a_renamed_setting_is_known_by_its_former_name_and_said_to_be() {
    let (settings, config) = load("queue_parcels_max = 7\n", &[], &[]).expect("sound");
    assert_eq!(config.queue_requests_max, 7);
    assert!(settings.warnings()[0].starts_with("eye.toml:1: queue_parcels_max is called queue_requests_max now"));
    let (settings, config) = load("", &[("EYE_QUEUE_PARCELS_MAX", "8")], &[]).expect("sound");
    assert_eq!(config.queue_requests_max, 8);
    assert!(settings.warnings()[0].starts_with("environment EYE_QUEUE_PARCELS_MAX: "), "{:?}", settings.warnings());
    let both = [("EYE_QUEUE_REQUESTS_MAX", "9"), ("EYE_QUEUE_PARCELS_MAX", "8")];
    assert_eq!(load("", &both, &[]).expect("sound").1.queue_requests_max, 9, "the name of now counts");
    let both = "queue_parcels_max = 8\nqueue_requests_max = 9\n";
    assert_eq!(load(both, &[], &[]).expect("sound").1.queue_requests_max, 9);
    let (settings, _) = load("queue_requests_max = 7\n", &[], &[]).expect("sound");
    assert!(settings.warnings().is_empty());
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let file = "writers = 0\nanswer_ms = \"soon\"\nwriter = 1\nlisten = \"nowhere\"\nbroken =\n";
    let Problems(problems) = load(file, &[("EYE_NONSENSE", "1")], &[]).expect_err("problems");
    for part in [
        "eye.toml:1: writers",
        "eye.toml:2: answer_ms",
        "eye.toml:3: writer is no setting; is writers meant?",
        "eye.toml:4: listen",
        "eye.toml:5:",
        "environment EYE_NONSENSE",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(part)), "{part}: {problems:#?}");
    }
}

#[test]
fn relations_are_told_with_all_else_but_not_of_what_is_wrong_by_itself() {
    let file = "writers = 0\nrequest_bytes_max = 1000\nanswer_ms = \"soon\"\nbatch_age_ms = 59000\n";
    let Problems(problems) = load(file, &[], &[]).expect_err("problems");
    let told = |words: &str| problems.iter().filter(|problem| problem.contains(words)).count();
    assert_eq!(
        (told("writers must be"), told("data_bytes_max must not exceed request_bytes_max")),
        (1, 1),
        "{problems:#?}"
    );
    assert_eq!((told("answer_ms must be"), told("batch_age_ms must be less")), (1, 0), "{problems:#?}");
    let same = "listen = \"0.0.0.0:8000\"\nmetrics_listen = \"127.0.0.1:8000\"\n";
    let Problems(problems) = load(same, &[], &[]).expect_err("one address");
    assert!(problems.len() == 1 && problems[0].contains("metrics_listen must be another"), "{problems:#?}");
    let Problems(problems) = load("tls_client_auth = \"required\"\n", &[], &[]).expect_err("no CA");
    assert!(problems.len() == 1 && problems[0].contains("needs tls_client_ca"), "{problems:#?}");
}

#[test]
fn what_kubernetes_makes_for_a_service_is_no_setting_and_neither_is_what_is_empty() {
    let made = [
        ("EYE_PORT", "tcp://10.96.0.7:8000"),
        ("EYE_SERVICE_HOST", "10.96.0.7"),
        ("EYE_SERVICE_PORT", "8000"),
        ("EYE_SERVICE_PORT_HTTP", "8000"),
        ("EYE_SERVICE_PORT_METRICS_TLS", "9000"),
        ("EYE_PORT_8000_TCP", "tcp://10.96.0.7:8000"),
        ("EYE_PORT_8000_TCP_ADDR", "10.96.0.7"),
        ("EYE_PORT_8000_TCP_PORT", "8000"),
        ("EYE_PORT_8000_TCP_PROTO", "tcp"),
        ("EYE_PORT_53_UDP", "udp://[fd00::7]:53"),
        ("EYE_PORT_53_UDP_PROTO", "udp"),
        ("EYE_PORT_36412_SCTP_ADDR", "fd00::7"),
        ("EYE_POSTGRES_SERVICE_HOST", "10.96.0.8"),
        ("EYE_POSTGRES_PORT", "tcp://10.96.0.8:5432"),
        ("EYE_POSTGRES_PORT_5432_TCP_PROTO", "tcp"),
        ("EYE_GATEWAY", "https://eye.example"),
        ("EYE_TOKEN", "eye_0"),
        ("EYE_NONSENSE", ""),
        ("EYE_WRITERS", ""),
        ("EYE_DATABASE_URL", ""),
        ("EYE_LISTEN_FILE", ""),
    ];
    let file = "database_url = \"postgres://u@h/d\"\nwriters = 3\n";
    let (settings, config) = load(file, &made, &[]).expect("no settings");
    assert_eq!((config.writers, config.database_url.as_ref().map(Secret::expose)), (3, Some("postgres://u@h/d")));
    assert!(settings.warnings().is_empty());
    for (name, value) in [
        ("EYE_PORT", "8000"),
        ("EYE_PORT_HTTP", "8000"),
        ("EYE_PORT_99999_TCP_ADDR", "10.96.0.7"),
        ("EYE_PORT_8000_HTTP_ADDR", "10.96.0.7"),
        ("EYE_SERVICE", "x"),
        ("EYE_HOST", "x"),
        ("EYE_NONSENSE_FILE", "x"),
    ] {
        let Problems(problems) = load("", &[(name, value)], &[]).expect_err(name);
        assert!(problems.len() == 1 && problems[0].contains(name), "{problems:#?}");
    }
}

#[test]
fn a_value_that_is_no_utf_8_is_a_problem_that_names_its_variable() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || OsString::from_vec(b"\xff\xfe".to_vec());
    let named = |name: &str| [(OsString::from(name), bad())].into_iter();
    for name in ["EYE_DATABASE_URL", "EYE_WRITERS", "EYE_NONSENSE", "EYE_DATABASE_URL_FILE"] {
        let Problems(problems) = Settings::from_parts(None, named(name), &[]).expect_err(name);
        assert_eq!(problems, [format!("environment {name}: its value is no UTF-8")]);
    }
    Settings::from_parts(None, named("OTHER"), &[]).expect("none of ours");
    let odd = OsString::from_vec(b"EYE_\xff".to_vec());
    let Problems(problems) = Settings::from_parts(None, [(odd, "x".into())].into_iter(), &[]).expect_err("odd");
    assert!(problems.len() == 1 && problems[0].contains("environment EYE_"), "{problems:#?}");
}

#[test]
fn any_setting_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (url, writers, hosts) =
        (file("url", b"postgres://u:hush@h/d\r\n"), file("writers", b"4\n"), file("hosts", b"eye.example, eye"));
    let given = [
        ("EYE_DATABASE_URL_FILE", &*url),
        ("EYE_WRITERS_FILE", &*writers),
        ("EYE_HOSTS_FILE", &*hosts),
        ("EYE_QUEUE_PARCELS_MAX_FILE", &*writers),
    ];
    let (settings, config) = load("writers = 3\n", &given, &[]).expect("sound");
    assert_eq!(config.database_url.expect("given").expose(), "postgres://u:hush@h/d");
    assert_eq!((config.writers, config.hosts.len(), config.queue_requests_max), (4, 2, 4));
    let shown = settings.show();
    assert!(shown.contains(&format!("writers = 4  # environment EYE_WRITERS_FILE ({writers})")), "{shown}");
    assert!(!shown.contains("hush"), "{shown}");

    let missing = folder.path().join("missing").display().to_string();
    let (empty, binary, large) = (file("empty", b"\n"), file("binary", b"\xff"), file("large", &vec![b'1'; 65_537]));
    for (path, words) in [
        (&*missing, "cannot be read"),
        (&*empty, "is empty"),
        (&*binary, "no UTF-8"),
        (&*large, "more than 65536 bytes"),
        (&*folder.path().display().to_string(), "cannot be read"),
    ] {
        let Problems(problems) = load("", &[("EYE_DATABASE_URL_FILE", path)], &[]).expect_err(path);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        for part in ["EYE_DATABASE_URL_FILE", path, words] {
            assert!(problems[0].contains(part), "{part}: {problems:#?}");
        }
    }
    let both = [("EYE_DATABASE_URL_FILE", &*url), ("EYE_DATABASE_URL", "postgres://u@h/other")];
    let Problems(problems) = load("", &both, &[]).expect_err("both");
    assert!(problems.len() == 1 && problems[0].contains("EYE_DATABASE_URL_FILE is given too"), "{problems:#?}");
    let wrong = [("EYE_WRITERS_FILE", &*url)];
    let Problems(problems) = load("", &wrong, &[]).expect_err("no number");
    assert!(problems.len() == 1 && problems[0].contains("EYE_WRITERS_FILE"), "{problems:#?}");
}

#[test]
fn an_origin_that_no_browser_sends_is_a_problem_that_says_why() {
    for (origins, words) in [
        ("https://x:443", "leave out the port"),
        ("https://x.example, https://y.example/", "also a slash"),
        ("https://x.example/cart", "after the host"),
    ] {
        let Problems(problems) = load("", &[("EYE_CORS_ORIGINS", origins)], &[]).expect_err(origins);
        assert!(problems.len() == 1 && problems[0].contains(words), "{problems:#?}");
    }
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let Problems(problems) = load("request_bytes_max = 1000\nanswer_ms = 10\n", &[], &[]).expect_err("contradictions");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    let Problems(problems) = load("proxy_protocol = \"required\"\n", &[], &[]).expect_err("anybody could say anything");
    assert!(problems.len() == 1 && problems[0].contains("trusted_proxies"), "{problems:#?}");
    let named = "proxy_protocol = \"required\"\ntrusted_proxies = \"::ffff:10.0.0.0/104\"\n";
    let (_, config) = load(named, &[], &[]).expect("sound");
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().expect("a network")]);
}

#[test]
fn host_names_are_a_list_without_ports() {
    let (settings, config) = load("hosts = [\"eye.example\", \"eye\"]\n", &[], &[]).expect("sound");
    assert_eq!(config.hosts, ["eye.example", "eye"]);
    assert!(settings.show().contains("hosts = \"eye.example, eye\"  # eye.toml:1"), "{}", settings.show());
    for wrong in ["eye.example:8000", "https://eye.example", "eye.example/x", "*.example"] {
        let Problems(problems) = load(&format!("hosts = \"{wrong}\"\n"), &[], &[]).expect_err(wrong);
        assert!(problems.len() == 1 && problems[0].contains("without a port"), "{problems:#?}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let (settings, config) = load("", &[("EYE_DATABASE_URL", "postgres://a:hush@b/c")], &[]).expect("sound");
    assert!(!settings.show().contains("hush"));
    assert!(!format!("{config:?}").contains("hush"));
    assert_eq!(config.database_url.expect("given").expose(), "postgres://a:hush@b/c");
}

#[test]
fn a_database_url_that_is_not_understood_is_a_problem_in_words() {
    for (url, words) in [
        ("mysql://u:hush@h/d", "no other database is understood"),
        ("postgres://u:hush@h:99999/d", "a port must be"),
        ("postgres://u:hush@h/d?sslmode=requre", "sslmode must be"),
        ("postgres://u:hush@h/d?pool=7", "the parameter pool is not understood"),
    ] {
        let Problems(problems) = load("", &[("EYE_DATABASE_URL", url)], &[]).expect_err(url);
        assert!(problems.len() == 1 && problems[0].contains(words), "{problems:#?}");
        assert!(!problems[0].contains("hush"), "{problems:#?}");
    }
    load("", &[("EYE_DATABASE_URL", "postgres://u:p@[::1]:5432,h2/d?target_session_attrs=read-write")], &[])
        .expect("sound");
}

/// With `EYE_UPDATE_PAGES` set, it writes the example file anew from the rows.
#[test]
fn the_example_file_is_made_of_the_rows() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/eye.example.toml");
    let made = example();
    if std::env::var_os("EYE_UPDATE_PAGES").is_some() {
        std::fs::write(&file, &made).expect("the example file");
    }
    let written = std::fs::read_to_string(&file).expect("the example file");
    assert!(written == made, "docs/eye.example.toml differs from the rows: run this test with EYE_UPDATE_PAGES=1");
}

#[test]
fn the_example_file_has_every_setting_with_its_default_and_its_consequence() {
    let example = example();
    let uncommented: String =
        example.lines().filter_map(|line| line.strip_prefix("#: ")).map(|line| format!("{line}\n")).collect();
    let (settings, _) = load(&uncommented, &[], &[]).expect("the example is sound");
    let words = |text: &str| text.replace("\n# ", " ");
    for setting in SETTINGS {
        let given = &settings.values[setting.key];
        assert!(matches!(given.origin, Origin::File(_)), "{} is missing", setting.key);
        assert_eq!(given.text, setting.default, "{}", setting.key);
        assert!(words(&example).contains(setting.consequence), "{} says something else", setting.key);
    }
    assert!(example.lines().all(|line| line.len() <= 120), "lines fit on a screen");
}

#[test]
fn no_name_is_given_twice() {
    let names = SETTINGS.iter().flat_map(|setting| std::iter::once(&setting.key).chain(setting.former));
    let mut seen = BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "{name} is given twice");
    }
}

/// Another text that a setting may have, as a file has it.
fn another(setting: &Setting) -> String {
    match setting.kind {
        Kind::Integer { max, .. } => {
            let default: u64 = setting.default.parse().expect("a number");
            (if default < max { default + 1 } else { default - 1 }).to_string()
        }
        Kind::OptionalInteger { .. } => "7".to_owned(),
        Kind::Address | Kind::OptionalAddress => "\"127.0.0.1:9\"".to_owned(),
        Kind::Path | Kind::OptionalPath => "\"elsewhere\"".to_owned(),
        Kind::Secret if setting.key == "notify_url" => "\"https://other.example\"".to_owned(),
        Kind::Secret => "\"postgres://u@h/other\"".to_owned(),
        Kind::Networks => "\"10.1.0.0/16\"".to_owned(),
        Kind::Origins => "\"https://shop.example\"".to_owned(),
        Kind::Hosts => "\"eye.example\"".to_owned(),
        Kind::OptionalName => "\"another\"".to_owned(),
        Kind::EventTypes => "\"shop/*\"".to_owned(),
        Kind::Switch => (setting.default != "true").to_string(),
        Kind::Choice(words) => format!("{:?}", words.iter().find(|word| **word != setting.default).expect("another")),
    }
}

/// The rows say which settings a reload applies. Running parts take nothing else of a reload than [`parts::Changeable`].
#[test]
fn a_reload_gives_to_the_parts_the_settings_whose_row_says_so_and_no_others() {
    const BASE: [(&str, &str); 7] = [
        ("tls_certificate", "\"a\""),
        ("tls_key", "\"b\""),
        ("tls_client_ca", "\"c\""),
        ("trusted_proxies", "\"10.0.0.0/8\""),
        ("database_url", "\"postgres://u@h/d\""),
        ("notify_url", "\"https://chat.example\""),
        ("notify_secret", "\"sixteen bytes or more\""),
    ];
    for setting in SETTINGS {
        // Callers are `local` only where the gateway has a Postgres of its own.
        let base = || BASE.into_iter().filter(|(key, _)| setting.key != "local" || *key != "database_url");
        let taken = |changed: Option<String>| {
            let own = changed.iter().map(|value| format!("{} = {value}\n", setting.key));
            let others = base().filter(|(key, _)| changed.is_none() || *key != setting.key);
            let text: String = others.map(|(key, value)| format!("{key} = {value}\n")).chain(own).collect();
            let (_, config) = load(&text, &[], &[]).unwrap_or_else(|error| panic!("{}: {error}", setting.key));
            format!("{:?}", parts::changeable(&config))
        };
        let differs = taken(None) != taken(Some(another(setting)));
        assert_eq!(differs, setting.reload, "{}: the parts take it, or its row says so", setting.key);
    }
}

/// The page for operators lists each setting once: in the table of what a reload applies, or in that of what a restart does.
#[test]
fn the_page_about_reloads_lists_each_setting_where_its_row_puts_it() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let page = std::fs::read_to_string(file).expect("the page");
    let (_, section) = page.split_once("| a reload applies |").expect("the table of a reload");
    let (reload, rest) = section.split_once("| a restart applies |").expect("the table of a restart");
    let (restart, _) = rest.split_once("\n\n").expect("the end of the table");
    let listed = |table: &str| -> Vec<String> {
        let first = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next().map(str::to_owned));
        let mut keys: Vec<String> =
            first.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect();
        keys.sort();
        keys
    };
    for (table, is_reload) in [(reload, true), (restart, false)] {
        let mut rows: Vec<_> =
            SETTINGS.iter().filter(|row| row.reload == is_reload).map(|row| row.key.to_owned()).collect();
        rows.sort();
        assert_eq!(listed(table), rows, "a reload applies them: {is_reload}");
    }
}
