//! The headings and anchors of the Markdown document.

use super::Finding;
use crate::routes::runtime::table::Operation;
use std::collections::BTreeSet;

pub(super) const LABEL: &str = "markdown";
/// Routes with a heading of their own.
const PREFIX: &str = "/internal/v1";
/// Words a reader must find.
const ANCHORS: [&str; 3] = ["tail_ms", "Last-Event-ID", "X-OA-RUNTIME-SIGNATURE"];
/// A heading that begins with one of these is that of a route.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

pub(super) fn compare(served: &[Operation], text: &str) -> Vec<Finding> {
    let headings = route_headings(text);
    let served: BTreeSet<String> = served
        .iter()
        .filter(|operation| operation.path.starts_with(PREFIX))
        .map(|operation| format!("{} {}", operation.method, operation.path))
        .collect();
    let missing = served
        .difference(&headings)
        .map(|name| format!("missing heading: {name}"));
    let unserved = |name: &String| format!("heading of a route that is not served: {name}");
    let unserved = headings.difference(&served).map(unserved);
    let anchors = ANCHORS.iter().filter(|anchor| !text.contains(**anchor));
    let anchors = anchors.map(|anchor| format!("missing anchor: {anchor}"));
    let texts = missing.chain(unserved).chain(anchors);
    texts.map(|text| Finding { label: LABEL, text }).collect()
}

/// `METHOD /internal/v1…` of every heading that names a route; lines inside code blocks are no headings.
fn route_headings(text: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let outside = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    let headings = outside.filter(|line| line.starts_with('#'));
    headings.filter_map(route_of).collect()
}

fn route_of(heading: &str) -> Option<String> {
    let plain = heading.trim_start_matches('#').replace('`', "");
    let mut words = plain.split_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let named = METHODS.contains(&method) && path.starts_with(PREFIX);
    named.then(|| format!("{method} {path}"))
}
