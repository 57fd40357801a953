//! A model's reply while it comes: transient frames with what is new of its text.
//!
//! Invariants: the first words of a reply go out at once, the rest at most twenty times a second; what goes out is the
//! redacted text up to the last whole word (all of it once the reply has ended), so that a secret that comes in pieces is known before it is shown.

use super::Shown;
use domain::Redactor;
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Time between two frames of a reply.
const FRAME_EVERY: Duration = Duration::from_millis(50);
/// A reply may begin with this many bytes of a word that is not whole: too little to tell a secret.
const FIRST_BYTES: usize = 6;
/// A word that does not end is shown up to here.
const LONGEST_WORD: usize = 512;
/// Nothing more of a reply for this long: what is left of it is shown.
const QUIET: Duration = Duration::from_millis(250);

/// A piece of a reply.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) turn: u32,
    pub(super) try_number: u32,
    pub(super) text: String,
}

/// What came of one reply, and what of it was shown.
#[derive(Debug, Default)]
struct Reply {
    turn: u32,
    try_number: u32,
    text: String,
    /// The redacted text that went out.
    shown: String,
    /// Bytes of `text` that were looked at.
    seen: usize,
    index: u32,
}

impl Reply {
    fn is_of(&self, said: &Said) -> bool {
        self.turn == said.turn && self.try_number == said.try_number
    }

    /// The part of the text that may go out.
    fn whole(&self, all: bool) -> &str {
        let text = self.text.as_str();
        let end = text.rfind(char::is_whitespace).unwrap_or(0);
        let beginning = self.index == 0 && end == 0 && text.len() <= FIRST_BYTES;
        if all || beginning || text.len() - end > LONGEST_WORD {
            return text;
        }
        text.get(..end).unwrap_or_default()
    }

    /// What is new, redacted together with all before it.
    fn fresh(&mut self, redactor: &Redactor, all: bool) -> Option<String> {
        let whole = self.whole(all);
        let seen = whole.len();
        let redacted = redactor.text(whole).into_owned();
        self.seen = self.seen.max(seen);
        let same = self.shown.bytes().zip(redacted.bytes());
        let same = same.take_while(|(before, now)| before == now).count();
        let from = redacted.floor_char_boundary(same);
        let fresh = redacted.get(from..).filter(|fresh| !fresh.is_empty())?.to_owned();
        self.shown = redacted;
        Some(fresh)
    }
}

impl Shown {
    pub(super) async fn pass_text_on(self, mut said: mpsc::UnboundedReceiver<Said>) {
        let mut reply = Reply::default();
        let mut due = Instant::now();
        loop {
            let next = if reply.seen < reply.text.len() {
                timeout_at(Instant::now() + QUIET, said.recv()).await
            } else {
                Ok(said.recv().await)
            };
            match next {
                Ok(None) => return self.show(&mut reply, true).await,
                Err(_) => self.show(&mut reply, true).await,
                Ok(Some(piece)) => {
                    self.take(&mut reply, piece).await;
                    while Instant::now() < due
                        && let Ok(Some(more)) = timeout_at(due, said.recv()).await
                    {
                        self.take(&mut reply, more).await;
                    }
                    self.show(&mut reply, false).await;
                    due = Instant::now() + FRAME_EVERY;
                }
            }
        }
    }

    async fn take(&self, reply: &mut Reply, piece: Said) {
        if !reply.is_of(&piece) {
            self.show(reply, true).await;
            *reply = Reply {
                turn: piece.turn,
                try_number: piece.try_number,
                ..Reply::default()
            };
        }
        if piece.text.is_empty() {
            self.show(reply, true).await;
        }
        reply.text.push_str(&piece.text);
    }

    async fn show(&self, reply: &mut Reply, all: bool) {
        let Some(fresh) = reply.fresh(&self.redactor, all) else {
            return;
        };
        let mut metadata =
            json!({"transient": true, "event": "token", "turn": reply.turn, "index": reply.index});
        if reply.try_number > 0 {
            metadata["try"] = json!(reply.try_number);
        }
        reply.index += 1;
        self.send(self.line(&fresh, &metadata)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(redactor: &Redactor, pieces: &[&str]) -> Vec<String> {
        let mut reply = Reply::default();
        let mut frames = vec![];
        for piece in pieces {
            reply.text.push_str(piece);
            if let Some(fresh) = reply.fresh(redactor, false) {
                reply.index += 1;
                frames.push(fresh);
            }
        }
        frames.extend(reply.fresh(redactor, true));
        frames
    }

    #[test]
    fn the_first_word_goes_out_at_once_and_the_others_when_they_are_whole() {
        let frames = shown(&Redactor::default(), &["Let", " me", " thi", "nk a", "loud"]);
        assert_eq!(frames.concat(), "Let me think aloud");
        assert_eq!(frames[0], "Let");
        assert!(!frames.iter().any(|frame| frame.ends_with("thi")), "{frames:?}");
    }

    #[test]
    fn a_secret_that_comes_in_pieces_is_not_shown() {
        let redactor = Redactor::new(["tops3cretkey"], []);
        let frames = shown(&redactor, &["the key is top", "s3cr", "etkey", " and", " so on"]);
        let all = frames.concat();
        assert!(!all.contains("s3cret") && all.ends_with("so on"), "{frames:?}");
        assert!(all.starts_with("the key is"));
    }
}
