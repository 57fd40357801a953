//! As much GraphQL as it takes to see whether a query fits a schema: one operation with variables, fields, arguments.

use serde_json::Value;
use std::collections::HashMap;

/// A field: name, the type it leads to (empty for a plain value), the arguments it takes as `name Type`.
pub(super) type Field = (&'static str, &'static str, &'static [&'static str]);
/// Types with their fields.
pub(super) type Schema = &'static [(&'static str, &'static [Field])];

/// The first field that is asked for, when query and variables fit.
pub(super) fn check(schema: Schema, query: &str, variables: &Value) -> Result<String, String> {
    let mut reader = Reader {
        schema,
        tokens: tokens(query),
        place: 0,
        declared: HashMap::new(),
    };
    let root = match reader.next()?.as_str() {
        "query" => "Query",
        "mutation" => "Mutation",
        other => return Err(format!("unexpected {other}")),
    };
    if !["{", "("].contains(&reader.peek()) {
        reader.next()?;
    }
    if reader.peek() == "(" {
        reader.declarations()?;
    }
    let first = reader.tokens.get(reader.place + 1).cloned().unwrap_or_default();
    reader.selection(root)?;
    for (name, kind) in &reader.declared {
        let value = &variables[name.as_str()];
        let fits = match kind.trim_end_matches('!') {
            "Int" => value.is_i64(),
            "String" | "ID" => value.is_string(),
            _ => value.is_object(),
        };
        if !fits && (kind.ends_with('!') || !value.is_null()) {
            return Err(format!("variable {name} is not {kind}"));
        }
    }
    let unknown = variables.as_object().into_iter().flatten();
    let unknown = unknown
        .map(|(name, _)| name)
        .find(|name| !reader.declared.contains_key(*name));
    unknown.map_or(Ok(first), |name| Err(format!("unknown variable {name}")))
}

struct Reader {
    schema: Schema,
    tokens: Vec<String>,
    place: usize,
    declared: HashMap<String, String>,
}

impl Reader {
    fn peek(&self) -> &str {
        self.tokens.get(self.place).map_or("", String::as_str)
    }

    fn next(&mut self) -> Result<String, String> {
        let token = self
            .tokens
            .get(self.place)
            .cloned()
            .ok_or("the query ends too early")?;
        self.place += 1;
        Ok(token)
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let found = self.next()?;
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found} instead of {wanted}"))
        }
    }

    /// `($name: Type!, …)`
    fn declarations(&mut self) -> Result<(), String> {
        self.expect("(")?;
        while self.peek() != ")" {
            let name = self.next()?;
            self.expect(":")?;
            let kind = self.next()?;
            self.declared
                .insert(name.trim_start_matches('$').to_owned(), kind);
        }
        self.expect(")")
    }

    fn selection(&mut self, kind: &str) -> Result<(), String> {
        let (_, fields) = *self
            .schema
            .iter()
            .find(|(name, _)| *name == kind)
            .ok_or_else(|| format!("no type {kind}"))?;
        self.expect("{")?;
        while self.peek() != "}" {
            let name = self.next()?;
            let field = fields.iter().find(|(other, ..)| *other == name);
            let (_, leads_to, known) = *field.ok_or_else(|| format!("{kind} has no field {name}"))?;
            if self.peek() == "(" {
                self.arguments(&name, known)?;
            }
            match (leads_to, self.peek() == "{") {
                ("", false) => {}
                ("", true) => return Err(format!("{name} has no fields")),
                (_, false) => return Err(format!("{name} needs fields")),
                (next, true) => self.selection(next)?,
            }
        }
        self.expect("}")
    }

    /// Variables must be of the argument's type; a literal is a number here.
    fn arguments(&mut self, field: &str, known: &[&str]) -> Result<(), String> {
        self.expect("(")?;
        while self.peek() != ")" {
            let name = self.next()?;
            self.expect(":")?;
            let value = self.next()?;
            let kind = known
                .iter()
                .find_map(|known| known.strip_prefix(&format!("{name} ")));
            let kind = kind.ok_or_else(|| format!("{field} has no argument {name}"))?;
            let given = match value.strip_prefix('$') {
                Some(variable) => self.declared.get(variable).cloned().unwrap_or_default(),
                None if value.parse::<i64>().is_ok() => "Int".to_owned(),
                None => "another".to_owned(),
            };
            if given != kind && given.trim_end_matches('!') != kind {
                return Err(format!("{name} of {field} is {given} instead of {kind}"));
            }
        }
        self.expect(")")
    }
}

/// Words (with `$` before and `!` behind) and signs; commas are spaces.
fn tokens(query: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    for c in query.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || "_$!".contains(c) {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if "{}():".contains(c) {
            tokens.push(c.to_string());
        }
    }
    tokens
}
