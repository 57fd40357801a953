//! A workspace over each store.

use bytes::Bytes;
use clap::Parser;
use domain::{RunId, SystemClock, UserId};
use std::sync::Arc;
use testkit::S3;
use workspace::{MemoryObjects, Objects, RunWorkspace, S3Options, Workspaces};

pub(crate) const MAX_FILE: u64 = 1000;
pub(crate) const MAX_TOTAL: u64 = 3000;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    s3: S3Options,
}

pub(crate) fn options(args: &[&str]) -> S3Options {
    Options::parse_from(std::iter::once(&"test").chain(args)).s3
}

pub(crate) fn options_for(s3: &S3) -> S3Options {
    let (endpoint, max_file, max_total) = (s3.endpoint(), MAX_FILE.to_string(), MAX_TOTAL.to_string());
    options(&[
        "--s3-endpoint",
        &endpoint,
        "--s3-workspace-bucket",
        s3.bucket(),
        "--s3-access-key",
        s3.access_key(),
        "--s3-secret-key",
        s3.secret_key(),
        "--workspace-max-file-bytes",
        &max_file,
        "--workspace-max-bytes",
        &max_total,
    ])
}

/// Both stores with the same limits; the server lives as long as this.
pub(crate) struct Stores {
    pub s3: S3,
    pub all: Vec<(&'static str, Workspaces)>,
}

pub(crate) async fn both() -> Stores {
    let s3 = S3::start().await;
    let memory = Objects::Memory(MemoryObjects::new(Arc::new(SystemClock)));
    let all = vec![
        ("s3", Workspaces::from_options(&options_for(&s3))),
        ("memory", Workspaces::on(memory, MAX_FILE, MAX_TOTAL)),
    ];
    Stores { s3, all }
}

pub(crate) fn run(number: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(number))
}

pub(crate) fn of(workspaces: &Workspaces, number: u128) -> RunWorkspace {
    workspaces.of_run(&UserId::from("auth0|7"), run(number))
}

pub(crate) async fn write(workspace: &RunWorkspace, path: &str, text: &str) -> String {
    match workspace
        .write(path, Bytes::copy_from_slice(text.as_bytes()))
        .await
    {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

pub(crate) async fn read(workspace: &RunWorkspace, path: &str) -> String {
    match workspace.read(path).await {
        Ok(content) => String::from_utf8(content.to_vec()).unwrap(),
        Err(error) => error.to_string(),
    }
}

pub(crate) async fn names(workspace: &RunWorkspace, dir: &str) -> Vec<String> {
    workspace
        .list(dir)
        .await
        .unwrap()
        .into_iter()
        .map(|file| file.filepath)
        .collect()
}
