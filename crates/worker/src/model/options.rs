//! The settings of the model and what is made of them. An empty value counts as absent (AA-106).

use super::{AnyModel, Recorded, Recording, RetryWaits, Scripted, SetupError, Vendor, VendorOptions};
use super::{WithRetries, anthropic, openai};
use domain::redact::url_password;
use domain::{Clock, Prices};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Default of `LLM_STREAM_IDLE_SECONDS` (seconds).
const STREAM_IDLE_SECONDS: u64 = 90;

/// Which language model answers and how it is reached.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Language model")]
pub struct ModelOptions {
    /// anthropic, openai (any compatible endpoint), recorded or scripted [default: the first of anthropic and
    /// openai whose key, or OPENAI_BASE_URL, is set]
    #[arg(long, env = "LLM_PRIMARY_PROVIDER")]
    pub llm_primary_provider: Option<String>,
    /// Model name [default: claude-sonnet-4-20250514 for anthropic, gpt-4o for openai]
    #[arg(long, env = "LLM_DEFAULT_MODEL")]
    pub llm_default_model: Option<String>,
    #[arg(long, env = "ANTHROPIC_API_KEY", hide_env_values = true)]
    pub anthropic_api_key: Option<SecretString>,
    /// With or without `/v1` [default: `https://api.anthropic.com`]
    #[arg(long, env = "ANTHROPIC_BASE_URL", hide_env_values = true)]
    pub anthropic_base_url: Option<SecretString>,
    /// Not needed where OPENAI_BASE_URL names a server that takes none
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub openai_api_key: Option<SecretString>,
    /// With or without `/v1` [default: `https://api.openai.com/v1`]
    #[arg(long, env = "OPENAI_BASE_URL", hide_env_values = true)]
    pub openai_base_url: Option<SecretString>,
    /// JSON or YAML file with `script` and optional `plan`, for the scripted model
    #[arg(long, env = "LLM_SCRIPT_FILE")]
    pub llm_script_file: Option<String>,
    /// Directory of the recorded replies
    #[arg(long, env = "LLM_CASSETTE_DIR")]
    pub llm_cassette_dir: Option<String>,
    /// Write each live reply to LLM_CASSETTE_DIR
    #[arg(long, env = "LLM_CASSETTE_RECORD", default_value = "false", value_parser = off_unless_true,
        action = clap::ArgAction::Set)]
    pub llm_cassette_record: bool,
    /// Ask the other vendor once when this one fails for good and the other's key is set
    #[arg(long, env = "LLM_FALLBACK_ENABLED", default_value = "true", value_parser = on_unless_false,
        action = clap::ArgAction::Set)]
    pub llm_fallback_enabled: bool,
    /// The other vendor's model [default: its default model]
    #[arg(long, env = "LLM_FALLBACK_MODEL")]
    pub llm_fallback_model: Option<String>,
    /// JSON file with prices that go before the built-in table:
    /// `[{"model","from"?,"input","cached_input"?,"cache_write"?,"output"}]`, dollars per million tokens
    #[arg(long, env = "LLM_PRICES_FILE")]
    pub llm_prices_file: Option<String>,
    /// Give a stream up after this silence (seconds)
    #[arg(long, env = "LLM_STREAM_IDLE_SECONDS", default_value = "90", value_parser = idle_seconds)]
    pub llm_stream_idle_seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    Anthropic,
    OpenAi,
    Recorded,
    Scripted,
}

impl ModelOptions {
    /// What of these settings must never be shown.
    pub fn secrets(&self) -> Vec<String> {
        let keys = [&self.anthropic_api_key, &self.openai_api_key];
        let keys = keys
            .into_iter()
            .flatten()
            .map(|key| key.expose_secret().to_owned());
        let urls = [&self.anthropic_base_url, &self.openai_base_url];
        let in_urls = urls
            .into_iter()
            .flatten()
            .filter_map(|url| url_password(url.expose_secret()));
        keys.chain(in_urls).collect()
    }

    /// Makes the model; no network.
    ///
    /// # Errors
    /// Names the settings that are missing or wrong.
    pub fn connect(&self, clock: Arc<dyn Clock>) -> Result<WithRetries, SetupError> {
        let prices = self.prices()?;
        let provider = self.provider()?;
        let recording = self.llm_cassette_record;
        let at = clock.clone();
        let (model, fallback) = match provider {
            Provider::Scripted => (AnyModel::Scripted(self.scripted()?), None),
            Provider::Recorded if recording => (self.recording(self.by_key()?, clock)?, None),
            Provider::Recorded => (AnyModel::Recorded(Recorded::new(self.cassette_dir()?)?), None),
            // A recording must not mix two vendors' replies.
            live if recording => (self.recording(live, clock)?, None),
            live => (
                AnyModel::Vendor(self.primary(live, clock.clone())?),
                self.fallback(live, clock)?.map(AnyModel::Vendor),
            ),
        };
        Ok(WithRetries::new(model, fallback, RetryWaits::default()).with_prices(prices, at))
    }

    fn prices(&self) -> Result<Prices, SetupError> {
        let Some(path) = text(self.llm_prices_file.as_deref()) else {
            return Ok(Prices::default());
        };
        let fault = |reason: String| SetupError::PricesFile {
            path: path.to_owned(),
            reason,
        };
        let content = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let content = serde_json::from_slice(&content).map_err(|error| fault(error.to_string()))?;
        Prices::with_own(&content).map_err(|error| fault(error.to_string()))
    }

