//! `eye validator build`: the language's own tools make a module of the project, and this makes one component without
//! imports of it; a schema is checked and copied. While it works, there is no file: a failed build never leaves the old one looking new.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use eye_event::verdict::Digest;
use eye_judge::{Kind, Refusal};
use serde_json::json;

use super::project::Project;
use super::terminal::bytes;
use super::{needed_project, trying};
use crate::cli::Failure;
use crate::cli::output::{refusal_lines, say, warn};

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(build: &Build) -> Result<(), Failure> {
    let project = needed_project()?;
    let file = make(&project)?;
    let content = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let (digest, size) = (Digest::of(&content).to_string(), content.len());
    if build.json {
        return Ok(say(json!({"file": file, "bytes": size, "digest": digest}))?);
    }
    Ok(say(format_args!("{}\t{}\t{digest}", file.display(), bytes(size)))?)
}

/// Builds the project for another command, and says so to people.
pub(super) fn built(project: &Project) -> anyhow::Result<PathBuf> {
    let file = make(project)?;
    let size = std::fs::metadata(&file).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
    warn(format_args!("eye: built {} ({})", file.display(), bytes(size)));
    Ok(file)
}

/// Builds the project, and returns the component's file.
pub(super) fn make(project: &Project) -> anyhow::Result<PathBuf> {
    let file = project.module_file();
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("the file of the last build, {}", file.display()));
        }
        _ => {}
    }
    let made = (project.language.build)(&project.folder)?;
    let content = std::fs::read(&made).with_context(|| made.display().to_string())?;
    let checked = match project.language.kind {
        Kind::Module => eye_judge::to_component(&content),
        Kind::Schema => check_schema(project, &content)?.map(|()| content),
    };
    let content = checked.map_err(|refusal| {
        anyhow!("what was built is no validator ({}):\n{}", made.display(), refusal_lines(&refusal))
    })?;
    let folder = file.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let beside = file.with_extension("new");
    let written = std::fs::write(&beside, content).and_then(|()| std::fs::rename(&beside, &file));
    written.with_context(|| file.display().to_string())?;
    Ok(file)
}

/// Whether a gateway would take a schema that may fail its examples: `test` shows those one by one.
fn check_schema(project: &Project, content: &[u8]) -> anyhow::Result<Result<(), Refusal>> {
    let settings = project.settings()?;
    match trying::load(&project.event_type, Kind::Schema, content, settings.as_deref(), false) {
        Ok(loaded) => Ok(loaded.map(|_| ())),
        Err(failure) => Err(anyhow!("{failure}")),
    }
}
