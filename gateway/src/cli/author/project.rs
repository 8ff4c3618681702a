//! A validator's project: the folder with `eye.toml`, found from the current folder upwards, and what that file says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::language::{self, Language};
use super::names;
use crate::cli::reach::{At, NamedGateway};
use crate::config::Problems;
use eye_judge::Slot;

/// The name of the project file.
pub(super) const FILE: &str = "eye.toml";

/// Most bytes of a project file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A project.
#[derive(Debug)]
pub(in crate::cli) struct Project {
    /// The folder with the project file.
    pub(super) folder: PathBuf,
    /// The event types that the validator judges.
    pub(in crate::cli) event_type: Slot,
    pub(super) language: &'static Language,
    /// The gateway that commands ask, unless the environment names one.
    pub(in crate::cli) gateway: Option<NamedGateway>,
    /// The folder with the fixtures.
    pub(super) fixtures: PathBuf,
}

/// The file as written. An unknown key is an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    event_type: String,
    language: String,
    gateway: Option<String>,
    fixtures: Option<PathBuf>,
}

impl Project {
    /// Finds the project of a folder: the nearest `eye.toml` here or above that is a project's. A gateway's settings may
    /// have that name too.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>, Problems> {
        for folder in folder.ancestors() {
            let file = folder.join(FILE);
            let Some(text) = read(&file) else { continue };
            let text = text.map_err(|error| Problems(vec![format!("{}: {error}", file.display())]))?;
            let is_project = ["type", "language"].iter().any(|key| {
                text.lines().any(|line| {
                    line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
                })
            });
            if is_project {
                return Self::parse(folder, &text).map(Some).map_err(Problems);
            }
        }
        Ok(None)
    }

    fn parse(folder: &Path, text: &str) -> Result<Self, Vec<String>> {
        let file = folder.join(FILE);
        let written: Written = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
            vec![format!("{}:{line}: {}", file.display(), error.message())]
        })?;
        let mut problems = Vec::new();
        let line_of =
            |key: &str| text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at + 1);
        let mut tell =
            |key: &str, why: String| problems.push(format!("{}:{}: {key}: {why}", file.display(), line_of(key)));
        let event_type = names::event_type(&written.event_type).map_err(|why| tell("type", why)).ok();
        let language = language::named(&written.language).map_err(|why| tell("language", why)).ok();
        match (event_type, language) {
            (Some(event_type), Some(language)) => {
                let at = |gateway: String| {
                    let dir = folder.join(&gateway);
                    // Without `..` in it, people find it.
                    let dir = dir.canonicalize().unwrap_or(dir);
                    if gateway.contains("://") { At::Url(gateway) } else { At::DataDir(dir) }
                };
                let gateway = written.gateway.filter(|gateway| !gateway.is_empty());
                let gateway = gateway.map(|gateway| NamedGateway { at: at(gateway), file });
                let fixtures = folder.join(written.fixtures.unwrap_or_else(|| PathBuf::from("fixtures")));
                Ok(Self { folder: folder.to_owned(), event_type, language, gateway, fixtures })
            }
            _ => Err(problems),
        }
    }

    /// The name of the project: that of its folder.
    pub(super) fn name(&self) -> String {
        self.folder.file_name().map_or_else(|| "validator".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// The file that a build makes.
    pub(super) fn module_file(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}{}", self.name(), self.language.kind.ending()))
    }

    /// The text of the module's settings, if the project has any.
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Option<String>> {
        super::read_if_there(&self.folder.join("settings.toml"))
    }
}

/// The text of a project file; nothing if there is none.
fn read(file: &Path) -> Option<std::io::Result<String>> {
    let size = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?.len();
    if size > FILE_BYTES_MAX {
        return None;
    }
    Some(std::fs::read_to_string(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Option<Project>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).expect("made");
        std::fs::write(folder.path().join(FILE), text).expect("written");
        Project::find(&below).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_project_is_found_from_within_and_a_gateways_settings_are_none() {
        let project = found("type = \"shop/sale\"\nlanguage = \"rust\"\n").expect("right").expect("there");
        assert_eq!((project.event_type.to_string().as_str(), project.language.name), ("shop/sale", "rust"));
        assert!(project.fixtures.ends_with("fixtures") && project.gateway.is_none());
        assert!(found("listen = \"127.0.0.1:1\"\nlog_format = \"json\"\n").expect("no project").is_none());
    }

    #[test]
    fn a_gateway_is_a_url_or_a_data_dir() {
        let text = |gateway: &str| format!("type = \"a/b\"\nlanguage = \"rust\"\ngateway = \"{gateway}\"\n");
        let at = |gateway: &str| found(&text(gateway)).expect("right").expect("there").gateway.map(|place| place.at);
        assert_eq!(at("https://eye.example"), Some(At::Url("https://eye.example".to_owned())));
        assert!(matches!(at("../eye-data"), Some(At::DataDir(dir)) if dir.ends_with("../eye-data")));
        assert_eq!(at(""), None);
    }

    #[test]
    fn all_problems_are_told_with_their_lines() {
        let told = found("type = \"shop.sale\"\n\nlanguage = \"rast\"\n").expect_err("wrong");
        assert!(told.contains(":1: type: ") && told.contains("`shop/sale`"), "{told}");
        assert!(told.contains(":3: language: ") && told.contains("rust"), "{told}");
        let told = found("type = \"a/b\"\nlanguage = \"rust\"\ngatway = \"x\"\n").expect_err("wrong");
        assert!(told.contains(":3: unknown field `gatway`"), "{told}");
        assert!(found("type = \"a/b\"\n").is_err_and(|told| told.contains("language")));
    }
}
