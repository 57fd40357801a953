//! Brings the supervisor into images that lack it: an init container copies it to a directory that the tool's container
//! mounts.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use toolbox::wire::exit;

/// Name of the program in the directory.
const NAME: &str = "agent-tool-supervisor";
/// Authorities of our image, for images without any.
pub(crate) const AUTHORITIES: &str = "ca.pem";
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(crate) fn run(dir: &Path) -> u8 {
    match install(dir) {
        Ok(()) => 0,
        Err(error) => {
            crate::complain(&format!("cannot install to {}: {error}\n", dir.display()));
            exit::INTERNAL
        }
    }
}

fn install(dir: &Path) -> io::Result<()> {
    let (own, target) = (std::env::current_exe()?, dir.join(NAME));
    // Beside it first: a half copied program is never found under the name.
    let beside = dir.join(".installing");
    std::fs::copy(own, &beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&beside, target)?;
    match std::fs::copy(SYSTEM_AUTHORITIES, dir.join(AUTHORITIES)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The authorities that lie beside this program, if it was installed.
pub(crate) fn authorities() -> Option<Vec<u8>> {
    let beside: PathBuf = std::env::current_exe().ok()?.parent()?.join(AUTHORITIES);
    std::fs::read(beside).ok()
}
