//! What the event streams carry, event by event. Payloads are JSON inside `data:`, which only `contentSchema` can say.

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// An event of the default form; its schema is made by [`schemas`].
#[derive(Debug)]
pub struct DefaultStreamEvent;

/// An event of the named form; its schema is made by [`schemas`].
#[derive(Debug)]
pub struct NamedStreamEvent;

impl PartialSchema for DefaultStreamEvent {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().into()
    }
}

impl ToSchema for DefaultStreamEvent {}

impl PartialSchema for NamedStreamEvent {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().into()
    }
}

impl ToSchema for NamedStreamEvent {}

/// The schemas of the events and of their payloads.
pub fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| {
        schemas.insert(name.to_owned(), schema);
    };
    add("DefaultStreamEvent", default_event());
    add("NamedStreamEvent", named_event());
    for (name, schema) in payloads() {
        add(name, schema);
    }
    schemas
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn data(payload: &Value) -> Value {
    json!({"type": "string", "contentMediaType": "application/json", "contentSchema": payload})
}

fn id() -> Value {
    json!({"type": "string", "pattern": "^[0-9]+$", "description": "Seq; transient events have none"})
}

fn default_event() -> Value {
    let payloads: Vec<Value> = [
        "ConnectedData",
        "LogData",
        "CompleteData",
        "DisconnectedData",
        "InterruptedData",
    ]
    .into_iter()
    .map(reference)
    .collect();
    json!({
        "type": "object",
        "description": "An event of the default form: `data:` only, stored events with `id:`. The stream ends after `complete`.",
        "properties": {"id": id(), "data": data(&json!({"oneOf": payloads}))},
        "required": ["data"],
    })
}

/// `event:` names of the named form and their payloads.
const NAMED: [(&str, &str); 13] = [
    ("connected", "ConnectedData"),
    ("status", "StatusData"),
    ("tool_call", "ToolCallData"),
    ("tool_result", "ToolResultData"),
    ("message", "MessageData"),
    ("phase", "PhaseData"),
    ("output", "OutputData"),
    ("log", "LogData"),
    ("complete", "EndData"),
    ("thinking", "ThinkingData"),
    ("heartbeat", "HeartbeatData"),
    ("disconnected", "DisconnectedData"),
    ("error", "InterruptedData"),
];

fn named_event() -> Value {
    let kinds = NAMED.map(|(name, payload)| {
        json!({
            "type": "object",
            "properties": {"event": {"const": name}, "id": id(), "data": data(&reference(payload))},
            "required": ["event", "data"],
        })
    });
    json!({
        "description": "An event of the named form: `event:` and `data:`, stored events with `id:`. The stream ends after `complete`.",
        "oneOf": kinds,
    })
}

fn text() -> Value {
    json!({"type": "string"})
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// An object with all of these members.
fn object(members: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> = members
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": names})
}

/// An object that also says its `type`.
fn typed(kind: &str, members: &[(&str, Value)]) -> Value {
    let mut all = vec![("type", json!({"const": kind})), ("run_id", reference("Id"))];
    all.extend(members.iter().cloned());
    object(&all)
}

fn payloads() -> Vec<(&'static str, Value)> {
    vec![
        (
            "ConnectedData",
            typed("connected", &[("timestamp", reference("Time"))]),
        ),
        ("LogData", log()),
        (
            "CompleteData",
            typed(
                "complete",
                &[
                    ("seq", json!({"type": "integer"})),
                    ("status", reference("RunStatus")),
                    ("message", text()),
                    ("timestamp", reference("Time")),
                ],
            ),
        ),
        ("DisconnectedData", typed("disconnected", &[])),
        ("InterruptedData", typed("error", &[("message", text())])),
        (
            "StatusData",
            object(&[
                ("status", reference("RunStatus")),
                ("current_phase", json!({})),
                ("total_phases", json!({})),
            ]),
        ),
        (
            "ToolCallData",
            object(&[
                ("step_id", json!({})),
                ("tool_name", json!({})),
                ("tool_input", json!({})),
                ("status", text()),
            ]),
        ),
        ("ToolResultData", tool_result()),
        (
            "MessageData",
            object(&[
                ("message_id", json!({})),
                ("role", json!({})),
                ("content", json!({})),
            ]),
        ),
        ("PhaseData", phase()),
        ("OutputData", output()),
        (
            "EndData",
            object(&[("status", reference("RunStatus")), ("message", text())]),
        ),
        ("ThinkingData", object(&[("content", text())])),
        ("HeartbeatData", object(&[("timestamp", reference("Time"))])),
    ]
}

/// Stored logs have seq and id; lines made by hand on the channel have neither.
fn log() -> Value {
    let mut schema = typed(
        "log",
        &[
            ("seq", nullable("integer")),
            ("log_type", reference("LogType")),
            ("message", text()),
            ("metadata", json!({"type": "object"})),
            ("timestamp", reference("Time")),
        ],
    );
    schema["properties"]["id"] = reference("Id");
    schema
}

fn tool_result() -> Value {
    object(&[
        ("step_id", json!({})),
        ("tool_name", json!({})),
        ("success", json!({"type": "boolean"})),
        ("output", json!({})),
        ("error", nullable("string")),
        ("duration_ms", nullable("integer")),
    ])
}

fn phase() -> Value {
    let members = [
        "from_phase",
        "to_phase",
        "current_phase",
        "total_phases",
        "percentage",
    ];
    object(&members.map(|name| (name, nullable("number"))))
}

fn output() -> Value {
    let members = ["id", "type", "file_name", "url", "mime_type"];
    object(&members.map(|name| (name, nullable("string"))))
}
