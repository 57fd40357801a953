"""Manifests, images and dashboards against the contract's figures, against each other and against the sources.

Rendering is `kubectl kustomize`; without a kubectl that can do it nothing here runs, and the caller says so.
"""
import functools
import json
import pathlib
import re
import subprocess
import sys
import traceback

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def same(got, wanted, what=""):
    assert got == wanted, f"{what}: got {got!r}, wanted {wanted!r}"


@functools.lru_cache
def rendered(directory):
    ended = subprocess.run(["kubectl", "kustomize", str(K8S / directory)], text=True, capture_output=True, check=False)
    assert ended.returncode == 0, f"{directory or 'k8s'} does not render: {ended.stderr}"
    return [thing for thing in yaml.safe_load_all(ended.stdout) if thing]


def one(directory, kind, name):
    found = [thing for thing in rendered(directory) if thing["kind"] == kind and thing["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name} in k8s/{directory}"
    return found[0]


def raw():
    """Every object of every file that is one, with its file."""
    for path in sorted(K8S.rglob("*.yaml")):
        if path.name != "kustomization.yaml" and path.parent.name != "kustomizeconfig":
            for thing in yaml.safe_load_all(path.read_text()):
                yield path, thing


def jobs():
    return [thing for path, thing in raw() if path.parent.name == "jobs"]


def pod_of(thing):
    return thing["spec"]["template"]["spec"]


def workloads():
    for directory in ("", "base", "overlays/dev", "overlays/staging", "overlays/prod"):
        yield from (thing for thing in rendered(directory) if thing["kind"] == "Deployment")
    yield from jobs()


def env_of(container):
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


@functools.lru_cache
def sources():
    return "\n".join(path.read_text() for path in (ROOT / "crates").rglob("*.rs") if "/tests/" not in str(path))


@functools.lru_cache
def settings():
    """Names of settings: README's table, and what subcommands read."""
    table = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", (ROOT / "README.md").read_text(), re.M))
    assert len(table) > 50, "README's table of settings was not found"
    return table | set(re.findall(r'env = "([A-Z][A-Z0-9_]+)"', sources()))


# --- The platform (agents, agent-tools) -----------------------------------------------------------------------------

@test
def every_directory_renders():
    for directory in ("", "base", "monitoring", "overlays/dev", "overlays/staging", "overlays/prod", "overlays/gvisor", "overlays/keda"):
        assert rendered(directory), directory


@test
def every_file_holds_whole_objects_and_is_part_of_a_rendering():
    names = {(thing["kind"], thing["metadata"]["name"]) for directory in ("", "base", "monitoring", "overlays/gvisor", "overlays/keda",
             "overlays/dev", "overlays/staging", "overlays/prod") for thing in rendered(directory)}
    names |= {(thing["kind"], thing["metadata"]["name"]) for thing in jobs()}
    for path, thing in raw():
        assert thing.get("apiVersion") and thing.get("kind") and thing["metadata"].get("name"), path
        assert (thing["kind"], thing["metadata"]["name"]) in names, f"{path} is in no kustomization"


@test
def the_images_are_named_in_one_place():
    same(yaml.safe_load((K8S / "kustomization.yaml").read_text())["images"], [
        {"name": "agent-api", "newName": "agent-api", "newTag": "phase2b"},
        {"name": "tool-image", "newName": "agent-tools", "newTag": "phase2b"}])
    for path in K8S.glob("*.yaml"):
        if path.name != "kustomization.yaml":
            assert ":phase2b" not in path.read_text(), path
            for image in re.findall(r"image: *(\S+)", path.read_text()):
                same(image, "agent-api", str(path))
    for name in ("agent-api", "agent-worker"):
        same(pod_of(one("", "Deployment", name))["containers"][0]["image"], "agent-api:phase2b", name)
    same(env_of(pod_of(one("", "Deployment", "agent-worker"))["containers"][0])["TOOL_IMAGE"], "agent-tools:phase2b")
    same(one("", "ConfigMap", "agent-tool-images")["data"], {"TOOL_IMAGE": "agent-tools:phase2b"})


@test
def namespaces_carry_their_labels():
    labels = one("", "Namespace", "agents")["metadata"]["labels"]
    same((labels["name"], labels["app.kubernetes.io/name"]), ("agents", "swissvault-agents"))
    same(one("", "Namespace", "agent-tools")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")


@test
def the_secret_has_names_of_settings_and_no_values():
    secret = one("", "Secret", "agent-api-secrets")
    values = {**secret.get("data", {}), **secret.get("stringData", {})}
    assert {"DATABASE_URL", "REDIS_URL", "JWT_SECRET", "S3_ACCESS_KEY", "S3_SECRET_KEY"} <= set(values)
    assert set(values) <= settings(), set(values) - settings()
    same({value for value in values.values() if value}, set())
    # The label by which the documented `kubectl apply` leaves it alone.
    same(secret["metadata"]["labels"], {"agent-runtime/values": "in-cluster"})


@test
def the_worker_may_make_jobs_in_agent_tools_and_nothing_else():
    role = one("", "Role", "agent-job-spawner")
    same(role["metadata"]["namespace"], "agent-tools")
    rights = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    watch = {"get", "list", "watch"}
    same(rights, {"jobs": watch | {"create", "delete"}, "pods": watch | {"create", "delete"}, "pods/log": {"get"}, "events": watch,
                  "resourcequotas": watch, "configmaps": {"create", "delete"}, "secrets": {"create", "delete"}})
    same({rule["apiGroups"][0] for rule in role["rules"] if rule["resources"] == ["jobs"]}, {"batch"})
    binding = one("", "RoleBinding", "agent-api-job-spawner")
    same(binding["metadata"]["namespace"], "agent-tools")
    same(binding["roleRef"]["name"], "agent-job-spawner")
    same(binding["subjects"], [{"kind": "ServiceAccount", "name": "agent-api-sa", "namespace": "agents"}])
    assert not [thing for thing in rendered("") if thing["kind"].startswith("ClusterRole")]
    same(pod_of(one("", "Deployment", "agent-api"))["automountServiceAccountToken"], False)
    same(pod_of(one("", "Deployment", "agent-worker"))["automountServiceAccountToken"], True)


@test
def the_api_has_the_contracts_figures():
    deployment = one("", "Deployment", "agent-api")
    container = pod_of(deployment)["containers"][0]
    same(deployment["spec"]["replicas"], 3)
    same(deployment["spec"]["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
    same((container["name"], deployment["spec"]["template"]["metadata"]["labels"]["app"]), ("agent-api", "agent-api"))
    same(container["ports"], [{"name": "http", "containerPort": 8000, "protocol": "TCP"}])
    same(container["resources"], {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "1000m", "memory": "2Gi"}})
    live, ready = container["livenessProbe"], container["readinessProbe"]
    same((live["httpGet"], live["initialDelaySeconds"], live["periodSeconds"]), ({"path": "/health", "port": "http"}, 30, 10))
    same((ready["httpGet"], ready["initialDelaySeconds"], ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]),
         ({"path": "/ready", "port": "http"}, 10, 5, 3, 3))
    same(env_of(container)["API_BIND_ADDR"], "0.0.0.0:8000")
    service = one("", "Service", "agent-api")["spec"]
    same((service["type"], service["ports"][0]["port"], service["ports"][0]["targetPort"]), ("ClusterIP", 80, 8000))


@test
def the_ingress_lets_streams_through():
    ingress = one("", "Ingress", "agent-api")
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    same([path["path"] for path in paths], ["/agent", "/docs", "/health", "/ready"])
    notes = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    same(notes, {"proxy-body-size": "10m", "proxy-read-timeout": "600", "proxy-send-timeout": "600", "proxy-buffering": "off"})
    for path in paths:
        same(path["backend"]["service"], {"name": "agent-api", "port": {"name": one("", "Service", "agent-api")["spec"]["ports"][0]["name"]}})


@test
def the_worker_has_the_contracts_figures():
    deployment = one("", "Deployment", "agent-worker")
    pod, container = pod_of(deployment), pod_of(deployment)["containers"][0]
    same((deployment["spec"]["replicas"], container["name"], container["command"]), (1, "worker", ["agent-worker"]))
    same(container["ports"], [{"name": "admin", "containerPort": 9090, "protocol": "TCP"}])
    same(container["resources"], {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2000m", "memory": "4Gi"}})
    same([container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")], ["/healthz", "/readyz"])
    same(pod["terminationGracePeriodSeconds"], 40)
    assert {"TOOL_EXECUTOR", "S3_ENDPOINT", "S3_REGION", "S3_WORKSPACE_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"} <= set(env_of(container))
    same(env_of(container)["WORKER_ADMIN_ADDR"], "0.0.0.0:9090")
    service = one("", "Service", "agent-worker")["spec"]
    same((service["ports"][0]["port"], service["ports"][0]["name"]), (9090, "admin"))
    endpoint = one("", "ServiceMonitor", "agent-worker")["spec"]["endpoints"][0]
    same((endpoint["port"], endpoint["interval"], endpoint["path"]), ("admin", "15s", "/metrics"))


@test
def the_worker_makes_tool_jobs_in_the_namespace_that_is_prepared_for_them():
    env = env_of(pod_of(one("", "Deployment", "agent-worker"))["containers"][0])
    same((env["TOOL_EXECUTOR"], env["K8S_IN_CLUSTER"]), ("kubernetes", "true"))
    for kind, name in (("Role", "agent-job-spawner"), ("ResourceQuota", "agent-tool-jobs-quota"), ("LimitRange", "agent-tool-limits")):
        same(one("", kind, name)["metadata"]["namespace"], env["K8S_TOOL_NAMESPACE"], kind)


@test
def the_secret_reaches_both_programs_and_the_key_of_tokens_only_the_api():
    for name in ("agent-api", "agent-worker"):
        container = pod_of(one("", "Deployment", name))["containers"][0]
        same(container["envFrom"][0], {"secretRef": {"name": "agent-api-secrets"}}, name)
        assert len(container["env"]) == len(env_of(container)), f"{name}: a variable is named twice"
    same(env_of(pod_of(one("", "Deployment", "agent-worker"))["containers"][0])["JWT_SECRET"], "")
    api = env_of(pod_of(one("", "Deployment", "agent-api"))["containers"][0])
    for name in ("TAVILY_API_KEY", "SERPER_API_KEY", "BRAVE_API_KEY", "GITHUB_TOKEN", "LINEAR_API_KEY", "SLACK_BOT_TOKEN"):
        same(api[name], "", f"{name} is the worker's alone")


@test
def pods_outlive_the_grace_of_their_program():
    def default(name):
        return int(re.search(rf"^\| `{name}` \| \w+ \| `(\d+)`", (ROOT / "README.md").read_text(), re.M).group(1))
    assert pod_of(one("", "Deployment", "agent-worker"))["terminationGracePeriodSeconds"] > default("WORKER_SHUTDOWN_GRACE_SECONDS")
    for directory, name in (("", "agent-api"), ("base", "runtime")):
        assert pod_of(one(directory, "Deployment", name))["terminationGracePeriodSeconds"] > default("API_SHUTDOWN_GRACE_SECONDS")


@test
def quota_and_limits_hold_for_tools_only():
    quota = one("", "ResourceQuota", "agent-tool-jobs-quota")
    same(quota["spec"]["hard"], {"count/jobs.batch": "50", "requests.cpu": "25", "requests.memory": "50Gi"})
    same([thing["metadata"]["namespace"] for thing in rendered("") if thing["kind"] in ("ResourceQuota", "LimitRange")], ["agent-tools"] * 2)
    same([path.name for path, thing in raw() if thing["kind"] == "ResourceQuota"], ["resource-quota.yaml"])


@test
def tools_are_cut_off_and_agents_have_the_contracts_ports():
    deny = one("", "NetworkPolicy", "agent-tools-default-deny")["spec"]
    same(deny, {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    others = [thing["spec"] for thing in rendered("") if thing["kind"] == "NetworkPolicy" and thing["metadata"]["namespace"] == "agent-tools"
              and thing["metadata"]["name"] != "agent-tools-default-deny"]
    same(len(others), 1)
    same((others[0]["policyTypes"], [list(to) for to in others[0]["egress"][0]["to"]]), (["Egress"], [["ipBlock"]]))
    into, out = {}, set()
    for thing in rendered(""):
        if thing["kind"] == "NetworkPolicy" and thing["metadata"]["namespace"] == "agents":
            for rule in thing["spec"].get("ingress", []):
                into[rule["ports"][0]["port"]] = rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            out |= {port["port"] for rule in thing["spec"].get("egress", []) for port in rule["ports"]}
    same(into, {8000: "ingress-nginx", 9090: "monitoring"})
    same(out, {53, 5432, 6379, 443, 6443})


@test
def workers_scale_and_are_kept():
    spec = one("", "HorizontalPodAutoscaler", "agent-worker-hpa")["spec"]
    same((spec["minReplicas"], spec["maxReplicas"]), (2, 20))
    same({m["resource"]["name"]: m["resource"]["target"]["averageUtilization"] for m in spec["metrics"]}, {"cpu": 70, "memory": 80})
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    same((up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]), (60, 300))
    same([(p["type"], p["value"], p["periodSeconds"]) for p in up["policies"] + down["policies"]],
         [("Pods", 2, 60), ("Percent", 50, 60), ("Pods", 1, 120)])
    same(one("", "PodDisruptionBudget", "agent-worker-pdb")["spec"]["minAvailable"], 1)


@test
def alerts_of_the_worker_have_the_contracts_figures():
    rules = one("", "PrometheusRule", "agent-worker")["spec"]["groups"][0]["rules"]
    bounds = [(rule["expr"].rpartition(" ")[2], rule["for"]) for rule in rules]
    same(bounds, [("50", "5m"), ("200", "2m"), ("0.10", "5m"), ("0.25", "5m"), ("0", "1m"), ("300", "10m"), ("1", "5m"), ("0", "10m")])
    job = re.search(r'up\{job="([^"]+)"\}', " ".join(rule["expr"] for rule in rules)).group(1)
    assert one("", "Service", job), "Prometheus takes the Service's name for the job"


@test
def the_admission_policy_knows_our_jobs():
    for name in ("agent-tool-jobs", "agent-tool-images", "agent-tool-pods"):
        binding = one("", "ValidatingAdmissionPolicyBinding", name)["spec"]
        same(binding["policyName"], one("", "ValidatingAdmissionPolicy", name)["metadata"]["name"])
        same(binding["matchResources"]["namespaceSelector"]["matchLabels"], {"kubernetes.io/metadata.name": "agent-tools"})
        same(binding["validationActions"], ["Deny"])
        # Whom it is about: the account of the worker, whatever its namespace.
        condition = one("", "ValidatingAdmissionPolicy", name)["spec"]["matchConditions"][0]["expression"]
        account = re.search(r"matches\('([^']+)'\)", condition).group(1)
        assert re.match(account, "system:serviceaccount:agents:" + pod_of(one("", "Deployment", "agent-worker"))["serviceAccountName"]), account
    listed = one("", "ConfigMap", "agent-tool-images")["metadata"]
    reference = one("", "ValidatingAdmissionPolicyBinding", "agent-tool-images")["spec"]["paramRef"]
    same((reference["name"], reference["namespace"], reference["parameterNotFoundAction"]), (listed["name"], listed["namespace"], "Deny"))


@test
def limits_fit_the_largest_tool_and_the_longest_timeout():
    limits = one("", "LimitRange", "agent-tool-limits")["spec"]["limits"][0]
    same((limits["max"]["cpu"], limits["max"]["memory"], limits["max"]["ephemeral-storage"]), ("1", "1Gi", "2Gi"))
    same((limits["defaultRequest"]["cpu"], limits["defaultRequest"]["memory"]), ("100m", "128Mi"))
    # Longest timeout of a tool, and the reserve of its pod (AA-85, AA-93).
    assert f"<= {3600 + 120}" in str(one("", "ValidatingAdmissionPolicy", "agent-tool-jobs")["spec"]["validations"])


@test
def keda_counts_waiting_and_held_jobs():
    scaled = one("overlays/keda", "ScaledObject", "agent-worker")
    assert "pending" in str(scaled["spec"]["triggers"]) and "processing" in str(scaled["spec"]["triggers"])
    assert scaled["spec"]["minReplicaCount"] >= 1
    same(scaled["spec"]["scaleTargetRef"]["name"], one("", "Deployment", "agent-worker")["metadata"]["name"])
    same(scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"], "agent-worker-hpa")
    same(scaled["metadata"]["annotations"]["scaledobject.keda.sh/transfer-hpa-ownership"], "true")


@test
def gvisors_class_is_the_one_workers_are_told():
    settings_of = one("overlays/gvisor", "ConfigMap", "agent-worker-settings")
    same(settings_of["data"]["K8S_RUNTIME_CLASS"], one("overlays/gvisor", "RuntimeClass", "gvisor")["metadata"]["name"])
    reference = pod_of(one("", "Deployment", "agent-worker"))["containers"][0]["envFrom"][1]["configMapRef"]
    same((reference["name"], reference["optional"]), (settings_of["metadata"]["name"], True))


# --- The runtime service --------------------------------------------------------------------------------------------

def runtime_figures(directory):
    deployment, hpa = one(directory, "Deployment", "runtime"), one(directory, "HorizontalPodAutoscaler", "runtime")
    container = pod_of(deployment)["containers"][0]
    size = container["resources"]
    return {
        "namespace": deployment["metadata"].get("namespace"), "image": container["image"], "replicas": deployment["spec"]["replicas"],
        "hpa": (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]),
        "pdb": one(directory, "PodDisruptionBudget", "runtime")["spec"]["minAvailable"], "pool": env_of(container)["POOL_SIZE"],
        "size": tuple(str(size[kind][what]) for kind in ("requests", "limits") for what in ("cpu", "memory")),
    }


@test
def base_and_overlays_of_the_runtime_have_the_contracts_figures():
    wanted = {
        "base": (None, "agent-api:latest", 3, (3, 10), 2, "20", ("250m", "512Mi", "1", "1Gi")),
        "overlays/dev": ("openagents-dev", "agent-api:dev-latest", 1, (1, 3), 1, "10", ("100m", "256Mi", "500m", "512Mi")),
        "overlays/staging": ("openagents-staging", "agent-api:staging-latest", 2, (2, 6), 1, "20", ("200m", "384Mi", "1", "1Gi")),
        "overlays/prod": ("openagents", "agent-api:latest", 3, (3, 12), 2, "20", ("500m", "768Mi", "2", "2Gi")),
    }
    for directory, figures in wanted.items():
        same(tuple(runtime_figures(directory).values()), figures, directory)


@test
def the_runtime_is_probed_scaled_and_spread_as_told():
    deployment = one("base", "Deployment", "runtime")
    pod, container = pod_of(deployment), pod_of(deployment)["containers"][0]
    same(container["ports"], [{"name": "http", "containerPort": 4100, "protocol": "TCP"}])
    for probe, path, delay, period in (("readinessProbe", "/readyz", 10, 5), ("livenessProbe", "/healthz", 30, 10)):
        same(container[probe], {"httpGet": {"path": path, "port": "http"}, "initialDelaySeconds": delay, "periodSeconds": period,
                                "timeoutSeconds": 3, "failureThreshold": 6})
    env = env_of(container)
    same((env["API_SURFACES"], env["RUNTIME_BIND_ADDR"]), ("internal", "0.0.0.0:4100"))
    same((pod["serviceAccountName"], pod["terminationGracePeriodSeconds"]), ("runtime", 30))
    term = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]
    same(term["topologyKey"], "kubernetes.io/hostname")
    port = one("base", "Service", "runtime")["spec"]["ports"][0]
    same((port["port"], port["targetPort"]), (80, "http"))
    behavior = one("base", "HorizontalPodAutoscaler", "runtime")["spec"]["behavior"]
    same([(b["stabilizationWindowSeconds"], b["policies"]) for b in (behavior["scaleUp"], behavior["scaleDown"])],
         [(0, [{"type": "Percent", "value": 100, "periodSeconds": 30}]), (300, [{"type": "Percent", "value": 20, "periodSeconds": 60}])])
    keys = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    same(set(keys), {"DATABASE_URL", "REDIS_URL", "RUNTIME_SIGNATURE_SECRET"})
    same({key["name"] for key in keys.values()}, {"runtime-secrets"})


@test
def only_the_three_callers_reach_the_runtime():
    spec = one("base", "NetworkPolicy", "runtime-ingress")["spec"]
    same((spec["podSelector"], spec["policyTypes"], len(spec["ingress"])), ({"matchLabels": {"app": "runtime"}}, ["Ingress"], 1))
    same(spec["ingress"][0]["from"], [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "openagents-com"}}},
        {"namespaceSelector": {"matchLabels": {"openagents.io/control-plane": "true"}}},
        {"podSelector": {"matchLabels": {"openagents.io/runtime-http-client": "true"}}}])
    container = pod_of(one("base", "Deployment", "runtime"))["containers"][0]
    same(spec["ingress"][0]["ports"], [{"protocol": "TCP", "port": container["ports"][0]["containerPort"]}])


@test
def the_jobs_of_the_gate_are_as_told():
    wanted = {"runtime-migrate": (2, ["agent-api", "migrate"]), "runtime-smoke": (1, ["agent-api", "smoke"])}
    same({job["metadata"]["name"] for job in jobs()}, set(wanted))
    for job in jobs():
        spec, pod = job["spec"], pod_of(job)
        same((spec["backoffLimit"], pod["containers"][0]["command"]), wanted[job["metadata"]["name"]])
        same((spec["ttlSecondsAfterFinished"], pod["restartPolicy"], pod["serviceAccountName"]), (1800, "OnFailure", "runtime"))
    smoke = next(job for job in jobs() if job["metadata"]["name"] == "runtime-smoke")
    same(smoke["spec"]["template"]["metadata"]["labels"]["openagents.io/runtime-http-client"], "true")
    same(env_of(pod_of(smoke)["containers"][0])["SMOKE_BASE_URL"], "http://runtime.default.svc.cluster.local")


# --- All of them ----------------------------------------------------------------------------------------------------

@test
def every_pod_is_hardened():
    for thing in workloads():
        name, pod = thing["metadata"]["name"], pod_of(thing)
        same((pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]), (True, 1000), name)
        same((pod["securityContext"]["seccompProfile"], pod["enableServiceLinks"]), ({"type": "RuntimeDefault"}, False), name)
        for container in pod["containers"]:
            inner = container["securityContext"]
            same((inner["allowPrivilegeEscalation"], inner["readOnlyRootFilesystem"], inner["capabilities"]), (False, True, {"drop": ["ALL"]}), name)
            assert container["resources"]["requests"] and container["resources"]["limits"], name
        if thing["kind"] == "Deployment":
            same([mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]], ["/tmp"], name)
            same(pod["volumes"], [{"name": "tmp", "emptyDir": {}}], name)


@test
def every_variable_is_a_setting_and_every_key_of_a_secret_has_its_name():
    secrets = {"agent-api-secrets": set(one("", "Secret", "agent-api-secrets")["stringData"]),
               "runtime-secrets": {"DATABASE_URL", "REDIS_URL", "RUNTIME_SIGNATURE_SECRET"}}
    for thing in workloads():
        for container in pod_of(thing)["containers"]:
            assert set(env_of(container)) <= settings(), set(env_of(container)) - settings()
            for entry in container["env"]:
                if "secretKeyRef" in entry.get("valueFrom", {}):
                    reference = entry["valueFrom"]["secretKeyRef"]
                    same(reference["key"], entry["name"])
                    assert entry["name"] in secrets[reference["name"]], entry
    for thing in rendered("overlays/gvisor"):
        assert set(thing.get("data", {})) <= settings()


@test
def selectors_find_pods_and_ports_exist():
    for directory in ("", "base", "overlays/dev"):
        pods = {thing["spec"]["template"]["metadata"]["labels"]["app"]: pod_of(thing)["containers"][0] for thing in rendered(directory)
                if thing["kind"] == "Deployment"}
        for thing in rendered(directory):
            spec, name = thing.get("spec", {}), f"{thing['kind']} {thing['metadata']['name']}"
            if thing["kind"] == "Deployment":
                same(spec["selector"]["matchLabels"], thing["spec"]["template"]["metadata"]["labels"], name)
                container = pod_of(thing)["containers"][0]
                for probe in ("livenessProbe", "readinessProbe"):
                    same(container[probe]["httpGet"]["port"], container["ports"][0]["name"], name)
            if thing["kind"] == "Service":
                port = pods[spec["selector"]["app"]]["ports"][0]
                assert spec["ports"][0]["targetPort"] in (port["name"], port["containerPort"]), name
            if thing["kind"] == "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"]["app"] in pods, name
            if thing["kind"] == "HorizontalPodAutoscaler":
                assert one(directory, "Deployment", spec["scaleTargetRef"]["name"]), name
            if thing["kind"] == "ServiceMonitor":
                assert one(directory, "Service", spec["selector"]["matchLabels"]["app"]), name


# --- Alerts and dashboard -------------------------------------------------------------------------------------------

def rules():
    for path in (K8S / "prometheus-rule.yaml", K8S / "monitoring/runtime-alert-rules.yaml"):
        for group in yaml.safe_load(path.read_text())["spec"]["groups"]:
            yield from group["rules"]


def dashboard():
    return json.loads((K8S / "monitoring/runtime-ops-dashboard.json").read_text())


def queries():
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in dashboard()["panels"] for target in panel["targets"])
    yield from (trigger["metadata"]["query"] for trigger in one("overlays/keda", "ScaledObject", "agent-worker")["spec"]["triggers"])


