//! The home directory of a system: its data, secrets, logs, and what is remembered between starts.
//!
//! ```text
//! home/lock           held (flock) by the supervisor as long as it lives
//! home/state.json     ports, data places, process ids; rewritten by rename
//! home/secrets.json   0600; made once
//! home/env            0600; the shell file for people and commands
//! home/redis home/pg home/s3 home/logs
//! ```

use crate::failure::Failure;
use crate::up::process::ProcessId;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A log larger than this at start is put aside as `NAME.log.1`.
const MAX_LOG_BYTES: u64 = 32 * 1024 * 1024;
/// Only for the owner.
const PRIVATE: u32 = 0o600;
const PRIVATE_DIR: u32 = 0o700;

/// What is remembered between starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Ports by name (`api`, `internal`, `redis`, `postgres`, `s3`, `worker-1` …), stable over restarts.
    pub ports: BTreeMap<String, u16>,
    /// Where Postgres keeps its data when that cannot be in the home.
    pub pg_data: Option<PathBuf>,
    pub supervisor: Option<ProcessId>,
    /// Child processes by name.
    pub children: BTreeMap<String, ProcessId>,
    /// Everything answers; set once per start, cleared at the end.
    pub ready: bool,
    pub workers: u32,
    /// The model in use, for people.
    pub model: String,
}

/// Made once from the system's randomness; hexadecimal text.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    pub jwt_secret: String,
    pub s3_access_key: String,
    pub s3_secret_key: String,
    pub pg_password: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets([redacted])")
    }
}

impl Secrets {
    fn fresh() -> Result<Self, Failure> {
        Ok(Self {
            jwt_secret: random_hex(32)?,
            s3_access_key: format!("agent{}", random_hex(8)?),
            s3_secret_key: random_hex(24)?,
            pg_password: random_hex(24)?,
        })
    }
}

/// `bytes` random bytes as hexadecimal text.
pub fn random_hex(bytes: usize) -> Result<String, Failure> {
    let mut buffer = vec![0_u8; bytes];
    OsRng
        .try_fill_bytes(&mut buffer)
        .map_err(|error| Failure::new("the system gives no random bytes").why(&error))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A home directory, by its absolute path.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// Makes the directory when it is not there yet.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let told = |error: std::io::Error| Failure::new(format!("cannot use {}", path.display())).why(&error);
        std::fs::create_dir_all(path).map_err(told)?;
        let home = Self {
            path: path.canonicalize().map_err(told)?,
        };
        for directory in ["logs", "redis", "s3"] {
            std::fs::create_dir_all(home.file(directory)).map_err(told)?;
            std::fs::set_permissions(home.file(directory), Permissions::from_mode(PRIVATE_DIR))
                .map_err(told)?;
        }
        let ignore = home.file(".gitignore");
        if !ignore.exists() {
            std::fs::write(ignore, "*\n").map_err(told)?;
        }
        Ok(home)
    }

    /// A home that must be there already.
    pub fn open(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        path.join("state.json").is_file().then_some(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    /// A log to append to; an overlong one is put aside first.
    pub fn log(&self, name: &str) -> std::io::Result<File> {
        let path = self.log_path(name);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .open(path)
    }

    /// The last lines of a log, each on an indented line of its own.
    pub fn log_tail(&self, name: &str, count: usize) -> String {
        let text = std::fs::read_to_string(self.log_path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(count).collect();
        lines.iter().rev().map(|line| format!("\n  {line}")).collect()
    }

    /// The lock of the one supervisor of this home; `None` when another holds it.
    pub fn lock(&self) -> Result<Option<File>, Failure> {
        let path = self.file("lock");
        let told =
            |error: std::io::Error| Failure::new(format!("cannot lock {}", path.display())).why(&error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(told)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(told(error)),
        }
    }

    /// What was remembered; nothing at the first start.
    pub fn state(&self) -> Result<State, Failure> {
        Ok(self.read_json("state.json")?.unwrap_or_default())
    }

    pub fn save_state(&self, state: &State) -> Result<(), Failure> {
        self.write_json("state.json", state)
    }

    /// The secrets, made at the first start.
    pub fn secrets(&self) -> Result<Secrets, Failure> {
        if let Some(secrets) = self.read_json("secrets.json")? {
            return Ok(secrets);
        }
        let secrets = Secrets::fresh()?;
        self.write_json("secrets.json", &secrets)?;
        Ok(secrets)
    }

    /// Writes a private file as a whole: readers see the old or the new one.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.file(name);
        let partial = self.file(&format!("{name}.new"));
        let written = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(PRIVATE)
                .open(&partial)?;
            file.set_permissions(Permissions::from_mode(PRIVATE))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)
        };
        written().map_err(|error| Failure::new(format!("cannot write {}", path.display())).why(&error))
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(format!("cannot write {name}")).why(&error))?;
        self.write(name, &text)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let path = self.file(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(format!("cannot read {}", path.display())).why(&error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::new(format!("{} is damaged", path.display()))
                .why(&error)
                .fix("mend the file, or start with another --home")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_only_their_owner_may_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("with space")).unwrap();
        let first = home.secrets().unwrap();
        assert_eq!(home.secrets().unwrap().jwt_secret, first.jwt_secret);
        let mode = std::fs::metadata(home.file("secrets.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert!(!format!("{first:?}").contains(&first.jwt_secret));
    }

    #[test]
    fn only_one_supervisor_holds_a_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(dir.path()).unwrap();
        let lock = home.lock().unwrap();
        assert!(lock.is_some());
        assert!(home.lock().unwrap().is_none());
        drop(lock);
        assert!(home.lock().unwrap().is_some());
    }

    #[test]
    fn a_state_without_newer_fields_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(dir.path()).unwrap();
        home.write("state.json", "{\"ports\":{\"api\":8000}}").unwrap();
        assert_eq!(home.state().unwrap().ports["api"], 8000);
    }
}
