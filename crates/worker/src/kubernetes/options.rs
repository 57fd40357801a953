//! Settings of tools that run as Kubernetes Jobs.

use bootstrap::Faults;
use std::path::PathBuf;
use std::time::Duration;

/// Where tool Jobs run, from which images, and how long each of their states may last.
#[derive(Debug, Clone, clap::Args)]
pub struct KubernetesOptions {
    /// Namespace of the tool Jobs
    #[arg(long, env = "K8S_TOOL_NAMESPACE", default_value = "agent-tools")]
    pub k8s_tool_namespace: String,
    /// Namespace of the platform itself; only told in messages
    #[arg(long, env = "K8S_NAMESPACE", default_value = "agents")]
    pub k8s_namespace: String,
    /// Talk to the API server of the cluster this process runs in; else to that of KUBECONFIG
    #[arg(long, env = "K8S_IN_CLUSTER", default_value_t = true, action = clap::ArgAction::Set)]
    pub k8s_in_cluster: bool,
    /// File with the address and credentials of the API server [default: ~/.kube/config]
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// runtimeClassName of the tools' pods, for example gvisor
    #[arg(long, env = "K8S_RUNTIME_CLASS")]
    pub k8s_runtime_class: Option<String>,
    /// Most tool Jobs of all workers at a time [default: count/jobs.batch of the namespace's quota]
    #[arg(long, env = "K8S_MAX_JOBS")]
    pub k8s_max_jobs: Option<u32>,
    /// Image of the tools; holds the supervisor
    #[arg(long, env = "TOOL_IMAGE", default_value = "agent-tools:phase2b")]
    pub tool_image: String,
    /// PEM file of authorities that tools' pods trust besides those of their image, for an S3 store with a private one
    #[arg(long, env = "TOOL_CA_FILE", value_name = "FILE")]
    pub tool_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub images: ForeignImages,
    #[command(flatten)]
    pub waits: Waits,
}

/// Other images, into which the supervisor is copied.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ForeignImages {
    /// Image of the tool shell
    #[arg(long, env = "TOOL_IMAGE_SHELL")]
    pub tool_image_shell: Option<String>,
    /// Image for python
    #[arg(long, env = "TOOL_IMAGE_PYTHON")]
    pub tool_image_python: Option<String>,
    /// Image for javascript and typescript
    #[arg(long, env = "TOOL_IMAGE_NODE")]
    pub tool_image_node: Option<String>,
    /// Image for bash as a language of the tool code
    #[arg(long, env = "TOOL_IMAGE_BASH")]
    pub tool_image_bash: Option<String>,
    /// Image for ruby
    #[arg(long, env = "TOOL_IMAGE_RUBY")]
    pub tool_image_ruby: Option<String>,
    /// Image for go
    #[arg(long, env = "TOOL_IMAGE_GO")]
    pub tool_image_go: Option<String>,
}

/// How long a Job may stay in each state. No time is counted while the API server cannot be heard.
#[derive(Debug, Clone, clap::Args)]
pub struct Waits {
    /// Seconds a Job may be without a pod
    #[arg(long, env = "K8S_NO_POD_SECONDS", default_value_t = 2)]
    pub k8s_no_pod_seconds: u64,
    /// Times a Job without a pod is made anew, when no other of ours is there, before it counts as refused
    #[arg(long, env = "K8S_NO_POD_ROUNDS", default_value_t = 10)]
    pub k8s_no_pod_rounds: u32,
    /// Seconds a pod may be without a node
    #[arg(long, env = "K8S_UNSCHEDULED_SECONDS", default_value_t = 120)]
    pub k8s_unscheduled_seconds: u64,
    /// Seconds a pod on a node may take to start
    #[arg(long, env = "K8S_PREPARE_SECONDS", default_value_t = 60)]
    pub k8s_prepare_seconds: u64,
    /// Seconds an image may fail to be pulled, or a volume or setting of the pod be missing
    #[arg(long, env = "K8S_PULL_SECONDS", default_value_t = 30)]
    pub k8s_pull_seconds: u64,
    /// Seconds the result may be missing after the container has ended
    #[arg(long, env = "K8S_RESULT_SECONDS", default_value_t = 5)]
    pub k8s_result_seconds: u64,
    /// Seconds the API server may be away before a call that cannot begin fails
    #[arg(long, env = "K8S_API_PATIENCE_SECONDS", default_value_t = 120)]
    pub k8s_api_patience_seconds: u64,
}

/// Beyond the tool's own time limit: the pod's deadline, and the worker's wait for a running container.
pub const RUN_RESERVE: Duration = Duration::from_mins(2);

