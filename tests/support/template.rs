//! Clusters that are made once and copied for each test, which takes a tenth of the time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use eye_event::verdict::Digest;

/// The key of a template: its name, the month, since its partitions are made for that, and a digest of the migrations,
/// since others make another schema.
fn key(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the migrations").map(|entry| entry.expect("a migration").path()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(fs::read(file).expect("a migration"));
    }
    #[expect(clippy::disallowed_methods, reason = "the months of a cluster are those of the machine's clock")]
    let month = chrono::Utc::now().format("%Y-%m");
    format!("{name}-{month}-{}", &Digest::of(&all).to_string()[..12])
}

/// Copies the cluster `name` to `to`, which must not exist yet. The first test that needs it has it made by `make`, at
/// a place that the user of Postgres can enter; the others wait for it.
pub(crate) fn copy(name: &str, to: &Path, make: impl FnOnce() -> (tempfile::TempDir, PathBuf)) {
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).expect("target/<profile>/eye");
    let templates = target.join("test-clusters");
    fs::create_dir_all(&templates).expect("a folder for templates");
    let name = key(name);
    let template = templates.join(&name);
    {
        let lock = File::create(templates.join(format!("{name}.lock"))).expect("a lock");
        lock.lock().expect("locked");
        if !template.exists() {
            let (_folder, made) = make();
            let unfinished = templates.join(format!("{name}.new"));
            let _ = fs::remove_dir_all(&unfinished);
            copy_folder(&made, &unfinished);
            fs::rename(&unfinished, &template).expect("the template in its place");
        }
    }
    copy_folder(&template, to);
}

/// Copies a folder with owners and modes.
fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg("--reflink=auto").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "{} was not copied to {}", from.display(), to.display());
}
