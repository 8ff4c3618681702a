//! Alert rules, their cases for promtool, the dashboard and the runbook: that they belong together, and that they name only
//! what the program writes. `prometheus.rs` runs them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::figures::{FORMAT, Figures};
use crate::support::monitoring::{Named, Selector, cases, named, panels, rules, runbook, shown};
use crate::support::{Setup, event, eventually, pageview};

/// Labels whose values are others' choice.
const FREE: [&str; 6] = ["application", "event_type", "category", "name", "digest", "version"];
/// Labels that Prometheus gives each series.
const OF_TARGETS: [&str; 2] = ["job", "instance"];
/// What selects our gateways among all programs.
const GATEWAYS: (&str, &str, &str) = ("job", "=~", "eye(-.+)?");
/// The rule that says of which gateways it is known what happened within ten minutes.
const WATCHED: &str = "eye:watched10m";

fn nothing_is(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The counter of which a recording rule has the growth.
fn counter_of(record: &str) -> Option<String> {
    Some(format!("eye_{}_total", record.strip_prefix("eye:")?.strip_suffix(":increase10m")?))
}

/// What the program writes: the values of each label of each metric.
struct Written(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Written {
    fn of(figures: &Figures) -> Self {
        let mut metrics: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (metric, labels) in figures.series() {
            let found = metrics.entry(metric.to_owned()).or_default();
            for (label, value) in labels {
                found.entry(label.clone()).or_default().insert(value.clone());
            }
        }
        metrics.insert("up".to_owned(), BTreeMap::new());
        metrics.insert(WATCHED.to_owned(), BTreeMap::new());
        Self(metrics)
    }

    fn labels(&self, metric: &str) -> Option<&BTreeMap<String, BTreeSet<String>>> {
        self.0.get(&counter_of(metric).unwrap_or_else(|| metric.to_owned()))
    }

    /// Notes what a selector names and the program does not write.
    fn check(&self, Selector { metric, matchers }: &Selector, place: &str, wrong: &mut Vec<String>) {
        let Some(labels) = self.labels(metric) else {
            return wrong.push(format!("{place}: the program does not write {metric}"));
        };
        for (label, operator, value) in matchers.iter().filter(|(label, ..)| !OF_TARGETS.contains(&label.as_str())) {
            let Some(values) = labels.get(label) else {
                wrong.push(format!("{place}: {metric} has no label {label}"));
                continue;
            };
            let wanted = if operator.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] };
            for value in wanted.into_iter().filter(|value| !FREE.contains(&label.as_str()) && !values.contains(*value))
            {
                wrong.push(format!("{place}: {metric} has no {label}={value:?}"));
            }
        }
    }

    /// The labels that a query may give its results.
    fn of_query(&self, query: &Named) -> BTreeSet<String> {
        let own = query.selectors.iter().filter_map(|selector| self.labels(&selector.metric));
        own.flat_map(|labels| labels.keys().cloned()).chain(OF_TARGETS.map(str::to_owned)).collect()
    }
}

/// The words between braces of a template, such as `{{ $labels.queue }}` and `{{queue}}`.
fn of_template(template: &str) -> Vec<String> {
    let inside = template.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
    let words = inside.map(|(word, _)| word.trim().trim_start_matches("$labels.").to_owned());
    words.filter(|word| word != "$value").collect()
}

#[test]
fn each_alert_has_its_cases_and_its_section() {
    let (rules, cases, runbook) = (rules(), cases(), runbook());
    let alerts: BTreeSet<&str> = rules.iter().filter(|rule| rule.is_alert).map(|rule| rule.name.as_str()).collect();
    assert!(alerts.len() > 50, "they are read as they are written");
    let mut wrong = Vec::new();
    for rule in rules.iter().filter(|rule| rule.is_alert) {
        let name = &rule.name;
        let mut wants = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        wants(cases.fires.contains(name), "no case in which it fires");
        wants(cases.is_silent.contains(name), "no case in which it is silent");
        wants(["{severity: page}", "{severity: warn}"].contains(&rule.labels.as_str()), "its severity is page or warn");
        let link = format!("docs/runbook.md#{}", name.to_lowercase());
        wants(rule.annotations.get("runbook_url") == Some(&link), "runbook_url leads to its section");
        for annotation in ["summary", "description"] {
            wants(rule.annotations.get(annotation).is_some_and(|text| text.len() > 10), annotation);
        }
        let section = runbook.get(name).map(String::as_str).unwrap_or_default();
        let places = ["**Meaning.**", "**Look.**", "**Do.**", "**Can it wait?**"].map(|part| section.find(part));
        wants(places.iter().all(Option::is_some) && places.is_sorted(), "its section has the four parts, in order");
    }
    let named = cases.fires.iter().chain(&cases.is_silent).chain(runbook.keys());
    wrong.extend(named.filter(|name| !alerts.contains(name.as_str())).map(|name| format!("{name} is no alert")));
    nothing_is(&wrong);
}

