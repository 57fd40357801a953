//! A retry that is to have the files of the run it repeats gets them before anything else happens in it.
//!
//! Copying is done under the run's claim and noted with the event that tells of it, in one commit: a worker that is lost in
//! between leaves nothing behind but copies, which the next one finds.

use crate::job_processor::{JobProcessor, Tokens};
use crate::log::FencedLog;
use crate::workspace::{Amount, RunWorkspace};
use agent::driver::{Outcome, refused};
use agent::ports::{RunLog as _, WorkspaceError};
use agent::snapshot::Snapshot;
use domain::change::{Change, RunError};
use domain::waiting::RetryCause;
use domain::{LogType, NewEvent, RunId, RunStatus};
use runs::WantedFiles;
use serde_json::{Value, json};

impl JobProcessor {
    /// Brings the files, unless that was done; an outcome when the run cannot go on.
    pub(crate) async fn bring_files(
        &self,
        wanted: Option<WantedFiles>,
        snapshot: &Snapshot,
        log: &FencedLog<'_>,
        tokens: &Tokens,
    ) -> Option<Outcome> {
        let wanted = wanted?;
        let target = self.workspaces.of_run(&snapshot.user_id, snapshot.run_id);
        let copied = tokio::select! {
            copied = self.copied(wanted, snapshot, &target) => copied,
            () = tokens.cancel.cancelled() => return Some(ended(log).await),
            () = tokens.soft.cancelled() => return Some(Outcome::HandedBack),
        };
        let event = match copied {
            Ok(event) => event,
            Err(WorkspaceError::Storage(error)) => {
                return Some(Outcome::Retry {
                    error: format!("workspace storage failed: {error}"),
                    cause: RetryCause::Failure,
                    retry_after: None,
                });
            }
            Err(error) => return Some(failed(log, &error).await),
        };
        let changes = vec![Change::Log(event), Change::WorkspaceCopied];
        log.commit(changes).await.err().map(refused)
    }

    /// Copies what there is; gives the event that tells of it.
    async fn copied(
        &self,
        wanted: WantedFiles,
        snapshot: &Snapshot,
        target: &RunWorkspace,
    ) -> Result<NewEvent, WorkspaceError> {
        let Some(from) = wanted.of else {
            return Ok(nothing(None, "gone", "The run to take files from is gone"));
        };
        if wanted.expired {
            let why = format!("The files of run {from} were deleted by retention");
            return Ok(nothing(Some(from), "expired", &why));
        }
        if !target.is_configured() {
            let why =
                format!("The files of run {from} cannot be copied: set S3_ACCESS_KEY and S3_SECRET_KEY");
            return Ok(nothing(Some(from), "not_configured", &why));
        }
        // A run is repeated by its own user only.
        let source = self.workspaces.of_run(&snapshot.user_id, from);
        let Amount { files, bytes } = target.copy_from(&source).await?;
        let metadata = json!({"event": "workspace_copied", "from": from, "files": files, "bytes": bytes});
        let text = format!("Copied {files} file(s) of run {from}, {bytes} bytes");
        Ok(NewEvent::new(LogType::Info, text, metadata))
    }
}

fn nothing(from: Option<RunId>, reason: &str, why: &str) -> NewEvent {
    let from = from.map_or(Value::Null, |from| json!(from));
    let metadata =
        json!({"event": "workspace_copied", "from": from, "files": 0, "bytes": 0, "reason": reason});
    NewEvent::warning(format!("{why}; this run starts without them"), metadata)
}

/// The claim is lost, or the run was stopped: an empty commit says which.
async fn ended(log: &FencedLog<'_>) -> Outcome {
    log.commit(vec![]).await.err().map_or(Outcome::LeaseLost, refused)
}

/// More than this run may have.
async fn failed(log: &FencedLog<'_>, error: &WorkspaceError) -> Outcome {
    let failed = Change::Status {
        to: RunStatus::Failed,
        error: Some(RunError::new("workspace_copy", error.to_string())),
    };
    match log.commit(vec![failed]).await {
        Ok(()) => Outcome::Finished(RunStatus::Failed),
        Err(error) => refused(error),
    }
}
