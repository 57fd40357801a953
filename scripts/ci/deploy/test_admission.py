"""The admission policies of k8s/admission-policy.yaml, evaluated: our Jobs pass, each with one fault is refused.

Needs a CEL interpreter (`pip install cel-python`); without one the caller says that this was left out.
"""
import copy
import pathlib
import sys
import traceback

import celpy
import celpy.celtypes
import yaml

POLICIES = [thing for thing in yaml.safe_load_all((pathlib.Path(__file__).resolve().parents[3] / "k8s/admission-policy.yaml").read_text())
            if thing["kind"] == "ValidatingAdmissionPolicy"]
WORKER = "system:serviceaccount:agents:agent-api-sa"
IMAGES = {"data": {"TOOL_IMAGE": "agent-tools:phase2b", "deployed-1": "agent-tools:before"}}
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def container(**more):
    return {
        "name": "tool", "image": "agent-tools:phase2b",
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "2Gi"}},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "runAsNonRoot": True,
                            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}, {"name": "order", "mountPath": "/run/agent-order"}], **more,
    }


def job():
    """What the executor makes (AA-93), with the defaults of the API server."""
    labels = {"app": "agent-tool", "tool": "shell", "run-id": "0123", "step-id": "4567", "app.kubernetes.io/managed-by": "agent-worker"}
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "agent-shell-01a1fae9-01a1faea-0123456789", "namespace": "agent-tools", "labels": labels},
        "spec": {"backoffLimit": 0, "completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 300, "template": {
            "metadata": {"labels": labels},
            "spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 420, "automountServiceAccountToken": False, "enableServiceLinks": False,
                     "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["store"]}],
                     "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                     "containers": [container()],
                     "volumes": [{"name": "workspace", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "tmp", "emptyDir": {}},
                                 {"name": "order", "secret": {"secretName": "x"}}]}}},
    }


def evaluate(text, **known):
    environment = celpy.Environment()
    program = environment.program(environment.compile(text))
    return program.evaluate(known)


def refusals(thing, resource, user=WORKER, dry_run=False, params=None):
    """The messages of all policies that refuse the creation of `thing`."""
    request = celpy.json_to_cel({"userInfo": {"username": user}, "dryRun": dry_run})
    found = []
    for policy in POLICIES:
        spec = policy["spec"]
        if resource not in spec["matchConstraints"]["resourceRules"][0]["resources"]:
            continue
        if not all(evaluate(condition["expression"], request=request) for condition in spec["matchConditions"]):
            continue
        known = {"object": celpy.json_to_cel(thing), "request": request, "params": celpy.json_to_cel(IMAGES if params is None else params)}
        variables = celpy.celtypes.MapType()
        for variable in spec.get("variables", []):
            variables[celpy.celtypes.StringType(variable["name"])] = evaluate(variable["expression"], variables=variables, **known)
        for check in spec["validations"]:
            try:
                good = evaluate(check["expression"], variables=variables, **known)
            except celpy.CELEvalError as error:
                raise AssertionError(f"{check['message']}: {error}") from error
            if not good:
                found.append(check["message"])
    return found


def passes(thing, resource="jobs", **more):
    found = refusals(thing, resource, **more)
    assert not found, found


def refused(part, thing, resource="jobs", **more):
    found = refusals(thing, resource, **more)
    assert any(part in message for message in found), f"wanted {part!r}, got {found}"


def with_fault(change):
    broken = copy.deepcopy(job())
    change(broken, broken["spec"], broken["spec"]["template"]["spec"], broken["spec"]["template"]["spec"]["containers"][0])
    return broken


