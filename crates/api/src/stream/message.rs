//! What a message on a run's channel means. Anybody may publish there, so nothing in it is believed: a message that claims
//! a place in the sequence only causes a read of the store, and everything else is shown as transient.

use super::frames::{Form, transient};
use bytes::Bytes;
use domain::clock::wire_time;
use domain::{LogType, RunId};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Longest text shown from a hand-made message, in bytes.
const MAX_TRANSIENT_BYTES: usize = 32 * 1024;

/// The meaning of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Claims an event with this seq: read the store if it is new.
    Stored(i64),
    /// Claims something of the sequence without a usable seq: read the store, show nothing.
    Claim,
    /// Shown once to whoever watches now; `None` where a form does not show it.
    Show(Transient),
}

/// A frame without id in the forms that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transient {
    pub default: Option<Bytes>,
    pub named: Option<Bytes>,
}

impl Transient {
    pub fn bytes(&self, form: Form) -> Option<Bytes> {
        match form {
            Form::Default => self.default.clone(),
            Form::Named => self.named.clone(),
        }
    }
}

/// Reads one message of a run's channel.
pub fn read(run: RunId, text: &str, now: Timestamp) -> Meaning {
    let object: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let Some(object) = object else {
        return Meaning::Show(log(run, LogType::Info, text, Map::new(), now));
    };
    let kind = object.get("type").and_then(Value::as_str);
    match (object.get("seq").filter(|seq| !seq.is_null()), kind) {
        (Some(seq), _) => seq.as_i64().map_or(Meaning::Claim, Meaning::Stored),
        (None, Some("complete")) => Meaning::Claim,
        (None, Some("thinking")) => thinking(&object).map_or(Meaning::Claim, Meaning::Show),
        (None, Some("log")) => Meaning::Show(hand_made_log(run, object, now)),
        (None, _) => Meaning::Show(log(run, LogType::Info, text, Map::new(), now)),
    }
}

fn thinking(object: &Map<String, Value>) -> Option<Transient> {
    Some(thinking_frame(object.get("content")?.as_str()?))
}

/// The `thinking` frame: named streams only.
pub fn thinking_frame(content: &str) -> Transient {
    Transient {
        default: None,
        named: Some(transient(
            Form::Named,
            "thinking",
            &json!({"content": cut(content)}),
        )),
    }
}

fn hand_made_log(run: RunId, mut object: Map<String, Value>, now: Timestamp) -> Transient {
    let named = object.get("log_type").and_then(Value::as_str);
    let log_type = named.and_then(LogType::parse).unwrap_or(LogType::Info);
    // `complete` is the store's word alone.
    let log_type = if log_type == LogType::Complete {
        LogType::Info
    } else {
        log_type
    };
    let metadata = match object.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    let message = match object.remove("message") {
        Some(Value::String(message)) => message,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    log(run, log_type, &message, metadata, now)
}

fn log(
    run: RunId,
    log_type: LogType,
    message: &str,
    mut metadata: Map<String, Value>,
    now: Timestamp,
) -> Transient {
    metadata.insert("transient".to_owned(), Value::Bool(true));
    let data = json!({
        "type": "log",
        "run_id": run,
        "seq": null,
        "log_type": log_type,
        "message": cut(message),
        "metadata": metadata,
        "timestamp": wire_time(now),
    });
    Transient {
        default: Some(transient(Form::Default, "log", &data)),
        named: Some(transient(Form::Named, "log", &data)),
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TRANSIENT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn meaning(text: &str) -> Meaning {
        read(RunId(Uuid::nil()), text, Timestamp::UNIX_EPOCH)
    }

    fn shown(text: &str) -> Value {
        let Meaning::Show(frame) = meaning(text) else {
            panic!("must be shown: {text}")
        };
        let bytes = frame.default.unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        serde_json::from_str(text.strip_prefix("data: ").unwrap().trim_end()).unwrap()
    }

    #[test]
    fn a_claimed_place_in_the_sequence_is_only_a_hint() {
        assert_eq!(
            meaning(r#"{"type":"log","seq":9,"message":"forged"}"#),
            Meaning::Stored(9)
        );
        assert_eq!(meaning(r#"{"type":"complete","seq":9}"#), Meaning::Stored(9));
        assert_eq!(
            meaning(r#"{"type":"complete","status":"completed"}"#),
            Meaning::Claim
        );
        assert_eq!(meaning(r#"{"type":"log","seq":"9"}"#), Meaning::Claim);
        assert_eq!(meaning(r#"{"type":"log","seq":1.5}"#), Meaning::Claim);
    }

    #[test]
    fn plain_text_and_logs_without_seq_are_shown_as_transient() {
        let run = Uuid::nil();
        let expected = json!({"type": "log", "run_id": run, "seq": null, "log_type": "info",
            "message": "test message", "metadata": {"transient": true}, "timestamp": "1970-01-01T00:00:00.000000Z"});
        assert_eq!(shown("test message"), expected);
        assert_eq!(shown(r#"{"type":"log","message":"test message"}"#), expected);
        let warned = shown(
            r#"{"type":"log","seq":null,"log_type":"warning","message":"m","metadata":{"a":1},"run_id":"x"}"#,
        );
        assert_eq!(warned["log_type"], "warning");
        assert_eq!(warned["metadata"], json!({"a": 1, "transient": true}));
        assert_eq!(warned["run_id"], json!(run));
        assert_eq!(
            shown(r#"{"type":"log","log_type":"complete"}"#)["log_type"],
            "info"
        );
        assert_eq!(shown(r#"{"hello":"world"}"#)["message"], r#"{"hello":"world"}"#);
        assert_eq!(shown("42")["message"], "42");
    }

    #[test]
    fn thinking_is_for_named_streams_only() {
        let Meaning::Show(frame) = meaning(r#"{"type":"thinking","content":"hm"}"#) else {
            panic!("must be shown")
        };
        assert_eq!(frame.default, None);
        assert_eq!(
            frame.named.unwrap(),
            "event: thinking\ndata: {\"content\":\"hm\"}\n\n"
        );
    }
}
