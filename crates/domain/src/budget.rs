//! How much a run may use, and how much it has used.
//!
//! Invariant: nothing is begun whose worst case would go beyond a cap, so that spending ends at the cap, or, where a worst
//! case was guessed too low, at most one model call above it. What was spent is computed from what is stored; there is no
//! counter that could drift.

mod dimension;

pub use dimension::Dimension;

use crate::action::Usage;
use crate::event::NewEvent;
use crate::waiting::WaitKind;
use serde_json::{Map, Value, json};

/// Shares of a cap (in percent) that are warned of, once each.
const WARN_AT: [i64; 2] = [80, 95];

/// What a run has used, or would use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spend([i64; 5]);

impl Spend {
    pub const fn get(&self, dimension: Dimension) -> i64 {
        self.0[dimension.place()]
    }

    #[must_use]
    pub const fn with(mut self, dimension: Dimension, amount: i64) -> Self {
        self.0[dimension.place()] = amount;
        self
    }

    /// A model call; one whose price nobody knows adds no money.
    pub fn of_call(usage: Usage) -> Self {
        Self::default()
            .with(Dimension::Tokens, usage.total())
            .with(Dimension::Cost, usage.cost_micros.unwrap_or(0))
    }

    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        let sum = |place: usize| self.0[place].saturating_add(more.0[place]);
        Self([sum(0), sum(1), sum(2), sum(3), sum(4)])
    }

    /// All of it, for answers.
    pub fn to_value(self) -> Value {
        Dimension::ALL
            .iter()
            .map(|dimension| {
                (
                    dimension.as_str().to_owned(),
                    dimension.wire(self.get(*dimension)),
                )
            })
            .collect::<Map<_, _>>()
            .into()
    }
}

/// Caps; nothing means no cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget([Option<i64>; 5]);

/// Whose spending a cap limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The run's own.
    Run,
    /// All runs of its user, this day (UTC).
    UserDay,
    /// All runs of the installation, this day (UTC).
    Day,
}

impl Scope {
    /// What stands before the dimension's name.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Run => "",
            Self::UserDay => "user_daily_",
            Self::Day => "daily_",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Run => "the budget is reached",
            Self::UserDay => "the user's budget for this day (UTC) is reached",
            Self::Day => "the installation's budget for this day (UTC) is reached",
        }
    }
}

/// A cap that leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub scope: Scope,
    pub dimension: Dimension,
    pub spent: i64,
    pub cap: i64,
    /// The cap that would have been enough.
    pub needed: i64,
}

/// What a caller sent is no budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid budget: {0}")]
pub struct BudgetError(String);

/// Caps to set and caps to take away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetChange(Vec<(Dimension, Option<i64>)>);

