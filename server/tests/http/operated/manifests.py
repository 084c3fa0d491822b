"""The manifests of deploy/kubernetes fit the schemas of Kubernetes, each other, and the server. The folder is the
working directory; arguments: the server's address, the program."""

import re
import subprocess
import sys
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

SERVER, PROGRAM = sys.argv[1:3]
# The oldest release with all that is used, and the newest that the package knows.
RELEASES = ("1.30", kubernetes_validate.latest_version())
# Of the Prometheus operator and of kustomize: Kubernetes has no schema of theirs.
FOREIGN = {"ServiceMonitor", "Kustomization"}
FLUSH = 5


def read(name):
    with open(f"kubernetes/{name}") as file:
        return yaml.safe_load(file)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def status(path):
    try:
        return urllib.request.urlopen(SERVER + path, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def flags(*command):
    text = subprocess.run([PROGRAM, *command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z0-9-]+", text))


kustomization = read("kustomization.yaml")
names = [*kustomization["resources"], "embed-job.yaml"]
manifests = {manifest["kind"]: manifest for manifest in map(read, names)}
assert len(manifests) == len(names)
for kind, manifest in manifests.items():
    for release in RELEASES if kind not in FOREIGN else ():
        kubernetes_validate.validate(manifest, release, strict=True)
# A schema that takes anything would say nothing.
try:
    kubernetes_validate.validate(manifests["Service"] | {"spec": {"prots": []}}, RELEASES[0], strict=True)
    raise SystemExit("the schema does not notice a wrong key")
except kubernetes_validate.ValidationError:
    pass

deployment, service, monitor = (manifests[kind] for kind in ("Deployment", "Service", "ServiceMonitor"))
pod = deployment["spec"]["template"]["spec"]
container, = pod["containers"]
environment = {one["name"]: one.get("value") for one in container["env"]}

# Who selects whom.
labels = deployment["spec"]["template"]["metadata"]["labels"]
budget, scaler = manifests["PodDisruptionBudget"]["spec"], manifests["HorizontalPodAutoscaler"]["spec"]
selectors = [one["selector"]["matchLabels"] for one in (deployment["spec"], budget)]
for selector in [*selectors, service["spec"]["selector"]]:
    assert selector.items() <= labels.items(), selector
assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
target = scaler["scaleTargetRef"]
assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
assert scaler["minReplicas"] > budget["minAvailable"], "a node could never be emptied"
ports = {port["name"] for port in container["ports"]}
endpoint, = monitor["spec"]["endpoints"]
assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
# Alerts find the servers by the job, which is the name of the Service.
assert "occlude" in service["metadata"]["name"]

# What is scaled on is what prometheus-adapter is told to make.
metric, = scaler["metrics"]
rules = yaml.safe_load(open("prometheus/adapter.yml"))["rules"]
assert metric["pods"]["metric"]["name"] in {rule["name"]["as"] for rule in rules}

# Probes ask for what the server has.
paths = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
assert all(path["port"] in ports for path in paths)
for path in [path["path"] for path in paths] + [endpoint["path"]]:
    assert status(path) == 200, path
assert status("/nowhere") == 404

# Settings are the server's, and the end leaves the time that it may take.
known = flags()
for name in environment:
    flag = "--" + name.removeprefix("OCCLUDE_SERVE_").lower().replace("_", "-")
    assert flag in known, f"{name}: the server has no {flag}"
asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
drain = seconds(environment["OCCLUDE_SERVE_DRAIN_TIMEOUT"])
assert pod["terminationGracePeriodSeconds"] >= asleep + drain + FLUSH + 5
probe = container["readinessProbe"]
assert asleep > probe["periodSeconds"] * probe["failureThreshold"], "readiness would be known too late"

# Every mount has its volume, and models lie in one.
job = manifests["Job"]["spec"]
for spec in (pod, job["template"]["spec"]):
    one, = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert one["securityContext"]["readOnlyRootFilesystem"] and "/tmp" in mounts.values()
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
assert environment["OCCLUDE_SERVE_MODEL"].partition("=")[2].startswith("/models/")

# The job does all parts, each once.
embed, = job["template"]["spec"]["containers"]
assert embed["args"][0] == "embed"
assert job["completionMode"] == "Indexed"
assert embed["args"][embed["args"].index("--shards") + 1] == str(job["completions"])
used = {argument for argument in embed["args"] if argument.startswith("--")}
assert used <= flags("embed"), used - flags("embed")
print(f"{len(manifests)} manifests")