#[test]
fn growth_is_recorded_so_that_the_first_value_of_a_series_counts() {
    let rules = rules();
    let alerts = || rules.iter().filter(|rule| rule.is_alert);
    let mut wrong = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.is_alert && rule.name != WATCHED) {
        let counter = counter_of(&rule.name).unwrap_or_else(|| panic!("{} is no growth of a counter", rule.name));
        let expr = format!(
            "({counter} unless {counter} offset 10m) and on (job, instance) {WATCHED} or increase({counter}[10m])"
        );
        if rule.expr != expr {
            wrong.push(format!("{}: {}\n   is not {expr}", rule.name, rule.expr));
        }
        if !alerts().any(|alert| alert.expr.contains(&rule.name)) {
            wrong.push(format!("{}: no alert uses it", rule.name));
        }
    }
    // Over a day or a week the first value does not matter, and neither does it for a share.
    for alert in alerts().filter(|alert| alert.expr.contains("[10m]")) {
        wrong.push(format!("{}: use what is recorded", alert.name));
    }
    nothing_is(&wrong);
}

#[test]
fn rules_look_at_gateways_alone_and_keep_jobs_apart() {
    let mut wrong = Vec::new();
    for rule in rules() {
        let query = named(&rule.expr);
        for Selector { metric, matchers } in &query.selectors {
            let ours = metric.starts_with("eye_") || metric.starts_with("eye:");
            let narrowed = matchers
                .iter()
                .any(|(label, operator, value)| (label.as_str(), operator.as_str(), value.as_str()) == GATEWAYS);
            if !ours && !narrowed {
                wrong.push(format!("{}: {metric} is a metric of other programs too", rule.name));
            }
        }
        for labels in &query.label_lists {
            if !labels.iter().any(|label| label == "job") {
                wrong.push(format!("{}: a list of labels without job", rule.name));
            }
        }
        for aggregation in ["sum", "min", "max", "count", "group", "avg"] {
            if rule.expr.contains(&format!("{aggregation}(")) {
                wrong.push(format!("{}: {aggregation} over all jobs", rule.name));
            }
        }
    }
    nothing_is(&wrong);
}

#[tokio::test]
async fn alerts_dashboard_and_runbook_name_only_what_the_program_writes() {
    let gateway = Setup::default()
        .with_module("guests/traps.wasm", "traps")
        .with_module("page interaction/pageview.wasm", "pageview")
        .with_module(".candidates/page interaction/pageview.wasm", "accepts")
        .start()
        .await;
    gateway.validator("guests/traps", "active").await;
    gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(gateway.send(&event("guests", "traps", json!({"misbehave": true}))).await.status, 202);
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let figures = eventually("the tables were looked at", async || {
        let figures =
            Figures::read(&gateway.answer(gateway.request("GET", "/metrics").header("accept", FORMAT)).await.text);
        figures.told("eye_unfolded_count_rows").then_some(figures)
    })
    .await;
    let written = Written::of(&figures);
    let mut wrong = Vec::new();
    let mut check = |place: &str, query: &str, template: &str| {
        let query = named(query);
        assert!(!query.selectors.is_empty(), "{place} names a metric");
        query.selectors.iter().for_each(|selector| written.check(selector, place, &mut wrong));
        let labels = written.of_query(&query);
        for label in
            query.label_lists.iter().flatten().filter(|label| !label.is_empty()).cloned().chain(of_template(template))
        {
            if !labels.contains(&label) {
                wrong.push(format!("{place}: nothing in the query has the label {label}"));
            }
        }
    };
    for rule in rules() {
        check(&rule.name, &rule.expr, &rule.annotations.values().cloned().collect::<String>());
    }
    let panels = panels();
    assert!(panels.len() > 60, "they are read as they are written");
    for (title, query, legend) in panels {
        check(&title, &query, &legend);
    }
    let shown = shown();
    assert!(shown.len() > 40, "they are read as they are written");
    for (page, query) in shown {
        check(&page, &query, "");
    }
    for series in cases().series {
        let selector = named(&series).selectors.remove(0);
        written.check(&selector, &series, &mut wrong);
        let given: BTreeSet<&str> = selector.matchers.iter().map(|(label, ..)| label.as_str()).collect();
        let own = written.labels(&selector.metric).into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        let whole: BTreeSet<&str> = own.chain(OF_TARGETS).collect();
        if given != whole {
            wrong.push(format!("{series}: the program's has the labels {whole:?}"));
        }
    }
    nothing_is(&wrong);
}

#[test]
fn queries_are_read_as_prometheus_reads_them() {
    let query = r#"sum by (job, code) (rate(eye_a_total{code!="x", job=~"eye(-.+)?"}[5m])) > 0.01 * eye_b
        unless on (job) max by (job) (eye:c:increase10m offset 1d) == 0 and up{} < 2 * 86400"#;
    let read = named(query);
    let metrics: Vec<&str> = read.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["eye_a_total", "eye_b", "eye:c:increase10m", "up"]);
    assert_eq!(read.label_lists, [vec!["job", "code"], vec!["job"], vec!["job"]]);
    let matcher = |label: &str, operator: &str, value: &str| (label.to_owned(), operator.to_owned(), value.to_owned());
    assert_eq!(read.selectors[0].matchers, [matcher("code", "!=", "x"), matcher("job", "=~", "eye(-.+)?")]);
}
