"""deploy-phase2b.sh, verify-phase2b.sh and the post-deploy gate against a fake kubectl and a fake API.

Each test has a cluster of its own in a directory. No test needs another one, so they run at the same time.
"""
import base64
import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import traceback

from stub_api import StubApi

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SECRET = "agent-api-secrets"
KEYS = {"S3_ACCESS_KEY": "new-access-key", "S3_SECRET_KEY": "new-secret-key-4711"}
TOKEN = "token-that-nobody-may-see"
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def encoded(values):
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def environment(home, **more):
    return {"PATH": os.environ["PATH"], "HOME": str(home), "FAKE_CLUSTER": str(home), **more}


def make_namespace(home, name):
    thing = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": "100"}}
    (home / "objects" / f"cluster.namespace.{name}.json").write_text(json.dumps(thing, indent=4, sort_keys=True))


@functools.lru_cache
def old_deployment(name):
    """The files of a Deployment as an earlier version of the project would have applied it, with 4 workers."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="old-"))
    (home / "objects").mkdir()
    make_namespace(home, "agents")
    text = (ROOT / "k8s" / f"{name.removeprefix('agent-')}-deployment.yaml").read_text()
    text = text.replace("image: agent-api\n", "image: agent-api:old\n").replace("replicas: 1\n", "replicas: 4\n")
    subprocess.run(["kubectl", "apply", "-f", "-"], input=text, env=environment(home), text=True, check=True,
                   capture_output=True)
    return home / "objects"


class Cluster:
    """A fake cluster that has the secret and both deployments, of the image agent-api:old, unless told otherwise."""

    def __init__(self, deployments=("agent-api", "agent-worker"), secret=None, namespaces=("agents", "default", "openagents")):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="fake-cluster-"))
        (self.home / "objects").mkdir()
        for name in namespaces:
            make_namespace(self.home, name)
        values = {"DATABASE_URL": "postgres://db/agents", "REDIS_URL": "redis://r:6379", "JWT_SECRET": "kept",
                  "S3_ACCESS_KEY": "old-access-key", "S3_SECRET_KEY": "old-secret-key"}
        if secret is not None:
            values = secret
        if values:
            self.write({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": "agents",
                        "resourceVersion": "100"}, "data": encoded(values)})
        for name in deployments:
            for file in old_deployment(name).iterdir():
                shutil.copy(file, self.home / "objects")
        (self.home / "calls").write_text("")

    def env(self, **more):
        """Nothing of the caller's settings but what a program needs to run."""
        return environment(self.home, **more)

    def write(self, thing):
        name = f"{thing['metadata']['namespace']}.{thing['kind'].lower()}.{thing['metadata']['name']}.json"
        (self.home / "objects" / name).write_text(json.dumps(thing, indent=4, sort_keys=True))

    def read(self, kind, name, namespace="agents"):
        return json.loads((self.home / "objects" / f"{namespace}.{kind}.{name}.json").read_text())

    def has(self, kind, name, namespace="agents"):
        return (self.home / "objects" / f"{namespace}.{kind}.{name}.json").exists()

    def image(self, name):
        return self.read("deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"]

    def replicas(self, name):
        return self.read("deployment", name)["spec"]["replicas"]

    def worker_env(self):
        container = self.read("deployment", "agent-worker")["spec"]["template"]["spec"]["containers"][0]
        return {entry["name"]: entry.get("value") for entry in container["env"]}

    def egress(self):
        """Where tools may go: address ranges, and the port."""
        rule = self.read("networkpolicy", "agent-tools-object-storage", "agent-tools")["spec"]["egress"][0]
        return [to["ipBlock"]["cidr"] for to in rule["to"]], rule["ports"][0]["port"]

    def secret(self):
        data = self.read("secret", SECRET)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def calls(self):
        return (self.home / "calls").read_text()

    def fails(self, *parts):
        (self.home / "fail").write_text("\n".join(parts))

    def mark(self, name, text=""):
        (self.home / name).write_text(text)

    def state(self):
        """Every object and its version."""
        return {path.name: path.read_text() for path in (self.home / "objects").glob("*.json")}

    def run(self, script, *arguments, **env):
        return subprocess.run([str(ROOT / script), *arguments], env=self.env(**env), text=True, capture_output=True,
                              cwd=self.home, timeout=60, check=False)

    def deploy(self, *arguments, image="agent-api:new", **env):
        given = {**KEYS, "IMAGE": image, **env}
        ended = self.run("deploy-phase2b.sh", *arguments, **{key: value for key, value in given.items() if value})
        no_secret_in(ended.stdout + ended.stderr + self.calls())
        return ended

    def verify(self, api, *arguments, **env):
        given = {"TOKEN": TOKEN, "API_URL": api.url, "VERIFY_TIMEOUT": "30", **env}
        ended = self.run("verify-phase2b.sh", *arguments, **{key: value for key, value in given.items() if value})
        no_secret_in(ended.stdout + ended.stderr + self.calls())
        return ended


