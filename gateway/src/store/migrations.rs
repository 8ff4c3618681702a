//! The versions of the schema that this program knows: the files of `migrations/`, in order.

use std::borrow::Cow;
use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// One file: version, name and text. The macro of sqlx would find the files by itself, but compile the driver a second
/// time, for the compiler.
macro_rules! migration {
    ($version:literal, $name:literal) => {
        ($version, $name, include_str!(concat!("../../../migrations/", $version, "_", $name, ".sql")))
    };
}

const FILES: &[(&str, &str, &str)] = &[
    migration!("0001", "applications"),
    migration!("0002", "events"),
    migration!("0003", "dead_letters"),
    migration!("0004", "partitions"),
    migration!("0005", "counts"),
    migration!("0006", "retention"),
    migration!("0007", "redrive"),
    migration!("0008", "application_limits"),
    migration!("0009", "gathered_counts"),
    migration!("0010", "unchecked_deltas"),
    migration!("0011", "schema_floor"),
    migration!("0012", "replica_identity"),
    migration!("0013", "unseen_letters"),
    migration!("0014", "secrets"),
    migration!("0015", "retention_rounds"),
    migration!("0016", "last_words"),
    migration!("0017", "request_ids"),
    migration!("0018", "token_facts"),
    migration!("0019", "audit"),
    migration!("0020", "read_limits"),
    migration!("0021", "panel"),
    migration!("0022", "owner_functions"),
    migration!("0023", "duties"),
    migration!("0024", "jobs"),
    migration!("0025", "generations"),
    migration!("0026", "replay"),
    migration!("0027", "candidates"),
    migration!("0028", "replacements"),
    migration!("0029", "taken_back"),
];

/// Runs the migrations that the database lacks.
pub(super) static KNOWN: LazyLock<Migrator> = LazyLock::new(|| {
    let migrations = FILES.iter().map(|(version, name, sql)| {
        let version = version.parse().expect("a file begins with its number");
        let description = Cow::Owned(name.replace('_', " "));
        Migration::new(
            version,
            description,
            MigrationType::Simple,
            sql.into_sql_str(),
            sql.starts_with("-- no-transaction"),
        )
    });
    Migrator::with_migrations(migrations.collect())
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_known_in_the_order_of_versions() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
        let listed = std::fs::read_dir(folder).expect("a folder");
        let mut listed: Vec<String> =
            listed.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
        listed.sort();
        let known: Vec<String> = FILES.iter().map(|(version, name, _)| format!("{version}_{name}.sql")).collect();
        assert_eq!(known, listed);
        let versions: Vec<i64> = KNOWN.iter().map(|migration| migration.version).collect();
        assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    }
}
