//! What a model's tokens cost: a table with dates, and prices of the operator that go before it.
//!
//! Invariant: a call is priced by the newest entry that was in force on its day; without one nobody knows what it
//! cost, which is not the same as nothing. Money is whole micro-dollars; a part of one counts as one.
//!
//! Sources: <https://openai.com/api/pricing> and <https://docs.anthropic.com/en/docs/about-claude/pricing>, list prices of
//! the plain (not batched) service.

use crate::action::Usage;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::Value;

/// Micro-dollars in a dollar; also tokens in the unit that prices are given for.
const MILLION: i64 = 1_000_000;

/// Prices of one model in micro-dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub input: i64,
    /// Input read from the vendor's cache.
    pub cached_input: i64,
    /// Input written into the vendor's cache.
    pub cache_write: i64,
    pub output: i64,
}

impl Price {
    /// What runs without a vendor costs.
    pub const FREE: Self = Self {
        input: 0,
        cached_input: 0,
        cache_write: 0,
        output: 0,
    };

    /// Micro-dollars of a call, rounded up.
    pub fn cost(self, usage: Usage) -> i64 {
        let cached = usage.cached_tokens.max(0);
        let written = usage.cache_write_tokens.max(0);
        let fresh = (usage.input_tokens - cached - written).max(0);
        let parts = [
            (fresh, self.input),
            (cached, self.cached_input),
            (written, self.cache_write),
            (usage.output_tokens.max(0), self.output),
        ];
        let total: i128 = parts
            .iter()
            .map(|(tokens, price)| i128::from(*tokens) * i128::from(*price))
            .sum();
        i64::try_from((total + i128::from(MILLION) - 1) / i128::from(MILLION)).unwrap_or(i64::MAX)
    }

    /// The dearer of two, part by part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write: self.cache_write.max(other.cache_write),
            output: self.output.max(other.output),
        }
    }
}

/// Model, first day, and dollars per million tokens in thousandths: input, cached input, written to the cache, output.
type Entry = (&'static str, (i16, i8, i8), [i64; 4]);

const TABLE: &[Entry] = &[
    ("claude-3-haiku", (2024, 3, 13), [250, 30, 300, 1_250]),
    ("claude-3-opus", (2024, 2, 29), [15_000, 1_500, 18_750, 75_000]),
    ("claude-3-5-sonnet", (2024, 6, 20), [3_000, 300, 3_750, 15_000]),
    ("claude-3-5-haiku", (2024, 11, 4), [800, 80, 1_000, 4_000]),
    ("claude-3-7-sonnet", (2025, 2, 24), [3_000, 300, 3_750, 15_000]),
    ("claude-sonnet-4", (2025, 5, 22), [3_000, 300, 3_750, 15_000]),
    ("claude-opus-4", (2025, 5, 22), [15_000, 1_500, 18_750, 75_000]),
    ("claude-opus-4-1", (2025, 8, 5), [15_000, 1_500, 18_750, 75_000]),
    ("claude-sonnet-4-5", (2025, 9, 29), [3_000, 300, 3_750, 15_000]),
    ("claude-haiku-4-5", (2025, 10, 15), [1_000, 100, 1_250, 5_000]),
    ("claude-opus-4-5", (2025, 11, 24), [5_000, 500, 6_250, 25_000]),
    ("gpt-3.5-turbo", (2024, 1, 25), [500, 500, 500, 1_500]),
    ("gpt-4-turbo", (2024, 4, 9), [10_000, 10_000, 10_000, 30_000]),
    ("gpt-4o", (2024, 5, 13), [5_000, 5_000, 5_000, 15_000]),
    ("gpt-4o", (2024, 10, 1), [2_500, 1_250, 2_500, 10_000]),
    ("gpt-4o-mini", (2024, 7, 18), [150, 75, 150, 600]),
    ("gpt-4.1", (2025, 4, 14), [2_000, 500, 2_000, 8_000]),
    ("gpt-4.1-mini", (2025, 4, 14), [400, 100, 400, 1_600]),
    ("gpt-4.1-nano", (2025, 4, 14), [100, 25, 100, 400]),
    ("o1", (2024, 12, 17), [15_000, 7_500, 15_000, 60_000]),
    ("o3-mini", (2025, 1, 31), [1_100, 550, 1_100, 4_400]),
    ("o3", (2025, 4, 16), [10_000, 2_500, 10_000, 40_000]),
    ("o3", (2025, 6, 10), [2_000, 500, 2_000, 8_000]),
    ("o4-mini", (2025, 4, 16), [1_100, 275, 1_100, 4_400]),
    ("gpt-5", (2025, 8, 7), [1_250, 125, 1_250, 10_000]),
    ("gpt-5-mini", (2025, 8, 7), [250, 25, 250, 2_000]),
    ("gpt-5-nano", (2025, 8, 7), [50, 5, 50, 400]),
    ("gpt-5.1", (2025, 11, 13), [1_250, 125, 1_250, 10_000]),
];

/// Providers that call nobody: free, unless the operator's prices name the model.
const FREE_PROVIDERS: [&str; 2] = ["scripted", "recorded"];

/// One entry of the operator's prices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    model: String,
    from: Date,
    price: Price,
}

