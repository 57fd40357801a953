//! A server's answer as a result of a tool: text and structure for the model, everything else as files.

use super::naming::clean;
use agent::ports::Workspace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::ToolResult;
use domain::ids::StepId;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};

pub(super) const CREDITS: f64 = 1.0;
/// Longest text of an answer, and largest structure.
const LONGEST: usize = 1024 * 1024;
/// Files taken from one answer.
const MOST_FILES: usize = 16;
const LONGEST_ERROR: usize = 4000;

/// Something that is no text.
struct Binary<'a> {
    data: &'a str,
    mime_type: &'a str,
}

/// Takes an answer in.
pub(super) async fn taken<W: Workspace>(
    server: &str,
    answer: CallToolResult,
    step_id: StepId,
    workspace: &W,
) -> ToolResult {
    let mut result = ToolResult::ok(json!({}), CREDITS);
    let (mut text, mut content) = (String::new(), Vec::new());
    for block in &answer.content {
        match block {
            ContentBlock::Text(block) => add(&mut text, &block.text),
            ContentBlock::Image(image) => content.push((image.data.as_str(), image.mime_type.as_str())),
            ContentBlock::Audio(audio) => content.push((audio.data.as_str(), audio.mime_type.as_str())),
            ContentBlock::Resource(embedded) => match &embedded.resource {
                ResourceContents::TextResourceContents { text: inner, .. } => add(&mut text, inner),
                ResourceContents::BlobResourceContents { blob, mime_type, .. } => {
                    content.push((
                        blob.as_str(),
                        mime_type.as_deref().unwrap_or("application/octet-stream"),
                    ));
                }
                _ => {}
            },
            ContentBlock::ResourceLink(link) => add(&mut text, &format!("{}: {}", link.name, link.uri)),
            _ => {}
        }
    }
    let truncated = cut(&mut text);
    result.output["text"] = json!(text);
    if truncated {
        result.output["truncated"] = json!(true);
    }
    if let Some(structured) = answer.structured_content {
        if structured.to_string().len() <= LONGEST {
            result.output["structured"] = structured;
        } else {
            result.output["truncated"] = json!(true);
        }
    }
    let mut files = Vec::new();
    for (number, (data, mime_type)) in content.into_iter().take(MOST_FILES).enumerate() {
        let place = format!("mcp/{server}/{step_id}-{}", number + 1);
        files.push(keep(&mut result, &place, &Binary { data, mime_type }, workspace).await);
    }
    if !files.is_empty() {
        result.output["files"] = Value::Array(files);
    }
    if answer.is_error == Some(true) {
        result.success = false;
        let said: String = clean(&text).chars().take(LONGEST_ERROR).collect();
        result.error = Some(if said.is_empty() {
            "the tool failed and did not say why".to_owned()
        } else {
            said
        });
    }
    result
}

fn add(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(more);
}

fn cut(text: &mut String) -> bool {
    let beyond = text.len() > LONGEST;
    text.truncate(text.floor_char_boundary(LONGEST));
    beyond
}

/// Stores a file and says where, or why not.
async fn keep<W: Workspace>(
    result: &mut ToolResult,
    place: &str,
    binary: &Binary<'_>,
    workspace: &W,
) -> Value {
    let mime_type = clean(binary.mime_type);
    let Ok(bytes) = STANDARD.decode(binary.data) else {
        return json!({"mime_type": mime_type, "not_stored": "not base64"});
    };
    let path = format!("{place}.{}", extension(&mime_type));
    match workspace.write(&path, bytes.into()).await {
        Ok(written) => {
            result.changes.push(written.change());
            let told = json!({"path": written.artifact.file_path, "mime_type": mime_type,
                "bytes": written.artifact.file_size, "sha256": written.artifact.content_hash});
            result.artifacts.push(written.artifact);
            told
        }
        Err(fault) => json!({"mime_type": mime_type, "not_stored": fault.to_string()}),
    }
}

fn extension(mime_type: &str) -> &'static str {
    match mime_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/svg+xml" => "svg",
        "audio/wav" | "audio/x-wav" => "wav",
        "audio/mpeg" => "mp3",
        "audio/ogg" => "ogg",
        "application/pdf" => "pdf",
        "application/json" => "json",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::memory::MemoryWorkspace;
    use uuid::Uuid;

    async fn of(answer: Value) -> (ToolResult, MemoryWorkspace) {
        let workspace = MemoryWorkspace::default();
        let answer = serde_json::from_value(answer).unwrap();
        let result = taken("srv", answer, StepId(Uuid::nil()), &workspace).await;
        (result, workspace)
    }

    #[tokio::test]
    async fn pictures_become_files_and_text_stays_text() {
        let answer = json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"},
            {"type": "image", "data": "AAEC", "mimeType": "image/png"},
            {"type": "image", "data": "?", "mimeType": "image/png"}], "structuredContent": {"x": 1}});
        let (result, workspace) = of(answer).await;
        assert!(result.success);
        assert_eq!(
            (&result.output["text"], &result.output["structured"]["x"]),
            (&json!("a\nb"), &json!(1))
        );
        let path = result.output["files"][0]["path"].as_str().unwrap();
        assert_eq!(workspace.read(path).await.unwrap().as_ref(), [0, 1, 2]);
        assert_eq!(result.output["files"][1]["not_stored"], "not base64");
        assert_eq!((result.artifacts.len(), result.changes.len()), (1, 1));
    }

    #[tokio::test]
    async fn an_error_of_the_tool_is_no_success() {
        let (result, _) =
            of(json!({"content": [{"type": "text", "text": "no such city"}], "isError": true})).await;
        assert!(!result.success);
        assert_eq!(result.error.as_deref(), Some("no such city"));
        let (result, _) = of(json!({"content": [], "isError": true})).await;
        assert_eq!(
            result.error.as_deref(),
            Some("the tool failed and did not say why")
        );
    }

    #[tokio::test]
    async fn endless_text_is_cut() {
        let (result, _) = of(json!({"content": [{"type": "text", "text": "é".repeat(LONGEST)}]})).await;
        assert_eq!(result.output["text"].as_str().unwrap().len(), LONGEST);
        assert_eq!(result.output["truncated"], true);
    }
}
