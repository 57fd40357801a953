//! The command line of bubblewrap for one container: an image's root out of the host's programs.

use super::object;
use super::volumes::Volume;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where images have the supervisor, and their entry point.
pub(super) const SUPERVISOR: &str = "/usr/local/bin/agent-tool-supervisor";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container is made of.
#[derive(Debug)]
pub(super) struct Root<'a> {
    pub(super) pod: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) volumes: &'a [Volume],
    /// The supervisor's program, where the image has it.
    pub(super) supervisor: Option<PathBuf>,
    /// Files of `/etc` that are the pod's own.
    pub(super) etc: &'a Path,
    /// The container's control group of memory.
    pub(super) memory: Option<&'a Path>,
}

impl Root<'_> {
    /// User and group ids.
    pub(super) fn ids(&self) -> (u32, u32) {
        let id = |field: &str| {
            let own = &self.spec["securityContext"][field];
            let pods = &self.pod["spec"]["securityContext"][field];
            own.as_u64().or_else(|| pods.as_u64()).unwrap_or(10_001) as u32
        };
        (id("runAsUser"), id("runAsGroup"))
    }

    /// The program and its arguments.
    pub(super) fn command(&self) -> Vec<String> {
        let list = |field: &str| -> Vec<String> {
            let all = self.spec[field].as_array().into_iter().flatten();
            all.filter_map(|one| Some(one.as_str()?.to_owned())).collect()
        };
        let mut command = list("command");
        if command.is_empty() {
            command.push(SUPERVISOR.to_owned());
        }
        command.extend(list("args"));
        command
    }

    /// Whether the program is there at all.
    pub(super) fn has_program(&self) -> bool {
        let program = self.command().remove(0);
        if program == SUPERVISOR {
            return self.supervisor.is_some();
        }
        let mounted = self.mounts().find_map(|(volume, mount)| {
            let below = Path::new(&program)
                .strip_prefix(object::text(mount, "/mountPath"))
                .ok()?;
            Some(volume.dir.join(below).is_file())
        });
        mounted.unwrap_or_else(|| {
            if program.contains('/') {
                Path::new(&program).is_file()
            } else {
                PATH.split(':').any(|dir| Path::new(dir).join(&program).is_file())
            }
        })
    }

    fn mounts(&self) -> impl Iterator<Item = (&Volume, &Value)> {
        let mounts = self.spec["volumeMounts"].as_array().into_iter().flatten();
        mounts.filter_map(|mount| {
            let name = object::text(mount, "/name");
            let volume = self.volumes.iter().find(|volume| volume.name == name)?;
            Some((volume, mount))
        })
    }

    /// All arguments, bubblewrap first.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut line = Line(vec!["bwrap".to_owned()]);
        let (user, group) = self.ids();
        line.add(&[
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
        ]);
        line.add(&[
            "--as-pid-1",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]);
        line.add(&["--uid", &user.to_string(), "--gid", &group.to_string()]);
        line.add(&["--hostname", object::name(self.pod), "--clearenv"]);
        self.environment(&mut line);
        line.add(&[
            "--proc", "/proc", "--dev", "/dev", "--perms", "0755", "--tmpfs", "/run",
        ]);
        self.programs(&mut line);
        self.etc(&mut line);
        if let Some(memory) = self.memory {
            let memory = memory.display().to_string();
            line.add(&["--ro-bind", &memory, "/sys/fs/cgroup/memory"]);
        }
        for (volume, mount) in self.mounts() {
            let sub = object::text(mount, "/subPath");
            let source = volume.dir.join(sub).display().to_string();
            let read_only = volume.read_only || mount["readOnly"] == true;
            let how = if read_only { "--ro-bind" } else { "--bind" };
            line.add(&[how, &source, object::text(mount, "/mountPath")]);
        }
        if self.spec["securityContext"]["readOnlyRootFilesystem"] == true {
            line.add(&["--remount-ro", "/run", "--remount-ro", "/"]);
        }
        let dir = object::text(self.spec, "/workingDir");
        line.add(&["--chdir", if dir.is_empty() { "/" } else { dir }, "--"]);
        line.0.extend(self.command());
        line.0
    }

    fn environment(&self, line: &mut Line) {
        let own = self.spec["env"].as_array().into_iter().flatten();
        let own = own.map(|one| (object::text(one, "/name"), object::text(one, "/value")));
        let kubelet = [
            ("PATH", PATH),
            ("HOSTNAME", object::name(self.pod)),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ];
        for (name, value) in kubelet.into_iter().chain(own) {
            line.add(&["--setenv", name, value]);
        }
    }

    /// `/usr` entry by entry, so that the supervisor can lie in `/usr/local/bin`.
    fn programs(&self, line: &mut Line) {
        line.copy(Path::new("/usr"), &["local"]);
        line.copy(Path::new("/usr/local"), &["bin"]);
        line.copy(Path::new("/usr/local/bin"), &["agent-tool-supervisor"]);
        line.add(&["--perms", "0755", "--dir", "/usr/local/bin"]);
        if let Some(supervisor) = &self.supervisor {
            line.add(&["--ro-bind", &supervisor.display().to_string(), SUPERVISOR]);
        }
        for dir in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            line.entry(Path::new(dir));
        }
    }

    fn etc(&self, line: &mut Line) {
        for name in [
            "alternatives",
            "ld.so.cache",
            "ld.so.conf",
            "ld.so.conf.d",
            "localtime",
            "mime.types",
            "ssl",
        ] {
            let path = format!("/etc/{name}");
            line.add(&["--ro-bind-try", &path, &path]);
        }
        for name in ["passwd", "group", "hosts", "nsswitch.conf", "resolv.conf"] {
            let own = self.etc.join(name).display().to_string();
            line.add(&["--ro-bind", &own, &format!("/etc/{name}")]);
        }
    }
}

struct Line(Vec<String>);

impl Line {
    fn add(&mut self, arguments: &[&str]) {
        self.0
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
    }

    fn entry(&mut self, path: &Path) {
        let name = path.display().to_string();
        match std::fs::read_link(path) {
            Ok(target) => self.add(&["--symlink", &target.display().to_string(), &name]),
            Err(_) if path.exists() => self.add(&["--ro-bind", &name, &name]),
            Err(_) => {}
        }
    }

    fn copy(&mut self, dir: &Path, without: &[&str]) {
        self.add(&["--perms", "0755", "--dir", &dir.display().to_string()]);
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !without.iter().any(|name| entry.file_name() == *name) {
                self.entry(&entry.path());
            }
        }
    }
}

/// Writes the files of `/etc` that are the pod's own.
pub(super) fn write_etc(pod: &Value, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let aliases = pod["spec"]["hostAliases"].as_array().into_iter().flatten();
    let alias = |alias: &Value| {
        let names = alias["hostnames"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        format!("{}\t{}\n", object::text(alias, "/ip"), names.join("\t"))
    };
    let aliases: String = aliases.map(alias).collect();
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{aliases}");
    let servers = pod["spec"]["dnsConfig"]["nameservers"]
        .as_array()
        .into_iter()
        .flatten();
    let cluster = (pod["spec"]["dnsPolicy"] != "None").then_some("10.96.0.10");
    let servers = cluster.into_iter().chain(servers.filter_map(Value::as_str));
    let resolv: String = servers.map(|server| format!("nameserver {server}\n")).collect();
    let files = [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nagent:x:10001:10001::/workspace:/bin/sh\n",
        ),
        ("group", "root:x:0:\nagent:x:10001:\n"),
        ("hosts", &hosts),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("resolv.conf", &resolv),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
