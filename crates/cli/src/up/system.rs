//! The running system: starts everything in order, restarts what dies, stops everything in reverse order.
//!
//! Order of start: object store, Redis and Postgres; schema and bucket; API and workers.
//! Order of stop: workers, API, object store, Redis, Postgres. Data stays.

use crate::console::{Console, Style};
use crate::failure::{Code, Failure};
use crate::objects::Bucket;
use crate::up::home::{Home, Secrets, State};
use crate::up::keeper::{Keeper, Notice, Spec};
use crate::up::plan::{Plan, Server};
use crate::up::postgres::{self, Cluster};
use crate::up::process::ProcessId;
use crate::up::signals::Signals;
use crate::up::store::Embedded;
use crate::up::{probe, redis, summary};
use nix::sys::signal::Signal;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// Deaths of one child before the system is ready that make the start a failure.
const MAX_EARLY_DEATHS: u32 = 3;
/// Longest time from nothing to ready.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// A worker may need its own grace (25 s) for a step under way.
const WORKER_GRACE: Duration = Duration::from_secs(35);
const API_GRACE: Duration = Duration::from_secs(10);
/// Lines of a log shown with a failed start.
const TAIL_LINES: usize = 8;

/// The supervisor of one home.
#[derive(Debug)]
pub struct System {
    console: Console,
    home: Home,
    state: State,
    plan: Plan,
    keepers: Vec<Keeper>,
    store: Option<Embedded>,
    notices: mpsc::UnboundedReceiver<Notice>,
    tell: mpsc::UnboundedSender<Notice>,
    signals: Signals,
    early_deaths: u32,
}

impl System {
    pub fn new(console: Console, home: Home, state: State, plan: Plan) -> Result<Self, Failure> {
        let (tell, notices) = mpsc::unbounded_channel();
        Ok(Self {
            console,
            home,
            state,
            plan,
            keepers: vec![],
            store: None,
            notices,
            tell,
            signals: Signals::listen()?,
            early_deaths: 0,
        })
    }

    /// Starts, serves until told to end, stops. Whatever happens, nothing is left running.
    pub async fn run(mut self, secrets: &Secrets) -> Result<Code, Failure> {
        let outcome = match self.start(secrets).await {
            Ok(()) => self.serve().await,
            Err(failure) => Err(failure),
        };
        let stopped = self.stop().await;
        let code = outcome?;
        stopped?;
        Ok(code)
    }

    async fn start(&mut self, secrets: &Secrets) -> Result<(), Failure> {
        self.state.supervisor = ProcessId::own();
        self.state.children.clear();
        self.state.ready = false;
        self.home.save_state(&self.state)?;
        summary::write_env(&self.home, &self.plan)?;
        self.start_store(secrets).await?;
        self.start_redis()?;
        self.start_postgres(secrets).await?;
        self.wait_for_servers().await?;
        self.migrate().await?;
        let bucket = Bucket::new(&self.plan.objects);
        self.during(async move { bucket.ensure().await }).await??;
        self.start_programs()?;
        let (api, workers) = (self.plan.api_port, self.plan.worker_ports.clone());
        self.during(async move {
            probe::until_ok(api, "/ready").await;
            for port in workers {
                probe::until_ok(port, "/readyz").await;
            }
        })
        .await?;
        self.state.ready = true;
        self.home.save_state(&self.state)
    }

    async fn start_store(&mut self, secrets: &Secrets) -> Result<(), Failure> {
        if let Server::Private(port) = self.plan.s3 {
            let directory = self.home.file("s3");
            self.store = Some(Embedded::start(&directory, port, secrets).await?);
            self.say("s3", &format!("embedded, {}", directory.display()));
        } else {
            self.say("s3", &format!("given, {}", self.plan.objects.endpoint));
        }
        Ok(())
    }

    fn start_redis(&mut self) -> Result<(), Failure> {
        match self.plan.redis.clone() {
            Server::Given => self.say("redis", "given by REDIS_URL"),
            Server::Private((found, port)) => {
                self.say("redis", &format!("{} on 127.0.0.1:{port}", found.version));
                self.keep(redis::spec(&self.home, &found, port))?;
            }
        }
        Ok(())
    }

    async fn start_postgres(&mut self, secrets: &Secrets) -> Result<(), Failure> {
        let Server::Private((found, port)) = self.plan.postgres.clone() else {
            self.say("postgres", "given by DATABASE_URL");
            return Ok(());
        };
        self.say("postgres", &format!("{} on 127.0.0.1:{port}", found.version));
        let cluster = Cluster::settle(&self.home, &mut self.state, &found)?;
        if let Some(why) = &cluster.outside_because {
            self.say(
                "postgres",
                &format!("data in {}: {why}", cluster.place().display()),
            );
        }
        self.home.save_state(&self.state)?;
        if cluster.is_new() {
            self.say("postgres", "first start, making the database");
            let (home, secrets, cluster) = (self.home.clone(), secrets.clone(), cluster.clone());
            self.during(async move { cluster.create(&home, &secrets).await })
                .await??;
        }
        self.keep(cluster.spec(port))
    }

    async fn wait_for_servers(&mut self) -> Result<(), Failure> {
        if let Server::Private((_, port)) = self.plan.redis {
            self.during(probe::until(move || redis::answers(port))).await?;
        }
        if let Server::Private(_) = self.plan.postgres {
            let url = self.plan.database_url.clone();
            self.during(probe::until(move || probe::postgres_answers(url.clone())))
                .await?;
        }
        Ok(())
    }

    async fn migrate(&mut self) -> Result<(), Failure> {
        let (program, env) = (self.plan.api_program.clone(), self.plan.shared_env());
        let home = self.home.clone();
        self.during(async move { postgres::migrate(&program, env, &home).await })
            .await?
    }

