//! The metrics of the surface: families, labels, and that they do not grow with what runs.

use crate::service::{JWT_SECRET, SECRET, Service, claims, read, refusal, signed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testkit::Redis;

/// What must never be a label.
const FORBIDDEN: [&str; 14] = [
    "run_id",
    "thread_id",
    "frame_id",
    "tool_call_id",
    "authorization_id",
    "lease_owner",
    "traceparent",
    "tracestate",
    "x_request_id",
    "seq",
    "cursor",
    "user_id",
    "guest_scope",
    "worker_id",
];

/// The families of this listener with their only labels.
fn families() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        (
            "runtime_http_requests_total",
            BTreeSet::from(["route", "method", "status_class"]),
        ),
        (
            "runtime_http_request_duration_seconds",
            BTreeSet::from(["route", "method"]),
        ),
        (
            "runtime_events_appended_total",
            BTreeSet::from(["event_type", "outcome"]),
        ),
        (
            "runtime_run_finished_total",
            BTreeSet::from(["status", "reason_class"]),
        ),
        (
            "runtime_projection_write_total",
            BTreeSet::from(["projection", "result"]),
        ),
        ("runtime_projection_lag_events", BTreeSet::from(["projection"])),
        (
            "runtime_projection_drift_total",
            BTreeSet::from(["projection", "reason_class"]),
        ),
        ("runtime_projection_replay_total", BTreeSet::from(["result"])),
        ("runtime_publish_total", BTreeSet::from(["result"])),
        ("runtime_stream_session_total", BTreeSet::from(["outcome"])),
        (
            "runtime_stream_emit_total",
            BTreeSet::from(["event_type", "outcome"]),
        ),
        ("runtime_auth_rejections_total", BTreeSet::from(["reason"])),
    ])
}

/// Family and labels of a sample; `le` and `quantile` belong to the form and not to the family.
fn family(sample: &str) -> (&str, BTreeSet<&str>) {
    let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
    let name = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    let names = labels
        .split("=\"")
        .filter_map(|part| part.rsplit(['{', ',', '"']).next());
    let names = names.filter(|name| !matches!(*name, "" | "}" | "le" | "quantile"));
    (name, names.collect())
}

/// Drives one run through everything, with ids and types of its own.
async fn drive(service: &Service, turn: usize) {
    let metadata = json!({"thread_id": format!("t-{turn}"), "owner_user_id": turn});
    let run = service
        .run(&json!({"worker_id": format!("w-{turn}"), "metadata": metadata}))
        .await;
    let path = format!("/runs/{run}/events");
    let finish = json!({"event_type": "run.finished",
        "payload": {"status": "failed", "reason_class": format!("because-{turn}")}});
    for event in [
        json!({"event_type": format!("made.up.{turn}"), "idempotency_key": "k"}),
        json!({"event_type": format!("made.up.{turn}"), "idempotency_key": "k"}),
        json!({"event_type": "tool.call", "expected_previous_seq": 99}),
        json!({"event_type": " "}),
        finish,
    ] {
        read(service.post(&path, &event)).await;
    }
    for path in [
        format!("/runs/{run}"),
        format!("/runs/{run}-x"),
        format!("/made-up-{turn}"),
        format!("/projectors/checkpoints/{run}"),
        format!("/projectors/drift?topic=run:{run}:events"),
    ] {
        read(service.get(&path).header("x-request-id", format!("r-{turn}"))).await;
    }
}

