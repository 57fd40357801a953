//! Finds the programs that are not ours: Redis and Postgres; and ours beside this one.

use crate::envfile::Values;
use crate::failure::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest usable versions (major).
const MIN_REDIS: u32 = 7;
const MIN_VALKEY: u32 = 7;
const MIN_POSTGRES: u32 = 15;

/// Where package managers put things that are not in PATH.
const USUAL_BIN: [&str; 6] = [
    "/usr/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/snap/bin",
];
const POSTGRES_PARENTS: [&str; 7] = [
    "/usr/lib/postgresql",
    "/usr/pgsql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
    "/home/linuxbrew/.linuxbrew/opt",
    "/Applications/Postgres.app/Contents/Versions",
    "/usr/libexec",
];

/// A usable server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub version: String,
}

/// A Redis (or Valkey) server of at least version 7.
pub fn redis(env: &Values) -> Result<Found, Failure> {
    let mut candidates: Vec<PathBuf> = env
        .get("REDIS_BIN")
        .map(|bin| as_program(bin, "redis-server"))
        .into_iter()
        .collect();
    for name in ["redis-server", "valkey-server"] {
        candidates.extend(in_path(env).chain(usual()).map(|dir| dir.join(name)));
    }
    first_usable(&candidates, |text| {
        let minimum = if text.contains("alkey") { MIN_VALKEY } else { MIN_REDIS };
        Some((version_after(text, "v=")?, minimum))
    })
    .map_err(|tried| {
        missing("Redis 7 or newer (redis-server or valkey-server)", &tried)
            .fix("Debian/Ubuntu: apt-get install redis-server; macOS: brew install redis; or set REDIS_BIN or REDIS_URL")
    })
}

/// The directory of `postgres` and `initdb`, version 15 or newer; exactly `wanted` for data that is there already.
pub fn postgres(env: &Values, wanted: Option<u32>) -> Result<Found, Failure> {
    let mut dirs: Vec<PathBuf> = env.get("PG_BIN").map(PathBuf::from).into_iter().collect();
    dirs.extend(pg_config_bindir());
    dirs.extend(in_path(env));
    let mut packaged: Vec<(u32, PathBuf)> = POSTGRES_PARENTS
        .iter()
        .flat_map(|parent| versions_in(Path::new(parent)))
        .collect();
    packaged.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    dirs.extend(packaged.into_iter().map(|(_, dir)| dir));
    dirs.extend(usual());
    let candidates: Vec<PathBuf> = dirs
        .iter()
        .filter(|dir| dir.join("initdb").is_file())
        .map(|dir| dir.join("postgres"))
        .collect();
    let judge = |text: &str| {
        let version = version_after(text, ") ")?;
        let other = wanted.is_some_and(|wanted| wanted != major(&version));
        // No version is this new: the candidate is refused and told.
        Some((version, if other { u32::MAX } else { MIN_POSTGRES }))
    };
    let what = wanted.map_or_else(
        || "PostgreSQL 15 or newer (postgres and initdb)".to_owned(),
        |wanted| format!("PostgreSQL {wanted}, which made the data in this home"),
    );
    first_usable(&candidates, judge)
        .map(|found| Found {
            path: found.path.parent().map(Path::to_owned).unwrap_or_default(),
            version: found.version,
        })
        .map_err(|tried| {
            missing(&what, &tried)
                .fix("Debian/Ubuntu: apt-get install postgresql; macOS: brew install postgresql@17; or set PG_BIN or DATABASE_URL")
        })
}

/// One of our own programs: `AGENT_BIN_DIR`, beside this one, else in PATH.
pub fn ours(name: &str, env: &Values) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(Path::to_owned));
    let named = env.get("AGENT_BIN_DIR").map(PathBuf::from);
    named
        .into_iter()
        .chain(beside)
        .chain(in_path(env))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::new(format!("{name} is not there"))
                .because("it is neither beside agentctl nor in PATH")
                .fix("build all programs: cargo build --release --workspace --bins")
        })
}

fn missing(what: &str, tried: &[String]) -> Failure {
    let why = if tried.is_empty() {
        "not found in PATH or the usual places".to_owned()
    } else {
        tried.join("; ")
    };
    Failure::new(format!("no {what}")).because(why)
}

fn first_usable(
    candidates: &[PathBuf],
    judge: impl Fn(&str) -> Option<(String, u32)>,
) -> Result<Found, Vec<String>> {
    let mut tried = vec![];
    for path in candidates.iter().filter(|path| path.is_file()) {
        let shown = match Command::new(path).arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => {
                tried.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        match judge(&shown) {
            Some((version, minimum)) if major(&version) >= minimum => {
                return Ok(Found {
                    path: path.clone(),
                    version,
                });
            }
            Some((version, _)) => tried.push(format!("{} is version {version}", path.display())),
            None => tried.push(format!("{} tells no version", path.display())),
        }
    }
    tried.dedup();
    Err(tried)
}

fn version_after(text: &str, mark: &str) -> Option<String> {
    let (_, rest) = text.split_once(mark)?;
    let version: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    (!version.is_empty()).then_some(version)
}

fn major(version: &str) -> u32 {
    version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or_default()
}

/// `REDIS_BIN` may name the program or its directory.
fn as_program(path: &str, name: &str) -> PathBuf {
    let path = PathBuf::from(path);
    if path.is_dir() { path.join(name) } else { path }
}

fn in_path(env: &Values) -> impl Iterator<Item = PathBuf> {
    let path = env.get("PATH").cloned().unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

fn usual() -> impl Iterator<Item = PathBuf> {
    USUAL_BIN.iter().map(PathBuf::from)
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (!text.trim().is_empty()).then(|| PathBuf::from(text.trim()))
}

/// `…/15/bin`, `…/postgresql@17/bin` with their major versions.
fn versions_in(parent: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return vec![];
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("postgresql@").unwrap_or(&name).parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_say() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64";
        assert_eq!(version_after(redis, "v=").unwrap(), "7.0.15");
        let postgres = "postgres (PostgreSQL) 17.2 (Debian 17.2-1)";
        assert_eq!(version_after(postgres, ") ").unwrap(), "17.2");
        assert_eq!(major("17.2"), 17);
    }

    #[test]
    fn an_old_server_is_refused_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("redis-server");
        std::fs::write(&old, "#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n").unwrap();
        std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let tried = first_usable(&[old], |text| Some((version_after(text, "v=")?, MIN_REDIS))).unwrap_err();
        assert!(tried[0].ends_with("is version 6.0.16"), "{tried:?}");
    }
}
