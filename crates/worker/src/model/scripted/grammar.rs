//! The instructions read in a plain prompt.
//!
//! ```text
//! prompt      = clause { separator clause }        separator = "and" | "then" | "," | ";" | line or sentence end
//! clause      = { filler } instruction { any }     others are passed over
//! instruction = "list" files
//!             | ("create" | "write") FILE [("with" | "containing") TEXT]
//!             | "read" FILE | "run" `COMMAND` | "python" `CODE` | "ask" QUESTION | "wait" N "seconds"
//! ```
//!
//! Any case; articles and the like are tolerated. A TEXT or QUESTION in quotes is taken as it stands; without quotes it
//! goes on to the next separator that an instruction follows, so `with salt and pepper and read a.txt` is
//! the text `salt and pepper` and a second instruction.

use super::words::{boundary, code_span, file_name, quoted, skip_fillers, skip_words, word};

/// One instruction; each becomes a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Instruction {
    ListFiles,
    Write { file: String, text: String },
    Read { file: String },
    Run { command: String },
    Python { code: String },
    Ask { question: String },
    Wait { ms: u64 },
}

/// The longest wait understood (seconds).
const MAX_WAIT_SECONDS: f64 = 86_400.0;

/// Clauses that are no instruction are repeated up to this length (characters) and number.
const MAX_PASSED_OVER: (usize, usize) = (60, 10);

/// What is read in a prompt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Understood {
    /// In order; may be empty.
    pub(super) instructions: Vec<Instruction>,
    /// The first clauses that hold no instruction.
    pub(super) passed_over: Vec<String>,
}

/// The instructions of a prompt, and what was passed over.
pub(super) fn parse(prompt: &str) -> Understood {
    let mut found = Understood::default();
    let mut rest = skip_fillers(prompt);
    while !rest.is_empty() {
        if let Some((head, after)) = head(rest) {
            let (instruction, after) = complete(head, after);
            found.instructions.push(instruction);
            let taken = &rest[..rest.len() - after.len()];
            rest = after;
            // The sign that ends the sentence may stand at the last word.
            if taken.ends_with(['.', '!', '?']) && after.starts_with(char::is_whitespace) {
                rest = skip_fillers(after);
                continue;
            }
        } else {
            let clause = boundary(rest).map_or(rest, |(end, _)| &rest[..end]);
            found.pass_over(clause);
        }
        rest = match boundary(rest) {
            Some((_, after)) => skip_fillers(after),
            None => "",
        };
    }
    found
}

impl Understood {
    fn pass_over(&mut self, clause: &str) {
        let (characters, number) = MAX_PASSED_OVER;
        let clause = clause.trim().trim_end_matches(['.', '!', '?', ':']).trim_end();
        if !clause.is_empty() && self.passed_over.len() < number {
            self.passed_over.push(clause.chars().take(characters).collect());
        }
    }
}

/// The part of an instruction that is recognised without looking for its end.
enum Head {
    Whole(Instruction),
    Write(String),
    Ask,
}

fn head(text: &str) -> Option<(Head, &str)> {
    let (verb, rest) = word(text);
    match verb.to_lowercase().as_str() {
        "list" => list(rest),
        "create" | "write" => file_name(rest).map(|(file, rest)| (Head::Write(file), rest)),
        "read" => file_name(rest).map(|(file, rest)| (Head::Whole(Instruction::Read { file }), rest)),
        "run" => run(rest),
        "python" => python(rest),
        "ask" => {
            let rest = skip_words(rest, &["me"]);
            let (first, after) = word(rest);
            let (second, after) = word(after);
            let user = first.eq_ignore_ascii_case("the") && second.eq_ignore_ascii_case("user");
            let rest = if user { after } else { rest };
            (!trimmed(rest).is_empty()).then_some((Head::Ask, rest))
        }
        "wait" => wait(rest),
        _ => None,
    }
}

