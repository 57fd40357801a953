//! Create, head, delete and list buckets.

use super::timestamp;
use crate::record::Record;
use crate::store::{Store, bucket};
use s3s::dto::{Bucket, CreateBucketOutput, GetBucketLocationOutput, HeadBucketOutput, ListBucketsOutput};
use s3s::{S3Result, s3_error};

pub(crate) async fn create(store: &Store, name: String) -> S3Result<CreateBucketOutput> {
    let at_ms = store.now_ms();
    let location = Some(format!("/{name}"));
    store
        .change(move |index| {
            if index.buckets.contains_key(&name) {
                return Err(s3_error!(
                    BucketAlreadyOwnedByYou,
                    "The bucket exists and is yours"
                ));
            }
            Ok((Some(Record::CreateBucket { bucket: name, at_ms }), ()))
        })
        .await?;
    Ok(CreateBucketOutput { location })
}

pub(crate) fn head(store: &Store, name: &str) -> S3Result<HeadBucketOutput> {
    store.read(|index| bucket(index, name).map(|_| HeadBucketOutput::default()))
}

pub(crate) fn location(store: &Store, name: &str) -> S3Result<GetBucketLocationOutput> {
    store.read(|index| bucket(index, name).map(|_| GetBucketLocationOutput::default()))
}

pub(crate) async fn delete(store: &Store, name: String) -> S3Result<()> {
    store
        .change(move |index| {
            if !bucket(index, &name)?.objects.is_empty() {
                return Err(s3_error!(
                    BucketNotEmpty,
                    "The bucket you tried to delete is not empty"
                ));
            }
            Ok((Some(Record::DeleteBucket { bucket: name }), ()))
        })
        .await
}

pub(crate) fn list(store: &Store, prefix: Option<&str>) -> S3Result<ListBucketsOutput> {
    store.read(|index| {
        let wanted = index
            .buckets
            .iter()
            .filter(|(name, _)| name.starts_with(prefix.unwrap_or_default()));
        let buckets = wanted.map(|(name, bucket)| Bucket {
            name: Some(name.clone()),
            creation_date: Some(timestamp(bucket.created_ms)),
            ..Bucket::default()
        });
        Ok(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..ListBucketsOutput::default()
        })
    })
}
