//! Two users and every route of the API's own description: a run of somebody else is an unknown run, whatever is asked.

use crate::harness::{Api, SECRET, read, run_of};
use domain::RunId;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::jwt;

const OWNER: &str = "jane";
const OTHER: &str = "john";

/// Routes that name no run. A new route is either about a run, and then tried below, or here.
const NAMES_NO_RUN: [&str; 10] = [
    "GET /debug/worker-status",
    "GET /docs",
    "GET /docs/{asset}",
    "GET /health",
    "GET /healthz",
    "GET /metrics",
    "GET /openapi.json",
    "GET /ready",
    "GET /readyz",
    "GET /redoc",
];

/// Actions that name a run, with what they need besides.
const ACTIONS: [&str; 7] = ["start", "stop", "cancel", "pause", "resume", "retry", "status"];

/// One way to ask for a run: method, path with `{run_id}`, body with a `run_id` to be filled in.
#[derive(Debug, Clone)]
struct Ask {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Ask {
    fn request(&self, api: &Api, run: &str) -> RequestBuilder {
        let path = self.path.replace("{run_id}", run);
        let request = api
            .client
            .request(self.method.clone(), format!("{}{path}", api.base));
        match &self.body {
            Some(body) => {
                let mut body = body.clone();
                body["run_id"] = json!(run);
                request.body(body.to_string())
            }
            None => request,
        }
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(path) => document
            .pointer(path.trim_start_matches('#'))
            .expect("a reference that resolves"),
        None => value,
    }
}

/// Every way the description knows to ask for a run, and the operations that name none.
fn asks(document: &Value) -> (Vec<Ask>, Vec<String>) {
    let (mut asks, mut others) = (vec![], vec![]);
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let body = resolve(
                document,
                &operation["requestBody"]["content"]["application/json"]["schema"],
            );
            let in_query = operation["parameters"].as_array().is_some_and(|all| {
                all.iter().any(|one| {
                    resolve(document, one)["name"] == "run_id" && resolve(document, one)["in"] == "query"
                })
            });
            let mut url = path
                .replace("{step_id}", "1")
                .replace("{interrupt_id}", "00000000-0000-4000-8000-000000000000")
                .replace("{path}", "a/b")
                .replace("{artifact_id}", "1");
            if in_query {
                url.push_str("?run_id={run_id}");
            } else if url.ends_with("/thinking") {
                url.push_str("?content=hm");
            }
            let ask = |body| Ask {
                method: method.clone(),
                path: url.clone(),
                body,
            };
            if path == "/agent/execute" {
                asks.extend(ACTIONS.map(|action| ask(Some(json!({"action": action})))));
            } else if !body["properties"]["run_id"].is_null() {
                asks.push(ask(Some(json!({"include_steps": true, "include_logs": true}))));
            } else if path.ends_with("/effects/{step_id}") {
                asks.push(ask(Some(json!({"decision": "done"}))));
            } else if path.ends_with("/budget") && method == Method::POST {
                asks.push(ask(Some(json!({"budget": {"steps": 1000}}))));
            } else if path.ends_with("/interrupts/{interrupt_id}") {
                asks.push(ask(Some(json!({"decision": "approve"}))));
            } else if url.contains("{run_id}") {
                asks.push(ask(None));
            } else {
                others.push(format!("{method} {path}"));
            }
        }
    }
    (asks, others)
}

async fn runs_of_the_owner(api: &Api) -> Vec<RunId> {
    let created = api.create(OWNER).await;
    let queued = api.created_and_started(OWNER).await;
    let stopped = api.create(OWNER).await;
    api.act(OWNER, "stop", stopped).await;
    let mut runs = vec![created, queued, stopped];
    for metadata in [json!({"owner_user_id": OWNER}), json!({})] {
        let url = format!("{}/internal/v1/runs", api.internal);
        let token = jwt(SECRET, "platform", json!({"scope": "internal"}));
        let made = api
            .client
            .post(url)
            .bearer_auth(token)
            .json(&json!({"metadata": metadata}));
        let (status, made) = read(made.send().await.expect("answered")).await;
        assert_eq!(status, 201, "{made}");
        runs.push(
            made["run"]["id"]
                .as_str()
                .expect("an id")
                .parse()
                .expect("a UUID"),
        );
    }
    runs
}