def names_in(query):
    without_labels = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", query)
    return set(re.findall(r"\b((?:agent|runtime|stream|http|bus)_[a-z0-9_]+|up)\b", without_labels))


@test
def every_query_names_metrics_that_exist():
    for query in queries():
        assert names_in(query), f"no metric in {query}"
        for name in names_in(query) - {"up"}:
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert f'"{family}"' in sources(), f"{name} in {query} is no metric of ours"


@test
def every_label_in_a_query_exists():
    for query in queries():
        for label, _, values in re.findall(r'(\w+)(=~?)"([^"]*)"', query):
            if label == "job":
                continue
            assert f'"{label}"' in sources(), f"label {label} in {query}"
            # Status classes and the names of the lists are put together from parts.
            for value in re.findall(r"\w+", values):
                part = re.sub(r"^\d", "", value)
                assert f'"{part}"' in sources() or f"}}{part}" in sources() or label == "queue", f"{label}={value} in {query}"


@test
def every_alert_has_a_runbook():
    text = (ROOT / "docs/OPERATIONS_ALERTING.md").read_text()
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("docs/OPERATIONS_ALERTING.md") and anchor in anchors, rule["alert"]
        # What the runbook shows is what is evaluated.
        assert rule["expr"] in text, f"the runbook of {rule['alert']} shows another expression"


