//! Whole projects, as a team has them that has never seen the gateway: begun, built by cargo, tested, shipped, judged,
//! taken back. `make test-authors` runs them; builds share a folder, so that only the first compiles what all depend on.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, event, eventually, kill};

/// The folder in which cargo builds the projects of these tests.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).expect("target/<profile>/eye").join("authors")
}

/// `eye validator` in a folder.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.arg("validator").args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("CARGO_TARGET_DIR", target());
    command
}

fn author(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(folder, arguments).output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command that must succeed, and returns what it printed.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let (code, said, problem) = author(folder, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}{problem}");
    said
}

/// A gateway, and a new project in Rust beside it whose file names it.
async fn project(name: &str) -> (Gateway, PathBuf) {
    project_in("rust", name).await
}

async fn project_in(language: &str, name: &str) -> (Gateway, PathBuf) {
    let gateway = Gateway::start().await;
    let beside = gateway.data_dir().parent().expect("a folder").to_owned();
    done(&beside, &["new", name, "--type", "shop/sale", "--gateway", "data", "--lang", language]);
    (gateway, beside.join(name))
}

fn change(folder: &Path, from: &str, to: &str) {
    change_in(folder, "src/lib.rs", from, to);
}

fn change_in(folder: &Path, file: &str, from: &str, to: &str) {
    let file = folder.join(file);
    let text = std::fs::read_to_string(&file).expect("the source");
    assert!(text.contains(from), "{from}");
    std::fs::write(&file, text.replace(from, to)).expect("written");
}

fn order(total: &str, lines: usize) -> Value {
    let line = json!({"product": "tea", "quantity": 1});
    event(
        "shop",
        "sale",
        json!({"order": "EU-1042", "email": "ada@shop.example", "total": total, "currency": "EUR", "lines": vec![line; lines]}),
    )
}

fn codes(answer: &Answer) -> Vec<String> {
    answer.violations().into_iter().map(|(_, code)| code).collect()
}

#[tokio::test]
async fn a_new_project_is_built_tested_pushed_judged_and_taken_back() {
    let (gateway, project) = project("sale-rule").await;
    assert_eq!(gateway.send(&order("19.999", 0)).await.status, 201, "nobody judges yet");
    let built: Value = serde_json::from_str(&done(&project, &["build", "--json"])).expect("JSON");
    assert!(built["bytes"].as_u64() < Some(150_000), "{built}");
    let found: Value = serde_json::from_str(&done(&project, &["test", "--json"])).expect("JSON");
    assert_eq!(
        (&found["examples"], &found["fixtures"], found["failures"].as_array().map(Vec::len)),
        (&5.into(), &2.into(), Some(0))
    );
    assert!(found["misuse"].as_u64() > Some(1_000), "{found}");
    assert!(done(&project, &["check"]).starts_with("taken:"));
    assert!(done(&project, &["doctor"]).contains("wasm32-unknown-unknown"));
    assert!(done(&project, &["push", "--dry-run"]).contains("would install"));
    let pushed = done(&project.join("src"), &["push"]);
    assert!(pushed.contains("shop/sale\tactive\t"), "{pushed}");
    assert_eq!(gateway.send(&order("19.99", 1)).await.status, 201);
    let refused = gateway.send(&order("19.999", 0)).await;
    assert_eq!(
        (refused.status, codes(&refused)),
        (422, vec!["decimals".to_owned(), "length".to_owned()]),
        "{refused:?}"
    );

    change(&project, "1..=200", "1..=1");
    done(&project, &["push"]);
    assert_eq!(codes(&gateway.send(&order("19.99", 2)).await), ["length"]);
    let benched = done(&project, &["bench"]);
    assert!(benched.contains("the same module serves"), "{benched}");
    done(&project.join("fixtures"), &["rollback"]);
    assert_eq!(gateway.send(&order("19.99", 2)).await.status, 201, "the version before judges again");
    assert!(done(&project, &["status"]).starts_with("shop/sale\tactive\t"));
    done(&project, &["retire"]);
    assert_eq!(gateway.send(&order("19.999", 0)).await.status, 201, "nobody judges any more");
}

