//! `file_read`, `file_write`, `file_list` on the run's workspace.

use super::{ToolError, input};
use crate::ports::{Workspace, WorkspaceError};
use domain::{Storable as _, ToolResult};
use serde::Deserialize;
use serde_json::{Value, json};

/// Credits of each file tool.
const CREDITS: f64 = 1.0;

#[derive(Deserialize)]
struct Read {
    filepath: String,
}

#[derive(Deserialize)]
struct Write {
    filepath: String,
    content: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    dirpath: Option<String>,
}

/// Names the tool in a "not configured" answer; the workspace itself does not know it.
fn failed(error: WorkspaceError, tool: &str) -> ToolError {
    let error = match error {
        WorkspaceError::NotConfigured { settings, .. } => WorkspaceError::NotConfigured {
            tool: tool.to_owned(),
            settings,
        },
        other => other,
    };
    ToolError::workspace(error, CREDITS)
}

/// Why a call would be refused before anything is done.
pub(super) fn refusal<W: Workspace>(workspace: &W, tool: &str, value: &Value) -> Option<ToolError> {
    let path = match tool {
        "file_read" => input::<Read>(value).map(|read| read.filepath),
        "file_write" => input::<Write>(value).map(|write| write.filepath),
        _ => return input::<List>(value).err(),
    };
    match path {
        Ok(path) => workspace.refusal(&path).map(|error| failed(error, tool)),
        Err(error) => Some(error),
    }
}

pub(super) async fn read<W: Workspace>(workspace: &W, value: &Value) -> Result<ToolResult, ToolError> {
    let Read { filepath } = input(value)?;
    let bytes = workspace
        .read(&filepath)
        .await
        .map_err(|error| failed(error, "file_read"))?;
    let content = String::from_utf8(bytes.into())
        .map_err(|_| failed(WorkspaceError::NotUtf8(filepath.clone()), "file_read"))?;
    let holds_nul = content.contains('\0');
    let mut output = json!({"content": content.storable(), "filepath": filepath});
    if holds_nul {
        output["note"] = json!("The file holds U+0000; each is shown as U+FFFD.");
    }
    Ok(ToolResult::ok(output, CREDITS))
}

pub(super) async fn write<W: Workspace>(workspace: &W, value: &Value) -> Result<ToolResult, ToolError> {
    let Write { filepath, content } = input(value)?;
    let stored = workspace
        .write(&filepath, content.into_bytes().into())
        .await
        .map_err(|error| failed(error, "file_write"))?;
    let (change, stored) = (stored.change(), stored.artifact);
    let output = json!({"written": true, "filepath": stored.file_path, "bytes": stored.file_size});
    Ok(ToolResult {
        artifacts: vec![stored],
        changes: vec![change],
        ..ToolResult::ok(output, CREDITS)
    })
}

pub(super) async fn list<W: Workspace>(workspace: &W, value: &Value) -> Result<ToolResult, ToolError> {
    let List { dirpath } = input(value)?;
    let dirpath = dirpath.unwrap_or_default();
    let files = workspace
        .list(&dirpath)
        .await
        .map_err(|error| failed(error, "file_list"))?;
    let files: Vec<Value> = files
        .iter()
        .map(
            |file| json!({"filepath": file.filepath, "size": file.size, "last_modified": file.last_modified}),
        )
        .collect();
    Ok(ToolResult::ok(
        json!({"files": files, "dirpath": dirpath}),
        CREDITS,
    ))
}