    fn start_programs(&mut self) -> Result<(), Failure> {
        let api = Self::program("api", "api", self.plan.api_program.clone(), self.plan.api_env());
        self.keep(Spec {
            grace: API_GRACE,
            ..api
        })?;
        for (index, port) in self.plan.worker_ports.clone().into_iter().enumerate() {
            let name = format!("worker-{}", index + 1);
            let spec = Self::program(
                &name,
                "worker",
                self.plan.worker_program.clone(),
                self.plan.worker_env(port),
            );
            self.keep(spec)?;
        }
        Ok(())
    }

    fn program(
        name: &str,
        log: &'static str,
        program: std::path::PathBuf,
        env: Vec<(String, String)>,
    ) -> Spec {
        Spec {
            name: name.to_owned(),
            log,
            program,
            args: vec![],
            env,
            directory: None,
            user: None,
            stop_signal: Signal::SIGTERM,
            // Its stores go at the same moment: there is nothing it could still finish.
            death_signal: Signal::SIGKILL,
            grace: WORKER_GRACE,
        }
    }

    fn keep(&mut self, spec: Spec) -> Result<(), Failure> {
        self.keepers
            .push(Keeper::start(spec, &self.home, self.tell.clone())?);
        Ok(())
    }

    /// Runs a part of the start while notices are heard and signals are obeyed.
    async fn during<T>(&mut self, part: impl Future<Output = T>) -> Result<T, Failure> {
        let timed = tokio::time::timeout(START_TIMEOUT, part);
        tokio::pin!(timed);
        loop {
            tokio::select! {
                done = &mut timed => return done.map_err(|_| self.failed_start("it did not become ready in time", None)),
                notice = self.notices.recv() => {
                    if let Some(notice) = notice {
                        self.early(notice)?;
                    }
                }
                () = self.signals.next() => return Err(Failure::silent(Code::Interrupted)),
            }
        }
    }

    fn early(&mut self, notice: Notice) -> Result<(), Failure> {
        let died = match &notice {
            Notice::Died { name, how, .. } => Some((name.clone(), how.clone())),
            _ => None,
        };
        self.heed(notice)?;
        let Some((name, how)) = died else { return Ok(()) };
        self.early_deaths += 1;
        if self.early_deaths < MAX_EARLY_DEATHS {
            return Ok(());
        }
        Err(self.failed_start(&format!("{name} ended with {how}"), Some(&name)))
    }

    fn failed_start(&self, why: &str, culprit: Option<&str>) -> Failure {
        let log = match culprit {
            Some(name) if name.starts_with("worker") => "worker",
            Some(name) => name,
            None => "api",
        };
        let tail = self.home.log_tail(log, TAIL_LINES);
        Failure::new("the system does not start")
            .because(format!("{why}{tail}"))
            .fix(format!("see {}", self.home.log_path(log).display()))
    }

    /// Serves until a signal.
    async fn serve(&mut self) -> Result<Code, Failure> {
        summary::print(self.console, &self.home, &self.state)?;
        let mut store_check = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = self.signals.next() => return Ok(Code::Ok),
                notice = self.notices.recv() => {
                    if let Some(notice) = notice {
                        self.heed(notice)?;
                    }
                }
                _ = store_check.tick() => {
                    if self.store.as_ref().is_some_and(|store| !store.is_alive()) {
                        return Err(Failure::new("the embedded object store has ended")
                            .fix("start again with `agentctl up`; a fault like this is worth a report"));
                    }
                }
            }
        }
    }

    /// Tells and records what happened to a child.
    fn heed(&mut self, notice: Notice) -> Result<(), Failure> {
        match notice {
            Notice::Started { name, process } => {
                if let Some(process) = process {
                    self.state.children.insert(name, process);
                }
            }
            Notice::Died { name, how, wait } => {
                let line = format!(
                    "{name} ended ({how}); starting it again in {} ms",
                    wait.as_millis()
                );
                self.console.note(&self.console.paint_note(Style::Yellow, &line));
                self.state.children.remove(&name);
            }
            Notice::Stopped { name } => {
                self.state.children.remove(&name);
            }
        }
        self.home.save_state(&self.state)
    }

    /// Ends everything in order; a second signal makes it hurry.
    async fn stop(&mut self) -> Result<(), Failure> {
        self.state.ready = false;
        let (workers, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.keepers)
            .into_iter()
            .partition(|keeper| keeper.name().starts_with("worker"));
        let (api, servers): (Vec<_>, Vec<_>) = rest.into_iter().partition(|keeper| keeper.name() == "api");
        if !workers.is_empty() {
            self.say("stop", "workers end their steps (once more to stop at once)");
        }
        self.stop_group(workers).await;
        self.stop_group(api).await;
        if let Some(store) = self.store.take() {
            store.shutdown().await;
        }
        // In order of start: Redis, then Postgres.
        for server in servers {
            self.stop_group(vec![server]).await;
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.heed(notice)?;
        }
        self.state.supervisor = None;
        self.state.children.clear();
        self.home.save_state(&self.state)?;
        self.say("stop", "everything is stopped; the data stays");
        Ok(())
    }

    async fn stop_group(&mut self, group: Vec<Keeper>) {
        group.iter().for_each(Keeper::begin_stop);
        for keeper in group {
            let hurry = keeper.hurry_handle();
            let stopped = keeper.stopped();
            tokio::pin!(stopped);
            loop {
                tokio::select! {
                    () = &mut stopped => break,
                    () = self.signals.next() => hurry.cancel(),
                }
            }
        }
    }

    fn say(&self, what: &str, text: &str) {
        let what = format!("{what:<9}");
        self.console
            .note(&format!("{} {text}", self.console.paint_note(Style::Dim, &what)));
    }
}