#[tokio::test]
async fn cargo_alone_tests_a_new_project_on_the_host() {
    let (_gateway, project) = project("host-rule").await;
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--quiet"]).current_dir(&project).env("CARGO_TARGET_DIR", target()).stdin(Stdio::null());
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[tokio::test]
async fn all_differences_are_shown_and_an_update_writes_what_is_so_now() {
    let (_gateway, project) = project("diff-rule").await;
    change(&project, "1..=200", "2..=200");
    let (code, said, problem) = author(&project, &["test"]);
    assert_eq!(code, Some(1), "{said}");
    for part in
        ["failed: example an order", "failed: example an amount as text", "length at `/lines`: Give 2 to 200 elements."]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(problem.contains("2 tests failed"), "{problem}");
    change(&project, "2..=200", "1..=1");
    let (code, said, _) = author(&project, &["test", "--update"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("updated   accept/an-order.json is reject/an-order.json now"), "{said}");
    let moved = std::fs::read_to_string(project.join("fixtures/reject/an-order.json")).expect("moved");
    assert!(moved.contains("\"codes\": [\"length\"]") && moved.contains("1250.5"), "{moved}");
    assert!(!project.join("fixtures/accept/an-order.json").exists());
    done(&project, &["test"]);
}

#[tokio::test]
async fn fixtures_of_real_events_hold_nothing_of_a_person() {
    let (gateway, project) = project("pull-rule").await;
    done(&project, &["push"]);
    let mut sent = order("4711.25", 2);
    sent["data"]["email"] = "grace.hopper@navy.example".into();
    sent["data"]["note"] = "call 5550123456".into();
    assert_eq!(gateway.send(&sent).await.status, 201);
    sent["data"]["currency"] = "XYZ".into();
    assert_eq!(gateway.send(&sent).await.status, 422);
    eventually("the refused event is kept", async || {
        let said = done(&project, &["fixtures", "pull", "--keep", "/currency"]);
        said.contains("1 to reject").then_some(())
    })
    .await;
    let mut files = 0;
    for kind in ["accept", "reject"] {
        for entry in std::fs::read_dir(project.join("fixtures").join(kind)).expect("fixtures") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pulled-")) {
                files += 1;
                let text = std::fs::read_to_string(&path).expect("a fixture");
                for secret in ["grace", "hopper", "navy", "5550123456", "4711", "EU-1042"] {
                    assert!(!text.contains(secret), "{secret}: {text}");
                }
                assert!(text.contains("@shop.example"), "{text}");
            }
        }
    }
    assert!(files >= 2, "{files}");
    let found = done(&project, &["test"]);
    assert!(found.contains("judged as they say") && !found.contains("failed"), "{found}");
}

/// A schema file of the tests, in a folder.
fn schema(folder: &Path) -> PathBuf {
    let file = folder.join("subscription.schema.json");
    std::fs::write(&file, include_str!("fixtures/from-schema/subscription.schema.json")).expect("written");
    file
}

#[tokio::test]
async fn a_project_in_json_schema_is_tested_pushed_judged_and_taken_back_without_tools() {
    let gateway = Gateway::start().await;
    let beside = gateway.data_dir().parent().expect("a folder").to_owned();
    done(&beside, &["new", "order-rule", "--type", "shop/sale", "--lang", "schema", "--gateway", "data"]);
    let project = beside.join("order-rule");
    let built: Value = serde_json::from_str(&done(&project, &["build", "--json"])).expect("JSON");
    assert!(built["file"].as_str().is_some_and(|file| file.ends_with("build/order-rule.schema.json")), "{built}");
    assert!(done(&project, &["doctor"]).contains("a schema needs nothing else"));
    assert!(done(&project, &["check"]).starts_with("taken:"));
    let found: Value = serde_json::from_str(&done(&project, &["test", "--json"])).expect("JSON");
    assert_eq!((&found["examples"], &found["fixtures"]), (&4.into(), &2.into()), "{found}");
    assert!(found["misuse"].as_u64() > Some(1_000), "{found}");
    assert!(done(&project.join("fixtures"), &["push"]).contains("shop/sale\tactive\t"));
    let mut right = order("19.99", 1);
    right["data"]["total"] = 19.99.into();
    assert_eq!(gateway.send(&right).await.status, 201);
    assert_eq!(codes(&gateway.send(&order("19.99", 0)).await), ["min_items", "type"]);
    let file = project.join("order-rule.schema.json");
    let text = std::fs::read_to_string(&file).expect("the schema");
    std::fs::write(&file, text.replace("\"maxItems\": 200", "\"maxItems\": 12")).expect("written");
    assert!(done(&project, &["bench"]).contains("serving"));
    done(&project, &["push"]);
    done(&project, &["rollback"]);
    assert!(done(&project, &["status"]).starts_with("shop/sale\tactive\t"));
    std::fs::write(&file, text.replace("maxItems", "maxItms")).expect("written");
    let (code, _, problem) = author(&project, &["build"]);
    assert_eq!(code, Some(1));
    assert!(problem.contains("nearly `maxItems` at line 12"), "{problem}");
    assert!(!project.join("build/order-rule.schema.json").exists(), "the old file does not look new");
}

