use crate::setup::{call_as, connectors, error, of_run, refusal, told, tools, with};
use agent::ports::RemoteTools as _;
use domain::{Effect, Labels};
use serde_json::{Value, json};
use testkit::vendors::{GITHUB_KEY, Vendors};

const ALL: [&str; 3] = ["github", "linear", "slack"];

fn call(kind: &str, operation: &str, params: Value) -> Value {
    json!({"connector_type": kind, "operation": operation, "params": params})
}

/// Every operation of the contract: type, name, params, a place in the answer, what is there.
const OPERATIONS: [[&str; 5]; 16] = [
    [
        "github",
        "get_repo",
        r#"{"owner":"o","repo":"r"}"#,
        "/full_name",
        r#""o/r""#,
    ],
    [
        "github",
        "get_repo",
        r#"{"repo":"o/r"}"#,
        "/full_name",
        r#""o/r""#,
    ],
    [
        "github",
        "list_issues",
        r#"{"repo":"o/r","state":"all","labels":["a","b"],"per_page":2,"page":1}"#,
        "/0/number",
        "1",
    ],
    [
        "github",
        "get_issue",
        r#"{"repo":"o/r","issue_number":1}"#,
        "/title",
        r#""It is broken""#,
    ],
    [
        "github",
        "create_issue",
        r#"{"repo":"o/r","title":"New","body":"b","labels":["x"]}"#,
        "/title",
        r#""New""#,
    ],
    [
        "github",
        "comment_issue",
        r#"{"repo":"o/r","issue_number":1,"body":"Yes"}"#,
        "/body",
        r#""Yes""#,
    ],
    [
        "github",
        "list_pull_requests",
        r#"{"repo":"o/r","state":"open"}"#,
        "/1/number",
        "2",
    ],
    [
        "github",
        "get_file",
        r#"{"repo":"o/r","path":"docs/read me.md","ref":"main"}"#,
        "/text",
        r##""# Tea\n\nGreen, with café words that need a second line.\n""##,
    ],
    [
        "linear",
        "list_teams",
        "{}",
        "/data/teams/nodes/0/key",
        r#""ENG""#,
    ],
    [
        "linear",
        "list_issues",
        r#"{"team_id":"T1","limit":10}"#,
        "/data/issues/nodes/0/identifier",
        r#""ENG-1""#,
    ],
    [
        "linear",
        "get_issue",
        r#"{"issue_id":"I1"}"#,
        "/data/issue/title",
        r#""It is broken""#,
    ],
    [
        "linear",
        "create_issue",
        r#"{"team_id":"T1","title":"New","description":"d","priority":2}"#,
        "/data/issueCreate/success",
        "true",
    ],
    [
        "linear",
        "comment_issue",
        r#"{"issue_id":"I1","body":"Yes"}"#,
        "/data/commentCreate/comment/body",
        r#""Yes""#,
    ],
    [
        "slack",
        "list_channels",
        r#"{"limit":20}"#,
        "/channels/0/id",
        r#""C1""#,
    ],
    [
        "slack",
        "list_messages",
        r#"{"channel":"C1"}"#,
        "/messages/0/text",
        r#""Hello""#,
    ],
    [
        "slack",
        "post_message",
        r#"{"channel":"C1","text":"Hi"}"#,
        "/message/text",
        r#""Hi""#,
    ],
];

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn every_operation_is_asked_as_its_vendor_has_it_and_gives_the_vendors_json() {
    let vendors = Vendors::start().await;
    let tools = with(&connectors(&vendors));
    let run = of_run(&tools, &ALL);
    for (number, [kind, operation, params, place, value]) in OPERATIONS.into_iter().enumerate() {
        let (input, value) = (call(kind, operation, json_of(params)), json_of(value));
        let result = call_as(&run, "connector", &input, &format!("step-{number}"))
            .await
            .unwrap();
        assert!(result.success, "{input}: {result:?}");
        assert_eq!(result.output.pointer(place), Some(&value), "{input}");
        assert!((result.credits_used - 2.0).abs() < f64::EPSILON);
    }
    assert_eq!(vendors.complaints(), Vec::<String>::new());
    assert_eq!(vendors.made().len(), 5);
    for (name, line) in tools.check().await {
        assert!(line.is_ok(), "{name}: {line:?}");
    }
    assert_eq!(vendors.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn the_checks_of_a_call_come_in_their_order() {
    let vendors = Vendors::start().await;
    let none = of_run(&tools(&[]), &[]);
    let set = of_run(&with(&connectors(&vendors)), &["slack"]);
    for (input, said) in [
        (json!({}), "Invalid input: connector_type is missing"),
        (
            call("foo", "get_repo", json!({})),
            "Invalid input: connector_type must be one of github, linear, slack",
        ),
        (
            json!({"connector_type": "github"}),
            "Invalid input: operation is missing",
        ),
        (call("github", "nope", json!({})), "Unknown operation: nope"),
        (
            call("github", "post_message", json!({})),
            "Unknown operation: post_message",
        ),
        (
            call("github", "get_repo", json!({})),
            "connector is not configured: set GITHUB_TOKEN",
        ),
        (
            call("linear", "list_teams", json!({})),
            "connector is not configured: set LINEAR_API_KEY",
        ),
        (
            call("slack", "post_message", json!({})),
            "connector is not configured: set SLACK_BOT_TOKEN",
        ),
    ] {
        let result = told(&none, "connector", &input).await;
        assert_eq!((error(&result), result.credits_used), (said, 0.0), "{input}");
        assert_eq!(refusal(&none, "connector", &input).as_deref(), Some(said));
    }
    let github = call("github", "get_repo", json!({"repo": "o/r"}));
    let elsewhere = told(&set, "connector", &github).await;
    assert_eq!(
        error(&elsewhere),
        "Connector not allowed in this run: github (name it in connector_ids)"
    );
    let spec = set
        .specs()
        .into_iter()
        .find(|spec| spec.name == "connector")
        .unwrap();
    assert_eq!(
        spec.input_schema["properties"]["connector_type"]["enum"],
        json!(["slack"])
    );
    assert!(vendors.requests().is_empty());
}

/// Type, operation, params, and what is said of them.
const WRONG: [[&str; 4]; 15] = [
    ["github", "get_repo", r#""o/r""#, "params must be an object"],
    [
        "github",
        "get_repo",
        r#"{"owner":"o"}"#,
        "params: repo is missing",
    ],
    [
        "github",
        "get_repo",
        r#"{"repo":"r"}"#,
        "params: owner is missing",
    ],
    [
        "github",
        "get_repo",
        r#"{"owner":"..","repo":"r"}"#,
        "names as GitHub has them",
    ],
    [
        "github",
        "get_repo",
        r#"{"owner":"o","repo":"r?x=y"}"#,
        "names as GitHub has them",
    ],
    [
        "github",
        "get_repo",
        r#"{"repo":"o/r/../../user"}"#,
        "names as GitHub has them",
    ],
    [
        "github",
        "get_issue",
        r#"{"repo":"o/r","issue_number":"1/lock"}"#,
        "params: issue_number must be a whole number, 0 or more",
    ],
    [
        "github",
        "create_issue",
        r#"{"repo":"o/r","title":" "}"#,
        "params: title cannot be empty",
    ],
    [
        "github",
        "list_issues",
        r#"{"repo":"o/r","state":"new"}"#,
        "state must be one of",
    ],
    [
        "github",
        "list_issues",
        r#"{"repo":"o/r","per_page":101}"#,
        "per_page must be 1 to 100",
    ],
    [
        "github",
        "get_file",
        r#"{"repo":"o/r","path":"../../secrets"}"#,
        "inside the repository",
    ],
    [
        "linear",
        "create_issue",
        r#"{"title":"x"}"#,
        "params: team_id is missing",
    ],
    ["linear", "get_issue", "{}", "params: issue_id is missing"],
    [
        "slack",
        "post_message",
        r#"{"channel":"C1"}"#,
        "params: text is missing",
    ],
    [
        "slack",
        "list_messages",
        r#"{"channel":"C1","limit":1000}"#,
        "limit must be 1 to 999",
    ],
];

#[tokio::test]
async fn wrong_params_are_told_before_anything_is_sent() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &ALL);
    for [kind, operation, params, said] in WRONG {
        let input = call(kind, operation, json_of(params));
        let result = told(&run, "connector", &input).await;
        let text = error(&result);
        assert!(
            text.starts_with("Invalid input: ") && text.contains(said),
            "{input}: {text}"
        );
    }
    assert!(vendors.requests().is_empty());
}

#[tokio::test]
async fn a_vendors_refusal_is_told_in_its_own_words() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &ALL);
    for (input, said) in [
        (
            call("github", "get_issue", json!({"repo": "o/r", "issue_number": 9})),
            "github answered 404: Not Found",
        ),
        (
            call(
                "github",
                "create_issue",
                json!({"repo": "o/r", "title": "x", "assignees": ["nobody"]}),
            ),
            "github answered 422: Validation Failed; assignees invalid",
        ),
        (
            call("linear", "get_issue", json!({"issue_id": "nope"})),
            "linear answered 200: Could not find referenced Issue.",
        ),
        (
            call("slack", "post_message", json!({"channel": "C9", "text": "x"})),
            "slack answered 200: channel_not_found",
        ),
    ] {
        let result = told(&run, "connector", &input).await;
        assert_eq!(error(&result), said, "{input}");
    }
    assert_eq!(vendors.complaints(), Vec::<String>::new());
    let url = vendors.url("github");
    let wrong = tools(&[("github-token", "ghp_wrong"), ("github-api-url", &url)]);
    let refused = told(
        &of_run(&wrong, &ALL),
        "connector",
        &call("github", "get_repo", json!({"repo": "o/r"})),
    )
    .await;
    assert_eq!(error(&refused), "github answered 401: Bad credentials");
    let (name, line) = wrong.check().await.remove(0);
    assert_eq!(
        (name.as_str(), line),
        (
            "connector github",
            Err("github answered 401: Bad credentials".to_owned())
        )
    );
}