/// The same as durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub no_pod: Duration,
    pub no_pod_rounds: u32,
    pub unscheduled: Duration,
    pub prepare: Duration,
    pub pull: Duration,
    pub result: Duration,
    pub api: Duration,
}

impl Waits {
    pub fn limits(&self) -> Limits {
        let seconds = Duration::from_secs;
        Limits {
            no_pod: seconds(self.k8s_no_pod_seconds),
            no_pod_rounds: self.k8s_no_pod_rounds,
            unscheduled: seconds(self.k8s_unscheduled_seconds),
            prepare: seconds(self.k8s_prepare_seconds),
            pull: seconds(self.k8s_pull_seconds),
            result: seconds(self.k8s_result_seconds),
            api: seconds(self.k8s_api_patience_seconds),
        }
    }
}

impl Limits {
    /// From the creation of a Job to the start of its container, at most.
    pub fn start(&self) -> Duration {
        self.no_pod + self.unscheduled + self.prepare
    }
}

/// A Secret holds 1 MiB, the order's other members included.
const MAX_CA_BYTES: usize = 256 * 1024;

impl KubernetesOptions {
    /// The authorities of `TOOL_CA_FILE`, as they stand there; or why they cannot be had.
    pub fn authorities(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.tool_ca_file else {
            return Ok(None);
        };
        let told = |fault: String| format!("TOOL_CA_FILE {}: {fault}", file.display());
        let pem = std::fs::read_to_string(file).map_err(|fault| told(fault.to_string()))?;
        if pem.len() > MAX_CA_BYTES {
            return Err(told(format!("is longer than {MAX_CA_BYTES} bytes")));
        }
        if !pem.contains("-----BEGIN CERTIFICATE-----") || pem.contains("PRIVATE KEY") {
            return Err(told("must hold certificates in PEM, and no key".to_owned()));
        }
        Ok(Some(pem))
    }

    /// What is wrong with the settings.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        let waits = &self.waits;
        for (name, value) in [
            ("K8S_NO_POD_SECONDS", waits.k8s_no_pod_seconds),
            ("K8S_NO_POD_ROUNDS", u64::from(waits.k8s_no_pod_rounds)),
            ("K8S_UNSCHEDULED_SECONDS", waits.k8s_unscheduled_seconds),
            ("K8S_PREPARE_SECONDS", waits.k8s_prepare_seconds),
            ("K8S_PULL_SECONDS", waits.k8s_pull_seconds),
            ("K8S_RESULT_SECONDS", waits.k8s_result_seconds),
            ("K8S_MAX_JOBS", self.k8s_max_jobs.map_or(1, u64::from)),
        ] {
            if value == 0 {
                faults.invalid(format!("{name}: must be at least 1"));
            }
        }
        if let Err(fault) = self.authorities() {
            faults.invalid(fault);
        }
        let namespace = &self.k8s_tool_namespace;
        let is_name = |name: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !name.is_empty()
                && name.len() <= 63
                && name.bytes().all(inner)
                && !name.starts_with('-')
                && !name.ends_with('-')
        };
        if !is_name(namespace) {
            faults.invalid(format!(
                "K8S_TOOL_NAMESPACE: not a name of a namespace: {namespace}"
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: KubernetesOptions,
    }

    fn with_authorities(content: &str) -> KubernetesOptions {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let (_, path) = file.keep().unwrap();
        let path = path.display().to_string();
        Line::parse_from(["test", "--tool-ca-file", &path]).options
    }

    #[test]
    fn authorities_are_certificates_and_never_a_key() {
        let of = |content: &str| {
            let options = with_authorities(content);
            let read = options.authorities();
            std::fs::remove_file(options.tool_ca_file.unwrap()).unwrap();
            read
        };
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(of(pem).unwrap().as_deref(), Some(pem));
        let key = format!("{pem}-----BEGIN PRIVATE KEY-----\n");
        for bad in ["", "nonsense", &key, &pem.repeat(10_000)] {
            let fault = of(bad).unwrap_err();
            assert!(fault.starts_with("TOOL_CA_FILE /"), "{fault}");
        }
        let none = Line::parse_from(["test"]).options;
        assert_eq!(none.authorities().unwrap(), None);
        let missing = Line::parse_from(["test", "--tool-ca-file", "/nowhere"]).options;
        let faults = missing.faults().invalid;
        assert!(faults[0].starts_with("TOOL_CA_FILE /nowhere: "), "{faults:?}");
    }
}
