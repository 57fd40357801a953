//! A private Postgres: its own data directory, loopback, a random password, never as root.
//!
//! ```text
//! PLACE/data        the cluster; there only once initdb, role and database are complete
//! PLACE/data.new    under way, or left by an interrupted first start: made anew
//! ```
//! PLACE is `home/pg`. As root the programs run as `postgres` (else `nobody`), who cannot enter some directories
//! (`/root`): then PLACE is a directory of its own under `/var/lib` or `/var/tmp`, remembered in the state.

use crate::failure::Failure;
use crate::up::binaries::Found;
use crate::up::guard;
use crate::up::home::{Home, Secrets, State, random_hex};
use crate::up::keeper::Spec;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, chown};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Role and database; the role owns the database and is no superuser, so that row-level security binds it.
const NAME: &str = "agents";
/// Parents of the data when it cannot be in the home.
const OUTSIDE: [&str; 2] = ["/var/lib/agentctl", "/var/tmp/agentctl"];
const MAX_CONNECTIONS: u32 = 200;
/// A fast stop writes a checkpoint.
const GRACE: Duration = Duration::from_secs(30);

/// Where the cluster lies and who runs it.
#[derive(Debug, Clone)]
pub struct Cluster {
    place: PathBuf,
    user: Option<(u32, u32)>,
    bin: PathBuf,
    /// Why the data is not in the home.
    pub outside_because: Option<String>,
}

/// The address for the programs.
pub fn url(secrets: &Secrets, port: u16) -> String {
    format!(
        "postgres://{NAME}:{}@127.0.0.1:{port}/{NAME}",
        secrets.pg_password
    )
}

