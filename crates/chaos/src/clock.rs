//! A clock of its own for one program: libfaketime, preloaded, reads its offset from a file that the nemesis writes.
//!
//! Only the wall clock moves; timers go by the monotonic one, as on a machine whose clock is set.

use std::path::{Path, PathBuf};

/// Where distributions put the library.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The offset file of one program.
#[derive(Debug)]
pub struct OwnClock {
    file: PathBuf,
}

impl OwnClock {
    /// `None` when libfaketime is not installed.
    pub fn new(dir: &Path, name: &str) -> Option<Self> {
        library()?;
        let clock = Self {
            file: dir.join(format!("{name}.clock")),
        };
        clock.set(0).ok()?;
        Some(clock)
    }

    /// What the program must be started with.
    pub fn env(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("LD_PRELOAD", library().unwrap_or_default().to_owned()),
            pair("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // The file is read again after a second.
            pair("FAKETIME_CACHE_DURATION", "1".to_owned()),
            pair("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Moves the clock this many seconds away from the machine's.
    pub fn set(&self, seconds: i64) -> std::io::Result<()> {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, format!("{seconds:+}\n"))?;
        // Never half written for the reader.
        std::fs::rename(&fresh, &self.file)
    }
}

fn library() -> Option<&'static str> {
    LIBRARIES.into_iter().find(|path| Path::new(path).exists())
}
