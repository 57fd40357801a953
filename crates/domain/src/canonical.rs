//! Canonical JSON and the hashes made of it.
//!
//! Canonical: compact, object keys sorted by code point at every depth; in text only the quotation mark, the
//! backslash and characters below U+0020 are escaped; integers without exponent, other numbers in their
//! shortest form with a fraction or an exponent.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The canonical text of a JSON value.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}

/// `sha256:` and the lower-case hex SHA-256 of the text.
pub fn sha256_hex(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text.as_bytes())))
}

/// Lower-case hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hash of one payload.
pub fn payload_hash(payload: &Value) -> String {
    sha256_hex(&canonical(payload))
}

/// Link of the hash chain: over `[run_id, seq, event_type, payload_hash, previous or "root"]`.
pub fn event_hash(
    run_id: &str,
    seq: i64,
    event_type: &str,
    payload: &Value,
    previous: Option<&str>,
) -> String {
    let link = serde_json::json!([
        run_id,
        seq,
        event_type,
        payload_hash(payload),
        previous.unwrap_or("root")
    ]);
    sha256_hex(&canonical(&link))
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            write_list(keys.into_iter(), ('{', '}'), out, |key, out| {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_value(&map[key], out);
            });
        }
        Value::Array(items) => write_list(items.iter(), ('[', ']'), out, write_value),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_list<T>(
    items: impl Iterator<Item = T>,
    brackets: (char, char),
    out: &mut String,
    write: impl Fn(T, &mut String),
) {
    out.push(brackets.0);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(brackets.1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth_and_text_is_escaped_little() {
        let value = json!({"b": [{"z": 1, "a": 2}], "a": "é\u{1}\"\\/", "c": 1.5});
        assert_eq!(
            canonical(&value),
            r#"{"a":"é\u0001\"\\/","b":[{"a":2,"z":1}],"c":1.5}"#
        );
    }

    #[test]
    fn numbers_stay_as_they_were_sent() {
        for text in [
            "90.42225290942383",
            "0.30000000000000004",
            "31.245270191439438",
            "1.0",
            "1e+300",
            "-0.0",
            "18446744073709551615",
            "-9223372036854775808",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(canonical(&value), text, "read and written");
        }
    }

    #[test]
    fn the_published_payload_hash_and_chain_heads_come_out() {
        let started = json!({"source": "runtime"});
        assert_eq!(
            payload_hash(&started),
            "sha256:cf40aa17d3f50914072dc3aff5d5303a7e58348da8e2b98f7b109f45fe564a6e"
        );
        let run = "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0";
        let first = event_hash(run, 1, "run.started", &started, None);
        let head = event_hash(
            run,
            2,
            "run.finished",
            &json!({"status": "succeeded"}),
            Some(&first),
        );
        assert_eq!(
            head,
            "sha256:a780f70132394e4e60a9678c51183df4acc40d403295550dafa32b73bbf98708"
        );
    }
}
