//! Receiving a content: streamed to a file, hashed on the way, verified and synced before it is accepted.

use crate::record::{Checksums, Content};
use crate::store::Store;
use futures::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// Writes are handed to the file in pieces of about this many bytes.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// What the client says about its body.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Base64.
    pub md5: Option<String>,
    pub checksums: Checksums,
    /// Checksums that come behind the body.
    pub trailers: Option<TrailingHeaders>,
    /// The algorithm named by the client, computed even when no value is sent in a header.
    pub algorithm: Option<String>,
}

/// A file in `incoming/` that is removed unless it is accepted.
struct Incoming {
    path: PathBuf,
    accepted: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.accepted
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "object store: cannot remove a refused upload");
        }
    }
}

/// A verified content that no record names yet; removed unless [`Received::keep`] is called.
pub(crate) struct Received {
    store: Store,
    content: Content,
    kept: bool,
}

impl Received {
    pub(crate) fn new(store: &Store, content: Content) -> Self {
        Self {
            store: store.clone(),
            content,
            kept: false,
        }
    }

    /// Gives the content away: a record now names it.
    pub(crate) fn keep(mut self) -> Content {
        self.kept = true;
        self.content.clone()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.kept {
            self.store.blobs().remove(&[self.content.blob]);
        }
    }
}

/// Receives a whole body.
pub(crate) async fn receive(
    store: &Store,
    body: Option<StreamingBlob>,
    claims: Claims,
) -> S3Result<Received> {
    let id = store.new_id();
    let mut incoming = Incoming {
        path: store.blobs().incoming(id),
        accepted: false,
    };
    let (size, md5, sums) = write_file(&incoming, body, &claims).await?;
    let checksums = verify(&claims, &md5, sums)?;
    let blobs = store.blobs().clone();
    let accepted = tokio::task::spawn_blocking(move || blobs.accept(id)).await;
    accepted
        .map_err(S3Error::internal_error)?
        .map_err(S3Error::internal_error)?;
    incoming.accepted = true;
    let content = Content {
        blob: id,
        size,
        etag: hex(&md5),
        modified_ms: store.now_ms(),
        checksums,
    };
    Ok(Received::new(store, content))
}

async fn write_file(
    incoming: &Incoming,
    body: Option<StreamingBlob>,
    claims: &Claims,
) -> S3Result<(u64, Vec<u8>, s3s::dto::Checksum)> {
    let file = tokio::fs::File::create(&incoming.path)
        .await
        .map_err(S3Error::internal_error)?;
    let mut out = tokio::io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
    let mut md5 = Md5::new();
    let mut hasher = hasher(claims);
    let mut size = 0_u64;
    if let Some(mut body) = body {
        let announced = body.remaining_length().exact();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| s3_error!(IncompleteBody, "the body is not whole: {error}"))?;
            size += chunk.len() as u64;
            md5.update(&chunk);
            hasher.update(&chunk);
            out.write_all(&chunk).await.map_err(S3Error::internal_error)?;
        }
        if announced.is_some_and(|announced| announced as u64 != size) {
            return Err(s3_error!(
                IncompleteBody,
                "the body is shorter or longer than announced"
            ));
        }
    }
    out.flush().await.map_err(S3Error::internal_error)?;
    out.get_ref().sync_all().await.map_err(S3Error::internal_error)?;
    Ok((size, md5.finalize().as_ref().to_vec(), hasher.finalize()))
}

fn hasher(claims: &Claims) -> ChecksumHasher {
    // Which algorithm a trailer will carry is known only afterwards, so that all are computed then.
    let all = claims.trailers.is_some();
    let named = |name: &str| claims.algorithm.as_deref() == Some(name);
    let sums = &claims.checksums;
    ChecksumHasher {
        crc32: (all || sums.crc32.is_some() || named("CRC32")).then(Crc32::new),
        crc32c: (all || sums.crc32c.is_some() || named("CRC32C")).then(Crc32c::new),
        crc64nvme: (all || sums.crc64nvme.is_some() || named("CRC64NVME")).then(Crc64Nvme::new),
        sha1: (all || sums.sha1.is_some() || named("SHA1")).then(Sha1::new),
        sha256: (all || sums.sha256.is_some() || named("SHA256")).then(Sha256::new),
    }
}

/// Compares what was received with every claim; gives back the checksums to store.
fn verify(claims: &Claims, md5: &[u8], sums: s3s::dto::Checksum) -> S3Result<Checksums> {
    if let Some(claimed) = &claims.md5
        && base64(claimed)?.as_slice() != md5
    {
        return Err(s3_error!(
            BadDigest,
            "The Content-MD5 you specified did not match what we received."
        ));
    }
    let trailer = |name: &str| {
        let trailers = claims.trailers.as_ref()?;
        trailers
            .read(|headers| headers.get(name)?.to_str().ok().map(str::to_owned))
            .flatten()
    };
    let header = &claims.checksums;
    let one = |name: &str, header: &Option<String>, computed: Option<String>| {
        settle(
            name,
            header
                .clone()
                .or_else(|| trailer(&format!("x-amz-checksum-{name}"))),
            computed,
            claims,
        )
    };
    Ok(Checksums {
        crc32: one("crc32", &header.crc32, sums.checksum_crc32)?,
        crc32c: one("crc32c", &header.crc32c, sums.checksum_crc32c)?,
        crc64nvme: one("crc64nvme", &header.crc64nvme, sums.checksum_crc64nvme)?,
        sha1: one("sha1", &header.sha1, sums.checksum_sha1)?,
        sha256: one("sha256", &header.sha256, sums.checksum_sha256)?,
    })
}

/// One algorithm: a claim must be met; without one the value is kept only when the client named the algorithm.
fn settle(
    name: &str,
    claimed: Option<String>,
    computed: Option<String>,
    claims: &Claims,
) -> S3Result<Option<String>> {
    match claimed {
        Some(claimed) if Some(&claimed) == computed.as_ref() => Ok(computed),
        Some(_) => Err(s3_error!(
            BadDigest,
            "The {name} you specified did not match what we received."
        )),
        None => Ok(computed.filter(|_| claims.algorithm.as_deref() == Some(&name.to_uppercase()))),
    }
}

/// Decodes a Content-MD5 value.
fn base64(text: &str) -> S3Result<Vec<u8>> {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded
        .ok()
        .filter(|bytes| bytes.len() == 16)
        .ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// The MD5 of hex-encoded MD5s put together, as multipart ETags are made.
pub(crate) fn combined_md5<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let mut md5 = Md5::new();
    for etag in etags {
        md5.update(&unhex(etag));
    }
    hex(md5.finalize().as_ref())
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map_or(0, |digit| digit as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |sum, byte| sum * 16 + digit(*byte)))
        .collect()
}

/// A blob id for content that is put together from others.
pub(crate) fn fresh_incoming(store: &Store) -> (Uuid, PathBuf) {
    let id = store.new_id();
    (id, store.blobs().incoming(id))
}
