/* What the server can do, asked again and again: models, gallery, collections. */

import { $, el, number, options } from "./dom.js";
import { ask, below, fail, readJson } from "./api.js";
import { follow } from "./controls.js";
import { chosen, place, state } from "./state.js";

/* Called when models or places have changed: set once, by main.js. */
export const news = { places: () => {}, rule: () => {}, models: () => {} };

/* Asks for the state of the server every now and then. */
export async function watch() {
  let wait = 15000;
  try {
    const now = await (await fetch(below("/readyz"))).json();
    $("dot").className = now.ready ? "dot ready" : "dot";
    /* Others add points, too. */
    if (now.collections && $("locked").hidden) findCollections();
    describeServer(now);
    if (!now.ready) wait = 1500;
  } catch {
    $("dot").className = "dot gone";
    $("about").textContent = "the server does not answer";
  }
  setTimeout(watch, wait);
}

export function describeServer(now) {
  const names = (s) => s.models.map((m) => m.name + m.identity).join("\n");
  const changed = names(state.server) !== names(now), had = (state.server.gallery || {}).images;
  state.server = now;
  if (changed) options($("which"), now.models.map((m) => [m.name, m.name]));
  $("models").hidden = now.models.length < 2;
  const model = chosen();
  if (model && follow(model.saliency.deviations)) news.rule();
  $("about").replaceChildren();
  if (model) {
    const rest = [model.encoder, model.provider, model.fingerprint.slice(0, 12)];
    if (now.gallery) rest.push(number(now.gallery.images) + " pictures");
    $("about").append(el("b", { textContent: model.name }), " · " + rest.join(" · "));
  }
  if (!now.ready) $("about").append((model ? " · " : "") + now.status);
  if (had !== (now.gallery || {}).images) sources();
  if (changed) news.models();
  if (state.shown) return;
  const searches = now.gallery || state.collections.length;
  $("near-note").textContent = searches ? "They appear here once you choose a picture."
    : now.status === "indexing gallery" ? "The gallery is being indexed." : now.ready ? "This server has no pictures to compare with." : "";
}

/* Collections, where the server has them; without, nothing is said. */
export async function findCollections() {
  const names = () => state.collections.map((c) => c.name + c.created).join("\n"), before = names();
  try {
    state.collections = (await readJson(ask("/v1/collections"))).collections || [];
  } catch (error) {
    if (error.status === 401) fail(error);
    else if (error.status !== 404) return;
    state.collections = [];
  }
  if (names() === before) list();
  else sources();
}

/* Writes the places into their list; what stands elsewhere on the page about them stays until somebody asks again. */
function list() {
  const found = state.server.gallery ? [["/", "the gallery"]] : [];
  for (const c of state.collections) found.push(["/" + c.name, c.name + " (" + number(c.count) + ")"]);
  options($("source"), found);
}

/* The gallery comes first, whichever is known first; what somebody has picked stays. */
export function sources() {
  const before = place();
  list();
  if (!state.picked && $("source").options.length) $("source").selectedIndex = 0;
  $("sources").hidden = !state.collections.length;
  news.places(place() !== before);
}
