//! Limits of runs, as they are set.

use crate::context::CONTEXT_TOKENS;
use serde::{Deserialize, Serialize};

/// Limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `AGENT_MAX_ITERATIONS`: turns.
    pub max_turns: u32,
    /// `AGENT_MAX_CONSECUTIVE_FAILURES`: failing steps in a row.
    pub max_failures: u32,
    /// `AGENT_CONTEXT_TOKENS`: the model's view of the run, in estimated tokens.
    pub context_tokens: u32,
    /// `AGENT_PARALLEL_CALLS`: reading calls of one turn that run side by side.
    pub parallel_calls: u32,
    /// `AGENT_STEP_TIMEOUT_SECONDS`: of a tool without a limit of its own.
    pub step_timeout_seconds: u64,
    /// `AGENT_STALL_DETECTION`: warn of loops, then pause.
    pub detect_stalls: bool,
    /// `AGENT_CHECK_OUTPUTS`: a phase, and the task, ends when the files it was to make are there.
    pub check_outputs: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_turns: 50,
            max_failures: 5,
            context_tokens: CONTEXT_TOKENS,
            parallel_calls: 4,
            step_timeout_seconds: 600,
            detect_stalls: false,
            check_outputs: false,
        }
    }
}