def no_secret_in(text):
    for secret in [*KEYS.values(), "old-access-key", "old-secret-key", TOKEN, "postgres://db", "j=w=t"]:
        assert secret not in text, f"{secret} was shown"
        assert base64.b64encode(secret.encode()).decode() not in text, f"{secret} was shown in base64"


def same(got, wanted):
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def ends(ended, code, *parts):
    told = f"exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == code, f"wanted exit {code}: {told}"
    for part in parts:
        assert part in ended.stdout + ended.stderr, f"wanted {part!r}: {told}"


# --- deploy ---------------------------------------------------------------------------------------------------------

@test
def a_deployment_puts_keys_rules_worker_and_api_in_seven_steps():
    cluster = Cluster()
    ended = cluster.deploy()
    ends(ended, 0, *[f"[{n}/7]" for n in range(1, 8)])
    same(cluster.secret(), {"DATABASE_URL": "postgres://db/agents", "REDIS_URL": "redis://r:6379", "JWT_SECRET": "kept", **KEYS})
    same([cluster.image("agent-worker"), cluster.image("agent-api")], ["agent-api:new", "agent-api:new"])
    assert cluster.has("resourcequota", "agent-tool-jobs-quota", "agent-tools")
    assert cluster.has("namespace", "agent-tools", "cluster") and cluster.has("role", "agent-job-spawner", "agent-tools")
    assert cluster.has("networkpolicy", "agent-tools-default-deny", "agent-tools")
    same(cluster.replicas("agent-worker"), 4)


@test
def a_deployment_brings_what_tool_jobs_need():
    cluster = Cluster()
    ends(cluster.deploy("--tool-image=tools:2", S3_ENDPOINT="http://10.1.2.3:9000", S3_WORKSPACE_BUCKET="mine"), 0)
    env = cluster.worker_env()
    same((env["TOOL_EXECUTOR"], env["TOOL_IMAGE"], env["K8S_TOOL_NAMESPACE"]), ("kubernetes", "tools:2", "agent-tools"))
    same((env["S3_ENDPOINT"], env["S3_WORKSPACE_BUCKET"], env["S3_REGION"]), ("http://10.1.2.3:9000", "mine", "ch-gva-2"))
    assert cluster.has("limitrange", "agent-tool-limits", "agent-tools")
    same(cluster.read("configmap", "agent-tool-images")["data"], {"TOOL_IMAGE": "tools:2"})
    same(cluster.egress(), (["10.1.2.3/32"], 9000))
    # What is live stays when nothing else is said, and the image of before stays allowed.
    ends(cluster.deploy(), 0)
    env = cluster.worker_env()
    same((env["S3_ENDPOINT"], env["S3_WORKSPACE_BUCKET"], env["TOOL_IMAGE"]), ("http://10.1.2.3:9000", "mine", "agent-tools:phase2b"))
    same(sorted(cluster.read("configmap", "agent-tool-images")["data"].values()), ["agent-tools:phase2b", "tools:2"])
    same(cluster.egress(), (["10.1.2.3/32"], 9000))


@test
def tools_reach_the_addresses_that_are_named_and_none_when_none_is_known():
    cluster = Cluster()
    ends(cluster.deploy(S3_ENDPOINT="https://store.invalid", S3_EGRESS_CIDRS="10.0.0.0/8,2001:db8::/32"), 0)
    same(cluster.egress(), (["10.0.0.0/8", "2001:db8::/32"], 443))
    # Nothing is found, so what is live stays.
    ends(cluster.deploy(S3_ENDPOINT="https://store.invalid"), 0)
    same(cluster.egress(), (["10.0.0.0/8", "2001:db8::/32"], 443))
    fresh = Cluster()
    ends(fresh.deploy(S3_ENDPOINT="https://store.invalid:8443"), 0, "no address of store.invalid was found")
    same(fresh.egress(), (["192.0.2.0/24"], 8443))
    v6 = Cluster()
    ends(v6.deploy(S3_ENDPOINT="http://[2001:db8::1]:9000"), 0)
    same(v6.egress(), (["2001:db8::1/128"], 9000))


