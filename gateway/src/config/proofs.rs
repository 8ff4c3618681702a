//! Checks the files and folders that the settings name. Only `eye config check` runs all of these checks; a gateway
//! meets the same errors when it opens the files.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use eye_judge::ModulesFrom;

use super::{Config, Kind, Origin, SETTINGS, Settings, parts};
use crate::{store, tls};

/// The results of the checks.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Checks everything that the settings name, except for settings for which `is_wrong` is true.
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
        _ if config.modules_from == ModulesFrom::Database => {}
        Ok(false) => {
            let (place, dir) = (origin("modules"), config.modules.display());
            let told = format!("{place}: the modules directory {dir} is not there");
            // A first try of the gateway needs no modules directory.
            if place == Origin::Default { &mut found.warnings } else { &mut found.problems }.push(told);
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

/// Whether a folder exists.
fn folder(path: &Path) -> Result<bool, String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(format!("{} is no folder", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{} cannot be checked: {error}", path.display())),
    }
}

/// Secrets in a settings' file that every user of the machine can read.
pub(super) fn open_secrets(settings: &Settings) -> Vec<String> {
    let Some(file) = &settings.file else { return Vec::new() };
    let Ok(found) = std::fs::metadata(file) else { return Vec::new() };
    if found.permissions().mode() & 0o004 == 0 {
        return Vec::new();
    }
    let holds = |key: &str| {
        let given = &settings.values[key];
        let in_file = matches!(given.origin, Origin::File(_));
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
