//! Medians, percentiles, and how figures are shown.

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    /// The value that is just good, and whether more is better.
    goal: Option<(f64, Better)>,
    /// Share of a ceiling, with the ceiling's name.
    ratios: Vec<(&'static str, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            goal: None,
            ratios: Vec::new(),
        }
    }

    pub(crate) fn goal_at_most(mut self, goal: f64) -> Self {
        self.goal = Some((goal, Better::Less));
        self
    }

    pub(crate) fn goal_at_least(mut self, goal: f64) -> Self {
        self.goal = Some((goal, Better::More));
        self
    }

    pub(crate) fn ratio(mut self, of: &'static str, ratio: f64) -> Self {
        self.ratios.push((of, ratio));
        self
    }

    fn remark(&self) -> String {
        let goal = self.goal.map(|(goal, better)| {
            let (met, sign) = match better {
                Better::Less => (self.value <= goal, "<="),
                Better::More => (self.value >= goal, ">="),
            };
            let word = if met { "meets" } else { "MISSES" };
            format!("{word} {sign} {goal} {}", self.unit)
        });
        let ratios = self
            .ratios
            .iter()
            .map(|(of, ratio)| format!("{ratio:.2} of {of}"));
        goal.into_iter().chain(ratios).collect::<Vec<_>>().join(", ")
    }

    fn json(&self) -> Value {
        let ratios: serde_json::Map<String, Value> = self
            .ratios
            .iter()
            .map(|(of, ratio)| ((*of).to_owned(), json!(ratio)))
            .collect();
        let goal = |side: Better| {
            self.goal
                .filter(|(_, better)| *better == side)
                .map(|(goal, _)| goal)
        };
        json!({"name": self.name, "unit": self.unit, "value": self.value, "goal_at_most": goal(Better::Less),
               "goal_at_least": goal(Better::More), "ratios": ratios})
    }
}

/// Prints the table; gives the JSON.
pub(crate) fn report(figures: &[Figure]) -> Value {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    for figure in figures {
        let line = format!(
            "{:width$}  {:>10} {:<4}  {}",
            figure.name,
            shown(figure.value),
            figure.unit,
            figure.remark()
        );
        println!("{}", line.trim_end());
    }
    Value::Array(figures.iter().map(Figure::json).collect())
}

fn shown(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn median(values: Vec<f64>) -> f64 {
    percentile(values, 50.0)
}

/// Nearest rank; of one round.
pub(crate) fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(values.clone(), 50.0) - 50.0).abs() < f64::EPSILON);
        assert!((percentile(values.clone(), 99.0) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(vec![3.0], 99.0) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