/// Status and body, without what differs from request to request.
async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("answered");
    let kind = response.headers()["content-type"]
        .to_str()
        .expect("text")
        .to_owned();
    if kind.starts_with("text/event-stream") {
        return (response.status().as_u16(), json!("a stream"));
    }
    let (status, mut body) = read(response).await;
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    (status, body)
}

async fn traces(api: &Api, runs: &[RunId]) -> Vec<Value> {
    let mut all = vec![];
    for run in &runs[..4] {
        all.push(
            answer(api.get(OWNER, &format!("/agent/run/{run}/events?limit=1000")))
                .await
                .1,
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_tells_a_run_of_somebody_else_from_none() {
    let api = Api::start().await;
    let document: Value = api
        .client
        .get(format!("{}/openapi.json", api.base))
        .send()
        .await
        .expect("answered")
        .json()
        .await
        .expect("JSON");
    let (asks, others) = asks(&document);
    let unknown: Vec<&String> = others
        .iter()
        .filter(|route| !NAMES_NO_RUN.contains(&route.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "routes without a place in this test: {unknown:?}"
    );
    assert!(asks.len() >= 17, "{asks:#?}");

    let runs = runs_of_the_owner(&api).await;
    let before = traces(&api, &runs).await;
    let own = api.create(OTHER).await;
    let admin = jwt(SECRET, OTHER, json!({"role": "admin"}));
    let callers = [Api::token(OTHER), admin];
    let nobody = "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0";
    let mut tried = 0;
    for ask in &asks {
        for caller in &callers {
            let none = answer(ask.request(&api, nobody).bearer_auth(caller)).await;
            assert_eq!(
                (none.0, &none.1["code"]),
                (404, &json!("run_not_found")),
                "{ask:?}: {}",
                none.1
            );
            for run in &runs {
                let foreign = answer(ask.request(&api, &run.to_string()).bearer_auth(caller)).await;
                assert_eq!(foreign, none, "{ask:?} of {run}");
                tried += 1;
            }
        }
        let mine = answer(ask.request(&api, &own.to_string()).bearer_auth(&callers[0])).await;
        assert_ne!(
            mine.1["code"], "run_not_found",
            "{ask:?} finds one's own run: {}",
            mine.1
        );
    }
    assert!(tried >= 170, "{tried}");
    assert_eq!(
        traces(&api, &runs).await,
        before,
        "nothing was written to the owner's runs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_keys_and_tickets_lead_to_ones_own_runs_only() {
    let api = Api::start().await;
    let runs = runs_of_the_owner(&api).await;
    let list = api.done(OTHER, json!({"action": "list", "limit": 100})).await;
    assert_eq!(list["runs"], json!([]));
    let list = api.done(OWNER, json!({"action": "list", "limit": 100})).await;
    assert_eq!(
        list["runs"].as_array().expect("runs").len(),
        4,
        "the run without owner is nobody's: {list}"
    );
    let keyed = |user: &str| {
        let body = json!({"action": "create", "prompt": "hello"});
        api.post(user, "/agent/execute", &body)
            .header("Idempotency-Key", "same")
            .send()
    };
    let (hers, his) = (
        read(keyed(OWNER).await.expect("answered")).await,
        read(keyed(OTHER).await.expect("answered")).await,
    );
    assert_ne!(run_of(&hers.1), run_of(&his.1), "a key is its user's");
    let ticket = read(
        api.post(
            OTHER,
            &format!("/agent/run/{}/ticket", run_of(&his.1)),
            &json!({}),
        )
        .send()
        .await
        .expect("answered"),
    )
    .await
    .1;
    let ticket = ticket["ticket"].as_str().expect("a ticket").to_owned();
    for run in runs {
        let url = api.stream_url(run, &format!("?ticket={ticket}"));
        let (status, refused) = answer(api.client.get(url)).await;
        assert_eq!((status, &refused["code"]), (401, &json!("invalid_ticket")));
    }
}
