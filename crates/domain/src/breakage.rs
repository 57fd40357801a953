//! Deliberate breakages, one promise each: the chaos suite shows with them that its checker can fail.
//!
//! Only debug builds have them, and only when the hidden setting `AGENT_BREAKAGE` names one; a release build answers
//! [`is`] with `false` at compile time.
//!
//! The same holds for crashes at named points of a tool call: `AGENT_CRASH_AT=point` or `point:n` (the n-th time it is passed)
//! ends the process there and then, as a kill would.

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

const CRASH_SETTING: &str = "AGENT_CRASH_AT";

/// A point of a tool call in a Kubernetes Job where a worker can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    BeforePrepare,
    AfterPrepare,
    BeforeCreate,
    AfterCreate,
    AfterSecret,
    AfterScheduled,
    WhileRunning,
    AfterRecord,
    DuringApply,
    AfterApply,
    BeforeDelete,
    AfterDelete,
    BeforeSettle,
    AfterSettle,
}

impl CrashPoint {
    pub const ALL: [Self; 14] = [
        Self::BeforePrepare,
        Self::AfterPrepare,
        Self::BeforeCreate,
        Self::AfterCreate,
        Self::AfterSecret,
        Self::AfterScheduled,
        Self::WhileRunning,
        Self::AfterRecord,
        Self::DuringApply,
        Self::AfterApply,
        Self::BeforeDelete,
        Self::AfterDelete,
        Self::BeforeSettle,
        Self::AfterSettle,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforePrepare => "before_prepare",
            Self::AfterPrepare => "after_prepare",
            Self::BeforeCreate => "before_create",
            Self::AfterCreate => "after_create",
            Self::AfterSecret => "after_secret",
            Self::AfterScheduled => "after_scheduled",
            Self::WhileRunning => "while_running",
            Self::AfterRecord => "after_record",
            Self::DuringApply => "during_apply",
            Self::AfterApply => "after_apply",
            Self::BeforeDelete => "before_delete",
            Self::AfterDelete => "after_delete",
            Self::BeforeSettle => "before_settle",
            Self::AfterSettle => "after_settle",
        }
    }
}

/// Chooses what the environment names; nothing to do when it names nothing. For `main`.
pub fn choose_from_environment() -> Result<(), String> {
    let named = |setting| std::env::var(setting).ok().filter(|name| !name.is_empty());
    if let Some(name) = named(SETTING) {
        choose(&name)?;
    }
    named(CRASH_SETTING).map_or(Ok(()), |point| choose_crash(&point))
}

/// The chosen point, and how often it is still to be passed before the end.
#[cfg(debug_assertions)]
static CRASH: std::sync::OnceLock<(CrashPoint, std::sync::atomic::AtomicU32)> = std::sync::OnceLock::new();

#[cfg(debug_assertions)]
fn choose_crash(setting: &str) -> Result<(), String> {
    let (name, times) = setting.split_once(':').unwrap_or((setting, "1"));
    let known = CrashPoint::ALL.into_iter().find(|point| point.as_str() == name);
    let point = known.ok_or_else(|| format!("{CRASH_SETTING}: no such point: {name}"))?;
    let times = times.parse().ok().filter(|times| *times > 0);
    let times: u32 = times.ok_or_else(|| format!("{CRASH_SETTING}: not a number of times: {setting}"))?;
    CRASH
        .set((point, times.into()))
        .map_err(|_| format!("{CRASH_SETTING}: chosen already"))
}

#[cfg(not(debug_assertions))]
fn choose_crash(_: &str) -> Result<(), String> {
    Err(format!("{CRASH_SETTING}: only debug builds can crash on purpose"))
}

/// Ends the process when this is the chosen point, passed for the chosen time.
#[cfg(debug_assertions)]
pub fn crash_at(point: CrashPoint) {
    let Some((chosen, left)) = CRASH.get() else { return };
    if *chosen == point && left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
        std::process::abort();
    }
}

/// Never in a release build.
#[cfg(not(debug_assertions))]
pub const fn crash_at(_: CrashPoint) {}

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
