//! A store in a temporary directory, its server and a client.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials as Keys, Region};
use objectstore::{Credentials, ServerHandle, Store, serve};
use std::path::Path;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) const BUCKET: &str = "test-bucket";
pub(crate) const SECRET: &str = "test-secret-key";

pub(crate) struct Running {
    pub dir: TempDir,
    pub server: ServerHandle,
    pub client: Client,
}

pub(crate) async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = serve_dir(dir.path()).await;
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    Running { dir, server, client }
}

impl Running {
    pub(crate) async fn put(&self, key: &str, content: &str) {
        let body = content.as_bytes().to_vec().into();
        self.client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(body)
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        get(&self.client, key).await
    }
}

pub(crate) async fn get(client: &Client, key: &str) -> Option<String> {
    match client.get_object().bucket(BUCKET).key(key).send().await {
        Ok(found) => {
            let bytes = found.body.collect().await.unwrap().into_bytes();
            Some(String::from_utf8(bytes.to_vec()).unwrap())
        }
        Err(error)
            if error
                .as_service_error()
                .is_some_and(aws_sdk_s3::operation::get_object::GetObjectError::is_no_such_key) =>
        {
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) async fn serve_dir(dir: &Path) -> (ServerHandle, Client) {
    let store = Store::open(dir).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let credentials = Credentials {
        access_key: "test".to_owned(),
        secret_key: SECRET.to_owned(),
    };
    let server = serve(store, listener, credentials).await.unwrap();
    let client = client(&server, SECRET);
    (server, client)
}

pub(crate) fn client(server: &ServerHandle, secret: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://{}", server.addr()))
        .region(Region::new("us-east-1"))
        .credentials_provider(Keys::new("test", secret, None, None, "test"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

pub(crate) fn code<E, R>(result: Result<E, aws_sdk_s3::error::SdkError<R>>) -> String
where
    R: aws_sdk_s3::error::ProvideErrorMetadata,
{
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error
            .as_service_error()
            .and_then(|error| error.code())
            .map_or_else(|| status(&error), str::to_owned),
    }
}

fn status<R>(error: &aws_sdk_s3::error::SdkError<R>) -> String {
    error.raw_response().map_or_else(
        || "no answer".to_owned(),
        |answer| answer.status().as_u16().to_string(),
    )
}