    fn provider(&self) -> Result<Provider, SetupError> {
        match text(self.llm_primary_provider.as_deref()) {
            None => self.by_key(),
            Some(name) => match name.to_ascii_lowercase().as_str() {
                "anthropic" => Ok(Provider::Anthropic),
                "openai" => Ok(Provider::OpenAi),
                "recorded" => Ok(Provider::Recorded),
                "scripted" => Ok(Provider::Scripted),
                _ => Err(SetupError::UnknownProvider(name.to_owned())),
            },
        }
    }

    /// The first vendor whose key, or `OPENAI_BASE_URL`, is set.
    fn by_key(&self) -> Result<Provider, SetupError> {
        if secret(self.anthropic_api_key.as_ref()).is_some() {
            Ok(Provider::Anthropic)
        } else if self.openai_is_set() {
            Ok(Provider::OpenAi)
        } else {
            Err(SetupError::Missing {
                what: "the language model",
                settings: "ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENAI_BASE_URL \
                           (or LLM_PRIMARY_PROVIDER=scripted to work offline)",
            })
        }
    }

    fn openai_is_set(&self) -> bool {
        secret(self.openai_api_key.as_ref()).is_some() || secret(self.openai_base_url.as_ref()).is_some()
    }

    fn primary(&self, provider: Provider, clock: Arc<dyn Clock>) -> Result<Vendor, SetupError> {
        if provider == Provider::Anthropic && secret(self.anthropic_api_key.as_ref()).is_none() {
            return Err(SetupError::Missing {
                what: "the provider anthropic",
                settings: "ANTHROPIC_API_KEY",
            });
        }
        if provider == Provider::OpenAi && !self.openai_is_set() {
            return Err(SetupError::Missing {
                what: "the provider openai",
                settings: "OPENAI_API_KEY or OPENAI_BASE_URL",
            });
        }
        self.vendor(provider, self.llm_default_model.as_deref(), clock)
    }

    /// The other vendor, when wanted and its key is set.
    fn fallback(&self, primary: Provider, clock: Arc<dyn Clock>) -> Result<Option<Vendor>, SetupError> {
        let (other, key) = match primary {
            Provider::Anthropic => (Provider::OpenAi, secret(self.openai_api_key.as_ref())),
            _ => (Provider::Anthropic, secret(self.anthropic_api_key.as_ref())),
        };
        if !self.llm_fallback_enabled || key.is_none() {
            return Ok(None);
        }
        self.vendor(other, self.llm_fallback_model.as_deref(), clock)
            .map(Some)
    }

    fn vendor(
        &self,
        provider: Provider,
        model: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Result<Vendor, SetupError> {
        let is_anthropic = provider == Provider::Anthropic;
        let (default_model, api_key, base_url) = if is_anthropic {
            (
                anthropic::DEFAULT_MODEL,
                &self.anthropic_api_key,
                &self.anthropic_base_url,
            )
        } else {
            (openai::DEFAULT_MODEL, &self.openai_api_key, &self.openai_base_url)
        };
        let options = VendorOptions {
            model: text(model).unwrap_or(default_model).to_owned(),
            key: secret(api_key.as_ref()).cloned(),
            base_url: secret(base_url.as_ref()).cloned(),
            idle: Duration::from_secs(self.llm_stream_idle_seconds),
        };
        Ok(if is_anthropic {
            Vendor::Anthropic(super::Anthropic::new(&options, clock)?)
        } else {
            Vendor::OpenAi(super::OpenAi::new(&options, clock)?)
        })
    }

    fn recording(&self, provider: Provider, clock: Arc<dyn Clock>) -> Result<AnyModel, SetupError> {
        let vendor = self.primary(provider, clock)?;
        Ok(AnyModel::Recording(Recording::new(vendor, self.cassette_dir()?)))
    }

    fn cassette_dir(&self) -> Result<PathBuf, SetupError> {
        text(self.llm_cassette_dir.as_deref())
            .map(PathBuf::from)
            .ok_or(SetupError::Missing {
                what: "the provider recorded",
                settings: "LLM_CASSETTE_DIR",
            })
    }

    fn scripted(&self) -> Result<Scripted, SetupError> {
        match text(self.llm_script_file.as_deref()) {
            Some(path) => Scripted::from_file(path),
            None => Ok(Scripted::default()),
        }
    }
}

fn text(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|text| !text.is_empty())
}

fn secret(value: Option<&SecretString>) -> Option<&SecretString> {
    value.filter(|value| !value.expose_secret().trim().is_empty())
}

fn on_unless_false(value: &str) -> Result<bool, String> {
    flag(value, true)
}

fn off_unless_true(value: &str) -> Result<bool, String> {
    flag(value, false)
}

fn flag(value: &str, default: bool) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" => Ok(default),
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn idle_seconds(value: &str) -> Result<u64, String> {
    match value.trim() {
        "" => Ok(STREAM_IDLE_SECONDS),
        given => match given.parse() {
            Ok(seconds @ 1..=3600) => Ok(seconds),
            _ => Err("must be 1 to 3600 seconds".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests;
