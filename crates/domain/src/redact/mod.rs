//! What is taken out of events, metadata, reasons and log lines before they are stored or shown.
//!
//! Three rules, each deterministic: the value under a key that names a secret or a personal detail is replaced whole; inside
//! any other text, bearers, keys, tokens, e-mail addresses and phone numbers are replaced where they stand; and the
//! secrets this process itself knows are replaced in every common encoding. Keys, ids and `null` stay as they are.

mod keys;
mod known;
mod text;

pub use known::{ChunkRedactor, MIN_SECRET_BYTES, is_searchable, url_password};

use crate::event::NewEvent;
use keys::Rule;
use known::Known;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;

/// Stands for a secret.
pub const REDACTED: &str = "[REDACTED]";
/// Stands for an e-mail address.
pub const REDACTED_EMAIL: &str = "[REDACTED_EMAIL]";
/// Stands for a phone number.
pub const REDACTED_PHONE: &str = "[REDACTED_PHONE]";

/// The policy with the secrets and exemptions of one process.
#[derive(Debug, Default)]
pub struct Redactor {
    known: Known,
    /// Normalised keys whose value is only searched, not replaced whole; never those of secrets.
    preserved: HashSet<String>,
}

impl Redactor {
    /// `secrets` that are not [`is_searchable`] are left out: they would hit ordinary words. Keys in `preserved` are
    /// exempt from the rule for personal details.
    pub fn new<'a>(
        secrets: impl IntoIterator<Item = &'a str>,
        preserved: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            known: Known::new(secrets),
            preserved: preserved
                .into_iter()
                .map(keys::normalised)
                .filter(|key| !key.is_empty())
                .collect(),
        }
    }

    /// The text without what must not be in it; borrowed when nothing was.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.known.replace(text) {
            Cow::Borrowed(text) => text::redact(text),
            Cow::Owned(replaced) => Cow::Owned(text::redact(&replaced).into_owned()),
        }
    }

    /// As [`Redactor::text`], in place.
    pub fn string(&self, text: &mut String) {
        if let Cow::Owned(redacted) = self.text(text) {
            *text = redacted;
        }
    }

    /// Applies the policy to a JSON value at every depth. Texts are searched, values of certain keys replaced.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.field(key, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Applies the policy to the value of a key.
    pub fn field(&self, key: &str, value: &mut Value) {
        match self.replacement(key) {
            Some(_) if value.is_null() => {}
            Some(replacement) => *value = Value::String(replacement.to_owned()),
            None => self.value(value),
        }
    }

    /// What stands for any value of this key; nothing when the value is only searched.
    pub fn replacement(&self, key: &str) -> Option<&'static str> {
        match keys::rule(key)? {
            Rule::Secret => Some(REDACTED),
            Rule::Personal(_) if self.preserved.contains(&keys::normalised(key)) => None,
            Rule::Personal(replacement) => Some(replacement),
        }
    }

    /// Applies the policy to an event before it is stored.
    pub fn event(&self, event: &mut NewEvent) {
        self.string(&mut event.message);
        for (key, value) in &mut event.metadata {
            self.field(key, value);
        }
    }

    /// What a text field of a log line is written as, if not as it is.
    pub fn log_field(&self, name: &str, text: &str) -> Option<String> {
        if let Some(replacement) = self.replacement(name) {
            return Some(replacement.to_owned());
        }
        match self.text(text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(redacted) => Some(redacted),
        }
    }

    /// Finds this process's secrets in bytes that come in pieces.
    pub fn chunks(&self) -> ChunkRedactor {
        self.known.chunks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redacted(mut value: Value) -> Value {
        Redactor::default().value(&mut value);
        value
    }

    #[test]
    fn secrets_and_personal_details_go_by_their_keys_at_every_depth() {
        let value = json!({"a": [{"accessToken": "x", "X-Api-Key": 7, "eMail": "x", "phone": {"home": 1}, "zip": "1"}],
            "DB_PASSWORD": ["a"], " Secret ": true, "authorization": null, "total_tokens": 5, "token_count": 6,
            "authorization_mode": "m", "bind_address": "10.128.15.240", "idempotency_key": "k"});
        let expected = json!({"a": [{"accessToken": "[REDACTED]", "X-Api-Key": "[REDACTED]",
            "eMail": "[REDACTED_EMAIL]", "phone": "[REDACTED_PHONE]", "zip": "[REDACTED]"}],
            "DB_PASSWORD": "[REDACTED]", " Secret ": "[REDACTED]", "authorization": null, "total_tokens": 5,
            "token_count": 6, "authorization_mode": "m", "bind_address": "10.128.15.240", "idempotency_key": "k"});
        assert_eq!(redacted(value), expected);
    }

    #[test]
    fn preserved_keys_are_searched_instead_and_secret_keys_cannot_be_preserved() {
        let redactor = Redactor::new([], ["Street", "password", "email"]);
        let mut value =
            json!({"street": "Elm 5, a@b.ch", "password": "x", "eMail": "no address here", "e_mail": "x"});
        redactor.value(&mut value);
        assert_eq!(
            value,
            json!({"street": "Elm 5, [REDACTED_EMAIL]", "password": "[REDACTED]", "eMail": "[REDACTED_EMAIL]",
                "e_mail": "[REDACTED_EMAIL]"})
        );
    }

    #[test]
    fn redacting_twice_changes_nothing_more() {
        let value = json!({"text": "Bearer aaa.bbb.ccc from foo@bar.com, +1 (555) 123-4567", "token": "x"});
        let once = redacted(value);
        assert_eq!(redacted(once.clone()), once);
    }
}
