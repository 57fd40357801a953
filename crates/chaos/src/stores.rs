//! The private stores, and what the programs are told about them.

use std::path::Path;

use testkit::{Postgres, Redis, S3};

use crate::disk::SmallDisk;
use crate::node::{Links, StoreName};

/// Secret of all tokens.
pub(crate) const SECRET: &str = "a-secret-of-the-chaos-suite";

pub(crate) fn own(pairs: &[(&str, String)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// What the programs are told about the stores.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) database_url: String,
    postgres_port: u16,
    s3: [(&'static str, String); 4],
}

impl Addresses {
    pub(crate) fn env(&self, links: &Links) -> Vec<(String, String)> {
        let direct = format!(":{}/", self.postgres_port);
        let through = format!(":{}/", links.to(StoreName::Postgres).port());
        let mut env = own(&[
            ("DATABASE_URL", self.database_url.replace(&direct, &through)),
            (
                "REDIS_URL",
                format!("redis://127.0.0.1:{}", links.to(StoreName::Redis).port()),
            ),
            (
                "S3_ENDPOINT",
                format!("http://127.0.0.1:{}", links.to(StoreName::S3).port()),
            ),
            ("JWT_SECRET", SECRET.to_owned()),
            ("LLM_PRIMARY_PROVIDER", "scripted".to_owned()),
            ("POOL_SIZE", "8".to_owned()),
            ("STARTUP_TIMEOUT_SECONDS", "60".to_owned()),
        ]);
        env.extend(own(&self.s3));
        env
    }
}

/// The private stores. Each is behind a lock because killing and starting it again is exclusive.
#[derive(Debug)]
pub struct Stores {
    pub redis: tokio::sync::Mutex<Redis>,
    pub postgres: tokio::sync::Mutex<Postgres>,
    pub s3: tokio::sync::Mutex<S3>,
    /// Where the S3 store keeps its data; nothing where mounting is not allowed, then it shares the machine's.
    pub disk: Option<SmallDisk>,
    pub(crate) redis_port: u16,
    pub(crate) postgres_port: u16,
    pub(crate) s3_port: u16,
}

impl Stores {
    pub(crate) async fn start(dir: &Path) -> (Self, Addresses) {
        let redis = Redis::start().await;
        let postgres = Postgres::start().await;
        let disk = SmallDisk::mount(dir);
        let s3 = match &disk {
            Some(disk) => S3::start_below(disk.path()).await,
            None => S3::start().await,
        };
        let addresses = Addresses {
            database_url: postgres.migrated_database().await,
            postgres_port: postgres.port(),
            s3: [
                ("S3_ACCESS_KEY", s3.access_key().to_owned()),
                ("S3_SECRET_KEY", s3.secret_key().to_owned()),
                ("S3_REGION", s3.region().to_owned()),
                ("S3_WORKSPACE_BUCKET", s3.bucket().to_owned()),
            ],
        };
        let stores = Self {
            redis_port: redis.port(),
            postgres_port: postgres.port(),
            s3_port: s3.port(),
            redis: tokio::sync::Mutex::new(redis),
            postgres: tokio::sync::Mutex::new(postgres),
            s3: tokio::sync::Mutex::new(s3),
            disk,
        };
        (stores, addresses)
    }
}
