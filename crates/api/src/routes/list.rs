//! The action `list`: the caller's runs, newest first.

use crate::auth::Principal;
use crate::error::Problem;
use crate::state::App;
use domain::RunStatus;
use runs::RunListQuery;
use runs::reader::BadCursor;
use serde_json::{Value, json};

/// Which runs are asked for.
#[derive(Debug)]
pub struct Listing {
    pub status: Option<String>,
    pub limit: u32,
    pub cursor: Option<String>,
}

/// A page, as `execute` answers it.
pub async fn page(app: &App, caller: &Principal, request: Listing) -> Result<Value, Problem> {
    let status = wanted_status(request.status.as_deref())?;
    let query = RunListQuery {
        status,
        limit: request.limit,
        cursor: request.cursor,
    };
    let mut page = match app.reader(caller).list(&caller.user_id, &query).await {
        Ok(page) => page,
        Err(BadCursor::Cursor) => {
            return Err(field_fault("cursor", "Input should be a cursor of this list"));
        }
        Err(BadCursor::Store(error)) => return Err(error.into()),
    };
    crate::waiting::refine(app, &mut page.runs).await;
    Ok(json!({
        "run_id": null,
        "status": "ok",
        "message": format!("{} runs", page.runs.len()),
        "plan": null,
        "runs": page.runs,
        "next_cursor": page.next_cursor,
    }))
}

fn wanted_status(name: Option<&str>) -> Result<Option<RunStatus>, Problem> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let status = RunStatus::parse(name);
    status
        .map(Some)
        .ok_or_else(|| field_fault("status", "Input should be a run status"))
}

fn field_fault(field: &str, msg: &str) -> Problem {
    Problem::validation(vec![crate::error::FieldFault {
        loc: vec!["body".to_owned(), field.to_owned()],
        msg: msg.to_owned(),
        kind: "value_error",
    }])
}
