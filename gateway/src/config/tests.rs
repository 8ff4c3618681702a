use std::collections::BTreeSet;

use super::*;
use crate::telemetry::LogFormat;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, String)],
) -> Result<(Settings, Config), Problems> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
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

/// With `EYE_UPDATE_PAGES` set, the example file becomes what the rows make.
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
        assert!(given.origin.starts_with("eye.toml"), "{} is missing", setting.key);
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
