//! Object storage through the SDK: buckets, and what is in them.

use crate::failure::{Code, Failure};
use crate::place::Place;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;

/// How to reach a store.
#[derive(Clone)]
pub struct S3Settings {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Settings({} {})", self.endpoint, self.bucket)
    }
}

impl S3Settings {
    pub fn of(place: &Place) -> Result<Self, Failure> {
        Ok(Self {
            endpoint: place.need("S3_ENDPOINT")?.to_owned(),
            region: place.region().to_owned(),
            bucket: place.bucket().to_owned(),
            access_key: place.need("S3_ACCESS_KEY")?.to_owned(),
            secret_key: place.need("S3_SECRET_KEY")?.to_owned(),
        })
    }
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    endpoint: String,
}

/// One stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub bytes: u64,
}

impl Bucket {
    pub fn new(settings: &S3Settings) -> Self {
        let credentials =
            Credentials::new(&settings.access_key, &settings.secret_key, None, None, "settings");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .endpoint_url(&settings.endpoint)
            .credentials_provider(credentials)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self {
            client: Client::from_conf(config),
            name: settings.bucket.clone(),
            endpoint: settings.endpoint.clone(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the bucket when it is not there.
    pub async fn ensure(&self) -> Result<(), Failure> {
        if self.client.head_bucket().bucket(&self.name).send().await.is_ok() {
            return Ok(());
        }
        match self.client.create_bucket().bucket(&self.name).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.code(),
                    Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed("cannot make the bucket", error)),
        }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let put = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .body(ByteStream::from(bytes));
        put.send()
            .await
            .map(|_| ())
            .map_err(|error| self.failed("cannot put an object", error))
    }

    pub async fn get(&self, key: &str) -> Result<Vec<u8>, Failure> {
        let found = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .send()
            .await
            .map_err(|error| {
                if error.code() == Some("NoSuchKey") {
                    let path = key
                        .split_once("/runs/")
                        .and_then(|(_, rest)| rest.split_once('/'));
                    let shown = path.map_or(key, |(_, path)| path);
                    return Failure::new(format!("no such file: {shown}"))
                        .fix("list them with `agentctl files RUN`");
                }
                self.failed("cannot get an object", error)
            })?;
        let body = found
            .body
            .collect()
            .await
            .map_err(|error| Failure::new(format!("{key} broke off while it was read")).why(&error))?;
        Ok(body.to_vec())
    }

    pub async fn delete(&self, key: &str) -> Result<(), Failure> {
        let delete = self.client.delete_object().bucket(&self.name).key(key);
        delete
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.failed("cannot delete an object", error))
    }

    /// Everything below a prefix, in order of key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>, Failure> {
        let mut objects = vec![];
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("cannot list objects", error))?;
            objects.extend(page.contents().iter().filter_map(|object| {
                Some(Object {
                    key: object.key()?.to_owned(),
                    bytes: object.size().unwrap_or_default() as u64,
                })
            }));
        }
        Ok(objects)
    }

    fn failed<E>(&self, what: &str, error: aws_sdk_s3::error::SdkError<E>) -> Failure
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let code = match error {
            aws_sdk_s3::error::SdkError::ServiceError(_) => Code::Failed,
            _ => Code::Unreachable,
        };
        Failure::new(format!("{what} in {} at {}", self.name, self.endpoint))
            .because(DisplayErrorContext(error).to_string())
            .fix("see `agentctl doctor`")
            .code(code)
    }
}
