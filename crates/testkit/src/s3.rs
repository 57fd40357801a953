//! The product's own object store, in this process, over HTTP on a loopback port, in a directory of its own.

use std::path::{Path, PathBuf};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Region};
use objectstore::{ServerHandle, Store, serve};

use crate::background;
use crate::guard::{Ending, Guard};

const ACCESS_KEY: &str = "testkit";
const SECRET_KEY: &str = "testkit-secret-key";
const BUCKET: &str = "agent-workspaces";
const REGION: &str = "us-east-1";

/// One S3 endpoint. Dropped = stopped and its data removed.
#[derive(Debug)]
pub struct S3 {
    server: Option<ServerHandle>,
    port: u16,
    dir: PathBuf,
    _guard: Guard,
}

impl S3 {
    /// Starts it, with the bucket made.
    pub async fn start() -> Self {
        Self::start_at(crate::dir::fresh("s3")).await
    }

    /// The same with its data below `parent`, for example on a file system that can be filled.
    pub async fn start_below(parent: &Path) -> Self {
        Self::start_at(crate::dir::fresh_below(parent, "s3")).await
    }

    async fn start_at(dir: PathBuf) -> Self {
        let guard = Guard::new(Ending::KillGroup, &dir);
        let port = crate::free_port();
        let server = launch(dir.clone(), port).await;
        let s3 = Self {
            server: Some(server),
            port,
            dir,
            _guard: guard,
        };
        s3.client()
            .create_bucket()
            .bucket(BUCKET)
            .send()
            .await
            .expect("the bucket can be made");
        s3
    }

    /// `http://127.0.0.1:PORT`; buckets are in the path.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn access_key(&self) -> &str {
        ACCESS_KEY
    }

    pub fn secret_key(&self) -> &str {
        SECRET_KEY
    }

    pub fn region(&self) -> &str {
        REGION
    }

    /// `agent-workspaces`
    pub fn bucket(&self) -> &str {
        BUCKET
    }

    /// A client for looking into the store.
    pub fn client(&self) -> Client {
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "testkit"))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    /// Ends requests under way (after 5 s by force) and closes the port. The data stays for [`S3::restart`].
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let stopped = background::handle().spawn(server.shutdown());
            stopped.await.expect("the server stops");
        }
    }

    /// Starts it again on the same port and data; stops it before, if it still runs.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.server = Some(launch(self.dir.clone(), self.port).await);
    }
}

async fn launch(dir: PathBuf, port: u16) -> ServerHandle {
    let started = background::handle().spawn(async move {
        let store = Store::open(&dir).unwrap_or_else(|error| panic!("{}: {error:?}", dir.display()));
        let listener = crate::port::listen(port).await.expect("the port is free");
        let keys = objectstore::Credentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        };
        serve(store, listener, keys).await.expect("the store serves")
    });
    started.await.expect("the store starts")
}
