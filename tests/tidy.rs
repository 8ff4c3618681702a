//! Checks the invariants of ARCHITECTURE.md against the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect("a page")
}

/// The source files of the gateway, with paths below `gateway/src`, and those of the crates, with paths from the root.
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
            // Files of tests may import what they like.
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&source).expect("inside");
                let name = format!("{prefix}{}", name.display());
                let text = std::fs::read_to_string(&path).expect("a source file");
                // The tests in a file may import what they like.
                found.push((name, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
            }
        }
    }
    assert!(found.len() > 5, "the sources are where they are looked for");
    found
}

/// Only files whose path starts with one of `owners` may contain one of `words`.
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
    only(&["sockets.rs"], &["listenfd::"]);
    only(&["metrics"], &["prometheus_client"]);
    only(
        &[
            "server",
            "router",
            "requests.rs",
            "request_ids.rs",
            "access_log.rs",
            "body.rs",
            "response.rs",
            "response/body.rs",
            "response/refusal.rs",
            "response/request_id.rs",
            "ingest.rs",
            "trust.rs",
            "query",
            "applications.rs",
            "panel.rs",
            "shipping",
            "webhook.rs",
            "cli/panel.rs",
            "cli/fleet.rs",
            "cli/validator",
            "cors.rs",
            "cli/app.rs",
            "cli/jobs.rs",
            "cli/remote.rs",
            "cli/shipment.rs",
        ],
        &["hyper::"],
    );
    only(&["crates/judge/finished.rs"], &["expect(unsafe_code", "unsafe {"]);
    only(&["clock.rs", "crates/judge/", "postgres.rs"], &["Utc::now", "SystemTime::now"]);
}

/// Files that may import each other: a server that starts its cluster again.
const CIRCLES: [&[&str]; 1] = [&["postgres/cluster", "postgres/server"]];

/// The other files that a file of `files` imports. A part of a module may import the module.
fn imports<'f>(name: &str, text: &str, files: &'f BTreeSet<String>) -> BTreeSet<&'f str> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    let mut note = |path: &str| {
        let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
        let mut base: Vec<&str> = match parts.first() {
            Some(&"crate") => Vec::new(),
            Some(&("self" | "super")) => name.split('/').collect(),
            Some(child) if files.contains(&format!("{name}/{child}")) => name.split('/').collect(),
            _ => return,
        };
        while let Some(&word @ ("crate" | "self" | "super")) = parts.first() {
            if word == "super" {
                base.pop();
            }
            parts.remove(0);
        }
        base.extend(parts);
        let paths = (1..=base.len()).rev().map(|length| base[..length].join("/"));
        let file = paths.into_iter().find_map(|path| files.get(&path));
        found.extend(file.map(String::as_str).filter(|file| *file != name && !name.starts_with(&format!("{file}/"))));
    };
    for statement in code.split("use ").skip(1).filter_map(|rest| rest.split_once(';').map(|(tree, _)| tree)) {
        leaves("", statement.trim(), &mut note);
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let path: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            note(&path);
        }
    }
    found
}

/// The paths of a tree of imports.
fn leaves(prefix: &str, tree: &str, note: &mut impl FnMut(&str)) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        return note(&format!("{prefix}{path}"));
    };
    let (mut depth, mut leaf) = (0, String::new());
    for character in rest.trim_end().strip_suffix('}').unwrap_or(rest).chars().chain([',']) {
        match character {
            ',' if depth == 0 => {
                if !leaf.trim().is_empty() {
                    leaves(&format!("{prefix}{}", head.trim()), leaf.trim(), note);
                }
                leaf.clear();
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        leaf.push(character);
    }
}

/// All files that a file imports, directly or not.
fn reached<'f>(from: &'f str, graph: &BTreeMap<&'f str, BTreeSet<&'f str>>) -> BTreeSet<&'f str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        for import in graph.get(file).into_iter().flatten() {
            if found.insert(*import) {
                next.push(import);
            }
        }
    }
    found
}

