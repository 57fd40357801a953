//! Search vendors.

use super::{BRAVE_KEY, Judged, Member, Request, SERPER_KEY, TAVILY_KEY, Type, fault_of, wrong};
use serde_json::{Value, json};

/// <https://docs.tavily.com/documentation/api-reference/endpoint/search>: POST /search, bearer key; errors as
/// `{"detail":{"error":…}}`.
pub(super) fn tavily(request: &Request) -> Judged {
    const DEPTHS: &[&str] = &["basic", "advanced", "fast", "ultra-fast"];
    let error = |said: &str| json!({"detail": {"error": said}});
    if (request.method.as_str(), request.path.as_str()) != ("POST", "search") {
        return wrong(404, error("Not Found"), "unknown endpoint");
    }
    if request.header("authorization") != format!("Bearer {TAVILY_KEY}") {
        return wrong(
            401,
            error("Unauthorized: missing or invalid API key."),
            "no bearer key",
        );
    }
    if !request.header("content-type").starts_with("application/json") {
        return wrong(415, error("Unsupported Media Type"), "not sent as JSON");
    }
    let members = [
        Member("query", Type::Text, true),
        Member("search_depth", Type::OneOf(DEPTHS), false),
        Member("max_results", Type::Number(0, 20), false),
        Member("topic", Type::OneOf(&["general", "news", "finance"]), false),
        Member("include_answer", Type::Bool, false),
        Member("include_raw_content", Type::Bool, false),
        Member("include_images", Type::Bool, false),
        Member("include_domains", Type::Texts, false),
        Member("exclude_domains", Type::Texts, false),
    ];
    if let Some(fault) = fault_of(&request.body, &members) {
        return wrong(400, error(&fault), fault);
    }
    let query = request.body["query"].clone();
    let count = request.body["max_results"].as_u64().unwrap_or(5);
    let results: Vec<Value> = (1..=count)
        .map(|n| {
            json!({"title": format!("Result {n}"), "url": format!("https://example.org/{n}"),
            "content": format!("Words of result {n}"), "score": 0.9, "raw_content": null})
        })
        .collect();
    Ok((
        200,
        json!({"query": query, "follow_up_questions": null, "answer": "An answer", "images": [], "results": results,
            "response_time": 0.5, "request_id": "123e4567-e89b-12d3-a456-426614174111"}),
    ))
}

/// <https://serper.dev/playground>: POST /search, header `X-API-KEY`.
pub(super) fn serper(request: &Request) -> Judged {
    if (request.method.as_str(), request.path.as_str()) != ("POST", "search") {
        return wrong(
            404,
            json!({"message": "Not Found", "statusCode": 404}),
            "unknown endpoint",
        );
    }
    if request.header("x-api-key") != SERPER_KEY {
        return wrong(
            403,
            json!({"message": "Unauthorized.", "statusCode": 403}),
            "no key",
        );
    }
    let members = [
        Member("q", Type::Text, true),
        Member("num", Type::Number(1, 100), false),
        Member("page", Type::Number(1, 100), false),
        Member("gl", Type::Text, false),
        Member("hl", Type::Text, false),
    ];
    if let Some(fault) = fault_of(&request.body, &members) {
        return wrong(400, json!({"message": fault, "statusCode": 400}), fault);
    }
    // Gives ten, whatever was asked.
    let organic: Vec<Value> = (1..=10)
        .map(|n| {
            json!({"title": format!("Result {n}"), "link": format!("https://example.org/{n}"),
            "snippet": format!("Words of result {n}"), "position": n})
        })
        .collect();
    Ok((
        200,
        json!({"searchParameters": {"q": request.body["q"], "type": "search", "engine": "google"},
            "answerBox": {"title": "A title", "answer": "An answer"}, "organic": organic, "credits": 1}),
    ))
}

/// <https://api-dashboard.search.brave.com/api-reference/web/search/get>: GET /res/v1/web/search, header
/// `X-Subscription-Token`; `q` of at most 400 characters and 50 words, `count` 1 to 20.
pub(super) fn brave(request: &Request) -> Judged {
    let error = |code: &str, detail: &str| json!({"type": "ErrorResponse", "error": {"code": code, "detail": detail}});
    if (request.method.as_str(), request.path.as_str()) != ("GET", "res/v1/web/search") {
        return wrong(404, error("NOT_FOUND", "Not found"), "unknown endpoint");
    }
    if request.header("x-subscription-token") != BRAVE_KEY {
        let code = "SUBSCRIPTION_TOKEN_INVALID";
        return wrong(
            422,
            error(code, "The provided subscription token is invalid."),
            "no token",
        );
    }
    if !["application/json", "*/*"].contains(&request.header("accept")) {
        return wrong(406, error("NOT_ACCEPTABLE", "Not acceptable"), "Accept");
    }
    let known = [
        "q",
        "country",
        "search_lang",
        "ui_lang",
        "count",
        "offset",
        "safesearch",
        "freshness",
        "text_decorations",
        "spellcheck",
        "result_filter",
        "units",
        "extra_snippets",
        "summary",
    ];
    let query = request.has_query("q").unwrap_or_default();
    let count = request.has_query("count").unwrap_or("20").parse::<u32>();
    let fault = request.unknown_query(&known).or_else(|| {
        let long = query.chars().count() > 400 || query.split_whitespace().count() > 50;
        let fits = !query.is_empty() && !long && count.as_ref().is_ok_and(|count| (1..=20).contains(count));
        (!fits).then(|| "q or count out of bounds".to_owned())
    });
    if let Some(fault) = fault {
        return wrong(
            422,
            error("VALIDATION", "Unable to validate request parameter(s)"),
            fault,
        );
    }
    let results: Vec<Value> = (1..=count.unwrap_or(20))
        .map(|n| {
            json!({"type": "search_result", "title": format!("Result {n}"), "url": format!("https://example.org/{n}"),
            "description": format!("Words of result {n}"), "language": "en", "family_friendly": true})
        })
        .collect();
    Ok((
        200,
        json!({"type": "search", "query": {"original": query, "more_results_available": true},
            "web": {"type": "search", "results": results, "family_friendly": true}}),
    ))
}

/// <https://docs.searxng.org/dev/search_api.html>: GET or POST, / or /search; a format that is off is 403.
pub(super) fn searxng(request: &Request) -> Judged {
    if request.method != "GET" || !["search", ""].contains(&request.path.as_str()) {
        return wrong(404, json!({}), "unknown endpoint");
    }
    let known = [
        "q",
        "categories",
        "engines",
        "language",
        "pageno",
        "time_range",
        "format",
        "safesearch",
        "theme",
    ];
    let fault = request.unknown_query(&known).or_else(|| {
        let asked = request.has_query("q").is_some_and(|query| !query.is_empty());
        (!asked).then(|| "q is missing".to_owned())
    });
    if let Some(fault) = fault {
        return wrong(400, json!({}), fault);
    }
    if request.has_query("format") != Some("json") {
        return wrong(403, json!({}), "only JSON is on");
    }
    // A page of results; their number cannot be asked for.
    let results: Vec<Value> = (1..=20)
        .map(|n| {
            json!({"title": format!("Result {n}"), "url": format!("https://example.org/{n}"),
            "content": format!("Words of result {n}"), "engine": "testkit", "score": 1.5, "category": "general"})
        })
        .collect();
    Ok((
        200,
        json!({"query": request.has_query("q"), "number_of_results": 0, "results": results,
            "answers": [{"answer": "An answer", "url": null}], "corrections": [], "infoboxes": [], "suggestions": [],
            "unresponsive_engines": []}),
    ))
}