fn list(rest: &str) -> Option<(Head, &str)> {
    const FILLERS: [&str; 12] = [
        "the",
        "all",
        "my",
        "of",
        "any",
        "every",
        "me",
        "a",
        "workspace",
        "existing",
        "current",
        "available",
    ];
    let (noun, rest) = word(skip_words(rest, &FILLERS));
    ["file", "files"]
        .contains(&noun.to_lowercase().as_str())
        .then_some((Head::Whole(Instruction::ListFiles), rest))
}

fn run(rest: &str) -> Option<(Head, &str)> {
    const FILLERS: [&str; 7] = ["the", "this", "a", "following", "shell", "command", "commands"];
    let rest = skip_words(rest, &FILLERS);
    if let (python_word, after) = word(rest)
        && python_word.eq_ignore_ascii_case("python")
    {
        return python(after);
    }
    let (command, rest) = code_span(rest)?;
    Some((Head::Whole(Instruction::Run { command }), rest))
}

fn python(rest: &str) -> Option<(Head, &str)> {
    let rest = skip_words(rest, &["the", "this", "following", "code", "script"]);
    let (code, rest) = code_span(rest)?;
    Some((Head::Whole(Instruction::Python { code }), rest))
}

/// `wait N seconds`, also `wait for 0.5 s` and `wait 2s`.
fn wait(rest: &str) -> Option<(Head, &str)> {
    let (amount, rest) = word(skip_words(rest, &["for"]));
    let number = amount.trim_end_matches(|c: char| c.is_alphabetic());
    let (unit, rest) = if number.len() < amount.len() {
        (&amount[number.len()..], rest)
    } else {
        word(rest)
    };
    let known = ["s", "sec", "secs", "second", "seconds"];
    let seconds: f64 = number.parse().ok()?;
    let valid = known.contains(&unit.to_lowercase().as_str()) && (0.0..=MAX_WAIT_SECONDS).contains(&seconds);
    let ms = (seconds * 1000.0).round() as u64;
    valid.then_some((Head::Whole(Instruction::Wait { ms }), rest))
}

/// Takes the TEXT or QUESTION that belongs to the head.
fn complete(head: Head, rest: &str) -> (Instruction, &str) {
    match head {
        Head::Whole(instruction) => (instruction, rest),
        Head::Write(file) => {
            let (text, rest) = match content(rest) {
                Some(after) => free_text(after),
                None => (String::new(), rest),
            };
            (Instruction::Write { file, text }, rest)
        }
        Head::Ask => {
            let (question, rest) = free_text(rest);
            (Instruction::Ask { question }, rest)
        }
    }
}

/// What follows `with` or `containing` after a file's name, without a leading `the content`.
fn content(rest: &str) -> Option<&str> {
    let (joint, after) = word(skip_words(rest, &["file", "that", "in", "the", "workspace"]));
    if !["with", "containing"].contains(&joint.to_lowercase().as_str()) {
        return None;
    }
    let (noun, tail) = word(skip_words(after, &["the"]));
    let named = ["content", "contents", "text"].contains(&noun.to_lowercase().as_str());
    if named && !trimmed(tail).is_empty() {
        return Some(tail);
    }
    Some(after)
}

/// A quoted text, or all up to the next instruction.
fn free_text(rest: &str) -> (String, &str) {
    let rest = rest.trim_start().trim_start_matches(':').trim_start();
    if let Some((text, after)) = quoted(rest) {
        return (text.to_owned(), after);
    }
    let mut searched = 0;
    while let Some((start, after)) = boundary(&rest[searched..]) {
        if head(skip_fillers(after)).is_some() {
            let end = searched + start;
            // What ends a sentence belongs to it.
            let sign = usize::from(rest[end..].starts_with(['.', '!', '?']));
            return (trimmed(&rest[..end + sign]).to_owned(), &rest[end..]);
        }
        searched = rest.len() - after.len();
    }
    (trimmed(rest).to_owned(), "")
}

fn trimmed(text: &str) -> &str {
    text.trim().trim_end_matches([',', ';']).trim_end()
}

#[cfg(test)]
mod tests;