impl BudgetChange {
    /// A number sets a cap, `null` takes it away. Names may begin with `max_`.
    ///
    /// # Errors
    /// Says which member is wrong and what to send.
    pub fn from_value(value: &Value) -> Result<Self, BudgetError> {
        let names = Dimension::ALL.map(Dimension::as_str).join(", ");
        let members = value.as_object().ok_or_else(|| {
            BudgetError(format!(
                "send an object with any of {names}; a number is a cap, null takes it away"
            ))
        })?;
        let read = |(name, value): (&String, &Value)| {
            let plain = name.strip_prefix("max_").unwrap_or(name);
            let dimension = Dimension::ALL
                .into_iter()
                .find(|dimension| dimension.as_str() == plain)
                .ok_or_else(|| BudgetError(format!("unknown member {name}; known are {names}")))?;
            if value.is_null() {
                return Ok((dimension, None));
            }
            let cap = dimension.read(value).ok_or_else(|| {
                let number = if dimension.scale() == 1 {
                    "a whole number"
                } else {
                    "a number"
                };
                BudgetError(format!("{name} must be {number}, 0 or more, or null for no cap"))
            })?;
            Ok((dimension, Some(cap)))
        };
        members.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Budget {
    pub const fn cap(&self, dimension: Dimension) -> Option<i64> {
        self.0[dimension.place()]
    }

    #[must_use]
    pub const fn with(mut self, dimension: Dimension, cap: Option<i64>) -> Self {
        self.0[dimension.place()] = cap;
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// This budget with the named caps set anew.
    #[must_use]
    pub fn changed(self, change: &BudgetChange) -> Self {
        let set = |budget: Self, (dimension, cap): &(Dimension, Option<i64>)| budget.with(*dimension, *cap);
        change.0.iter().fold(self, set)
    }

    /// Reads a budget as a caller sends it and as it is stored.
    ///
    /// # Errors
    /// As [`BudgetChange::from_value`].
    pub fn from_value(value: &Value) -> Result<Self, BudgetError> {
        Ok(Self::default().changed(&BudgetChange::from_value(value)?))
    }

    /// Every dimension, `null` where there is no cap.
    pub fn to_value(self) -> Value {
        Dimension::ALL
            .iter()
            .map(|dimension| {
                let cap = self.cap(*dimension).map(|cap| dimension.wire(cap));
                (dimension.as_str().to_owned(), cap.unwrap_or(Value::Null))
            })
            .collect::<Map<_, _>>()
            .into()
    }

    /// The first cap that `spent` with `next` on top would go beyond.
    pub fn reached(&self, spent: Spend, next: Spend) -> Option<Reached> {
        Dimension::ALL.into_iter().find_map(|dimension| {
            let (cap, more) = (self.cap(dimension)?, next.get(dimension));
            let spent = spent.get(dimension);
            let needed = spent.saturating_add(more);
            (more > 0 && needed > cap).then_some(Reached {
                scope: Scope::Run,
                dimension,
                spent,
                cap,
                needed,
            })
        })
    }

    /// A warning for each share of a cap that lies between two amounts spent.
    pub fn warnings(&self, before: Spend, after: Spend) -> Vec<NewEvent> {
        let mut warnings = vec![];
        for dimension in Dimension::ALL {
            let Some(cap) = self.cap(dimension).filter(|cap| *cap > 0) else {
                continue;
            };
            let share = |spent: i64| i128::from(spent) * 100 / i128::from(cap);
            let (before, spent) = (share(before.get(dimension)), after.get(dimension));
            let crossed = WARN_AT
                .into_iter()
                .filter(|percent| before < i128::from(*percent) && share(spent) >= i128::from(*percent));
            warnings.extend(crossed.map(|percent| warning(dimension, percent, spent, cap)));
        }
        warnings
    }
}

fn warning(dimension: Dimension, percent: i64, spent: i64, cap: i64) -> NewEvent {
    let text = format!(
        "{percent} % of the budget used: {} of {}",
        dimension.words(spent),
        dimension.words(cap)
    );
    let metadata = json!({"event": "budget_warning", "dimension": dimension.as_str(), "percent": percent,
        "spent": dimension.wire(spent), "cap": dimension.wire(cap)});
    NewEvent::warning(text, metadata)
}

impl Reached {
    fn name(&self) -> String {
        format!("{}{}", self.scope.prefix(), self.dimension.as_str())
    }

    /// The sentence for people.
    pub fn detail(&self) -> String {
        format!(
            "{}: {} used of {}, what comes next needs a cap of {}",
            self.scope.words(),
            self.dimension.words(self.spent),
            self.dimension.words(self.cap),
            self.dimension.words(self.needed)
        )
    }

    /// The line in the run's log.
    pub fn event(&self) -> NewEvent {
        let metadata = json!({"event": "budget_reached", "dimension": self.name(),
            "spent": self.dimension.wire(self.spent), "cap": self.dimension.wire(self.cap),
            "needed": self.dimension.wire(self.needed)});
        NewEvent::warning(format!("Paused: {}", self.detail()), metadata)
    }

    /// `waiting_for` of the paused run.
    pub fn waiting_for(&self) -> Value {
        json!({
            "kind": WaitKind::Budget.as_str(),
            "detail": self.detail(),
            "dimension": self.name(),
            "spent": self.dimension.wire(self.spent),
            "cap": self.dimension.wire(self.cap),
            "needed": self.dimension.wire(self.needed),
        })
    }
}

/// `waiting_for` of a run whose money is capped while nobody knows what its model costs.
pub fn price_unknown(model: &str) -> Value {
    json!({
        "kind": WaitKind::Budget.as_str(),
        "detail": format!("no price is known for the model {model}, so its cost cannot be capped: \
            name it in LLM_PRICES_FILE, or take cost_usd out of the budget"),
        "dimension": Dimension::Cost.as_str(),
    })
}

/// Whether a run that waits for its budget can go on under this one. A wait that is none of this run's caps, such as the
/// limit of a day, is not ended by them.
pub fn has_room(waiting_for: &Value, budget: Budget) -> bool {
    let is_budget = waiting_for.get("kind").and_then(Value::as_str) == Some(WaitKind::Budget.as_str());
    let name = waiting_for.get("dimension").and_then(Value::as_str);
    let known = Dimension::ALL
        .into_iter()
        .find(|dimension| Some(dimension.as_str()) == name);
    let Some(dimension) = known.filter(|_| is_budget) else {
        return false;
    };
    let needed = waiting_for
        .get("needed")
        .and_then(|needed| dimension.read(needed));
    match (budget.cap(dimension), needed) {
        (None, _) => true,
        (Some(cap), Some(needed)) => cap >= needed,
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(value: &Value) -> Budget {
        Budget::from_value(value).unwrap()
    }

    #[test]
    fn a_budget_is_read_with_and_without_max_and_comes_back_whole() {
        let read =
            budget(&json!({"max_tokens": 1000, "cost_usd": 0.25, "max_steps": 3, "wall_seconds": 1.5}));
        assert_eq!(read.cap(Dimension::Cost), Some(250_000));
        assert_eq!(read.cap(Dimension::Wall), Some(1_500));
        let shown = read.to_value();
        assert_eq!(
            shown,
            json!({"tokens": 1000, "cost_usd": 0.25, "steps": 3, "wall_seconds": 1.5, "sandbox_seconds": null})
        );
        assert_eq!(budget(&shown), read);
        assert!(budget(&json!({})).is_empty());
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_null_takes_a_cap_away() {
        let before = budget(&json!({"tokens": 10, "steps": 2}));
        let change = BudgetChange::from_value(&json!({"max_tokens": 20, "steps": null})).unwrap();
        let after = before.changed(&change);
        assert_eq!(after, budget(&json!({"tokens": 20})));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_send() {
        for (value, told) in [
            (
                json!([]),
                "send an object with any of tokens, cost_usd, steps, wall_seconds, sandbox_seconds",
            ),
            (json!({"dollars": 1}), "unknown member dollars"),
            (json!({"max_tokens": "many"}), "max_tokens must be a whole number"),
            (json!({"steps": 1.5}), "steps must be a whole number"),
            (json!({"cost_usd": -1}), "cost_usd must be a number, 0 or more"),
        ] {
            let fault = Budget::from_value(&value).unwrap_err().to_string();
            assert!(
                fault.starts_with("Invalid budget: ") && fault.contains(told),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_cap_may_be_met_and_not_passed() {
        let caps = budget(&json!({"tokens": 100}));
        let spent = Spend::default().with(Dimension::Tokens, 60);
        let next = |tokens| Spend::default().with(Dimension::Tokens, tokens);
        assert_eq!(caps.reached(spent, next(40)), None);
        let reached = caps.reached(spent, next(41)).unwrap();
        assert_eq!((reached.spent, reached.cap, reached.needed), (60, 100, 101));
        assert_eq!(reached.waiting_for()["kind"], "budget");
    }

    #[test]
    fn each_share_is_warned_of_once() {
        let caps = budget(&json!({"tokens": 100, "steps": 10}));
        let at = |tokens| Spend::default().with(Dimension::Tokens, tokens);
        assert!(caps.warnings(at(0), at(79)).is_empty());
        assert_eq!(caps.warnings(at(79), at(80)).len(), 1);
        assert!(caps.warnings(at(80), at(94)).is_empty());
        let both = caps.warnings(at(10), at(120));
        let percents: Vec<_> = both
            .iter()
            .map(|event| event.metadata["percent"].clone())
            .collect();
        assert_eq!(percents, [80, 95]);
        assert!(caps.warnings(at(100), at(150)).is_empty());
    }

    #[test]
    fn a_raise_helps_only_where_it_is_enough_and_only_against_its_own_cap() {
        let caps = budget(&json!({"cost_usd": 1}));
        let spend = |micros| Spend::default().with(Dimension::Cost, micros);
        let stored = caps
            .reached(spend(900_000), spend(200_000))
            .unwrap()
            .waiting_for();
        assert!(!has_room(&stored, budget(&json!({"cost_usd": 1.05}))));
        assert!(has_room(&stored, budget(&json!({"cost_usd": 1.1}))));
        assert!(has_room(&stored, Budget::default()));
        let day = json!({"kind": "budget", "dimension": "user_daily_tokens", "needed": 1});
        assert!(!has_room(&day, Budget::default()));
        assert!(!has_room(&json!({"kind": "user"}), Budget::default()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Runs share a purse: each reserves its worst case before a call and settles after it, in any order.
        #[test]
        fn runs_that_share_a_cap_never_spend_beyond_it_together(
            cap in 0i64..5_000,
            // Run, worst case, and how much of it (percent) is really used.
            calls in prop::collection::vec((0usize..4, 1i64..900, 0i64..=100), 1..80),
        ) {
            let caps = Budget::default().with(Dimension::Tokens, Some(cap));
            let tokens = |amount| Spend::default().with(Dimension::Tokens, amount);
            let mut spent = 0;
            let mut under_way: [Option<(i64, i64)>; 4] = [None; 4];
            for (run, worst, percent) in calls {
                if let Some((_, real)) = under_way[run].take() {
                    spent += real;
                }
                let reserved: i64 = under_way.iter().flatten().map(|(worst, _)| worst).sum();
                if caps.reached(tokens(spent + reserved), tokens(worst)).is_none() {
                    under_way[run] = Some((worst, worst * percent / 100));
                }
                let all: i64 = spent + under_way.iter().flatten().map(|(_, real)| real).sum::<i64>();
                prop_assert!(all <= cap);
            }
        }

        /// One run, one call at a time, as the driver does it, with worst cases that were guessed too low.
        #[test]
        fn a_run_of_its_own_passes_its_cap_by_at_most_one_call(
            cap in 0i64..5_000,
            calls in prop::collection::vec((1i64..900, 0i64..250), 1..80),
        ) {
            let caps = Budget::default().with(Dimension::Tokens, Some(cap));
            let tokens = |amount| Spend::default().with(Dimension::Tokens, amount);
            let mut spent = 0;
            for (worst, percent) in calls {
                if caps.reached(tokens(spent), tokens(worst)).is_some() {
                    continue;
                }
                let real = worst * percent / 100;
                prop_assert!(spent <= cap);
                spent += real;
                prop_assert!(spent <= cap + real);
            }
        }
    }
}