@test
def the_runtimes_alerts_have_the_contracts_bounds():
    found = [(rule["expr"].split(" ")[-2:], rule.get("for")) for rule in list(rules())[8:]]
    same([(" ".join(bound), hold) for bound, hold in found], [
        ("> 5", "10m"), ("> 0.02", "10m"), ("< 0.95", "15m"), ("> 0.05", "10m"), ("> 0.2", "10m"), ("> 25", "10m"), ("> 0.01", "10m"),
        ("> 3", None), ("> 0", None), ("> 0.01", "15m"), ("> 0.05", "10m")])


@test
def the_dashboard_has_a_panel_for_every_alert_of_the_runtime():
    board = dashboard()
    shown = {target["expr"] for panel in board["panels"] for target in panel["targets"] if target["expr"]}
    for rule in list(rules())[8:]:
        assert re.sub(r" [<>] [\d.]+$", "", rule["expr"]) in shown, rule["alert"]
    same(len({panel["id"] for panel in board["panels"]}), len(board["panels"]))
    assert all(panel["targets"] and panel["title"] for panel in board["panels"])


# --- Images ---------------------------------------------------------------------------------------------------------

def dockerfile(name):
    return (ROOT / f"Dockerfile.{name}").read_text()


@test
def images_need_nothing_of_buildkit_and_every_base_can_be_replaced():
    for name in ("api", "worker", "tools"):
        text = dockerfile(name)
        assert not re.search(r"--mount|<<|^# *syntax|--chmod|--link|^ARG TARGET", text, re.M), name
        for base in re.findall(r"^FROM (\S+)", text, re.M):
            argument = re.fullmatch(r"\$\{(\w+)\}", base)
            assert argument and re.search(rf"^ARG {argument.group(1)}=", text, re.M), f"{name}: {base}"
        assert "org.opencontainers.image.title" in text, name


