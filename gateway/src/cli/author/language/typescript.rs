//! TypeScript: the kit and a script that builds come with the project, and npm fetches the tools that the script uses. What
//! it makes is a component, with QuickJS in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use eye_judge::Kind;

use super::{Language, Need, missing};
use crate::cli::author::terminal::Progress;
use crate::cli::output::warn;

/// How to get Node, which has npm with it.
const GET_NODE: &str = "curl -fsSL https://fnm.vercel.app/install | bash && fnm install 22    (https://nodejs.org)";

/// The oldest Node with which the kit is tested.
const OLDEST: u32 = 20;

/// The script of the kit.
const SCRIPT: &str = "kit/build.mjs";

/// The row of TypeScript.
pub(super) static TYPESCRIPT: Language = Language {
    name: "typescript",
    files: include!(concat!(env!("OUT_DIR"), "/typescript_files.rs")),
    source: "src/rule.ts",
    build,
    kind: Kind::Module,
    bundle: Some(bundle),
    needs,
    made_folders: &["node_modules", "build"],
};

fn build(project: &Path) -> anyhow::Result<PathBuf> {
    fetch(project)?;
    script(project, &[])?;
    Ok(project.join("build/rule.wasm"))
}

fn bundle(project: &Path, out: &Path, event_type: &str) -> anyhow::Result<()> {
    fetch(project)?;
    script(project, &["--js".as_ref(), out.as_os_str(), event_type.as_ref()])
}

/// Fetches the tools that the lock file names, if they are not there as it names them.
fn fetch(project: &Path) -> anyhow::Result<()> {
    let changed = |file: &str| std::fs::metadata(project.join(file)).and_then(|file| file.modified()).ok();
    let (wanted, there) = (changed("package-lock.json"), changed("node_modules/.package-lock.json"));
    if there.is_some() && there >= wanted {
        return Ok(());
    }
    warn(format_args!("eye: npm fetches the tools of {} (package-lock.json)", project.display()));
    let _going_on = Progress::of("npm ci");
    let mut npm = Command::new("npm");
    // No package of ours needs a script of its own to be installed, and none gets to run one.
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(project);
    npm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let status = npm.status().map_err(|error| missing(&error, "npm", GET_NODE))?;
    ensure!(status.success(), "npm could not fetch the tools of package-lock.json; it has said why");
    Ok(())
}

fn script(project: &Path, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let mut node = Command::new("node");
    node.arg(SCRIPT).args(arguments).current_dir(project);
    node.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let _going_on = Progress::of("building");
    let status = node.status().map_err(|error| missing(&error, "node", GET_NODE))?;
    ensure!(status.success(), "{SCRIPT} could not build the project; it has said why");
    Ok(())
}

fn needs() -> Vec<Need> {
    let version = |tool: &str| {
        let output = Command::new(tool).arg("--version").stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is_new = |text: &String| release(text).is_some_and(|found| found >= OLDEST);
    vec![
        Need { what: format!("Node {OLDEST} or later"), found: version("node").filter(is_new), get: GET_NODE },
        Need { what: "npm".to_owned(), found: version("npm"), get: GET_NODE },
    ]
}

/// The release in what `node --version` prints.
fn release(text: &str) -> Option<u32> {
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(release("v20.20.2"), Some(20));
        assert_eq!(release("20"), None);
    }
}
