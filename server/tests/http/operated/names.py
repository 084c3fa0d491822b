# Follows deployed.py: everything that a query selects is in /metrics, every label that it groups by or shows as well.


def series(text):
    """Name and labels of every sample."""
    label = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rsplit(" ", 1)[0].partition("{")
            yield name, dict(label.findall(labels)) | TARGET


MATCHES = {
    "=": lambda value, other: value == other,
    "!=": lambda value, other: value != other,
    "=~": lambda value, other: re.fullmatch(other, value) is not None,
    "!~": lambda value, other: re.fullmatch(other, value) is None,
}


def operator(matcher):
    return {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}[str(matcher.op).split(".")[-1]]


def selected(selector, known):
    """Labels of what a selector finds."""
    matchers = [(m.name, MATCHES[operator(m)], m.value) for m in selector.matchers.matchers]
    found = [
        labels
        for name, labels in known
        if name == selector.name and all(test(labels.get(label, ""), value) for label, test, value in matchers)
    ]
    assert found, f"the server has nothing like `{selector}`"
    return set().union(*found)


def labels(node, known):
    """Labels that the result of a query may have; whatever the query names has to be there."""
    if isinstance(node, promql.VectorSelector):
        return selected(node, known)
    below = set().union(*(labels(child, known) for child in children(node)))
    if not isinstance(node, promql.AggregateExpr):
        return below
    if node.modifier is None:
        return set()
    assert node.modifier.type == promql.AggModifierType.By, f"`without` is not followed here: {node}"
    kept = set(node.modifier.labels)
    assert kept <= below, f"`{node.expr}` has no label {kept - below}"
    return kept


def recorded(known):
    """What rules record, as series of their own."""
    for rule in rules():
        if "record" in rule:
            found = labels(promql.parse(filled(rule["expr"])), known)
            known.append((rule["record"], {name: "x" for name in found}))


traffic(0)
known = list(series(metrics()))
known.append(("up", dict(TARGET)))
recorded(known)

count, faults = 0, []
for name, query in queries():
    try:
        labels(promql.parse(filled(query)), known)
    except (AssertionError, ValueError) as error:
        faults.append(f"{name}: {error}")
    count += 1
for panel, target in targets():
    shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", "")))
    try:
        missing = shown - labels(promql.parse(filled(target["expr"])), known)
        assert not missing, f"{missing} is shown and not there"
    except (AssertionError, ValueError) as error:
        faults.append(f"{panel['title']}: {error}")
for rule in rules():
    said = json.dumps(rule.get("annotations", {}))
    missing = set(re.findall(r"\$labels\.(\w+)", said)) - labels(promql.parse(filled(rule["expr"])), known)
    if missing:
        faults.append(f"{rule['alert']}: {missing} is told and not there")
assert not faults, "\n".join(sorted(set(faults)))
assert count > 50, count

fired = set(re.findall(r'alertname="(\w+)"', open("prometheus/alerts_test.yml").read()))
alerts = {rule["alert"] for rule in rules() if "alert" in rule}
assert alerts == fired, f"alerts without a test, or tests without an alert: {alerts ^ fired}"

# A panel has its place, and no other one has it.
taken, ids = set(), set()
for panel in read("grafana/occlude.json")["panels"]:
    place, one = panel["gridPos"], panel["id"]
    cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
    assert not cells & taken and place["x"] + place["w"] <= 24 and one not in ids, panel["title"]
    taken |= cells
    ids.add(one)
print(f"{count} queries, {len(alerts)} alerts")
