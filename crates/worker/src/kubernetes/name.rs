//! Names of a tool's Job and of what belongs to it.

use domain::canonical::hex;
use domain::ids::{RunId, StepId};
use sha2::{Digest, Sha256};

/// Name and label values of the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    Shell,
    Code,
}

impl Tool {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Code => "code",
        }
    }
}

/// The Job of a step: the same for every attempt, so that its creation is the lock of the step. 40 characters at most; the
/// pod's name has 6 more.
pub fn job_name(tool: Tool, run_id: RunId, step_id: StepId) -> String {
    let (run, step) = (run_id.to_string(), step_id.to_string());
    let digest = hex(&Sha256::digest(format!("{run}:{step}")));
    let start = |text: &str, count: usize| text.chars().take(count).collect::<String>();
    format!(
        "agent-{}-{}-{}-{}",
        tool.as_str(),
        start(&run, 8),
        start(&step, 8),
        start(&digest, 10)
    )
}

/// The Secret with the order of one Job; `random` are 8 hex characters, so that nothing left by an earlier Job of this name
/// is ever mounted.
pub fn order_name(job_name: &str, random: &str) -> String {
    format!("{job_name}-{random}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn the_name_is_made_of_tool_run_step_and_their_digest() {
        let run = RunId("7a5f0c1e-3b2d-4c6e-9f80-112233445566".parse().unwrap());
        let step = StepId("0d9c8b7a-6543-4210-8fed-cba987654321".parse().unwrap());
        // printf '%s' "$RUN:$STEP" | sha256sum
        assert_eq!(
            job_name(Tool::Shell, run, step),
            "agent-shell-7a5f0c1e-0d9c8b7a-c57afe9510"
        );
        assert_eq!(
            job_name(Tool::Code, run, step),
            "agent-code-7a5f0c1e-0d9c8b7a-c57afe9510"
        );
    }

    proptest! {
        #[test]
        fn every_name_is_a_dns_label_with_room_for_a_pods_suffix(run: u128, step: u128, code: bool) {
            let tool = if code { Tool::Code } else { Tool::Shell };
            let name = job_name(tool, RunId(Uuid::from_u128(run)), StepId(Uuid::from_u128(step)));
            let order = order_name(&name, "0123abcd");
            for name in [format!("{name}-abcde"), order] {
                prop_assert!(name.len() <= 63);
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
                prop_assert!(!name.ends_with('-'));
            }
        }
    }
}
