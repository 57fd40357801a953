//! Deliberate breakages, one promise each: the chaos suite shows with them that its checker can fail.
//!
//! Only debug builds have them, and only when the hidden setting `AGENT_BREAKAGE` names one; a release build answers
//! [`is`] with `false` at compile time.

/// A promise that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// Writes are taken whatever their epoch.
    NoFencing,
    /// A job is popped first and leased later.
    NonAtomicClaim,
    /// A queue entry is settled whatever its epoch.
    SettleWithoutEpoch,
    /// The job goes to Redis before its run is committed.
    PushBeforeCommit,
    /// Nobody looks after leases that ran out.
    NoReaper,
    /// The next step begins before the last one's result is stored.
    ResultBeforeStored,
}

impl Breakage {
    pub const ALL: [Self; 6] = [
        Self::NoFencing,
        Self::NonAtomicClaim,
        Self::SettleWithoutEpoch,
        Self::PushBeforeCommit,
        Self::NoReaper,
        Self::ResultBeforeStored,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoFencing => "no_fencing",
            Self::NonAtomicClaim => "non_atomic_claim",
            Self::SettleWithoutEpoch => "settle_without_epoch",
            Self::PushBeforeCommit => "push_before_commit",
            Self::NoReaper => "no_reaper",
            Self::ResultBeforeStored => "result_before_stored",
        }
    }
}

/// The hidden setting.
const SETTING: &str = "AGENT_BREAKAGE";

/// Chooses what the environment names; nothing to do when it names nothing. For `main`.
pub fn choose_from_environment() -> Result<(), String> {
    match std::env::var(SETTING) {
        Ok(name) if !name.is_empty() => choose(&name),
        _ => Ok(()),
    }
}

#[cfg(debug_assertions)]
static CHOSEN: std::sync::OnceLock<Breakage> = std::sync::OnceLock::new();

/// Once, at the start of the process. The error is the text to show.
#[cfg(debug_assertions)]
fn choose(name: &str) -> Result<(), String> {
    let chosen = Breakage::ALL.into_iter().find(|known| known.as_str() == name);
    let chosen = chosen.ok_or_else(|| format!("{SETTING}: no such breakage: {name}"))?;
    CHOSEN
        .set(chosen)
        .map_err(|_| format!("{SETTING}: chosen already"))
}

/// A release build has no breakages; asking for one is a mistake worth hearing of.
#[cfg(not(debug_assertions))]
fn choose(_: &str) -> Result<(), String> {
    Err(format!("{SETTING}: only debug builds can be broken on purpose"))
}

/// Is this the chosen breakage?
#[cfg(debug_assertions)]
pub fn is(breakage: Breakage) -> bool {
    CHOSEN.get() == Some(&breakage)
}

/// Never in a release build.
#[cfg(not(debug_assertions))]
pub const fn is(_: Breakage) -> bool {
    false
}
