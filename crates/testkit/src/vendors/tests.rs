//! The stand-ins refuse what their vendors would.

use super::*;
use reqwest::{Client, RequestBuilder};

/// Sends it and gives the status and the newest complaint.
async fn sent(vendors: &Vendors, request: RequestBuilder) -> (u16, String) {
    let before = vendors.complaints().len();
    let status = request.send().await.unwrap().status().as_u16();
    (status, vendors.complaints().split_off(before).join("; "))
}

#[tokio::test]
async fn what_a_vendor_would_refuse_is_refused_and_complained_of() {
    let vendors = Vendors::start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let post = |url: String, key: &str, body: Value| client.post(url).bearer_auth(key).json(&body);
    let get = |url: String| client.get(url);
    let tavily = format!("{}/search", vendors.url("tavily"));
    let serper = format!("{}/search", vendors.url("serper"));
    let brave = format!("{}/res/v1/web/search", vendors.url("brave"));
    let searxng = format!("{}/search", vendors.url("searxng"));
    let slack = format!("{}/chat.postMessage", vendors.url("slack"));
    let repo = format!("{}/repos/o/r", vendors.url("github"));
    let github = |request: RequestBuilder| {
        let named = request.header("user-agent", "x").bearer_auth(GITHUB_KEY);
        named.header("accept", "application/vnd.github+json")
    };
    for (request, status, said) in [
        (
            post(tavily.clone(), "no", json!({"query": "x"})),
            401,
            "no bearer key",
        ),
        (
            post(tavily.clone(), TAVILY_KEY, json!({"q": "x"})),
            400,
            "query is missing",
        ),
        (
            post(tavily.clone(), TAVILY_KEY, json!({"query": "x", "max": 1})),
            400,
            "unknown member max",
        ),
        (
            post(tavily, TAVILY_KEY, json!({"query": "x", "max_results": "5"})),
            400,
            "max_results is not",
        ),
        (post(serper, SERPER_KEY, json!({"q": "x"})), 403, "no key"),
        (get(format!("{brave}?q=x")), 422, "no token"),
        (
            get(brave.replace("web", "all")).header("x-subscription-token", BRAVE_KEY),
            404,
            "unknown endpoint",
        ),
        (get(format!("{searxng}?q=x")), 403, "only JSON"),
        (get(repo.clone()).bearer_auth(GITHUB_KEY), 403, "no User-Agent"),
        (github(get(repo)), 400, "X-GitHub-Api-Version"),
        (
            post(slack, SLACK_KEY, json!({"channel": "C1", "text": "x"})),
            200,
            "Content-Type",
        ),
    ] {
        let (got, complaint) = sent(&vendors, request).await;
        assert!(
            got == status && complaint.contains(said),
            "{said}: {got} {complaint}"
        );
    }
    assert!(vendors.made().is_empty());
}

#[tokio::test]
async fn a_query_that_does_not_fit_the_schema_is_refused() {
    let vendors = Vendors::start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/graphql", vendors.url("linear"));
    for (query, variables, said) in [
        (
            "query { teams { nodes { id size } } }",
            json!({}),
            "Team has no field size",
        ),
        ("query { teams { nodes } }", json!({}), "nodes needs fields"),
        ("query { viewer { id } ", json!({}), "ends too early"),
        (
            "query { issue(key: 1) { id } }",
            json!({}),
            "issue has no argument key",
        ),
        (
            "query Q($id: Int!) { issue(id: $id) { id } }",
            json!({"id": 1}),
            "id of issue is Int! instead of String!",
        ),
        (
            "query Q($id: String!) { issue(id: $id) { id } }",
            json!({}),
            "variable id is not String!",
        ),
        ("query { viewer { id } }", json!({"x": 1}), "unknown variable x"),
        (
            "subscription { viewer { id } }",
            json!({}),
            "unexpected subscription",
        ),
        ("query { issues(first: 5) { nodes { id } } }", json!({}), ""),
    ] {
        let body = json!({"query": query, "variables": variables});
        let request = client.post(&url).header("authorization", LINEAR_KEY).json(&body);
        let (status, complaint) = sent(&vendors, request).await;
        assert!(complaint.contains(said), "{query}: {complaint}");
        assert_eq!(status == 200, said.is_empty(), "{query}: {complaint}");
    }
}
