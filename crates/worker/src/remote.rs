//! Every tool of a run that runs in another system: those of the crate `tools`, and the counting tools of the fault tests.

use crate::counting::AnyRemote;
use crate::workspace::RunFiles;
use agent::ports::{RemoteTools, ToolSpec};
use agent::tools::{Call, ToolError};
use domain::{Effect, Labels, ToolResult};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tools::{OfRun, RunTools, Tools};

/// The remote tools of one drive of a run; what they hold open ends with the value.
#[derive(Debug)]
pub struct Remote {
    pub counting: AnyRemote,
    pub tools: RunTools<RunFiles>,
}

impl Remote {
    /// With the MCP servers that the run names, which are connected for its drive.
    pub async fn connect(
        (tools, counting): (&Tools, &AnyRemote),
        run: OfRun<RunFiles>,
        servers: Option<&[String]>,
        cancel: &CancellationToken,
    ) -> Self {
        let mcp = tools.mcp().of_run(servers, cancel).await;
        Self {
            counting: counting.clone(),
            tools: tools.of_run(run).with_mcp(mcp),
        }
    }

    fn counts(&self, tool_name: &str, tool_input: &Value) -> bool {
        self.counting.effect_of(tool_name, tool_input).is_some()
    }
}

impl RemoteTools for Remote {
    fn specs(&self) -> Vec<ToolSpec> {
        let mut all = self.tools.specs();
        all.extend(self.counting.specs());
        all
    }

    fn effect_of(&self, tool_name: &str, tool_input: &Value) -> Option<Effect> {
        let counting = self.counting.effect_of(tool_name, tool_input);
        counting.or_else(|| self.tools.effect_of(tool_name, tool_input))
    }

    fn labels_of(&self, tool_name: &str, tool_input: &Value) -> Labels {
        if self.counts(tool_name, tool_input) {
            return self.counting.labels_of(tool_name, tool_input);
        }
        self.tools.labels_of(tool_name, tool_input)
    }

    fn pin_of(&self, tool_name: &str) -> Option<String> {
        self.tools.pin_of(tool_name)
    }

    fn refusal(&self, call: &Call<'_>) -> Option<ToolResult> {
        if self.counts(call.tool_name, call.tool_input) {
            return None;
        }
        self.tools.refusal(call)
    }

    async fn call(&self, call: &Call<'_>, cancel: &CancellationToken) -> Result<ToolResult, ToolError> {
        if self.counts(call.tool_name, call.tool_input) {
            return self.counting.call(call, cancel).await;
        }
        self.tools.call(call, cancel).await
    }
}
