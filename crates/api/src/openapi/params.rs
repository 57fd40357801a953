//! Parameters in path, query and headers. They are read elsewhere ([`crate::fields`]); here is what may be sent.

use utoipa::IntoParams;

/// `{run_id}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RunIdPath {
    /// Id of a run; text that is no UUID names no run (404).
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
}

/// `{run_id}` and `{step_id}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct StepPath {
    /// Id of a run.
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
    /// Id of one of its steps.
    #[param(value_type = String, format = "uuid")]
    pub step_id: String,
}

/// `{run_id}` and `{interrupt_id}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InterruptPath {
    /// Id of a run.
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
    /// Id of one of its interrupts.
    #[param(value_type = String, format = "uuid")]
    pub interrupt_id: String,
}

/// `GET …/interrupts`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InterruptsQuery {
    /// `all`: the decided ones too.
    #[param(inline, required = false)]
    pub status: super::interrupts::InterruptsWanted,
}

/// `{asset}` of the pages.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AssetPath {
    /// Name of a file.
    #[param(inline)]
    pub asset: super::operator::AssetName,
}

/// `Idempotency-Key`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyHeader {
    /// For `create` and `retry`: the same key with the same body within 24 h gives the first answer again.
    #[param(rename = "Idempotency-Key", pattern = r"^[!-~]{1,255}$", required = false)]
    pub idempotency_key: String,
}

/// `If-None-Match`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ConditionHeader {
    /// `ETag` of an earlier answer: 304 when nothing has changed since.
    #[param(rename = "If-None-Match", required = false)]
    pub if_none_match: String,
}

/// Where a stream begins.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamPosition {
    /// Only events with a higher seq.
    #[param(minimum = 0, required = false)]
    pub after: i64,
    /// Only events later than this.
    #[param(value_type = String, format = "date-time", required = false)]
    pub since: String,
    /// Begin so many events before the newest; 0 for what is new only.
    #[param(minimum = 0, required = false)]
    pub tail: i64,
}

/// `Last-Event-ID`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct LastEventIdHeader {
    /// Seq of the last event seen; wins over `after`.
    #[param(rename = "Last-Event-ID", pattern = r"^[0-9]{1,18}$", required = false)]
    pub last_event_id: String,
}

/// `GET /agent/logs`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
    /// A page, or the default stream.
    #[param(inline, required = false)]
    pub mode: super::answers::LogsMode,
    /// Events of a page.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    pub limit: i32,
}

/// `GET …/events`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Events of a page, and steps and messages.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    pub limit: i32,
}

/// `{run_id}` and `{path}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FilePath {
    /// Id of a run.
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
    /// Path of a file, relative to the workspace; slashes stay as they are.
    #[param(min_length = 1, max_length = 512)]
    pub path: String,
}

/// `{run_id}` and `{artifact_id}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ArtifactPath {
    /// Id of a run.
    #[param(value_type = String, format = "uuid")]
    pub run_id: String,
    /// Id of one of its artifacts.
    #[param(value_type = String, format = "uuid")]
    pub artifact_id: String,
}

/// `GET …/artifacts`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArtifactsQuery {
    /// The newest of them.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    pub limit: i32,
}

/// `GET …/files`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FilesQuery {
    /// `next_cursor` of the page before.
    #[param(required = false)]
    pub cursor: String,
    /// Files of a page.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    pub limit: i32,
}

/// `GET …/files/{path}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// `false`: answer with the address instead of leading there.
    #[param(default = true, required = false)]
    pub redirect: bool,
}

/// `POST …/thinking`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ThinkingQuery {
    /// At most 8192 bytes.
    #[param(max_length = 8192)]
    pub content: String,
}
