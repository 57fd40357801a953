//! Taking a prompt apart: words, separators, quotes, backticks, file names. All functions give what they found and
//! the rest of the text.

/// Words an instruction may begin with or follow upon.
const FILLERS: [&str; 29] = [
    "and",
    "then",
    "please",
    "kindly",
    "also",
    "first",
    "second",
    "next",
    "finally",
    "lastly",
    "now",
    "afterwards",
    "can",
    "could",
    "would",
    "will",
    "you",
    "i",
    "want",
    "need",
    "to",
    "just",
    "let's",
    "me",
    "hey",
    "hi",
    "hello",
    "after",
    "that",
];

/// Words that may stand between a verb and its file name.
const FILE_FILLERS: [&str; 19] = [
    "a", "an", "the", "new", "empty", "simple", "small", "text", "file", "document", "called", "named", "to",
    "into", "in", "of", "my", "content", "contents",
];

/// Quotes and backticks hide separators up to this length (bytes).
const MAX_OPAQUE_BYTES: usize = 1024;

/// Punctuation around a word, but for the dot.
const MARKS: [char; 8] = [':', '!', '?', '"', '\'', '(', ')', '*'];

/// A file's extension has at most this many characters.
const MAX_EXTENSION_CHARS: usize = 10;

/// The next word without the punctuation around it, and what follows; both empty at the end of the clause.
pub(super) fn word(text: &str) -> (&str, &str) {
    let (piece, rest) = piece(text);
    (piece.trim_matches(ends_piece), rest)
}

/// The next word with the punctuation around it.
fn piece(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '`'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn ends_piece(c: char) -> bool {
    c == '.' || MARKS.contains(&c)
}

/// Passes over these words, in any order and number; quoted ones stay.
pub(super) fn skip_words<'a>(text: &'a str, fillers: &[&str]) -> &'a str {
    let mut rest = text;
    loop {
        let (next, after) = word(rest);
        let is_quoted = rest.trim_start().starts_with(['"', '\'', '“', '«', '‘']);
        if is_quoted || next.is_empty() || !fillers.contains(&next.to_lowercase().as_str()) {
            return rest;
        }
        rest = after;
    }
}

/// Passes over separators, list marks (`-`, `1.`) and polite words.
pub(super) fn skip_fillers(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || ",;.:!?-*&".contains(c));
        let (next, after) = word(rest);
        let is_number = !next.is_empty() && next.chars().all(|c| c.is_ascii_digit());
        if next.is_empty() || !(is_number || FILLERS.contains(&next.to_lowercase().as_str())) {
            return rest;
        }
        rest = after;
    }
}

/// The next separator outside of quotes and backticks: where it starts, and the text after it.
pub(super) fn boundary(text: &str) -> Option<(usize, &str)> {
    let mut at = 0;
    let mut after_space = true;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if let Some(length) = opaque(rest, c) {
            at += length;
            after_space = false;
            continue;
        }
        let next = &rest[c.len_utf8()..];
        let sentence_end = matches!(c, '.' | '!' | '?' | ':') && next.starts_with(char::is_whitespace);
        if matches!(c, ',' | ';' | '\n') || sentence_end {
            return Some((at, next));
        }
        if after_space && let Some(length) = joining_word(rest) {
            return Some((at, &rest[length..]));
        }
        after_space = c.is_whitespace();
        at += c.len_utf8();
    }
    None
}

/// Length of `and` or `then` as a whole word at the start.
fn joining_word(text: &str) -> Option<usize> {
    ["and", "then"].iter().map(|word| word.len()).find(|length| {
        let Some(head) = text.get(..*length) else {
            return false;
        };
        let ends = text[*length..]
            .chars()
            .next()
            .is_none_or(|c| c.is_whitespace() || c == ',');
        ends && (head.eq_ignore_ascii_case("and") || head.eq_ignore_ascii_case("then"))
    })
}

/// Length of a quoted or backticked piece at the start, in which separators mean nothing. Looked for only so far that
/// a prompt of unclosed quotes stays cheap.
fn opaque(text: &str, first: char) -> Option<usize> {
    if !matches!(first, '`' | '"' | '“' | '«') {
        return None;
    }
    let text = &text[..text.floor_char_boundary(MAX_OPAQUE_BYTES)];
    let after = match first {
        '`' => code_span(text)?.1,
        _ => quoted(text)?.1,
    };
    Some(text.len() - after.len())
}

/// A text in quotes at the start; a single quote ends only where the word ends, as in `'it's'`.
pub(super) fn quoted(text: &str) -> Option<(&str, &str)> {
    let open = text.chars().next()?;
    let close = match open {
        '"' | '\'' | '`' => open,
        '“' => '”',
        '«' => '»',
        '‘' => '’',
        _ => return None,
    };
    let inner = &text[open.len_utf8()..];
    let end = inner.char_indices().find_map(|(at, c)| {
        let after = &inner[at + c.len_utf8()..];
        let ends_word = !after.starts_with(char::is_alphanumeric);
        (c == close && ends_word).then_some(at)
    })?;
    Some((&inner[..end], &inner[end + close.len_utf8()..]))
}

/// Code between backticks at the start, any number of them; a fence's language line is left out.
pub(super) fn code_span(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start().trim_start_matches(':').trim_start();
    let ticks = text.len() - text.trim_start_matches('`').len();
    let inner = &text[ticks..];
    let fence = &text[..ticks];
    if ticks == 0 {
        return None;
    }
    let end = inner.find(fence)?;
    let mut code = &inner[..end];
    if ticks >= 3
        && let Some((language, body)) = code.split_once('\n')
        && language.trim().chars().all(char::is_alphanumeric)
    {
        code = body.trim_end();
    }
    let code = code.trim();
    (!code.is_empty()).then(|| (code.to_owned(), &inner[end + ticks..]))
}

/// The file named after a verb, articles and the like passed over.
pub(super) fn file_name(text: &str) -> Option<(String, &str)> {
    let rest = skip_words(text, &FILE_FILLERS).trim_start();
    if let Some((name, after)) = quoted(rest) {
        return is_file(name).then(|| (name.to_owned(), after));
    }
    let (piece, after) = piece(rest);
    // Dots before a name belong to it: `../a.txt` must not become another file.
    let name = piece.trim_start_matches(MARKS).trim_end_matches(ends_piece);
    is_file(name).then(|| (name.to_owned(), after))
}

/// A name with an extension; not a number, not a URL.
fn is_file(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else {
        return false;
    };
    let good_extension = (1..=MAX_EXTENSION_CHARS).contains(&extension.len())
        && extension.chars().all(|c| c.is_ascii_alphanumeric());
    let is_number = name.parse::<f64>().is_ok();
    good_extension
        && !is_number
        && !name.contains("://")
        && stem.ends_with(|c: char| c.is_alphanumeric() || "_-)".contains(c))
}
