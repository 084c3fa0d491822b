# Follows deployed.py: Prometheus' own tools judge metrics and rules, and a Prometheus that scrapes the server answers
# every query. The folder of the second argument takes its data.

import math
import socket
import subprocess
import time
import urllib.parse

FOLDER = sys.argv[2]
WAIT = 60


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Prometheus:
    def __init__(self):
        static = {"targets": [TARGET["instance"]], "labels": {k: TARGET[k] for k in ("namespace", "pod")}}
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": [os.path.abspath("prometheus/alerts.yml")],
            "scrape_configs": [{"job_name": TARGET["job"], "static_configs": [static]}],
        }
        with open(f"{FOLDER}/prometheus.yml", "w") as file:
            yaml.safe_dump(config, file)
        self.address = f"127.0.0.1:{free()}"
        self.log = open(f"{FOLDER}/prometheus.log", "w+")
        command = ["prometheus", f"--config.file={file.name}", f"--storage.tsdb.path={FOLDER}/data"]
        listen = f"--web.listen-address={self.address}"
        self.process = subprocess.Popen([*command, listen], stdout=self.log, stderr=self.log)

    def api(self, path, **parameters):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=WAIT) as answer:
            return json.load(answer)["data"]

    def values(self, query):
        result = self.api("query", query=query)["result"]
        return [float(sample["value"][1]) for sample in result]

    def wait(self, query):
        end = time.monotonic() + WAIT
        while True:
            try:
                if self.values(query):
                    return
            except OSError:
                pass
            self.log.seek(0)
            assert time.monotonic() < end and self.process.poll() is None, self.log.read()
            time.sleep(0.2)


COMPARISONS = (">", "<", "==", ">=", "<=")


def measured(query):
    """A query's parts without the comparisons with which alerts and panels choose."""

    def parts(node):
        if isinstance(node, promql.BinaryExpr) and str(node.op) in COMPARISONS:
            return [node.lhs]
        if isinstance(node, promql.BinaryExpr) and str(node.op) == "and":
            return parts(node.lhs) + parts(node.rhs)
        return [node]

    return [str(part) for part in parts(promql.parse(query))]


run("promtool", "check", "metrics", input=metrics())
traffic(0)
said = run("promtool", "check", "metrics", input=metrics())
assert not said.strip(), said
run("promtool", "check", "rules", "prometheus/alerts.yml")
run("promtool", "test", "rules", "alerts_test.yml", cwd="prometheus")

prometheus = Prometheus()
try:
    prometheus.wait("occlude_build_info")
    # Rates need samples before and after.
    for turn in range(1, 5):
        traffic(turn)
        time.sleep(1)
    prometheus.wait("occlude:request_seconds:p99_5m")
    empty, odd = [], []
    for name, query in queries():
        for part in measured(filled(query)):
            values = prometheus.values(part)
            if not values:
                empty.append(f"{name}: {part}")
            elif all(math.isnan(value) for value in values) or any(value < 0 for value in values):
                odd.append(f"{name}: {part}: {values}")
    # That nothing is absent has no value.
    assert [one.partition(":")[0] for one in empty] == ["OccludeAbsent"], "without an answer:\n" + "\n".join(empty)
    assert not odd, "\n".join(odd)
    groups = prometheus.api("rules")["groups"]
    judged = [rule for group in groups for rule in group["rules"]]
    assert len(judged) == len(rules()), judged
    assert all(rule["health"] == "ok" for rule in judged), [rule.get("lastError") for rule in judged]
    firing = [alert["labels"] for alert in prometheus.api("alerts")["alerts"] if alert["state"] == "firing"]
    assert not firing, firing

    # Figures, not only answers: what was sent is what is counted.
    value, = prometheus.values('sum(occlude_requests_total{route="/v1/analyze",status="200"})')
    assert value == 5, value
    value, = prometheus.values("sum(occlude_ready)")
    assert value == 1, value
finally:
    prometheus.process.terminate()
    prometheus.process.wait(WAIT)
print(f"{len(list(queries()))} queries, {len(judged)} rules")
