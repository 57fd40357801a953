//! How users and operators talk to the two APIs: every request may stay without an answer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::system::System;

/// Longest wait for an answer; a stopped API would never give one.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// Pause before a request that got no answer is repeated.
const REPEAT_PAUSE: Duration = Duration::from_millis(150);

/// An answer below 500.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

/// A client of all APIs of the system.
#[derive(Debug, Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    bases: Vec<String>,
    token: String,
}

impl ApiClient {
    pub fn new(system: &System) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_LIMIT)
            .build()
            .expect("a client can be built");
        Self {
            http,
            bases: system.apis.iter().map(crate::system::Node::base).collect(),
            token: system.token.clone(),
        }
    }

    /// One try at the API number `api` (modulo their count). `None`: no answer, or one of 500 and above.
    pub async fn post(&self, api: usize, path: &str, body: &Value, key: Option<&str>) -> Option<Answer> {
        let url = format!("{}{path}", self.bases[api % self.bases.len()]);
        let mut request = self.http.post(url).bearer_auth(&self.token).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.json().await.ok()?;
        (status < 500).then_some(Answer { status, body })
    }

    /// Repeats, with the same key and at one API after the other, until there is an answer.
    pub async fn insist(&self, api: usize, path: &str, body: &Value, key: Option<&str>) -> Answer {
        let mut api = api;
        loop {
            if let Some(answer) = self.post(api, path, body, key).await {
                return answer;
            }
            api += 1;
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
    }

    /// Repeats a GET at one API after the other until it is answered with 200.
    pub async fn get(&self, api: usize, path: &str) -> Value {
        let mut api = api;
        loop {
            let url = format!("{}{path}", self.bases[api % self.bases.len()]);
            if let Ok(answer) = self.http.get(url).bearer_auth(&self.token).send().await
                && answer.status() == 200
                && let Ok(body) = answer.json().await
            {
                return body;
            }
            api += 1;
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
    }

    /// `/agent/execute` with an action that names a run; repeated until there is an answer.
    pub async fn act(&self, api: usize, action: &str, run_id: &str) -> Answer {
        let body = json!({"action": action, "run_id": run_id});
        self.insist(api, "/agent/execute", &body, None).await
    }

    /// The row of a run as `/agent/status` shows it.
    pub async fn run(&self, api: usize, run_id: &str) -> Option<Value> {
        let answer = self
            .post(api, "/agent/status", &json!({"run_id": run_id}), None)
            .await?;
        answer.is_ok().then(|| answer.body["run"].clone())
    }
}