@test
def a_name_with_changing_answers_does_not_change_the_policy_each_time():
    cluster = Cluster()
    ends(cluster.deploy(S3_ENDPOINT="http://localhost:9000", S3_EGRESS_CIDRS="127.0.0.1/32 ::1/128 127.0.0.9/32"), 0)
    before = cluster.egress()
    ends(cluster.deploy(S3_ENDPOINT="http://localhost:9000"), 0)
    same(cluster.egress(), before)
    ends(cluster.deploy(S3_ENDPOINT="http://10.9.9.9:9000"), 0)
    same(cluster.egress(), (["10.9.9.9/32"], 9000))


@test
def an_empty_cluster_gets_its_namespace_and_secret_from_a_file():
    cluster = Cluster(deployments=(), secret={}, namespaces=())
    file = cluster.home / "secrets.env"
    file.write_text("# ours\n\nDATABASE_URL=postgres://db/agents?a=b\nREDIS_URL=redis://r\nJWT_SECRET=j=w=t\nS3_ACCESS_KEY=not-this\n")
    ends(cluster.deploy(), 1, "--secret-file makes it")
    assert not cluster.has("namespace", "agents", "cluster")
    ends(cluster.deploy("--secret-file", str(file)), 0)
    same(cluster.secret(), {"DATABASE_URL": "postgres://db/agents?a=b", "REDIS_URL": "redis://r", "JWT_SECRET": "j=w=t", **KEYS})
    assert cluster.has("service", "agent-api") and cluster.has("service", "agent-worker")
    before = cluster.state()
    file.write_text("DATABASE_URL=postgres://other\nREDIS_URL=redis://other\n")
    ends(cluster.deploy("--secret-file", str(file)), 0)
    same(cluster.state(), before)


@test
def a_secret_of_empty_values_is_filled_from_a_file_and_emptied_again_when_a_step_fails():
    values = {"DATABASE_URL": "", "REDIS_URL": "", "JWT_SECRET": "", "S3_ACCESS_KEY": "", "S3_SECRET_KEY": ""}
    cluster = Cluster(secret=values, deployments=())
    file = cluster.home / "secrets.env"
    file.write_text("DATABASE_URL=postgres://db\nREDIS_URL=redis://r")
    ends(cluster.deploy(), 1, "lacks: DATABASE_URL REDIS_URL")
    cluster.fails("rollout status deployment/agent-worker")
    ends(cluster.deploy("--secret-file", str(file)), 1, "step 4/7")
    same({key: value for key, value in cluster.secret().items() if value}, {})
    same(cluster.replicas("agent-worker"), 0)


@test
def a_secret_that_was_made_is_deleted_when_a_step_fails():
    cluster = Cluster(deployments=(), secret={}, namespaces=())
    file = cluster.home / "secrets.env"
    file.write_text("DATABASE_URL=postgres://db\nREDIS_URL=redis://r\n")
    cluster.fails("worker-deployment.yaml")
    ends(cluster.deploy("--secret-file", str(file)), 1, "step 3/7", "deleted")
    assert not cluster.has("secret", SECRET)


@test
def a_bad_secret_file_is_exit_64_and_not_shown():
    cluster = Cluster()
    file = cluster.home / "secrets.env"
    file.write_text("DATABASE_URL postgres://db\n")
    ends(cluster.deploy("--secret-file", str(file)), 64, "not KEY=VALUE")
    ends(cluster.deploy("--secret-file", str(cluster.home / "none")), 64, "cannot be read")
    same(cluster.calls(), "")


@test
def services_that_are_there_stay_as_they_are():
    cluster = Cluster()
    ends(cluster.deploy(), 0)
    assert not cluster.has("service", "agent-api"), "where the deployment was there, somebody decided about the service"


@test
def a_second_deployment_changes_nothing_more():
    cluster = Cluster()
    ends(cluster.deploy(), 0)
    before = cluster.state()
    ends(cluster.deploy(), 0)
    same(cluster.state(), before)


