//! Reading objects: names, owners, and the selectors of lists and watches.

use serde_json::Value;
use std::hash::{BuildHasher, RandomState};

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(super) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

pub(super) fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object.pointer("/metadata/ownerReferences");
    let owners = owners.and_then(Value::as_array).into_iter().flatten();
    owners.map(|owner| text(owner, "/uid"))
}

pub(super) fn phase(pod: &Value) -> &str {
    text(pod, "/status/phase")
}

/// No container of it runs any more.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// A condition's status, `""` where there is none.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut all = conditions.into_iter().flatten();
    let found = all.find(|condition| text(condition, "/type") == kind);
    found
        .map(|condition| text(condition, "/status"))
        .unwrap_or_default()
}

/// 128 bits nobody has had before.
fn fresh() -> u128 {
    let half = || u128::from(RandomState::new().hash_one(0));
    half() << 64 | half()
}

pub(super) fn new_uid() -> String {
    let hex = format!("{:032x}", fresh());
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// Five characters of the alphabet that generated names have.
pub(super) fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut number = fresh();
    let mut next = || {
        let letter = ALPHABET[(number % ALPHABET.len() as u128) as usize];
        number /= ALPHABET.len() as u128;
        char::from(letter)
    };
    (0..5).map(|_| next()).collect()
}

/// The selectors of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

/// One condition on a key.
#[derive(Debug, Clone)]
struct Term {
    key: String,
    wanted: Wanted,
}

#[derive(Debug, Clone)]
enum Wanted {
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Present,
    Absent,
}

impl Selector {
    pub(super) fn parse(labels: &str, fields: &str) -> Self {
        Self {
            labels: terms(labels),
            fields: terms(fields),
        }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            let labels = object.pointer("/metadata/labels")?;
            Some(labels.get(key)?.as_str()?.to_owned())
        };
        let field = |key: &str| Some(text(object, &format!("/{}", key.replace('.', "/"))).to_owned());
        self.labels.iter().all(|term| term.wanted.holds(label(&term.key)))
            && self.fields.iter().all(|term| term.wanted.holds(field(&term.key)))
    }
}

impl Wanted {
    fn holds(&self, value: Option<String>) -> bool {
        match (self, value) {
            (Self::OneOf(all), Some(value)) => all.contains(&value),
            (Self::NoneOf(all), Some(value)) => !all.contains(&value),
            (Self::Present, value) => value.is_some(),
            (Self::Absent, value) => value.is_none(),
            (Self::OneOf(_), None) => false,
            (Self::NoneOf(_), None) => true,
        }
    }
}

/// Splits at commas outside brackets.
fn terms(selector: &str) -> Vec<Term> {
    let mut depth = 0_u32;
    let split = selector.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    split
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(term)
        .collect()
}

fn term(text: &str) -> Term {
    let list = |inner: &str| {
        let inner = inner.trim().trim_start_matches('(').trim_end_matches(')');
        inner.split(',').map(|value| value.trim().to_owned()).collect()
    };
    let (key, wanted) = if let Some((key, inner)) = text.split_once(" notin ") {
        (key, Wanted::NoneOf(list(inner)))
    } else if let Some((key, inner)) = text.split_once(" in ") {
        (key, Wanted::OneOf(list(inner)))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Wanted::NoneOf(vec![value.to_owned()]))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Wanted::OneOf(vec![value.trim_start_matches('=').to_owned()]))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Wanted::Absent)
    } else {
        (text, Wanted::Present)
    };
    Term {
        key: key.trim().to_owned(),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::{Selector, new_uid, suffix};
    use serde_json::json;

    #[test]
    fn selectors_hold_as_kubernetes_says() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "x", "tier": "1"}}});
        let holds = |labels: &str, fields: &str| Selector::parse(labels, fields).matches(&object);
        for yes in [
            "",
            "app=x",
            "app==x,tier=1",
            "app in (x, y)",
            "app notin (y)",
            "!none",
            "app",
            "none!=1",
        ] {
            assert!(holds(yes, ""), "{yes}");
        }
        for no in ["app=y", "app!=x", "app in (y,z)", "!app", "none", "none=1"] {
            assert!(!holds(no, ""), "{no}");
        }
        assert!(holds("", "metadata.name=a"));
        assert!(!holds("", "metadata.name=b"));
    }

    #[test]
    fn ids_have_the_usual_form() {
        assert_eq!(new_uid().len(), 36);
        assert_ne!(new_uid(), new_uid());
        assert_eq!(suffix().len(), 5);
    }
}
