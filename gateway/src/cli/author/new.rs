//! `eye validator new`: begins a project that builds and tests at once. Everything that is ours comes out of the program,
//! so that nothing of ours must be published first.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use eye_event::legible::legible;
use eye_judge::Slot;
use serde_json::json;

use super::language::{self, Language};
use super::{from_schema, names, usage};
use crate::cli::Failure;
use crate::cli::output::say;

/// Characters of a name.
const NAME_CHARACTERS_MAX: usize = 64;

/// The data dir of a gateway that was started in this folder.
const DATA_DIR: &str = "eye-data";

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// The folder to make; its last part is the name of the project, such as sale-rule
    name: PathBuf,
    /// The event type that it judges, such as shop/sale; shop/* for the other names of a category
    #[arg(long = "type", value_name = "TYPE", value_parser = names::event_type)]
    event_type: Slot,
    /// The language
    #[arg(long = "lang", value_name = "LANGUAGE", default_value = "rust", value_parser = language::named)]
    language: &'static Language,
    /// Begin from a JSON Schema: Rust code that judges as it does, or with --lang schema a copy
    #[arg(long, value_name = "FILE")]
    from_schema: Option<PathBuf>,
    /// The schema within that file, as a JSON pointer, such as /components/schemas/Order
    #[arg(long, value_name = "POINTER", requires = "from_schema")]
    select: Option<String>,
    /// The gateway that its commands ask: a URL, or the data dir of one on this machine [default: ./eye-data, if it is there]
    #[arg(long, value_name = "URL|DIR")]
    gateway: Option<String>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(new: &New) -> Result<(), Failure> {
    let name = name_of(&new.name)?;
    let folder = std::path::absolute(&new.name).context("the folder to make")?;
    let mut files = new.language.files_of(name, &new.event_type.to_string());
    let mut left = Vec::new();
    if let Some(file) = &new.from_schema {
        let given = from_schema::Given::read(file, new.select.as_deref(), &new.event_type)?;
        left = given.begin(new.language.name, name, &mut files)?;
    }
    if let Some(gateway) = gateway(new, &folder) {
        let (_, project) =
            files.iter_mut().find(|(path, _)| path == super::project::FILE).context("a template has a project file")?;
        project.push_str(&format!("gateway = {}\n", toml::Value::String(gateway)));
    }
    let in_the_way: Vec<&str> = files
        .iter()
        .map(|(path, _)| path.as_str())
        .filter(|path| folder.join(path).symlink_metadata().is_ok())
        .collect();
    if !in_the_way.is_empty() {
        let (shown, count) = (in_the_way[..in_the_way.len().min(5)].join(", "), in_the_way.len());
        return Err(anyhow::anyhow!(
            "{} has {count} of the files already ({shown}{}), and nothing is overwritten: name another folder",
            new.name.display(),
            if count > 5 { ", ..." } else { "" }
        )
        .into());
    }
    for (path, text) in &files {
        write(&folder.join(path), text).with_context(|| folder.join(path).display().to_string())?;
    }
    let shown = new.name.display().to_string();
    if new.json {
        let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let event_type = new.event_type.to_string();
        return Ok(say(
            json!({"folder": shown, "type": event_type, "language": new.language.name, "files": paths, "not_expressed": left}),
        )?);
    }
    if !left.is_empty() {
        say(format_args!(
            "The code does not express {} of the schema; the top of src/lib.rs lists it too:\n",
            left.len()
        ))?;
        for one in &left {
            say(format_args!("  {one}"))?;
        }
        say("")?;
    }
    Ok(say(format_args!(
        "{shown} judges {}; its rules are in {}. Next:\n\n  cd {shown}\n  eye validator test     builds it, and judges its examples, its fixtures and made-up \
         misuse\n  eye validator dev      does that at each change, and pushes into a local gateway\n  eye validator push     \
         ships it",
        new.event_type,
        new.language.source_of(name)
    ))?)
}

/// Writes a file that was not there, and the folders above it.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).create(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(file)?.write_all(text.as_bytes())
}

/// The name of a project, which is that of its crate or package too.
fn name_of(folder: &Path) -> Result<&str, Failure> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_plain = name
        .chars()
        .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || "-_".contains(character));
    let taken = ["eye-validator", "test", "core", "std", "kit", "build"].contains(&name);
    if is_plain
        && !taken
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NAME_CHARACTERS_MAX
    {
        return Ok(name);
    }
    let mut near = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && near.ends_with(|last: char| last.is_ascii_lowercase()) {
            near.push('-');
        }
        near.push(if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' });
    }
    let near = near.trim_matches('-').trim_start_matches(|first: char| first.is_ascii_digit()).trim_matches('-');
    let near = if near.is_empty() || taken { "sale-rule" } else { near };
    Err(usage(format!(
        "a project's name has small letters, digits, `-` and `_`, begins with a letter, and is no name of a crate that it uses; \
         `{}` is none: write it such as {near}",
        legible(name, NAME_CHARACTERS_MAX)
    )))
}

/// The gateway of a new project, as its file names it.
fn gateway(new: &New, folder: &Path) -> Option<String> {
    let given = new.gateway.clone().or_else(|| Path::new(DATA_DIR).is_dir().then(|| DATA_DIR.to_owned()))?;
    if given.contains("://") || Path::new(&given).is_absolute() {
        return Some(given);
    }
    let from_here = std::path::absolute(&given).ok()?;
    Some(relative(&from_here, folder).unwrap_or(from_here).display().to_string())
}

/// The path of `to` as seen from a folder.
fn relative(to: &Path, folder: &Path) -> Option<PathBuf> {
    let normal = |path: &Path| path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
    if !normal(to) || !normal(folder) {
        return None;
    }
    let shared = to.components().zip(folder.components()).take_while(|(one, other)| one == other).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    Some(up.chain(to.components().skip(shared)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates() {
        for name in ["sale-rule", "a", "rules/sale_2"] {
            assert!(name_of(Path::new(name)).is_ok(), "{name}");
        }
        for (name, near) in [
            ("Sale Rule", "sale-rule"),
            ("SaleRule", "sale-rule"),
            ("1st", "st"),
            ("..", "sale-rule"),
            ("\u{e9}", "sale-rule"),
            ("test", "sale-rule"),
        ] {
            let told = name_of(Path::new(name)).expect_err(name).to_string();
            assert!(told.contains(&format!("such as {near}")), "{name}: {told}");
        }
    }

    #[test]
    fn a_data_dir_is_named_from_the_project() {
        assert_eq!(relative(Path::new("/a/eye-data"), Path::new("/a/rules/sale")), Some("../../eye-data".into()));
        assert_eq!(relative(Path::new("/a/b"), Path::new("/a")), Some("b".into()));
        assert_eq!(relative(Path::new("/a/../b"), Path::new("/a")), None);
    }
}
