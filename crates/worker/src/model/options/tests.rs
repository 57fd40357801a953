//! From settings to the model that answers.

use super::*;
use agent::ports::Model;
use clap::{CommandFactory, Parser};

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    model: ModelOptions,
}

fn connect(arguments: &[&str]) -> Result<WithRetries, SetupError> {
    let program = Program::parse_from([&["program"], arguments].concat());
    program.model.connect(Arc::new(domain::SystemClock))
}

fn identity(arguments: &[&str]) -> (String, String) {
    connect(arguments).unwrap().identity()
}

#[test]
fn the_first_vendor_with_a_key_or_base_url_is_taken() {
    let anthropic = ("anthropic".to_owned(), "claude-sonnet-4-20250514".to_owned());
    let openai = |model: &str| ("openai".to_owned(), model.to_owned());
    assert_eq!(
        identity(&["--anthropic-api-key=a", "--openai-api-key=o"]),
        anthropic
    );
    assert_eq!(
        identity(&["--anthropic-api-key=", "--openai-api-key=o"]),
        openai("gpt-4o")
    );
    let local = ["--openai-base-url=http://localhost:1", "--llm-default-model=qwen"];
    assert_eq!(identity(&local), openai("qwen"));
}

#[test]
fn without_any_model_the_settings_are_named() {
    let text = connect(&["--llm-primary-provider="]).unwrap_err().to_string();
    for name in [
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "LLM_PRIMARY_PROVIDER",
    ] {
        assert!(text.contains(name), "{text}");
    }
    for (provider, setting) in [
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("openai", "OPENAI_API_KEY"),
        ("recorded", "LLM_CASSETTE_DIR"),
        ("gpt", "must be anthropic, openai, recorded or scripted"),
    ] {
        let argument = format!("--llm-primary-provider={provider}");
        let text = connect(&[&argument]).unwrap_err().to_string();
        assert!(text.contains(setting), "{text}");
    }
}

#[test]
fn the_scripted_model_says_that_it_is_offline() {
    let model = connect(&["--llm-primary-provider=Scripted", "--anthropic-api-key=a"]).unwrap();
    assert_eq!(model.identity().0, "scripted");
    assert!(model.describe().starts_with("offline scripted model"));
}

#[test]
fn the_fallback_needs_the_other_key_and_may_be_off() {
    let both = ["--anthropic-api-key=a", "--openai-api-key=o"];
    assert!(connect(&both).unwrap().describe().contains("fallback"));
    let off = [&both[..], &["--llm-fallback-enabled=false"]].concat();
    assert!(!connect(&off).unwrap().describe().contains("fallback"));
    let empty = [
        &both[..],
        &["--llm-fallback-enabled=", "--llm-stream-idle-seconds="],
    ]
    .concat();
    assert!(connect(&empty).unwrap().describe().contains("fallback"));
    let base_only = ["--anthropic-api-key=a", "--openai-base-url=http://h"];
    assert!(!connect(&base_only).unwrap().describe().contains("fallback"));
}

#[test]
fn every_setting_has_its_name_in_the_environment_and_secrets_are_hidden() {
    let command = Program::command();
    let names: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()).collect();
    assert_eq!(
        names,
        [
            "LLM_PRIMARY_PROVIDER",
            "LLM_DEFAULT_MODEL",
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_BASE_URL",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "LLM_SCRIPT_FILE",
            "LLM_CASSETTE_DIR",
            "LLM_CASSETTE_RECORD",
            "LLM_FALLBACK_ENABLED",
            "LLM_FALLBACK_MODEL",
            "LLM_PRICES_FILE",
            "LLM_STREAM_IDLE_SECONDS",
        ]
    );
    let secret = |arg: &&clap::Arg| arg.get_id().as_str().ends_with("api_key");
    let mut secrets = command.get_arguments().filter(secret);
    assert!(secrets.all(clap::Arg::is_hide_env_values_set));
}

#[test]
fn keys_do_not_show() {
    let program = Program::parse_from(["program", "--anthropic-api-key=tops3cret"]);
    assert!(!format!("{program:?}").contains("tops3cret"));
    let model = program.model.connect(Arc::new(domain::SystemClock)).unwrap();
    assert!(!format!("{model:?}").contains("tops3cret"));
}
