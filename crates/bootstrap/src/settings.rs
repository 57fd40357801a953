//! Settings: the command line, then the environment, then `.env` in the working directory.
//!
//! Options are clap structs with `env` names. Three rules go beyond clap: an empty value counts as absent, `.env`
//! fills what the environment lacks, and every fault is reported at once, in one line each, with exit code 64.

use clap::{Arg, Command, Parser};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

/// Exit codes of every program.
pub mod exit {
    pub const OK: u8 = 0;
    /// Settings missing or wrong, or a wrong command line.
    pub const SETTINGS: u8 = 64;
    /// Postgres or the listen address was not to be had in time.
    pub const UNAVAILABLE: u8 = 69;
    /// Anything unforeseen.
    pub const INTERNAL: u8 = 70;
}

/// What is wrong with the settings, as pieces of text that name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// For example `REDIS_URL (or DRAGONFLY_HOST)`.
    pub missing: Vec<String>,
    /// For example `POOL_SIZE: invalid digit found in string`.
    pub invalid: Vec<String>,
}

impl Faults {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.invalid.is_empty()
    }

    pub fn missing(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }

    pub fn invalid(&mut self, what: impl Into<String>) {
        self.invalid.push(what.into());
    }

    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.missing.extend(other.missing);
        self.invalid.extend(other.invalid);
        self
    }
}

/// Checks that go beyond one value: required pairs, contradictions.
pub trait Validate {
    fn faults(&self) -> Faults;
}

/// Where values come from besides the command line.
#[derive(Debug, Clone, Default)]
pub struct Lookup(HashMap<String, String>);

impl Lookup {
    /// The process's environment, completed by `.env` in the working directory; empty values are left out.
    pub fn from_process() -> Self {
        let mut pairs =
            std::fs::read_to_string(Path::new(".env")).map_or_else(|_| vec![], |text| parse_dotenv(&text));
        let process = std::env::vars_os();
        pairs.extend(
            process.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        Self::from_pairs(pairs)
    }

    /// Later pairs win over earlier ones, unless they are empty.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// `NAME=value` lines; `#` comments, an optional `export ` and one pair of quotes around the value.
fn parse_dotenv(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        let name = name.trim();
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let value = value.trim();
        let quoted = |quote: char| {
            value
                .strip_prefix(quote)
                .and_then(|rest| rest.strip_suffix(quote))
        };
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Why a program does not start.
#[derive(Debug)]
pub enum Refusal {
    /// `--help`, `--version` or a wrong command line: clap's own text.
    CommandLine(clap::Error),
    Settings(Faults),
}

impl Refusal {
    /// Writes the message where it belongs and gives the exit code.
    pub fn report(&self) -> u8 {
        match self {
            Self::CommandLine(error) => {
                let shown = error.print().is_ok();
                if shown && !error.use_stderr() {
                    exit::OK
                } else {
                    exit::SETTINGS
                }
            }
            Self::Settings(faults) => {
                for line in fault_lines(faults) {
                    // Nothing is left to do when stderr itself is gone.
                    writeln!(std::io::stderr(), "{line}").unwrap_or_default();
                }
                exit::SETTINGS
            }
        }
    }
}

/// One line for what is missing, one for what is wrong.
pub fn fault_lines(faults: &Faults) -> Vec<String> {
    let mut lines = vec![];
    if !faults.missing.is_empty() {
        lines.push(format!(
            "missing required settings: {}",
            faults.missing.join(", ")
        ));
    }
    if !faults.invalid.is_empty() {
        lines.push(format!("invalid settings: {}", faults.invalid.join(", ")));
    }
    lines
}

/// Parses this process's command line and environment, or says what is wrong and exits.
pub fn parse<T: Parser + Validate>() -> T {
    parse_with(&[])
}

/// As [`parse`], with values that win over the environment's, for a program that is another one with settings.
pub fn parse_with<T: Parser + Validate>(fixed: &[(&str, &str)]) -> T {
    let mut env = Lookup::from_process();
    let fixed = fixed
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    env.0.extend(fixed);
    match try_parse(std::env::args_os(), &env) {
        Ok(options) => options,
        Err(refusal) => std::process::exit(i32::from(refusal.report())),
    }
}

/// As [`parse`], from given arguments and values.
pub fn try_parse<T: Parser + Validate>(
    args: impl IntoIterator<Item = OsString>,
    env: &Lookup,
) -> Result<T, Refusal> {
    let mut faults = Faults::default();
    let command = with_values(T::command(), env, &mut faults);
    let matches = command.try_get_matches_from(args).map_err(Refusal::CommandLine)?;
    let options = T::from_arg_matches(&matches).map_err(Refusal::CommandLine)?;
    let faults = options.faults().merge(faults);
    if faults.is_empty() {
        Ok(options)
    } else {
        Err(Refusal::Settings(faults))
    }
}

/// Takes the values of the lookup as defaults, so that the command line wins and `--help` keeps the env names.
fn with_values(command: Command, env: &Lookup, faults: &mut Faults) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    let command = command.mut_args(|arg| with_value(arg, env, faults));
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| with_values(sub, env, faults))
    })
}

