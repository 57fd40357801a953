use crate::setup::{call_as, connectors, error, of_run, told, tools, with};
use agent::ports::RemoteTools as _;
use domain::{Effect, Labels};
use serde_json::{Value, json};
use testkit::vendors::{GITHUB_KEY, Vendors};

const ALL: [&str; 3] = ["github", "linear", "slack"];

fn call(kind: &str, operation: &str, params: Value) -> Value {
    json!({"connector_type": kind, "operation": operation, "params": params})
}

/// Every operation of the contract, and a part of the answer.
fn operations() -> Vec<(Value, &'static str, Value)> {
    let repo = |more: Value| {
        let mut params = json!({"owner": "o", "repo": "r"});
        for (name, value) in more.as_object().unwrap() {
            params[name] = value.clone();
        }
        params
    };
    vec![
        (
            call("github", "get_repo", repo(json!({}))),
            "/full_name",
            json!("o/r"),
        ),
        (
            call("github", "get_repo", json!({"repo": "o/r"})),
            "/full_name",
            json!("o/r"),
        ),
        (
            call(
                "github",
                "list_issues",
                repo(json!({"state": "all", "labels": ["a", "b"], "per_page": 2, "page": 1})),
            ),
            "/0/number",
            json!(1),
        ),
        (
            call("github", "get_issue", repo(json!({"issue_number": 1}))),
            "/title",
            json!("It is broken"),
        ),
        (
            call(
                "github",
                "create_issue",
                repo(json!({"title": "New", "body": "b", "labels": ["x"]})),
            ),
            "/title",
            json!("New"),
        ),
        (
            call(
                "github",
                "comment_issue",
                repo(json!({"issue_number": 1, "body": "Yes"})),
            ),
            "/body",
            json!("Yes"),
        ),
        (
            call("github", "list_pull_requests", repo(json!({"state": "open"}))),
            "/1/number",
            json!(2),
        ),
        (
            call(
                "github",
                "get_file",
                repo(json!({"path": "docs/read me.md", "ref": "main"})),
            ),
            "/text",
            json!("# Tea\n\nGreen, with café words that need a second line.\n"),
        ),
        (
            call("linear", "list_teams", json!({})),
            "/data/teams/nodes/0/key",
            json!("ENG"),
        ),
        (
            call("linear", "list_issues", json!({"team_id": "T1", "limit": 10})),
            "/data/issues/nodes/0/identifier",
            json!("ENG-1"),
        ),
        (
            call("linear", "get_issue", json!({"issue_id": "I1"})),
            "/data/issue/title",
            json!("It is broken"),
        ),
        (
            call(
                "linear",
                "create_issue",
                json!({"team_id": "T1", "title": "New", "description": "d", "priority": 2}),
            ),
            "/data/issueCreate/success",
            json!(true),
        ),
        (
            call(
                "linear",
                "comment_issue",
                json!({"issue_id": "I1", "body": "Yes"}),
            ),
            "/data/commentCreate/comment/body",
            json!("Yes"),
        ),
        (
            call("slack", "list_channels", json!({"limit": 20})),
            "/channels/0/id",
            json!("C1"),
        ),
        (
            call("slack", "list_messages", json!({"channel": "C1"})),
            "/messages/0/text",
            json!("Hello"),
        ),
        (
            call("slack", "post_message", json!({"channel": "C1", "text": "Hi"})),
            "/message/text",
            json!("Hi"),
        ),
    ]
}

#[tokio::test]
async fn every_operation_is_asked_as_its_vendor_has_it_and_gives_the_vendors_json() {
    let vendors = Vendors::start().await;
    let tools = with(&connectors(&vendors));
    let run = of_run(&tools, &ALL);
    for (number, (input, place, value)) in operations().into_iter().enumerate() {
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
        (json!({}), "Invalid input: missing field `connector_type`"),
        (
            call("foo", "get_repo", json!({})),
            "Invalid input: connector_type must be one of github, linear, slack",
        ),
        (
            json!({"connector_type": "github"}),
            "Invalid input: missing field `operation`",
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

#[tokio::test]
async fn wrong_params_are_told_before_anything_is_sent() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &ALL);
    for (input, said) in [
        (
            call("github", "get_repo", json!("o/r")),
            "params must be an object",
        ),
        (
            call("github", "get_repo", json!({"owner": "o"})),
            "params: missing field `repo`",
        ),
        (
            call("github", "get_repo", json!({"repo": "r"})),
            "params: missing field `owner`",
        ),
        (
            call("github", "get_repo", json!({"owner": "..", "repo": "r"})),
            "names as GitHub has them",
        ),
        (
            call("github", "get_repo", json!({"owner": "o", "repo": "r?x=y"})),
            "names as GitHub has them",
        ),
        (
            call("github", "get_repo", json!({"repo": "o/r/../../user"})),
            "names as GitHub has them",
        ),
        (
            call(
                "github",
                "get_issue",
                json!({"repo": "o/r", "issue_number": "1/lock"}),
            ),
            "params: invalid type",
        ),
        (
            call("github", "create_issue", json!({"repo": "o/r", "title": " "})),
            "params: title cannot be empty",
        ),
        (
            call("github", "list_issues", json!({"repo": "o/r", "state": "new"})),
            "state must be one of",
        ),
        (
            call("github", "list_issues", json!({"repo": "o/r", "per_page": 101})),
            "per_page must be 1 to 100",
        ),
        (
            call(
                "github",
                "get_file",
                json!({"repo": "o/r", "path": "../../secrets"}),
            ),
            "inside the repository",
        ),
        (
            call("linear", "create_issue", json!({"title": "x"})),
            "params: missing field `team_id`",
        ),
        (
            call("linear", "get_issue", json!({})),
            "params: missing field `issue_id`",
        ),
        (
            call("slack", "post_message", json!({"channel": "C1"})),
            "params: missing field `text`",
        ),
        (
            call("slack", "list_messages", json!({"channel": "C1", "limit": 1000})),
            "limit must be 1 to 999",
        ),
    ] {
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
