/* The set of examples: pictures to be like, and pictures to be unlike. */

import { $, el, tell } from "./dom.js";
import { ask, Failure, json, of, readJson, thumbnail } from "./api.js";
import { headersOf } from "./send.js";
import { state } from "./state.js";

/* How much of the unlike examples is taken off the like ones (Rocchio's formula, with equal weights in each set). */
const AGAINST = 0.5;

/* Called when the set has changed: set once, by main.js. */
export const changed = { call: () => {} };

const same = (a, b) => (a.point && b.point ? a.point.id === b.point.id && a.point.collection === b.point.collection : a.name === b.name);

/* Adds an example: {name, sign, thumb}, and a `point`, a `blob`, or how to `fetch` one; the same one with another sign changes sides. */
export function addExample(example) {
  state.examples = [...state.examples.filter((e) => !same(e, example)), example];
  tell((example.sign > 0 ? "More like " : "Less like ") + example.name + ": " + state.examples.length + " examples");
  list();
}

/* Adds the picture on show. */
export function addShown(sign) {
  const { shown } = state;
  if (!shown) return;
  if (!shown.point && !shown.bitmap) return;
  if (shown.box) {
    tell("An example is a whole picture: take the box away first");
    return;
  }
  const thumb = shown.thumb ? shown.thumb.toDataURL("image/jpeg", 0.8) : null;
  addExample({ name: shown.name, thumb, sign, ...(shown.point ? { point: shown.point } : { blob: shown.small || shown.blob }) });
}

export function clearExamples() {
  state.examples = [];
  list();
}

function list() {
  $("examples").hidden = !state.examples.length;
  $("set").replaceChildren(...state.examples.map((example) => {
    const remove = () => {
      state.examples = state.examples.filter((e) => e !== example);
      list();
    };
    const words = (example.sign > 0 ? "more like " : "less like ") + example.name;
    const button = el("button", { title: words + ": take it away", ariaLabel: words + ": take it away", on: { click: remove } });
    if (example.thumb) button.append(shownAs(example.thumb));
    button.append(el("b", { textContent: example.sign > 0 ? "+" : "−" }), example.thumb ? "" : example.name);
    return el("li", { className: example.sign > 0 ? "like" : "unlike" }, button);
  }));
  changed.call();
}

/* A thumbnail: a data URL, or a path of the server. */
function shownAs(thumb) {
  const img = el("img", { alt: "" });
  if (thumb.startsWith("data:")) img.src = thumb;
  else thumbnail(thumb, img);
  return img;
}

/* One vector for all examples: the mean of those to be like, less a part of the mean of the others. */
export async function mixture({ name, identity, dim }) {
  /* Those of now: the list may change while the server is asked. */
  const { examples } = state;
  if (!examples.some((e) => e.sign > 0)) throw new Failure("There is nothing to be like", "add a picture with + first");
  const vectors = await Promise.all(examples.map((e) => vectorOf(e, name, identity)));
  const sum = new Float64Array(dim);
  for (const sign of [1, -1]) {
    const side = vectors.filter((_, i) => examples[i].sign === sign);
    for (const v of side) {
      const length = Math.hypot(...v) || 1, weight = (sign > 0 ? 1 : -AGAINST) / side.length;
      v.forEach((x, i) => { sum[i] += weight * x / length; });
    }
  }
  return [...sum];
}

async function vectorOf(example, name, identity) {
  if (example.point && example.point.collection === name) {
    const { points } = await json(of(name, "/points/scroll"), { ids: [example.point.id], with_vector: true, with_payload: false });
    if (points.length) return points[0].vector;
    throw new Failure("The example " + example.name + " is no longer in " + name, "take it away");
  }
  const model = state.server.models.find((m) => m.identity === identity);
  if (!example.blob && !example.fetch) throw new Failure("The example " + example.name + " is of another collection than " + name, "take it away, or choose where it comes from");
  if (!model) throw new Failure("The model of " + name + " is not served", "take the examples away that are pictures");
  example.blob = example.blob || await example.fetch();
  const headers = headersOf(example, "application/json");
  const asked = ask("/v1/embed?" + new URLSearchParams({ model: model.name }), { method: "POST", headers, body: example.blob });
  return (await readJson(asked)).results[0].embedding;
}
