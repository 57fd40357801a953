//! Slack's Web API: <https://docs.slack.dev/reference/methods>.

use super::{Asked, filled, page_size};
use crate::http::{Answer, Api, with_query};
use crate::input::{Refusal, invalid};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const OPERATIONS: [&str; 3] = ["list_channels", "list_messages", "post_message"];

pub(super) const HELP: &str = "list_channels{limit?,cursor?,types?}, list_messages{channel,limit?,cursor?,oldest?,latest?}, \
    post_message{channel,text,thread_ts?}";

/// Longest text of a message; Slack cuts beyond.
const MAX_TEXT: usize = 40_000;

#[derive(Debug, Deserialize)]
struct List {
    limit: Option<u32>,
    cursor: Option<String>,
    types: Option<String>,
    oldest: Option<String>,
    latest: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Channel {
    #[serde(alias = "channel_id")]
    channel: String,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(alias = "message")]
    text: String,
    thread_ts: Option<String>,
}

pub(super) fn request(api: &Api, asked: &Asked<'_>) -> Result<RequestBuilder, Refusal> {
    if asked.operation == "post_message" {
        return posted(api, asked);
    }
    let given: List = asked.params()?;
    let mut query = vec![("limit", page_size("limit", given.limit, 100, 999)?.to_string())];
    let also = |query: &mut Vec<(&'static str, String)>, name, value: Option<String>| {
        query.extend(value.filter(|value| !value.is_empty()).map(|value| (name, value)));
    };
    also(&mut query, "cursor", given.cursor);
    let method = if asked.operation == "list_channels" {
        query.push(("exclude_archived", "true".to_owned()));
        also(&mut query, "types", given.types);
        "conversations.list"
    } else {
        query.push(("channel", filled("channel", asked.params::<Channel>()?.channel)?));
        also(&mut query, "oldest", given.oldest);
        also(&mut query, "latest", given.latest);
        "conversations.history"
    };
    let pairs = query.iter().map(|(name, value)| (*name, value.as_str()));
    let url = with_query(api.url([method]), pairs);
    Ok(api.read(Method::GET, url).bearer_auth(api.key()))
}

fn posted(api: &Api, asked: &Asked<'_>) -> Result<RequestBuilder, Refusal> {
    let (channel, message): (Channel, Message) = (asked.params()?, asked.params()?);
    let text = filled("text", message.text)?;
    if text.chars().count() > MAX_TEXT {
        return Err(invalid(format!(
            "params: text must have at most {MAX_TEXT} characters"
        )));
    }
    let mut body = json!({
        "channel": filled("channel", channel.channel)?,
        "text": text,
        // Slack's own clients send it with each try of a message. It is no documented argument: nothing is promised by it.
        "client_msg_id": asked.once,
    });
    if let Some(thread) = message.thread_ts {
        body["thread_ts"] = json!(thread);
    }
    let request = api.change(api.url(["chat.postMessage"])).bearer_auth(api.key());
    // Slack warns of a type without the charset, which `json()` would set.
    Ok(request
        .header("Content-Type", "application/json; charset=utf-8")
        .body(body.to_string()))
}

pub(super) fn check(api: &Api) -> RequestBuilder {
    api.read(Method::GET, api.url(["auth.test"]))
        .bearer_auth(api.key())
}

/// `ok` decides, not the status.
pub(super) fn refusal(answer: &Answer) -> Option<String> {
    if answer.status.is_success() && answer.json["ok"] == true {
        return None;
    }
    let error = answer.json["error"]
        .as_str()
        .map(|error| match answer.json["needed"].as_str() {
            Some(needed) => format!("{error} (needs {needed})"),
            None => error.to_owned(),
        });
    Some(answer.refusal("slack", error.as_deref()))
}

/// Slack's own words: some aspect may have succeeded before these errors.
pub(super) fn is_half_done(answer: &Value) -> bool {
    answer["ok"] == false
        && ["fatal_error", "internal_error"].contains(&answer["error"].as_str().unwrap_or_default())
}
