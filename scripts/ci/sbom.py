"""CycloneDX from `cargo metadata` and Cargo.lock: python3 sbom.py METADATA LOCK. What only tests and builds use is left out."""
import json
import re
import sys

PROGRAMS = ("api", "worker", "tool-supervisor")


def reached(metadata):
    """Ids of all packages that a program is linked with, and what each of them depends on."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    waiting = [member for member in metadata["workspace_members"] if names[member] in PROGRAMS]
    edges = {}
    while waiting:
        current = waiting.pop()
        if current in edges:
            continue
        linked = [dep["pkg"] for dep in nodes[current]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        edges[current] = linked
        waiting += linked
    return edges


def checksums(lock):
    found = re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]{64})"', lock)
    return {(name, version): checksum for name, version, checksum in found}


def component(package, sums):
    name, version = package["name"], package["version"]
    entry = {"type": "library", "bom-ref": f"pkg:cargo/{name}@{version}", "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
    if package.get("license"):
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package.get("repository"):
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    if (name, version) in sums:
        entry["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    return entry


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        metadata = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        sums = checksums(file.read())
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = reached(metadata)

    def reference(identifier):
        return f"pkg:cargo/{packages[identifier]['name']}@{packages[identifier]['version']}"
    order = sorted(edges, key=reference)
    version = next(package["version"] for package in packages.values() if package["name"] == "api")
    print(json.dumps({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "name": "agent-runtime", "version": version}},
        "components": [component(packages[identifier], sums) for identifier in order],
        "dependencies": [{"ref": reference(identifier), "dependsOn": sorted({reference(other) for other in edges[identifier]})} for identifier in order],
    }, indent=1))


if __name__ == "__main__":
    main()
