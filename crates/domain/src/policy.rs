//! What a tool call reads and where it acts, and what a run's policy says of it.

use serde::{Deserialize, Serialize};

/// Properties of a tool call that are dangerous together: content of strangers, data of the run's owner, and a way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Its output may hold words of strangers: pages, issues, messages, files.
    pub reads_untrusted: bool,
    /// Its output may hold what only the run's owner should see.
    pub reads_private: bool,
    /// It changes something, or says something, outside of the run.
    pub acts_outside: bool,
}

impl Labels {
    /// Each property that one of both has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            reads_untrusted: self.reads_untrusted || other.reads_untrusted,
            reads_private: self.reads_private || other.reads_private,
            acts_outside: self.acts_outside || other.acts_outside,
        }
    }

    /// The names of the properties it has.
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.reads_untrusted, "reads-untrusted"),
            (self.reads_private, "reads-private"),
            (self.acts_outside, "acts-outside"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect()
    }
}
