//! The six actions, and the small scripts they run in the page.

use super::input::Action;
use super::page::{Fault, Page, Place, left};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Url;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest text or result taken from a page, in bytes.
const LONGEST: usize = 1024 * 1024;
/// Largest picture.
const LARGEST_PICTURE: usize = 16 * 1024 * 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What an action gave.
#[derive(Debug)]
pub(super) struct Done {
    pub output: Value,
    /// PNG.
    pub picture: Option<Bytes>,
}

impl Done {
    fn plain(output: Value) -> Self {
        Self {
            output,
            picture: None,
        }
    }
}

/// Carries an action out.
pub(super) async fn run(page: &Page, action: &Action, until: Instant) -> Result<Done, Fault> {
    match action {
        Action::Navigate { url } => navigate(page, url, until).await,
        Action::Click { selector } => click(page, selector, until).await,
        Action::Type { selector, text } => type_text(page, (selector, text), until).await,
        Action::Screenshot { selector } => screenshot(page, selector.as_deref(), until).await,
        Action::Extract { selector } => extract(page, selector.as_deref(), until).await,
        Action::ExecuteJs { javascript } => execute(page, javascript, until).await,
    }
}

pub(super) async fn navigate(page: &Page, url: &str, until: Instant) -> Result<Done, Fault> {
    let url = Url::parse(url).map_err(|fault| Fault::Other(format!("Invalid input: url: {fault}")))?;
    let status = page.navigate(&url, until).await?;
    let Place { url, title } = page.place_allowed().await?;
    Ok(Done::plain(
        json!({"success": true, "url": url, "title": title, "status": status}),
    ))
}

