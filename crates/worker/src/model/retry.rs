//! The tries of a model call (AA-77), and their metrics.
//!
//! Three tries at the primary, waits of 1 and 2 s in between; then the fallback vendor once; then the primary's error,
//! for the job's own retry. Money spent at the vendor ends the tries at once, and tries end when what failed ones used leaves
//! no room in the run's budget. Here calls get their price, also those that failed. A wait longer than [`LONGEST_WAIT`] is never slept here: it would hold a worker's
//! slot. Waits end at once on cancellation.

use super::AnyModel;
use agent::ports::{CallWatch, FailedCall, Model, ModelError, ModelReply, ModelRequest};
use domain::{Clock, Price, Prices, SystemClock, Usage};
use futures::future::BoxFuture;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rand::Rng as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

/// A vendor asking for a longer wait is not waited for in the slot.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The waits before the second, third, … try; their number is the number of retries.
#[derive(Debug, Clone)]
pub struct RetryWaits(pub Vec<Duration>);

impl Default for RetryWaits {
    fn default() -> Self {
        Self(vec![Duration::from_secs(1), Duration::from_secs(2)])
    }
}

/// A model with its retries and its fallback.
#[derive(Debug, Clone)]
pub struct WithRetries {
    primary: AnyModel,
    fallback: Option<AnyModel>,
    waits: RetryWaits,
    prices: Arc<Prices>,
    clock: Arc<dyn Clock>,
}

/// Looks on for somebody else, and puts a price on what failed.
struct Priced<'a> {
    watch: &'a dyn CallWatch,
    model: &'a WithRetries,
}

impl CallWatch for Priced<'_> {
    fn text(&self, text: &str) {
        self.watch.text(text);
    }

    fn failed(&self, mut call: FailedCall) {
        call.usage.cost_micros = self.model.cost(&call.provider, &[&call.model], call.usage);
        self.watch.failed(call);
    }

    fn may_try_again(&self) -> BoxFuture<'_, bool> {
        self.watch.may_try_again()
    }
}

