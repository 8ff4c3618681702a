//! What the settings name and a look can prove before anything starts: files and folders. `eye config check` asks for all of
//! it; a gateway meets what is wrong by itself.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Config, Kind, SETTINGS, Settings, parts};
use crate::{store, tls};

/// What is wrong, and what might be.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Looks at all that the settings name. `is_wrong` says which settings have a problem of their own.
pub(super) fn look(settings: &Settings, config: &Config, is_wrong: impl Fn(&str) -> bool) -> Found {
    let mut found = Found::default();
    let origin = |key: &str| settings.values[key].origin.clone();
    let files = parts::tls_files(config)
        .filter(|_| !["tls_certificate", "tls_key", "tls_client_ca"].iter().any(|key| is_wrong(key)));
    if let Some(files) = files {
        let told = tls::problems(&files).into_iter().map(|problem| format!("{}: {problem}", origin("tls_certificate")));
        found.problems.extend(told);
    }
    match folder(&config.modules) {
        Ok(true) => {}
        Ok(false) => {
            let (place, dir) = (origin("modules"), config.modules.display());
            let told = format!("{place}: the modules directory {dir} is not there");
            // A first try needs none.
            if place == "default" { &mut found.warnings } else { &mut found.problems }.push(told);
        }
        Err(problem) => found.problems.push(format!("{}: modules: {problem}", origin("modules"))),
    }
    if let Err(problem) = folder(&config.data_dir) {
        found.problems.push(format!("{}: data_dir: {problem}", origin("data_dir")));
    }
    if let (Some(dir), None) = (&config.postgres_bin, &config.database_url) {
        match folder(dir) {
            Ok(true) => {}
            Ok(false) => {
                found.problems.push(format!("{}: postgres_bin {} is not there", origin("postgres_bin"), dir.display()))
            }
            Err(problem) => found.problems.push(format!("{}: postgres_bin: {problem}", origin("postgres_bin"))),
        }
    }
    if let Some(url) = &config.database_url {
        for (parameter, file) in store::url_files(url.expose()) {
            if let Err(error) = std::fs::File::open(&file) {
                let place = origin("database_url");
                found
                    .problems
                    .push(format!("{place}: database_url: {parameter} {} cannot be read: {error}", file.display()));
            }
        }
    }
    found.problems.extend(open_secrets(settings));
    found
}

/// Whether a folder is there.
fn folder(path: &Path) -> Result<bool, String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(format!("{} is no folder", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{} cannot be looked at: {error}", path.display())),
    }
}

/// Secrets that everybody on the machine can read in the settings' file.
pub(super) fn open_secrets(settings: &Settings) -> Vec<String> {
    let Some(file) = &settings.file else { return Vec::new() };
    let Ok(found) = std::fs::metadata(file) else { return Vec::new() };
    if found.permissions().mode() & 0o004 == 0 {
        return Vec::new();
    }
    let holds = |key: &str| {
        let given = &settings.values[key];
        let in_file = given.origin.starts_with(&format!("{}:", file.display()));
        in_file && (key != "database_url" || store::url_has_password(&given.text))
    };
    let secrets = SETTINGS.iter().filter(|setting| matches!(setting.kind, Kind::Secret) && holds(setting.key));
    let told = |key: &str| {
        format!(
            "{}: {key} holds a password, and everybody on this machine may read the file; `chmod o-r` it, or give the value \
             in EYE_{}_FILE",
            settings.values[key].origin,
            key.to_uppercase()
        )
    };
    secrets.map(|setting| told(setting.key)).collect()
}
