//! The subcommands that talk to the database only. Results go to stdout, faults to stderr.

use crate::config::{KeysCommand, Options};
use crate::error::chain;
use bootstrap::settings::exit;
use domain::clock::wire_time;
use domain::{SystemClock, SystemIds, UserId};
use runs::{ApiKey, ApiKeys, Db, DbOptions, MigrationError, StoreError};
use std::io::{self, Write as _};
use std::sync::Arc;

/// Exit code of a command that was understood and did not succeed.
const FAILED: u8 = 1;

/// Applies the schema; `create_database` makes the database first.
pub async fn migrate(options: &DbOptions, create_database: bool) -> io::Result<u8> {
    match try_migrate(options, create_database).await {
        Ok(text) => {
            writeln!(io::stdout(), "{text}")?;
            Ok(exit::OK)
        }
        Err(error) => {
            writeln!(io::stderr(), "{}", chain(&error))?;
            Ok(match error {
                MigrationError::Store(StoreError::Unavailable(_)) => exit::UNAVAILABLE,
                _ => FAILED,
            })
        }
    }
}

async fn try_migrate(options: &DbOptions, create_database: bool) -> Result<String, MigrationError> {
    if create_database {
        Db::create_database(options).await?;
    }
    let report = Db::connect(options)?.migrate().await?;
    let applied = report.applied.len();
    Ok(format!(
        "schema is current: {applied} of {} migrations applied now",
        report.total
    ))
}

/// Runs one of `keys create|list|revoke`.
pub async fn keys(options: &Options, command: KeysCommand) -> io::Result<u8> {
    let db = match Db::connect(&options.db) {
        Ok(db) => db,
        Err(error) => {
            writeln!(io::stderr(), "{}", chain(&error))?;
            return Ok(exit::SETTINGS);
        }
    };
    let keys = ApiKeys::new(db, Arc::new(SystemClock), Arc::new(SystemIds));
    match run(&keys, command).await {
        Ok(code) => code,
        Err(error) => {
            writeln!(io::stderr(), "{}", chain(&error))?;
            Ok(if matches!(error, StoreError::Unavailable(_)) {
                exit::UNAVAILABLE
            } else {
                FAILED
            })
        }
    }
}

async fn run(keys: &ApiKeys, command: KeysCommand) -> Result<io::Result<u8>, StoreError> {
    match command {
        KeysCommand::Create { user, name, admin } => {
            let user = UserId(user);
            let made = keys
                .create(&user, name.as_deref().unwrap_or_default(), admin)
                .await?;
            Ok(shown(&[made.key]))
        }
        KeysCommand::List => {
            let lines: Vec<String> = keys.list().await?.iter().map(line).collect();
            Ok(shown(&lines))
        }
        KeysCommand::Revoke { id } => {
            let known = match id.parse() {
                Ok(id) => keys.revoke(id).await?,
                Err(_) => false,
            };
            if known {
                return Ok(shown(&[format!("revoked {id}")]));
            }
            Ok(writeln!(io::stderr(), "no such key: {id}").map(|()| FAILED))
        }
    }
}

fn shown(lines: &[String]) -> io::Result<u8> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush().map(|()| exit::OK)
}

fn line(key: &ApiKey) -> String {
    let state = key
        .revoked_at
        .map_or("active".to_owned(), |at| format!("revoked {}", wire_time(at)));
    let role = if key.is_admin { "admin" } else { "user" };
    let used = key.last_used_at.map_or("never".to_owned(), wire_time);
    format!(
        "{}  {}…  user={}  name={}  role={role}  created={}  last_used={used}  {state}",
        key.id,
        key.key_prefix,
        key.user_id,
        key.name,
        wire_time(key.created_at)
    )
}