impl WithRetries {
    pub fn new(primary: AnyModel, fallback: Option<AnyModel>, waits: RetryWaits) -> Self {
        Self {
            primary,
            fallback,
            waits,
            prices: Arc::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// What calls cost; without it the built-in table.
    #[must_use]
    pub fn with_prices(self, prices: Prices, clock: Arc<dyn Clock>) -> Self {
        Self {
            prices: Arc::new(prices),
            clock,
            ..self
        }
    }

    fn today(&self) -> Date {
        self.clock.now().to_zoned(TimeZone::UTC).date()
    }

    /// Micro-dollars by the first of these names that has a price.
    fn cost(&self, provider: &str, names: &[&str], usage: Usage) -> Option<i64> {
        let day = self.today();
        let price = names
            .iter()
            .find_map(|name| self.prices.of(provider, name, day))?;
        Some(price.cost(usage))
    }

    /// A reply names its model itself, with its version; a server may answer with a name of its own.
    fn priced(&self, mut reply: ModelReply, asked: &AnyModel) -> ModelReply {
        let (provider, name) = asked.identity();
        reply.usage.cost_micros = self.cost(&provider, &[&reply.model, &name], reply.usage);
        reply
    }

    fn price_of(&self, model: &AnyModel) -> Option<Price> {
        let (provider, name) = model.identity();
        self.prices.of(&provider, &name, self.today())
    }

    /// Whether one of the models can be used now, for readiness: uses no tokens, at most 2 s each.
    pub async fn check(&self) -> Result<(), String> {
        let Err(fault) = self.primary.check().await else {
            return Ok(());
        };
        match &self.fallback {
            Some(fallback) => fallback.check().await.map_err(|_| fault),
            None => Err(fault),
        }
    }

    /// One line for the first log line: which model answers.
    pub fn describe(&self) -> String {
        match &self.fallback {
            Some(fallback) => format!("{}, fallback {}", self.primary.describe(), fallback.describe()),
            None => self.primary.describe(),
        }
    }

    async fn try_primary(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let mut waits = self.waits.0.iter();
        loop {
            let error = match measured(&self.primary, request, watch, cancel).await {
                Ok(reply) => return Ok(self.priced(reply, &self.primary)),
                Err(error) => error,
            };
            let Some(wait) = wait_before_next(&error, waits.next().copied()) else {
                return Err(error);
            };
            if !watch.may_try_again().await {
                return Err(used_up(error));
            }
            let wait = wait + jitter(&error, wait);
            let (provider, model) = self.primary.identity();
            tracing::warn!(run_id = %request.run_id, provider, model, wait_ms = wait.as_millis(), %error,
                "model call is tried again");
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ModelError::Cancelled),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

impl Model for WithRetries {
    /// The error, when there is one, has `try_again_here: false`: the tries are used up.
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let watch = &Priced { watch, model: self };
        let error = match self.try_primary(request, watch, cancel).await {
            Err(error @ ModelError::Transient { .. }) => error,
            settled => return settled,
        };
        if let Some(fallback) = &self.fallback
            && may_try_here(&error)
            && watch.may_try_again().await
        {
            let (provider, model) = fallback.identity();
            tracing::warn!(run_id = %request.run_id, provider, model, %error, "asking the fallback model");
            match measured(fallback, request, watch, cancel).await {
                Ok(reply) => return Ok(self.priced(reply, fallback)),
                Err(ModelError::Cancelled) => return Err(ModelError::Cancelled),
                // The primary's trouble passes; the fallback's fault must not end the run.
                Err(fault) => {
                    tracing::warn!(run_id = %request.run_id, provider, model, error = %fault, "fallback failed");
                }
            }
        }
        Err(used_up(error))
    }

    /// Of the dearer one, when the fallback may answer.
    fn price(&self) -> Option<Price> {
        let price = self.price_of(&self.primary)?;
        match &self.fallback {
            Some(fallback) => Some(price.max(self.price_of(fallback)?)),
            None => Some(price),
        }
    }

    fn identity(&self) -> (String, String) {
        self.primary.identity()
    }
}

/// How long to wait before the next try; `None` when there is none.
fn wait_before_next(error: &ModelError, planned: Option<Duration>) -> Option<Duration> {
    let ModelError::Transient {
        retry_after,
        try_again_here: true,
        ..
    } = error
    else {
        return None;
    };
    let wait = planned?.max(retry_after.unwrap_or_default());
    (wait <= LONGEST_WAIT).then_some(wait)
}

/// Up to a tenth on top of a wait that was asked for: those who were all told the same do not come back all at once.
fn jitter(error: &ModelError, wait: Duration) -> Duration {
    let asked = matches!(
        error,
        ModelError::Transient {
            retry_after: Some(_),
            ..
        }
    );
    if asked {
        wait.mul_f64(rand::rng().random_range(0.0..0.1))
    } else {
        Duration::ZERO
    }
}

fn may_try_here(error: &ModelError) -> bool {
    matches!(
        error,
        ModelError::Transient {
            try_again_here: true,
            ..
        }
    )
}

fn used_up(error: ModelError) -> ModelError {
    match error {
        ModelError::Transient {
            message,
            status,
            retry_after,
            ..
        } => ModelError::Transient {
            message,
            status,
            retry_after,
            try_again_here: false,
        },
        other => other,
    }
}

/// One try, counted and timed.
async fn measured(
    model: &AnyModel,
    request: &ModelRequest,
    watch: &dyn CallWatch,
    cancel: &CancellationToken,
) -> Result<ModelReply, ModelError> {
    let started = Instant::now();
    let (provider, name) = model.identity();
    let span = tracing::trace_span!(target: "traces", "runtime.infer", otel.kind = "client",
        gen_ai.operation.name = "chat", gen_ai.provider.name = provider, gen_ai.request.model = name,
        gen_ai.usage.input_tokens = Empty, gen_ai.usage.output_tokens = Empty, error.type = Empty);
    let result = model
        .call_watched(request, watch, cancel)
        .instrument(span.clone())
        .await;
    metrics::histogram!("agent_llm_request_seconds").record(started.elapsed().as_secs_f64());
    let status = match &result {
        Ok(_) => "success",
        Err(ModelError::Transient { .. }) => "transient_error",
        Err(ModelError::Permanent { .. }) => "permanent_error",
        Err(ModelError::Spent { .. }) => "spent",
        Err(ModelError::Cancelled) => "cancelled",
    };
    let labels = [
        ("provider", provider.clone()),
        ("model", name),
        ("status", status.to_owned()),
    ];
    metrics::counter!("agent_llm_requests_total", &labels).increment(1);
    if result.is_err() {
        span.record("error.type", status);
    }
    if let Ok(reply) = &result {
        span.record("gen_ai.usage.input_tokens", reply.usage.input_tokens);
        span.record("gen_ai.usage.output_tokens", reply.usage.output_tokens);
        for (kind, tokens) in [
            ("input", reply.usage.input_tokens),
            ("output", reply.usage.output_tokens),
        ] {
            let labels = [("provider", provider.clone()), ("type", kind.to_owned())];
            metrics::counter!("agent_llm_tokens_total", &labels).increment(tokens.max(0) as u64);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient(retry_after: Option<u64>, try_again_here: bool) -> ModelError {
        ModelError::Transient {
            message: "m".into(),
            status: Some(429),
            retry_after: retry_after.map(Duration::from_secs),
            try_again_here,
        }
    }

    #[test]
    fn the_wait_is_the_longer_of_planned_and_asked_for_but_never_a_long_one() {
        let planned = Some(Duration::from_secs(1));
        assert_eq!(wait_before_next(&transient(None, true), planned), planned);
        assert_eq!(
            wait_before_next(&transient(Some(3), true), planned),
            Some(Duration::from_secs(3))
        );
        assert_eq!(wait_before_next(&transient(Some(60), true), planned), None);
        assert_eq!(wait_before_next(&transient(None, false), planned), None);
        assert_eq!(wait_before_next(&transient(None, true), None), None);
        let permanent = ModelError::Permanent {
            message: "m".into(),
            status: None,
        };
        assert_eq!(wait_before_next(&permanent, planned), None);
        assert_eq!(wait_before_next(&ModelError::Cancelled, planned), None);
    }
}
