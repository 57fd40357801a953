//! GitHub's REST API, version 2022-11-28: <https://docs.github.com/en/rest>.

use super::{Asked, filled, page_size};
use crate::http::{Answer, Api, with_query};
use crate::input::{Refusal, invalid};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const VERSION: &str = "2022-11-28";

pub(super) const OPERATIONS: [&str; 7] = [
    "get_repo",
    "list_issues",
    "get_issue",
    "create_issue",
    "comment_issue",
    "list_pull_requests",
    "get_file",
];

pub(super) const HELP: &str = "get_repo{owner,repo}, list_issues{owner,repo,state?,labels?,per_page?,page?}, \
    get_issue{owner,repo,issue_number}, create_issue{owner,repo,title,body?,labels?,assignees?}, \
    comment_issue{owner,repo,issue_number,body}, list_pull_requests{owner,repo,state?,per_page?,page?}, \
    get_file{owner,repo,path,ref?}";

/// `owner` and `repo`, or both in `repo` as `owner/repo`.
#[derive(Debug, Deserialize)]
struct Repo {
    owner: Option<String>,
    #[serde(alias = "repository")]
    repo: String,
}

#[derive(Debug, Deserialize)]
struct Number {
    #[serde(alias = "number")]
    issue_number: u64,
}

#[derive(Debug, Deserialize)]
struct List {
    state: Option<String>,
    labels: Option<Labels>,
    per_page: Option<u32>,
    page: Option<u32>,
}

/// A list, or the text that the vendor takes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Labels {
    List(Vec<String>),
    Text(String),
}

#[derive(Debug, Deserialize, Serialize)]
struct NewIssue {
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assignees: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Comment {
    #[serde(alias = "comment")]
    body: String,
}

#[derive(Debug, Deserialize)]
struct File {
    path: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
}

pub(super) fn request(api: &Api, asked: &Asked<'_>) -> Result<RequestBuilder, Refusal> {
    let (owner, repo) = asked.params::<Repo>()?.split()?;
    let repo = ["repos", &owner, &repo];
    let issue = || -> Result<String, Refusal> { Ok(asked.params::<Number>()?.issue_number.to_string()) };
    let url = |parts: &[&str]| api.url(repo.iter().chain(parts).copied());
    let get = |parts: &[&str], query: &[(&str, String)]| {
        let query = query.iter().map(|(name, value)| (*name, value.as_str()));
        api.read(Method::GET, with_query(url(parts), query))
    };
    let post = |parts: &[&str]| api.change(url(parts));
    let request = match asked.operation {
        "get_repo" => get(&[], &[]),
        "list_issues" => get(&["issues"], &list(asked)?),
        "list_pull_requests" => get(&["pulls"], &list(asked)?),
        "get_issue" => get(&["issues", &issue()?], &[]),
        "create_issue" => {
            let mut new: NewIssue = asked.params()?;
            new.title = filled("title", new.title)?;
            post(&["issues"]).json(&new)
        }
        "comment_issue" => {
            let body = filled("body", asked.params::<Comment>()?.body)?;
            post(&["issues", &issue()?, "comments"]).json(&json!({"body": body}))
        }
        _ => {
            let File { path, reference } = asked.params()?;
            let parts = path_parts(&path)?;
            let query: Vec<_> = reference
                .into_iter()
                .map(|reference| ("ref", reference))
                .collect();
            get(&[&["contents"], parts.as_slice()].concat(), &query)
        }
    };
    Ok(with_headers(api, request))
}

pub(super) fn check(api: &Api) -> RequestBuilder {
    // Known to every kind of token, and not counted.
    with_headers(api, api.read(Method::GET, api.url(["rate_limit"])))
}

fn with_headers(api: &Api, request: RequestBuilder) -> RequestBuilder {
    request
        .bearer_auth(api.key())
        .header("Accept", "application/vnd.github+json")
        .header("X-GitHub-Api-Version", VERSION)
}

impl Repo {
    fn split(self) -> Result<(String, String), Refusal> {
        let (owner, repo) = match (self.owner, self.repo.split_once('/')) {
            (Some(owner), None) => (owner, self.repo),
            (None, Some((owner, repo))) => (owner.to_owned(), repo.to_owned()),
            (Some(given), Some((owner, repo))) if given == owner => (given, repo.to_owned()),
            (None, None) => return Err(invalid("params: owner is missing")),
            _ => return Err(invalid("params: owner and repo do not fit together")),
        };
        let is_name = |name: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty()
                && name.len() <= 100
                && name.chars().all(known)
                && !name.chars().all(|c| c == '.')
        };
        if is_name(&owner) && is_name(&repo) {
            return Ok((owner, repo));
        }
        Err(invalid("params: owner and repo must be names as GitHub has them"))
    }
}

fn path_parts(path: &str) -> Result<Vec<&str>, Refusal> {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    if parts.iter().any(|part| ["", ".", ".."].contains(part)) {
        return Err(invalid("params: path must be a path inside the repository"));
    }
    Ok(parts)
}

fn list(asked: &Asked<'_>) -> Result<Vec<(&'static str, String)>, Refusal> {
    let given: List = asked.params()?;
    let mut query = vec![(
        "per_page",
        page_size("per_page", given.per_page, 30, 100)?.to_string(),
    )];
    if let Some(page) = given.page {
        query.push(("page", page_size("page", Some(page), 1, 10_000)?.to_string()));
    }
    if let Some(state) = given.state {
        if !["open", "closed", "all"].contains(&state.as_str()) {
            return Err(invalid("params: state must be one of open, closed, all"));
        }
        query.push(("state", state));
    }
    match given.labels {
        Some(labels) if asked.operation == "list_issues" => {
            let labels = match labels {
                Labels::List(labels) => labels.join(","),
                Labels::Text(labels) => labels,
            };
            query.push(("labels", labels));
        }
        _ => {}
    }
    Ok(query)
}

/// GitHub's `message`, with the fields of a refused creation.
pub(super) fn refusal(answer: &Answer) -> Option<String> {
    if answer.status.is_success() {
        return None;
    }
    let message = answer.json["message"].as_str().map(|message| {
        let faults = answer.json["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let faults = faults.iter().map(|fault| match fault["message"].as_str() {
            Some(said) => said.to_owned(),
            None => format!("{} {}", word(&fault["field"]), word(&fault["code"])),
        });
        std::iter::once(message.to_owned())
            .chain(faults)
            .collect::<Vec<_>>()
            .join("; ")
    });
    Some(answer.refusal("github", message.as_deref()))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A file comes in Base64; as text it is of more use.
pub(super) fn add_text(output: &mut Value) {
    if output["encoding"] != "base64" {
        return;
    }
    let Some(content) = output["content"].as_str() else {
        return;
    };
    let packed: String = content.chars().filter(|c| !c.is_whitespace()).collect();
    let text = STANDARD
        .decode(packed)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(text) = text {
        output["text"] = Value::String(text);
    }
}
