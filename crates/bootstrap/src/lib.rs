//! What every program of ours needs before it does anything of its own: settings, logs and metrics, shutdown, an
//! accept loop. Knows nothing of runs or jobs.

pub mod http;
pub mod redacted;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod traces;

pub use redacted::Redacted;
pub use settings::{Faults, Validate};
pub use shutdown::Shutdown;
