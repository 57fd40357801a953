//! The input: manifest and packs, unpacked into the workspace and checked.

use crate::Failure;
use crate::display::Display;
use crate::http::{Fault, Store, StoreError, Target};
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use toolbox::pack::{PackError, Packed, Sink, Wanted, unpack};
use toolbox::tree::{self, Placer, is_sha256};
use toolbox::wire::{FailureClass, Limits, Manifest, Order, Pack, VERSION};

/// Of 50,000 files with long names.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;
const MAX_PACKS: usize = 1000;
/// Packs may hold contents that no file has any more, and a header for each.
const MAX_UNPACKED_FACTOR: u64 = 4;
const MAX_UNPACKED_MORE: u64 = 256 * 1024 * 1024;
/// Of the pod's time, left for storing what the tool leaves.
const FOR_STORING: Duration = Duration::from_secs(45);

/// Time that must be left when the tool begins.
pub(crate) fn reserve(order: &Order) -> Duration {
    Duration::from_millis(order.timeout_ms) + FOR_STORING
}

fn workspace(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Workspace, message)
}

fn cannot(what: &str, error: &StoreError) -> Failure {
    workspace(format!("cannot fetch {what}: {error}"))
}

/// Fetches the manifest and looks it over.
pub(crate) fn manifest(store: &Store, order: &Order) -> Result<Manifest, Failure> {
    let target = Target {
        url: &order.manifest_url,
        reserve: reserve(order),
    };
    let text = store.get(target, |body| {
        let mut text = vec![];
        body.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut text)?;
        Ok::<_, Fault>(text)
    });
    let text = text.map_err(|error| cannot("the manifest", &error))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(workspace("the manifest is too long"));
    }
    // Not serde's own text: it may quote a URL.
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| workspace(format!("the manifest is not of our form, line {}", error.line())))?;
    check(&manifest, &order.limits)?;
    Ok(manifest)
}

fn check(manifest: &Manifest, limits: &Limits) -> Result<(), Failure> {
    if manifest.version != VERSION {
        let version = manifest.version;
        return Err(workspace(format!(
            "the manifest is of version {version}, not {VERSION}"
        )));
    }
    tree::check(&manifest.files, limits).map_err(|error| workspace(error.to_string()))?;
    let most = limits
        .total_bytes
        .saturating_mul(MAX_UNPACKED_FACTOR)
        .saturating_add(MAX_UNPACKED_MORE);
    let unpacked = |sum: u64, pack: &Pack| sum.saturating_add(pack.unpacked_bytes).saturating_add(pack.bytes);
    if manifest.packs.len() > MAX_PACKS || manifest.packs.iter().fold(0, unpacked) > most {
        return Err(workspace("the manifest's packs are too many or too large"));
    }
    if manifest.packs.iter().any(|pack| !is_sha256(&pack.sha256)) {
        return Err(workspace(
            "the manifest names a pack by something else than its hash",
        ));
    }
    Ok(())
}

/// Fetches the packs and writes the files.
pub(crate) fn files(
    store: &Store,
    (manifest, reserve): (&Manifest, Duration),
    root: &Path,
    display: &mut Display,
) -> Result<(), Failure> {
    let mut placer = Placer::new(root, &manifest.files);
    for (number, pack) in manifest.packs.iter().enumerate() {
        display.say(format!(
            "fetching the workspace: pack {} of {}, {} bytes",
            number + 1,
            manifest.packs.len(),
            pack.bytes
        ));
        let target = Target {
            url: &pack.url,
            reserve,
        };
        let announced = Packed {
            sha256: pack.sha256.clone(),
            bytes: pack.bytes,
            unpacked_bytes: pack.unpacked_bytes,
        };
        let taken = store.get(target, |body| {
            unpack(body, &announced, &mut Files(&mut placer)).map_err(|error| match error {
                PackError::Io(error) => Fault::Again(error.to_string()),
                other => Fault::Final(StoreError::Content(other.to_string())),
            })
        });
        taken.map_err(|error| cannot("the workspace", &error))?;
    }
    match placer.missing() {
        None => Ok(()),
        Some(path) => Err(workspace(format!("no pack holds the content of {path}"))),
    }
}

/// Takes what is still missing; a pack may hold more.
struct Files<'a, 'b>(&'a mut Placer<'b>);

impl Sink for Files<'_, '_> {
    fn wants(&self, sha256: &str) -> Wanted {
        self.0.wants(sha256).map_or(Wanted::Skip, Wanted::Yes)
    }

    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        self.0.place(sha256, content)
    }
}
