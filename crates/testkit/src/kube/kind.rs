//! The kinds of objects that are served, and their names on the wire.

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Job,
    Pod,
    Event,
    Quota,
    Secret,
    ConfigMap,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Job,
        Self::Pod,
        Self::Event,
        Self::Quota,
        Self::Secret,
        Self::ConfigMap,
    ];

    /// As in paths: `jobs`.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Job => "jobs",
            Self::Pod => "pods",
            Self::Event => "events",
            Self::Quota => "resourcequotas",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Job => "Job",
            Self::Pod => "Pod",
            Self::Event => "Event",
            Self::Quota => "ResourceQuota",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Job => "batch",
            _ => "",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Job => "batch/v1",
            _ => "v1",
        }
    }

    pub(super) const fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &["po"],
            Self::Event => &["ev"],
            Self::Quota => &["quota"],
            Self::ConfigMap => &["cm"],
            Self::Job | Self::Secret => &[],
        }
    }

    /// As in the texts of errors: `jobs.batch`, `pods`.
    pub(super) fn qualified(self) -> String {
        qualified(self.resource(), self.group())
    }

    /// As in the texts of invalid objects: `Job.batch`, `Pod`.
    pub(super) fn qualified_name(self) -> String {
        qualified(self.name(), self.group())
    }

    pub(super) fn of(group: &str, resource: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.group() == group && kind.resource() == resource)
    }
}

/// A name with its group, as the texts of errors have it.
pub(super) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}
