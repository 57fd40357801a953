//! The answers still to give, and what was asked.

use std::collections::VecDeque;

use serde_json::Value;

use super::answer::Answer;
use super::transcript;

/// The provider whose form a request had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    OpenAi,
    Anthropic,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub wire: Wire,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
pub(super) struct Script {
    general: VecDeque<Answer>,
    special: Vec<(String, VecDeque<Answer>)>,
    fallback: Option<Answer>,
    pub(super) requests: Vec<Recorded>,
    pub(super) violations: Vec<String>,
    pub(super) violations_read: bool,
    answered: u64,
}

impl Script {
    pub(super) fn push(&mut self, answer: Answer) {
        self.general.push_back(answer);
    }

    pub(super) fn push_for(&mut self, text: &str, answer: Answer) {
        match self.special.iter_mut().find(|(key, _)| key == text) {
            Some((_, queue)) => queue.push_back(answer),
            None => self.special.push((text.to_owned(), VecDeque::from([answer]))),
        }
    }

    pub(super) fn set_fallback(&mut self, answer: Answer) {
        self.fallback = Some(answer);
    }

    pub(super) fn left(&self) -> usize {
        self.general.len() + self.special.iter().map(|(_, queue)| queue.len()).sum::<usize>()
    }

    /// The next answer: of the first special queue whose text is in the body (and only of that one),
    /// else of the general queue, else the fallback.
    fn next(&mut self, body: &str) -> Option<Answer> {
        let special = self
            .special
            .iter_mut()
            .find(|(text, _)| body.contains(text.as_str()));
        let queue = special.map_or(&mut self.general, |(_, queue)| queue);
        queue.pop_front().or_else(|| self.fallback.clone())
    }

    fn violation(&mut self, text: String) {
        self.violations_read = false;
        self.violations.push(text);
    }

    /// Records the request, checks it, and gives the next answer with its number.
    pub(super) fn take(
        &mut self,
        request: Recorded,
        text: &str,
        refused: Option<(u16, &str)>,
    ) -> Result<(Answer, u64), (u16, String)> {
        let faults = match request.wire {
            Wire::OpenAi => transcript::openai(&request.body),
            Wire::Anthropic => transcript::anthropic(&request.body),
        };
        let wire = request.wire;
        self.requests.push(request);
        let which = format!("request {} ({wire:?})", self.requests.len());
        if let Some((status, message)) = refused {
            self.violation(format!("{which}: {message}"));
            return Err((status, message.to_owned()));
        }
        if !faults.is_empty() {
            let faults = faults.join("; ");
            self.violation(format!("{which}: {faults}"));
            return Err((400, faults));
        }
        let Some(answer) = self.next(text) else {
            self.violation(format!("{which}: the script has no answer for it"));
            return Err((400, "the script of the test is over".to_owned()));
        };
        self.answered += 1;
        Ok((answer, self.answered))
    }
}