#[tokio::test]
async fn the_same_step_again_makes_the_same_thing_once_where_the_vendor_knows_ids() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &ALL);
    let message = call("slack", "post_message", json!({"channel": "C1", "text": "Hi"}));
    let issue = call("linear", "create_issue", json!({"team_id": "T1", "title": "New"}));
    for _ in 0..2 {
        assert!(
            call_as(&run, "connector", &message, "step-a")
                .await
                .unwrap()
                .success
        );
    }
    assert_eq!(vendors.made().len(), 1);
    assert!(
        call_as(&run, "connector", &issue, "step-b")
            .await
            .unwrap()
            .success
    );
    let again = call_as(&run, "connector", &issue, "step-b").await.unwrap();
    assert_eq!(error(&again), "linear answered 200: id must be unique");
    assert!(
        call_as(&run, "connector", &message, "step-c")
            .await
            .unwrap()
            .success
    );
    assert_eq!(vendors.made().len(), 3);
}

#[tokio::test]
async fn effects_and_labels_follow_the_operation() {
    let run = of_run(&tools(&[]), &[]);
    let reads = Labels {
        reads_untrusted: true,
        reads_private: true,
        acts_outside: false,
    };
    let acts = Labels {
        reads_untrusted: false,
        reads_private: false,
        acts_outside: true,
    };
    for (input, effect, labels) in [
        (call("github", "get_repo", json!({})), Effect::Pure, reads),
        (call("slack", "list_messages", json!({})), Effect::Pure, reads),
        (
            call("github", "create_issue", json!({})),
            Effect::AtMostOnce,
            acts,
        ),
        (
            call("linear", "comment_issue", json!({})),
            Effect::AtMostOnce,
            acts,
        ),
        (call("slack", "post_message", json!({})), Effect::AtMostOnce, acts),
        (json!({}), Effect::AtMostOnce, acts),
    ] {
        assert_eq!(run.effect_of("connector", &input), Some(effect), "{input}");
        assert_eq!(run.labels_of("connector", &input), labels, "{input}");
    }
    let out = Labels {
        reads_untrusted: true,
        reads_private: false,
        acts_outside: true,
    };
    for name in ["search", "fetch"] {
        assert_eq!(run.effect_of(name, &json!({})), Some(Effect::Pure));
        assert_eq!(run.labels_of(name, &json!({})), out);
    }
    assert_eq!(run.effect_of("shell", &json!({})), None);
}

