//! GitHub: <https://docs.github.com/en/rest>, version 2022-11-28 (`github/rest-api-description`). The repository `o/r` is
//! there, with issue 1 and the file `docs/read me.md`.

use super::{GITHUB_KEY, Judged, Member, Request, Type, fault_of, wrong};
use base64::Engine as _;
use serde_json::{Value, json};

const DOCS: &str = "https://docs.github.com/rest";

pub(super) fn answer(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    let error = |said: &str| json!({"message": said, "documentation_url": DOCS, "status": "4xx"});
    if request.header("user-agent").is_empty() {
        return wrong(
            403,
            error("Request forbidden by administrative rules."),
            "no User-Agent",
        );
    }
    if request.header("authorization") != format!("Bearer {GITHUB_KEY}") {
        return wrong(401, error("Bad credentials"), "no bearer token");
    }
    if request.header("accept") != "application/vnd.github+json" {
        return wrong(415, error("Unsupported 'Accept' header"), "Accept");
    }
    if request.header("x-github-api-version") != "2022-11-28" {
        return wrong(400, error("Unknown API version"), "X-GitHub-Api-Version");
    }
    let parts: Vec<&str> = request.path.split('/').collect();
    let rest = match parts.as_slice() {
        ["rate_limit"] => {
            return Ok((
                200,
                json!({"resources": {}, "rate": {"limit": 5000, "remaining": 4999}}),
            ));
        }
        ["repos", "o", "r", rest @ ..] => rest,
        ["repos", _, _, ..] => return Ok((404, error("Not Found"))),
        _ => return wrong(404, error("Not Found"), "unknown endpoint"),
    };
    match (request.method.as_str(), rest) {
        ("GET", []) => Ok((
            200,
            json!({"id": 1, "name": "r", "full_name": "o/r", "private": false, "default_branch": "main"}),
        )),
        ("GET", ["issues"]) => list(
            request,
            &[
                "state",
                "labels",
                "per_page",
                "page",
                "sort",
                "direction",
                "since",
            ],
            issue,
        ),
        ("GET", ["pulls"]) => list(
            request,
            &["state", "per_page", "page", "sort", "direction", "head", "base"],
            |n| json!({"number": n, "title": "A change", "state": "open", "head": {"ref": "x"}, "base": {"ref": "main"}}),
        ),
        ("GET", ["issues", "1"]) => Ok((200, issue(1))),
        ("GET", ["issues", number]) if number.parse::<u64>().is_ok() => Ok((404, error("Not Found"))),
        ("POST", ["issues"]) => create(request, made),
        ("POST", ["issues", "1", "comments"]) => comment(request, made),
        ("GET", ["contents", path @ ..]) => file(request, &path.join("/")),
        _ => wrong(404, error("Not Found"), "unknown endpoint"),
    }
}

fn issue(number: u64) -> Value {
    json!({"number": number, "title": "It is broken", "state": "open", "body": "Words", "labels": [], "user": {"login": "o"}})
}

fn list(request: &Request, known: &[&str], item: impl Fn(u64) -> Value) -> Judged {
    let number = |name: &str, most: u64| {
        let given = request.has_query(name);
        given.is_none_or(|given| {
            given
                .parse::<u64>()
                .is_ok_and(|number| (1..=most).contains(&number))
        })
    };
    let state = request.has_query("state").unwrap_or("open");
    let fits =
        number("per_page", 100) && number("page", u64::MAX) && ["open", "closed", "all"].contains(&state);
    let fault = request
        .unknown_query(known)
        .or_else(|| (!fits).then(|| "a parameter is out of bounds".to_owned()));
    if let Some(fault) = fault {
        return wrong(
            422,
            json!({"message": "Validation Failed", "documentation_url": DOCS}),
            fault,
        );
    }
    Ok((200, json!([item(1), item(2)])))
}

fn create(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    let members = [
        Member("title", Type::Text, true),
        Member("body", Type::Text, false),
        Member("labels", Type::Texts, false),
        Member("assignees", Type::Texts, false),
    ];
    if let Some(fault) = fault_of(&request.body, &members) {
        return wrong(422, json!({"message": "Validation Failed"}), fault);
    }
    if request.body["assignees"][0] == "nobody" {
        let errors =
            json!([{"resource": "Issue", "field": "assignees", "code": "invalid", "value": "nobody"}]);
        return Ok((
            422,
            json!({"message": "Validation Failed", "errors": errors, "documentation_url": DOCS}),
        ));
    }
    made.push((String::new(), request.body.clone()));
    let mut issue = issue(made.len() as u64 + 1);
    issue["title"] = request.body["title"].clone();
    Ok((201, issue))
}

fn comment(request: &Request, made: &mut Vec<(String, Value)>) -> Judged {
    if let Some(fault) = fault_of(&request.body, &[Member("body", Type::Text, true)]) {
        return wrong(422, json!({"message": "Validation Failed"}), fault);
    }
    made.push((String::new(), request.body.clone()));
    Ok((
        201,
        json!({"id": 7, "body": request.body["body"], "user": {"login": "o"}}),
    ))
}

/// Contents come in Base64 with line ends.
fn file(request: &Request, path: &str) -> Judged {
    if let Some(fault) = request.unknown_query(&["ref"]) {
        return wrong(400, json!({"message": fault}), fault);
    }
    if path != "docs/read%20me.md" {
        return Ok((404, json!({"message": "Not Found", "documentation_url": DOCS})));
    }
    let packed = base64::engine::general_purpose::STANDARD
        .encode("# Tea\n\nGreen, with café words that need a second line.\n");
    let lines: Vec<&str> = packed
        .as_bytes()
        .chunks(60)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    Ok((
        200,
        json!({"type": "file", "encoding": "base64", "name": "read me.md", "path": "docs/read me.md",
            "content": lines.join("\n") + "\n", "sha": "3d21ec53a331a6f037a91c368710b99387d012c1"}),
    ))
}
