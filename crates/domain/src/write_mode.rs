//! Whether a process writes run state and events.

/// Whether this process may write (`RUNTIME_AUTHORITY_WRITE_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    RustActive,
    ShadowOnly,
    ReadOnly,
}

impl WriteMode {
    /// By the word of the setting.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::RustActive, Self::ShadowOnly, Self::ReadOnly]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RustActive => "rust_active",
            Self::ShadowOnly => "shadow_only",
            Self::ReadOnly => "read_only",
        }
    }

    /// Only one of the three does.
    pub fn may_write(self) -> bool {
        self == Self::RustActive
    }
}
