//! What a drill measured, against its goal: a row of the table and of the JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// One measured value. It passes when it has no goal or is at most its goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub drill: &'static str,
    pub what: String,
    pub value: f64,
    /// `s`, `ms`, or empty for counts.
    pub unit: &'static str,
    /// The largest value that passes; none for what is only told.
    pub goal: Option<f64>,
    pub pass: bool,
}

/// The figures of one drill, in order.
#[derive(Debug)]
pub struct Figures {
    drill: &'static str,
    pub all: Vec<Figure>,
}

impl Figures {
    pub fn of(drill: &'static str) -> Self {
        Self { drill, all: vec![] }
    }

    fn add(&mut self, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        let pass = goal.is_none_or(|goal| value <= goal);
        self.all.push(Figure {
            drill: self.drill,
            what: what.to_owned(),
            value,
            unit,
            goal,
            pass,
        });
    }

    /// A value with an upper limit.
    pub fn at_most(&mut self, goal: f64, what: &str, value: f64, unit: &'static str) {
        self.add(what, value, unit, Some(goal));
    }

    /// A count that must be 0.
    pub fn none(&mut self, what: &str, count: usize) {
        self.add(what, count as f64, "", Some(0.0));
    }

    /// A value without a goal.
    pub fn told(&mut self, what: &str, value: f64, unit: &'static str) {
        self.add(what, value, unit, None);
    }

    /// A count that must reach `least`: without it the other figures would say nothing.
    pub fn at_least(&mut self, least: usize, what: &str, count: usize) {
        self.told(what, count as f64, "");
        self.none(
            &format!("{what}: missing to {least}"),
            least.saturating_sub(count),
        );
    }
}

/// The value below or at which this share of the samples lies (nearest rank); not a number without samples, which
/// passes no goal.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.max(1) - 1)
        .or(sorted.last())
        .copied()
        .unwrap_or(f64::NAN)
}

/// All figures as text.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<17} {:<58} {:>10} {:>8}  {}\n",
        "drill", "figure", "value", "goal", ""
    );
    for figure in figures {
        let value = format!("{} {}", rounded(figure.value), figure.unit);
        let goal = figure
            .goal
            .map_or(String::new(), |goal| format!("≤ {}", rounded(goal)));
        let mark = match (figure.goal, figure.pass) {
            (None, _) => "",
            (_, true) => "pass",
            (_, false) => "FAIL",
        };
        writeln!(
            text,
            "{:<17} {:<58} {:>10} {:>8}  {mark}",
            figure.drill,
            figure.what,
            value.trim(),
            goal
        )
        .expect("a text can be written to");
    }
    text
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_above_its_goal_and_one_that_was_not_measured_fail() {
        let mut figures = Figures::of("some");
        figures.at_most(2.0, "at the goal", 2.0, "s");
        figures.at_most(2.0, "above", 2.1, "s");
        figures.at_most(2.0, "no samples", quantile(&[], 0.99), "s");
        figures.at_least(50, "samples", 49);
        figures.told("anything", 1e9, "");
        let passed: Vec<bool> = figures.all.iter().map(|figure| figure.pass).collect();
        assert_eq!(passed, [true, false, false, true, false, true]);
        assert!(table(&figures.all).contains("FAIL"));
    }

    #[test]
    fn quantiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let of = |share| quantile(&samples, share) as i64;
        assert_eq!([of(0.0), of(0.5), of(0.99), of(1.0)], [1, 50, 99, 100]);
        assert_eq!(quantile(&[7.0], 0.5) as i64, 7);
    }
}
