//! The command line of `agentctl files` and `agentctl workspace`.

use clap::{Args, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// `agentctl files`
#[derive(Debug, Args)]
#[command(after_help = "The action may also come first: `agentctl files zip last`.

Examples:
  agentctl files last
  agentctl files last get test.txt
  agentctl files last artifacts --json | jq -r .content_hash
  agentctl files last pull ./result
  agentctl files zip last -o result.zip
  curl -o test.txt \"$(agentctl files url last test.txt)\"")]
pub struct FilesArgs {
    /// Run id, or `last`
    pub run: String,
    #[command(subcommand)]
    pub action: Option<FilesAction>,
}

#[derive(Debug, Subcommand)]
pub enum FilesAction {
    /// List them (default)
    Ls {
        #[arg(long)]
        json: bool,
    },
    /// What the tools made, newest first: id, step, sha256, size, type, path
    Artifacts {
        /// One JSON object per line, as the API gives it
        #[arg(long)]
        json: bool,
    },
    /// Write one file to stdout; of an artifact, only when its sha256 is right
    Get {
        /// Path of a file, or id of an artifact
        #[arg(value_name = "PATH|ARTIFACT")]
        path: String,
    },
    /// Copy all into a directory
    Pull { dir: PathBuf },
    /// Fetch all as one zip
    Zip {
        /// Where to; `-` is stdout [default: run-RUN.zip]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print an address that gives one file to whoever has it, for a short time
    Url { path: String },
}

/// Actions that may stand before the run.
const ACTIONS: [&str; 6] = ["ls", "artifacts", "get", "pull", "zip", "url"];

/// Puts the run of `files ACTION RUN` before the action, where the command line expects it: no run has such a name.
pub fn run_first(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut place = 1;
    while let Some(text) = args.get(place).and_then(|arg| arg.to_str()) {
        match text {
            "--home" => place += 2,
            option if option.starts_with("--home=") => place += 1,
            _ => break,
        }
    }
    let at = |offset: usize| args.get(place + offset).and_then(|arg| arg.to_str());
    let is_action = at(1).is_some_and(|word| ACTIONS.contains(&word));
    let names_run = at(2).is_some_and(|word| !word.starts_with('-'));
    if args.get(place).map(OsString::as_os_str) == Some(OsStr::new("files")) && is_action && names_run {
        args.swap(place + 1, place + 2);
    }
    args
}

/// `agentctl workspace`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentctl workspace gc --dry-run --older-than 30d")]
pub struct WorkspaceArgs {
    #[command(subcommand)]
    pub action: WorkspaceAction,
}

#[derive(Debug, Subcommand)]
pub enum WorkspaceAction {
    /// Delete the files of ended runs that are past their time
    #[command(
        after_help = "What is past its time is said by WORKSPACE_RETENTION_*, as for the workers, or by --older-than. A run that ended
within the last minute, and one whose files a retry is still to copy, are left alone.

Examples:
  agentctl workspace gc --dry-run
  agentctl workspace gc --older-than 30d
  agentctl workspace gc --orphans --dry-run --json"
    )]
    Gc(GcArgs),
}

/// `agentctl workspace gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// All runs that ended so long ago, instead of the settings: 12h, 30d
    #[arg(long, value_name = "TIME", value_parser = super::queue::duration)]
    pub older_than: Option<jiff::SignedDuration>,
    /// Also files of runs that are not in the database and older than a day; not in a bucket that others use, too
    #[arg(long)]
    pub orphans: bool,
    /// One JSON object per run, then the total
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swapped(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let words: Vec<String> = run_first(args)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn the_action_may_come_before_the_run() {
        assert_eq!(
            swapped("agentctl files zip last -o x"),
            "agentctl files last zip -o x"
        );
        assert_eq!(
            swapped("agentctl --home d files url last a"),
            "agentctl --home d files last url a"
        );
        assert_eq!(
            swapped("agentctl files artifacts last --json"),
            "agentctl files last artifacts --json"
        );
        for same in [
            "agentctl files last",
            "agentctl files last zip",
            "agentctl files zip",
            "agentctl files zip --help",
            "agentctl run files zip last",
        ] {
            assert_eq!(swapped(same), same);
        }
    }
}