/// The prices in force. `Default`: the table alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices {
    own: Vec<Own>,
}

/// Why the operator's prices cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PriceError(String);

/// As written in the file: dollars per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    model: String,
    #[serde(default)]
    from: Option<Date>,
    input: f64,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
}

impl Prices {
    /// Reads `[{"model","from"?,"input","cached_input"?,"cache_write"?,"output"}]`, dollars per million tokens. What is left
    /// out costs as plain input; without `from` an entry always holds.
    ///
    /// # Errors
    /// Says which entry is wrong.
    pub fn with_own(file: &Value) -> Result<Self, PriceError> {
        let entries = file
            .as_array()
            .ok_or_else(|| PriceError("must be a list of objects with model, input and output".to_owned()))?;
        let own = (1..).zip(entries).map(|(place, entry)| {
            let fault = |what: String| PriceError(format!("entry {place}: {what}"));
            let written: Written =
                serde_json::from_value(entry.clone()).map_err(|error| fault(error.to_string()))?;
            let price = Price {
                input: micros(written.input).ok_or_else(|| fault("input is no price".to_owned()))?,
                cached_input: micros(written.cached_input.unwrap_or(written.input))
                    .ok_or_else(|| fault("cached_input is no price".to_owned()))?,
                cache_write: micros(written.cache_write.unwrap_or(written.input))
                    .ok_or_else(|| fault("cache_write is no price".to_owned()))?,
                output: micros(written.output).ok_or_else(|| fault("output is no price".to_owned()))?,
            };
            Ok(Own {
                model: written.model,
                from: written.from.unwrap_or(Date::MIN),
                price,
            })
        });
        Ok(Self {
            own: own.collect::<Result<_, _>>()?,
        })
    }

    /// The price of a model on a day, when anybody knows it.
    pub fn of(&self, provider: &str, model: &str, day: Date) -> Option<Price> {
        let own = self.own.iter().filter(|own| own.from <= day);
        let own = own.filter_map(|own| Some((fits(&own.model, model)?, own.from, own.price)));
        if let Some((_, _, price)) = own.max_by_key(|(length, from, _)| (*length, *from)) {
            return Some(price);
        }
        if FREE_PROVIDERS.contains(&provider) {
            return Some(Price::FREE);
        }
        let known = TABLE.iter().filter_map(|(name, (year, month, first), parts)| {
            let from = Date::new(*year, *month, *first).ok()?;
            let length = fits(name, model)?;
            (from <= day).then_some((length, from, parts))
        });
        let (_, _, parts) = known.max_by_key(|(length, from, _)| (*length, *from))?;
        let [input, cached_input, cache_write, output] = parts.map(|thousandths| thousandths * 1_000);
        Some(Price {
            input,
            cached_input,
            cache_write,
            output,
        })
    }
}

/// Dollars as micro-dollars.
fn micros(dollars: f64) -> Option<i64> {
    (dollars.is_finite() && (0.0..1e6).contains(&dollars)).then(|| (dollars * 1e6).round() as i64)
}

