use agent::ports::{Program, SandboxRequest};
use bytes::Bytes;
use domain::{Redactor, RunId, StepId, UserId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit::S3;
use worker::transport::Transport;
use worker::workspace::{Objects, RunWorkspace, S3Objects, StoreOptions, Workspaces};

pub(crate) const MIB: u64 = 1024 * 1024;
pub(crate) const SPEC: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const SECRET: &str = "s3cret-of-the-worker";
pub(crate) const VALID: Duration = Duration::from_mins(10);

pub(crate) struct Setup {
    pub(crate) s3: S3,
    pub(crate) objects: Objects,
    pub(crate) transport: Transport,
    pub(crate) files: RunWorkspace,
    pub(crate) run: RunId,
}

pub(crate) fn user() -> UserId {
    UserId::from("user|1")
}

pub(crate) async fn start() -> Setup {
    let s3 = S3::start().await;
    let options = StoreOptions {
        s3_endpoint: s3.endpoint(),
        s3_workspace_bucket: s3.bucket().to_owned(),
        s3_region: s3.region().to_owned(),
        s3_access_key: None,
        s3_secret_key: None,
        s3_force_path_style: true,
    };
    let store = S3Objects::new(&options, (s3.access_key(), s3.secret_key()));
    let objects = Objects::S3(store);
    let workspaces = Workspaces::on(objects.clone(), 8 * MIB, 64 * MIB);
    let run = RunId(uuid::Uuid::from_u128(7));
    Setup {
        files: workspaces.of_run(&user(), run),
        transport: Transport::new(&workspaces, Arc::new(Redactor::new([SECRET], []))),
        s3,
        objects,
        run,
    }
}

impl Setup {
    pub(crate) fn step(&self, number: u128) -> SandboxRequest {
        SandboxRequest {
            run_id: self.run,
            step_id: StepId(uuid::Uuid::from_u128(number)),
            user_id: user(),
            program: Program::Shell {
                command: "true".to_owned(),
            },
            working_dir: "/workspace".to_owned(),
            timeout: Duration::from_secs(20),
        }
    }

    pub(crate) async fn put(&self, path: &str, content: &[u8]) {
        let key = format!("{}{path}", self.files.prefix());
        let content = Bytes::copy_from_slice(content);
        self.objects.put(&key, content, "text/plain").await.unwrap();
    }

    /// Paths and contents of the run's files.
    pub(crate) async fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for path in self
            .keys()
            .await
            .into_iter()
            .filter(|path| !path.starts_with(".agent/"))
        {
            let key = format!("{}{path}", self.files.prefix());
            all.insert(path, self.objects.get(&key).await.unwrap().unwrap().to_vec());
        }
        all
    }

    /// Everything below the run, relative to it.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let prefix = self.files.prefix();
        let objects = self.objects.list(prefix).await.unwrap();
        objects
            .iter()
            .map(|object| object.key[prefix.len()..].to_owned())
            .collect()
    }

    pub(crate) async fn packs(&self) -> Vec<String> {
        let keys = self.keys().await;
        keys.into_iter()
            .filter(|key| key.starts_with(".agent/packs/") && key.ends_with(".tar.zst"))
            .collect()
    }
}

pub(crate) fn tree(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
        .collect()
}
