//! Medians, percentiles, and how figures are shown.

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    goal: Option<Goal>,
    /// Share of a ceiling of the same run, or another remark in numbers.
    beside: Vec<(&'static str, f64)>,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            goal: None,
            beside: Vec::new(),
        }
    }

    pub(crate) fn at_least(mut self, goal: f64) -> Self {
        self.goal = Some(Goal::AtLeast(goal));
        self
    }

    pub(crate) fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(Goal::AtMost(goal));
        self
    }

    pub(crate) fn beside(mut self, what: &'static str, value: f64) -> Self {
        self.beside.push((what, value));
        self
    }

    fn goal_text(&self) -> Option<String> {
        let (good, text) = match self.goal? {
            Goal::AtLeast(goal) => (self.value >= goal, format!("at least {goal} {}", self.unit)),
            Goal::AtMost(goal) => (self.value <= goal, format!("at most {goal} {}", self.unit)),
        };
        Some(format!("{} {text}", if good { "meets" } else { "MISSES" }))
    }

    fn remark(&self) -> String {
        let beside = self
            .beside
            .iter()
            .map(|(what, value)| format!("{what} {value:.2}"));
        self.goal_text()
            .into_iter()
            .chain(beside)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn json(&self) -> Value {
        let beside: serde_json::Map<String, Value> = self
            .beside
            .iter()
            .map(|(what, value)| ((*what).to_owned(), json!(value)))
            .collect();
        json!({"name": self.name, "unit": self.unit, "value": self.value, "goal": self.goal_text(), "beside": beside})
    }
}

/// Prints the table; gives the JSON.
pub(crate) fn report(figures: &[Figure]) -> Value {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    for figure in figures {
        let digits = if figure.value >= 1000.0 { 0 } else { 2 };
        let line = format!(
            "{:width$}  {:>10.digits$} {:<6}  {}",
            figure.name,
            figure.value,
            figure.unit,
            figure.remark()
        );
        println!("{}", line.trim_end());
    }
    Value::Array(figures.iter().map(Figure::json).collect())
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// Nearest rank.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