@test
def a_first_deployment_makes_worker_and_api():
    cluster = Cluster(deployments=())
    ends(cluster.deploy("--image", "registry.example/agent-api:1"), 0)
    same([cluster.image(name) for name in ("agent-worker", "agent-api")], ["registry.example/agent-api:1"] * 2)
    same([cluster.replicas("agent-worker"), cluster.replicas("agent-api")], [1, 3])


@test
def workers_start_anew_when_only_the_keys_are_new():
    cluster = Cluster()
    ends(cluster.deploy(), 0)
    before = cluster.read("deployment", "agent-worker")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    ends(cluster.run("deploy-phase2b.sh", S3_ACCESS_KEY="third", S3_SECRET_KEY="third", IMAGE="agent-api:new"), 0)
    after = cluster.read("deployment", "agent-worker")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert int(after) == int(before) + 1, (before, after)


@test
def another_namespace_and_context_are_used_everywhere():
    cluster = Cluster()
    for kind, name in (("secret", SECRET), ("deployment", "agent-worker"), ("deployment", "agent-api")):
        thing = cluster.read(kind, name)
        thing["metadata"]["namespace"] = "blue"
        cluster.write(thing)
    before = cluster.state()
    ends(cluster.deploy("--namespace=blue", "--context", "prod"), 0)
    changed = {name for name, text in cluster.state().items() if before.get(name) != text}
    assert not any(name.startswith("agents.") for name in changed), changed
    subject = cluster.read("rolebinding", "agent-api-job-spawner", "agent-tools")["subjects"][0]
    same(subject["namespace"], "blue")
    assert all("--context prod" in line for line in cluster.calls().splitlines()), cluster.calls()


def failing_step(step, part):
    cluster = Cluster()
    before = cluster.state()
    cluster.fails(part)
    ended = cluster.deploy()
    ends(ended, 1, f"deploy failed in step {step}/7")
    same(cluster.secret()["S3_ACCESS_KEY"], "old-access-key")
    same([cluster.image("agent-worker"), cluster.image("agent-api")], ["agent-api:old", "agent-api:old"])
    same(cluster.replicas("agent-worker"), 4)
    assert "deployed" not in ended.stdout
    return cluster, before, ended


@test
def step_1_failing_changes_nothing():
    cluster, before, _ = failing_step(1, "patch secret")
    same(cluster.state(), before)


@test
def step_1_fails_when_the_secret_would_lack_a_connection():
    for lacks in ("DATABASE_URL", "REDIS_URL"):
        values = {"DATABASE_URL": "postgres://db", "REDIS_URL": "redis://r"}
        del values[lacks]
        cluster = Cluster(secret=values)
        before = cluster.state()
        ends(cluster.deploy(), 1, f"lacks: {lacks}", "deploy failed in step 1/7")
        same(cluster.state(), before)


@test
def step_1_fails_without_a_secret():
    cluster = Cluster(secret={})
    ends(cluster.deploy(), 1, "DATABASE_URL and REDIS_URL", "deploy failed in step 1/7")
    assert not cluster.has("secret", SECRET)


@test
def step_2_failing_restores_the_secret():
    _, _, ended = failing_step(2, "resource-quota.yaml")
    assert "roll-back: agent-worker" not in ended.stdout


@test
def step_3_failing_restores_the_secret_and_leaves_the_worker_alone():
    cluster, _, ended = failing_step(3, "worker-deployment.yaml")
    assert "rollout undo" not in cluster.calls() and "roll-back: agent-worker" not in ended.stdout


@test
def step_4_failing_rolls_the_worker_back():
    failing_step(4, "rollout status deployment/agent-worker")


@test
def step_5_failing_rolls_the_worker_back_and_leaves_the_api_alone():
    cluster, _, _ = failing_step(5, "set image deployment/agent-api")
    assert "rollout undo deployment/agent-api" not in cluster.calls()


@test
def step_6_failing_rolls_both_back():
    cluster, _, _ = failing_step(6, "rollout status deployment/agent-api")
    assert "rollout undo deployment/agent-api" in cluster.calls()


@test
def step_7_failing_rolls_both_back():
    failing_step(7, "logs deployment/agent-worker")


@test
def an_image_that_does_not_start_is_rolled_back():
    cluster = Cluster()
    ends(cluster.deploy(image="agent-api:broken"), 1, "pods of agent-worker, and what they said last", "deploy failed in step 4/7")
    same(cluster.image("agent-worker"), "agent-api:old")
    assert "logs deployment/agent-worker" in cluster.calls()


