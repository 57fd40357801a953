//! Landlock: which files may be opened, and what newer kernels add to that.

use super::{ConfineError, Policy};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    PathFdError, RestrictSelf, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
    Scope,
};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Every kernel that has Landlock has this.
const REQUIRED: ABI = ABI::V1;
/// The newest one whose rights are known here.
const KNOWN: ABI = ABI::V9;

/// What the kernel can confine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Version of Landlock; 0: there is none.
    pub landlock: u32,
}

impl Facts {
    /// In words, for logs and `doctor`.
    pub fn describe(self) -> String {
        if self.landlock == 0 {
            return "no Landlock".to_owned();
        }
        let more = [
            (3, "truncation"),
            (4, "TCP"),
            (5, "devices"),
            (6, "signals and abstract sockets"),
        ];
        let (held, missing): (Vec<_>, Vec<_>) = more.iter().partition(|(since, _)| *since <= self.landlock);
        let names = |list: &[(u32, &str)]| list.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let mut text = format!("Landlock {} (files", self.landlock);
        if !held.is_empty() {
            text = format!("{text}, {}", names(&held));
        }
        if !missing.is_empty() {
            text = format!("{text}; not {}", names(&missing));
        }
        text + ")"
    }
}

/// Asks the kernel; changes nothing.
pub fn facts() -> Facts {
    let status = RestrictSelf::default().no_new_privs(false).apply();
    let landlock = match status.map(|status| status.landlock) {
        Ok(LandlockStatus::Available { effective_abi, .. }) => effective_abi as u32,
        _ => 0,
    };
    Facts { landlock }
}

pub(super) fn restrict(policy: &Policy) -> Result<(), ConfineError> {
    if facts().landlock == 0 {
        return Err(ConfineError::NoLandlock);
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?;
    if !policy.network {
        ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
    }
    let read = AccessFs::from_read(KNOWN);
    // `mv` between directories of the workspace needs the right to link; devices are nobody's business.
    let all = AccessFs::from_all(KNOWN) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let rules = ruleset.create()?;
    let rules = allow(rules, &[PathBuf::from("/")], AccessFs::ReadDir.into())?;
    let rules = allow(rules, &policy.readable, read)?;
    let rules = allow(rules, &policy.writable, all)?;
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn allow(
    mut rules: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfineError> {
    for path in paths {
        if let Some(fd) = open(path)? {
            // With best effort, rights that only directories have are left out for a file.
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules)
}

fn open(path: &Path) -> Result<Option<PathFd>, ConfineError> {
    match PathFd::new(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(PathFdError::OpenCall { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(ConfineError::Path {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::Facts;

    #[test]
    fn what_is_enforced_is_told_by_version() {
        assert_eq!(Facts { landlock: 0 }.describe(), "no Landlock");
        assert_eq!(
            Facts { landlock: 1 }.describe(),
            "Landlock 1 (files; not truncation, TCP, devices, signals and abstract sockets)"
        );
        assert_eq!(
            Facts { landlock: 7 }.describe(),
            "Landlock 7 (files, truncation, TCP, devices, signals and abstract sockets)"
        );
    }
}
