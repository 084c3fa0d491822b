"""What deploy/ asks of Prometheus, for the scripts that follow. The folder is the working directory; arguments: the
server's address."""

import base64
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request

import promql_parser as promql
import yaml
from PIL import Image

SERVER = sys.argv[1]
# Labels that a scrape adds to every series, as the ServiceMonitor does it.
INSTANCE = SERVER.removeprefix("http://")
TARGET = {"job": "occlude-serve", "instance": INSTANCE, "namespace": "default", "pod": "occlude-0"}
# What Grafana and prometheus-adapter put into queries.
VARIABLES = {
    "$__rate_interval": "10s", "$job": ".*", "$instance": ".*", "$model": ".*",
    "<<.Series>>": "occlude_queue_depth", "<<.GroupBy>>": "pod",
    "<<.LabelMatchers>>": 'namespace="default",pod=~"occlude-0"',
}


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query and "<<" not in query, f"an unknown variable: {query}"
    return query


def read(path):
    with open(path) as file:
        return json.load(file) if path.endswith(".json") else yaml.safe_load(file)


def rules():
    return [rule for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def targets():
    """Queries of the dashboard with their panels."""
    panels = read("grafana/occlude.json")["panels"]
    return [(panel, target) for panel in panels for target in panel.get("targets", [])]


def queries():
    """Every query in deploy/, by a name for messages."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for panel, target in targets():
        yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in read("grafana/occlude.json")["templating"]["list"]:
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            yield f"variable {variable['name']}", "count by (%s) (%s)" % (selector[2], selector[1])
    for rule in read("prometheus/adapter.yml")["rules"]:
        yield "adapter's series", rule["seriesQuery"]
        yield "adapter's metric", rule["metricsQuery"]


def children(node):
    """Nodes directly below one of a parsed query."""
    if isinstance(node, promql.Call):
        return node.args
    if isinstance(node, promql.MatrixSelector):
        return [node.vector_selector]
    below = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param")]
    return [one for one in below if one is not None]


def call(method, path, body=b"", kind="application/octet-stream"):
    request = urllib.request.Request(SERVER + path, body or None, {"content-type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def traffic(turn):
    """A request of each kind that the queries tell apart, with another picture each turn: answers are kept."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64 + turn, 64)).save(file, "PNG")
    picture = file.getvalue()
    points = {"points": [{"id": "a", "image": base64.b64encode(picture).decode()}]}
    for expected, method, path, *body in [
        ((200,), "POST", "/v1/embed", picture),
        ((200,), "POST", "/v1/embed", picture),
        ((200,), "POST", "/v1/analyze?mirror=true", picture),
        ((200,), "POST", "/v1/search?k=1", picture),
        ((415,), "POST", "/v1/embed", b"no picture"),
        ((200, 201), "PUT", "/v1/collections/c"),
        ((200,), "POST", "/v1/collections/c/points", json.dumps(points).encode(), "application/json"),
        ((200,), "POST", "/v1/collections/c/search?limit=1", picture),
    ]:
        status, answer = call(method, path, *body)
        assert status in expected, (path, status, answer)


def metrics():
    status, text = call("GET", "/metrics")
    assert status == 200, text
    return text
