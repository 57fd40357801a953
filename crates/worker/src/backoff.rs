//! Delay before retry n: random between 0 and min(cap, base × 2^(n−1)) ("full jitter"), so that jobs that failed
//! together do not come back together. A `Retry-After` of the other side raises it, up to the cap.

use rand::Rng;
use std::time::Duration;

/// `WORKER_RETRY_BASE_MS` and `WORKER_RETRY_CAP_MS`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The largest delay before retry `n` (from 1).
    pub fn ceiling(self, n: u32) -> Duration {
        let factor = 1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The delay before retry `n`.
    pub fn delay(self, n: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(n).as_millis() as u64;
        let jittered = Duration::from_millis(rng.random_range(0..=ceiling));
        jittered.max(retry_after.unwrap_or_default()).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_secs(1),
        cap: Duration::from_mins(1),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 40, 400]
            .map(|n| BACKOFF.ceiling(n).as_secs())
            .to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn retry_after_raises_the_delay_but_not_above_the_cap() {
        let mut rng = rand::rng();
        for n in 1..20 {
            assert!(BACKOFF.delay(n, None, &mut rng) <= BACKOFF.ceiling(n));
            let asked = BACKOFF.delay(n, Some(Duration::from_secs(40)), &mut rng);
            assert!(asked >= Duration::from_secs(40) && asked <= Duration::from_mins(1));
            assert_eq!(
                BACKOFF.delay(n, Some(Duration::from_secs(4000)), &mut rng),
                BACKOFF.cap
            );
        }
    }
}