#[tokio::test]
async fn code_from_a_schema_is_built_pushed_and_judges_as_the_schema_does() {
    let gateway = Gateway::start().await;
    let beside = gateway.data_dir().parent().expect("a folder").to_owned();
    let file = schema(&beside);
    let file = file.to_str().expect("a path");
    let (event_type, from) = ("shop/subscription", "--from-schema");
    let made = done(&beside, &["new", "plan-rule", "--type", event_type, from, file, "--gateway", "data", "--json"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["not_expressed"], json!([]), "the schema has nothing that code does not say");
    let project = beside.join("plan-rule");
    let found: Value = serde_json::from_str(&done(&project, &["test", "--against", file, "--json"])).expect("JSON");
    assert!(found["against"][0].as_u64() > Some(1_000), "{found}");
    assert_eq!((&found["against"][1], &found["failures"]), (&0.into(), &json!([])));
    assert!(done(&project, &["push"]).contains("shop/subscription\tactive\t"));
    let text = std::fs::read_to_string(file).expect("the schema");
    let examples: Value = serde_json::from_str(&text).expect("JSON");
    let right = event("shop", "subscription", examples["examples"][1].clone());
    assert_eq!(gateway.send(&right).await.status, 201);
    let mut wrong = right.clone();
    wrong["data"]["seats"] = 0.into();
    wrong["data"]["customer"]["addresses"][0]["zip"] = "x".into();
    let refused = gateway.send(&wrong).await;
    assert_eq!(
        refused.violations(),
        [("/seats", "range"), ("/customer/addresses/0/zip", "pattern")]
            .map(|(place, code)| (place.to_owned(), code.to_owned())),
        "{refused:?}"
    );
}

#[test]
fn what_code_does_not_express_is_told_and_stands_in_the_code() {
    let folder = crate::support::folder();
    let text = r##"{"openapi": "3.1.0", "components": {"schemas": {"Sale": {"type": "object", "properties": {
        "site": {"type": "string", "format": "uri"}, "to": {"$ref": "#/components/schemas/To"},
        "card": {"oneOf": [{"type": "string", "writeOnly": true}, {"type": "null"}]}}}, "To": {"type": "string"}}}}"##;
    let file = folder.path().join("api.json");
    std::fs::write(&file, text).expect("written");
    let new =
        ["new", "sale", "--type", "shop/sale", "--from-schema", "api.json", "--select", "#/components/schemas/Sale"];
    let said = done(folder.path(), &new);
    let code = std::fs::read_to_string(folder.path().join("sale/src/lib.rs")).expect("the code");
    for place in ["/properties/site/format", "/properties/card/oneOf"] {
        assert!(said.contains(place) && code.contains(&format!("//! - `{place}`")), "{place}: {said}{code}");
    }
    assert!(
        code.contains("SECRETS: &[&str] = &[\"/card\"]"),
        "a secret that the code cannot find goes as a whole: {code}"
    );

    let refused = |arguments: &[&str], wanted: &str| {
        let (code, _, problem) = author(folder.path(), arguments);
        assert!(matches!(code, Some(1 | 64 | 2)) && problem.contains(wanted), "{wanted}: {problem}");
    };
    let begin = |file: &'static str| ["new", "other", "--type", "shop/sale", "--from-schema", file];
    refused(
        &[&begin("api.json")[..], &["--select", "/components/schemas/Sal"]].concat(),
        "has no `Sal`; it has Sale, To",
    );
    refused(&begin("none.json"), "there is no file none.json");
    std::fs::write(folder.path().join("broken.json"), "{\n  \"type\": }").expect("written");
    refused(&begin("broken.json"), "line 2 column 11");
    std::fs::write(folder.path().join("near.json"), "{\n  \"requird\": []}").expect("written");
    refused(&begin("near.json"), "nearly `required` at line 2, column 3");
    refused(&["new", "other", "--type", "shop.sale"], "is `shop/sale` meant");
    assert!(!folder.path().join("other").exists(), "nothing is begun");
}

