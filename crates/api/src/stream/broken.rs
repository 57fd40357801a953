//! Plausible wrong forms of the hand-off, in test builds only: the model must find each of them wrong, which shows
//! that it can fail.

use super::Notice;
use super::frames::Frame;
use super::message::Transient;
use super::tail::Tail;
use bytes::Bytes;
use serde_json::Value;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Broken {
    #[default]
    Nothing,
    /// History is read before the subscription, and messages are shown as they come.
    StoreFirst,
    /// A message is taken for the next event without a look at what is missing before it.
    NoGapCheck,
    /// What the bus loses is not looked for.
    NoReconcile,
    /// Seqs come from a sequence that is not tied to the order of commits, and nobody expects them to be without holes.
    GlobalSerial,
    /// A viewer that has read all history raises the shared head past the ring.
    HeadBump,
}

impl Broken {
    /// Handles a notice in the wrong form; `false`: the right one goes on with it.
    pub(super) fn takes(self, tail: &Tail, notice: &Notice) -> bool {
        match (self, notice) {
            (Self::StoreFirst | Self::NoReconcile, Notice::Lost) => true,
            (Self::StoreFirst, Notice::Message(text)) => {
                let (_, bytes) = payload(text);
                tail.show(Transient {
                    default: Some(bytes.clone()),
                    named: Some(bytes),
                });
                true
            }
            (Self::NoGapCheck, Notice::Message(text)) => {
                let (seq, bytes) = payload(text);
                let last = text.contains("\"type\":\"complete\"");
                tail.append_unchecked(Frame::raw(seq, last, bytes));
                true
            }
            _ => false,
        }
    }
}

fn payload(text: &str) -> (i64, Bytes) {
    let seq = serde_json::from_str::<Value>(text).unwrap()["seq"]
        .as_i64()
        .unwrap();
    (seq, Bytes::from(format!("id: {seq}\ndata: {text}\n\n")))
}