@test
def images_hold_what_the_manifests_and_scripts_call():
    for name, program in (("api", "agent-api"), ("worker", "agent-worker")):
        text = dockerfile(name)
        for part in ("redis-tools", "postgresql-client", "/agent-api", "/agent-worker", "USER 1000", "HEALTHCHECK",
                     "API_BIND_ADDR=0.0.0.0:8000", "WORKER_ADMIN_ADDR=0.0.0.0:9090", f'CMD ["{program}"]'):
            assert part in text, f"Dockerfile.{name}: {part}"
    for part in ("bash", "python3", "nodejs", "git", "curl", "USER 10001", "+crt-static", 'ENTRYPOINT ["agent-tool-supervisor"]'):
        assert part in dockerfile("tools"), part


@test
def the_build_context_holds_what_the_builds_copy():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in ("api", "worker", "tools"):
        for line in re.findall(r"^COPY (?!--from)(.*)", dockerfile(name), re.M):
            for source in line.split()[:-1]:
                assert source in kept and (ROOT / source).exists(), f"Dockerfile.{name}: {source}"
    # What the sources take in from outside their own directory.
    for crate_file in (ROOT / "crates").rglob("src/**/*.rs"):
        for path in re.findall(r'include_str!\((?:concat!\()?"((?:\.\./)+[\w./-]*)', crate_file.read_text()):
            top = (crate_file.parent / path).resolve().relative_to(ROOT).parts[0]
            assert top in kept, f"{crate_file}: {path}"


@test
def compose_uses_names_of_settings_and_checks_every_server():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {"postgres", "redis", "store", "api", "worker"} <= set(services)
    same((services["postgres"]["image"], services["redis"]["image"]), ("postgres:15", "redis:7"))
    for name in ("postgres", "redis", "store", "api", "worker"):
        assert services[name]["healthcheck"]["test"], name
    for name in ("api", "worker"):
        assert set(services[name]["environment"]) <= settings(), set(services[name]["environment"]) - settings()


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
            traceback.print_exc(limit=3, file=sys.stdout)
    print(f"{len(chosen) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