#[tokio::test]
async fn no_token_is_shown_by_the_settings() {
    let vendors = Vendors::start().await;
    let arguments = connectors(&vendors);
    let arguments: Vec<_> = arguments
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let options = crate::setup::options(&arguments);
    assert!(options.secrets().contains(&GITHUB_KEY.to_owned()));
    let shown = format!("{options:?} {:?}", tools::Tools::from_options(&options).unwrap());
    for secret in options.secrets() {
        assert!(!shown.contains(&secret), "{shown}");
    }
}

#[tokio::test]
async fn what_can_never_be_done_is_known_before_anything_is_sent() {
    let none = of_run(&tools(&[]), &[]);
    for (tool, input, said) in [
        (
            "search",
            json!({"query": "x"}),
            "search is not configured: set TAVILY_API_KEY, SERPER_API_KEY or BRAVE_API_KEY",
        ),
        ("browser", json!({}), "Invalid input: action is missing"),
        (
            "fetch",
            json!({"url": "http://127.0.0.1:1/"}),
            "Address not allowed",
        ),
        (
            "mcp__notes__find",
            json!({}),
            "MCP server notes is not one of this run: name it in mcp_servers",
        ),
    ] {
        assert_eq!(refusal(&none, tool, &input).as_deref(), Some(said));
    }
}
