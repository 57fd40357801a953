//! Requests and answers of the search vendors, as they publish them.

use super::{Found, Hit, Question};
use crate::http::{Api, with_query};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// Longest text kept of a result.
const MAX_SNIPPET: usize = 2000;
const MAX_TITLE: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// <https://docs.tavily.com/documentation/api-reference/endpoint/search>
    Tavily,
    /// <https://serper.dev>
    Serper,
    /// <https://api-dashboard.search.brave.com/app/documentation/web-search/get-started>
    Brave,
    /// <https://docs.searxng.org/dev/search_api.html>
    Searxng,
}

impl Provider {
    pub(super) fn of(name: &str) -> Self {
        match name {
            "tavily" => Self::Tavily,
            "serper" => Self::Serper,
            "brave" => Self::Brave,
            _ => Self::Searxng,
        }
    }

    pub(super) fn request(self, api: &Api, question: &Question<'_>) -> RequestBuilder {
        let count = question.max_results.to_string();
        match self {
            Self::Tavily => api
                .read(Method::POST, api.url(["search"]))
                .bearer_auth(api.key())
                .json(&json!({
                    "query": question.query,
                    "search_depth": question.search_depth,
                    "max_results": question.max_results,
                    "include_answer": true,
                })),
            Self::Serper => api
                .read(Method::POST, api.url(["search"]))
                .header("X-API-KEY", api.key())
                .json(&json!({"q": question.query, "num": question.max_results})),
            Self::Brave => {
                let pairs = [
                    ("q", question.query),
                    ("count", &count),
                    ("text_decorations", "false"),
                ];
                let url = with_query(api.url(["res", "v1", "web", "search"]), pairs);
                api.read(Method::GET, url)
                    .header("Accept", "application/json")
                    .header("X-Subscription-Token", api.key())
            }
            Self::Searxng => {
                let url = with_query(api.url(["search"]), [("q", question.query), ("format", "json")]);
                api.read(Method::GET, url).header("Accept", "application/json")
            }
        }
    }

    /// Nothing when the answer has not the vendor's form. No results is an answer: a member that the vendor leaves out then.
    pub(super) fn found(self, answer: &Value) -> Option<Found> {
        answer.as_object()?;
        let found = match self {
            Self::Tavily => Found {
                hits: hits(answer.get("results")?.as_array()?, "url", "content"),
                answer: word(&answer["answer"]),
            },
            Self::Serper => Found {
                hits: hits(list(&answer["organic"])?, "link", "snippet"),
                answer: word(&answer["answerBox"]["answer"])
                    .or_else(|| word(&answer["answerBox"]["snippet"]))
                    .or_else(|| word(&answer["knowledgeGraph"]["description"])),
            },
            Self::Brave => Found {
                hits: hits(list(&answer["web"]["results"])?, "url", "description"),
                answer: None,
            },
            Self::Searxng => Found {
                hits: hits(answer.get("results")?.as_array()?, "url", "content"),
                answer: list(&answer["answers"])?
                    .iter()
                    .find_map(|answer| word(answer).or_else(|| word(&answer["answer"]))),
            },
        };
        Some(found)
    }
}

/// A list that may be missing.
fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Null => Some(&[]),
        Value::Array(list) => Some(list),
        _ => None,
    }
}

fn hits(results: &[Value], url: &str, snippet: &str) -> Vec<Hit> {
    let text = |value: &Value, most| value.as_str().unwrap_or_default().chars().take(most).collect();
    let of = |result: &Value| {
        let address = result[url].as_str().filter(|address| !address.is_empty())?;
        Some(Hit {
            title: text(&result["title"], MAX_TITLE),
            url: address.to_owned(),
            snippet: text(&result[snippet], MAX_SNIPPET),
            score: result["score"].as_f64(),
        })
    };
    results.iter().filter_map(of).collect()
}

fn word(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim();
    (!text.is_empty()).then(|| text.chars().take(MAX_SNIPPET).collect())
}

/// The vendors' words in their errors: `detail.error`, `message`, `error.detail`, `error`.
pub(super) fn message(answer: &Value) -> Option<&str> {
    [
        &answer["detail"]["error"],
        &answer["message"],
        &answer["error"]["detail"],
        &answer["error"],
    ]
    .into_iter()
    .find_map(Value::as_str)
}
