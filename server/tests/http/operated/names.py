# Follows deployed.py: everything that a query selects is in /metrics, every label that it groups by or shows as well.


def series(text):
    """Name and labels of every sample."""
    label = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rsplit(" ", 1)[0].partition("{")
            yield name, dict(label.findall(labels)) | TARGET


PATTERNS = (promql.MatchOp.Re, promql.MatchOp.NotRe)


def fits(matcher, labels):
    value = labels.get(matcher.name, "")
    equal = re.fullmatch(matcher.value, value) is not None if matcher.op in PATTERNS else matcher.value == value
    return equal == (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re))


def selected(selector, known):
    """Labels of what a selector finds; each alternative of a pattern has to be known as well."""
    matchers = selector.matchers.matchers
    found = [labels for name, labels in known if name == selector.name and all(fits(m, labels) for m in matchers)]
    assert found, f"the server has nothing like `{selector}`"
    there = set().union(*found)
    for matcher in matchers:
        assert matcher.name in there, f"`{selector.name}` has no label `{matcher.name}`"
        values = {labels.get(matcher.name, "") for _, labels in known}
        for pattern in matcher.value.split("|") if matcher.op in PATTERNS else ():
            assert any(re.fullmatch(pattern, value) for value in values), f"no {matcher.name} is like `{pattern}`"
    return there


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
told = set(re.findall(r"Occlude[A-Z]\w+", open("../docs/operating.md").read()))
assert alerts == told, f"docs/operating.md and the rules differ: {alerts ^ told}"

# A panel has its place, and no other one has it.
taken, ids = set(), set()
for panel in read("grafana/occlude.json")["panels"]:
    place, one = panel["gridPos"], panel["id"]
    cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
    assert not cells & taken and place["x"] + place["w"] <= 24 and one not in ids, panel["title"]
    taken |= cells
    ids.add(one)
print(f"{count} queries, {len(alerts)} alerts")