@test
def a_worker_that_did_not_exist_is_scaled_to_0_and_the_next_deployment_starts_it():
    cluster = Cluster(deployments=("agent-api",))
    ends(cluster.deploy(image="agent-api:broken"), 1, "deploy failed in step 4/7")
    same(cluster.replicas("agent-worker"), 0)
    ends(cluster.deploy(image="agent-api:broken-too"), 1, "deploy failed in step 4/7")
    same(cluster.replicas("agent-worker"), 0)
    ends(cluster.deploy(), 0)
    same(cluster.replicas("agent-worker"), 1)


@test
def keys_that_did_not_exist_are_taken_away_again():
    cluster = Cluster(secret={"DATABASE_URL": "postgres://db", "REDIS_URL": "redis://r"})
    cluster.fails("rollout status deployment/agent-worker")
    ends(cluster.deploy(), 1)
    same(sorted(cluster.secret()), ["DATABASE_URL", "REDIS_URL"])


@test
def an_unchanged_deployment_is_not_rolled_back():
    cluster = Cluster()
    ends(cluster.deploy(), 0)
    ends(cluster.deploy(image="agent-api:newer"), 0)
    before = cluster.state()
    cluster.fails("logs deployment/agent-worker")
    ends(cluster.deploy(image="agent-api:newer"), 1, "step 7/7")
    same(cluster.state(), before)


@test
def a_roll_back_that_fails_is_exit_2_and_the_rest_is_still_taken_back():
    cluster = Cluster()
    cluster.fails("rollout status deployment/agent-api", "rollout undo deployment/agent-worker")
    ends(cluster.deploy(), 2, "deploy failed in step 6/7", "roll-back failed")
    same(cluster.image("agent-api"), "agent-api:old")
    same(cluster.secret()["S3_ACCESS_KEY"], "old-access-key")


@test
def missing_variables_are_exit_64_and_named():
    cluster = Cluster()
    ends(cluster.deploy(S3_ACCESS_KEY="", S3_SECRET_KEY=""), 64, "S3_ACCESS_KEY S3_SECRET_KEY")
    ends(cluster.deploy(S3_SECRET_KEY=""), 64, "missing required variables: S3_SECRET_KEY")
    same(cluster.calls(), "")


@test
def wrong_use_is_exit_64():
    cluster = Cluster()
    for arguments in (["--nosuch"], ["--timeout", "soon"], ["--image"], ["--namespace", "A B"], ["--image", "a;b"], ["extra"],
                      ["--tool-image", "a b"], ["--secret-file"]):
        ends(cluster.deploy(*arguments), 64)
    for name, value in (("S3_ENDPOINT", "store"), ("S3_ENDPOINT", "http://a b"), ("S3_REGION", "x|y"), ("S3_EGRESS_CIDRS", "all; rm")):
        ends(cluster.deploy(**{name: value}), 64, name)
    same(cluster.calls(), "")


@test
def a_cluster_that_is_away_is_exit_69():
    cluster = Cluster()
    cluster.mark("away")
    ends(cluster.deploy(), 69, "does not answer")
    with StubApi() as api:
        ends(cluster.verify(api), 69, "does not answer")


@test
def a_missing_kubectl_is_exit_69():
    cluster = Cluster()
    bare = cluster.home / "bin"
    bare.mkdir()
    for name in ("bash", "env", "dirname", "mktemp", "rm", "sed", "grep", "tail", "head", "cat", "base64", "tr", "curl"):
        (bare / name).symlink_to(shutil.which(name))
    ends(cluster.deploy(PATH=str(bare)), 69, "kubectl is missing")
    with StubApi() as api:
        ends(cluster.verify(api, PATH=str(bare)), 69, "kubectl is missing")


@test
def a_dry_run_prints_the_commands_and_changes_nothing():
    cluster = Cluster()
    before = cluster.state()
    ends(cluster.deploy("--dry-run"), 0, "kubectl patch secret", "worker-deployment.yaml",
         "kubectl set image deployment/agent-api agent-api=agent-api:new -n agents", *[f"[{n}/7]" for n in range(1, 8)])
    same((cluster.state(), cluster.calls()), (before, ""))
    with StubApi() as api:
        ends(cluster.verify(api, "--dry-run"), 0, "agent-worker check s3")
        same(api.requests, [])
    same(cluster.calls(), "")


