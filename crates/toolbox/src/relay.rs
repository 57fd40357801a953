//! The hidden command of our programs that gives a program in a namespace without network one way out:
//! `PROGRAM relay-exec PORT SOCKET -- ARGV…`.
//!
//! It listens on a port of the namespace's own loopback, carries each connection to a Unix socket, and runs the program until it
//! ends. What may be reached is decided behind the socket, by whoever listens there.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// First argument.
pub const VERB: &str = "relay-exec";
/// Exit code when the program was not started.
const NOT_STARTED: u8 = 125;
/// Connections at a time; more are closed.
const CONNECTIONS: usize = 256;
/// Shells tell the end by signal n as 128 + n.
const SIGNALLED: i32 = 128;

/// Runs the program: `arguments` are those after [`VERB`]. Returns its exit code.
pub fn exec(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(arguments).unwrap_or_else(|fault| {
        // Nothing is left to do when that cannot be said.
        writeln!(io::stderr(), "the program was not started: {fault}").unwrap_or_default();
        ExitCode::from(NOT_STARTED)
    })
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> io::Result<ExitCode> {
    let wrong = || io::Error::other("the command line of a relay is wrong");
    let mut arguments = arguments.into_iter();
    let port = arguments
        .next()
        .and_then(|port| port.to_str()?.parse::<u16>().ok());
    let (Some(port), Some(socket)) = (port, arguments.next().map(PathBuf::from)) else {
        return Err(wrong());
    };
    let argv: Vec<OsString> = arguments.skip_while(|argument| argument == "--").collect();
    let [program, rest @ ..] = argv.as_slice() else {
        return Err(wrong());
    };
    listen(port, socket)?;
    let status = Command::new(program).args(rest).status()?;
    let code = status.code().or(status.signal().map(|signal| SIGNALLED + signal));
    Ok(ExitCode::from(code.unwrap_or(SIGNALLED) as u8))
}

/// Carries connections from now on.
fn listen(port: u16, socket: PathBuf) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let open = Arc::new(AtomicUsize::new(0));
    spawn(move || {
        for stream in listener.incoming().flatten() {
            let Some(place) = Place::take(&open) else { continue };
            let socket = socket.clone();
            let carried = spawn(move || {
                let _place = place;
                // A connection that breaks is the program's to notice.
                carry(&stream, &socket).unwrap_or_default();
            });
            drop(carried);
        }
    })
}

/// One of the [`CONNECTIONS`], given back when dropped: also when no thread could be had for it.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(open.clone());
        (open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().spawn(work).map(drop)
}

/// Both directions until both have ended.
fn carry(inner: &TcpStream, socket: &Path) -> io::Result<()> {
    let outer = UnixStream::connect(socket)?;
    let (mut from_inner, mut to_outer) = (inner.try_clone()?, outer.try_clone()?);
    spawn(move || {
        io::copy(&mut from_inner, &mut to_outer).unwrap_or_default();
        to_outer.shutdown(Shutdown::Write).unwrap_or_default();
    })?;
    let (mut from_outer, mut to_inner) = (&outer, inner);
    let copied = io::copy(&mut from_outer, &mut to_inner);
    inner.shutdown(Shutdown::Both)?;
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_place_is_given_back_whatever_became_of_its_connection() {
        let open = Arc::new(AtomicUsize::new(CONNECTIONS - 1));
        let last = Place::take(&open);
        assert!(last.is_some() && Place::take(&open).is_none());
        // As a thread that could not be started drops what it was given.
        drop(move || drop(last));
        assert_eq!(open.load(Ordering::Relaxed), CONNECTIONS - 1);
    }

    #[test]
    fn connections_are_carried_to_the_socket_and_the_exit_code_is_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).unwrap();
            stream.write_all(b"answer").unwrap();
            asked
        });
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let arguments = [port.to_string(), socket.display().to_string(), "--".to_owned()];
        let program = ["sh", "-c", "exit 7"].map(str::to_owned);
        let code = run(arguments.into_iter().chain(program).map(OsString::from)).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(7)));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(
            (answer.as_str(), heard.join().unwrap().as_str()),
            ("answer", "question")
        );
        assert!(run(["x".into()]).is_err());
    }
}