fn with_value(arg: Arg, env: &Lookup, faults: &mut Faults) -> Arg {
    let Some(name) = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned) else {
        return arg;
    };
    // clap reads the environment itself when an argument keeps its name; an empty value must not reach it.
    let blind = |arg: Arg| {
        if std::env::var_os(&name).is_some() {
            arg.env(None::<&'static str>)
        } else {
            arg
        }
    };
    let Some(value) = env.get(&name) else {
        return blind(arg);
    };
    match refusal_of(&arg, value) {
        None => arg.env(None::<&'static str>).default_value(value.to_owned()),
        Some(reason) => {
            let fault = format!("{name}: {reason}");
            // A flattened group shows up once per subcommand that has it.
            if !faults.invalid.contains(&fault) {
                faults.invalid(fault);
            }
            blind(arg)
        }
    }
}

/// Why this argument refuses the value; clap checks defaults only in debug builds, and by a panic.
fn refusal_of(arg: &Arg, value: &str) -> Option<String> {
    let long = arg.get_long()?;
    let alone = arg
        .clone()
        .required(false)
        .global(false)
        .env(None::<&'static str>)
        .default_value(None::<&'static str>);
    let trial = Command::new("trial")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(alone);
    let error = trial
        .try_get_matches_from(["trial".to_owned(), format!("--{long}={value}")])
        .err()?;
    let source = std::error::Error::source(&error).map(ToString::to_string);
    Some(source.unwrap_or_else(|| format!("`{value}` is not allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        #[arg(long, env = "BOOT_TEST_URL")]
        url: Option<String>,
        #[arg(long, env = "BOOT_TEST_POOL", default_value_t = 20)]
        pool: u32,
        #[arg(long, env = "BOOT_TEST_GRACE", default_value_t = 25)]
        grace: u32,
        #[arg(long, env = "BOOT_TEST_ON", default_value_t = true, action = clap::ArgAction::Set)]
        on: bool,
    }

    impl Validate for Options {
        fn faults(&self) -> Faults {
            let mut faults = Faults::default();
            if self.url.is_none() {
                faults.missing("BOOT_TEST_URL");
            }
            faults
        }
    }

    fn parsed(args: &[&str], env: &[(&str, &str)]) -> Result<Options, Refusal> {
        let env = Lookup::from_pairs(env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let args = std::iter::once("prog")
            .chain(args.iter().copied())
            .map(OsString::from);
        try_parse(args, &env)
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_empty_counts_as_absent() {
        let options = parsed(
            &["--pool", "3"],
            &[
                ("BOOT_TEST_URL", "u"),
                ("BOOT_TEST_POOL", "9"),
                ("BOOT_TEST_GRACE", ""),
            ],
        );
        let options = options.unwrap();
        assert_eq!(
            (options.url.as_deref(), options.pool, options.grace, options.on),
            (Some("u"), 3, 25, true)
        );
        assert!(
            !parsed(&[], &[("BOOT_TEST_URL", "u"), ("BOOT_TEST_ON", "false")])
                .unwrap()
                .on
        );
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let env = [
            ("BOOT_TEST_POOL", "many"),
            ("BOOT_TEST_GRACE", "-1"),
            ("BOOT_TEST_ON", "perhaps"),
        ];
        let Err(Refusal::Settings(faults)) = parsed(&[], &env) else {
            panic!("must be refused")
        };
        assert_eq!(faults.missing, ["BOOT_TEST_URL"]);
        assert_eq!(faults.invalid.len(), 3, "{faults:?}");
        let lines = fault_lines(&faults);
        assert_eq!(lines[0], "missing required settings: BOOT_TEST_URL");
        assert!(
            lines[1].starts_with("invalid settings: BOOT_TEST_POOL: invalid digit"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_wrong_command_line_is_not_a_setting() {
        assert!(matches!(
            parsed(&["--nonsense"], &[]),
            Err(Refusal::CommandLine(_))
        ));
        assert!(matches!(parsed(&["--help"], &[]), Err(Refusal::CommandLine(_))));
    }

    #[test]
    fn dotenv_lines_are_read_with_quotes_comments_and_export() {
        let pairs = parse_dotenv("# c\nA=1\nexport B=\"x y\"\nC='z'\n\nbroken\nD=\n");
        let text: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(text, ["A=1", "B=x y", "C=z", "D="]);
    }
}
