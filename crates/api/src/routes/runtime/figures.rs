//! Shows the metric families of the internal listener before their first event, so that a rate over them has a beginning
//! and an alert names nothing that is not there.

use super::signature::Fault;
use crate::delivery::count_published;

/// Every way a caller is refused that is no fault of a signed header.
const REASONS: [&str; 12] = [
    "claim_mismatch",
    "missing_scope",
    "not_configured",
    "missing_authorization",
    "invalid_authorization",
    "invalid_api_key",
    "invalid_token_format",
    "invalid_token",
    "invalid_ticket",
    "authentication_failed",
    "token_expired",
    "no_user_id",
];
const SIGNATURE_FAULTS: [Fault; 8] = [
    Fault::Missing,
    Fault::Encoding,
    Fault::Format,
    Fault::Mac,
    Fault::Claims,
    Fault::Expired,
    Fault::FromTheFuture,
    Fault::NonceUsed,
];
/// How streams of this surface end, which come with its second step.
const STREAM_OUTCOMES: [&str; 3] = ["done", "window", "error"];

/// Call it once the recorder is there.
pub fn register() {
    runs::figures::register();
    count_published(0, true);
    count_published(0, false);
    let faults = SIGNATURE_FAULTS.into_iter().map(Fault::reason);
    for reason in faults.chain(REASONS) {
        metrics::counter!("runtime_auth_rejections_total", "reason" => reason).increment(0);
    }
    for outcome in STREAM_OUTCOMES {
        metrics::counter!("runtime_stream_session_total", "outcome" => outcome).increment(0);
        metrics::counter!("runtime_stream_emit_total", "event_type" => "other", "outcome" => outcome)
            .increment(0);
    }
}
