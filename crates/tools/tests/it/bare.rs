//! Programs without any isolation: what a sandbox adds is tested where the sandbox is.

use futures::future::BoxFuture;
use outbound::ProxyService;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;
use tools::launch::{Launch, LaunchFault, Launched, Launcher, Network, PROXY_HERE, SCRATCH_HERE};

#[derive(Debug, Default)]
pub(crate) struct Bare {
    /// Of the program started last.
    pub(crate) pid: AtomicU32,
}

struct Alive {
    _child: Child,
    _scratch: tempfile::TempDir,
    _proxy: Option<AbortOnDropHandle<()>>,
}

async fn listen(service: ProxyService) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().to_string();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move { service.serve(stream).await });
        }
    });
    (here, AbortOnDropHandle::new(accepting))
}

impl Launcher for Bare {
    fn launch(&self, what: Launch) -> BoxFuture<'_, Result<Launched, LaunchFault>> {
        Box::pin(async move {
            let scratch = tempfile::tempdir().unwrap();
            let (here, proxy) = match what.network {
                Network::Proxy(service) => {
                    let (here, accepting) = listen(service).await;
                    (here, Some(accepting))
                }
                _ => (String::new(), None),
            };
            let dir = scratch.path().display().to_string();
            let argv: Vec<String> = what
                .argv
                .iter()
                .map(|argument| argument.replace(PROXY_HERE, &here).replace(SCRATCH_HERE, &dir))
                .collect();
            let mut child = Command::new(&argv[0])
                .args(&argv[1..])
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env("HOME", scratch.path())
                .envs(what.env)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| LaunchFault(format!("{}: {error}", argv[0])))?;
            self.pid.store(child.id().unwrap_or_default(), Ordering::Relaxed);
            Ok(Launched {
                stdin: Box::new(child.stdin.take().unwrap()),
                stdout: Box::new(child.stdout.take().unwrap()),
                stderr: Box::new(child.stderr.take().unwrap()),
                alive: Box::new(Alive {
                    _child: child,
                    _scratch: scratch,
                    _proxy: proxy,
                }),
            })
        })
    }
}
