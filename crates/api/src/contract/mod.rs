//! `agent-api contract check`: the internal surface as it is served against its documents, in both directions.
//!
//! The served side is [`TABLE`], which the router is built of; nothing of the documents comes from it at run time. Needs
//! no store and no settings.

mod markdown;
mod openapi;

use crate::routes::runtime::table::{Operation, TABLE};
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

/// Exit code of a check that found a difference.
const FAILED: u8 = 1;

/// One difference: in which document, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub label: &'static str,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  - [{}] {}", self.label, self.text)
    }
}

/// Compares what is served with both documents.
pub fn compare(served: &[Operation], openapi: &str, markdown: &str) -> Vec<Finding> {
    let mut findings = openapi::compare(served, openapi);
    findings.extend(markdown::compare(served, markdown));
    findings
}

/// The command; the exit code.
pub fn check(openapi: &Path, markdown: &Path) -> io::Result<u8> {
    let mut unread = vec![];
    let mut read = |label, path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            unread.push(Finding { label, text });
            String::new()
        }
    };
    let texts = (read(openapi::LABEL, openapi), read(markdown::LABEL, markdown));
    let findings = if unread.is_empty() {
        compare(TABLE, &texts.0, &texts.1)
    } else {
        unread
    };
    report(&findings)
}

fn report(findings: &[Finding]) -> io::Result<u8> {
    let mut out = io::stdout().lock();
    if findings.is_empty() {
        writeln!(out, "runtime contract check passed")?;
        return Ok(bootstrap::settings::exit::OK);
    }
    writeln!(out, "runtime contract check failed:")?;
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    out.flush()?;
    Ok(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::runtime::table::QueryParameter;

    const OPENAPI: &str = include_str!("../../../../docs/openapi.yaml");
    const MARKDOWN: &str = include_str!("../../../../docs/RUNTIME_CONTRACT.md");
    const PATH: &str = "/internal/v1/runs/{run_id}";

    fn texts(served: &[Operation], openapi: &str, markdown: &str) -> Vec<String> {
        let findings = compare(served, openapi, markdown);
        findings.iter().map(ToString::to_string).collect()
    }

    /// The table with one route changed.
    fn changed(change: impl Fn(&mut Operation)) -> Vec<Operation> {
        let mut served = TABLE.to_vec();
        let own = |operation: &&mut Operation| (operation.method, operation.path) == ("GET", PATH);
        change(served.iter_mut().find(own).unwrap());
        served
    }

    #[test]
    fn the_documents_describe_what_is_served() {
        assert_eq!(texts(TABLE, OPENAPI, MARKDOWN), Vec::<String>::new());
    }

    #[test]
    fn an_added_and_a_removed_route_are_found() {
        let added = changed(|operation| operation.path = "/internal/v1/news/{run_id}");
        let found = texts(&added, OPENAPI, MARKDOWN);
        for expected in [
            "  - [openapi] missing route operation in OpenAPI: GET /internal/v1/news/{run_id}",
            "  - [openapi] OpenAPI operation not implemented in router: GET /internal/v1/runs/{run_id}",
            "  - [markdown] missing heading: GET /internal/v1/news/{run_id}",
            "  - [markdown] heading of a route that is not served: GET /internal/v1/runs/{run_id}",
        ] {
            assert!(found.contains(&expected.to_owned()), "{found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn a_status_more_or_less_is_found() {
        let more = changed(|operation| operation.statuses = &[200, 400, 401, 403, 404, 410, 503]);
        let expected = format!("  - [openapi] GET {PATH}: status 410 is served and missing in OpenAPI");
        assert_eq!(texts(&more, OPENAPI, MARKDOWN), [expected]);
        let less = changed(|operation| operation.statuses = &[200, 400, 401, 403, 503]);
        let expected = format!("  - [openapi] GET {PATH}: status 404 is in OpenAPI and not served");
        assert_eq!(texts(&less, OPENAPI, MARKDOWN), [expected]);
    }

    #[test]
    fn a_renamed_parameter_and_a_changed_flag_are_found() {
        const RENAMED: &[QueryParameter] = &[
            QueryParameter {
                name: "events_behind",
                required: false,
            },
            QueryParameter {
                name: "events_limit",
                required: true,
            },
        ];
        let found = texts(&changed(|operation| operation.query = RENAMED), OPENAPI, MARKDOWN);
        let line = |text: &str| format!("  - [openapi] GET {PATH}: {text}");
        let expected = [
            line("parameter events_after (query, optional) is in OpenAPI and not served"),
            line("parameter events_behind (query, optional) is served and missing in OpenAPI"),
            line("parameter events_limit (query, optional) is in OpenAPI and not served"),
            line("parameter events_limit (query, required) is served and missing in OpenAPI"),
        ];
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            lines
        };
        assert_eq!(sorted(found), sorted(expected.to_vec()));
    }

    #[test]
    fn a_missing_heading_and_a_missing_anchor_are_found() {
        let heading = format!("`GET {PATH}`");
        let without = MARKDOWN.replace(&heading, "`GET /elsewhere`");
        let expected = format!("  - [markdown] missing heading: GET {PATH}");
        assert!(texts(TABLE, OPENAPI, &without).contains(&expected));
        for anchor in ["tail_ms", "Last-Event-ID", "X-OA-RUNTIME-SIGNATURE"] {
            let without = MARKDOWN.replace(anchor, "");
            let expected = format!("  - [markdown] missing anchor: {anchor}");
            assert_eq!(texts(TABLE, OPENAPI, &without), [expected]);
        }
        let fenced = format!("```\n{MARKDOWN}\n```\n");
        assert!(texts(TABLE, OPENAPI, &fenced).len() > 5, "code is no heading");
    }

    #[test]
    fn what_cannot_be_read_is_a_finding() {
        for broken in ["{", "paths: 7", "[]"] {
            assert!(!texts(TABLE, broken, MARKDOWN).is_empty(), "{broken}");
        }
        let nowhere = OPENAPI.replace("components:", "komponents:");
        let found = texts(TABLE, &nowhere, MARKDOWN);
        assert!(
            found
                .iter()
                .any(|line| line.contains("cannot resolve #/components/")),
            "{found:#?}"
        );
    }
}
