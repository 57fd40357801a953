//! One trace from a request to the calls it leads to, as a collector sees it.

use crate::support::{LONG, SOON, Setup, message, script, shell};
use serde_json::json;
use std::collections::HashMap;
use testkit::{Collector, Span, eventually_some};

const TRACE_ID: &str = "0123456789abcdef0123456789abcdef";
const CALLER: &str = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01";

/// Names from this span up to the caller's.
fn way_up(spans: &[Span], from: &Span) -> Vec<String> {
    let by_id: HashMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let (mut names, mut at) = (vec![], Some(from));
    while let Some(span) = at {
        names.push(span.name.clone());
        at = by_id.get(span.parent_id.as_str()).copied();
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_over_the_job_to_model_and_tool_calls() {
    let collector = Collector::start().await;
    let system = Setup::workers(1)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    let body = json!({"action": "create", "auto_start": true,
        "prompt": script(&[shell("echo private-words"), message("done")])});
    let request = system
        .client
        .post(format!("{}/agent/execute", system.base))
        .header("traceparent", CALLER);
    let answer = request
        .bearer_auth(&system.token)
        .json(&body)
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    let run = answer["run_id"].as_str().unwrap().to_owned();
    system.wait_status(&run, "completed", LONG).await;

    let of_trace = || async {
        let spans: Vec<Span> = collector
            .spans()
            .into_iter()
            .filter(|span| span.trace_id == TRACE_ID)
            .collect();
        let names = [
            "runtime.ingest",
            "runtime.job",
            "runtime.infer",
            "runtime.tool",
            "runtime.persist",
        ];
        let all = names
            .iter()
            .all(|name| spans.iter().any(|span| span.name == *name));
        all.then_some(spans)
    };
    let spans = eventually_some(SOON, of_trace)
        .await
        .expect("every kind of span arrives");
    the_spans_say_what_was_done(&spans, &run);
    let told = format!("{spans:?}");
    assert!(!told.contains("private-words"), "no text of a run is in a span");
}

fn the_spans_say_what_was_done(spans: &[Span], run: &str) {
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let ingest = named("runtime.ingest");
    assert_eq!(
        (ingest.service.as_str(), ingest.parent_id.as_str()),
        ("agent-api", "00f067aa0ba902b7")
    );
    assert_eq!(ingest.attributes["http.route"], "/agent/execute");
    assert_eq!(ingest.attributes["http.response.status_code"], "200");
    let infer = named("runtime.infer");
    assert_eq!(
        way_up(spans, infer),
        ["runtime.infer", "runtime.job", "runtime.ingest"]
    );
    assert_eq!(infer.service, "agent-worker");
    assert_eq!(infer.attributes["gen_ai.operation.name"], "chat");
    assert!(
        infer.attributes.contains_key("gen_ai.usage.output_tokens"),
        "{infer:?}"
    );
    let tool = spans.iter().find(|span| {
        span.attributes
            .get("gen_ai.tool.name")
            .is_some_and(|name| name == "shell")
    });
    let tool = tool.expect("the shell call has a span");
    assert_eq!(
        way_up(spans, tool),
        ["runtime.tool", "runtime.job", "runtime.ingest"]
    );
    let job = named("runtime.job");
    assert_eq!(job.attributes["run_id"], run);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_callers_context_goes_on_to_the_job_unchanged() {
    let system = Setup::workers(0).start().await;
    let body = json!({"action": "create", "auto_start": true, "prompt": "List files"});
    let request = system
        .client
        .post(format!("{}/agent/execute", system.base))
        .header("traceparent", CALLER);
    let answer = request
        .bearer_auth(&system.token)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success());
    let jobs = system.jobs("pending");
    assert_eq!(jobs[0]["traceparent"], CALLER);
}
