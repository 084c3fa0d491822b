/* Searching the gallery or a collection: by a picture, a part of it, a point, or examples. */

import { $, tell } from "./dom.js";
import { calm, fail, json, of, readJson } from "./api.js";
import { route } from "./controls.js";
import { mixture } from "./examples.js";
import { asFilter } from "./filters.js";
import { cut } from "./pictures.js";
import { found, galleryCard, pointCard } from "./results.js";
import { getJson, headersOf, send, sendJson, sendWrapped } from "./send.js";
import { answerOf, chosen, collection, fits, place, state } from "./state.js";

const NO_GALLERY = "This server has no pictures to compare with.", MOST = 1000;

/* Takes the results away and says why. */
export function clear(words) {
  found([], [], words);
  $("more").hidden = true;
  $("near-title").textContent = "Nearest pictures";
}

/* Searches by the picture on show, whichever way it can be done. */
export async function search(asked) {
  const name = place();
  if (name === null) return clear(NO_GALLERY);
  return name ? searchCollection(name, asked) : searchGallery(asked);
}

async function searchGallery({ picture, signal, still }) {
  if (picture.number !== null && !picture.box) {
    /* By the vector that is stored, whichever model is chosen. */
    const path = "/v1/gallery/" + picture.number + "/neighbours?k=" + state.limit;
    const { neighbours } = await getJson(path, "No. " + (picture.number + 1), signal);
    if (!still()) return;
    shown(neighbours.map(galleryCard), neighbours.map((n) => n.cosine), picture);
    tell(neighbours.length + " nearest pictures");
    return;
  }
  if (!fits()) return clear("The gallery is that of " + state.server.models[0].name + ".");
  let list = picture.box ? null : answerOf(picture)?.neighbours;
  if (!list) {
    if (!picture.blob) return clear("This point has no picture to search the gallery by.");
    const sent = await part(picture), path = route("/v1/search", { k: state.limit });
    list = (await readJson(send({ ...sent, path, headers: headersOf(sent.picture, "application/json") }, signal))).results[0].neighbours;
    if (!still()) return;
    tell(list.length + " nearest pictures");
  }
  shown(list.map(galleryCard), list.map((n) => n.cosine), picture);
}

/* The picture, or the part of it that is marked, as something to send. */
async function part(picture) {
  return picture.box ? { picture: await cut(picture), part: true } : { picture, small: picture.small };
}

async function searchCollection(name, { picture, signal, still }) {
  const hits = await hitsOf(name, picture, signal);
  if (!still()) return;
  const others = picture.point ? hits.filter((h) => h.id !== picture.point.id).slice(0, state.limit) : hits;
  shown(others.map((h) => pointCard(name, h)), others.map((h) => h.score), picture);
  tell(others.length + " nearest in " + name);
}

async function hitsOf(name, picture, signal) {
  const path = of(name, "/search"), filter = asFilter();
  if (picture.point && picture.point.collection === name && !picture.box) {
    /* The point itself is the nearest. */
    const body = { id: picture.point.id, limit: Math.min(state.limit + 1, MOST), ...(filter && { filter }) };
    return (await sendJson(path, body, picture.name, signal)).hits;
  }
  if (!picture.blob) return [];
  const sent = await part(picture);
  if (filter) return (await sendWrapped({ ...sent, path, wrap: { limit: state.limit, filter } }, signal)).hits;
  const asked = { ...sent, path: route(path, { limit: state.limit }), headers: headersOf(sent.picture, "application/json") };
  return (await readJson(send(asked, signal))).hits;
}

/* Counts the searches by examples, so that a slow one never replaces a newer one. */
let turn = 0;

/* Searches by the examples: like some, unlike others. */
export async function searchExamples() {
  const mine = ++turn;
  calm();
  if (!collection()) {
    clear("Examples search a collection; choose one above.");
    return;
  }
  state.query = "examples";
  $("busy").hidden = true;
  const { name, identity } = collection(), filter = asFilter();
  const still = () => mine === turn && state.query === "examples" && place() === name;
  try {
    const vector = await mixture(collection());
    if (!vector) return;
    const body = { vector, identity, limit: Math.min(state.limit + state.examples.length, MOST), ...(filter && { filter }) };
    const { hits } = await json(of(name, "/search"), body);
    if (!still()) return;
    const given = new Set(state.examples.filter((e) => e.point && e.point.collection === name).map((e) => e.point.id));
    const others = hits.filter((h) => !given.has(h.id)).slice(0, state.limit);
    shown(others.map((h) => pointCard(name, h)), others.map((h) => h.score), null);
    tell(others.length + " nearest to the examples in " + name);
  } catch (error) { if (still()) fail(error); }
}

function shown(rows, cosines, picture) {
  const model = chosen(), what = !picture ? "the examples" : picture.box ? "the marked part" : picture.point ? picture.point.id : "";
  $("near-title").textContent = "Nearest pictures" + (what ? " to " + what : "");
  found(rows, cosines, asFilter() ? "Nothing that fits the filter is near." : "Nothing is near.");
  $("more").hidden = rows.length < state.limit || state.limit >= MOST;
  $("near").classList.toggle("other-model", Boolean(collection() && model && collection().identity !== model.identity));
}
