/* The map of a collection: its points in two dimensions, coloured, picked and opened. */

import { $, el, number, options, tell } from "./dom.js";
import { below, fail, Failure, json, key, of } from "./api.js";
import { asFilter } from "./filters.js";
import { blobOf, pictureOf, title } from "./payload.js";
import { COLOURS, Plot } from "./plot.js";
import { opens, pointCard } from "./results.js";
import { sample } from "./sample.js";
import { collection } from "./state.js";

/* Groups with a colour of their own, the values of a key that are counted for it, and the cards of a selection. */
const GROUPS = COLOURS.length - 1, VALUES = 40, CARDS = 60;
/* Payloads that are remembered. */
const REMEMBERED = 300;

/* Workers are made of addresses of this policy only, and it lets one pass. */
const script = { createScriptURL: (path) => (path === "page/project.js" ? below(path) : "") };
const policy = window.trustedTypes ? trustedTypes.createPolicy("occlude", script) : script;

let plot = null, worker = null;
/* What is on the map: {of, ids, index, layouts}. */
let drawn = null;
/* Payloads that were asked for. */
const payloads = new Map();

/* Shows the map of what is chosen. It is made once, and `again` where somebody asks for it. */
export function map(again = false) {
  const chosen = collection(), wanted = chosen ? chosen.name + " " + chosen.created : null;
  $("map-note").hidden = Boolean(chosen && chosen.count > 2);
  $("map-note").textContent = chosen ? "A map needs at least three points." : "Maps are drawn of collections: choose one at the top, where this server has any.";
  $("map-card").hidden = !$("map-note").hidden;
  $("map-again").hidden = !drawn || !chosen || drawn.of !== wanted || drawn.count === chosen.count;
  if (drawn && drawn.of === wanted && !again) return highlight();
  $("map-again").hidden = true;
  if (worker) worker.terminate();
  drawn = null;
  payloads.clear();
  $("map-near").replaceChildren();
  $("map-chosen").textContent = "";
  if (!$("map-card").hidden) make(chosen, wanted);
}

function make(chosen, wanted) {
  drawn = { of: wanted, name: chosen.name, count: chosen.count, ids: [], index: null, layouts: {} };
  plot = plot || new Plot($("plot"), { pick, open, selected });
  empty();
  colourings();
  worker = new Worker(policy.createScriptURL("page/project.js"));
  worker.onmessage = ({ data }) => heard(data, chosen);
  worker.onerror = (e) => heard({ type: "failed", message: e.message || "The map's worker stopped" }, chosen);
  worker.postMessage({ url: below(of(chosen.name, "/points/scroll")), key: key(), dim: chosen.dim, count: chosen.count });
  progress("Reading vectors", 0);
}

/* Takes the points away, and what told them apart. */
function empty() {
  plot.groups = plot.lit = null;
  plot.show(new Float32Array(0));
  $("legend").replaceChildren();
}

function progress(words, share) {
  $("map-busy").hidden = words === null;
  $("map-words").textContent = words || "";
  if (share === undefined) $("map-bar").removeAttribute("value");
  else $("map-bar").value = share;
}

function heard(data, chosen) {
  if (data.type === "read") {
    for (const id of data.ids) drawn.ids.push(id);
    progress("Reading vectors: " + number(data.done) + " of " + number(chosen.count), data.done / chosen.count);
  } else if (data.type === "progress") {
    progress(data.words);
  } else if (data.type === "sketched") {
    plot.groups = plot.lit = null;
    plot.show(data.xy);
    colour();
  } else if (data.type === "laid") {
    const first = !Object.keys(drawn.layouts).length;
    drawn.layouts[data.layout] = data.xy;
    if (first) {
      plot.groups = null;
      drawn.index = new Map(drawn.ids.map((id, i) => [id, i]));
      colour();
      highlight();
    }
    if (first || $("layout").value === data.layout) lay();
  } else if (data.type === "done") {
    progress(null);
    worker.terminate();
    tell("The map of " + number(drawn.ids.length) + " points is drawn");
  } else {
    progress(null);
    worker.terminate();
    drawn = null;
    empty();
    fail(new Failure(data.message, data.hint, data.id, data.status));
  }
}

