//! Reading values field by field, with every fault of shape noted at once.
//!
//! Unknown fields are ignored, `null` equals absent, and text that holds U+0000 (which Postgres cannot store) is a
//! fault of its own.

use crate::error::{FieldFault, Problem};
use crate::extract::Query;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// 9999-12-30T00:00:00Z, in seconds.
const NEARLY_NEVER: i64 = 253_402_128_000;

/// The fields of a body or query, and the faults found so far.
#[derive(Debug)]
pub struct Fields {
    values: Map<String, Value>,
    place: &'static str,
    faults: Vec<FieldFault>,
}

impl Fields {
    pub fn of_body(values: Map<String, Value>) -> Self {
        Self {
            values,
            place: "body",
            faults: vec![],
        }
    }

    /// Every value of a query is text; the last of several wins.
    pub fn of_query(query: &Query) -> Self {
        let pairs = query.0.iter().cloned();
        Self {
            values: pairs.map(|(name, value)| (name, Value::String(value))).collect(),
            place: "query",
            faults: vec![],
        }
    }

    /// For faults of headers; holds no value.
    pub fn of_header() -> Self {
        Self {
            values: Map::new(),
            place: "header",
            faults: vec![],
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// No fault so far.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Notes a fault of one field.
    pub fn fault(&mut self, name: &str, kind: &'static str, msg: impl Into<String>) {
        let loc = vec![self.place.to_owned(), name.to_owned()];
        self.faults.push(FieldFault {
            loc,
            msg: msg.into(),
            kind,
        });
    }

    fn sound_text(&mut self, name: &str, value: Value) -> Option<String> {
        match value {
            Value::String(text) if text.contains('\0') => {
                self.fault(name, "value_error", "Text must not contain U+0000");
                None
            }
            Value::String(text) => Some(text),
            _ => {
                self.fault(name, "string_type", "Input should be a valid string");
                None
            }
        }
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        let value = self.take(name)?;
        self.sound_text(name, value)
    }

    /// Absent is a fault; the empty text then stands in until [`Fields::finish`] refuses.
    pub fn required_text(&mut self, name: &str) -> String {
        if let Some(value) = self.take(name) {
            return self.sound_text(name, value).unwrap_or_default();
        }
        self.fault(name, "missing", "Field required");
        String::new()
    }

    /// Any JSON; the text in it must be sound.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        let value = self.take(name)?;
        if value.to_string().contains("\\u0000") {
            self.fault(name, "value_error", "Text must not contain U+0000");
        }
        Some(value)
    }

    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        if !value.is_boolean() {
            self.fault(name, "bool_type", "Input should be a valid boolean");
        }
        value.as_bool()
    }

    /// A whole number within the range.
    pub fn int(&mut self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(name)?;
        let number = match &value {
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) if self.place == "query" => text.trim().parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.fault(name, "int_type", "Input should be a valid integer");
            return None;
        };
        if number < *range.start() {
            let msg = format!("Input should be greater than or equal to {}", range.start());
            self.fault(name, "value_error", msg);
            return None;
        }
        if number > *range.end() {
            let msg = format!("Input should be less than or equal to {}", range.end());
            self.fault(name, "value_error", msg);
            return None;
        }
        Some(number)
    }

    /// A list of text; absent is empty.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        match self.take(name) {
            None => vec![],
            Some(Value::Array(items)) => items
                .into_iter()
                .filter_map(|item| self.sound_text(name, item))
                .collect(),
            Some(_) => {
                self.fault(name, "list_type", "Input should be a valid list");
                vec![]
            }
        }
    }

    /// A time in RFC 3339; without an offset it is UTC.
    pub fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = parse_time(&text);
        if time.is_none() {
            self.fault(name, "value_error", "Input should be a valid datetime");
        }
        time
    }

    /// The refusal that lists every fault, if there was any.
    pub fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Problem::validation(self.faults))
        }
    }
}

fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

