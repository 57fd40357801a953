//! Reading a tool's input into a type, with faults in words that say what to send instead.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads an input.
///
/// # Errors
/// Says which member is wrong, for example `command is missing` or `timeout must be a whole number, 0 or more`.
pub fn typed<T: DeserializeOwned>(input: &Value) -> Result<T, String> {
    let Value::Object(members) = input else {
        return Err("must be an object".to_owned());
    };
    T::deserialize(input).map_err(|fault| in_words::<T>(members, &fault.to_string()))
}

fn in_words<T: DeserializeOwned>(members: &Map<String, Value>, fault: &str) -> String {
    if let Some(name) = fault.strip_prefix("missing field ") {
        return format!("{} is missing", name.replace('`', ""));
    }
    if let Some((name, _)) = fault
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
    {
        return format!("{name} is not known");
    }
    // Each member alone: the one that is refused for another reason than what is missing beside it is the culprit.
    let culprit = members.iter().find_map(|(name, member)| {
        let alone = Value::Object(Map::from_iter([(name.clone(), member.clone())]));
        let fault = T::deserialize(&alone).err()?.to_string();
        (!fault.starts_with("missing field")).then_some((name, member, fault))
    });
    match culprit {
        Some((name, member, fault)) => of_member(name, member, &fault),
        None => "its members do not fit together".to_owned(),
    }
}

fn of_member(name: &str, member: &Value, fault: &str) -> String {
    let expected = fault.split_once("expected ").map_or("", |(_, expected)| expected);
    if fault.starts_with("unknown variant") {
        return format!("{name} must be {}", expected.replace('`', ""));
    }
    let Some(kind) = kind(expected) else {
        return format!("{name} is not valid");
    };
    match member {
        Value::Array(_) if kind != "a list" => format!("each item of {name} must be {kind}"),
        Value::Object(_) if kind != "an object" => format!("{name} must be {kind}, or its members are wrong"),
        _ => format!("{name} must be {kind}"),
    }
}

/// A kind of value in plain words; nothing for one that only our code knows.
fn kind(expected: &str) -> Option<&'static str> {
    Some(match expected {
        "a string" | "a borrowed string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => "an object",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Depth {
        Basic,
        Advanced,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Input {
        command: String,
        timeout: Option<u64>,
        options: Option<Vec<String>>,
        quiet: Option<bool>,
        depth: Option<Depth>,
        share: Option<f64>,
    }

    #[test]
    fn faults_name_the_member_and_what_it_must_be() {
        let whole = "timeout must be a whole number, 0 or more";
        for (input, fault) in [
            (json!("ls"), "must be an object"),
            (json!(["ls"]), "must be an object"),
            (json!(null), "must be an object"),
            (json!({}), "command is missing"),
            (json!({"timeout": 5}), "command is missing"),
            (json!({"command": 5}), "command must be text"),
            (json!({"command": null}), "command must be text"),
            (json!({"timeout": "5", "command": "ls"}), whole),
            (json!({"command": "ls", "timeout": -5}), whole),
            (json!({"command": "ls", "timeout": 1.5}), whole),
            (json!({"command": "ls", "options": "a"}), "options must be a list"),
            (
                json!({"command": "ls", "options": ["a", 1]}),
                "each item of options must be text",
            ),
            (
                json!({"command": "ls", "quiet": 1}),
                "quiet must be true or false",
            ),
            (
                json!({"command": "ls", "depth": "deep"}),
                "depth must be basic or advanced",
            ),
            (json!({"command": "ls", "share": "x"}), "share must be a number"),
        ] {
            assert_eq!(typed::<Input>(&input).unwrap_err(), fault, "{input}");
        }
        assert_eq!(
            typed::<Input>(&json!({"command": "ls", "more": 1}))
                .unwrap()
                .command,
            "ls"
        );
    }
}