@test
def help_needs_nothing():
    cluster = Cluster()
    for script in ("deploy-phase2b.sh", "verify-phase2b.sh", "k8s/jobs/run-postdeploy-gate.sh"):
        ends(cluster.run(script, "--help"), 0, "Exit")


# --- verify ---------------------------------------------------------------------------------------------------------

def results(ended):
    return [line.split(":")[0] for line in ended.stdout.splitlines() if line.split(" ")[0] in ("PASS", "SKIP", "FAIL")]


def all_but(*failing):
    return [f"{'FAIL' if n in failing else 'PASS'} {n}" for n in range(1, 11)]


@test
def a_sound_deployment_passes_all_ten_steps():
    with StubApi() as api:
        ended = Cluster().verify(api)
        ends(ended, 0, "verified")
        same(results(ended), all_but())
        same({authorization for _, authorization in api.requests}, {f"Bearer {TOKEN}"})


@test
def without_a_cluster_five_steps_are_skipped():
    cluster = Cluster()
    cluster.mark("away")
    with StubApi() as api:
        ended = cluster.verify(api, "--no-cluster")
    ends(ended, 0, "5 steps skipped")
    same(results(ended), [f"SKIP {n}" for n in range(1, 5)] + [f"PASS {n}" for n in range(5, 10)] + ["SKIP 10"])
    same(cluster.calls(), "")


def broken(steps, *faults, prepare=None, reason="", **env):
    cluster = Cluster()
    if prepare:
        prepare(cluster)
    with StubApi(*faults) as api:
        ended = cluster.verify(api, **env)
        ends(ended, 1, reason)
        same(results(ended), all_but(*steps))
        assert "verified" not in ended.stdout
        return [action for action, _ in api.requests]


@test
def verify_1_and_2_fail_with_a_deployment_that_is_not_available():
    broken([1, 2], prepare=lambda c: c.mark("unready-agent-api"), reason="agent-api is not available")


@test
def verify_2_fails_when_no_pod_can_be_listed():
    broken([2], prepare=lambda c: c.fails("get pods"))


@test
def verify_3_fails_with_a_fatal_line():
    broken([3], prepare=lambda c: c.mark("log", "thread 'main' panicked at src/main.rs:1"), reason="panicked at")
    broken([3], prepare=lambda c: c.fails("logs deployment/agent-worker"))


@test
def verify_4_fails_without_redis():
    broken([4], prepare=lambda c: c.mark("redis-away"), reason="redis-cli")

    def without_url(cluster):
        secret = cluster.read("secret", SECRET)
        del secret["data"]["REDIS_URL"]
        cluster.write(secret)
    broken([4], prepare=without_url, reason="no REDIS_URL")


@test
def verify_5_fails_and_with_it_all_that_needs_the_run():
    broken([5, 6, 7, 8, 9], "create-500", reason="answered 503")
    broken([5, 6, 7, 8, 9], "no-run-id", reason="no run_id")


@test
def verify_6_fails_when_start_does_not_queue_and_the_run_is_stopped():
    asked = broken([6, 7, 8, 9], "start-created", reason="start answered status created, not queued")
    same(asked[-1], "stop")


@test
def verify_7_fails_when_no_worker_takes_the_run_and_the_run_is_stopped():
    asked = broken([7, 8], "stays-queued", reason="still queued", VERIFY_TIMEOUT="1")
    same(asked[-1], "stop")


@test
def verify_8_fails_when_the_run_does_not_end():
    broken([8], "stays-executing", reason="still executing after 2 s", VERIFY_TIMEOUT="2")


@test
def verify_8_fails_when_the_run_ends_otherwise_than_completed():
    broken([8], "run-fails", reason="the run ended failed")


@test
def verify_9_fails_when_a_frame_is_missing():
    for kind in ("connected", "log", "complete"):
        broken([9], f"stream-no-{kind}", reason=f"the stream has no {kind} frame")


@test
def verify_10_fails_without_s3():
    broken([10], prepare=lambda c: c.mark("s3-away"), reason="s3: FAILED")

    def without_key(cluster):
        secret = cluster.read("secret", SECRET)
        del secret["data"]["S3_SECRET_KEY"]
        cluster.write(secret)
    broken([10], prepare=without_key, reason="the worker has no S3_SECRET_KEY")


@test
def verify_without_a_token_is_exit_64():
    with StubApi() as api:
        ends(Cluster().verify(api, TOKEN=""), 64, "missing required variables: TOKEN")
        ends(Cluster().verify(api, "--nosuch"), 64)