#[test]
fn no_imports_run_in_a_circle() {
    for folder in ["gateway/src", "crates/event/src", "crates/judge/src"] {
        let sources: Vec<(String, String)> = sources_in(folder, "")
            .into_iter()
            .map(|(name, text)| (name.trim_end_matches(".rs").to_owned(), text))
            .filter(|(name, _)| name != "lib" && name != "main")
            .collect();
        let files: BTreeSet<String> = sources.iter().map(|(name, _)| name.clone()).collect();
        let graph: BTreeMap<&str, BTreeSet<&str>> =
            sources.iter().map(|(name, text)| (name.as_str(), imports(name, text, &files))).collect();
        assert!(graph.values().any(|imports| !imports.is_empty()), "{folder}: imports are found");
        for file in graph.keys() {
            for other in reached(file, &graph).into_iter().filter(|other| reached(other, &graph).contains(file)) {
                let known = CIRCLES.iter().any(|circle| circle.contains(file) && circle.contains(&other));
                assert!(known, "{folder}: {file} imports {other}, and is imported by it, by whatever way");
            }
        }
    }
}

#[test]
fn only_the_edge_reads_the_configuration() {
    only(&["config", "cli", "gateway"], &["config::Config", "config::{Config", "&Config"]);
}

#[test]
fn no_module_is_a_drawer_for_leftovers() {
    for (name, _) in sources() {
        for word in ["util", "common", "helper", "manager", "misc"] {
            assert!(!name.contains(word), "{name} says nothing of its purpose");
        }
    }
}

/// Folders with a meaning for cargo. They belong to the folder that contains them.
const PARTS_OF_A_PACKAGE: [&str; 6] = ["src", "bin", "examples", "benches", "tests", "targets"];

/// The folders with sources, as paths from the root, without folders that a build and its tools leave.
fn folders() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![root()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                    left.push(path);
                }
                continue;
            }
            let is_source = ["rs", "sql", "wit", "wat", "mjs"].iter().any(|end| name.ends_with(&format!(".{end}")));
            if !is_source || name == "tests.rs" {
                continue;
            }
            let inside = folder.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            let mut parts: Vec<&str> = inside.split('/').collect();
            while parts.len() > 1 && parts.last().is_some_and(|last| PARTS_OF_A_PACKAGE.contains(last)) {
                parts.pop();
            }
            found.insert(parts.join("/"));
        }
    }
    found.remove("");
    assert!(found.len() > 15, "the folders are where they are looked for");
    found
}

/// Whether a name of the map means this folder. `<name>` in it matches any one folder.
fn is_meant(folder: &str, named: &str) -> bool {
    let (folder, named): (Vec<_>, Vec<_>) = (folder.split('/').collect(), named.split('/').collect());
    folder.len() == named.len() && folder.iter().zip(&named).all(|(one, other)| one == other || other.starts_with('<'))
}

#[test]
fn the_map_and_the_folders_agree() {
    let map = page("ARCHITECTURE.md");
    let named: Vec<&str> = map.split('`').skip(1).step_by(2).filter_map(|word| word.strip_suffix('/')).collect();
    let folders = folders();
    for folder in &folders {
        assert!(named.iter().any(|named| is_meant(folder, named)), "ARCHITECTURE.md does not name `{folder}/`");
    }
    for named in named {
        let is_there = root().join(named).is_dir() || folders.iter().any(|folder| is_meant(folder, named));
        assert!(is_there, "ARCHITECTURE.md names `{named}/`, which is not there");
    }
}

#[test]
fn the_first_pages_stay_short() {
    let words = page("ARCHITECTURE.md").split_whitespace().count();
    assert!(words <= 1_500, "ARCHITECTURE.md has {words} words, and may have 1,500: move a decision to docs/decisions");
    let lines = page("README.md").lines().count();
    assert!(lines <= 120, "README.md has {lines} lines, and may have 120: move what one kind of reader needs to docs");
}

#[test]
fn every_source_file_says_what_it_owns() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!"), "{name} opens without saying what it owns");
    }
}
