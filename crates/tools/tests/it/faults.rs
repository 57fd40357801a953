use crate::setup::{call, connectors, error, of_run, told, tools, with};
use agent::tools::ToolError;
use domain::Clock as _;
use serde_json::{Value, json};
use testkit::vendors::{Instead, SLACK_KEY, Vendors};

fn reading() -> Value {
    json!({"connector_type": "github", "operation": "get_repo", "params": {"repo": "o/r"}})
}

fn changing() -> Value {
    json!({"connector_type": "slack", "operation": "post_message", "params": {"channel": "C1", "text": "Hi"}})
}

fn answer(status: u16, headers: Vec<(&'static str, String)>, body: Value) -> Instead {
    Instead::Answer {
        status,
        headers,
        body: body.to_string(),
    }
}

#[tokio::test]
async fn a_lost_answer_of_a_reading_call_is_told_and_of_a_changing_one_is_unknown() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["github", "slack"]);
    for (fault, said) in [
        (Instead::Silence, "no answer from github: nothing came within 1 s"),
        (Instead::Broken, "no "),
    ] {
        vendors.instead(fault);
        let result = told(&run, "connector", &reading()).await;
        assert!(error(&result).starts_with(said), "{result:?}");
    }
    for fault in [Instead::DoneInSilence, Instead::Broken] {
        vendors.instead(fault);
        let lost = call(&run, "connector", &changing()).await;
        assert!(
            matches!(&lost, Err(ToolError::Unknown(said)) if said.contains("slack")),
            "{lost:?}"
        );
    }
    // It had been done, and is not done again under the same key.
    assert!(told(&run, "connector", &changing()).await.success);
    assert_eq!(vendors.made().len(), 1);
}

#[tokio::test]
async fn without_a_connection_nothing_was_done_and_it_is_told() {
    let dead = format!("http://127.0.0.1:{}", testkit::free_port());
    let run = of_run(
        &tools(&[("slack-bot-token", SLACK_KEY), ("slack-api-url", &dead)]),
        &["slack"],
    );
    let result = told(&run, "connector", &changing()).await;
    assert_eq!(
        (error(&result), result.credits_used),
        ("no connection to slack", 0.0)
    );
}

#[tokio::test]
async fn limits_of_rate_are_told_with_their_time() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["github", "slack"]);
    vendors.instead(answer(
        429,
        vec![("retry-after", "30".to_owned())],
        json!({"ok": false, "error": "ratelimited"}),
    ));
    let slack = told(&run, "connector", &changing()).await;
    assert_eq!(
        error(&slack),
        "slack answered 429: ratelimited (try again in 30 s)"
    );
    let soon = domain::SystemClock.now().as_second() + 100;
    let headers = vec![
        ("x-ratelimit-remaining", "0".to_owned()),
        ("x-ratelimit-reset", soon.to_string()),
    ];
    vendors.instead(answer(
        403,
        headers,
        json!({"message": "API rate limit exceeded for user ID 1."}),
    ));
    let github = told(&run, "connector", &reading()).await;
    let said = error(&github);
    assert!(
        said.starts_with("github answered 403: API rate limit exceeded for user ID 1. (try again in "),
        "{said}"
    );
    assert!(github.credits_used.abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_vendor_in_trouble_is_told_with_what_may_have_happened() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["github", "slack"]);
    vendors.instead(answer(502, vec![], json!({"message": "Bad Gateway"})));
    assert_eq!(
        error(&told(&run, "connector", &reading()).await),
        "github answered 502: Bad Gateway"
    );
    let note = "; it may have been done all the same: look before trying again";
    vendors.instead(Instead::Answer {
        status: 502,
        headers: vec![],
        body: "<html>\nno</html>".to_owned(),
    });
    let html = told(&run, "connector", &changing()).await;
    assert_eq!(
        error(&html),
        format!("slack answered 502: <html> no</html>{note}")
    );
    vendors.instead(answer(200, vec![], json!({"ok": false, "error": "fatal_error"})));
    let half = told(&run, "connector", &changing()).await;
    assert_eq!(error(&half), format!("slack answered 200: fatal_error{note}"));
}

#[tokio::test]
async fn hostile_answers_end_and_stay_small() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["github", "slack"]);
    vendors.instead(Instead::Endless);
    let endless = told(&run, "connector", &reading()).await;
    assert_eq!(
        error(&endless),
        "github answered more than can be read: ask for less"
    );
    vendors.instead(answer(200, vec![], json!({"full_name": "ä".repeat(50_000)})));
    let long = told(&run, "connector", &reading()).await;
    let name = long.output["full_name"].as_str().unwrap();
    assert!(
        name.chars().count() < 20_100 && name.ends_with("… (60000 bytes more)"),
        "{}",
        name.len()
    );
    // What no store takes.
    vendors.instead(answer(200, vec![], json!({"full\0_name": "a\0b"})));
    let zero = told(&run, "connector", &reading()).await;
    assert_eq!(zero.output, json!({"full\u{fffd}_name": "a\u{fffd}b"}));
    // Deeper than JSON may be.
    vendors.instead(Instead::Answer {
        status: 200,
        headers: vec![],
        body: "[".repeat(100_000),
    });
    let deep = told(&run, "connector", &reading()).await;
    assert_eq!(error(&deep), "github gave an answer that cannot be read");
}

#[tokio::test]
async fn a_redirect_of_a_changing_call_is_not_taken_for_its_success() {
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["github", "slack"]);
    let create = json!({"connector_type": "github", "operation": "create_issue", "params": {"repo": "o/r", "title": "x"}});
    let moved = format!("{}/repos/o/r/issues", vendors.url("github"));
    vendors.instead(answer(
        301,
        vec![("location", moved)],
        json!({"message": "Moved Permanently"}),
    ));
    let result = told(&run, "connector", &create).await;
    assert_eq!(error(&result), "github answered 301: Moved Permanently");
    assert_eq!((vendors.requests().len(), vendors.made().len()), (1, 0));
    // A reading one goes on within the vendor.
    let there = format!("{}/repos/o/r", vendors.url("github"));
    vendors.instead(answer(301, vec![("location", there)], json!({})));
    assert!(told(&run, "connector", &reading()).await.success);
    assert_eq!(vendors.complaints(), Vec::<String>::new());
    vendors.instead(answer(
        302,
        vec![("location", "http://169.254.169.254/".to_owned())],
        json!({}),
    ));
    let inside = told(&run, "connector", &reading()).await;
    assert_eq!(error(&inside), "no answer from github: Address not allowed");
}

#[tokio::test]
async fn a_stopped_call_ends_at_once() {
    use agent::ports::RemoteTools as _;
    let vendors = Vendors::start().await;
    let run = of_run(&with(&connectors(&vendors)), &["slack"]);
    let (input, user_id) = (changing(), domain::ids::UserId("user-1".into()));
    let call = agent::tools::Call {
        run_id: domain::ids::RunId(uuid::Uuid::nil()),
        step_id: domain::ids::StepId(uuid::Uuid::nil()),
        user_id: &user_id,
        tool_name: "connector",
        tool_input: &input,
        idempotency_key: "k",
        epoch: 1,
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    assert!(matches!(
        run.call(&call, &cancel).await,
        Err(ToolError::Cancelled)
    ));
    assert!(vendors.requests().is_empty());
}
