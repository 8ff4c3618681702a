//! The official JSON Schema test suite, from the source archive of the Python package `jsonschema`, which carries it. It
//! is fetched by pip into `target` and never committed. What the engine decides otherwise stands in
//! `suite-exceptions.txt`, each with its reason; a line there that is not needed any more fails the test too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use json_schema::{Room, configured, judge};

/// The release with the suite.
const PACKAGE: &str = "jsonschema==4.25.1";
const ARCHIVE: &str = "jsonschema-4.25.1";

const DRAFTS: [(&str, &str); 5] = [
    ("draft4", "http://json-schema.org/draft-04/schema#"),
    ("draft6", "http://json-schema.org/draft-06/schema#"),
    ("draft7", "http://json-schema.org/draft-07/schema#"),
    ("draft2019-09", "https://json-schema.org/draft/2019-09/schema"),
    ("draft2020-12", "https://json-schema.org/draft/2020-12/schema"),
];

#[test]
fn the_official_suite_passes_but_for_what_is_listed() -> anyhow::Result<()> {
    let suite = suite()?;
    let mut exceptions = Exceptions::read()?;
    let (mut passed, mut excepted, mut failed) = (0, 0, Vec::new());
    for (draft, uri) in DRAFTS {
        for file in files(&suite.join(draft))? {
            let name = format!("{draft}/{}", file.strip_prefix(suite.join(draft))?.display());
            let groups: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(&file)?)?;
            for group in groups {
                let title = group["description"].as_str().unwrap_or_default();
                let outcomes = run(&group, uri);
                let tests = group["tests"].as_array().context("tests")?;
                for (test, outcome) in tests.iter().zip(outcomes) {
                    let own = test["description"].as_str().unwrap_or_default();
                    let case = format!("{name} | {title} | {own}");
                    match (outcome == Ok(test["valid"] == true), exceptions.excepts(&name, title, own)) {
                        (true, false) => passed += 1,
                        (true, true) => excepted += 1,
                        (false, true) => {
                            exceptions.needed(&name, title, own);
                            excepted += 1;
                        }
                        (false, false) => failed.push(format!("{case}: {outcome:?}")),
                    }
                }
            }
        }
    }
    println!("the official suite: {passed} tests pass, {excepted} are listed as decided otherwise");
    ensure!(failed.is_empty(), "{} tests fail:\n{}", failed.len(), failed.join("\n"));
    let idle = exceptions.idle();
    ensure!(idle.is_empty(), "these exceptions are not needed:\n{}", idle.join("\n"));
    Ok(())
}

/// What the engine says of each test of a group: whether it is valid, or why the schema is refused.
fn run(group: &serde_json::Value, uri: &str) -> Vec<Result<bool, String>> {
    let mut schema = group["schema"].clone();
    if let Some(object) = schema.as_object_mut()
        && !object.contains_key("$schema")
    {
        object.insert("$schema".to_owned(), uri.into());
    }
    // A file holds an object, so a schema that is only `true` or `false` stands within one.
    if schema.is_boolean() {
        schema = serde_json::json!({"$schema": uri, "allOf": [schema]});
    }
    let text: &'static str = Box::leak(schema.to_string().into_boxed_str());
    let program = configured(text.as_bytes());
    let outcome = |test: &serde_json::Value| match &program {
        Ok((program, _)) => {
            let room = Room { violations: 100, bytes: 1 << 20 };
            let violations = judge(program, room, &test["data"].to_string()).err();
            assert!(violations.as_ref().is_none_or(|told| !told.is_empty()), "it is told what does not fit: {group}");
            Ok(violations.is_none())
        }
        Err(refused) => Err(refused.clone()),
    };
    group["tests"].as_array().into_iter().flatten().map(outcome).collect()
}

/// The folder of the suite, which is fetched once.
fn suite() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("json-schema-suite");
    let tests = folder.join(ARCHIVE).join("json/tests");
    if tests.exists() {
        return Ok(tests);
    }
    fs::create_dir_all(&folder)?;
    let fetched = Command::new("pip")
        .args(["download", "--quiet", "--no-deps", "--no-binary", ":all:", PACKAGE, "-d"])
        .arg(&folder)
        .status()
        .context("pip fetches the suite")?;
    ensure!(fetched.success(), "pip could not fetch {PACKAGE}");
    let archive = folder.join(format!("{ARCHIVE}.tar.gz"));
    let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&folder).status()?;
    ensure!(unpacked.success(), "{} does not unpack", archive.display());
    Ok(tests)
}

/// All files with tests below a folder.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|end| end == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The lines `FILE | GROUP | TEST | REASON` of the list. A `*` at the end of a part stands for what begins so, one at its
/// beginning for what ends so.
struct Exceptions {
    lines: BTreeMap<String, ([String; 3], bool)>,
}

impl Exceptions {
    fn read() -> anyhow::Result<Self> {
        let mut lines = BTreeMap::new();
        for line in include_str!("suite-exceptions.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts: Vec<&str> = line.split(" | ").collect();
            let [file, group, test, reason] = parts[..] else { anyhow::bail!("{line}: it has four parts") };
            ensure!(!reason.is_empty(), "{line}: a reason");
            lines.insert(line.to_owned(), ([file, group, test].map(str::to_owned), false));
        }
        Ok(Self { lines })
    }

    fn of(&mut self, file: &str, group: &str, test: &str) -> Option<&mut bool> {
        let fits = |pattern: &str, text: &str| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
            (Some(start), _) => text.starts_with(start),
            (None, Some(end)) => text.ends_with(end),
            (None, None) => pattern == text,
        };
        let mut lines = self.lines.values_mut();
        let line = lines.find(|(parts, _)| fits(&parts[0], file) && fits(&parts[1], group) && fits(&parts[2], test));
        line.map(|(_, needed)| needed)
    }

    fn excepts(&mut self, file: &str, group: &str, test: &str) -> bool {
        self.of(file, group, test).is_some()
    }

    fn needed(&mut self, file: &str, group: &str, test: &str) {
        if let Some(needed) = self.of(file, group, test) {
            *needed = true;
        }
    }

    fn idle(&self) -> Vec<&str> {
        self.lines.iter().filter(|(_, (_, needed))| !needed).map(|(line, _)| line.as_str()).collect()
    }
}
