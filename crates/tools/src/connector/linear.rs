//! Linear's GraphQL API: <https://linear.app/developers/graphql>, its schema in `packages/sdk/src/schema.graphql` of
//! `linear/linear`.

use super::{Asked, filled, page_size};
use crate::http::{Answer, Api};
use crate::input::Refusal;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const OPERATIONS: [&str; 5] = [
    "list_teams",
    "list_issues",
    "get_issue",
    "create_issue",
    "comment_issue",
];

pub(super) const HELP: &str = "list_teams{}, list_issues{team_id?,limit?,cursor?}, get_issue{issue_id}, \
    create_issue{team_id,title,description?,priority?,assignee_id?}, comment_issue{issue_id,body}";

const TEAMS: &str = "query Teams($first: Int) { teams(first: $first) { nodes { id key name } pageInfo { hasNextPage endCursor } } }";

const ISSUES: &str = "query Issues($first: Int, $after: String, $filter: IssueFilter) { \
    issues(first: $first, after: $after, filter: $filter) { nodes { id identifier title url priority createdAt updatedAt \
    state { name type } assignee { id name } team { id key } } pageInfo { hasNextPage endCursor } } }";

const ISSUE: &str = "query Issue($id: String!) { issue(id: $id) { id identifier title description url priority \
    createdAt updatedAt state { name type } assignee { id name } team { id key name } labels { nodes { name } } \
    comments(first: 50) { nodes { id body createdAt user { name } } } } }";

const CREATE: &str = "mutation CreateIssue($input: IssueCreateInput!) { issueCreate(input: $input) { success \
    issue { id identifier title url } } }";

const COMMENT: &str = "mutation CreateComment($input: CommentCreateInput!) { commentCreate(input: $input) { success \
    comment { id body url } } }";

const VIEWER: &str = "query Viewer { viewer { id name } }";

#[derive(Debug, Deserialize)]
struct List {
    #[serde(alias = "teamId")]
    team_id: Option<String>,
    #[serde(alias = "first")]
    limit: Option<u32>,
    #[serde(alias = "after")]
    cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Issue {
    #[serde(alias = "issueId", alias = "id")]
    issue_id: String,
}

#[derive(Debug, Deserialize)]
struct NewIssue {
    #[serde(alias = "teamId")]
    team_id: String,
    title: String,
    description: Option<String>,
    priority: Option<u8>,
    #[serde(alias = "assigneeId")]
    assignee_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Comment {
    #[serde(alias = "comment")]
    body: String,
}

pub(super) fn request(api: &Api, asked: &Asked<'_>) -> Result<RequestBuilder, Refusal> {
    let (query, variables) = match asked.operation {
        "list_teams" => (TEAMS, json!({"first": 100})),
        "list_issues" => {
            let given: List = asked.params()?;
            let mut variables = json!({"first": page_size("limit", given.limit, 25, 100)?});
            if let Some(cursor) = given.cursor {
                variables["after"] = json!(cursor);
            }
            if let Some(team) = given.team_id {
                variables["filter"] = json!({"team": {"id": {"eq": team}}});
            }
            (ISSUES, variables)
        }
        "get_issue" => {
            let issue: Issue = asked.params()?;
            (ISSUE, json!({"id": filled("issue_id", issue.issue_id)?}))
        }
        "create_issue" => (CREATE, json!({"input": new_issue(asked)?})),
        _ => {
            let (issue, comment): (Issue, Comment) = (asked.params()?, asked.params()?);
            let body = filled("body", comment.body)?;
            let issue = filled("issue_id", issue.issue_id)?;
            (
                COMMENT,
                json!({"input": {"id": asked.once, "issueId": issue, "body": body}}),
            )
        }
    };
    let changes = [CREATE, COMMENT].contains(&query);
    Ok(posted(api, changes, query, &variables))
}

/// The id is ours, so that the same issue made twice is refused by Linear.
fn new_issue(asked: &Asked<'_>) -> Result<Value, Refusal> {
    let new: NewIssue = asked.params()?;
    let mut input = json!({
        "id": asked.once,
        "teamId": filled("team_id", new.team_id)?,
        "title": filled("title", new.title)?,
    });
    if let Some(description) = new.description {
        input["description"] = json!(description);
    }
    if let Some(priority) = new.priority {
        input["priority"] = json!(priority);
    }
    if let Some(assignee) = new.assignee_id {
        input["assigneeId"] = json!(assignee);
    }
    Ok(input)
}

pub(super) fn check(api: &Api) -> RequestBuilder {
    posted(api, false, VIEWER, &json!({}))
}

fn posted(api: &Api, changes: bool, query: &str, variables: &Value) -> RequestBuilder {
    let url = api.url(["graphql"]);
    let request = if changes {
        api.change(url)
    } else {
        api.read(Method::POST, url)
    };
    // Personal keys stand alone, tokens of OAuth behind `Bearer`.
    let key = api.key();
    let key = if key.starts_with("lin_oauth_") {
        format!("Bearer {key}")
    } else {
        key.to_owned()
    };
    request
        .header("Authorization", key)
        .json(&json!({"query": query, "variables": variables}))
}

/// GraphQL errors, whatever the status, and mutations without success.
pub(super) fn refusal(answer: &Answer) -> Option<String> {
    let error = &answer.json["errors"][0];
    if !error.is_null() {
        let shown = error["extensions"]["userPresentableMessage"].as_str();
        return Some(answer.refusal("linear", shown.or(error["message"].as_str())));
    }
    if !answer.status.is_success() {
        return Some(answer.refusal("linear", None));
    }
    let data = answer.json["data"].as_object()?;
    let failed = data.values().any(|part| part["success"] == false);
    failed.then(|| answer.refusal("linear", Some("without success")))
}