/// The length of an entry's name when it means this model: the name itself, or followed by the date of a version. A gateway
/// puts the vendor's name before it.
fn fits(entry: &str, model: &str) -> Option<usize> {
    let plain = model.rsplit('/').next().unwrap_or(model);
    let rest = [model, plain]
        .into_iter()
        .find_map(|name| name.strip_prefix(entry))?;
    let version = rest.strip_prefix(['-', '@']);
    let is_date = |text: &str| {
        text.chars().filter(char::is_ascii_digit).count() == 8
            && text.chars().all(|c| c.is_ascii_digit() || c == '-')
    };
    let same = rest.is_empty() || version.is_some_and(|text| text == "latest" || is_date(text));
    same.then_some(entry.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn usage(input: i64, cached: i64, output: i64) -> Usage {
        Usage {
            input_tokens: input,
            output_tokens: output,
            cached_tokens: cached,
            ..Usage::default()
        }
    }

    #[test]
    fn a_call_is_priced_by_the_newest_entry_of_its_day() {
        let prices = Prices::default();
        let input = |model: &str, at: &str| prices.of("openai", model, day(at)).map(|price| price.input);
        assert_eq!(input("gpt-4o", "2024-06-01"), Some(5_000_000));
        assert_eq!(input("gpt-4o-2024-08-06", "2026-01-01"), Some(2_500_000));
        assert_eq!(input("gpt-4o", "2024-05-12"), None, "before its first day");
        assert_eq!(input("gpt-4o-mini", "2026-01-01"), Some(150_000));
        assert_eq!(input("openai/gpt-5", "2026-01-01"), Some(1_250_000));
        assert_eq!(input("gpt-4o-audio-preview", "2026-01-01"), None, "another model");
    }

    #[test]
    fn a_version_is_no_date_and_a_date_is_no_version() {
        let prices = Prices::default();
        let output = |model: &str| {
            let price = prices.of("anthropic", model, day("2026-01-01"))?;
            Some(price.output)
        };
        assert_eq!(output("claude-opus-4-20250514"), Some(75_000_000));
        assert_eq!(output("claude-opus-4-5-20251101"), Some(25_000_000));
        assert_eq!(output("claude-opus-4-9"), None);
        assert_eq!(output("claude-3-5-sonnet-latest"), Some(15_000_000));
    }

    #[test]
    fn cached_tokens_cost_less_and_a_part_of_a_micro_dollar_counts_as_one() {
        let price = Prices::default()
            .of("anthropic", "claude-sonnet-4", day("2026-01-01"))
            .unwrap();
        assert_eq!(price.cost(usage(1_000_000, 0, 0)), 3_000_000);
        assert_eq!(price.cost(usage(1_000_000, 900_000, 0)), 570_000);
        assert_eq!(price.cost(usage(0, 0, 1)), 15);
        let cheap = Price {
            input: 1,
            ..Price::FREE
        };
        assert_eq!(cheap.cost(usage(1, 0, 0)), 1);
        let written = Usage {
            cache_write_tokens: 1_000_000,
            ..usage(1_000_000, 0, 0)
        };
        assert_eq!(price.cost(written), 3_750_000);
    }

    #[test]
    fn the_operators_prices_go_before_the_table_and_name_what_it_does_not_know() {
        let file = json!([
            {"model": "gpt-4o", "from": "2026-02-01", "input": 1, "output": 2.5},
            {"model": "llama-local", "input": 0.1, "cached_input": 0, "output": 0.2},
            {"model": "scripted", "input": 3, "output": 15}
        ]);
        let prices = Prices::with_own(&file).unwrap();
        let of = |provider: &str, model: &str, at: &str| prices.of(provider, model, day(at)).unwrap();
        assert_eq!(of("openai", "gpt-4o", "2026-01-31").input, 2_500_000);
        assert_eq!(of("openai", "gpt-4o", "2026-02-01").output, 2_500_000);
        assert_eq!(of("openai", "llama-local", "2020-01-01").cached_input, 0);
        assert_eq!(of("scripted", "scripted", "2026-01-01").output, 15_000_000);
        assert_eq!(of("recorded", "recorded", "2026-01-01"), Price::FREE);
        assert_eq!(prices.of("openai", "who-knows", day("2026-01-01")), None);
    }

    #[test]
    fn a_bad_price_is_told_with_its_place() {
        for (file, told) in [
            (json!({}), "must be a list"),
            (
                json!([{"model": "m", "input": 1}]),
                "entry 1: missing field `output`",
            ),
            (
                json!([{"model": "m", "input": -1, "output": 1}]),
                "entry 1: input is no price",
            ),
            (
                json!([{"model": "m", "input": 1, "output": 1, "x": 1}]),
                "entry 1: unknown field",
            ),
        ] {
            let fault = Prices::with_own(&file).unwrap_err().to_string();
            assert!(fault.contains(told), "{fault}");
        }
    }
}
