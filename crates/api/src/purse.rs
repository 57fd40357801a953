//! Who may have a new run: with `CREDITS_ENFORCED` only users with credits, and admins.

use crate::auth::Principal;
use crate::config::CreditOptions;
use runs::{Credits, StoreError};

/// The balances, as far as new runs need them. Cheap clone.
#[derive(Debug, Clone)]
pub struct Purse {
    credits: Credits,
    enforced: bool,
    initial_grant: f64,
}

impl Purse {
    pub fn new(credits: Credits, options: &CreditOptions) -> Self {
        Self {
            credits,
            enforced: options.credits_enforced,
            initial_grant: options.credits_initial_grant,
        }
    }

    /// Whether the runs this caller makes go on without credits.
    pub fn exempts(&self, caller: &Principal) -> bool {
        self.enforced && caller.admin
    }

    /// A user without a balance first gets the initial grant.
    pub async fn may_spend(&self, caller: &Principal) -> Result<bool, StoreError> {
        if !self.enforced || caller.admin {
            return Ok(true);
        }
        self.credits
            .grant_initial(&caller.user_id, self.initial_grant)
            .await?;
        Ok(self.credits.balance(&caller.user_id).await? > 0.0)
    }
}
