//! What a call asks for, and its hash: two calls with one hash are the same call.
//!
//! The hash does not cover the workspace's files: a worker that takes over while the result is being applied must find the
//! record of the very call it goes on with.

use super::name::{Tool, job_name};
use super::options::KubernetesOptions;
use agent::ports::{Program, SandboxRequest};
use domain::canonical::hex;
use domain::ids::{RunId, StepId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resources {
    pub cpu: &'static str,
    pub memory: &'static str,
}

const SHELL: Resources = Resources {
    cpu: "500m",
    memory: "512Mi",
};
const CODE: Resources = Resources {
    cpu: "1000m",
    memory: "1Gi",
};

/// One call as its Job needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub run_id: RunId,
    pub step_id: StepId,
    pub tool: Tool,
    /// Of the tool `code`.
    pub language: Option<String>,
    pub image: String,
    /// The image knows nothing of us: the supervisor is copied into it.
    pub is_foreign: bool,
    pub resources: Resources,
    pub timeout: Duration,
    /// SHA-256 as hex.
    pub hash: String,
    pub job_name: String,
}

#[derive(Serialize)]
struct Hashed<'a> {
    run_id: RunId,
    step_id: StepId,
    tool: &'static str,
    language: Option<&'a str>,
    program: &'a str,
    working_dir: &'a str,
    timeout_ms: u128,
    image: &'a str,
    resources: Resources,
}

impl Spec {
    pub fn of(request: &SandboxRequest, options: &KubernetesOptions) -> Self {
        let (tool, language, program) = match &request.program {
            Program::Shell { command } => (Tool::Shell, None, command),
            Program::Code { language, code } => (Tool::Code, Some(language.as_str()), code),
        };
        let foreign = foreign_image(language, options).filter(|image| **image != options.tool_image);
        let image = foreign.unwrap_or(&options.tool_image);
        let resources = match tool {
            Tool::Shell => SHELL,
            Tool::Code => CODE,
        };
        let hashed = Hashed {
            run_id: request.run_id,
            step_id: request.step_id,
            tool: tool.as_str(),
            language,
            program,
            working_dir: &request.working_dir,
            timeout_ms: request.timeout.as_millis(),
            image,
            resources,
        };
        // Plain texts and numbers: there is nothing that cannot be written.
        let bytes = serde_json::to_vec(&hashed).unwrap_or_default();
        Self {
            run_id: request.run_id,
            step_id: request.step_id,
            tool,
            language: language.map(str::to_owned),
            image: image.to_owned(),
            is_foreign: foreign.is_some(),
            resources,
            timeout: request.timeout,
            hash: hex(&Sha256::digest(bytes)),
            job_name: job_name(tool, request.run_id, request.step_id),
        }
    }
}

fn foreign_image<'a>(language: Option<&str>, options: &'a KubernetesOptions) -> Option<&'a String> {
    let images = &options.images;
    let image = match language {
        None => &images.tool_image_shell,
        Some("python") => &images.tool_image_python,
        Some("javascript" | "typescript") => &images.tool_image_node,
        Some("bash") => &images.tool_image_bash,
        Some("ruby") => &images.tool_image_ruby,
        Some("go") => &images.tool_image_go,
        Some(_) => return None,
    };
    image.as_ref().filter(|image| !image.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::samples::{code, options, shell};

    #[test]
    fn each_program_has_its_image_and_its_share() {
        let mut options = options();
        options.images.tool_image_node = Some("node:22".to_owned());
        options.images.tool_image_ruby = Some(options.tool_image.clone());
        let seen = |request: &SandboxRequest| {
            let spec = Spec::of(request, &options);
            (spec.image, spec.is_foreign, spec.resources.memory)
        };
        let ours = "agent-tools:phase2b".to_owned();
        assert_eq!(seen(&shell("true")), (ours.clone(), false, "512Mi"));
        assert_eq!(seen(&code("python", "1")), (ours.clone(), false, "1Gi"));
        assert_eq!(seen(&code("ruby", "1")), (ours, false, "1Gi"));
        for language in ["javascript", "typescript"] {
            assert_eq!(seen(&code(language, "1")), ("node:22".to_owned(), true, "1Gi"));
        }
    }

    #[test]
    fn the_hash_tells_any_two_different_calls_apart_and_no_others() {
        let options = options();
        let hash = |request: &SandboxRequest| Spec::of(request, &options).hash;
        let one = shell("echo 1");
        assert_eq!(hash(&one), hash(&one.clone()));
        let mut others = vec![shell("echo 2"), code("bash", "echo 1")];
        let change = |change: fn(&mut SandboxRequest)| {
            let mut other = shell("echo 1");
            change(&mut other);
            other
        };
        others.push(change(|request| request.working_dir.push_str("/a")));
        others.push(change(|request| request.timeout += Duration::from_secs(1)));
        others.push(change(|request| {
            request.step_id = StepId(uuid::Uuid::from_u128(99));
        }));
        others.push(change(|request| {
            request.run_id = RunId(uuid::Uuid::from_u128(99));
        }));
        for other in &others {
            assert_ne!(hash(&one), hash(other), "{other:?}");
        }
        let mut image = options.clone();
        image.tool_image = "other".to_owned();
        assert_ne!(hash(&one), Spec::of(&one, &image).hash);
    }
}
