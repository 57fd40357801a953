//! What one user may ask of this process: requests per second, requests at a time, open streams.
//!
//! Per process, so that no request waits for another store: with N replicas a user may have N times as much. A limit of 0
//! is none. What is remembered of a user who asks for nothing is forgotten.

use crate::error::Problem;
use domain::UserId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Users remembered before idle ones are looked for.
const SWEEP_FROM: usize = 4096;
/// Seconds in `Retry-After` when a place, not a moment, is missing.
const PLACE_WAIT_SECONDS: u64 = 1;
/// Seconds in `Retry-After` when the process holds as many streams as it may.
const FULL_WAIT_SECONDS: u64 = 5;

/// The limits; 0 is none.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    pub per_second: u32,
    /// Requests at once after a silence.
    pub burst: u32,
    pub concurrent: u32,
    pub streams_per_user: u32,
    pub streams: u32,
}

/// One user's standing.
#[derive(Debug)]
struct Standing {
    tokens: f64,
    filled_at: Instant,
    requests: u32,
    streams: u32,
}

#[derive(Debug, Default)]
struct Book {
    users: HashMap<UserId, Standing>,
    streams: u32,
    /// Idle users are looked for when there are this many.
    sweep_at: usize,
}

/// The quotas of this process. Cheap clone.
#[derive(Debug, Clone)]
pub struct Quota {
    limits: Quotas,
    book: Arc<Mutex<Book>>,
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Stream,
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub struct Place {
    quota: Quota,
    user: UserId,
    kind: Kind,
}

/// Where a request's place is kept until its answer is made.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Option<Place>>>);

impl Held {
    pub fn keep(&self, place: Place) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }
}

impl Quota {
    pub fn new(limits: Quotas) -> Self {
        Self {
            limits,
            book: Arc::default(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request of this user in, or says when to come again.
    pub fn request(&self, user: &UserId) -> Result<Place, Problem> {
        let now = Instant::now();
        let mut book = self.book();
        let standing = book.standing(user, &self.limits, now);
        if over(standing.requests, self.limits.concurrent) {
            return Err(Problem::rate_limited(
                "Too many requests at a time",
                PLACE_WAIT_SECONDS,
            ));
        }
        standing.take_token(&self.limits, now)?;
        standing.requests += 1;
        Ok(self.place(user, Kind::Request))
    }

    /// Lets a stream of this user begin.
    pub fn stream(&self, user: &UserId) -> Result<Place, Problem> {
        let mut book = self.book();
        if over(book.streams, self.limits.streams) {
            return Err(Problem::unavailable().after(FULL_WAIT_SECONDS));
        }
        let standing = book.standing(user, &self.limits, Instant::now());
        if over(standing.streams, self.limits.streams_per_user) {
            return Err(Problem::rate_limited("Too many open streams", FULL_WAIT_SECONDS));
        }
        standing.streams += 1;
        book.streams += 1;
        Ok(self.place(user, Kind::Stream))
    }

    fn place(&self, user: &UserId, kind: Kind) -> Place {
        Place {
            quota: self.clone(),
            user: user.clone(),
            kind,
        }
    }
}

fn over(taken: u32, limit: u32) -> bool {
    limit > 0 && taken >= limit
}

impl Book {
    fn standing(&mut self, user: &UserId, limits: &Quotas, now: Instant) -> &mut Standing {
        if self.users.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.users.retain(|_, standing| !standing.is_idle(limits, now));
            self.sweep_at = self.users.len() * 2;
        }
        self.users.entry(user.clone()).or_insert_with(|| Standing {
            tokens: f64::from(limits.burst.max(1)),
            filled_at: now,
            requests: 0,
            streams: 0,
        })
    }
}

impl Standing {
    fn fill(&mut self, limits: &Quotas, now: Instant) {
        let grown = now.duration_since(self.filled_at).as_secs_f64() * f64::from(limits.per_second);
        self.tokens = (self.tokens + grown).min(f64::from(limits.burst.max(1)));
        self.filled_at = now;
    }

    fn take_token(&mut self, limits: &Quotas, now: Instant) -> Result<(), Problem> {
        if limits.per_second == 0 {
            return Ok(());
        }
        self.fill(limits, now);
        if self.tokens < 1.0 {
            let missing = Duration::from_secs_f64((1.0 - self.tokens) / f64::from(limits.per_second));
            let wait = missing.as_secs() + 1;
            return Err(Problem::rate_limited("Too many requests", wait));
        }
        self.tokens -= 1.0;
        Ok(())
    }

    /// As if never seen.
    fn is_idle(&mut self, limits: &Quotas, now: Instant) -> bool {
        self.fill(limits, now);
        let full = limits.per_second == 0 || self.tokens >= f64::from(limits.burst.max(1));
        self.requests == 0 && self.streams == 0 && full
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.quota.book();
        if self.kind == Kind::Stream {
            book.streams = book.streams.saturating_sub(1);
        }
        if let Some(standing) = book.users.get_mut(&self.user) {
            let taken = match self.kind {
                Kind::Request => &mut standing.requests,
                Kind::Stream => &mut standing.streams,
            };
            *taken = taken.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(per_second: u32, burst: u32, concurrent: u32) -> Quota {
        Quota::new(Quotas {
            per_second,
            burst,
            concurrent,
            streams_per_user: 2,
            streams: 3,
        })
    }

    fn user(name: &str) -> UserId {
        UserId(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_in_then_the_rate_holds_for_each_user_alone() {
        let quota = quota(2, 3, 0);
        for _ in 0..3 {
            drop(quota.request(&user("a")).unwrap());
        }
        let refused = quota.request(&user("a")).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), ("rate_limited", Some(1)));
        assert!(quota.request(&user("b")).is_ok());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(quota.request(&user("a")).is_ok());
        assert!(quota.request(&user("a")).is_err());
    }

    #[tokio::test]
    async fn places_are_given_back_and_zero_is_no_limit() {
        let limited = quota(0, 0, 2);
        let first = limited.request(&user("a")).unwrap();
        let _second = limited.request(&user("a")).unwrap();
        assert!(limited.request(&user("a")).is_err());
        drop(first);
        assert!(limited.request(&user("a")).is_ok());
        let free = quota(0, 0, 0);
        let held: Vec<Place> = (0..1000).map(|_| free.request(&user("a")).unwrap()).collect();
        assert_eq!(held.len(), 1000);
    }

    #[tokio::test]
    async fn streams_are_limited_per_user_and_altogether() {
        let quota = quota(0, 0, 0);
        let held = (
            quota.stream(&user("a")).unwrap(),
            quota.stream(&user("a")).unwrap(),
        );
        assert_eq!(quota.stream(&user("a")).unwrap_err().code, "rate_limited");
        let _other = quota.stream(&user("b")).unwrap();
        let full = quota.stream(&user("c")).unwrap_err();
        assert_eq!((full.code, full.retry_after), ("unavailable", Some(5)));
        drop(held);
        assert!(quota.stream(&user("c")).is_ok());
    }

    #[tokio::test]
    async fn idle_users_are_forgotten() {
        let quota = quota(0, 0, 1);
        let kept = quota.request(&user("kept")).unwrap();
        for number in 0..SWEEP_FROM * 3 {
            drop(quota.request(&user(&number.to_string())).unwrap());
        }
        let remembered = quota.book().users.len();
        assert!(remembered <= SWEEP_FROM + 1, "{remembered}");
        assert!(quota.request(&user("kept")).is_err(), "still in work");
        drop(kept);
    }
}
