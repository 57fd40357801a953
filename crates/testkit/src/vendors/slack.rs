//! Slack: <https://docs.slack.dev/reference/methods>: `conversations.list`, `conversations.history`, `chat.postMessage`,
//! `auth.test`. Errors are `ok:false` with status 200. The channel `C1` is there.

use super::{Judged, Member, Request, SLACK_KEY, Type, fault_of, wrong};
use serde_json::{Value, json};

pub(super) fn answer(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    let error = |said: &str| json!({"ok": false, "error": said});
    if request.header("authorization") != format!("Bearer {SLACK_KEY}") {
        return wrong(200, error("invalid_auth"), "no bearer token");
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "POST", "auth.test") => Ok((200, json!({"ok": true, "team": "T", "user": "bot"}))),
        ("GET", "conversations.list") => {
            if let Some(fault) = paged(request, &["types", "exclude_archived", "team_id"]) {
                return wrong(200, error("invalid_arguments"), fault);
            }
            let channels = json!([{"id": "C1", "name": "general", "is_channel": true, "is_archived": false}]);
            Ok((
                200,
                json!({"ok": true, "channels": channels, "response_metadata": {"next_cursor": ""}}),
            ))
        }
        ("GET", "conversations.history") => history(request),
        ("POST", "chat.postMessage") => post(request, made),
        _ => wrong(200, error("unknown_method"), "unknown method"),
    }
}

/// `limit` is a whole number below 1000.
fn paged(request: &Request, also: &[&str]) -> Option<String> {
    let known = [&["limit", "cursor"], also].concat();
    let limit = request.has_query("limit").unwrap_or("100").parse::<u32>();
    let fits = limit.is_ok_and(|limit| (1..1000).contains(&limit));
    request
        .unknown_query(&known)
        .or_else(|| (!fits).then(|| "limit".to_owned()))
}

fn history(request: &Request) -> Judged {
    let error = |said: &str| json!({"ok": false, "error": said});
    if let Some(fault) = paged(
        request,
        &["channel", "oldest", "latest", "inclusive", "include_all_metadata"],
    ) {
        return wrong(200, error("invalid_arguments"), fault);
    }
    match request.has_query("channel") {
        Some("C1") => {
            let messages =
                json!([{"type": "message", "user": "U1", "text": "Hello", "ts": "1512085950.000216"}]);
            Ok((200, json!({"ok": true, "messages": messages, "has_more": false})))
        }
        Some(_) => Ok((200, error("channel_not_found"))),
        None => wrong(200, error("channel_not_found"), "channel is missing"),
    }
}

fn post(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    let error = |said: &str| json!({"ok": false, "error": said});
    // Without the charset Slack warns (`missing_charset`).
    if request.header("content-type") != "application/json; charset=utf-8" {
        return wrong(200, error("invalid_post_type"), "Content-Type");
    }
    let members = [
        Member("channel", Type::Text, true),
        Member("text", Type::Text, true),
        Member("thread_ts", Type::Text, false),
        // Named only by the errors of this method, and meant for Slack's own clients: whether the real one drops a
        // second message of the same id, as this one does, is not promised.
        Member("client_msg_id", Type::Text, false),
    ];
    if let Some(fault) = fault_of(&request.body, &members) {
        return wrong(200, error("invalid_arguments"), fault);
    }
    if request.body["channel"] != "C1" {
        return Ok((200, error("channel_not_found")));
    }
    let id = request.body["client_msg_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if id.is_empty() || !made.iter().any(|(other, _)| *other == id) {
        made.push((id, request.body.clone()));
    }
    let message = json!({"type": "message", "text": request.body["text"], "client_msg_id": request.body["client_msg_id"]});
    Ok((
        200,
        json!({"ok": true, "channel": "C1", "ts": "1503435956.000247", "message": message}),
    ))
}