@test
def verify_tells_when_no_api_answers():
    cluster = Cluster()
    ended = cluster.run("verify-phase2b.sh", "--no-cluster", TOKEN=TOKEN, API_URL="http://127.0.0.1:9", VERIFY_TIMEOUT="1")
    ends(ended, 1, "FAIL 5: no answer from http://127.0.0.1:9")


# --- the gate of the runtime service --------------------------------------------------------------------------------

GATE = "k8s/jobs/run-postdeploy-gate.sh"


@test
def the_gate_runs_migrate_then_smoke_with_image_and_namespace_filled_in():
    cluster = Cluster()
    for _ in range(2):
        ends(cluster.run(GATE, NAMESPACE="openagents", IMAGE="agent-api:7"), 0, "gate passed")
    for name in ("runtime-migrate", "runtime-smoke"):
        job = cluster.read("job", name, "openagents")
        same(job["spec"]["template"]["spec"]["containers"][0]["image"], "agent-api:7")
    env = cluster.read("job", "runtime-smoke", "openagents")["spec"]["template"]["spec"]["containers"][0]["env"]
    same(env[0]["value"], "http://runtime.openagents.svc.cluster.local")
    assert cluster.calls().index("runtime-migrate") < cluster.calls().index("runtime-smoke")
    assert "set image" not in cluster.calls()


@test
def the_gate_stops_before_smoke_when_migrate_fails():
    cluster = Cluster()
    cluster.mark("unready-runtime-migrate")
    ends(cluster.run(GATE), 1, "runtime-migrate failed")
    assert "runtime-smoke" not in cluster.calls()
    assert "logs job/runtime-migrate -n default" in cluster.calls()


@test
def the_gate_fails_when_smoke_fails_or_a_job_does_not_end():
    cluster = Cluster()
    cluster.mark("unready-runtime-smoke")
    ends(cluster.run(GATE), 1, "runtime-smoke did not pass")
    cluster.fails("wait --for")
    ends(cluster.run(GATE, GATE_TIMEOUT="2"), 1, "has not ended within 2 s")


@test
def the_gate_in_a_dry_run_changes_nothing():
    cluster = Cluster()
    ends(cluster.run(GATE, DRY_RUN="1", IMAGE="agent-api:7"), 0, "kubectl delete job runtime-migrate", "image: agent-api:7")
    same(cluster.calls(), "")


# --- the scripts of the pipeline ------------------------------------------------------------------------------------

PIPELINE = [f"scripts/ci/{name}.sh" for name in ("build", "deploy", "test", "run", "run-migrations", "run-tests", "sbom", "deny")]
LOCAL = [f"scripts/local/{name}.sh" for name in ("build", "run", "test")]


@test
def scripts_know_their_help_their_service_and_wrong_use():
    cluster = Cluster()
    for script in PIPELINE + LOCAL:
        ends(cluster.run(script, "--help"), 0, "--service")
        ends(cluster.run(script, "--service", "agent-executor"), 69, "agent-executor is not part of this version")
        ends(cluster.run(script, SERVICE="agent-executor"), 69, "agent-executor is not part of this version")
        ends(cluster.run(script, "--service=nosuch"), 64, "unknown service")
    for script in ("build", "run-migrations", "run"):
        ends(cluster.run(f"scripts/ci/{script}.sh", "--nosuch"), 64)


@test
def dry_runs_of_the_pipeline_print_and_do_nothing():
    cluster = Cluster()
    before = cluster.state()
    ends(cluster.run("scripts/ci/build.sh", "--dry-run"), 0, "build.sh ci-test")
    ends(cluster.run("scripts/local/build.sh", "--dry-run", "x1"), 0, *[f"-t agent-{name}:x1" for name in ("api", "worker", "tools")])
    ends(cluster.run("scripts/ci/deploy.sh", "--dry-run", "--image", "a:1", **KEYS), 0, "agent-api=a:1", "[7/7]")
    ends(cluster.run("scripts/ci/test.sh", "--dry-run", TOKEN=TOKEN), 0, "agent-worker check s3", "test.sh --integration")
    ends(cluster.run("scripts/ci/run-tests.sh", "--dry-run"), 0, "local/test.sh")
    ends(cluster.run("scripts/local/test.sh", "--dry-run"), 0, "cargo clippy", "cargo test --workspace")
    ends(cluster.run("scripts/ci/run-migrations.sh", "--dry-run", DATABASE_URL="postgres://h/d"), 0, "0001_platform.up.sql")
    ends(cluster.run("scripts/ci/sbom.sh", "--dry-run"), 0, "cargo metadata")
    same((cluster.state(), cluster.calls()), (before, ""))


