//! Paths of files in a workspace, and the keys they have in the store.

use domain::files::WorkspaceError;
use domain::{RunId, UserId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeSet;
use std::fmt;

/// Longest path in bytes, after normalising.
pub(crate) const MAX_PATH_BYTES: usize = 512;
/// Longest part of a path that file systems take.
const MAX_NAME_BYTES: usize = 255;
/// Our own directory below a run's prefix.
pub const HIDDEN: &str = ".agent";

/// Left as they are in the user's part of a key.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A checked path, relative to the workspace's root: segments joined by single slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspacePath(String);

impl WorkspacePath {
    /// Checks and normalises (`./a//b` becomes `a/b`).
    ///
    /// # Errors
    /// [`WorkspaceError::InvalidPath`] when it is empty, absolute, names a directory (`a/`), has a segment `..` or
    /// `.agent`, has a backslash or a control character, or is longer than 512 bytes.
    pub fn parse(text: &str) -> Result<Self, WorkspaceError> {
        let path = Self::parse_dir(text)?;
        if path.is_empty() || text.ends_with('/') || text.ends_with("/.") {
            return Err(invalid(text));
        }
        Ok(Self(path))
    }

    /// The same for a directory; the root is `""`, `.` or `./`.
    pub(crate) fn parse_dir(text: &str) -> Result<String, WorkspaceError> {
        let forbidden = |char: char| char == '\\' || char.is_control();
        if text.starts_with('/') || text.contains(forbidden) {
            return Err(invalid(text));
        }
        let segments: Vec<&str> = text
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let path = segments.join("/");
        // Some systems fold case, so that `.AGENT` would be the same directory there.
        let ours = |part: &&str| *part == ".." || part.eq_ignore_ascii_case(HIDDEN);
        if segments.iter().any(ours) || path.len() > MAX_PATH_BYTES {
            return Err(invalid(text));
        }
        Ok(path)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories it is in: `a/b/c` has `a` and `a/b`.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }

    /// The content type told by the name.
    pub fn mime_type(&self) -> String {
        mime_guess::from_path(&self.0).first_or_octet_stream().to_string()
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn invalid(text: &str) -> WorkspaceError {
    WorkspaceError::InvalidPath(text.to_owned())
}

/// Whether one directory can hold all of these files: a store can have files that would be directories of others.
///
/// # Errors
/// [`WorkspaceError::InvalidPath`] with the first that it cannot hold, and why.
pub fn fit_directory<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<(), WorkspaceError> {
    let paths: BTreeSet<&str> = paths.into_iter().collect();
    for path in &paths {
        let below = format!("{path}/");
        let next = paths.range(below.as_str()..).next();
        if let Some(inside) = next.filter(|next| next.starts_with(&below)) {
            return Err(invalid(&format!(
                "{path} (it is a file, and {inside} is below it)"
            )));
        }
        if path.split('/').any(|part| part.len() > MAX_NAME_BYTES) {
            return Err(invalid(&format!("{path} (a name in it is too long)")));
        }
    }
    Ok(())
}

/// What the keys of a run's files start with; ends with a slash.
pub fn run_prefix(user_id: &UserId, run_id: RunId) -> String {
    let user = utf8_percent_encode(user_id.as_str(), PLAIN).to_string();
    // Dots stay readable in names and addresses, but a user called `..` must not be a step up for anyone.
    let user = if user.chars().all(|char| char == '.') {
        user.replace('.', "%2E")
    } else {
        user
    };
    format!("users/{user}/runs/{run_id}/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Option<String> {
        WorkspacePath::parse(text).ok().map(|path| path.0)
    }

    #[test]
    fn normalises_dots_and_slashes() {
        for (text, path) in [
            ("a", "a"),
            ("./a//b", "a/b"),
            ("a/./b.txt", "a/b.txt"),
            ("a..b/...", "a..b/..."),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(path), "{text}");
        }
        assert_eq!(parsed(&"x".repeat(512)).unwrap().len(), 512);
    }

    #[test]
    fn rejects_what_the_contract_names() {
        let long = "x".repeat(513);
        let paths = [
            "",
            ".",
            "./",
            "/a",
            "//a",
            "..",
            "a/..",
            "../a",
            "a/../b",
            ".agent",
            ".agent/x",
            "a/.agent/b",
        ];
        for text in paths
            .into_iter()
            .chain(["a\\b", "a\0b", "a\nb", ".AGENT/x", "a/", "a/.", long.as_str()])
        {
            let error = WorkspacePath::parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid path: {text}"));
        }
    }

    #[test]
    fn files_that_would_be_directories_of_others_fit_no_directory() {
        let told = |paths: &[&str]| fit_directory(paths.iter().copied()).map_err(|error| error.to_string());
        assert_eq!(told(&["a", "a.b", "a-b/c", "ab/c", "b/c", "b/d/e"]), Ok(()));
        let error = "Invalid path: d (it is a file, and d/f.txt is below it)";
        assert_eq!(told(&["d/f.txt", "d-e", "d"]), Err(error.to_owned()));
        assert!(told(&["a/b/c/d", "a/b"]).is_err());
        let long = "x".repeat(256);
        assert!(
            told(&[&long])
                .unwrap_err()
                .ends_with("(a name in it is too long)")
        );
    }

    #[test]
    fn users_are_encoded_where_needed() {
        let run: RunId = "11111111-2222-3333-4444-555555555555".parse().unwrap();
        for (user, part) in [
            ("u-1", "u-1"),
            ("auth0|7", "auth0%7C7"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("ü", "%C3%BC"),
        ] {
            let prefix = run_prefix(&UserId::from(user), run);
            assert_eq!(prefix, format!("users/{part}/runs/{run}/"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn keys_never_leave_the_prefix(text in "[a.\\\\/ %2e\u{0}\u{7f}~é-]{0,24}|\\PC{0,40}") {
            if let Some(path) = parsed(&text) {
                prop_assert!(!path.is_empty() && path.len() <= MAX_PATH_BYTES);
                for segment in path.split('/') {
                    prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                    prop_assert!(!segment.eq_ignore_ascii_case(".agent"));
                }
                prop_assert!(!path.contains(['\\', '\0']));
                // What a URL library makes of it stays below as well.
                let joined = std::path::Path::new("/root").join(&path);
                prop_assert!(joined.starts_with("/root"));
                prop_assert_eq!(parsed(&path), Some(path));
            }
        }

        #[test]
        fn a_user_is_one_segment(user in "\\PC{1,40}") {
            let prefix = run_prefix(&UserId(user), RunId(uuid::Uuid::nil()));
            prop_assert_eq!(prefix.split('/').count(), 5);
            prop_assert!(!prefix.contains("/../") && !prefix.contains("/./"));
        }
    }
}