fn parse_time(text: &str) -> Option<Timestamp> {
    // A `+` of an offset that was not percent-encoded arrives as a blank.
    let mut text = text.trim().to_owned();
    if let Some(at) = text.rfind(' ')
        && text[..at].contains(['T', 't', ' '])
    {
        text.replace_range(at..=at, "+");
    }
    let civil = || text.parse::<jiff::civil::DateTime>().ok();
    let utc = |time: jiff::civil::DateTime| time.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse()
        .ok()
        .or_else(|| civil().and_then(utc).map(|time| time.timestamp()))
        .or_else(|| far_future(&text))
}

/// The last two days of the year 9999, popular as "never", lie beyond what a [`Timestamp`] can hold.
fn far_future(text: &str) -> Option<Timestamp> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let beyond = pieces.date() >= jiff::civil::date(9999, 12, 30) && pieces.time().is_some();
    beyond
        .then_some(Timestamp::from_second(NEARLY_NEVER).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(value: Value) -> Fields {
        match value {
            Value::Object(map) => Fields::of_body(map),
            _ => panic!("an object is needed"),
        }
    }

    fn kinds(fields: Fields) -> Vec<(String, &'static str)> {
        let faults = fields.finish().err().map(|problem| problem.faults);
        let faults = faults.unwrap_or_default();
        faults
            .into_iter()
            .map(|fault| (fault.loc.join("."), fault.kind))
            .collect()
    }

    #[test]
    fn every_fault_of_shape_is_listed_with_place_and_type() {
        let mut fields =
            body(json!({"a": 1, "b": "x", "c": 1, "d": "x", "e": 12, "f": ["x", 2], "g": "a\u{0}b"}));
        fields.text("a");
        fields.int("b", 0..=9);
        fields.flag("c");
        fields.texts("d");
        fields.int("e", 0..=9);
        fields.texts("f");
        fields.text("g");
        fields.required_text("h");
        let expected = [
            ("body.a", "string_type"),
            ("body.b", "int_type"),
            ("body.c", "bool_type"),
            ("body.d", "list_type"),
            ("body.e", "value_error"),
            ("body.f", "string_type"),
            ("body.g", "value_error"),
            ("body.h", "missing"),
        ];
        let expected: Vec<(String, &str)> = expected.iter().map(|(l, k)| ((*l).to_owned(), *k)).collect();
        assert_eq!(kinds(fields), expected);
    }

    #[test]
    fn null_counts_as_absent_and_unknown_fields_are_ignored() {
        let mut fields = body(json!({"a": null, "zzz": {"deep": []}}));
        assert_eq!(fields.text("a"), None);
        assert_eq!(kinds(fields), []);
    }

    #[test]
    fn queries_are_decoded_and_numbers_in_them_are_text() {
        let query = Query::parse("limit=5&since=2026-11-20T17:00:00%2B01:00&name=a+b%21&flag&limit=7");
        assert_eq!(query.all("limit"), ["5", "7"]);
        let mut fields = Fields::of_query(&query);
        assert_eq!(fields.int("limit", 1..=100), Some(7));
        assert_eq!(fields.text("name").as_deref(), Some("a b!"));
        assert_eq!(
            fields.time("since").map(Timestamp::as_second),
            Some(1_795_190_400)
        );
        fields.int("flag", 0..=1);
        assert_eq!(kinds(fields), [("query.flag".to_owned(), "int_type")]);
    }

    #[test]
    fn times_without_offset_are_utc_and_an_unescaped_plus_is_understood() {
        let z = parse_time("2026-11-20T17:00:00.000001Z").unwrap();
        assert_eq!(parse_time("2026-11-20T17:00:00.000001"), Some(z));
        assert_eq!(parse_time("2026-11-20T18:00:00.000001 01:00"), Some(z));
        assert_eq!(parse_time("2026-11-20 17:00:00.000001Z"), Some(z));
        assert_eq!(parse_time("2026-11-20 18:00:00.000001 01:00"), Some(z));
        assert!(parse_time("9999-12-31T23:59:59Z").is_some_and(|never| never > z));
        assert_eq!(parse_time("yesterday"), None);
    }
}
