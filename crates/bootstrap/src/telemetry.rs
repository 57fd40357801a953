//! Logs as JSON lines on stdout, metrics as Prometheus text.
//!
//! A line is `{"timestamp","level","event",…fields}`; `event` is the message. Secrets and prompts are never fields.

use crate::traces::Traces;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::fmt;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Buckets of `agent_job_duration_seconds`, in seconds.
const JOB_BUCKETS: [f64; 10] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Buckets of all other durations, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0,
];

/// What a text field is logged as: given its name and text, the text to be written instead, if another.
pub type Scrub = Box<dyn Fn(&str, &str) -> Option<String> + Send + Sync>;

/// Buckets of distances in events.
const LAG_BUCKETS: [f64; 7] = [0.0, 1.0, 5.0, 25.0, 100.0, 1_000.0, 10_000.0];

/// Starts logging; `filter` is a level or a `tracing` filter. Every text field passes `scrub`. A second call changes
/// nothing. Spans go where `traces` leads.
pub fn init(filter: &str, scrub: Scrub, traces: &Traces) {
    // At debug the Postgres client prints statement parameters, prompts among them.
    let filter = format!("{},tokio_postgres=info", filter.to_lowercase());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(JsonLine { scrub })
        .with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(lines).with(traces.layer());
    // Already set: a test or an embedding program has its own.
    tracing::subscriber::set_global_default(subscriber).unwrap_or_default();
}

/// Installs the TLS provider; call it first in every `main`. A second call changes nothing.
pub fn crypto() {
    // An error only means that a provider is installed already.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .unwrap_or_default();
}

/// The process's metrics recorder, installed at the first call.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = recorder_builder().build_recorder();
            let handle = recorder.handle();
            // An error means that a test installed its own; ours then renders nothing, which is what it holds.
            metrics::set_global_recorder(recorder).unwrap_or_default();
            handle
        })
        .clone()
}

fn recorder_builder() -> PrometheusBuilder {
    let builder = PrometheusBuilder::new();
    let job = Matcher::Full("agent_job_duration_seconds".to_owned());
    let lag = Matcher::Suffix("_lag_events".to_owned());
    let seconds = Matcher::Suffix("_seconds".to_owned());
    builder
        .set_buckets_for_metric(job, &JOB_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(seconds, &BUCKETS))
        .and_then(|builder| builder.set_buckets_for_metric(lag, &LAG_BUCKETS))
        .unwrap_or_else(|_| PrometheusBuilder::new())
}

/// One event as one JSON object.
struct JsonLine {
    scrub: Scrub,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let meta = event.metadata();
        let level = meta.level().as_str().to_lowercase();
        write!(out, "{{\"timestamp\":\"{time}\",\"level\":\"{level}\"")?;
        let mut fields = Fields {
            out: &mut out,
            scrub: &self.scrub,
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        writeln!(out, ",\"target\":\"{}\"}}", meta.target())
    }
}

/// Writes fields as `,"name":value`; `message` becomes `event`.
struct Fields<'a, 'w> {
    out: &'a mut Writer<'w>,
    scrub: &'a Scrub,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn put(&mut self, field: &Field, value: &str, quote: bool) {
        if self.result.is_err() {
            return;
        }
        let name = if field.name() == "message" {
            "event"
        } else {
            field.name()
        };
        self.result = if quote {
            write!(self.out, ",\"{name}\":\"{}\"", Escaped(value))
        } else {
            write!(self.out, ",\"{name}\":{value}")
        };
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value.to_string(), !value.is_finite());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value.to_string(), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value.to_string(), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, if value { "true" } else { "false" }, false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match (self.scrub)(field.name(), value) {
            Some(scrubbed) => self.put(field, &scrubbed, true),
            None => self.put(field, value, true),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Text inside a JSON string.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_is_one_json_object_with_the_message_as_event() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(JsonLine {
                scrub: Box::new(|name, text| (name == "path" && text == "/secret").then(|| "/-".to_owned())),
            })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(status_code = 200, path = "/a\"b\n", "request_completed");
            tracing::info!(path = %"/secret", "hidden");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 2);
        assert!(text.contains(r#""event":"hidden","path":"/-""#), "{text}");
        assert!(
            text.contains(r#""level":"info","event":"request_completed","status_code":200,"path":"/a\"b\n""#),
            "{text}"
        );
        assert!(
            text.starts_with("{\"timestamp\":\"20") && text.ends_with("}\n"),
            "{text}"
        );
    }
}