/// Looks for an element until it is there. `body` reads it as `e`.
async fn element(page: &Page, selector: &str, body: &str, until: Instant) -> Result<Value, Fault> {
    let quoted = json!(selector);
    let script =
        format!("(() => {{ const e = document.querySelector({quoted}); if (!e) return null; {body} }})()");
    let mut looked = false;
    loop {
        let found = match page.evaluate(&script, left(until)).await {
            // It was not there when the page last answered.
            Err(Fault::Slow) if looked => return Err(Fault::NoElement(selector.to_owned())),
            Err(Fault::Script(said)) if said.contains("not a valid selector") => {
                return Err(Fault::Other(format!("Invalid input: selector: {said}")));
            }
            // The page may be on its way to the next.
            Err(Fault::Other(_)) => Value::Null,
            other => other?,
        };
        if !found.is_null() {
            return Ok(found);
        }
        looked = true;
        if left(until) < LOOK_AGAIN {
            return Err(Fault::NoElement(selector.to_owned()));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Where to click. What it leads to stays in this window.
const PLACE_OF: &str = "e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'}); \
    const link = e.closest('a[target], area[target]') || (e.form && e.form.target ? e.form : null); \
    if (link) link.removeAttribute('target'); \
    const r = e.getBoundingClientRect(); \
    return {x: r.left + r.width / 2, y: r.top + r.height / 2, width: r.width, height: r.height, \
            left: r.left + scrollX, top: r.top + scrollY};";

async fn click(page: &Page, selector: &str, until: Instant) -> Result<Done, Fault> {
    let place = element(page, selector, PLACE_OF, until).await?;
    let events = page.events()?;
    if area(&place) > 0.0 {
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({"type": kind, "x": place["x"], "y": place["y"], "button": button,
                "buttons": buttons, "clickCount": i32::from(kind != "mouseMoved")});
            page.ask("Input.dispatchMouseEvent", event, left(until)).await?;
        }
    } else {
        element(page, selector, "e.click(); return true;", until).await?;
    }
    page.settled(events, until).await?;
    let Place { url, title } = page.place_allowed().await?;
    Ok(Done::plain(
        json!({"success": true, "selector": selector, "clicked": true, "url": url, "title": title}),
    ))
}

fn area(place: &Value) -> f64 {
    place["width"].as_f64().unwrap_or_default() * place["height"].as_f64().unwrap_or_default()
}

/// Makes a field ready to be typed over: `text` is what it shall hold.
const READY_TO_TYPE: &str = "e.scrollIntoView({block: 'center', behavior: 'instant'}); e.focus(); if (e.form) e.form.removeAttribute('target'); \
    if (e.tagName === 'SELECT') { \
        const o = [...e.options].find(o => o.value === text || o.text === text); if (!o) return 'no option'; \
        e.value = o.value; e.dispatchEvent(new Event('input', {bubbles: true})); \
        e.dispatchEvent(new Event('change', {bubbles: true})); return 'done'; } \
    if (typeof e.select === 'function' && 'value' in e) { e.select(); } \
    else if (e.isContentEditable) { getSelection().selectAllChildren(e); } \
    else return 'not a field'; \
    if (text === '') { document.execCommand('delete'); return 'done'; } return 'type';";

async fn type_text(page: &Page, (selector, text): (&str, &str), until: Instant) -> Result<Done, Fault> {
    // A line break at the end is the Enter key.
    let (text, enter) = match text.strip_suffix('\n') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let body = format!("const text = {}; {READY_TO_TYPE}", json!(text));
    match element(page, selector, &body, until).await?.as_str() {
        Some("type") => {
            let inserted = page.ask("Input.insertText", json!({"text": text}), left(until));
            inserted.await?;
        }
        Some("done") => {}
        Some("no option") => return Err(Fault::Other(format!("{selector} has no option {text}"))),
        _ => return Err(Fault::Other(format!("{selector} cannot be typed into"))),
    }
    if enter {
        let events = page.events()?;
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
            page.ask("Input.dispatchKeyEvent", key, left(until)).await?;
        }
        page.settled(events, until).await?;
        page.place_allowed().await?;
    }
    Ok(Done::plain(
        json!({"success": true, "selector": selector, "typed": true}),
    ))
}

async fn screenshot(page: &Page, selector: Option<&str>, until: Instant) -> Result<Done, Fault> {
    let mut wanted = json!({"format": "png"});
    if let Some(selector) = selector {
        let place = element(page, selector, PLACE_OF, until).await?;
        if area(&place) <= 0.0 {
            return Err(Fault::Other(format!("{selector} cannot be seen")));
        }
        wanted["clip"] = json!({"x": place["left"], "y": place["top"], "width": place["width"],
            "height": place["height"], "scale": 1});
        wanted["captureBeyondViewport"] = json!(true);
    }
    let shown = page.place_allowed().await?;
    let mut taken = page.ask("Page.captureScreenshot", wanted, left(until)).await?;
    let Value::String(encoded) = taken["data"].take() else {
        return Err(Fault::Other("the browser gave no picture".to_owned()));
    };
    let picture = STANDARD.decode(&encoded).unwrap_or_default();
    if picture.is_empty() || picture.len() > LARGEST_PICTURE {
        return Err(Fault::Other("the picture is empty or too large".to_owned()));
    }
    Ok(Done {
        output: json!({"success": true, "screenshot": encoded, "format": "png", "url": shown.url}),
        picture: Some(picture.into()),
    })
}

async fn extract(page: &Page, selector: Option<&str>, until: Instant) -> Result<Done, Fault> {
    let body = format!(
        "const t = e.innerText ?? e.textContent ?? ''; return {{content: t.slice(0, {LONGEST}), \
         truncated: t.length > {LONGEST}}};"
    );
    let shown = page.place_allowed().await?;
    let found = element(page, selector.unwrap_or("body"), &body, until).await?;
    let content = found["content"].as_str().unwrap_or_default();
    let content = &content[..content.floor_char_boundary(LONGEST)];
    let mut output = json!({"success": true, "content": content, "url": shown.url, "title": shown.title});
    if found["truncated"] == true {
        output["truncated"] = json!(true);
    }
    Ok(Done::plain(output))
}

async fn execute(page: &Page, javascript: &str, until: Instant) -> Result<Done, Fault> {
    let events = page.events()?;
    let result = match page.evaluate(javascript, left(until)).await {
        // The body of a function, as many write it.
        Err(Fault::Script(said))
            if said.contains("Illegal return") || said.contains("await is only valid") =>
        {
            let wrapped = format!("(async () => {{ {javascript}\n }})()");
            page.evaluate(&wrapped, left(until)).await
        }
        other => other,
    };
    // A script that leads elsewhere loses its own answer.
    let led_away = matches!(&result, Err(Fault::Other(said)) if said.contains("navigated or closed") || said.contains("context was destroyed"));
    let result = if led_away { Value::Null } else { result? };
    page.settled(events, until).await?;
    page.place_allowed().await?;
    if result.to_string().len() > LONGEST {
        return Err(Fault::Other("the result is larger than 1 MiB".to_owned()));
    }
    Ok(Done::plain(json!({"success": true, "result": result})))
}
