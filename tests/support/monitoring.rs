//! The files of `gateway/monitoring` as tests read them: rules, their cases, the panels of the dashboard, the queries of the
//! pages, and as much of PromQL as says which metrics and labels a query names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A path of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of rules and dashboard.
pub(crate) fn folder() -> PathBuf {
    root().join("gateway/monitoring")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A recording or alert rule.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) is_alert: bool,
    pub(crate) expr: String,
    /// The labels that it sets, as they are written.
    pub(crate) labels: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// All rules, in order. Reads the form in which `alerts.yml` is written, and no other.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut is_in_expr = false;
    for line in text(&folder().join("alerts.yml")).lines() {
        let begins =
            |word: &str| line.strip_prefix("      - ").and_then(|rest| rest.strip_prefix(word)).map(str::to_owned);
        if let Some((name, is_alert)) =
            begins("alert: ").map(|name| (name, true)).or_else(|| begins("record: ").map(|name| (name, false)))
        {
            rules.push(Rule { name, is_alert, ..Rule::default() });
            is_in_expr = false;
            continue;
        }
        let Some(rule) = rules.last_mut() else { continue };
        if let Some(rest) = line.strip_prefix("          ") {
            match rest.split_once(": ") {
                _ if is_in_expr => rule.expr.extend([rest.trim(), " "]),
                Some((key, value)) => {
                    rule.annotations.insert(key.to_owned(), value.trim_matches('"').to_owned());
                }
                None => panic!("not read: {line}"),
            }
        } else if let Some(rest) = line.strip_prefix("        ") {
            is_in_expr = rest == "expr: |";
            match rest.split_once(": ") {
                _ if is_in_expr => {}
                Some(("expr", expr)) => expr.clone_into(&mut rule.expr),
                Some(("labels", labels)) => labels.clone_into(&mut rule.labels),
                Some(("for", _)) => {}
                _ if rest == "annotations:" => {}
                _ => panic!("not read: {line}"),
            }
        }
    }
    for rule in &mut rules {
        rule.expr.truncate(rule.expr.trim_end().len());
    }
    rules
}

/// The cases of promtool: each series that they give, and for each alert whether it is looked for and whether it is to be
/// silent.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    pub(crate) series: Vec<String>,
    pub(crate) fires: BTreeSet<String>,
    pub(crate) is_silent: BTreeSet<String>,
}

/// The files of these cases.
pub(crate) const CASES: [&str; 2] = ["alerts.test.yml", "alerts.long.test.yml"];

pub(crate) fn cases() -> Cases {
    let mut cases = Cases::default();
    for file in CASES {
        let mut alert = None;
        for line in text(&folder().join(file)).lines().map(str::trim) {
            if let Some(series) = line.strip_prefix("- series: ") {
                cases.series.push(series.trim_matches('\'').to_owned());
            } else if let Some(name) = line.strip_prefix("alertname: ") {
                alert = Some(name.to_owned());
            } else if let Some(expected) = line.strip_prefix("exp_alerts:") {
                let alert = alert.take().expect("the name comes before what is expected");
                if expected.trim() == "[]" { &mut cases.is_silent } else { &mut cases.fires }.insert(alert);
            }
        }
    }
    cases
}

/// The queries of the dashboard's panels, each with the title of its panel and its legend.
pub(crate) fn panels() -> Vec<(String, String, String)> {
    let dashboard: serde_json::Value =
        serde_json::from_str(&text(&folder().join("dashboard.json"))).expect("the dashboard is JSON");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = |panel: &serde_json::Value| panel["targets"].as_array().cloned().unwrap_or_default();
    panels
        .flat_map(|panel| {
            targets(panel)
                .into_iter()
                .map(|target| (word(&panel["title"]), word(&target["expr"]), word(&target["legendFormat"])))
        })
        .collect()
}

/// The queries that pages show, each with its page.
pub(crate) fn shown() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|end| end != "md") {
                continue;
            }
            let page = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for block in text(&path).split("\n```promql\n").skip(1) {
                let query = block.split("\n```").next().unwrap_or_default();
                found.push((page.clone(), query.to_owned()));
            }
        }
    }
    found
}

/// The sections of the runbook, by the names of their alerts.
pub(crate) fn runbook() -> BTreeMap<String, String> {
    let page = text(&root().join("docs/runbook.md"));
    let sections = page.split("\n### ").skip(1);
    sections
        .map(|section| {
            let (name, text) = section.split_once('\n').expect("a heading and a text");
            (name.to_owned(), text.split("\n## ").next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// A metric that a query selects, with what it wants of the labels: name, operator, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<(String, String, String)>,
}

/// What a query names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) selectors: Vec<Selector>,
    /// The lists of labels after `by`, `on` and the like.
    pub(crate) label_lists: Vec<Vec<String>>,
}

const WORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "ignoring"];
const LISTS: [&str; 5] = ["by", "on", "without", "group_left", "group_right"];

/// Reads what a query of PromQL names.
pub(crate) fn named(query: &str) -> Named {
    let mut named = Named::default();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        if first == '[' {
            rest = rest.split_once(']').unwrap_or_else(|| panic!("no ]: {query}")).1;
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| is_word(c) || c == '.');
        } else if is_word(first) {
            let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
            rest = after.trim_start();
            if LISTS.contains(&word) {
                let Some(list) = rest.strip_prefix('(') else { continue };
                let (list, after) = list.split_once(')').unwrap_or_else(|| panic!("no ): {query}"));
                named.label_lists.push(list.split(',').map(|label| label.trim().to_owned()).collect());
                rest = after;
            } else if WORDS.contains(&word)
                || rest.starts_with('(')
                || ["by ", "by(", "without"].iter().any(|list| rest.starts_with(list))
            {
                // A word of the language, a function, or an aggregation.
            } else {
                let (matchers, after) = match rest.strip_prefix('{') {
                    Some(inside) => matchers(inside),
                    None => (Vec::new(), rest),
                };
                named.selectors.push(Selector { metric: word.to_owned(), matchers });
                rest = after;
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    named
}

/// Reads matchers up to the closing brace, and gives what comes after it.
fn matchers(inside: &str) -> (Vec<(String, String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = inside.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return (found, after);
        }
        let (label, quoted) = rest.split_once('"').unwrap_or_else(|| panic!("no value: {inside}"));
        let place = label.find(['=', '!']).unwrap_or_else(|| panic!("no operator: {inside}"));
        let (label, operator) = label.split_at(place);
        let (value, after) = quoted.split_once('"').unwrap_or_else(|| panic!("no end: {inside}"));
        found.push((label.trim().to_owned(), operator.trim().to_owned(), value.to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
}
