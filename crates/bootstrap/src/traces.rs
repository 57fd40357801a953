//! Traces over OTLP/HTTP; off unless an endpoint is set, and then one trace leads from a request over its job to the model
//! and tool calls.
//!
//! Spans are made with target [`TARGET`] at level trace: without an endpoint they are disabled where they stand and cost
//! nothing. Their fields are ids, names, numbers and closed words, never texts of users or models. A collector that is away
//! costs spans, nothing else.

use async_trait::async_trait;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::collections::HashMap;
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Target of every span.
pub const TARGET: &str = "traces";
/// Longest wait for the collector, per export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const TRACEPARENT: &str = "traceparent";

/// Where traces go.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceOptions {
    /// OTLP/HTTP collector, for example `http://127.0.0.1:4318`; no traces without it
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// Name of this program in traces [default: the program's]
    #[arg(long, env = "OTEL_SERVICE_NAME")]
    pub otel_service_name: Option<String>,
}

/// The process's way to its collector.
#[derive(Debug, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts nothing without an endpoint. Must be called inside a runtime, which carries the exports.
    pub fn start(options: &TraceOptions, program: &'static str) -> Result<Self, ExporterBuildError> {
        let endpoint = options.otel_exporter_otlp_endpoint.as_deref();
        let Some(endpoint) = endpoint.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self(None));
        };
        let client = OnRuntime {
            client: reqwest::Client::new(),
            runtime: Handle::current(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let name = options
            .otel_service_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let resource = Resource::builder()
            .with_service_name(name.unwrap_or(program).to_owned())
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Self(Some(provider)))
    }

    /// What makes spans of ours leave the process.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.0.as_ref()?.tracer("agent-runtime");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false);
        Some(layer.with_filter(filter_fn(|meta| meta.target() == TARGET)))
    }

    /// Sends what is left; call it before the runtime ends.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "last traces not sent");
        }
    }
}

/// Makes a span part of the trace of a W3C `traceparent`; gives the context to hand on, which is the one given when traces
/// are off or this one is not sampled.
pub fn continued(span: &Span, traceparent: &str) -> String {
    let given = || traceparent.to_owned();
    if span.is_disabled() {
        return given();
    }
    let propagator = TraceContextPropagator::new();
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), given())]);
    let parent = propagator.extract_with_context(&Context::new(), &carrier);
    if span.set_parent(parent).is_err() {
        return given();
    }
    let own = span.context();
    if !own.span().span_context().is_sampled() {
        return given();
    }
    let mut carrier = HashMap::new();
    propagator.inject_context(&own, &mut carrier);
    carrier.remove(TRACEPARENT).unwrap_or_else(given)
}

/// The exporter's thread has no runtime of its own.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let (parts, body) = request.into_parts();
        let sent = self.runtime.spawn(async move {
            let request = client
                .request(parts.method, parts.uri.to_string())
                .headers(parts.headers)
                .timeout(EXPORT_TIMEOUT)
                .body(body);
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = sent.await??;
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}
