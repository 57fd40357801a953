//! Everything that is decided before anything is started: which servers are private and which are given, ports,
//! addresses, the token, the model.

use crate::args::UpArgs;
use crate::envfile::Values;
use crate::failure::Failure;
use crate::objects::S3Settings;
use crate::place::{DEFAULT_BUCKET, DEFAULT_REGION};
use crate::token::{self, Claims};
use crate::up::binaries::{self, Found};
use crate::up::home::{Home, Secrets, State};
use crate::up::ports::{Held, Ports};
use crate::up::{postgres, redis, store};
use domain::SystemClock;
use std::path::PathBuf;

/// The ready token: of an ordinary user, without an end, so it is the same at every start.
const DEV: Claims<'_> = Claims {
    user: "dev",
    admin: false,
    expires_in: None,
};
/// Any of these chooses a real model.
const MODEL_SETTINGS: [(&str, &str); 3] = [
    ("ANTHROPIC_API_KEY", "anthropic"),
    ("OPENAI_API_KEY", "openai"),
    ("OPENAI_BASE_URL", "openai"),
];

/// A server that we start, or one that is there.
#[derive(Debug, Clone)]
pub enum Server<P> {
    Private(P),
    Given,
}

/// What is started and how it is reached.
#[derive(Clone)]
pub struct Plan {
    pub postgres: Server<(Found, u16)>,
    pub redis: Server<(Found, u16)>,
    /// The port of the embedded store.
    pub s3: Server<u16>,
    pub database_url: String,
    pub redis_url: String,
    pub objects: S3Settings,
    pub api_program: PathBuf,
    pub worker_program: PathBuf,
    pub api_port: u16,
    pub internal_port: u16,
    pub worker_ports: Vec<u16>,
    pub jwt_secret: String,
    pub token: String,
    /// `LLM_PRIMARY_PROVIDER` for the worker; `None` leaves the choice to it.
    pub provider: Option<String>,
    /// The model for people.
    pub model: String,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses and tokens hold secrets.
        f.debug_struct("Plan")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Decides; ports go into the state, and are held against other supervisors as long as the second part lives.
    pub fn make(
        home: &Home,
        env: &Values,
        args: &UpArgs,
        secrets: &Secrets,
        state: &mut State,
    ) -> Result<(Self, Held), Failure> {
        let mut ports = Ports::remembered(std::mem::take(&mut state.ports));
        let before = ports.get("postgres").map(|port| postgres::url(secrets, port));
        let database = given(env, "DATABASE_URL", before);
        let postgres = match &database {
            Some(_) => Server::Given,
            None => Server::Private((
                binaries::postgres(env, postgres::data_version(home, state))?,
                ports.choose("postgres")?,
            )),
        };
        let before = ports.get("redis").map(redis::url);
        let redis_given = given(env, "REDIS_URL", before);
        let redis = match &redis_given {
            Some(_) => Server::Given,
            None => Server::Private((binaries::redis(env)?, ports.choose("redis")?)),
        };
        let (s3, objects) = objects(env, secrets, &mut ports)?;
        let api_port = match args.api_port {
            Some(port) => ports.insist("api", port)?,
            None => ports.choose("api")?,
        };
        let internal_port = ports.choose("internal")?;
        let worker_ports = (1..=args.workers)
            .map(|number| ports.choose(&format!("worker-{number}")))
            .collect::<Result<Vec<u16>, Failure>>()?;
        let jwt_secret = env.get("JWT_SECRET").unwrap_or(&secrets.jwt_secret).clone();
        let (provider, model) = model(env);
        let plan = Self {
            database_url: database
                .unwrap_or_else(|| postgres::url(secrets, ports.get("postgres").unwrap_or_default())),
            redis_url: redis_given.unwrap_or_else(|| redis::url(ports.get("redis").unwrap_or_default())),
            postgres,
            redis,
            s3,
            objects,
            api_program: binaries::ours("agent-api", env)?,
            worker_program: binaries::ours("agent-worker", env)?,
            api_port,
            internal_port,
            worker_ports,
            token: token::sign(&jwt_secret, DEV, &SystemClock)?,
            jwt_secret,
            provider,
            model,
        };
        let (ports, held) = ports.settle();
        state.ports = ports;
        state.workers = args.workers;
        state.model.clone_from(&plan.model);
        Ok((plan, held))
    }

    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// What `agent-api` and `agent-worker` both need, over what they inherit.
    pub fn shared_env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            pair("DATABASE_URL", &self.database_url),
            pair("REDIS_URL", &self.redis_url),
            pair("S3_ENDPOINT", &self.objects.endpoint),
            pair("S3_REGION", &self.objects.region),
            pair("S3_ACCESS_KEY", &self.objects.access_key),
            pair("S3_SECRET_KEY", &self.objects.secret_key),
            pair("S3_WORKSPACE_BUCKET", &self.objects.bucket),
            pair("S3_FORCE_PATH_STYLE", "true"),
            pair("JWT_SECRET", &self.jwt_secret),
        ];
        env.extend(
            self.provider
                .iter()
                .map(|provider| pair("LLM_PRIMARY_PROVIDER", provider)),
        );
        env
    }

    pub fn api_env(&self) -> Vec<(String, String)> {
        let mut env = self.shared_env();
        env.push(pair("API_BIND_ADDR", &format!("127.0.0.1:{}", self.api_port)));
        env.push(pair(
            "RUNTIME_BIND_ADDR",
            &format!("127.0.0.1:{}", self.internal_port),
        ));
        env
    }

    pub fn worker_env(&self, port: u16) -> Vec<(String, String)> {
        let mut env = self.shared_env();
        env.push(pair("WORKER_ADMIN_ADDR", &format!("127.0.0.1:{port}")));
        env
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A server named from outside; our own private one, met again because `home/env` was sourced, does not count.
fn given(env: &Values, name: &str, private: Option<String>) -> Option<String> {
    env.get(name)
        .filter(|value| private.as_ref() != Some(*value))
        .cloned()
}

fn objects(env: &Values, secrets: &Secrets, ports: &mut Ports) -> Result<(Server<u16>, S3Settings), Failure> {
    let or = |name: &str, default: &str| env.get(name).map_or_else(|| default.to_owned(), Clone::clone);
    let bucket = or("S3_WORKSPACE_BUCKET", DEFAULT_BUCKET);
    let region = or("S3_REGION", DEFAULT_REGION);
    let before = ports.get("s3").map(store::url);
    let Some(endpoint) = given(env, "S3_ENDPOINT", before) else {
        let port = ports.choose("s3")?;
        let settings = S3Settings {
            endpoint: store::url(port),
            region,
            bucket,
            access_key: secrets.s3_access_key.clone(),
            secret_key: secrets.s3_secret_key.clone(),
        };
        return Ok((Server::Private(port), settings));
    };
    let key = |name: &str| {
        env.get(name).cloned().ok_or_else(|| {
            Failure::new(format!("{name} is not set"))
                .because("S3_ENDPOINT names a store of yours, which needs its keys")
                .fix("set S3_ACCESS_KEY and S3_SECRET_KEY, or unset S3_ENDPOINT for the embedded store")
        })
    };
    let settings = S3Settings {
        endpoint,
        region,
        bucket,
        access_key: key("S3_ACCESS_KEY")?,
        secret_key: key("S3_SECRET_KEY")?,
    };
    Ok((Server::Given, settings))
}

/// The provider to set and the words for it.
fn model(env: &Values) -> (Option<String>, String) {
    if let Some(provider) = env.get("LLM_PRIMARY_PROVIDER") {
        return (Some(provider.clone()), provider.clone());
    }
    match MODEL_SETTINGS.iter().find(|(name, _)| env.contains_key(*name)) {
        Some((name, provider)) => (None, format!("{provider} ({name} is set)")),
        None => (Some("scripted".to_owned()), "scripted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| pair(name, value)).collect()
    }

    #[test]
    fn without_a_key_the_model_is_scripted_and_a_choice_is_kept() {
        assert_eq!(model(&values(&[])).0.as_deref(), Some("scripted"));
        assert_eq!(model(&values(&[("OPENAI_BASE_URL", "http://x")])).0, None);
        let chosen = values(&[("LLM_PRIMARY_PROVIDER", "recorded"), ("OPENAI_API_KEY", "k")]);
        assert_eq!(model(&chosen).0.as_deref(), Some("recorded"));
    }

    #[test]
    fn our_own_address_in_a_sourced_environment_is_not_a_given_server() {
        let env = values(&[("REDIS_URL", "redis://127.0.0.1:63790")]);
        assert_eq!(given(&env, "REDIS_URL", Some(redis::url(63790))), None);
        assert!(given(&env, "REDIS_URL", Some(redis::url(1))).is_some());
        assert!(given(&env, "REDIS_URL", None).is_some());
    }
}
