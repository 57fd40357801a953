//! A local model endpoint with the wire forms of OpenAI chat completions (`POST /v1/chat/completions`)
//! and Anthropic messages (`POST /v1/messages`), both streamed, answering from a script.
//!
//! Every request is checked as the providers would check it, and harder ([`transcript`]): a violation
//! is recorded and answered with the provider's 400. A request the script has no answer for is a
//! violation too, so a run that asks the model once too often fails its test.

mod answer;
mod anthropic;
mod openai;
mod script;
mod server;
mod transcript;

pub use answer::Answer;
pub use script::{Recorded, Wire};
pub use server::ModelServer;
