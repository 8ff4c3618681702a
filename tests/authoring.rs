//! The author's commands on modules that are built already, and what they refuse before anything is built. `authors.rs`
//! begins, builds and ships whole projects.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::folder;

/// The shipped validators with their event types.
const SHIPPED: [(&str, &str); 6] = [
    ("pageview", "page interaction/pageview"),
    ("cta_click", "page interaction/cta click"),
    ("form_submit", "form interaction/submit"),
    ("github_issues", "github/issues"),
    ("github_pull_request", "github/pull_request"),
    ("github_push", "github/push"),
];

/// Runs `eye validator` in a folder: exit code, output, messages.
pub(crate) fn author(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.arg("validator").args(arguments).current_dir(folder).stdin(Stdio::null());
    let output = command.output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The file of a built module.
fn module(name: &str) -> PathBuf {
    let modules = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).expect("target/<profile>/eye");
    let modules = modules.join("wasm32-unknown-unknown/guest");
    let file = format!("{name}.wasm");
    [modules.join(&file), modules.join("examples").join(&file)].into_iter().find(|path| path.exists()).expect("built")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Puts a fixture to accept with this data beside the test's modules.
fn fixture(folder: &Path, data: &str) {
    let accept = folder.join("fixtures/accept");
    std::fs::create_dir_all(&accept).expect("a folder");
    std::fs::write(accept.join("one.json"), format!("{{\"event\": {{\"data\": {data}}}}}")).expect("a fixture");
}

#[test]
fn no_misuse_breaks_a_shipped_validator() {
    let here = folder();
    for (name, event_type) in SHIPPED {
        let file = module(name);
        let (code, said, problem) = author(here.path(), &["test", path(&file), "--type", event_type, "--json"]);
        let found = json(&said);
        assert_eq!((code, found["failures"].as_array().map(Vec::len)), (Some(0), Some(0)), "{name}: {said}{problem}");
        assert!(found["misuse"].as_u64() > Some(500) && found["misuse_left"] == 0, "{name}: {said}");
    }
}

#[test]
fn misuse_finds_the_panic_that_no_example_shows_and_shows_its_input() {
    let here = folder();
    let file = module("panics");
    fixture(here.path(), "{\"password\":null}");
    let arguments = ["test", path(&file), "--type", "guests/panics", "--fixtures", "fixtures", "--json"];
    let (code, said, _) = author(here.path(), &arguments[..6]);
    assert_eq!(code, Some(1), "{said}");
    for part in ["failed: misuse", "  input     {", "  expected  any verdict", "a fault (trap)", "saying `"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("more break it in the same way: "), "{said}");
    let (code, said, problem) = author(here.path(), &arguments);
    assert_eq!((code, problem.contains("failed")), (Some(1), true), "{problem}");
    let found = json(&said);
    let failures = found["failures"].as_array().expect("a list");
    assert!(failures.len() > 1 && failures.iter().all(|one| one["got"].as_str().is_some_and(|got| !got.is_empty())));
}

#[test]
fn fields_that_only_the_properties_of_a_schema_have_are_misused_too() {
    let here = folder();
    // Each level of the tree is a long way, so that a deep one is a fault. No example has a tree.
    let way: Vec<String> =
        (0..20).map(|step| format!("\"t{step}\": {{\"allOf\": [{{\"$ref\": \"#/$defs/t{}\"}}]}}", step + 1)).collect();
    let schema = format!(
        "{{\"type\": \"object\", \"properties\": {{\"a\": {{\"type\": \"string\"}}, \"tree\": {{\"$ref\": \"#/$defs/t0\"}}}}, \
         \"$defs\": {{{}, \"t20\": {{\"items\": {{\"$ref\": \"#/$defs/t0\"}}}}}}, \"examples\": [{{\"a\": \"x\"}}]}}",
        way.join(", ")
    );
    let file = here.path().join("deep.schema.json");
    std::fs::write(&file, schema).expect("written");
    // A huge list takes a while, and is no fault.
    std::fs::write(here.path().join("deep.toml"), "deadline_ms = 1000\n").expect("settings");
    let (code, said, problem) = author(here.path(), &["test", path(&file), "--type", "shop/sale", "--json"]);
    let failures = json(&said)["failures"].clone();
    let titles: Vec<&str> =
        failures.as_array().expect("failures").iter().filter_map(|one| one["title"].as_str()).collect();
    assert_eq!((code, titles), (Some(1), vec!["/tree is a deep list"]), "{problem}");
}

#[test]
fn a_module_that_spins_is_a_fault_and_not_a_hang() {
    let here = folder();
    std::fs::write(here.path().join("spins.toml"), "deadline_ms = 1\n").expect("settings");
    std::fs::copy(module("spins"), here.path().join("spins.wasm")).expect("a module");
    fixture(here.path(), "{\"misbehave\":false}");
    let arguments = ["test", "spins.wasm", "--type", "guests/spins", "--fixtures", "fixtures"];
    let (code, said, _) = author(here.path(), &arguments);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a fault (deadline)") && said.contains("mend: do less"), "{said}");
}

#[test]
fn an_example_that_fails_is_shown_with_all_that_it_says() {
    let here = folder();
    let file = module("self_test_fails");
    let (code, said, _) = author(here.path(), &["test", path(&file), "--type", "guests/x"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed: example") && said.contains("  got       "), "{said}");
    let (code, said, _) = author(here.path(), &["check", path(&file), "--type", "guests/x"]);
    assert_eq!(code, Some(1), "{said}");
    for part in ["refused:", "expected  ", "found     ", "mend      "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn check_says_what_a_gateway_would() {
    let here = folder();
    let good = module("pageview");
    let (code, said, _) = author(here.path(), &["check", path(&good), "--type", "page interaction/pageview", "--json"]);
    let found = json(&said);
    assert_eq!((code, &found["taken"], &found["examples"]), (Some(0), &true.into(), &6.into()), "{said}");
    let wasi = module("imports_wasi");
    let (code, said, _) = author(here.path(), &["check", path(&wasi), "--type", "guests/x", "--json"]);
    let found = json(&said);
    assert_eq!((code, &found["taken"]), (Some(1), &false.into()), "{said}");
    for part in ["expected", "found", "mend"] {
        assert!(found["refusal"][part].as_str().is_some_and(|text| text.len() > 10), "{part}: {said}");
    }
    std::fs::write(here.path().join("text.wasm"), "no module").expect("a file");
    assert_eq!(author(here.path(), &["check", "text.wasm", "--type", "a/b"]).0, Some(1));
}

#[test]
fn bench_gives_its_figures_against_the_limits() {
    let here = folder();
    let file = module("pageview");
    let arguments = ["bench", path(&file), "--type", "page interaction/pageview", "--alone", "--json"];
    let (code, said, problem) = author(here.path(), &arguments);
    assert_eq!(code, Some(0), "{problem}");
    let found = json(&said);
    for figure in ["p50_ns", "p99_ns", "memory_bytes", "file_bytes", "loading_us", "first_event_ns"] {
        assert!(found["this"][figure].as_u64() > Some(0), "{figure}: {said}");
    }
    assert!(found["this"]["memory_bytes"].as_u64() <= found["limits"]["memory_bytes_max"].as_u64(), "{said}");
    assert!(found["serving"].is_null() && found["not_compared"].is_string(), "{said}");
}

#[test]
fn a_new_project_overwrites_nothing_and_its_type_and_name_are_proved() {
    let here = folder();
    let (code, _, problem) = author(here.path(), &["new", "sale-rule", "--type", "shop.sale"]);
    assert_eq!((code, problem.contains("is `shop/sale` meant?")), (Some(64), true), "{problem}");
    let (code, _, problem) = author(here.path(), &["new", "Sale Rule", "--type", "shop/sale"]);
    assert_eq!((code, problem.contains("sale-rule")), (Some(64), true), "{problem}");
    let (code, _, problem) = author(here.path(), &["new", "sale-rule", "--type", "shop/sale", "--lang", "cobol"]);
    assert_eq!((code, problem.contains("rust")), (Some(64), true), "{problem}");
    let own = here.path().join("sale-rule/src/lib.rs");
    std::fs::create_dir_all(own.parent().expect("a folder")).expect("made");
    std::fs::write(&own, "mine").expect("a file");
    let (code, _, problem) = author(here.path(), &["new", "sale-rule", "--type", "shop/sale"]);
    assert_eq!((code, problem.contains("src/lib.rs")), (Some(1), true), "{problem}");
    assert_eq!(std::fs::read_to_string(&own).expect("it stays"), "mine");
    assert!(!here.path().join("sale-rule/eye.toml").exists(), "nothing is begun by half");
    std::fs::remove_file(&own).expect("removed");
    let (code, said, problem) = author(here.path(), &["new", "sale-rule", "--type", "shop/sale", "--json"]);
    assert_eq!(code, Some(0), "{problem}");
    let files = json(&said)["files"].as_array().expect("a list").len();
    let kit = std::fs::read_dir(here.path().join("sale-rule/kit/src")).expect("the kit").count();
    assert!(files > 15 && kit > 10, "{said}");
}

#[test]
fn outside_of_a_project_commands_say_what_they_need() {
    let here = folder();
    let file = module("accepts");
    for arguments in [
        &["test"][..],
        &["check"],
        &["bench"],
        &["push"],
        &["build"],
        &["dev"],
        &["rollback"],
        &["retire"],
        &["history"],
        &["check", path(&file)],
    ] {
        let (code, said, problem) = author(here.path(), arguments);
        assert_eq!((code, said.as_str()), (Some(64), ""), "{arguments:?}: {problem}");
        assert!(problem.contains("eye.toml") || problem.contains("--type"), "{arguments:?}: {problem}");
    }
    std::fs::write(here.path().join("eye.toml"), "type = \"shop/sale\"\nlanguage = \"rust\"\nlisten = 1\n")
        .expect("a file");
    let (code, _, problem) = author(here.path(), &["build"]);
    assert_eq!((code, problem.contains("eye.toml:3")), (Some(64), true), "{problem}");
}

#[test]
fn a_bundle_is_made_of_a_file_that_a_gateway_takes_and_a_page_can_run() {
    let here = folder();
    let bundle = |file: &str| author(here.path(), &["bundle", file, "--type", "guests/x", "--js", "--out", "out.mjs"]);
    std::fs::write(here.path().join("large.wasm"), vec![0; 9 << 20]).expect("written");
    for (file, told) in [
        ("large.wasm", "is too large for a page"),
        (path(&module("self_test_fails")), "a gateway would refuse"),
        (path(&module("judges_at")), "(`validate-at`)"),
        ("none.wasm", "there is no file none.wasm"),
    ] {
        let (code, said, problem) = bundle(file);
        assert!(code == Some(1) && problem.contains(told), "{file}: {said}{problem}");
        assert!(!here.path().join("out.mjs").exists(), "{file}");
    }
    let (code, said, problem) = bundle(path(&module("accepts")));
    assert!(code == Some(0) && said.contains("out.mjs\t"), "{said}{problem}");
}

#[test]
fn a_gateway_that_is_away_or_too_old_or_refuses_is_told_with_what_to_do() {
    let here = folder();
    let file = module("accepts");
    let push = |url: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(["validator"]).args(arguments).args(["--type", "shop/sale"]).current_dir(here.path());
        command.envs([("EYE_GATEWAY", url), ("EYE_TOKEN", "eye_of_nobody")]).stdin(Stdio::null());
        let output = command.output().expect("the built program");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Nothing listens on the port of a listener that is gone.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let told = push(&format!("http://127.0.0.1:{port}"), &["push", path(&file)]);
    assert!(told.contains("no gateway answers there: start it (`eye serve`)"), "{told}");
    let answers = |status: &'static str, problem: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answered = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a command");
            let mut head = Vec::new();
            let mut some = [0; 4096];
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                let read = stream.read(&mut some).expect("the head");
                head.extend_from_slice(&some[..read]);
            }
            let length = problem.len();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{problem}")
                .expect("answered");
            // The rest of the request is read, so that the answer is not lost by a reset.
            while stream.read(&mut some).is_ok_and(|read| read > 0) {}
        });
        (url, answered)
    };
    for (status, problem, wanted) in [
        ("404 Not Found", r#"{"code":"not_found","detail":"Nothing."}"#, "older than this program"),
        (
            "401 Unauthorized",
            r#"{"code":"unknown_sender","detail":"Who?"}"#,
            "`eye app add NAME --token --scope SCOPE`",
        ),
        ("403 Forbidden", r#"{"code":"not_allowed","detail":"No."}"#, "needs the scope `ship` for this event type"),
        (
            "422 Unprocessable Content",
            r#"{"code":"module_refused","detail":"No.","expected":"one","found":"two","mend":"three"}"#,
            "  expected  one\n  found     two\n  mend      three",
        ),
    ] {
        let (url, answered) = answers(status, problem);
        let told = push(&url, &["push", path(&file)]);
        assert!(told.contains(wanted), "{status}: {told}");
        answered.join().expect("ended");
    }
}

#[test]
fn a_file_is_what_its_name_says_and_has_the_settings_beside_it() {
    let here = folder();
    let put = |name: &str, text: &str| std::fs::write(here.path().join(name), text).expect("written");
    put("sale.schema.json", "{\"type\": \"object\", \"rquests\": 1, \"examples\": [{}]}");
    put("list.schema.json", "[1]");
    put("sale.wasm", "{}");
    let check = |name: &str| author(here.path(), &["check", name, "--type", "shop/sale", "--json"]);
    let (code, said, problem) = check("sale.schema.json");
    assert_eq!(code, Some(0), "{said}{problem}");
    let warning = json(&said)["warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(warning.contains("`rquests` is no keyword"), "{said}");
    for (name, expected) in
        [("list.schema.json", "a JSON Schema: an object"), ("sale.wasm", "a complete WebAssembly file")]
    {
        let (code, said, _) = check(name);
        assert_eq!((code, json(&said)["refusal"]["expected"].as_str()), (Some(1), Some(expected)), "{name}");
    }
    put("sale.toml", "violations_max = 0\n");
    let (code, said, _) = check("sale.schema.json");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`violations_max` is 0"), "{said}");
    let (_, _, problem) = check("none.schema.json");
    assert!(problem.contains("there is no file none.schema.json"), "{problem}");
}

#[test]
fn a_closed_pipe_ends_the_commands_quietly() {
    let file = module("pageview");
    for command in ["test", "check", "bench"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut eye = Command::new(env!("CARGO_BIN_EXE_eye"));
        eye.args(["validator", command, path(&file), "--type", "page interaction/pageview"]);
        eye.args(["--alone"].iter().filter(|_| command == "bench"));
        let output = eye.stdin(Stdio::null()).stdout(writer).output().expect("the built program");
        let problem = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), problem.as_ref()), (Some(0), ""), "{command}");
    }
}

#[test]
fn modules_built_for_the_first_contract_load_for_ever() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/contract-1.0.0");
    let mut found = 0;
    for entry in std::fs::read_dir(&fixtures).expect("fixtures") {
        let file = entry.expect("an entry").path();
        if file.extension().is_none_or(|end| end != "wasm") {
            continue;
        }
        found += 1;
        let source = ["rs", "c"].iter().any(|end| file.with_extension(end).exists());
        assert!(source, "{}: its source is beside it", file.display());
        let (code, said, problem) = author(&fixtures, &["test", path(&file), "--type", "shop/sale"]);
        assert_eq!(code, Some(0), "{}: {said}{problem}", file.display());
    }
    assert_eq!(found, 2);
}

