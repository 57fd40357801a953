//! Linear: <https://linear.app/developers/graphql>. Types, fields and arguments are those of
//! `packages/sdk/src/schema.graphql` in `linear/linear`, as far as they are used. The team `T1` and the issue `I1` are there.

use super::graphql::{self, Schema};
use super::{Judged, LINEAR_KEY, Member, Request, Type, fault_of, wrong};
use serde_json::{Value, json};

/// Type, and its fields with the type that each leads to (empty for a plain value) and the arguments it takes.
const SCHEMA: Schema = &[
    (
        "Query",
        &[
            ("viewer", "User", &[]),
            (
                "teams",
                "TeamConnection",
                &["first Int", "after String", "filter TeamFilter"],
            ),
            (
                "issues",
                "IssueConnection",
                &["first Int", "after String", "filter IssueFilter"],
            ),
            ("issue", "Issue", &["id String!"]),
        ],
    ),
    (
        "Mutation",
        &[
            ("issueCreate", "IssuePayload", &["input IssueCreateInput!"]),
            ("commentCreate", "CommentPayload", &["input CommentCreateInput!"]),
        ],
    ),
    (
        "TeamConnection",
        &[("nodes", "Team", &[]), ("pageInfo", "PageInfo", &[])],
    ),
    (
        "IssueConnection",
        &[("nodes", "Issue", &[]), ("pageInfo", "PageInfo", &[])],
    ),
    (
        "CommentConnection",
        &[("nodes", "Comment", &[]), ("pageInfo", "PageInfo", &[])],
    ),
    (
        "IssueLabelConnection",
        &[("nodes", "IssueLabel", &[]), ("pageInfo", "PageInfo", &[])],
    ),
    ("IssuePayload", &[("success", "", &[]), ("issue", "Issue", &[])]),
    (
        "CommentPayload",
        &[("success", "", &[]), ("comment", "Comment", &[])],
    ),
    ("PageInfo", &[("hasNextPage", "", &[]), ("endCursor", "", &[])]),
    ("Team", &[("id", "", &[]), ("key", "", &[]), ("name", "", &[])]),
    ("User", &[("id", "", &[]), ("name", "", &[])]),
    ("WorkflowState", &[("name", "", &[]), ("type", "", &[])]),
    ("IssueLabel", &[("id", "", &[]), ("name", "", &[])]),
    (
        "Comment",
        &[
            ("id", "", &[]),
            ("body", "", &[]),
            ("url", "", &[]),
            ("createdAt", "", &[]),
            ("user", "User", &[]),
        ],
    ),
    (
        "Issue",
        &[
            ("id", "", &[]),
            ("identifier", "", &[]),
            ("title", "", &[]),
            ("description", "", &[]),
            ("url", "", &[]),
            ("priority", "", &[]),
            ("createdAt", "", &[]),
            ("updatedAt", "", &[]),
            ("state", "WorkflowState", &[]),
            ("assignee", "User", &[]),
            ("team", "Team", &[]),
            ("labels", "IssueLabelConnection", &["first Int"]),
            ("comments", "CommentConnection", &["first Int"]),
        ],
    ),
];

