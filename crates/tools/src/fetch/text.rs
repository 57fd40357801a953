//! A page's bytes to text. Pages are hostile: what would make the reader of HTML deep or its text wide is read plainly.

use bytes::Bytes;
use html2text::config;

/// Width of the text of an HTML page.
const WIDTH: usize = 100;
/// Open elements that the reader of HTML is trusted with, and those of them that indent.
const MAX_DEPTH: usize = 256;
const MAX_INDENT: usize = 8;
/// A title is looked for in the beginning only.
const HEAD: usize = 65_536;
const MAX_TITLE: usize = 300;
/// Elements without an end.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];
/// Elements that end where the next of their kind begins.
const SELF_ENDING: [&str; 9] = ["p", "li", "dt", "dd", "tr", "td", "th", "option", "tbody"];
const INDENTING: [&str; 6] = ["blockquote", "ul", "ol", "dl", "dd", "table"];

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Html,
    Plain,
    /// Nothing was said of it.
    Unsaid,
    Other,
}

impl Form {
    pub(super) fn of(content_type: Option<&str>) -> Self {
        let essence = content_type.map(essence).unwrap_or_default();
        match essence.as_str() {
            "" => Self::Unsaid,
            "text/html" | "application/xhtml+xml" => Self::Html,
            "application/json"
            | "application/xml"
            | "application/javascript"
            | "application/ecmascript"
            | "application/x-ndjson"
            | "application/yaml"
            | "application/x-yaml"
            | "application/toml" => Self::Plain,
            other if other.starts_with("text/") || other.ends_with("+json") || other.ends_with("+xml") => {
                Self::Plain
            }
            _ => Self::Other,
        }
    }
}

/// What is told of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) title: Option<String>,
    pub(super) text: String,
    /// The text was longer than the limit.
    pub(super) truncated: bool,
}

/// The text of a body, of at most `max_bytes`; nothing when it is no text. Large pages take a while: done aside.
pub(super) async fn page(
    bytes: Bytes,
    form: Form,
    content_type: Option<String>,
    max_bytes: usize,
) -> Option<Page> {
    let work = tokio::task::spawn_blocking(move || read(&bytes, form, content_type.as_deref(), max_bytes));
    work.await.ok().flatten()
}

fn read(bytes: &[u8], form: Form, content_type: Option<&str>, max_bytes: usize) -> Option<Page> {
    let source = decode(bytes, content_type)?;
    let looks_like_html = || source.trim_start().starts_with('<');
    let html = form == Form::Html || (form == Form::Unsaid && looks_like_html());
    let (title, mut text) = if html {
        (title(&source), html_text(&source))
    } else {
        (None, source)
    };
    let truncated = text.len() > max_bytes;
    if truncated {
        text.truncate(text.floor_char_boundary(max_bytes));
    }
    Some(Page {
        title,
        text,
        truncated,
    })
}

fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// UTF-8, but for what says that it is Latin. Bytes of programs and pictures are no text.
fn decode(bytes: &[u8], content_type: Option<&str>) -> Option<String> {
    if bytes.contains(&0) {
        return None;
    }
    let said = content_type.unwrap_or_default().to_ascii_lowercase();
    let latin = ["iso-8859-1", "windows-1252", "latin1", "us-ascii"];
    let is_latin = said.split("charset=").nth(1).is_some_and(|charset| {
        latin
            .iter()
            .any(|name| charset.trim_matches(['"', ' ']).starts_with(name))
    });
    if is_latin && std::str::from_utf8(bytes).is_err() {
        return Some(bytes.iter().map(|byte| char::from(*byte)).collect());
    }
    Some(
        String::from_utf8_lossy(bytes)
            .trim_start_matches('\u{feff}')
            .to_owned(),
    )
}

fn html_text(source: &str) -> String {
    if is_tame(source)
        && let Ok(text) = rendered(source)
    {
        return text;
    }
    stripped(source)
}

fn rendered(source: &str) -> Result<String, html2text::Error> {
    config::plain()
        .raw_mode(true)
        .allow_width_overflow()
        .no_link_wrapping()
        .string_from_read(source.as_bytes(), WIDTH)
}

fn title(source: &str) -> Option<String> {
    let head = source.get(..source.floor_char_boundary(HEAD))?;
    let small = head.to_ascii_lowercase();
    let start = small.find("<title")?;
    let open = start + small.get(start..)?.find('>')? + 1;
    let end = open + small.get(open..)?.find("</title")?;
    let inner = head.get(open..end)?.replace('<', "&lt;");
    let plain = rendered(&inner).unwrap_or(inner);
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    (!words.is_empty()).then(|| words.chars().take(MAX_TITLE).collect())
}

/// The tags of a page: name, and whether it is an end. Cut short where a tag does not end.
fn tags(source: &str) -> impl Iterator<Item = (String, bool)> {
    source.split('<').skip(1).filter_map(|piece| {
        let (end, rest) = match piece.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, piece),
        };
        let length = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let name = rest.get(..length.min(16))?;
        (!name.is_empty()).then(|| (name.to_ascii_lowercase(), end))
    })
}

