//! Settings of the object store (AA-106).

use bootstrap::Redacted;

/// Where workspaces are kept. Without both keys the file tools say what to set.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreOptions {
    /// S3-compatible endpoint
    #[arg(long, env = "S3_ENDPOINT", default_value = "https://sos-ch-gva-2.exo.io")]
    pub s3_endpoint: String,
    /// Bucket of the runs' files
    #[arg(long, env = "S3_WORKSPACE_BUCKET", default_value = "swissbrain-workspaces")]
    pub s3_workspace_bucket: String,
    /// Region of the bucket
    #[arg(long, env = "S3_REGION", default_value = "ch-gva-2")]
    pub s3_region: String,
    /// Access key
    #[arg(long, env = "S3_ACCESS_KEY", hide_env_values = true)]
    pub s3_access_key: Option<String>,
    /// Secret key
    #[arg(long, env = "S3_SECRET_KEY", hide_env_values = true)]
    pub s3_secret_key: Option<Redacted<String>>,
    /// Bucket in the path instead of the host name
    #[arg(long, env = "S3_FORCE_PATH_STYLE", default_value_t = true, action = clap::ArgAction::Set)]
    pub s3_force_path_style: bool,
}

/// The store and the sizes of what may be written into it.
#[derive(Debug, Clone, clap::Args)]
pub struct S3Options {
    #[command(flatten)]
    pub store: StoreOptions,
    /// Largest file of a workspace, in bytes
    #[arg(long, env = "WORKSPACE_MAX_FILE_BYTES", default_value_t = 26_214_400)]
    pub workspace_max_file_bytes: u64,
    /// Largest sum of a run's files, in bytes
    #[arg(long, env = "WORKSPACE_MAX_BYTES", default_value_t = 1_073_741_824)]
    pub workspace_max_bytes: u64,
}

/// Sizes of a workspace, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    pub file: u64,
    pub total: u64,
}

impl SizeLimits {
    /// For programs that only read.
    pub const NONE: Self = Self {
        file: u64::MAX,
        total: u64::MAX,
    };
}

impl S3Options {
    pub fn limits(&self) -> SizeLimits {
        SizeLimits {
            file: self.workspace_max_file_bytes,
            total: self.workspace_max_bytes,
        }
    }
}

impl StoreOptions {
    /// Both keys, when both are given and not empty.
    pub fn keys(&self) -> Option<(&str, &str)> {
        let access = self.s3_access_key.as_deref().filter(|key| !key.is_empty())?;
        let secret = self
            .s3_secret_key
            .as_ref()
            .map(|key| key.expose().as_str())
            .filter(|key| !key.is_empty())?;
        Some((access, secret))
    }
}