pub(super) fn answer(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    let error = |said: &str, code: &str| json!({"errors": [{"message": said, "extensions": {"code": code}}]});
    if (request.method.as_str(), request.path.as_str()) != ("POST", "graphql") {
        return wrong(404, error("Not found", "NOT_FOUND"), "unknown endpoint");
    }
    // A personal key stands alone; `Bearer` is for tokens of OAuth.
    if request.header("authorization") != LINEAR_KEY {
        return wrong(
            401,
            error(
                "Authentication required, not authenticated",
                "AUTHENTICATION_ERROR",
            ),
            "no key",
        );
    }
    if !request.header("content-type").starts_with("application/json") {
        return wrong(
            400,
            error("Must be JSON", "GRAPHQL_VALIDATION_FAILED"),
            "not sent as JSON",
        );
    }
    let query = request.body["query"].as_str().unwrap_or_default();
    let variables = &request.body["variables"];
    let asked = match graphql::check(SCHEMA, query, variables) {
        Ok(asked) => asked,
        Err(fault) => return wrong(400, error(&fault, "GRAPHQL_VALIDATION_FAILED"), fault),
    };
    let page = json!({"hasNextPage": false, "endCursor": null});
    let issue = json!({"id": "I1", "identifier": "ENG-1", "title": "It is broken", "url": "https://linear.app/x/issue/ENG-1"});
    match asked.as_str() {
        "viewer" => Ok((200, json!({"data": {"viewer": {"id": "U1", "name": "bot"}}}))),
        "teams" => {
            let nodes = json!([{"id": "T1", "key": "ENG", "name": "Engineering"}]);
            Ok((
                200,
                json!({"data": {"teams": {"nodes": nodes, "pageInfo": page}}}),
            ))
        }
        "issues" => issues(variables, &issue, &page),
        "issue" if variables["id"] == "I1" => Ok((200, json!({"data": {"issue": issue}}))),
        "issue" => {
            let mut body = error("Entity not found: Issue", "INPUT_ERROR");
            body["errors"][0]["extensions"]["userPresentableMessage"] =
                json!("Could not find referenced Issue.");
            body["data"] = Value::Null;
            Ok((200, body))
        }
        _ => make(&variables["input"], &asked, made),
    }
}

/// `filter.team` is a `TeamFilter`, whose `id` is an `IDComparator`.
fn issues(variables: &Value, issue: &Value, page: &Value) -> Judged {
    let filter = &variables["filter"];
    let fits = filter.is_null() || filter["team"]["id"]["eq"].is_string();
    if !fits {
        return wrong(
            400,
            json!({"errors": [{"message": "filter"}]}),
            format!("filter {filter}"),
        );
    }
    Ok((
        200,
        json!({"data": {"issues": {"nodes": [issue], "pageInfo": page}}}),
    ))
}

fn make(input: &Value, mutation: &str, made: &mut Vec<(String, Value)>) -> Judged {
    let error = |said: &str| json!({"errors": [{"message": said, "extensions": {"code": "INVALID_INPUT"}}], "data": null});
    let is_issue = mutation == "issueCreate";
    let members: &[Member] = if is_issue {
        &[
            Member("id", Type::Text, false),
            Member("teamId", Type::Text, true),
            Member("title", Type::Text, false),
            Member("description", Type::Text, false),
            Member("priority", Type::Number(0, 4), false),
            Member("assigneeId", Type::Text, false),
        ]
    } else {
        &[
            Member("id", Type::Text, false),
            Member("issueId", Type::Text, false),
            Member("body", Type::Text, false),
        ]
    };
    if let Some(fault) = fault_of(input, members) {
        return wrong(400, error(&fault), fault);
    }
    let id = input["id"].as_str().unwrap_or_default().to_owned();
    // "The identifier in UUID v4 format. If none is provided, the backend will generate one."
    let [version, variant] = [14, 19].map(|place| id.as_bytes().get(place).copied().unwrap_or_default());
    if !id.is_empty() && (id.len() != 36 || version != b'4' || !b"89ab".contains(&variant)) {
        return wrong(400, error("id must be a UUID"), format!("id {id}"));
    }
    if !id.is_empty() && made.iter().any(|(other, _)| *other == id) {
        return Ok((200, error("id must be unique")));
    }
    made.push((id.clone(), input.clone()));
    let data = if is_issue {
        let issue =
            json!({"id": id, "identifier": "ENG-2", "title": input["title"], "url": "https://linear.app/x"});
        json!({"issueCreate": {"success": true, "issue": issue}})
    } else {
        let comment = json!({"id": id, "body": input["body"], "url": "https://linear.app/x#c"});
        json!({"commentCreate": {"success": true, "comment": comment}})
    };
    Ok((200, json!({"data": data})))
}