/// Whether the open elements stay few: counted so that a page can look deeper than it is, but hardly shallower.
fn is_tame(source: &str) -> bool {
    let mut open: Vec<String> = Vec::new();
    for (name, end) in tags(source) {
        let name_is = |other: &String| *other == name;
        if end {
            if let Some(place) = open.iter().rposition(name_is) {
                open.truncate(place);
            }
            continue;
        }
        let known = name.as_str();
        if VOID.contains(&known) || (SELF_ENDING.contains(&known) && open.last().is_some_and(name_is)) {
            continue;
        }
        open.push(name);
        let indent = open
            .iter()
            .filter(|name| INDENTING.contains(&name.as_str()))
            .count();
        if open.len() > MAX_DEPTH || indent > MAX_INDENT {
            return false;
        }
    }
    true
}

/// What stands between tags, without scripts and styles.
fn stripped(source: &str) -> String {
    let mut text = String::new();
    let mut hidden: Option<String> = None;
    for piece in source.split('<') {
        let (tag, words) = piece.split_once('>').unwrap_or(("", piece));
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .take(16)
            .collect::<String>()
            .to_ascii_lowercase();
        match &hidden {
            Some(inside) if tag.starts_with('/') && *inside == name => hidden = None,
            Some(_) => continue,
            None if name == "script" || name == "style" => {
                hidden = Some(name);
                continue;
            }
            None => {}
        }
        let words = words.trim();
        if !words.is_empty() {
            text.push_str(words);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(source: &str) -> Page {
        read(source.as_bytes(), Form::Html, Some("text/html"), 4_000_000).unwrap()
    }

    #[test]
    fn a_page_becomes_its_words() {
        let page = html(
            "<!doctype html><html><head><title> Tea &amp;\n cake </title><style>p{color:red}</style></head>
             <body><script>alert('no')</script><h1>Menu</h1><p>Green <b>tea</b></p><ul><li>one<li>two</ul>
             <a href='https://example.org/x'>more</a></body></html>",
        );
        assert_eq!(page.title.as_deref(), Some("Tea & cake"));
        for words in [
            "Menu",
            "Green",
            "tea",
            "one",
            "two",
            "more",
            "https://example.org/x",
        ] {
            assert!(page.text.contains(words), "{words} in {}", page.text);
        }
        assert!(
            !page.text.contains("alert") && !page.text.contains("color"),
            "{}",
            page.text
        );
    }

    #[test]
    fn other_texts_stay_as_they_are_and_bytes_are_none() {
        let json = read(b"{\"a\": 1}\n", Form::Plain, Some("application/json"), 100).unwrap();
        assert_eq!((json.title, json.text.as_str()), (None, "{\"a\": 1}\n"));
        assert_eq!(
            read(b"PK\x03\x04\x00\x00", Form::Plain, Some("text/plain"), 100),
            None
        );
        let latin = read(
            b"caf\xe9",
            Form::Plain,
            Some("text/plain; charset=ISO-8859-1"),
            100,
        )
        .unwrap();
        assert_eq!(latin.text, "café");
        let broken = read(b"caf\xe9", Form::Plain, Some("text/plain"), 100).unwrap();
        assert_eq!(broken.text, "caf\u{fffd}");
        let unsaid = read(b" <p>words</p>", Form::Unsaid, None, 100).unwrap();
        assert_eq!(unsaid.text.trim(), "words");
        let cut = read("äääää".as_bytes(), Form::Plain, Some("text/plain"), 5).unwrap();
        assert_eq!((cut.text.as_str(), cut.truncated), ("ää", true));
    }

    #[test]
    fn types_are_told_apart() {
        for (content_type, form) in [
            (None, Form::Unsaid),
            (Some("TEXT/HTML; charset=utf-8"), Form::Html),
            (Some("application/ld+json"), Form::Plain),
            (Some("image/svg+xml"), Form::Plain),
            (Some("text/csv"), Form::Plain),
            (Some("image/png"), Form::Other),
            (Some("application/pdf"), Form::Other),
            (Some("application/octet-stream"), Form::Other),
        ] {
            assert_eq!(Form::of(content_type), form, "{content_type:?}");
        }
    }

    #[test]
    fn hostile_pages_end_and_stay_small() {
        let many = |piece: &str| piece.repeat(100_000 / piece.len());
        for (name, source) in [
            ("deep", many("<div>") + "words"),
            ("quotes", many("<blockquote>") + "words"),
            ("quoted lines", "<blockquote>".repeat(8) + &many("<p>a")),
            ("lists", many("<ul><li>")),
            ("tables", many("<table><tr><td>")),
            ("cells", "<table><tr>".to_owned() + &many("<td>a")),
            ("rows", "<table>".to_owned() + &many("<tr><td>a<td>b")),
            ("ends that end nothing", many("<b></x>")),
            ("formatting", many("<b><i><u><p>")),
            ("open", many("<")),
            ("attribute", "<a href='".to_owned() + &many("x")),
            ("comment", "<!--".to_owned() + &many("-")),
            ("entities", many("&amp;&#x41;")),
            ("one word", many("x")),
            (
                "spans",
                "<table>".to_owned() + &many("<tr><td colspan=1000 rowspan=1000>a"),
            ),
            ("numbers", many("<ol start=9999999999999999999><li>")),
            ("svg", many("<svg><g>")),
            ("templates", many("<template>")),
        ] {
            let page = html(&source);
            assert!(page.text.len() < 4_000_001, "{name}");
        }
    }
}
