//! Checks that the names in the code, the documentation, the dashboard and the alert rules are the same.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Kind, METRICS, Metric};

const DOCUMENTED: &str = include_str!("../../monitoring/METRICS.md");
const DASHBOARD: &str = include_str!("../../monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../monitoring/alerts.yml");

/// The rows of the tables in the documentation: name, type, labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let rows = DOCUMENTED.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "a row has six cells: {line}");
        assert!(cells[4].len() > 10, "no meaning: {line}");
        let labels = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), labels))
    })
    .collect()
}

/// All words of a text that are metric names of ours or of the process.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("eye_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let documented = documented();
    for metric in METRICS {
        let (kind, labels) = documented.get(metric.name).unwrap_or_else(|| panic!("{} is not documented", metric.name));
        assert_eq!(kind, metric.kind.as_str(), "{}", metric.name);
        assert_eq!(labels, metric.labels, "{}", metric.name);
    }
    for name in documented.keys() {
        assert!(METRICS.iter().any(|metric| metric.name == name), "{name} is documented, and is no metric");
    }
}

#[test]
fn names_end_as_their_kind_and_unit_want_it() {
    for metric in METRICS {
        let counts = metric.name.ends_with("_total");
        assert_eq!(counts, metric.kind == Kind::Counter, "{}", metric.name);
        assert!(!metric.labels.contains(&"le"), "{}", metric.name);
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{}", metric.name);
    }
    let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len(), "no name twice");
}

#[test]
fn the_dashboard_and_the_alert_rules_name_only_metrics_that_exist() {
    for (place, text) in [("dashboard.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        let names = named(text);
        assert!(names.len() > 10, "{place} is read as it should be");
        for name in names {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let found = METRICS.iter().any(|metric| match metric.kind {
                Kind::Histogram => base == Some(metric.name),
                _ => metric.name == name,
            });
            assert!(found, "{place} names {name}, which is not there");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard_but_those_that_only_alerts_need() {
    let (shown, alerted) = (named(DASHBOARD), named(ALERTS));
    // The dashboard shows a renamed metric by its current name.
    let is_former = |metric: &&&Metric| metric.help.starts_with("The former name of ");
    for metric in METRICS.iter().filter(|metric| !is_former(metric)) {
        let seen = |names: &BTreeSet<String>| names.iter().any(|name| name.starts_with(metric.name));
        assert!(seen(&shown) || seen(&alerted), "{} is shown nowhere", metric.name);
    }
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "no id twice");
    for panel in panels {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        assert!(panel["gridPos"]["w"].as_u64().is_some_and(|width| (1..=24).contains(&width)), "{panel}");
        if panel["type"] != "row" {
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{panel}");
        }
    }
}
