//! promtool and Prometheus themselves: they run the cases of the alert rules, read a gateway, and evaluate every rule and
//! every panel of the dashboard. `./setup operate` installs them.

use std::process::{Child, Command, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::monitoring::{CASES, folder as monitoring, panels, rules, shown};
use crate::support::{Setup, event, eventually, folder, pageview};

/// Runs promtool beside the rules, and gives what it prints.
fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(monitoring())
        .output()
        .unwrap_or_else(|error| panic!("promtool: {error}; `./setup operate` installs it"));
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
    said
}

#[test]
fn rules_are_valid_and_each_alert_fires_in_its_cases_and_in_no_others() {
    print!("{}", promtool(&["check", "rules", "alerts.yml"]));
    let files = ["test", "rules"].into_iter().chain(CASES);
    print!("{}", promtool(&files.collect::<Vec<_>>()));
}

/// A Prometheus that scrapes one gateway each second. Dropped, it ends.
struct Prometheus {
    process: Child,
    address: String,
    client: reqwest::Client,
    _data: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Prometheus {
    fn start(gateway: &str) -> Self {
        let data = folder();
        let settings = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: eye, static_configs: [{{targets: ['{gateway}']}}]}}]\n",
            monitoring().join("alerts.yml").canonicalize().expect("the rules").display()
        );
        let file = data.path().join("prometheus.yml");
        std::fs::write(&file, settings).expect("its settings");
        // It takes no address of its own choice that it would tell, so it gets one that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free address").to_string();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; `./setup operate` installs it"));
        Self { process, address, client: reqwest::Client::new(), _data: data }
    }

    /// Asks its API. Nothing while it starts.
    async fn ask(&self, path: &str) -> Option<Value> {
        let request = self.client.get(format!("http://{}/api/v1/{path}", self.address));
        request.send().await.ok()?.json().await.ok()
    }

    /// The results of a query, or its error.
    async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let path = format!("query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC));
        let answer = self.ask(&path).await.ok_or("no answer")?;
        answer["data"]["result"].as_array().cloned().ok_or_else(|| answer.to_string())
    }
}

/// A query as Grafana sends it.
fn with_variables(query: &str) -> String {
    query.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$job", ".*").replace("$instance", ".*")
}

#[tokio::test]
async fn prometheus_reads_a_gateway_and_evaluates_every_rule_and_every_panel() {
    let gateway = Setup::default()
        .with_module("guests/traps.wasm", "traps")
        .with_module("page interaction/pageview.wasm", "pageview")
        .start()
        .await;
    gateway.validator("guests/traps", "active").await;
    gateway.validator("page interaction/pageview", "active").await;
    // A burst before anything is scraped, and nothing of its kind later.
    let burst: Vec<Value> = (0..30).map(|_| event("guests", "traps", json!({"misbehave": true}))).collect();
    assert_eq!(gateway.send(&json!(burst)).await.status, 207);
    let prometheus = Prometheus::start(gateway.address());
    eventually("it has scraped for some seconds", async || {
        assert_eq!(gateway.send(&pageview()).await.status, 201);
        let results = prometheus.query("count_over_time(eye_unfolded_count_rows[1m]) >= 5").await.ok()?;
        (!results.is_empty()).then_some(())
    })
    .await;

    let mut wrong = Vec::new();
    let panels = panels().into_iter().map(|(title, query, _)| (title, query));
    for (place, query) in panels.chain(shown()) {
        match prometheus.query(&with_variables(&query)).await {
            Err(error) => wrong.push(format!("{place}: {query}: {error}")),
            // What compares shows only what is the case.
            Ok(results) if results.is_empty() && !query.contains(['>', '=']) => {
                wrong.push(format!("{place}: {query} shows nothing"));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let firing = eventually("the rules were evaluated", async || {
        let answer = prometheus.ask("rules").await?;
        let found = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        assert_eq!(found.len(), rules().len());
        let sick: Vec<&Value> = found.iter().filter(|rule| rule["health"] == "err").collect();
        assert!(sick.is_empty(), "{sick:?}");
        let firing = found.iter().filter(|rule| rule["state"] == "firing").map(|rule| rule["name"].to_string());
        let firing: Vec<String> = firing.collect();
        (found.iter().all(|rule| rule["health"] == "ok") && !firing.is_empty()).then_some(firing)
    })
    .await;
    assert_eq!(firing, ["\"EyeEventsQuarantined\"", "\"EyeModuleFaults\""]);
}