/* Shows the layout that is chosen, or the one that is there. */
function lay() {
  const xy = drawn && (drawn.layouts[$("layout").value] || drawn.layouts.axes);
  if (xy) plot.show(xy);
}

/* The keys that points can be coloured by. */
async function colourings() {
  const mine = drawn, { facets, points } = await sample().catch(() => ({ facets: new Map(), points: [] }));
  if (mine !== drawn) return;
  const keys = [...facets].filter(([, f]) => f.type !== "number" && f.values.size > 1 && f.values.size <= VALUES).map(([k]) => k);
  const folders = points.some(({ id }) => id.includes("/"));
  options($("colour"), [["", "nothing"], ...(folders ? [["/", "folder of the id"]] : []), ...keys.map((k) => ["." + k, k])]);
  if (folders) $("colour").value = "/";
  else if (keys.length) $("colour").value = "." + keys[0];
  colour();
}

/* Gives each point the colour of its group. */
async function colour() {
  const mine = drawn, by = $("colour").value;
  /* Colours by folder need nobody to be asked: a sketch has them, too. */
  if (!mine || (!mine.index && by !== "/")) return;
  try {
    const groups = by === "" ? [] : by === "/" ? folders(mine.ids) : await byKey(mine, by.slice(1));
    if (mine !== drawn || by !== $("colour").value) return;
    plot.groups = by === "" ? null : new Uint8Array(mine.ids.length).fill(GROUPS);
    const named = groups.slice(0, GROUPS);
    named.forEach(({ members }, g) => { for (const i of members) plot.groups[i] = g; });
    const rest = by === "" ? 0 : mine.ids.length - named.reduce((n, g) => n + g.members.length, 0);
    legend([...named, ...(rest ? [{ name: "everything else", members: { length: rest } }] : [])]);
    plot.draw();
  } catch (error) { fail(error); }
}

/* Groups by what stands before the first slash of the id, the largest first. */
function folders(ids) {
  const groups = new Map();
  ids.forEach((id, i) => {
    const name = id.includes("/") ? id.slice(0, id.indexOf("/")) : "";
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  });
  return [...groups].map(([name, members]) => ({ name: name || "no folder", members })).sort((a, b) => b.members.length - a.members.length);
}

/* Groups by the values of a key: the server is asked for the points of each, without their payloads. */
async function byKey(mine, name) {
  const { facets } = await sample(), groups = [];
  const counted = await Promise.all([...facets.get(name).values].map(async (value) => {
    const { count } = await json(of(mine.name, "/count"), { filter: { must: [{ key: name, match: value }] } });
    return { value, count };
  }));
  counted.sort((a, b) => b.count - a.count);
  for (const { value } of counted.slice(0, GROUPS)) {
    groups.push({ name: String(value), members: await members(mine, { must: [{ key: name, match: value }] }) });
  }
  return groups;
}

/* Places of the points that fit a filter. */
async function members(mine, filter) {
  const found = [];
  for (let after; after !== null;) {
    const page = await json(of(mine.name, "/points/scroll"), { filter, with_payload: false, ...(after && { after }) });
    for (const { id } of page.points) if (mine.index.has(id)) found.push(mine.index.get(id));
    after = page.next;
    if (mine !== drawn) break;
  }
  return found;
}

/* The groups with their colours; one that is pressed stands out. */
function legend(groups) {
  $("legend").replaceChildren(...groups.map(({ name, members: { length } }, g) => {
    const rest = name === "everything else", button = el("button", { className: "chip", attrs: { "aria-pressed": "false" } });
    const dot = el("i");
    dot.style.background = COLOURS[rest ? GROUPS : g];
    button.append(dot, name + " (" + number(length) + ")");
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "true";
      for (const b of $("legend").querySelectorAll("button")) b.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!on));
      plot.lit = on ? null : Uint8Array.from(plot.groups, (v) => Number(v === (rest ? GROUPS : g)));
      plot.draw();
    });
    return el("li", {}, button);
  }));
}

