//! Where the system is that a command talks to: variables of the environment, else `env` of a home directory.
//!
//! Order: `--home DIR` (only its file counts), else the environment over the first `.agent/env` found upwards
//! from the working directory.

use crate::envfile::{self, Values};
use crate::failure::{Code, Failure};
use std::path::{Path, PathBuf};

/// The directory `agentctl up` uses when none is named.
pub const DEFAULT_HOME: &str = ".agent";
/// The shell file in a home directory that names everything.
pub const ENV_FILE: &str = "env";
/// Object storage when nothing else is said (AA-106).
pub const DEFAULT_BUCKET: &str = "swissbrain-workspaces";
pub const DEFAULT_REGION: &str = "ch-gva-2";

/// What a command knows of the system.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The home directory whose file was read, if any.
    pub home: Option<PathBuf>,
    values: Values,
}

impl Place {
    /// Looks for the system.
    pub fn find(home: Option<&Path>) -> Result<Self, Failure> {
        if let Some(home) = home {
            let file = home.join(ENV_FILE);
            let text = std::fs::read_to_string(&file).map_err(|error| {
                Failure::new(format!("no system in {}", home.display()))
                    .because(format!("{}: {error}", file.display()))
                    .fix(format!(
                        "agentctl up --home {}",
                        envfile::quote(&home.to_string_lossy())
                    ))
                    .code(Code::Unreachable)
            })?;
            return Ok(Self {
                home: Some(home.to_owned()),
                values: envfile::parse(&text),
            });
        }
        Ok(Self::from_surroundings())
    }

    fn from_surroundings() -> Self {
        let found = nearest_home();
        let mut values = Values::new();
        if let Some(text) = found
            .as_ref()
            .and_then(|home| std::fs::read_to_string(home.join(ENV_FILE)).ok())
        {
            values = envfile::parse(&text);
        }
        values.extend(envfile::process());
        Self { home: found, values }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A value that a command cannot do without.
    pub fn need(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| {
            Failure::new(format!("{name} is not known"))
                .because("it is neither in the environment nor in an .agent/env upwards from here")
                .fix(format!(
                    "run `agentctl up`, or name the home with --home, or set {name}"
                ))
                .code(Code::Unreachable)
        })
    }

    /// All values, for settings that are parsed elsewhere.
    pub const fn values(&self) -> &Values {
        &self.values
    }

    pub fn bucket(&self) -> &str {
        self.get("S3_WORKSPACE_BUCKET").unwrap_or(DEFAULT_BUCKET)
    }

    pub fn region(&self) -> &str {
        self.get("S3_REGION").unwrap_or(DEFAULT_REGION)
    }
}

/// The first `.agent` with a shell file, upwards from the working directory.
pub fn nearest_home() -> Option<PathBuf> {
    find_upwards(&std::env::current_dir().ok()?)
}

fn find_upwards(directory: &Path) -> Option<PathBuf> {
    directory
        .ancestors()
        .map(|ancestor| ancestor.join(DEFAULT_HOME))
        .find(|home| home.join(ENV_FILE).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_from_a_directory_below() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join(DEFAULT_HOME);
        let below = root.path().join("a/b");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(home.join(ENV_FILE), "API_URL='http://x'\n").unwrap();
        assert_eq!(find_upwards(&below), Some(home));
    }

    #[test]
    fn a_named_home_without_a_file_is_told_with_its_remedy() {
        let root = tempfile::tempdir().unwrap();
        let failure = Place::find(Some(root.path())).unwrap_err();
        assert_eq!(failure.code, Code::Unreachable);
        assert!(failure.fix.unwrap().starts_with("agentctl up --home"));
    }
}
