//! Why a call failed: the closed list, each with a text of its own.

/// Why a call has no result of its own: the closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    ExitCode(i32),
    Signal(i32),
    Timeout,
    OutOfMemory,
    Evicted,
    NodeLost,
    ImageNotPulled,
    BadImageName,
    BadConfiguration,
    Unschedulable,
    Quota,
    RefusedByAdmission,
    Cancelled,
    Workspace,
    Internal,
}

impl Class {
    /// Label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExitCode(_) => "exit_code",
            Self::Signal(_) => "signal",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Evicted => "evicted",
            Self::NodeLost => "node_lost",
            Self::ImageNotPulled => "image_not_pulled",
            Self::BadImageName => "bad_image_name",
            Self::BadConfiguration => "bad_configuration",
            Self::Unschedulable => "unschedulable",
            Self::Quota => "quota",
            Self::RefusedByAdmission => "refused_by_admission",
            Self::Cancelled => "cancelled",
            Self::Workspace => "workspace",
            Self::Internal => "internal",
        }
    }

    /// The text of each.
    fn text(self) -> String {
        match self {
            Self::ExitCode(code) => format!("Exited with code {code}, and its output was lost"),
            Self::Signal(signal) => format!("Killed by signal {signal}, and its output was lost"),
            Self::Timeout => "The pod's time limit ended the tool, and its output was lost".to_owned(),
            Self::OutOfMemory => "Out of memory, and the output was lost".to_owned(),
            Self::Evicted => "The pod was evicted".to_owned(),
            Self::NodeLost => "The pod's node was lost".to_owned(),
            Self::ImageNotPulled => "The tool's image cannot be pulled".to_owned(),
            Self::BadImageName => "The name of the tool's image is not valid".to_owned(),
            Self::BadConfiguration => "The tool's container cannot be started".to_owned(),
            Self::Unschedulable => "No node has room for the tool".to_owned(),
            Self::Quota => "The quota of the tools' namespace is used up".to_owned(),
            Self::RefusedByAdmission => "The cluster refuses the tool's pod".to_owned(),
            Self::Cancelled => "The tool was cancelled".to_owned(),
            Self::Workspace => "The workspace could not be fetched or stored".to_owned(),
            Self::Internal => "The tool's supervisor ended without a result".to_owned(),
        }
    }

    /// Another attempt may end otherwise, and nothing of this one is left.
    pub const fn is_disruption(self) -> bool {
        matches!(self, Self::Evicted | Self::NodeLost)
    }
}

/// A class with what the cluster said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    pub detail: String,
}

impl Failure {
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.class.text())?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_text_of_its_own() {
        let all = [
            Class::ExitCode(7),
            Class::Signal(9),
            Class::Timeout,
            Class::OutOfMemory,
            Class::Evicted,
            Class::NodeLost,
            Class::ImageNotPulled,
            Class::BadImageName,
            Class::BadConfiguration,
            Class::Unschedulable,
            Class::Quota,
            Class::RefusedByAdmission,
            Class::Cancelled,
            Class::Workspace,
            Class::Internal,
        ];
        let texts: std::collections::HashSet<String> = all.iter().map(|class| class.text()).collect();
        let words: std::collections::HashSet<&str> = all.iter().map(|class| class.as_str()).collect();
        assert_eq!((texts.len(), words.len()), (all.len(), all.len()));
    }
}
