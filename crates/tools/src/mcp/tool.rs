//! A tool as its server lists it, and the hash it is pinned by.
//!
//! The pin covers name, description, both schemas and annotations, as the server sent them. It stands for what a person agreed
//! to: a server that describes a tool otherwise than before has another pin.

use super::naming::{clean, clean_all, tool_name};
use agent::ports::ToolSpec;
use domain::canonical::{canonical, sha256_hex};
use domain::{Effect, Labels};
use serde_json::{Value, json};

/// Largest schema of a tool's input, in bytes of JSON.
const LARGEST_SCHEMA: usize = 64 * 1024;

/// A tool of a server.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    /// As the server knows it.
    pub remote: String,
    pub spec: ToolSpec,
    pub pin: String,
    only_reads: bool,
    repeatable: bool,
}

impl Tool {
    /// Nothing when its schema cannot be told to a model.
    pub(super) fn of(server: &str, listed: &rmcp::model::Tool) -> Option<Self> {
        let schema = Value::Object((*listed.input_schema).clone());
        if schema.to_string().len() > LARGEST_SCHEMA {
            return None;
        }
        let description = listed.description.as_deref().unwrap_or_default();
        let hints = listed.annotations.as_ref();
        let annotations = hints.map_or(Value::Null, |hints| json!(hints));
        let output = listed.output_schema.as_ref();
        let pinned = json!({
            "name": listed.name, "description": description, "inputSchema": schema,
            "outputSchema": output.map(|schema| Value::Object((**schema).clone())),
            "annotations": annotations,
        });
        Some(Self {
            remote: listed.name.to_string(),
            spec: ToolSpec {
                name: tool_name(server, &listed.name),
                description: clean(description),
                input_schema: object(clean_all(&schema)),
            },
            pin: sha256_hex(&canonical(&pinned)),
            only_reads: hints.and_then(|hints| hints.read_only_hint) == Some(true),
            repeatable: hints.and_then(|hints| hints.idempotent_hint) == Some(true),
        })
    }

    /// What its server says of it; the operator chose the server.
    pub(super) fn effect(&self) -> Effect {
        match (self.only_reads, self.repeatable) {
            (true, _) => Effect::Pure,
            (false, true) => Effect::Idempotent,
            (false, false) => Effect::AtMostOnce,
        }
    }

    pub(super) fn labels(&self) -> Labels {
        Labels {
            acts_outside: !self.only_reads,
            ..ANYTHING
        }
    }
}

/// Of a tool nobody knows.
pub(super) const ANYTHING: Labels = Labels {
    reads_untrusted: true,
    reads_private: true,
    acts_outside: true,
};

/// Vendors of models refuse a schema without a type.
fn object(mut schema: Value) -> Value {
    if schema.get("type").is_none() {
        schema["type"] = json!("object");
    }
    schema
}

/// One pin for all tools of a server, in whatever order it lists them.
pub(super) fn pin_of(tools: &[Tool]) -> String {
    let mut pins: Vec<&str> = tools.iter().map(|tool| tool.pin.as_str()).collect();
    pins.sort_unstable();
    sha256_hex(&pins.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(description: &str, annotations: Value) -> Tool {
        let tool = json!({"name": "do it", "description": description, "inputSchema": {"properties": {}},
            "annotations": annotations});
        Tool::of("srv", &serde_json::from_value(tool).unwrap()).unwrap()
    }

    #[test]
    fn another_description_is_another_pin() {
        let plain = listed("Does it.", json!({}));
        assert_eq!(plain.pin, listed("Does it.", json!({})).pin);
        for other in [
            listed("Does it. ", json!({})),
            listed("Does it.\u{200b}", json!({})),
            listed("Does it.", json!({"readOnlyHint": true})),
        ] {
            assert_ne!(plain.pin, other.pin);
        }
        assert_eq!(plain.spec.name, "mcp__srv__do_it");
        assert_eq!(plain.spec.input_schema["type"], "object");
        assert!(pin_of(&[plain.clone(), plain]).starts_with("sha256:"));
    }

    #[test]
    fn only_a_tool_that_says_it_reads_acts_nowhere() {
        let labels = |annotations| listed("", annotations).labels();
        assert_eq!(labels(json!({})), ANYTHING);
        assert!(!labels(json!({"readOnlyHint": true})).acts_outside);
        assert_eq!(listed("", json!({"readOnlyHint": true})).effect(), Effect::Pure);
        assert_eq!(
            listed("", json!({"idempotentHint": true})).effect(),
            Effect::Idempotent
        );
        assert_eq!(listed("", json!({})).effect(), Effect::AtMostOnce);
    }
}