@test
def our_jobs_pass():
    passes(job())
    foreign = job()
    pod = foreign["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "python:3.12"
    pod["initContainers"] = [container(name="supervisor")]
    passes(foreign)
    before = job()
    before["spec"]["template"]["spec"]["containers"][0]["image"] = "agent-tools:before"
    passes(before)


FAULTS = [
    ("name of a tool Job", lambda j, s, p, c: j["metadata"].update(name="agent-shell-x")),
    ("labels", lambda j, s, p, c: j["metadata"].pop("labels")),
    ("labels", lambda j, s, p, c: j["metadata"]["labels"].pop("run-id")),
    ("labels", lambda j, s, p, c: j["metadata"]["labels"].update(tool="browser")),
    ("runs once", lambda j, s, p, c: s.update(backoffLimit=1)),
    ("runs once", lambda j, s, p, c: s.pop("backoffLimit")),
    ("runs once", lambda j, s, p, c: s.update(completions=2)),
    ("runs once", lambda j, s, p, c: s.update(parallelism=5)),
    ("runs once", lambda j, s, p, c: s.pop("ttlSecondsAfterFinished")),
    ("runs once", lambda j, s, p, c: s.update(ttlSecondsAfterFinished=301)),
    ("runs once", lambda j, s, p, c: s.update(activeDeadlineSeconds=9)),
    ("never restarted", lambda j, s, p, c: p.update(restartPolicy="OnFailure")),
    ("never restarted", lambda j, s, p, c: p.pop("activeDeadlineSeconds")),
    ("never restarted", lambda j, s, p, c: p.update(activeDeadlineSeconds=3721)),
    ("neither a token", lambda j, s, p, c: p.pop("automountServiceAccountToken")),
    ("neither a token", lambda j, s, p, c: p.update(automountServiceAccountToken=True)),
    ("neither a token", lambda j, s, p, c: p.update(serviceAccountName="other")),
    ("neither a token", lambda j, s, p, c: p.pop("enableServiceLinks")),
    ("shares nothing", lambda j, s, p, c: p.update(hostNetwork=True)),
    ("shares nothing", lambda j, s, p, c: p.update(hostPID=True)),
    ("shares nothing", lambda j, s, p, c: p.update(hostIPC=True)),
    ("shares nothing", lambda j, s, p, c: p.update(nodeName="n")),
    ("one container", lambda j, s, p, c: p["containers"].append(container(name="two"))),
    ("one container", lambda j, s, p, c: p.update(initContainers=[container(name="a"), container(name="b")])),
    ("read-only root", lambda j, s, p, c: c.pop("securityContext")),
    ("read-only root", lambda j, s, p, c: c["securityContext"].update(readOnlyRootFilesystem=False)),
    ("read-only root", lambda j, s, p, c: c["securityContext"].pop("allowPrivilegeEscalation")),
    ("read-only root", lambda j, s, p, c: c["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
    ("read-only root", lambda j, s, p, c: c["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    ("read-only root", lambda j, s, p, c: p.update(initContainers=[container(name="a", securityContext={})])),
    ("limits", lambda j, s, p, c: c["resources"]["limits"].pop("ephemeral-storage")),
    ("limits", lambda j, s, p, c: c.pop("resources")),
    ("no Secret", lambda j, s, p, c: c.update(envFrom=[{"secretRef": {"name": "x"}}])),
    ("no Secret", lambda j, s, p, c: c.update(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}])),
    ("mounts only", lambda j, s, p, c: p["volumes"].append({"name": "h", "hostPath": {"path": "/"}})),
    ("mounts only", lambda j, s, p, c: p["volumes"].append({"name": "t", "projected": {"sources": []}})),
    ("the image", lambda j, s, p, c: c.update(image="evil:1")),
    ("the image", lambda j, s, p, c: p.update(initContainers=[container(name="a", image="evil:1")])),
]


@test
def every_fault_is_refused():
    for part, change in FAULTS:
        refused(part, with_fault(change))


@test
def without_a_list_of_images_none_is_allowed():
    refused("the image", job(), params={})


@test
def pods_of_the_worker_are_dry_runs_only():
    refused("dry runs only", {"spec": {}}, "pods")
    passes({"spec": {}}, "pods", dry_run=True)


@test
def others_are_not_looked_at():
    for user in ("system:serviceaccount:kube-system:job-controller", "kubernetes-admin", "system:serviceaccount:agents:agent-api-sa2"):
        passes({"metadata": {"name": "any"}, "spec": {}}, user=user)
        passes({"spec": {}}, "pods", user=user)


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [function for function in TESTS if only in function.__name__]
    bad = 0
    for function in chosen:
        try:
            function()
            print(f"ok   {function.__name__.replace('_', ' ')}")
        except Exception:  # whatever a test throws is its failure
            bad += 1
            print(f"FAIL {function.__name__.replace('_', ' ')}")
            traceback.print_exc(limit=4, file=sys.stdout)
    print(f"{len(chosen) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
