//! The product's schema, as `agent-api migrate` would make it.

use sha2::{Digest, Sha256};

use super::session::{execute, try_execute};

/// The project's SQL files; also the ones a release embeds.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");

/// What `agent-api migrate` keeps, so that a program started on a migrated database finds it current.
const LEDGER: &str = "CREATE SCHEMA IF NOT EXISTS runtime;
CREATE TABLE IF NOT EXISTS runtime.schema_migrations (
    version text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// Applies all migrations to the empty database `template`, each in one transaction with its ledger row.
pub(super) async fn apply(template: &str) {
    execute(template, LEDGER).await;
    for (version, sql) in migrations() {
        let checksum: String = Sha256::digest(&sql)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let script = format!(
            "BEGIN;\n{sql}\n;INSERT INTO runtime.schema_migrations (version, checksum) \
             VALUES ('{version}', '{checksum}');\nCOMMIT"
        );
        let result = try_execute(template, &script).await;
        result.unwrap_or_else(|error| panic!("migration {version}: {error:?}"));
    }
}

/// Version (file name without `.up.sql`) and text, in order.
fn migrations() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(MIGRATIONS).unwrap_or_else(|error| panic!("{MIGRATIONS}: {error}"));
    let files = entries.map(|entry| entry.expect("readable directory").path());
    let mut found: Vec<(String, String)> = files
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_suffix(".up.sql")?.to_owned();
            let sql =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Some((version, sql))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *.up.sql in {MIGRATIONS}");
    found
}
