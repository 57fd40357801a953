//! What may not change between two versions of the description without breaking somebody: nothing that a client relies on
//! goes away (routes, methods, statuses, members of answers, values sent in), and nothing new is asked of it.

use serde_json::Value;
use std::collections::BTreeSet;

/// Which way the data goes: what may be widened in one direction may not in the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Two documents under comparison.
struct Pair<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
    /// Pairs of references already looked at: schemas may refer to themselves.
    seen: BTreeSet<(String, String)>,
}

/// Every breaking change, in words; empty when there is none.
pub(crate) fn breaking(old: &Value, new: &Value) -> Vec<String> {
    let mut pair = Pair {
        old,
        new,
        found: vec![],
        seen: BTreeSet::new(),
    };
    for (path, item) in members(&old["paths"]) {
        for (method, operation) in members(item) {
            let name = format!("{} {path}", method.to_uppercase());
            let now = &new["paths"][path][method];
            if now.is_null() {
                pair.found.push(format!("{name}: removed"));
            } else {
                pair.operation(&name, operation, now);
            }
        }
    }
    pair.found
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn names(value: &Value) -> BTreeSet<&str> {
    items(value).filter_map(Value::as_str).collect()
}

/// The types a schema allows; empty means any.
fn types(schema: &Value) -> BTreeSet<&str> {
    match &schema["type"] {
        Value::String(one) => BTreeSet::from([one.as_str()]),
        several => names(several),
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let Some(reference) = schema["$ref"].as_str() else {
        return schema;
    };
    document
        .pointer(reference.trim_start_matches('#'))
        .unwrap_or(&Value::Null)
}

impl<'a> Pair<'a> {
    fn operation(&mut self, name: &str, old: &'a Value, new: &'a Value) {
        self.parameters(name, &old["parameters"], &new["parameters"]);
        self.body(name, &old["requestBody"], &new["requestBody"]);
        for (status, answer) in members(&old["responses"]) {
            let now = &new["responses"][status];
            if now.is_null() {
                self.found.push(format!("{name}: status {status} removed"));
                continue;
            }
            for (kind, content) in members(&answer["content"]) {
                let place = format!("{name} {status}");
                match &now["content"][kind] {
                    Value::Null => self.found.push(format!("{place}: {kind} removed")),
                    now => self.schema(&place, Way::Out, &content["schema"], &now["schema"]),
                }
            }
        }
    }

    fn parameters(&mut self, name: &str, old: &'a Value, new: &'a Value) {
        let find = |list: &'a Value, wanted: &Value| {
            items(list).find(|one| one["name"] == wanted["name"] && one["in"] == wanted["in"])
        };
        for now in items(new) {
            let place = format!("{name} parameter {}", now["name"]);
            let required = now["required"] == true;
            match find(old, now) {
                None if required => self.found.push(format!("{place}: new and required")),
                Some(before) if required && before["required"] != true => {
                    self.found.push(format!("{place}: now required"));
                }
                Some(before) => self.schema(&place, Way::In, &before["schema"], &now["schema"]),
                None => {}
            }
        }
        for before in items(old) {
            if find(new, before).is_none() {
                self.found
                    .push(format!("{name} parameter {}: removed", before["name"]));
            }
        }
    }

    fn body(&mut self, name: &str, old: &'a Value, new: &'a Value) {
        if new["required"] == true && old["required"] != true {
            self.found.push(format!("{name}: a body is now required"));
        }
        for (kind, content) in members(&old["content"]) {
            match &new["content"][kind] {
                Value::Null => self.found.push(format!("{name}: body {kind} removed")),
                now => self.schema(
                    &format!("{name} body"),
                    Way::In,
                    &content["schema"],
                    &now["schema"],
                ),
            }
        }
    }

    fn schema(&mut self, place: &str, way: Way, old: &'a Value, new: &'a Value) {
        let both = (old["$ref"].as_str(), new["$ref"].as_str());
        if let (Some(old), Some(new)) = both
            && !self
                .seen
                .insert((format!("{old} {}", way == Way::In), new.to_owned()))
        {
            return;
        }
        let (old, new) = (resolve(self.old, old), resolve(self.new, new));
        self.types(place, way, old, new);
        self.values(place, way, old, new);
        self.bounds(place, way, old, new);
        self.object(place, way, old, new);
        if !old["items"].is_null() && !new["items"].is_null() {
            self.schema(&format!("{place}[]"), way, &old["items"], &new["items"]);
        }
        if !old["contentSchema"].is_null() && !new["contentSchema"].is_null() {
            self.schema(
                &format!("{place} data"),
                way,
                &old["contentSchema"],
                &new["contentSchema"],
            );
        }
        for keyword in ["oneOf", "anyOf", "allOf"] {
            self.alternatives(place, way, (&old[keyword], &new[keyword]));
        }
    }

    /// Alternatives are told apart by their place; new ones come last.
    fn alternatives(&mut self, place: &str, way: Way, (old, new): (&'a Value, &'a Value)) {
        let (before, now) = (items(old).count(), items(new).count());
        if now < before && way == Way::In {
            self.found.push(format!("{place}: an alternative was removed"));
        }
        for (number, (old, new)) in items(old).zip(items(new)).enumerate() {
            self.schema(&format!("{place}/{number}"), way, old, new);
        }
    }

    fn types(&mut self, place: &str, way: Way, old: &Value, new: &Value) {
        let (before, now) = (types(old), types(new));
        let fewer = |small: &BTreeSet<&str>, large: &BTreeSet<&str>| {
            // Whole numbers are numbers.
            let holds =
                |kind: &&str| large.contains(kind) || (*kind == "integer" && large.contains("number"));
            large.is_empty() || (!small.is_empty() && small.iter().all(holds))
        };
        let sound = match way {
            Way::In => fewer(&before, &now),
            Way::Out => fewer(&now, &before),
        };
        if !sound {
            self.found
                .push(format!("{place}: type {before:?} became {now:?}"));
        }
    }

    /// Values that may be sent in stay; of answers the list may grow, as codes and statuses do.
    fn values(&mut self, place: &str, way: Way, old: &Value, new: &Value) {
        if way == Way::Out || new["enum"].is_null() {
            return;
        }
        if old["enum"].is_null() {
            self.found
                .push(format!("{place}: only some values are taken now"));
        }
        for value in items(&old["enum"]) {
            if !items(&new["enum"]).any(|now| now == value) {
                self.found
                    .push(format!("{place}: value {value} is not taken any more"));
            }
        }
    }

    fn bounds(&mut self, place: &str, way: Way, old: &Value, new: &Value) {
        if way == Way::Out {
            return;
        }
        let narrower = |keyword: &str, upper: bool| match (old[keyword].as_f64(), new[keyword].as_f64()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => {
                if upper {
                    now < before
                } else {
                    now > before
                }
            }
        };
        for (keyword, upper) in [
            ("maximum", true),
            ("maxLength", true),
            ("minimum", false),
            ("minLength", false),
        ] {
            if narrower(keyword, upper) {
                self.found.push(format!("{place}: {keyword} is narrower"));
            }
        }
        if !new["pattern"].is_null() && new["pattern"] != old["pattern"] {
            self.found.push(format!("{place}: another pattern"));
        }
    }

    fn object(&mut self, place: &str, way: Way, old: &'a Value, new: &'a Value) {
        for (member, schema) in members(&old["properties"]) {
            let place = format!("{place}.{member}");
            match &new["properties"][member] {
                Value::Null => self.found.push(format!("{place}: removed")),
                now => self.schema(&place, way, schema, now),
            }
        }
        let (before, now) = (names(&old["required"]), names(&new["required"]));
        let worse = match way {
            Way::In => now.difference(&before),
            Way::Out => before.difference(&now),
        };
        for member in worse {
            let what = if way == Way::In {
                "now required"
            } else {
                "no longer always there"
            };
            self.found.push(format!("{place}.{member}: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        let answer = json!({"type": "object", "required": ["id", "n"], "properties":
            {"id": {"type": "string"}, "n": {"type": "number"}, "note": {"type": "string"}, "again": {"$ref": "#/components/schemas/Answer"}}});
        json!({
            "paths": {"/a": {"get": {
                "parameters": [{"name": "p", "in": "query", "schema": {"type": "integer", "maximum": 9}}],
                "requestBody": {"content": {"application/json": {"schema": {"type": "object", "required": [], "properties":
                    {"kind": {"enum": ["x", "y"]}, "text": {"type": ["string", "null"]}}}}}},
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}, "404": {}},
            }, "post": {"responses": {}}}, "/b": {"get": {"responses": {}}}},
            "components": {"schemas": {"Answer": answer}},
        })
    }

    const OPERATION: &str = "/paths/~1a/get";
    const BODY: &str = "/paths/~1a/get/requestBody/content/application~1json/schema";
    const ANSWER: &str = "/components/schemas/Answer";

    /// What is found after this change of one place.
    fn after(pointer: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let old = document();
        let mut new = old.clone();
        change(new.pointer_mut(pointer).expect("a place in the document"));
        assert_ne!(old, new, "nothing was changed");
        breaking(&old, &new)
    }

    fn without(pointer: &str, member: &str) -> Vec<String> {
        after(pointer, |value| {
            value.as_object_mut().unwrap().shift_remove(member);
        })
    }

    #[test]
    fn what_is_taken_away_is_found() {
        assert_eq!(breaking(&document(), &document()), [""; 0]);
        assert_eq!(without("/paths", "/b"), ["GET /b: removed"]);
        assert_eq!(without("/paths/~1a", "post"), ["POST /a: removed"]);
        assert_eq!(
            without(&format!("{OPERATION}/responses"), "404"),
            ["GET /a: status 404 removed"]
        );
        assert_eq!(
            without(&format!("{ANSWER}/properties"), "note"),
            ["GET /a 200.note: removed"]
        );
        assert_eq!(
            without(&format!("{BODY}/properties"), "text"),
            ["GET /a body.text: removed"]
        );
        let found = after(&format!("{ANSWER}/required"), |value| *value = json!(["n"]));
        assert_eq!(found, ["GET /a 200.id: no longer always there"]);
        let found = after(&format!("{OPERATION}/parameters"), |value| *value = json!([]));
        assert_eq!(found, ["GET /a parameter \"p\": removed"]);
        let found = after(&format!("{OPERATION}/responses/200/content"), |value| {
            *value = json!({"text/plain": {}});
        });
        assert_eq!(found, ["GET /a 200: application/json removed"]);
    }

    #[test]
    fn what_is_asked_for_anew_is_found() {
        let parameters = format!("{OPERATION}/parameters");
        let add = |value: &mut Value| {
            value
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "q", "in": "query", "required": true}));
        };
        assert_eq!(
            after(&parameters, add),
            ["GET /a parameter \"q\": new and required"]
        );
        let found = after(&format!("{parameters}/0"), |value| {
            value["required"] = json!(true);
        });
        assert_eq!(found, ["GET /a parameter \"p\": now required"]);
        let found = after(&format!("{BODY}/required"), |value| *value = json!(["kind"]));
        assert_eq!(found, ["GET /a body.kind: now required"]);
        let found = after(&format!("{OPERATION}/requestBody"), |value| {
            value["required"] = json!(true);
        });
        assert_eq!(found, ["GET /a: a body is now required"]);
    }

    #[test]
    fn what_is_narrowed_is_found() {
        let found = after(&format!("{ANSWER}/properties/n/type"), |value| {
            *value = json!(["number", "null"]);
        });
        assert_eq!(found.len(), 1, "{found:?}");
        let found = after(&format!("{BODY}/properties/text/type"), |value| {
            *value = json!("string");
        });
        assert_eq!(found.len(), 1, "{found:?}");
        let found = after(&format!("{BODY}/properties/kind/enum"), |value| {
            *value = json!(["x"]);
        });
        assert_eq!(found, ["GET /a body.kind: value \"y\" is not taken any more"]);
        let found = after(&format!("{OPERATION}/parameters/0/schema/maximum"), |value| {
            *value = json!(8);
        });
        assert_eq!(found, ["GET /a parameter \"p\": maximum is narrower"]);
        let found = after(&format!("{BODY}/properties/text"), |value| {
            value["pattern"] = json!("^a$");
        });
        assert_eq!(found, ["GET /a body.text: another pattern"]);
    }

    #[test]
    fn what_is_only_added_or_widened_is_no_break() {
        let changes: [(&str, Value); 5] = [
            ("/paths/~1c", json!({"get": {"responses": {}}})),
            ("/paths/~1a/get/responses/201", json!({})),
            (
                "/components/schemas/Answer/properties/more",
                json!({"type": "string"}),
            ),
            ("/components/schemas/Answer/properties/n/type", json!("integer")),
            ("/paths/~1a/get/parameters/0/schema/maximum", json!(10)),
        ];
        for (pointer, value) in changes {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let name = name.replace("~1", "/");
            let found = after(parent, |parent| parent[name.as_str()] = value);
            assert_eq!(found, [""; 0], "{pointer}");
        }
    }
}