/// The major version an existing cluster was made with.
pub fn data_version(home: &Home, state: &State) -> Option<u32> {
    let place = state.pg_data.clone().unwrap_or_else(|| home.file("pg"));
    // Only its owner may read it; root may always.
    std::fs::read_to_string(place.join("data/PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

impl Cluster {
    /// Settles on place and user; nothing is made yet but the empty place.
    pub fn settle(home: &Home, state: &mut State, found: &Found) -> Result<Self, Failure> {
        let user = run_as()?;
        let mut outside_because = None;
        let place = match (&state.pg_data, user) {
            (Some(place), _) => place.clone(),
            (None, None) => home.file("pg"),
            (None, Some(_)) => match obstacle(home.path()) {
                None => home.file("pg"),
                Some(obstacle) => {
                    outside_because = Some(format!(
                        "Postgres does not run as root and another user cannot enter {}",
                        obstacle.display()
                    ));
                    outside()?
                }
            },
        };
        if !place.starts_with(home.path()) {
            state.pg_data = Some(place.clone());
        }
        let cluster = Self {
            place,
            user,
            bin: found.path.clone(),
            outside_because,
        };
        cluster.make_place(home)?;
        Ok(cluster)
    }

    fn make_place(&self, home: &Home) -> Result<(), Failure> {
        let told =
            |error: std::io::Error| Failure::new(format!("cannot make {}", self.place.display())).why(&error);
        std::fs::create_dir_all(&self.place).map_err(told)?;
        if let Some((uid, gid)) = self.user {
            if self.place.starts_with(home.path()) {
                // Only our own directory is opened, and only for passing through.
                let mode = std::fs::metadata(home.path()).map_err(told)?.mode();
                std::fs::set_permissions(home.path(), Permissions::from_mode(mode | 0o111)).map_err(told)?;
            }
            chown(&self.place, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| told(errno.into()))?;
        }
        std::fs::set_permissions(&self.place, Permissions::from_mode(0o700)).map_err(told)
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Whether the cluster is still to be made.
    pub fn is_new(&self) -> bool {
        !self.data().join("PG_VERSION").exists()
    }

    /// Makes the cluster with its role and database.
    pub async fn create(&self, home: &Home, secrets: &Secrets) -> Result<(), Failure> {
        let new = self.place.join("data.new");
        if new.exists() {
            std::fs::remove_dir_all(&new)?;
        }
        let password_file = self.place.join("password");
        self.write_private(&password_file, &random_hex(24)?)?;
        let mut pwfile = std::ffi::OsString::from("--pwfile=");
        pwfile.push(&password_file);
        let mut initdb = self.command("initdb")?;
        initdb
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg("--no-instructions")
            .arg(pwfile)
            .arg("-D")
            .arg(&new);
        let made = run("initdb", initdb, "", (home, "postgres")).await;
        std::fs::remove_file(&password_file)?;
        made?;
        let sql = format!(
            "CREATE ROLE {NAME} LOGIN CREATEROLE PASSWORD '{}';\nCREATE DATABASE {NAME} OWNER {NAME};\n",
            secrets.pg_password
        );
        let mut single = self.command("postgres")?;
        single.args(["--single", "-j"]).args(["-c", "log_statement=none"]);
        single
            .args(["-c", "log_min_error_statement=panic"])
            .arg("-D")
            .arg(&new)
            .arg("postgres");
        // With -j a statement ends at an empty line after its semicolon.
        run(
            "postgres --single",
            single,
            &sql.replace(";\n", ";\n\n"),
            (home, "postgres"),
        )
        .await?;
        std::fs::rename(&new, self.data())?;
        Ok(())
    }

    fn write_private(&self, path: &Path, text: &str) -> Result<(), Failure> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        if let Some((uid, gid)) = self.user {
            chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    /// One of Postgres's programs as the right user, dying with us.
    fn command(&self, program: &str) -> Result<Command, Failure> {
        let mut command = Command::new(guard::own_program()?);
        command
            .args(["guard", "--death-signal", "SIGKILL"])
            .args(["--parent", &std::process::id().to_string()]);
        if let Some((uid, gid)) = self.user {
            command.args(["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
        }
        command
            .arg("--")
            .arg(self.bin.join(program))
            .current_dir(&self.place);
        Ok(command)
    }

    /// The server on this port.
    pub fn spec(&self, port: u16) -> Spec {
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            format!("max_connections={MAX_CONNECTIONS}"),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
            "cluster_name=agentctl".to_owned(),
        ];
        let mut args: Vec<std::ffi::OsString> = vec![
            "-D".into(),
            self.data().into(),
            "-p".into(),
            port.to_string().into(),
        ];
        for setting in settings {
            args.extend(["-c".into(), setting.into()]);
        }
        Spec {
            name: "postgres".to_owned(),
            log: "postgres",
            program: self.bin.join("postgres"),
            args,
            env: vec![],
            directory: Some(self.place.clone()),
            user: self.user,
            stop_signal: Signal::SIGINT,
            death_signal: Signal::SIGINT,
            grace: GRACE,
        }
    }

    pub fn place(&self) -> &Path {
        &self.place
    }
}

/// As root: `postgres`, else `nobody`. Otherwise ourselves.
fn run_as() -> Result<Option<(u32, u32)>, Failure> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err(Failure::new("Postgres does not run as root")
        .because("there is no user postgres or nobody to run it as")
        .fix("make one (useradd -r postgres), start as another user, or set DATABASE_URL"))
}

/// The nearest directory above the home that others may not pass through.
fn obstacle(home: &Path) -> Option<PathBuf> {
    let closed = |dir: &&Path| std::fs::metadata(dir).map_or(true, |meta| meta.mode() & 0o001 == 0);
    home.parent()?.ancestors().find(closed).map(Path::to_owned)
}

fn outside() -> Result<PathBuf, Failure> {
    let id = random_hex(6)?;
    for parent in OUTSIDE {
        let place = Path::new(parent).join(&id).join("pg");
        let made = std::fs::create_dir_all(&place)
            .and_then(|()| std::fs::set_permissions(parent, Permissions::from_mode(0o755)))
            .and_then(|()| {
                std::fs::set_permissions(Path::new(parent).join(&id), Permissions::from_mode(0o755))
            });
        if made.is_ok() {
            return Ok(place);
        }
    }
    Err(Failure::new("no place for Postgres's data")
        .because(format!("neither {} can be written", OUTSIDE.join(" nor ")))
        .fix("choose a --home that other users may enter, or set DATABASE_URL"))
}

/// Applies the schema with `agent-api migrate`.
pub async fn migrate(program: &Path, env: Vec<(String, String)>, home: &Home) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.arg("migrate").envs(env);
    run("agent-api migrate", command, "", (home, "api")).await
}

/// Runs a program to its end with a text on its stdin; its output goes to the named log.
async fn run(
    what: &str,
    mut command: Command,
    input: &str,
    (home, log): (&Home, &str),
) -> Result<(), Failure> {
    use std::io::Write as _;
    let told = |error: std::io::Error| Failure::new(format!("{what} could not be run")).why(&error);
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(told)?;
    }
    let output = child.wait_with_output().await.map_err(told)?;
    let mut file = home.log(log).map_err(told)?;
    file.write_all(&output.stdout)
        .and_then(|()| file.write_all(&output.stderr))
        .map_err(told)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Single-user mode ends with success after a failed statement.
    if output.status.success() && !said.contains("ERROR:") && !said.contains("FATAL:") {
        return Ok(());
    }
    Err(Failure::new(format!("{what} failed"))
        .because(said.trim().to_owned())
        .fix(format!("see {}", home.log_path(log).display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_above_the_home_is_an_obstacle() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let closed = root.path().join("closed");
        let home = closed.join("home");
        std::fs::create_dir_all(&home).unwrap();
        assert_eq!(obstacle(&home), None);
        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(obstacle(&home), Some(closed));
    }
}
