//! What the tools of a run made: listed with hash and step, and fetched through the API's address.
//!
//! Invariant: what is written out is what the artifact says, size and hash; anything else is told and not written.

use crate::client::Api;
use crate::console::{Console, harmless};
use crate::failure::{Code, Failure};
use crate::render;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Shown of a hash, in characters.
const SHORT_HASH: usize = 12;

/// `agentctl files RUN artifacts`: newest first.
pub async fn list(console: Console, api: &Api, run: &str, as_json: bool) -> Result<Code, Failure> {
    let artifacts = api.artifacts(run).await?;
    if as_json {
        return artifacts
            .iter()
            .try_for_each(|artifact| console.out(&artifact.to_string()))
            .map(|()| Code::Ok);
    }
    if artifacts.is_empty() {
        console.note("the tools of this run made no files");
        return Ok(Code::Ok);
    }
    let status = api.status(run, &["steps"]).await?;
    let steps = step_numbers(&status);
    let rows: Vec<Vec<String>> = artifacts.iter().map(|artifact| row(artifact, &steps)).collect();
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    Ok(Code::Ok)
}

/// Number of each step by its id.
fn step_numbers(status: &Value) -> HashMap<&str, u64> {
    let steps = status["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers = steps
        .iter()
        .filter_map(|step| Some((step["id"].as_str()?, step["step_number"].as_u64()?)));
    numbers.collect()
}

fn row(artifact: &Value, steps: &HashMap<&str, u64>) -> Vec<String> {
    let field = |key: &str| harmless(artifact[key].as_str().unwrap_or("-"));
    let hash = field("content_hash");
    let step = artifact["step_id"].as_str().and_then(|id| steps.get(id));
    vec![
        field("id"),
        step.map_or_else(|| "-".to_owned(), |number| format!("step {number}")),
        hash.chars().take(SHORT_HASH).collect(),
        render::size(artifact["file_size"].as_u64().unwrap_or_default()),
        field("file_type"),
        field("file_path"),
    ]
}

/// Writes an artifact to stdout. `None`: the run has none with this id.
pub async fn get(console: Console, api: &Api, run: &str, id: &str) -> Result<Option<Code>, Failure> {
    let artifacts = api.artifacts(run).await?;
    let Some(artifact) = artifacts.iter().find(|artifact| artifact["id"] == id) else {
        return Ok(None);
    };
    let link = api.artifact_url(run, id).await?;
    let bytes = api
        .fetch(super::runs::text(&link, "url")?, limit(artifact))
        .await?;
    checked(artifact, &bytes)?;
    console.raw(&bytes)?;
    Ok(Some(Code::Ok))
}

/// Longest answer that is read: what the artifact says.
fn limit(artifact: &Value) -> u64 {
    artifact["file_size"].as_u64().unwrap_or_default()
}

/// Whether these bytes are the artifact.
fn checked(artifact: &Value, bytes: &[u8]) -> Result<(), Failure> {
    let told = super::runs::text(artifact, "content_hash")?;
    let came = format!("{:x}", Sha256::digest(bytes));
    if told.eq_ignore_ascii_case(&came) {
        return Ok(());
    }
    Err(Failure::new("what arrived is not the artifact")
        .because(format!("its sha256 is {told}, that of the {} bytes that came is {came}", bytes.len()))
        .fix("list them again with `agentctl files RUN artifacts`: a step may have written the file meanwhile; else somebody else writes to the bucket"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_that_are_not_the_artifact_are_refused() {
        let hash = format!("{:x}", Sha256::digest(b"kept"));
        let artifact = json!({"content_hash": hash, "file_size": 4});
        assert_eq!(checked(&artifact, b"kept"), Ok(()));
        let refused = checked(&artifact, b"kep!").unwrap_err();
        assert_eq!(refused.what, "what arrived is not the artifact");
        assert!(refused.why.unwrap().contains(&hash));
        assert!(checked(&json!({}), b"kept").is_err(), "no hash is no proof");
    }

    #[test]
    fn a_line_has_the_step_and_a_short_hash_and_no_control_characters() {
        let status = json!({"steps": [{"id": "s", "step_number": 3}]});
        let artifact = json!({"id": "a", "step_id": "s", "content_hash": "0123456789abcdef", "file_size": 2048,
            "file_type": "text/plain", "file_path": "a\u{1b}[2J.txt"});
        assert_eq!(
            row(&artifact, &step_numbers(&status)),
            [
                "a",
                "step 3",
                "0123456789ab",
                "2.0 KiB",
                "text/plain",
                "a\u{fffd}[2J.txt"
            ]
        );
        let bare = row(&json!({"id": "a"}), &HashMap::new());
        assert_eq!(bare[1], "-");
    }
}