/// A command that runs until it is ended, and the lines that it has printed.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        // One pipe for both, so that the lines have the order in which they were written.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = command(folder, arguments);
        command.stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
        let child = command.spawn().expect("the built program");
        drop(command);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let read = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                read.lock().expect("the lines").push(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with these words after the lines that were read before.
    async fn says(&self, from: usize, words: &str) -> usize {
        let found = async || {
            let lines = self.lines.lock().expect("the lines");
            lines.iter().skip(from).position(|line| line.contains(words)).map(|at| from + at + 1)
        };
        eventually(words, found).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn dev_pushes_each_change_and_a_broken_build_leaves_no_file_and_changes_nothing() {
    let (mut gateway, project) = project("dev-rule").await;
    // The first build may take longer than anything is waited for.
    done(&project, &["build"]);
    let mut dev = Running::start(&project, &["dev"]);
    dev.says(0, "pushed:").await;
    let at = dev.says(0, "waiting for a change").await;
    assert_eq!(codes(&gateway.send(&order("19.99", 0)).await), ["length"]);
    change(&project, "violations.email(\"/email\", email);", "violations.email(\"/email\", email)!");
    let at = dev.says(at, "failed: not built").await;
    assert!(!project.join("build/dev-rule.wasm").exists(), "the old file does not look new");
    assert_eq!(codes(&gateway.send(&order("19.99", 0)).await), ["length"], "what served serves on");
    let at = dev.says(at, "waiting for a change").await;
    change(
        &project,
        "violations.email(\"/email\", email)!",
        "violations.require(email.len() > 90, \"/email\", \"x\", \"x\");",
    );
    let at = dev.says(at, "nothing is pushed").await;
    let at = dev.says(at, "waiting for a change").await;
    change(&project, "violations.require(email.len() > 90, \"/email\", \"x\", \"x\");", "");
    let at = dev.says(at, "pushed:").await;
    let at = dev.says(at, "waiting for a change").await;
    gateway.signal("TERM");
    gateway.ended().await;
    change(&project, "1..=200", "1..=100");
    let at = dev.says(at, "`eye serve`").await;
    gateway.restart().await;
    dev.says(at, "pushed:").await;
    kill(dev.child.id(), "INT");
    assert_eq!(dev.child.wait().expect("a child").code(), Some(0));
}

/// Runs a tool in a folder, and returns what it printed.
fn tool(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).current_dir(folder).stdin(Stdio::null()).output().expect(name);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

const RULE: &str = "src/rule.ts";

#[tokio::test]
async fn a_new_typescript_project_is_built_tested_pushed_judged_and_taken_back() {
    let (gateway, project) = project_in("typescript", "sale-rule").await;
    assert!(done(&project, &["doctor"]).contains("Node 20 or later"));
    let built: Value = serde_json::from_str(&done(&project, &["build", "--json"])).expect("JSON");
    assert!(built["bytes"].as_u64() < Some(1_600_000), "{built}");
    let found: Value = serde_json::from_str(&done(&project, &["test", "--json"])).expect("JSON");
    assert_eq!(
        (&found["examples"], &found["fixtures"], found["failures"].as_array().map(Vec::len)),
        (&5.into(), &2.into(), Some(0))
    );
    assert!(found["misuse"].as_u64() > Some(1_000), "{found}");
    let checked: Value = serde_json::from_str(&done(&project, &["check", "--json"])).expect("JSON");
    assert_eq!((&checked["taken"], &checked["exports"]), (&true.into(), &json!([])), "it exports what it needs");
    assert!(done(&project.join("src"), &["push"]).contains("shop/sale\tactive\t"));
    let shown = gateway
        .answer(gateway.request("GET", "/v1/validators/shop/sale").bearer_auth(gateway.admin_token().expect("one")))
        .await;
    assert_eq!(shown.json()["limits"]["deadline_ms"], json!(100), "its settings.toml went along");
    assert_eq!(gateway.send(&order("19.99", 1)).await.status, 201);
    let refused = gateway.send(&order("19.999", 0)).await;
    assert_eq!((refused.status, codes(&refused)), (422, vec!["decimals".to_owned(), "length".to_owned()]));

    change_in(&project, RULE, "lines, 1, 200", "lines, 1, 1");
    change_in(
        &project,
        RULE,
        "  judge,\n",
        "  judgeAt: (event) => (event.receivedAt < event.timestamp ? new Violations() : new Violations()).verdict(),\n  \
         redact: (data) => {\n    data.redact([\"/email\"]);\n    return data;\n  },\n",
    );
    let (code, said, _) = author(&project, &["test"]);
    assert_eq!(code, Some(1), "{said}");
    change_in(
        &project,
        RULE,
        "(event.receivedAt < event.timestamp ? new Violations() : new Violations()).verdict()",
        "judge(event)",
    );
    let checked: Value = serde_json::from_str(&done(&project, &["check", "--json"])).expect("JSON");
    assert_eq!(checked["exports"], json!(["redact", "validate-at"]), "{checked}");
    done(&project, &["push"]);
    assert_eq!(codes(&gateway.send(&order("19.99", 2)).await), ["length"]);
    let benched = done(&project, &["bench"]);
    assert!(benched.contains("the same module serves"), "{benched}");
    done(&project, &["retire"]);
    assert_eq!(gateway.send(&order("19.999", 0)).await.status, 201, "nobody judges any more");
}

#[tokio::test]
async fn the_typescript_kit_says_what_the_table_of_all_kits_says() {
    let (_gateway, project) = project_in("typescript", "same-rule").await;
    done(&project, &["build"]);
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../validators/sdk/tests");
    for file in ["kits.ts", "kits.json"] {
        std::fs::copy(table.join(file), project.join("src").join(file)).expect("copied");
    }
    change_in(&project, "tsconfig.json", "\"strict\": true,", "\"strict\": true, \"resolveJsonModule\": true,");
    tool(&project, "node", &["node_modules/typescript/bin/tsc", "--noEmit"]);
    let bundle = ["src/kits.ts", "--bundle", "--format=esm", "--outfile=build/kits.mjs", "--log-level=error"];
    tool(&project, "node_modules/.bin/esbuild", &bundle);
    let said = tool(&project, "node", &["build/kits.mjs"]);
    assert!(said.ends_with(" rows\n"), "{said}");
}

#[tokio::test]
async fn a_rule_of_each_language_becomes_a_module_for_a_page() {
    let (_gateway, project) = project_in("typescript", "typescript-rule").await;
    let beside = project.parent().expect("a folder");
    let script = "import { validate, summary } from './rule.mjs';
        const line = { product: 'tea', quantity: 1 };
        const data = { order: 'EU-1042', email: 'ada@shop.example', total: 19.99, currency: 'EUR', lines: [line] };
        const before = Date.now();
        const codes = (data) => validate({ data }).violations.map(({ pointer, code }) => pointer + ' ' + code).sort().join();
        console.log(validate({ data }).verdict, codes({ ...data, total: 19.999, lines: [] }), Date.now() >= before,
            codes(JSON.stringify(data).replace('19.99', '1234567890123456789.1')), summary.length > 0);";
    for (language, said) in [
        ("typescript", "accept /lines length,/total decimals true /total range true\n"),
        ("rust", "accept /lines length,/total decimals true /total range true\n"),
        ("schema", "accept /lines min_items,/total multiple_of true /total maximum true\n"),
    ] {
        let project = beside.join(format!("{language}-rule"));
        if language != "typescript" {
            done(beside, &["new", &format!("{language}-rule"), "--type", "shop/sale", "--lang", language]);
        }
        let bundled = done(&project, &["bundle", "--js", "--out", "rule.mjs"]);
        assert!(bundled.contains("rule.mjs\t"), "{bundled}");
        assert_eq!(tool(&project, "node", &["--input-type=module", "--eval", script]), said, "{language}");
    }
    // A file works without its project; what needs a gateway says so.
    let file = "rust-rule/build/rust-rule.wasm";
    done(beside, &["bundle", file, "--type", "shop/*", "--js", "--out", "rule.mjs"]);
    assert!(tool(beside, "node", &["--input-type=module", "--eval", script]).starts_with("accept "));
    let rust = beside.join("rust-rule");
    change(&rust, "    judge,\n", "    judge,\n    judge_at: judge_at,\n");
    change(
        &rust,
        "fn judge(",
        "fn judge_at(event: &Event<Order>, _: i64) -> Verdict {\n    judge(event)\n}\n\nfn judge(",
    );
    let (code, _, problem) = author(&rust, &["bundle", "--js", "--out", "other.mjs"]);
    assert!(code == Some(1) && problem.contains("`validate-at`") && problem.contains("dry_run"), "{problem}");
    assert!(!rust.join("other.mjs").exists());
}

#[tokio::test]
async fn a_typescript_rule_that_asks_for_the_time_or_has_a_wrong_type_is_not_built_and_told_why() {
    let (_gateway, project) = project_in("typescript", "clock-rule").await;
    done(&project, &["build"]);
    let file = project.join("build/clock-rule.wasm");
    let first = "const violations = new Violations();";
    for (wrong, told) in [
        ("if (Date.now() < 5) return { tag: \"accept\" };", "`event.receivedAt`"),
        ("if (new Date().getTime() < 5) return { tag: \"accept\" };", "a validator has no clock"),
        ("if (Math.random() < 0.5) return { tag: \"accept\" };", "a validator has no randomness"),
        ("if ((globalThis as any).crypto.randomUUID() === order) return { tag: \"accept\" };", "no randomness"),
        ("violations.email(\"/email\", total);", "not assignable to parameter of type 'string'"),
        ("violations.email(\"/email\"", "error TS1005"),
    ] {
        let text = format!("{first}\n  {wrong}");
        assert!(file.exists(), "the build before");
        change_in(&project, RULE, first, &text);
        let (code, said, problem) = author(&project, &["build"]);
        assert!(code == Some(1) && format!("{said}{problem}").contains(told), "{wrong}: {said}{problem}");
        assert!(!file.exists(), "the old file does not look new");
        change_in(&project, RULE, &text, first);
        done(&project, &["build"]);
    }
    let dated =
        format!("{first}\n  violations.require(new Date(0).getUTCFullYear() === 1970, \"\", \"year\", \"Wait.\");");
    change_in(&project, RULE, first, &dated);
    done(&project, &["test"]);
}

#[tokio::test]
async fn dev_builds_typescript_at_each_change_and_a_broken_build_changes_nothing() {
    let (gateway, project) = project_in("typescript", "dev-rule").await;
    done(&project, &["build"]);
    let mut dev = Running::start(&project, &["dev"]);
    dev.says(0, "pushed:").await;
    let at = dev.says(0, "waiting for a change").await;
    change_in(&project, RULE, "violations.email(\"/email\", email);", "violations.email(\"/email\", total);");
    let at = dev.says(at, "failed: not built").await;
    assert!(!project.join("build/dev-rule.wasm").exists(), "the old file does not look new");
    assert_eq!(codes(&gateway.send(&order("19.99", 0)).await), ["length"], "what served serves on");
    let at = dev.says(at, "waiting for a change").await;
    change_in(&project, RULE, "violations.email(\"/email\", total);", "violations.email(\"/email\", email);");
    let at = dev.says(at, "pushed:").await;
    dev.says(at, "waiting for a change").await;
    kill(dev.child.id(), "INT");
    assert_eq!(dev.child.wait().expect("a child").code(), Some(0));
}

/// The blocks of a page that are marked for this test, in their order.
fn blocks(page: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(page).expect("the page");
    let blocks = text.split("```sh author\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

/// Runs a script in a folder, with `eye` in its path.
fn script(folder: &Path, text: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_eye")).parent().expect("a folder").to_owned();
    let before = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(program).chain(std::env::split_paths(&before))).expect("folders");
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", text]).current_dir(folder).env("PATH", path).env("CARGO_TARGET_DIR", target());
    let output = command.stdin(Stdio::null()).output().expect("sh");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Runs all marked blocks of a page beside a gateway of its own.
async fn ten_minutes(page: &str) {
    let gateway = Gateway::start().await;
    let beside = gateway.data_dir().parent().expect("a folder").to_owned();
    std::os::unix::fs::symlink("data", beside.join("eye-data")).expect("the usual name of a data dir");
    let blocks = blocks(page);
    assert!(blocks.contains("eye validator new"), "{blocks}");
    script(&beside, &blocks.replace("127.0.0.1:8000", gateway.address()));
}

#[tokio::test]
async fn the_ten_minutes_of_the_page_go_as_it_says() {
    ten_minutes("validators.md").await;
}

#[tokio::test]
async fn the_ten_minutes_with_a_schema_and_the_way_to_code_go_as_the_page_says() {
    ten_minutes("schemas.md").await;
}

#[tokio::test]
async fn the_script_for_ci_tests_a_project_and_fails_on_a_difference() {
    let (_gateway, project) = project("ci-rule").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/test-validator.sh");
    let text = std::fs::read_to_string(file).expect("the script");
    script(&project, &text);
    let found: Value =
        serde_json::from_slice(&std::fs::read(project.join("test.json")).expect("written")).expect("JSON");
    assert_eq!(found["failures"].as_array().map(Vec::len), Some(0));
    change(&project, "1..=200", "2..=200");
    script(&project, &format!("if sh -eu -c '{}'; then exit 1; fi", text.replace('\'', "'\\''")));
}

/// What a page says as YAML, read by a parser of YAML: PyYAML, which pip fetches if the machine has none.
fn yaml(text: &str) -> Value {
    const READ: &str = "import json, sys, yaml; json.dump(yaml.load(sys.stdin, yaml.BaseLoader), sys.stdout)";
    let fetched = target().join("python");
    let read = || {
        let mut python = Command::new("python3");
        python.args(["-c", READ]).env("PYTHONPATH", &fetched).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().expect("python3");
        std::io::Write::write_all(&mut python.stdin.take().expect("a pipe"), text.as_bytes()).expect("written");
        let output = python.wait_with_output().expect("ended");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    };
    read().unwrap_or_else(|| {
        let folder = fetched.to_str().expect("a path");
        tool(Path::new("."), "python3", &["-m", "pip", "install", "--quiet", "--target", folder, "PyYAML==6.0.3"]);
        read().expect("it is YAML")
    })
}

#[tokio::test]
async fn the_workflow_for_ci_is_yaml_and_its_steps_test_and_ship_a_project() {
    let page = std::fs::read_to_string(page_file("docs/validators.md")).expect("the page");
    let text =
        page.split("```yaml elsewhere\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the workflow");
    let workflow = yaml(text);
    assert_eq!(workflow["on"], json!(["push"]), "{workflow}");
    let job = &workflow["jobs"]["validator"];
    assert!(job["runs-on"].is_string() && job["container"].is_string(), "{job}");

    let (gateway, project) = project("workflow-rule").await;
    std::fs::copy(page_file("docs/examples/test-validator.sh"), project.join("test-validator.sh")).expect("copied");
    let token = gateway.admin_token().expect("it made one");
    let steps = job["steps"].as_array().expect("steps");
    let mut ran = 0;
    for step in steps {
        let members: Vec<&String> = step.as_object().expect("a step").keys().collect();
        assert!(members.iter().all(|key| ["uses", "run", "env", "if"].contains(&key.as_str())), "{step}");
        let Some(run) = step["run"].as_str() else {
            assert!(step["uses"].is_string(), "{step}");
            continue;
        };
        let mut lines = vec!["unset EYE_GATEWAY EYE_TOKEN".to_owned()];
        for (name, value) in step["env"].as_object().into_iter().flatten() {
            let value = value.as_str().expect("a text").replace("${{ secrets.EYE_TOKEN }}", &token);
            let value = value.replace("https://eye.example", &format!("http://{}", gateway.address()));
            assert!(!value.contains("${{"), "{value}");
            lines.push(format!("export {name}='{value}'"));
        }
        lines.push(run.to_owned());
        script(&project, &lines.join("\n"));
        ran += 1;
    }
    assert_eq!(ran, 3, "{steps:?}");
    assert!(project.join("test.json").exists(), "the tests ran");
    assert_eq!(codes(&gateway.send(&order("19.999", 0)).await), ["decimals", "length"], "the last step shipped it");
}

/// A file of the repository.
fn page_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A gateway, and a new project in Python beside it.
async fn python_project(name: &str) -> (Gateway, PathBuf) {
    let gateway = Gateway::start().await;
    let beside = gateway.data_dir().parent().expect("a folder").to_owned();
    done(&beside, &["new", name, "--type", "shop/sale", "--lang", "python", "--gateway", "data"]);
    (gateway, beside.join(name))
}

#[tokio::test]
async fn a_python_project_is_built_tested_pushed_and_judged_as_one_in_rust() {
    let (gateway, project) = python_project("python-rule").await;
    assert!(done(&project, &["doctor"]).contains("Python 3.10 or later"));
    let found: Value = serde_json::from_str(&done(&project, &["test", "--json"])).expect("JSON");
    assert_eq!(
        (&found["examples"], &found["fixtures"], found["failures"].as_array().map(Vec::len)),
        (&5.into(), &2.into(), Some(0))
    );
    // A module of Python is slow, so there is time for a part of the misuse alone.
    assert!(found["misuse"].as_u64() > Some(300), "{found}");
    let module = "build/python-rule.wasm";
    let pushed = done(&project, &["push", module, "--type", "shop/sale"]);
    assert!(pushed.contains("shop/sale\tactive\t"), "{pushed}");
    assert_eq!(gateway.send(&order("19.99", 1)).await.status, 201);
    let refused = gateway.send(&order("19.999", 0)).await;
    assert_eq!(
        (refused.status, codes(&refused)),
        (422, vec!["decimals".to_owned(), "length".to_owned()]),
        "{refused:?}"
    );

    // Each mistake is told with its line, and no build that failed leaves a file.
    let file = project.join("validator.py");
    let text = std::fs::read_to_string(&file).expect("the source");
    for (from, to, told) in [
        ("data.email)", "data.emial)", "no attribute 'emial'"),
        ("total: Decimal", "total: float", "take Decimal"),
        ("WitWorld =", CLOCKS_AND_CHANCE, "13 are refused"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&file, text.replacen(from, to, 1)).expect("written");
        let (code, said, problem) = author(&project, &["build"]);
        assert_eq!(code, Some(1), "{to}: {said}{problem}");
        assert!(problem.contains(told), "{to}: {problem}");
        assert!(!project.join(module).exists(), "{to}: the old file does not look new");
    }
}

/// Asks for everything that a module does not have, however it is called, and says how often it was told what to use instead.
const CLOCKS_AND_CHANCE: &str = r#"
import datetime, os, random, secrets, time, uuid
from datetime import date, datetime as moment
from random import randint
refused = 0
for ask in (
    time.time, time.monotonic, time.gmtime, lambda: time.strftime("%Y"), datetime.datetime.now, moment.utcnow, date.today,
    random.random, random.Random, lambda: randint(1, 6), secrets.token_hex, lambda: os.urandom(8), uuid.uuid4,
):
    try:
        ask()
    except RuntimeError as error:
        refused += "event." in str(error)
assert random.Random(1).random() == random.Random(1).random() and time.gmtime(0).tm_year == 1970
raise SystemError(f"{refused} are refused")
WitWorld ="#;

#[test]
fn the_python_kit_says_what_the_table_of_all_kits_says() {
    let validators = Path::new(env!("CARGO_MANIFEST_DIR")).join("../validators");
    let mut python = Command::new("python3");
    python.arg(validators.join("sdk/tests/kits.py")).stdin(Stdio::null());
    python.env("PYTHONPATH", validators.join("templates/python/kit")).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
