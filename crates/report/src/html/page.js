"use strict";
// Reading values off the charts: one cursor for all of them, by pointer or arrow keys.
const number = (v) => {
  const size = Math.abs(v);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return v.toExponential(2);
  const digits = Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(size || 1))));
  return v.toLocaleString("en", { maximumFractionDigits: digits, useGrouping: size >= 1e4 });
};
const make = (tag, parent, name) => {
  const element = document.createElement(tag);
  element.className = name;
  parent.append(element);
  return element;
};
const charts = [...document.querySelectorAll(".chart")].map((figure) => {
  const area = figure.querySelector(".area");
  const lines = [...figure.querySelectorAll("[data-points]")].map((path) => ({
    name: path.dataset.name,
    colour: [...path.classList].find((c) => /^c\d$/.test(c)),
    points: path.dataset.points.split(" ").map((p) => p.split(",").map(Number)),
  }));
  const [x0, x1, y0, y1] = ["x0", "x1", "y0", "y1"].map((k) => Number(figure.dataset[k]));
  const steps = [...new Set(lines.flatMap((l) => l.points.map((p) => p[0])))].sort((a, b) => a - b);
  return { figure, area, lines, x0, x1, y0, y1, steps, unit: figure.dataset.unit, axis: figure.dataset.axis, output: figure.querySelector("output"), drawn: [] };
});
// The point of a line nearest to a step; null where the line has ended or not begun by then.
const nearest = (points, x, slack) => {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle; else high = middle;
  }
  const best = x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
  return Math.abs(best[0] - x) <= slack || (x >= points[0][0] && x <= points[points.length - 1][0]) ? best : null;
};
const clear = () => charts.forEach((c) => {
  c.drawn.forEach((e) => e.remove());
  c.drawn = [];
  c.output.classList.remove("on");
});
const show = (x, reading) => {
  clear();
  for (const c of charts) {
    if (x < c.x0 || x > c.x1) continue;
    const left = 100 * (x - c.x0) / (c.x1 - c.x0);
    const cursor = make("div", c.area, "cursor");
    cursor.style.left = left + "%";
    c.drawn.push(cursor);
    const found = c.lines.map((l) => ({ l, p: nearest(l.points, x, (c.x1 - c.x0) / 20) })).filter((f) => f.p);
    for (const { l, p } of found) {
      const top = 100 * (1 - (p[1] - c.y0) / (c.y1 - c.y0));
      if (top < -1 || top > 101) continue;
      const point = make("div", c.area, "point " + l.colour);
      point.style.left = 100 * (p[0] - c.x0) / (c.x1 - c.x0) + "%";
      point.style.top = top + "%";
      c.drawn.push(point);
    }
    if (c !== reading) continue;
    c.output.replaceChildren();
    make("b", c.output, "").textContent = c.axis + " " + number(x);
    for (const { l, p } of found) {
      const at = p[0] === x ? "" : " (" + c.axis + " " + number(p[0]) + ")";
      const row = make("span", c.output, found.length > 1 ? "key " + l.colour : "");
      row.textContent = (c.lines.length > 1 ? l.name + ": " : "") + number(p[1]) + c.unit + at;
    }
    c.output.classList.add("on");
    const wide = c.area.offsetLeft + c.area.clientWidth * left / 100;
    c.output.style.left = left < 50 ? wide + 12 + "px" : "auto";
    c.output.style.right = left < 50 ? "auto" : c.figure.clientWidth - wide + 12 + "px";
    c.output.style.top = c.area.offsetTop + 6 + "px";
    c.at = x;
  }
};
for (const c of charts) {
  const move = (event) => {
    const box = c.area.getBoundingClientRect();
    const x = c.x0 + (c.x1 - c.x0) * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    show(c.steps.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a)), c);
  };
  c.area.addEventListener("pointermove", move);
  c.area.addEventListener("pointerdown", move);
  c.area.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && clear());
  c.figure.addEventListener("blur", clear);
  c.figure.addEventListener("keydown", (event) => {
    const last = c.steps.length - 1;
    const here = c.at === undefined ? last : c.steps.findIndex((s) => s >= c.at);
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") clear();
    if (to === undefined) return;
    event.preventDefault();
    show(c.steps[Math.min(last, Math.max(0, to))], c);
  });
}