/* Points that do not fit the filter step back. */
async function highlight() {
  const mine = drawn, filter = asFilter();
  if (!mine || !mine.index) return;
  if (!filter) {
    plot.lit = null;
    return plot.draw();
  }
  try {
    const lit = new Uint8Array(mine.ids.length);
    for (const i of await members(mine, filter)) lit[i] = 1;
    if (mine !== drawn || JSON.stringify(asFilter()) !== JSON.stringify(filter)) return;
    plot.lit = lit;
    plot.draw();
  } catch (error) { fail(error); }
}

/* The payload of a point, asked for once. */
async function payload(id) {
  const mine = drawn;
  if (!payloads.has(id)) {
    if (payloads.size >= REMEMBERED) payloads.clear();
    const { points } = await json(of(mine.name, "/points/scroll"), { ids: [id] });
    payloads.set(id, points.length ? points[0].payload : {});
  }
  return payloads.get(id) || {};
}

let wait = 0;

/* Shows what is under the pointer. */
function pick(index, x = 0, y = 0) {
  clearTimeout(wait);
  $("tip").hidden = index < 0 || !drawn;
  if (index < 0 || !drawn) return;
  const id = drawn.ids[index], tip = $("tip"), right = x > $("plot").clientWidth / 2, low = y > $("plot").clientHeight / 2;
  tip.style.left = right ? "auto" : x + 16 + "px";
  tip.style.right = right ? $("plot").clientWidth - x + 16 + "px" : "auto";
  tip.style.top = low ? "auto" : y + 16 + "px";
  tip.style.bottom = low ? $("plot").clientHeight - y + 16 + "px" : "auto";
  $("tip-name").textContent = id;
  $("tip-picture").hidden = true;
  wait = setTimeout(async () => {
    const found = await payload(id).catch(() => ({})), source = pictureOf(found);
    if (!drawn || drawn.ids[plot.hot] !== id) return;
    $("tip-name").textContent = title(id, found) === id ? id : title(id, found) + " · " + id;
    $("tip-picture").hidden = !source;
    if (source) $("tip-picture").src = source;
    if ($("plot").matches(":focus-visible")) tell(id);
  }, 60);
}

async function open(index) {
  if (!drawn) return;
  const id = drawn.ids[index], name = drawn.name;
  try {
    const found = await payload(id), source = pictureOf(found);
    opens.point({ collection: name, id, payload: found }, source && blobOf(source));
  } catch (error) { fail(error); }
}

/* Lists what was selected below the map. */
async function selected(indices) {
  const mine = drawn;
  if (!mine) return;
  $("map-chosen").textContent = number(indices.length) + (indices.length === 1 ? " point" : " points") + " selected"
    + (indices.length > CARDS ? "; these are " + CARDS + " of them" : "");
  tell($("map-chosen").textContent);
  $("map-near").replaceChildren();
  if (!indices.length) return;
  const every = Math.max(1, indices.length / CARDS), ids = [];
  for (let i = 0; i < indices.length && ids.length < CARDS; i += every) ids.push(mine.ids[indices[Math.floor(i)]]);
  try {
    const { points } = await json(of(mine.name, "/points/scroll"), { ids });
    if (mine === drawn) $("map-near").replaceChildren(...points.map((point) => pointCard(mine.name, point)));
  } catch (error) { fail(error); }
}

export function start() {
  $("layout").addEventListener("change", lay);
  $("colour").addEventListener("change", () => {
    highlight();
    colour();
  });
  $("map-again").addEventListener("click", () => map(true));
  $("map-home").addEventListener("click", () => plot && plot.home());
  $("map-in").addEventListener("click", () => plot && plot.scale(1.4));
  $("map-out").addEventListener("click", () => plot && plot.scale(1 / 1.4));
  $("map-select").addEventListener("click", () => {
    if (!plot) return;
    plot.selecting = !plot.selecting;
    $("map-select").setAttribute("aria-pressed", String(plot.selecting));
  });
}
