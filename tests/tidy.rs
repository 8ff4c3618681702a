//! The invariants of ARCHITECTURE.md, held against the source.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The source files of the gateway, named below `gateway/src`, and those of the crates, named from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = sources_in("gateway/src", "");
    for name in ["crates/event", "crates/judge"] {
        found.extend(sources_in(&format!("{name}/src"), &format!("{name}/")));
    }
    found
}

fn sources_in(folder: &str, prefix: &str) -> Vec<(String, String)> {
    let source = root().join(folder);
    let mut found = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            // What tests need is their own affair.
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&source).expect("inside");
                let name = format!("{prefix}{}", name.display());
                let text = std::fs::read_to_string(&path).expect("a source file");
                // What tests of a file need is their own affair.
                found.push((name, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
            }
        }
    }
    assert!(found.len() > 5, "the sources are where they are looked for");
    found
}

/// Only files whose name starts with one of `owners` may hold one of `words`.
fn only(owners: &[&str], words: &[&str]) {
    for (name, text) in sources() {
        if owners.iter().any(|owner| name.starts_with(owner)) {
            continue;
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{name}, code line {}: {word:?} belongs to {owners:?}", number + 1);
        }
    }
}

#[test]
fn each_concern_has_one_owner() {
    only(&["crates/judge/"], &["wasmtime::", "wit_component::"]);
    only(&["crates/judge/"], &["notify::"]);
    only(&["tls.rs", "store/tls.rs"], &["rustls::"]);
    only(&["store"], &["sqlx::", "select ", "insert into"]);
    only(&["config"], &["env::var"]);
    only(&["main.rs"], &["process::exit"]);
    only(&["metrics"], &["prometheus_client"]);
    only(
        &[
            "server",
            "router",
            "body.rs",
            "response.rs",
            "response/body.rs",
            "response/refusal.rs",
            "response/request_id.rs",
            "ingest.rs",
            "trust.rs",
            "query",
            "applications.rs",
            "cors.rs",
        ],
        &["hyper::"],
    );
    only(&["crates/judge/loading/finished.rs"], &["expect(unsafe_code", "unsafe {"]);
    only(&["clock.rs", "crates/judge/", "postgres.rs"], &["Utc::now", "SystemTime::now"]);
}

#[test]
fn no_module_is_a_drawer_for_leftovers() {
    for (name, _) in sources() {
        for word in ["util", "common", "helper", "manager", "misc"] {
            assert!(!name.contains(word), "{name} says nothing of its purpose");
        }
    }
}

#[test]
fn the_map_and_the_modules_agree() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (name, _) in sources() {
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name {name}");
    }
    let names: Vec<String> = sources().into_iter().map(|(name, _)| name).collect();
    for word in map.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") && !word.starts_with("tests/")) {
        assert!(names.iter().any(|name| name == word), "ARCHITECTURE.md names {word}, which is not there");
    }
}

#[test]
fn every_source_file_says_what_it_owns() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!"), "{name} opens without saying what it owns");
    }
}
