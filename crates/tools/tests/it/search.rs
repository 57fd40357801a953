use crate::setup::{error, of_run, told, tools};
use agent::ports::RemoteTools as _;
use serde_json::json;
use testkit::vendors::{BRAVE_KEY, Instead, SERPER_KEY, TAVILY_KEY, Vendors};

/// Vendor, its key's setting and key, its address's setting, and the answer that it gives besides results.
const VENDORS: [[&str; 5]; 4] = [
    [
        "tavily",
        "tavily-api-key",
        TAVILY_KEY,
        "tavily-api-url",
        "An answer",
    ],
    [
        "serper",
        "serper-api-key",
        SERPER_KEY,
        "serper-api-url",
        "An answer",
    ],
    ["brave", "brave-api-key", BRAVE_KEY, "brave-api-url", ""],
    ["searxng", "brave-api-key", "", "searxng-url", "An answer"],
];

#[tokio::test]
async fn every_vendor_is_asked_in_its_own_way_and_answers_in_ours() {
    let vendors = Vendors::start().await;
    for [provider, key_setting, key, url_setting, answer] in VENDORS {
        let url = vendors.url(provider);
        let run = of_run(&tools(&[(key_setting, key), (url_setting, &url)]), &[]);
        let query = "tea & \"cake\" größe";
        let input = json!({"query": query, "max_results": 3, "search_depth": "advanced"});
        let result = told(&run, "search", &input).await;
        assert!(result.success, "{provider}: {result:?}");
        assert!((result.credits_used - 1.0).abs() < f64::EPSILON);
        let output = &result.output;
        let members: Vec<_> = output.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            members,
            [
                "success",
                "query",
                "results",
                "answer",
                "result_count",
                "provider"
            ]
        );
        assert_eq!(output["success"], true);
        assert_eq!(output["query"], query);
        assert_eq!(output["provider"], provider);
        assert_eq!(output["result_count"], 3, "{provider}");
        assert_eq!(
            output["answer"].as_str().unwrap_or_default(),
            answer,
            "{provider}"
        );
        let first = &output["results"][0];
        let members: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["title", "url", "snippet", "score"]);
        assert_eq!(first["url"], "https://example.org/1", "{provider}");
        assert_eq!(first["snippet"], "Words of result 1", "{provider}");
    }
    assert_eq!(vendors.complaints(), Vec::<String>::new());
    let tavily = &vendors.requests()[0];
    assert_eq!(tavily.body["search_depth"], "advanced");
}

#[tokio::test]
async fn the_first_vendor_whose_key_is_set_is_asked_and_an_empty_key_is_none() {
    let vendors = Vendors::start().await;
    let brave = vendors.url("brave");
    let serper = vendors.url("serper");
    let searxng = vendors.url("searxng");
    let run = of_run(
        &tools(&[
            ("tavily-api-key", " "),
            ("serper-api-key", SERPER_KEY),
            ("serper-api-url", &serper),
            ("brave-api-key", BRAVE_KEY),
            ("brave-api-url", &brave),
            ("searxng-url", &searxng),
        ]),
        &[],
    );
    let result = told(&run, "search", &json!({"query": "x"})).await;
    assert_eq!(
        (&result.output["provider"], &result.output["result_count"]),
        (&json!("serper"), &json!(5))
    );
    assert!(run.specs().iter().any(|spec| spec.name == "search"));
}

#[tokio::test]
async fn wrong_input_and_a_missing_key_cost_nothing() {
    let run = of_run(&tools(&[]), &[]);
    for (input, said) in [
        (json!({}), "Invalid input: query is missing"),
        (json!({"query": null}), "Invalid input: query is missing"),
        (json!({"query": " "}), "Invalid input: query cannot be empty"),
        (json!({"query": 7}), "Invalid input: query must be text"),
        (
            json!({"query": "x", "max_results": 0}),
            "Invalid input: max_results must be 1 to 20",
        ),
        (
            json!({"query": "x", "search_depth": "deep"}),
            "Invalid input: search_depth must be one of basic, advanced",
        ),
        (
            json!({"query": "x".repeat(401)}),
            "Invalid input: query must have at most 400 characters",
        ),
        (
            json!({"query": "x"}),
            "search is not configured: set TAVILY_API_KEY, SERPER_API_KEY or BRAVE_API_KEY",
        ),
    ] {
        let result = told(&run, "search", &input).await;
        assert_eq!((error(&result), result.credits_used), (said, 0.0), "{input}");
    }
    assert!(run.specs().iter().all(|spec| spec.name != "search"));
}

#[tokio::test]
async fn a_vendors_refusal_is_told_without_the_key() {
    let vendors = Vendors::start().await;
    let url = vendors.url("tavily");
    let run = of_run(
        &tools(&[("tavily-api-key", "tvly-wrong"), ("tavily-api-url", &url)]),
        &[],
    );
    let refused = told(&run, "search", &json!({"query": "x"})).await;
    assert_eq!(
        error(&refused),
        "tavily answered 401: Unauthorized: missing or invalid API key."
    );
    vendors.instead(Instead::Answer {
        status: 429,
        headers: vec![("retry-after", "17".to_owned())],
        body: r#"{"detail":{"error":"Too many\nrequests"}}"#.to_owned(),
    });
    let limited = told(&run, "search", &json!({"query": "x"})).await;
    assert_eq!(
        error(&limited),
        "tavily answered 429: Too many requests (try again in 17 s)"
    );
    for body in ["not json", "[]", "{}", r#"{"results":7}"#] {
        vendors.instead(Instead::Answer {
            status: 200,
            headers: vec![],
            body: body.to_owned(),
        });
        let unread = told(&run, "search", &json!({"query": "x"})).await;
        assert_eq!(
            error(&unread),
            "tavily gave an answer that cannot be read",
            "{body}"
        );
        assert!(unread.credits_used.abs() < f64::EPSILON);
    }
}
