/* Conditions on payloads, as the collections' filters take them. */

import { $, el, options } from "./dom.js";
import { sample } from "./sample.js";
import { collection, state } from "./state.js";

const WORDS = { is: "is", not: "is not", gte: "at least", lte: "at most", has: "is there", lacks: "is missing" };
const VALUELESS = ["has", "lacks"];

/* Called when the conditions have changed: set once, by main.js. */
export const applied = { call: () => {} };

let facets = new Map();

/* The conditions as a filter of the API; null where there are none. Several values of one key are alternatives. */
export function asFilter() {
  const must = [], must_not = [], keys = [...new Set(state.filters.map((f) => f.key))];
  for (const key of keys) {
    const of = (op) => state.filters.filter((f) => f.key === key && f.op === op).map((f) => f.value);
    const is = of("is"), gte = of("gte"), lte = of("lte");
    if (is.length === 1) must.push({ key, match: is[0] });
    if (is.length > 1) must.push({ key, any: is });
    if (gte.length || lte.length) {
      must.push({ key, range: { ...(gte.length && { gte: Math.max(...gte) }), ...(lte.length && { lte: Math.min(...lte) }) } });
    }
    if (of("has").length) must.push({ key, exists: true });
    if (of("lacks").length) must.push({ key, exists: false });
    must_not.push(...of("not").map((match) => ({ key, match })));
  }
  if (!must.length && !must_not.length) return null;
  return { ...(must.length && { must }), ...(must_not.length && { must_not }) };
}

/* Fills the form from what the payloads hold; conditions of another collection go. */
export async function refresh(keep) {
  const shown = collection();
  $("filters").hidden = !shown || !shown.count;
  if (!keep) state.filters = [];
  chips();
  if (!shown) return;
  const found = await sample().catch(() => ({ facets: new Map() }));
  if (!collection() || collection().name !== shown.name) return;
  facets = found.facets;
  $("filters").hidden = !facets.size;
  options($("filter-key"), [...facets.keys()].sort((a, b) => worth(a) - worth(b) || a.localeCompare(b)).map((k) => [k, k]));
  operators();
}

/* Keys that sort pictures come first, those that every picture has its own value of last. */
function worth(key) {
  const { type, values } = facets.get(key);
  return (type === "number" ? 1 : 0) + (["path", "bytes", "modified"].includes(key) || values.size > 60 ? 2 : 0);
}

function operators() {
  const facet = facets.get($("filter-key").value), numeric = facet && facet.type === "number";
  options($("filter-op"), Object.entries(WORDS).filter(([op]) => numeric || (op !== "gte" && op !== "lte")));
  const order = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  const list = facet ? [...facet.values].sort(order).slice(0, 200) : [];
  $("filter-values").replaceChildren(...list.map((v) => el("option", { value: String(v) })));
  $("filter-value").inputMode = numeric ? "decimal" : "text";
  $("filter-value").hidden = VALUELESS.includes($("filter-op").value);
  /* A field that is hidden and not valid keeps the form from being sent without a word. */
  $("filter-value").setCustomValidity("");
}

/* What was written, as the kind of value that the key has. */
function typed(text, facet) {
  if (facet.type === "number") return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : undefined;
  if (facet.type === "boolean") return { true: true, false: false }[text.trim().toLowerCase()];
  return text === "" ? undefined : text;
}

function add() {
  const key = $("filter-key").value, op = $("filter-op").value, facet = facets.get(key);
  if (!facet) return;
  const value = VALUELESS.includes(op) ? null : typed($("filter-value").value, facet);
  $("filter-value").setCustomValidity(value === undefined ? (facet.type === "number" ? "A number, please." : "A value, please.") : "");
  if (value === undefined) {
    $("filter-value").reportValidity();
    return;
  }
  state.filters = [...state.filters.filter((f) => f.key !== key || f.op !== op || f.value !== value), { key, op, value }];
  $("filter-value").value = "";
  chips();
  applied.call();
}

function chips() {
  $("chips").replaceChildren(...state.filters.map((filter) => {
    const words = filter.key + " " + WORDS[filter.op] + (filter.value === null ? "" : " " + filter.value);
    const remove = () => {
      state.filters = state.filters.filter((f) => f !== filter);
      chips();
      $("filter-key").focus();
      applied.call();
    };
    return el("li", {}, el("button", { className: "chip", ariaLabel: words + ": take it away", textContent: words + " ×", on: { click: remove } }));
  }));
}

export function start() {
  $("filter-key").addEventListener("change", operators);
  $("filter-op").addEventListener("change", operators);
  $("filter-value").addEventListener("input", () => $("filter-value").setCustomValidity(""));
  $("filters").addEventListener("submit", (e) => {
    e.preventDefault();
    add();
  });
}
