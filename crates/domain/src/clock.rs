//! The only places that read the time or make ids.

use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Source of the present time.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that moves only when told to; clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(start)))
    }

    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.checked_add(by).unwrap_or(Timestamp::MAX);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Source of new ids.
pub trait Ids: std::fmt::Debug + Send + Sync + 'static {
    /// A fresh UUID; the system source makes version 7 (sorted by time).
    fn uuid(&self) -> Uuid;
}

/// Version 7 UUIDs from the system's time and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes random ids")]
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// Ids 1, 2, 3, … in order, for tests that compare whole records.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1))
    }
}

/// RFC 3339 in UTC with `Z` and exactly six fraction digits: the form of every time on the wire.
pub fn wire_time(at: Timestamp) -> String {
    let civil = jiff::tz::Offset::UTC.to_datetime(at);
    let Ok(year) = u32::try_from(civil.year()) else {
        return at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    };
    // By hand: every event has one, and the general way takes longer than the rest of the event.
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |mut value: u32, end: usize, digits: usize| {
        for place in (end - digits..end).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(year, 4, 4);
    let small = [
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second(),
    ];
    for (value, end) in small.into_iter().zip([7, 10, 13, 16, 19]) {
        put(u32::from(value.unsigned_abs()), end, 2);
    }
    put(civil.subsec_nanosecond().unsigned_abs() / 1000, 26, 6);
    text.iter().map(|byte| char::from(*byte)).collect()
}

/// RFC 3339 with `+00:00` and 0, 3 or 6 fraction digits, the fewest that lose nothing: the form of every time in
/// receipts, replays and hashes.
pub fn record_time(at: Timestamp) -> String {
    let form = match at.as_microsecond().rem_euclid(1_000_000) {
        0 => "%Y-%m-%dT%H:%M:%S+00:00",
        micros if micros % 1000 == 0 => "%Y-%m-%dT%H:%M:%S.%3f+00:00",
        _ => "%Y-%m-%dT%H:%M:%S.%6f+00:00",
    };
    at.strftime(form).to_string()
}

/// `serde(with)` form of [`wire_time`] for a `Timestamp` field.
pub mod wire {
    use super::wire_time;
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&wire_time(*at))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `serde(with)` form of [`wire_time`] for an `Option<Timestamp>` field.
pub mod wire_opt {
    use super::wire_time;
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_str(&wire_time(*at)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_times_always_have_six_fraction_digits() {
        let at: Timestamp = "2026-11-20T17:00:00Z".parse().unwrap();
        assert_eq!(wire_time(at), "2026-11-20T17:00:00.000000Z");
        let at: Timestamp = "2026-11-20T17:00:00.1234567Z".parse().unwrap();
        assert_eq!(wire_time(at), "2026-11-20T17:00:00.123456Z");
        for other in [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.9999999Z",
            "9999-12-30T22:00:00.5Z",
        ] {
            let at: Timestamp = other.parse().unwrap();
            assert_eq!(wire_time(at), at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
    }

    #[test]
    fn record_times_have_the_fewest_digits_that_lose_nothing() {
        for (given, shown) in [
            ("2026-02-01T00:00:00Z", "2026-02-01T00:00:00+00:00"),
            ("2026-02-01T00:00:00.120Z", "2026-02-01T00:00:00.120+00:00"),
            ("2026-02-01T00:00:00.000001Z", "2026-02-01T00:00:00.000001+00:00"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500+00:00"),
        ] {
            assert_eq!(record_time(given.parse().unwrap()), shown);
        }
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), clock.now());
        clock.advance(SignedDuration::from_secs(5));
        assert_eq!(clock.now().as_second(), 5);
    }
}