#[test]
fn the_project_of_a_template_has_the_versions_that_are_tested_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("a file");
    let packages = |text: &str| -> Vec<String> {
        let entries = text.split("[[package]]").skip(1).map(|entry| {
            let field =
                |key: &str| entry.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
            format!("{} {} {}", field("name = "), field("version = "), field("checksum = "))
        });
        entries.collect()
    };
    let ours = packages(&read("Cargo.lock"));
    let locked = packages(&read("validators/templates/rust/Cargo.lock.template"));
    assert!(locked.len() > 10);
    for package in
        locked.iter().filter(|package| !package.contains("eye-validator") && !package.contains("PROJECT_NAME"))
    {
        assert!(ours.contains(package), "{package} is not what the workspace uses: make the template's lock file anew");
    }
    let (own, kit) = (read("validators/sdk/Cargo.toml"), read("validators/templates/rust/kit.toml"));
    for name in ["serde", "wit-bindgen", "mini-alloc", "serde_json"] {
        let named = |text: &str| text.lines().any(|line| line.starts_with(&format!("{name} = ")));
        assert!(named(&own) && named(&kit), "{name}");
    }
    let oldest = "rust-version = \"1.95\"";
    assert!(
        read("Cargo.toml").contains(oldest) && kit.contains(oldest),
        "the kit needs the Rust that it is tested with"
    );
    let feature = "bump-allocator = [\"dep:mini-alloc\"]";
    assert!(own.contains(feature) && kit.contains(feature));
}
