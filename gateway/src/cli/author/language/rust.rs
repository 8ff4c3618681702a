//! Rust: the crate `eye-validator` comes with the project, and cargo builds a core module that the gateway's own code
//! turns into a component.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use eye_judge::Kind;

use super::{Language, Need, missing};
use crate::cli::author::terminal::Progress;

/// The target that has no imports.
const TARGET: &str = "wasm32-unknown-unknown";

/// How to get that target.
const GET_TARGET: &str = "rustup target add wasm32-unknown-unknown";

/// How to get cargo.
const GET_CARGO: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh    (https://rustup.rs)";

/// The oldest Rust with which the kit is tested.
const OLDEST: (u32, u32) = (1, 95);

/// The row of Rust.
pub(super) static RUST: Language = Language {
    name: "rust",
    files: include!(concat!(env!("OUT_DIR"), "/rust_files.rs")),
    source: "src/lib.rs",
    build,
    kind: Kind::Module,
    bundle: None,
    needs,
    made_folders: &["target", "build"],
};

/// A line of cargo's messages, as far as it is read.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

fn build(project: &Path) -> anyhow::Result<PathBuf> {
    ensure!(library_folder(Some(project))?.is_some(), "the target {TARGET} is missing: {GET_TARGET}");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.current_dir(project).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = cargo.output().map_err(|error| missing(&error, "cargo", GET_CARGO))?;
    ensure!(output.status.success(), "cargo could not build the project; it has said why");
    let manifest = project.join("Cargo.toml");
    let own = manifest.canonicalize().with_context(|| manifest.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let artifacts = messages.filter(|message| message.reason == "compiler-artifact" && message.manifest_path == own);
    let is_module = |file: &PathBuf| file.extension().is_some_and(|end| end == "wasm");
    let mut modules: Vec<PathBuf> = artifacts.flat_map(|message| message.filenames).filter(is_module).collect();
    modules.dedup();
    match modules.pop() {
        Some(module) if modules.is_empty() => Ok(module),
        None => bail!("cargo made no module: the crate needs `crate-type = [\"cdylib\"]` under [lib] in Cargo.toml"),
        Some(_) => bail!("cargo made several modules, and a validator is one"),
    }
}

/// The folder with the libraries of the target, if they are installed.
fn library_folder(project: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).stdin(Stdio::null());
    if let Some(project) = project {
        // A rust-toolchain.toml there may choose another toolchain, which rustup may have to fetch first.
        rustc.current_dir(project);
    }
    let _going_on = Progress::of("asking rustc for the target");
    let output = rustc.output().map_err(|error| missing(&error, "rustc", GET_CARGO))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Ok((output.status.success() && folder.is_dir()).then_some(folder))
}

fn needs() -> Vec<Need> {
    let version = |tool: &str| {
        let output = Command::new(tool).arg("--version").stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let rustc = version("rustc");
    let is_new = rustc.as_deref().and_then(release).is_some_and(|found| found >= OLDEST);
    let target = library_folder(None).ok().flatten();
    vec![
        Need { what: "cargo".to_owned(), found: version("cargo"), get: GET_CARGO },
        Need {
            what: format!("Rust {}.{} or later", OLDEST.0, OLDEST.1),
            found: rustc.filter(|_| is_new),
            get: "rustup update",
        },
        Need {
            what: format!("the target {TARGET}"),
            found: target.map(|folder| folder.display().to_string()),
            get: GET_TARGET,
        },
    ]
}

/// The release in what `rustc --version` prints.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(' ').nth(1)?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(release("rustc 1.95.0 (59807616e 2026-04-14)"), Some((1, 95)));
        assert_eq!(release("rustc nightly"), None);
    }
}