@test
def deploy_of_the_pipeline_has_the_exit_codes_of_the_deployment():
    cluster = Cluster()
    ends(cluster.run("scripts/ci/deploy.sh", "--image=agent-api:new", **KEYS), 0, "deployed")
    same(cluster.image("agent-api"), "agent-api:new")
    ends(cluster.run("scripts/ci/deploy.sh"), 64, "S3_ACCESS_KEY S3_SECRET_KEY")
    cluster.mark("away")
    ends(cluster.run("scripts/ci/deploy.sh", **KEYS), 69)


@test
def a_program_is_only_started_with_its_settings_and_takes_its_arguments():
    cluster = Cluster()
    ends(cluster.run("scripts/ci/run.sh"), 64, "api or worker?")
    ends(cluster.run("scripts/ci/run.sh", "planner"), 64, "neither api nor worker")
    ends(cluster.run("scripts/ci/run.sh", "api"), 64,
         "missing required settings: DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD), REDIS_URL (or DRAGONFLY_HOST), "
         "JWT_SECRET (or JWT_JWKS_URL)")
    ends(cluster.run("scripts/ci/run.sh", "worker", POSTGRES_HOST="h", DRAGONFLY_HOST="d"), 64,
         "missing required settings: DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD)\n")
    program = cluster.home / "bin" / "agent-worker"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho \"$$ $*\"\nexit 7\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    ends(cluster.run("scripts/ci/run.sh", "worker", "check", "s3", PATH=path, DATABASE_URL="postgres://h", REDIS_URL="redis://r"), 7, " check s3")
    (cluster.home / ".env").write_text("DATABASE_URL=postgres://h\nREDIS_URL='redis://r'\n")
    ends(cluster.run("scripts/ci/run.sh", "worker", PATH=path), 7)


@test
def migrations_need_a_server_and_say_so():
    cluster = Cluster()
    ends(cluster.run("scripts/ci/run-migrations.sh"), 64, "missing required variables: POSTGRES_HOST POSTGRES_PASSWORD (or DATABASE_URL)")
    ends(cluster.run("scripts/ci/run-migrations.sh", DATABASE_URL="mysql://h"), 64)
    ends(cluster.run("scripts/ci/run-migrations.sh", DATABASE_URL="postgres://h", MIGRATION_DIR=str(cluster.home)), 64, "no *.up.sql")
    if shutil.which("psql"):
        ended = cluster.run("scripts/ci/run-migrations.sh", DATABASE_URL="postgres://u:secret-of-db@127.0.0.1:1/d", MIGRATION_WAIT_SECONDS="0")
        ends(ended, 69, "Postgres does not answer")
        assert "secret-of-db" not in ended.stdout + ended.stderr


@test
def the_script_of_the_schema_locks_what_the_programs_lock():
    source = (ROOT / "crates/runs/src/db/migrate.rs").read_text()
    number = int(re.search(r"LOCK_KEY: i64 = 0x([0-9a-f_]+)", source).group(1).replace("_", ""), 16)
    assert f"\nlock={number}\n" in (ROOT / "scripts/ci/run-migrations.sh").read_text()


def one(function):
    try:
        function()
        return function.__name__, None
    except Exception:  # whatever a test throws is its failure
        return function.__name__, traceback.format_exc(limit=4)


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    # This very interpreter runs the fake kubectl: it has what it needs, and no wrapper in front of it.
    os.environ["PATH"] = f"{HERE / 'bin'}:{pathlib.Path(os.path.realpath(sys.executable)).parent}:{os.environ['PATH']}"
    tempfile.tempdir = tempfile.mkdtemp(prefix="deploy-tests-")
    chosen = [function for function in TESTS if only in function.__name__]
    bad = 0
    try:
        with concurrent.futures.ThreadPoolExecutor(max_workers=6) as pool:
            for name, fault in pool.map(one, chosen):
                print(f"{'FAIL' if fault else 'ok  '} {name.replace('_', ' ')}")
                if fault:
                    bad += 1
                    print(fault)
    finally:
        shutil.rmtree(tempfile.tempdir)
    print(f"{len(chosen) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