#[tokio::test]
async fn series_do_not_grow_with_runs_and_carry_their_own_labels_only() {
    let service = Service::start(&[]).await;
    drive(&service, 0).await;
    let names =
        |samples: Vec<(String, f64)>| samples.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    // The request for the metrics is itself counted, from its second time on.
    service.samples().await;
    let before = names(service.samples().await);
    for turn in 1..12 {
        drive(&service, turn).await;
    }
    let after = names(service.samples().await);
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.is_empty(), "{grown:?}");
    let known = families();
    let mut seen = BTreeSet::new();
    for sample in &after {
        let (name, labels) = family(sample);
        for label in &labels {
            assert!(!FORBIDDEN.contains(label), "{sample}");
        }
        if name.starts_with("runtime_") {
            assert_eq!(known.get(name), Some(&labels), "{sample}");
            seen.insert(name);
        }
    }
    let unseen: Vec<_> = known.keys().filter(|name| !seen.contains(**name)).collect();
    assert!(
        unseen.is_empty(),
        "every family is there before its first event: {unseen:?}"
    );
}

#[tokio::test]
async fn the_figures_count_what_happened() {
    let service = Service::start(&[]).await;
    for turn in 0..3 {
        drive(&service, turn).await;
    }
    let samples = service.samples().await;
    let value = |name: &str| {
        let found = samples.iter().find(|(own, _)| own == name);
        found.unwrap_or_else(|| panic!("{name} in {samples:#?}")).1
    };
    let total = |name: &str| value(name) as u64;
    let append = "route=\"/internal/v1/runs/{run_id}/events\",method=\"POST\"";
    for (name, expected) in [
        (
            format!("runtime_http_requests_total{{{append},status_class=\"2xx\"}}"),
            9,
        ),
        (
            format!("runtime_http_requests_total{{{append},status_class=\"4xx\"}}"),
            6,
        ),
        (
            "runtime_events_appended_total{event_type=\"run.started\",outcome=\"appended\"}".into(),
            3,
        ),
        (
            "runtime_events_appended_total{event_type=\"other\",outcome=\"appended\"}".into(),
            3,
        ),
        (
            "runtime_events_appended_total{event_type=\"other\",outcome=\"replayed\"}".into(),
            3,
        ),
        (
            "runtime_events_appended_total{event_type=\"tool.call\",outcome=\"conflict\"}".into(),
            3,
        ),
        (
            "runtime_events_appended_total{event_type=\"other\",outcome=\"invalid\"}".into(),
            3,
        ),
        (
            "runtime_run_finished_total{status=\"failed\",reason_class=\"other\"}".into(),
            3,
        ),
        (
            "runtime_projection_write_total{projection=\"checkpoint\",result=\"ok\"}".into(),
            9,
        ),
        (
            "runtime_projection_write_total{projection=\"run_summary\",result=\"ok\"}".into(),
            9,
        ),
        ("runtime_publish_total{result=\"error\"}".into(), 9),
    ] {
        assert_eq!(total(&name), expected, "{name}");
    }
    let unmatched = "runtime_http_requests_total{route=\"unmatched\",method=\"GET\",status_class=\"4xx\"}";
    assert_eq!(total(unmatched), 3);
}

#[tokio::test]
async fn refused_callers_are_counted_by_reason() {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [
        ("JWT_SECRET", JWT_SECRET),
        ("RUNTIME_SIGNATURE_SECRET", SECRET),
        ("REDIS_URL", url.as_str()),
    ];
    let service = Service::start(&settings).await;
    read(service.get("/runs")).await;
    read(service.get("/runs").header("X-OA-RUNTIME-SIGNATURE", "x")).await;
    read(service.get("/runs").bearer_auth("a.b")).await;
    let differs: Value = refusal("forbidden", "claim mismatch for thread_id");
    let mismatch = signed(service.get("/runs?thread_id=t"), &claims(&json!({})));
    assert_eq!(read(mismatch).await, (403, differs));
    let samples = service.samples().await;
    for reason in [
        "missing_signature",
        "invalid_encoding",
        "invalid_token_format",
        "claim_mismatch",
    ] {
        let name = format!("runtime_auth_rejections_total{{reason=\"{reason}\"}}");
        assert!(samples.contains(&(name.clone(), 1.0)), "{name} in {samples:#?}");
    }
}
