//! The description of the public surface, OpenAPI 3.1, made from the routes themselves: a route is served only together
//! with its description (`utoipa-axum`), so neither can be without the other.
//!
//! Rules that hold for all of it and that the macros cannot say are applied at the end, by [`finish`]: answers always
//! have all their members but those of [`schema::OPTIONAL`]; text sent in never holds U+0000; what an event stream
//! carries is described event by event.

pub mod answers;
pub mod events;
pub mod files;
pub mod interrupts;
pub mod operator;
pub mod params;
pub mod refusals;
pub mod request;
pub mod schema;

use operator::Problem;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::Tag;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

/// Title of the document and of its pages.
pub const TITLE: &str = "Swiss Agent API";
const DESCRIPTION: &str = "Runs of AI agents: create, start, follow live, stop, pause, resume and retry them. \
    Bodies are JSON whatever `Content-Type` says, unknown members are ignored, `null` equals absent. Times are RFC 3339 \
    in UTC. Every refusal is `application/problem+json` with a stable `code`.";
/// Text sent in, unless its schema says more.
const TEXT_PATTERN: &str = r"^[^\u0000]*$";
/// Schemas of what is sent in end with this; all others are answers.
const REQUEST_SUFFIX: &str = "Request";

const TAGS: [(&str, &str); 6] = [
    ("runs", "Runs and what they did"),
    ("streams", "Live streams (server-sent events)"),
    ("files", "Files of runs"),
    ("health", "Liveness, readiness, metrics"),
    ("admin", "For operators"),
    ("docs", "This description"),
];

/// What the routes are added to.
pub fn base() -> OpenApi {
    let info = InfoBuilder::new().title(TITLE).description(Some(DESCRIPTION));
    let tags = TAGS.map(|(name, description)| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    });
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A JSON Web Token, or an API key (`sk_agent_…`)"))
        .build();
    let ticket = ApiKeyValue::with_description(
        "ticket",
        "A ticket of `POST /agent/run/{run_id}/ticket`, for clients that can send no header",
    );
    // Refusals refer to it by name only.
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("ticket", SecurityScheme::ApiKey(ApiKey::Query(ticket)));
    OpenApiBuilder::new()
        .info(info.build())
        .tags(Some(tags))
        .components(Some(components.build()))
        .build()
}

/// The document of this version.
pub fn document(version: &str) -> Value {
    let mut api = crate::routes::described().into_openapi();
    version.clone_into(&mut api.info.version);
    let mut document = serde_json::to_value(api).unwrap_or_default();
    finish(&mut document);
    document
}

/// Operations that take the id which `execute` answers.
const OF_A_RUN: [&str; 12] = [
    "run",
    "events",
    "effects",
    "budget",
    "interrupts",
    "files",
    "files_zip",
    "artifacts",
    "ticket",
    "think",
    "named_stream",
    "default_stream",
];

/// Where one goes with the id of a new run.
fn links() -> Value {
    let link = |operation: &&str| {
        let link = json!({"operationId": operation, "parameters": {"run_id": "$response.body#/run_id"}});
        ((*operation).to_owned(), link)
    };
    Value::Object(OF_A_RUN.iter().map(link).collect())
}

/// The router's name for a path that goes on over slashes; the document has no such notion.
fn plain_paths(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    let renamed = std::mem::take(paths)
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item));
    paths.extend(renamed);
}

fn finish(document: &mut Value) {
    plain_paths(document);
    document["paths"]["/agent/execute"]["post"]["responses"]["200"]["links"] = links();
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        for (name, schema) in schemas.iter_mut() {
            if name.ends_with(REQUEST_SUFFIX) {
                text_without_nul(schema);
            } else {
                require_all(name, schema);
            }
        }
        // A misspelt cap would be none.
        if let Some(budget) = schemas.get_mut("BudgetRequest") {
            budget["additionalProperties"] = Value::Bool(false);
        }
        schemas.extend(events::schemas());
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        for operation in paths
            .values_mut()
            .filter_map(Value::as_object_mut)
            .flat_map(Map::values_mut)
        {
            if let Some(parameters) = operation.get_mut("parameters") {
                text_without_nul(parameters);
            }
        }
    }
}

/// Every member of an answer is there, `null` where it has no value.
fn require_all(name: &str, schema: &mut Value) {
    let Some(members) = schema["properties"].as_object() else {
        return;
    };
    let optional = schema::OPTIONAL.iter().find(|(of, _)| *of == name);
    let optional = optional.map_or(&[][..], |(_, members)| *members);
    let required: Vec<&String> = members
        .keys()
        .filter(|key| !optional.contains(&key.as_str()))
        .collect();
    schema["required"] = json!(required);
}

/// Adds the pattern to every schema of text in here that has no narrower rule.
fn text_without_nul(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(text_without_nul),
        Value::Object(members) => {
            let narrower = ["pattern", "enum", "format", "const"];
            if is_text(members) && !narrower.iter().any(|rule| members.contains_key(*rule)) {
                members.insert("pattern".to_owned(), json!(TEXT_PATTERN));
            }
            members.values_mut().for_each(text_without_nul);
        }
        _ => {}
    }
}

fn is_text(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.contains(&json!("string")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
        let document = document("1.0.0");
        let mut found = vec![];
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let reference = format!("#/components/schemas/{name}");
            assert!(found.contains(&reference.as_str()), "{name} is not used");
        }
    }

    #[test]
    fn every_operation_says_what_it_is_and_how_it_refuses() {
        let document = document("1.2.3");
        assert_eq!(document["info"]["title"], TITLE);
        assert_eq!(document["info"]["version"], "1.2.3");
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{name}: {id} twice");
                assert!(operation["summary"].is_string(), "{name}");
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.contains_key("200"), "{name}");
                let secured = path.starts_with("/agent") || path.starts_with("/debug");
                assert_eq!(operation["security"].is_array(), secured, "{name}");
                for status in ["401", "429", "500", "503"] {
                    assert!(!secured || answers.contains_key(status), "{name} {status}");
                }
                if path.contains("{run_id}") {
                    assert!(answers.contains_key("404"), "{name}");
                }
                for (status, answer) in answers.iter().filter(|(status, _)| status.starts_with('4')) {
                    let content = &answer["content"]["application/problem+json"]["schema"];
                    assert_eq!(content["$ref"], "#/components/schemas/Problem", "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn the_codes_of_the_authenticator_are_in_the_closed_list() {
        use crate::auth::Refusal;
        let document = document("1.0.0");
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        for refusal in [
            Refusal::MissingHeader,
            Refusal::HeaderFormat,
            Refusal::ApiKey,
            Refusal::TokenFormat,
            Refusal::Token,
            Refusal::KeySetUnavailable,
            Refusal::Expired,
            Refusal::NoUserId,
            Refusal::Ticket,
        ] {
            let code = json!(refusal.code());
            assert!(codes.as_array().unwrap().contains(&code), "{code}");
        }
    }
}
