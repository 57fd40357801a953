//! Server-sent-event frames as bytes, in both forms. Rendered by hand: the payload is one line of JSON, and
//! nothing a user wrote reaches `id:`, `event:` or a comment.

use bytes::Bytes;
use domain::clock::wire_time;
use domain::wire::{default_text, named_text};
use domain::{Event, LogType, RunId};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Which of the two stream forms a viewer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `data:` only.
    Default,
    /// With `event:` names.
    Named,
}

/// Opening of every stream: reconnect after 2 s.
pub const RETRY: Bytes = Bytes::from_static(b"retry: 2000\n\n");
/// Sent when nothing else was for a while.
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// A stored event, rendered once for all viewers.
#[derive(Debug, Clone)]
pub struct Frame {
    pub seq: i64,
    /// The `complete` frame, after which a stream ends.
    pub last: bool,
    pub created_at: Timestamp,
    default: Bytes,
    named: Bytes,
}

impl Frame {
    pub fn of(event: &Event) -> Self {
        Self {
            seq: event.seq,
            last: is_last(event),
            created_at: event.created_at,
            default: render(event, Form::Default),
            named: render(event, Form::Named),
        }
    }

    /// As a message brought it.
    #[cfg(test)]
    pub(super) const fn raw(seq: i64, last: bool, bytes: Bytes) -> Self {
        Self {
            seq,
            last,
            created_at: Timestamp::UNIX_EPOCH,
            default: bytes,
            named: Bytes::new(),
        }
    }

    pub fn bytes(&self, form: Form) -> Bytes {
        match form {
            Form::Default => self.default.clone(),
            Form::Named => self.named.clone(),
        }
    }

    /// Memory held by both forms.
    pub fn size_bytes(&self) -> usize {
        self.default.len() + self.named.len()
    }
}

pub fn is_last(event: &Event) -> bool {
    event.log_type == LogType::Complete
}

/// A stored event in one form, with its seq as id.
pub fn render(event: &Event, form: Form) -> Bytes {
    let text = match form {
        Form::Default => format!("id: {}\ndata: {}\n\n", event.seq, default_text(event)),
        Form::Named => {
            let (name, data) = named_text(event);
            format!("id: {}\nevent: {name}\ndata: {data}\n\n", event.seq)
        }
    };
    Bytes::from(text)
}

/// A frame without id: never repeated, no place in the sequence. `name` shows in the named form only.
pub fn transient(form: Form, name: &'static str, data: &Value) -> Bytes {
    Bytes::from(match form {
        Form::Default => format!("data: {data}\n\n"),
        Form::Named => format!("event: {name}\ndata: {data}\n\n"),
    })
}

pub fn connected(form: Form, run: RunId, now: Timestamp) -> Bytes {
    let data = json!({"type": "connected", "run_id": run, "timestamp": wire_time(now)});
    transient(form, "connected", &data)
}

/// The process shuts down; `retry_ms` spreads the reconnects.
pub fn disconnected(form: Form, run: RunId, retry_ms: u64) -> Bytes {
    let frame = transient(
        form,
        "disconnected",
        &json!({"type": "disconnected", "run_id": run}),
    );
    with_retry(retry_ms, &frame)
}

/// The store is lost or the stream broke; the client comes back later than usual.
pub fn interrupted(form: Form, run: RunId) -> Bytes {
    let data = json!({"type": "error", "run_id": run, "message": "Stream interrupted"});
    with_retry(5000, &transient(form, "error", &data))
}

fn with_retry(retry_ms: u64, frame: &[u8]) -> Bytes {
    let mut bytes = format!("retry: {retry_ms}\n\n").into_bytes();
    bytes.extend_from_slice(frame);
    Bytes::from(bytes)
}

/// What is sent on silence: a comment, or in the named form a `heartbeat` event.
pub fn beat(form: Form, now: Timestamp) -> Bytes {
    match form {
        Form::Default => KEEP_ALIVE,
        Form::Named => transient(form, "heartbeat", &json!({"timestamp": wire_time(now)})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::NewEvent;
    use uuid::Uuid;

    fn event(new: NewEvent) -> Event {
        Event {
            id: Uuid::nil(),
            run_id: RunId(Uuid::nil()),
            seq: 7,
            log_type: new.log_type,
            message: new.message,
            metadata: new.metadata,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_frame_is_one_data_line_whatever_the_text_holds() {
        let hostile = event(NewEvent::info(
            "50%\r100%\n\nid: 99\nevent: complete\ndata: {}\u{2028}",
        ));
        for form in [Form::Default, Form::Named] {
            let bytes = render(&hostile, form);
            let text = std::str::from_utf8(&bytes).unwrap();
            assert!(!text.contains('\r'));
            let lines: Vec<&str> = text.lines().collect();
            let expected = if form == Form::Named { 4 } else { 3 };
            assert_eq!(lines.len(), expected, "{text}");
            assert_eq!(lines[0], "id: 7");
            assert!(text.ends_with("\n\n"));
        }
    }

    #[test]
    fn only_the_complete_event_is_last() {
        assert!(!Frame::of(&event(NewEvent::info("x"))).last);
        let complete = NewEvent::complete(domain::RunStatus::Failed, Some("why"));
        let frame = Frame::of(&event(complete));
        assert!(frame.last);
        let named = frame.bytes(Form::Named);
        let expected = "id: 7\nevent: complete\ndata: {\"status\":\"failed\",\"message\":\"why\"}\n\n";
        assert_eq!(named, expected.as_bytes());
    }

    #[test]
    fn closing_frames_have_no_id_and_name_the_run() {
        let run = RunId(Uuid::nil());
        let bytes = disconnected(Form::Default, run, 1200);
        let text = std::str::from_utf8(&bytes).unwrap();
        let expected = format!("retry: 1200\n\ndata: {{\"type\":\"disconnected\",\"run_id\":\"{run}\"}}\n\n");
        assert_eq!(text, expected);
        let bytes = interrupted(Form::Named, run);
        assert!(bytes.starts_with(b"retry: 5000\n\nevent: error\n"));
    }
}
