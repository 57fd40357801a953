//! The plan: data with a schema, validated before it is stored.

use serde::{Deserialize, Serialize};

/// A plan has at most this many phases.
pub const MAX_PHASES: usize = 15;
/// Phase credits may differ from the plan's total by this much (credits).
pub const CREDIT_TOLERANCE: f64 = 0.01;

/// A plan as stored in `agent_runs.plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub goal: String,
    pub total_estimated_credits: f64,
    #[serde(default)]
    pub total_estimated_duration_minutes: f64,
    #[serde(default)]
    pub required_capabilities: Vec<String>,
    #[serde(default)]
    pub risks: Vec<String>,
    pub phases: Vec<Phase>,
}

/// One phase of a plan; numbers are 1, 2, 3, … in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub phase_number: u32,
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub required_capabilities: Vec<String>,
    #[serde(default)]
    pub estimated_credits: f64,
    #[serde(default)]
    pub dependencies: Vec<u32>,
    #[serde(default)]
    pub expected_outputs: Vec<String>,
}

impl Phase {
    fn does_the_same_as(&self, other: &Self) -> bool {
        let placed = Self {
            phase_number: other.phase_number,
            dependencies: other.dependencies.clone(),
            ..self.clone()
        };
        placed == *other
    }
}

/// Why a plan is refused; the text goes back to the model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanFault {
    #[error("the plan is not valid: {0}")]
    Shape(String),
    #[error("a plan needs 1 to {MAX_PHASES} phases, this one has {0}")]
    PhaseCount(usize),
    #[error("phases must be numbered 1, 2, 3, …: phase {position} has number {number}")]
    Numbering { position: u32, number: u32 },
    #[error("phase {phase} depends on phase {on}, which is not an earlier phase")]
    Dependency { phase: u32, on: u32 },
    #[error("credits cannot be negative")]
    NegativeCredits,
    #[error("the phases' credits add up to {sum}, the plan's total is {total}")]
    CreditSum { sum: f64, total: f64 },
}

/// What a new plan has more, less or otherwise than the one before, by names of phases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDifference {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl Plan {
    /// How this plan differs from an older one. A phase that has only another number counts as the same.
    pub fn difference(&self, older: &Self) -> PlanDifference {
        let same_name =
            |plan: &Self, name: &str| plan.phases.iter().find(|phase| phase.name == name).cloned();
        let mut difference = PlanDifference::default();
        for phase in &self.phases {
            match same_name(older, &phase.name) {
                None => difference.added.push(phase.name.clone()),
                Some(before) if !before.does_the_same_as(phase) => {
                    difference.changed.push(phase.name.clone());
                }
                Some(_) => {}
            }
        }
        let gone = older
            .phases
            .iter()
            .filter(|phase| same_name(self, &phase.name).is_none());
        difference.removed.extend(gone.map(|phase| phase.name.clone()));
        difference
    }

    /// Reads and checks a plan.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, PlanFault> {
        let plan = Self::deserialize(value).map_err(|fault| PlanFault::Shape(fault.to_string()))?;
        plan.validate()?;
        Ok(plan)
    }

    pub fn total_phases(&self) -> u32 {
        self.phases.len() as u32
    }

    pub fn validate(&self) -> Result<(), PlanFault> {
        if self.phases.is_empty() || self.phases.len() > MAX_PHASES {
            return Err(PlanFault::PhaseCount(self.phases.len()));
        }
        for (position, phase) in (1u32..).zip(&self.phases) {
            if phase.phase_number != position {
                return Err(PlanFault::Numbering {
                    position,
                    number: phase.phase_number,
                });
            }
            if let Some(on) = phase.dependencies.iter().find(|on| **on >= position || **on == 0) {
                return Err(PlanFault::Dependency {
                    phase: position,
                    on: *on,
                });
            }
        }
        self.validate_credits()
    }

    fn validate_credits(&self) -> Result<(), PlanFault> {
        let negative = |credits: f64| credits < 0.0 || !credits.is_finite();
        if negative(self.total_estimated_credits) || self.phases.iter().any(|p| negative(p.estimated_credits))
        {
            return Err(PlanFault::NegativeCredits);
        }
        let sum: f64 = self.phases.iter().map(|phase| phase.estimated_credits).sum();
        if (sum - self.total_estimated_credits).abs() > CREDIT_TOLERANCE {
            return Err(PlanFault::CreditSum {
                sum,
                total: self.total_estimated_credits,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(phases: serde_json::Value, total: f64) -> serde_json::Value {
        json!({"goal": "g", "total_estimated_credits": total, "phases": phases})
    }

    #[test]
    fn a_sound_plan_is_taken_with_defaults_filled_in() {
        let value = plan(
            json!([{"phase_number": 1, "name": "a", "estimated_credits": 2},
            {"phase_number": 2, "name": "b", "estimated_credits": 1.005, "dependencies": [1]}]),
            3.0,
        );
        let plan = Plan::from_value(&value).unwrap();
        assert_eq!(plan.total_phases(), 2);
        assert!(plan.phases[0].expected_outputs.is_empty());
    }

    #[test]
    fn a_difference_names_phases_that_came_went_or_changed_and_no_phase_that_only_moved() {
        let phase =
            |n: u32, name: &str, about: &str| json!({"phase_number": n, "name": name, "description": about});
        let of = |phases: serde_json::Value| Plan::from_value(&plan(phases, 0.0)).unwrap();
        let old = of(json!([
            phase(1, "read", ""),
            phase(2, "write", "short"),
            phase(3, "send", "")
        ]));
        let new = of(json!([
            phase(1, "look", ""),
            phase(2, "read", ""),
            phase(3, "write", "long")
        ]));
        let expected = PlanDifference {
            added: vec!["look".into()],
            removed: vec!["send".into()],
            changed: vec!["write".into()],
        };
        assert_eq!(new.difference(&old), expected);
        assert_eq!(new.difference(&new), PlanDifference::default());
    }

    #[test]
    fn each_fault_is_named() {
        let one = |extra: serde_json::Value| {
            let mut phase = json!({"phase_number": 1, "name": "a"});
            phase
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            Plan::from_value(&plan(json!([phase]), 0.0)).unwrap_err()
        };
        assert!(matches!(
            one(json!({"phase_number": 2})),
            PlanFault::Numbering {
                position: 1,
                number: 2
            }
        ));
        assert!(matches!(
            one(json!({"dependencies": [1]})),
            PlanFault::Dependency { phase: 1, on: 1 }
        ));
        assert!(matches!(
            one(json!({"estimated_credits": -1})),
            PlanFault::NegativeCredits
        ));
        assert!(matches!(
            one(json!({"estimated_credits": 0.02})),
            PlanFault::CreditSum { .. }
        ));
        assert!(matches!(one(json!({"name": 5})), PlanFault::Shape(_)));
        assert!(matches!(
            Plan::from_value(&plan(json!([]), 0.0)),
            Err(PlanFault::PhaseCount(0))
        ));
        let many: Vec<_> = (1..=16)
            .map(|n| json!({"phase_number": n, "name": "x"}))
            .collect();
        assert!(matches!(
            Plan::from_value(&plan(json!(many), 0.0)),
            Err(PlanFault::PhaseCount(16))
        ));
    }
}
