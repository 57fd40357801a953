//! What can be capped, inside and on the wire.

use serde_json::{Value, json};

/// No cap is larger than this; beyond it numbers lose precision on the wire.
const LARGEST: f64 = 9e15;

/// What a cap limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// Input and output tokens of all model calls.
    Tokens,
    /// Micro-dollars of all model calls; dollars on the wire.
    Cost,
    /// Tool calls.
    Steps,
    /// Working time in milliseconds, waiting and paused time not counted; seconds on the wire.
    Wall,
    /// Milliseconds of tools that run in a sandbox; seconds on the wire.
    Sandbox,
}

impl Dimension {
    pub const ALL: [Self; 5] = [Self::Tokens, Self::Cost, Self::Steps, Self::Wall, Self::Sandbox];

    /// Name of the member on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Cost => "cost_usd",
            Self::Steps => "steps",
            Self::Wall => "wall_seconds",
            Self::Sandbox => "sandbox_seconds",
        }
    }

    pub(super) const fn place(self) -> usize {
        self as usize
    }

    /// Units inside for one on the wire.
    pub(super) const fn scale(self) -> i64 {
        match self {
            Self::Tokens | Self::Steps => 1,
            Self::Cost => 1_000_000,
            Self::Wall | Self::Sandbox => 1_000,
        }
    }

    /// An amount as it goes over the wire.
    pub fn wire(self, amount: i64) -> Value {
        if self.scale() == 1 {
            return json!(amount);
        }
        json!(amount as f64 / self.scale() as f64)
    }

    pub(super) fn read(self, value: &Value) -> Option<i64> {
        let number = value.as_f64()?;
        let whole = self.scale() > 1 || number.fract() == 0.0;
        let inside = number * self.scale() as f64;
        (whole && (0.0..=LARGEST).contains(&inside)).then(|| inside.round() as i64)
    }

    /// An amount for people.
    pub(super) fn words(self, amount: i64) -> String {
        match self {
            Self::Tokens => format!("{amount} tokens"),
            Self::Cost => format!("${:.4}", amount as f64 / 1e6),
            Self::Steps => format!("{amount} steps"),
            Self::Wall => format!("{} s of work", amount as f64 / 1e3),
            Self::Sandbox => format!("{} s of sandbox", amount as f64 / 1e3),
        }
    }
}
