//! JSON Schema: the project is one schema file. No tools are needed, since the engine that judges by schemas comes with
//! the program. A build checks the file and copies it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use eye_judge::Kind;

use super::{Language, Need};

/// The row of JSON Schema.
pub(super) static SCHEMA: Language = Language {
    name: "schema",
    files: &[
        ("eye.toml", include_str!("../../../../../validators/templates/schema/eye.toml")),
        ("PROJECT_NAME.schema.json", include_str!("../../../../../validators/templates/schema/order.schema.json")),
        (
            "fixtures/accept/an-order.json",
            include_str!("../../../../../validators/templates/schema/fixtures/accept/an-order.json"),
        ),
        (
            "fixtures/reject/a-wrong-line.json",
            include_str!("../../../../../validators/templates/schema/fixtures/reject/a-wrong-line.json"),
        ),
        (".gitignore", "/build\n"),
    ],
    source: "PROJECT_NAME.schema.json",
    build,
    kind: Kind::Schema,
    bundle: None,
    needs,
    made_folders: &["build"],
};

/// The schema file of a project: the only one beside `eye.toml`.
fn build(project: &Path) -> anyhow::Result<PathBuf> {
    let ending = Kind::Schema.ending();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(project).with_context(|| project.display().to_string())? {
        let path = entry.with_context(|| project.display().to_string())?.path();
        if Kind::of_file(&path) == Some(Kind::Schema) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    match &found[..] {
        [file] => Ok(file.clone()),
        [] => bail!("{} has no schema: write one, <name>{ending}, beside eye.toml", project.display()),
        [one, other, ..] => bail!(
            "{} has several schemas, such as {} and {}, and a validator is one: keep the others in a folder below",
            project.display(),
            name(one),
            name(other)
        ),
    }
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn needs() -> Vec<Need> {
    let found = eye_judge::has_engine().then(|| "in this program; a schema needs nothing else".to_owned());
    vec![Need {
        what: "the engine of schema files".to_owned(),
        found,
        get: "validators/install --engines, then build the program again; a release has it",
    }]
}
