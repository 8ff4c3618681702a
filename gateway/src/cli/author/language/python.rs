//! Python: the kit comes with the project, a virtual environment in it has componentize-py, and that makes a component with
//! an interpreter of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use eye_judge::Kind;

use super::{Language, Need};
use crate::cli::author::terminal::Progress;
use crate::cli::output::warn;

/// The oldest Python whose types the kit can read on the machine; the module has one of its own.
const OLDEST: (u32, u32) = (3, 10);

/// How to get Python, and what Debian leaves out of it.
const GET_PYTHON: &str = "apt install python3 python3-venv    (elsewhere: https://www.python.org/downloads)";
const GET_VENV: &str = "apt install python3-venv";

/// The virtual environment in a project, and what says that all of its packages are there: the text of `requirements.txt`.
const ENVIRONMENT: &str = ".venv";
const INSTALLED: &str = "installed-requirements.txt";

/// The packages of a project.
const REQUIREMENTS: &str = "requirements.txt";

/// What the tool makes.
const MADE: &str = "build/componentized.wasm";

/// The row of Python.
pub(super) static PYTHON: Language = Language {
    name: "python",
    files: include!(concat!(env!("OUT_DIR"), "/python_files.rs")),
    source: "validator.py",
    build,
    kind: Kind::Module,
    bundle: None,
    needs,
    made_folders: &[ENVIRONMENT, "build", "__pycache__"],
};

fn build(project: &Path) -> anyhow::Result<PathBuf> {
    let environment = environment(project)?;
    let made = project.join(MADE);
    let folder = made.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    match std::fs::remove_file(&made) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| made.display().to_string());
        }
        _ => {}
    }
    let tool = environment.join("bin/componentize-py");
    let mut command = Command::new(&tool);
    command.args(["--quiet", "--wit-path", "wit", "--world", "rule", "componentize", "--stub-wasi"]);
    command.args(["--python-path", "kit", "--python-path", ".", "--output", MADE, "eye_entry"]);
    // What it says of a mistake is where the project has it, and nothing of the tool's own.
    command.env("RUST_BACKTRACE", "0");
    // Packages are those of the project, wherever this runs.
    command.env("VIRTUAL_ENV", &environment).env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    command.current_dir(project).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let status = {
        let _going_on = Progress::of("componentize-py makes the module");
        command.status().with_context(|| tool.display().to_string())?
    };
    ensure!(status.success(), "componentize-py could not build the project; it has said why");
    Ok(made)
}

/// The virtual environment of a project, which is made if it is not there or if the project names other packages now.
fn environment(project: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(project.join(ENVIRONMENT)).context("the folder of the project")?;
    let requirements = project.join(REQUIREMENTS);
    let wanted = std::fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    let installed = folder.join(INSTALLED);
    if std::fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
        return Ok(folder);
    }
    let python = python();
    ensure!(
        python.is_some_and(|found| found.is_new),
        "Python {}.{} or later is missing: {GET_PYTHON}",
        OLDEST.0,
        OLDEST.1
    );
    warn(format_args!("eye: making {ENVIRONMENT}, with the packages of {REQUIREMENTS} from PyPI; this is done once"));
    let mut make = Command::new("python3");
    // What an interrupted run left is no beginning.
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    ensure!(ran(make, "making the virtual environment")?, "python3 could not make {ENVIRONMENT}: {GET_VENV}");
    let mut fetch = Command::new(folder.join("bin/python"));
    fetch.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
    ensure!(
        ran(fetch, "fetching packages from PyPI")?,
        "pip could not install the packages of {REQUIREMENTS}; it has said why. They come from PyPI, or from the index that \
         pip's own settings name (PIP_INDEX_URL)"
    );
    std::fs::write(&installed, wanted).with_context(|| installed.display().to_string())?;
    Ok(folder)
}

/// Runs a command to its end, and says whether it did what it should.
fn ran(mut command: Command, what: &str) -> anyhow::Result<bool> {
    let _going_on = Progress::of(what);
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).status();
    Ok(status.with_context(|| format!("{what}: {} does not start", command.get_program().display()))?.success())
}

/// The Python of this machine.
struct Python {
    shown: String,
    is_new: bool,
}

fn python() -> Option<Python> {
    let output = Command::new("python3").arg("--version").stdin(Stdio::null()).output().ok()?;
    let shown = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_new = output.status.success() && release(&shown).is_some_and(|found| found >= OLDEST);
    Some(Python { shown, is_new })
}

/// The release in what `python3 --version` prints.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("Python ")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn needs() -> Vec<Need> {
    let python = python().filter(|found| found.is_new).map(|found| found.shown);
    // Debian's python3 has a venv that works only with another package, which has ensurepip.
    let mut parts = Command::new("python3");
    parts.args(["-c", "import ensurepip, venv; print(venv.__file__)"]).stdin(Stdio::null());
    let parts = parts.output().ok().filter(|output| output.status.success());
    let parts = parts.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    vec![
        Need { what: format!("Python {}.{} or later", OLDEST.0, OLDEST.1), found: python, get: GET_PYTHON },
        Need { what: "venv, for the project's packages".to_owned(), found: parts, get: GET_VENV },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(release("Python 3.11.7"), Some((3, 11)));
        assert_eq!(release("Python 3.14.0rc1"), Some((3, 14)));
        assert_eq!(release("pyenv: python3: command not found"), None);
    }
}
