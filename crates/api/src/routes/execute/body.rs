//! The body of `POST /agent/execute`.

use crate::error::Problem;
use crate::extract::{FromFields, parse_run_id};
use crate::fields::Fields;
use crate::routes::list::Listing;
use crate::routes::rules::RuleFields;
use domain::RunId;
use serde_json::Value;

/// Runs per page of `list`, unless asked otherwise.
const DEFAULT_LIST_LIMIT: u32 = 20;
const MAX_LIST_LIMIT: i64 = 100;

/// The body; which fields matter depends on the action.
#[derive(Debug)]
pub struct Execute {
    pub(super) action: String,
    pub(super) run_id: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) project_id: Option<String>,
    pub(super) user_input: Option<String>,
    pub(super) connector_ids: Vec<String>,
    pub(super) auto_start: Option<bool>,
    pub(super) rules: RuleFields,
    pub(super) copy_workspace: bool,
    pub(super) priority: u8,
    pub(super) budget: Option<Value>,
    pub(super) mcp_servers: Option<Value>,
    status: Option<String>,
    limit: u32,
    cursor: Option<String>,
}

impl FromFields for Execute {
    fn read(fields: &mut Fields) -> Self {
        Self {
            action: fields.required_text("action"),
            run_id: fields.text("run_id"),
            prompt: fields.text("prompt"),
            project_id: fields.text("project_id"),
            user_input: fields.text("user_input"),
            connector_ids: fields.texts("connector_ids"),
            auto_start: fields.flag("auto_start"),
            rules: RuleFields::read(fields),
            copy_workspace: fields.flag("copy_workspace").unwrap_or_default(),
            priority: fields.int("priority", 0..=9).unwrap_or(0) as u8,
            budget: fields.value("budget"),
            mcp_servers: fields.value("mcp_servers"),
            status: fields.text("status"),
            limit: fields
                .int("limit", 1..=MAX_LIST_LIMIT)
                .map_or(DEFAULT_LIST_LIMIT, |limit| limit as u32),
            cursor: fields.text("cursor"),
        }
    }
}

impl Execute {
    pub(super) fn listing(self) -> Listing {
        Listing {
            status: self.status,
            limit: self.limit,
            cursor: self.cursor,
        }
    }

    pub(super) fn named_run(&self) -> Result<RunId, Problem> {
        match self.run_id.as_deref().map(str::trim) {
            None | Some("") => {
                let detail = format!("run_id is required for {} action", self.action);
                Err(Problem::bad_request("run_id_required", detail))
            }
            Some(text) => parse_run_id(text),
        }
    }
}
