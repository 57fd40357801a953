//! The server's time.

use jiff::Timestamp;

/// Now, plus the skew the server pretends to have.
#[expect(
    clippy::disallowed_methods,
    reason = "the fake cluster is a part of the world outside: it has a clock"
)]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// As objects carry times: whole seconds.
pub(super) fn stamp() -> String {
    seconds(now())
}

pub(super) fn seconds(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.to_string()
}

/// As the header `Date` has it.
pub(super) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
