//! The languages in which a validator may be written: a row for each. A row says which files a project begins with, how
//! it is built into one module file, and what it needs on the machine. The commands know no language.

use std::path::{Path, PathBuf};

use eye_judge::Kind;

mod python;
mod rust;
mod schema;
mod typescript;

/// The name that stands for the project's in the files of a template.
const PROJECT_NAME: &str = "PROJECT_NAME";
/// What stands for its event type.
const EVENT_TYPE: &str = "EVENT_TYPE";

/// A language.
#[derive(Debug)]
pub(super) struct Language {
    /// Its name in `eye.toml` and after `--lang`.
    pub(super) name: &'static str,
    /// The files with which a project begins, its kit included: path and text.
    files: &'static [(&'static str, &'static str)],
    /// The file to change, in which the rule is.
    source: &'static str,
    /// Builds the project in a folder with the language's own tools. Returns the file that they made: a component, or a core
    /// module with WIT metadata.
    pub(super) build: fn(&Path) -> anyhow::Result<PathBuf>,
    /// What a build makes.
    pub(super) kind: Kind,
    /// Makes one ES module of the source of the project in a folder, for a page or Node: into this file, for this event type.
    /// Without it the module gets what was built.
    pub(super) bundle: Option<Bundler>,
    /// What the tools need on this machine.
    pub(super) needs: fn() -> Vec<Need>,
    /// Folders of the project that its tools write to, so that nobody watches them.
    pub(super) made_folders: &'static [&'static str],
}

/// Writes one ES module of the project in a folder into a file, for an event type.
type Bundler = fn(&Path, &Path, &str) -> anyhow::Result<()>;

/// Something that a language's tools need on the machine.
#[derive(Debug)]
pub(super) struct Need {
    /// Its name.
    pub(super) what: String,
    /// What is there, such as a version; `None` if nothing is.
    pub(super) found: Option<String>,
    /// How to get it.
    pub(super) get: &'static str,
}

/// All languages.
pub(super) const ALL: [&Language; 4] = [&rust::RUST, &schema::SCHEMA, &typescript::TYPESCRIPT, &python::PYTHON];

/// The language with this name.
///
/// # Errors
///
/// The names that there are.
pub(super) fn named(name: &str) -> Result<&'static Language, String> {
    let names: Vec<&str> = ALL.iter().map(|language| language.name).collect();
    let found = ALL.into_iter().find(|language| language.name == name);
    found.ok_or_else(|| {
        format!("there is no language `{}` here: it is {}", eye_event::legible::legible(name, 40), names.join(", "))
    })
}

/// Why a tool does not start.
fn missing(error: &std::io::Error, what: &str, get: &str) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return anyhow::anyhow!("{what} is not installed: {get}");
    }
    anyhow::anyhow!("{what} does not start: {error}")
}

impl Language {
    /// The file to change in a project of this name.
    pub(super) fn source_of(&self, name: &str) -> String {
        self.source.replace(PROJECT_NAME, name)
    }

    /// The files with which a project of this name and event type begins. A path may have the name too.
    pub(super) fn files_of(&self, name: &str, event_type: &str) -> Vec<(String, String)> {
        let filled = |text: &str| text.replace(PROJECT_NAME, name).replace(EVENT_TYPE, event_type);
        let is_kit = |path: &str| path.starts_with("kit/");
        self.files
            .iter()
            .map(|(path, text)| (filled(path), if is_kit(path) { (*text).to_owned() } else { filled(text) }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_begins_with_a_project_file_of_its_own_and_fills_its_names() {
        for language in ALL {
            let files = language.files_of("new-rule", "shop/sale");
            let project = files.iter().find(|(path, _)| path == "eye.toml").expect("a project file");
            let source = language.source_of("new-rule");
            assert!(files.iter().any(|(path, _)| *path == source), "{source}");
            assert!(project.1.contains(&format!("language = \"{}\"", language.name)), "{}", project.1);
            assert!(project.1.contains("type = \"shop/sale\""), "{}", project.1);
            for (path, text) in &files {
                assert!(!text.contains(PROJECT_NAME) && !text.contains(EVENT_TYPE), "{path}");
                assert!(!path.starts_with('/') && !path.contains(".."), "{path}");
            }
        }
        assert!(named("rast").is_err_and(|why| why.contains("rust")));
    }
}
