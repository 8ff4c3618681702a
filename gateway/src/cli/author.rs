//! What an author does before a validator is shipped: begin, build, check, test, measure. Every command works without
//! arguments within a project, a folder with `eye.toml`, and on any module file outside of one. The part that depends on
//! the language is the table in `author/language.rs`; what judges is `crates/judge`, as in a gateway.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use eye_judge::{Kind, Slot};

use super::Failure;
use crate::config::Problems;

mod against;
mod bench;
mod build;
mod bundle;
mod check;
mod dev;
mod disguise;
mod doctor;
mod events;
mod fixtures;
mod from_schema;
mod language;
mod misuse;
mod names;
mod new;
mod project;
mod pull;
mod rust_code;
mod rust_rules;
mod schema_fields;
mod schema_node;
mod terminal;
mod test;
mod trying;

pub(super) use bench::{Bench, run as bench};
pub(super) use build::{Build, run as build};
pub(super) use bundle::{Bundle, run as bundle};
pub(super) use check::{Check, run as check};
pub(super) use dev::{Dev, run as dev};
pub(super) use doctor::{Doctor, run as doctor};
pub(super) use names::event_type;
pub(super) use new::{New, run as new};
pub(super) use project::Project;
pub(super) use pull::{Fixtures, run as fixtures};
pub(super) use test::{Test, run as test};

use build::built;

/// Most bytes of a module file; a gateway takes no more.
const MODULE_BYTES_MAX: u64 = crate::shipping::MODULE_BYTES_MAX as u64;

/// A module as arguments name it.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// The module's file [default: the project in which this runs, which is built first]
    file: Option<PathBuf>,
    /// The event type: category/name, category/* or *, percent-encoded where needed [default: that of the project]
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: Option<Slot>,
}

/// A module file, and the event types that it is for.
#[derive(Debug)]
pub(super) struct ModuleFile {
    pub(super) file: PathBuf,
    pub(super) event_type: Slot,
    /// It was built from the project.
    pub(super) is_of_project: bool,
}

impl Wanted {
    /// Whether it is a file, and not the project.
    fn names_a_file(&self) -> bool {
        self.file.is_some()
    }

    /// Finds the module that is meant, and builds the project if it is that.
    pub(super) fn resolve(&self, project: Option<&Project>) -> Result<ModuleFile, Failure> {
        let event_type = self.event_type.clone().or_else(|| project.map(|project| project.event_type.clone()));
        match (&self.file, project) {
            (Some(file), _) => {
                let event_type = event_type.ok_or_else(|| {
                    usage("name the event type that the module is for: --type category/name, such as --type shop/sale")
                })?;
                Ok(ModuleFile { file: file.clone(), event_type, is_of_project: false })
            }
            (None, Some(project)) => {
                let file = built(project)?;
                let event_type = event_type.unwrap_or_else(|| project.event_type.clone());
                Ok(ModuleFile { file, event_type, is_of_project: true })
            }
            (None, None) => Err(usage(
                "name a module's file and its event type (FILE --type category/name), or run this inside a validator's \
                 project (a folder with eye.toml; `eye validator new` begins one)",
            )),
        }
    }
}

impl Wanted {
    /// The event types alone, for a module that is named in another way.
    pub(super) fn event_type_alone(&self, project: Option<&Project>) -> Result<Slot, Failure> {
        if self.file.is_some() {
            return Err(usage("name a file or a digest, and not both"));
        }
        let event_type = self.event_type.clone().or_else(|| project.map(|project| project.event_type.clone()));
        event_type.ok_or_else(|| usage("name the event type: --type category/name, such as --type shop/sale"))
    }
}

impl ModuleFile {
    /// The bytes of the file.
    pub(super) fn content(&self) -> anyhow::Result<Vec<u8>> {
        let shown = self.file.display();
        let size = match std::fs::metadata(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                anyhow::bail!("there is no file {shown}: name the file of a module or of a schema")
            }
            metadata => metadata.with_context(|| format!("{shown}"))?.len(),
        };
        if size > MODULE_BYTES_MAX {
            anyhow::bail!("{shown} has {size} bytes, and a module has {MODULE_BYTES_MAX} at most: build it for size");
        }
        std::fs::read(&self.file).with_context(|| format!("{shown}"))
    }

    /// Whether it is a module or a schema: as a modules directory, by the name of the file.
    pub(super) fn kind(&self, content: &[u8]) -> Kind {
        Kind::of(&self.file, content)
    }

    /// The text of its settings: the project's `settings.toml`, or the `<name>.toml` beside the file.
    fn settings(&self, project: Option<&Project>) -> anyhow::Result<Option<String>> {
        match project {
            Some(project) if self.is_of_project => project.settings(),
            _ => read_if_there(&eye_judge::settings_of(&self.file)),
        }
    }
}

/// The project in which this runs, if it is one.
pub(super) fn project() -> Result<Option<Project>, Failure> {
    let here = std::env::current_dir().context("the folder in which this runs")?;
    Ok(Project::find(&here)?)
}

/// The project in which this runs.
fn needed_project() -> Result<Project, Failure> {
    project()?.ok_or_else(|| {
        usage("this is no validator's project (there is no eye.toml here or above): `eye validator new` begins one")
    })
}

/// Wrong usage: exit code 64.
pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::Configuration(Problems(vec![message.into()]))
}

/// The text of a file, or nothing if there is none.
fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
