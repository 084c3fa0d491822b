/* A few pictures of a place, chosen by chance: what its payloads hold, and how alike any two of its pictures are. */

import { ask, json, of, readBlob, readJson } from "./api.js";
import { values } from "./payload.js";
import { place, state } from "./state.js";

const DIRECTIONS = 4, EACH = 24, GALLERY = 12;

/* One promise for each place and size of it. */
const known = new Map();

/* {points, typical, facets} of a place, of the one that is chosen by default; `typical` is the mean cosine of two
   pictures, null where unknown. */
export function sample(name = place()) {
  const found = state.collections.find((c) => c.name === name);
  if (name === null || (name && !found)) return Promise.resolve({ points: [], typical: null, facets: new Map() });
  const id = name ? name + " " + found.count + " " + found.created : " " + (state.server.gallery || {}).images;
  if (!known.has(id)) {
    const asked = name ? ofCollection(found) : ofGallery();
    known.set(id, asked);
    asked.catch(() => known.delete(id));
  }
  return known.get(id);
}

/* Points in a few random directions: pages of a scroll would be neighbours in the alphabet. */
async function ofCollection({ name, dim, identity, count }) {
  const points = new Map();
  if (count > DIRECTIONS * EACH && identity) {
    const from = Array.from({ length: DIRECTIONS }, () => ({ vector: Array.from({ length: dim }, gaussian), identity, limit: EACH, with_vector: true }));
    for (const { hits } of await Promise.all(from.map((body) => json(of(name, "/search"), body)))) {
      for (const hit of hits) points.set(hit.id, hit);
    }
  } else if (count) {
    const page = await json(of(name, "/points/scroll"), { limit: DIRECTIONS * EACH, with_vector: true });
    for (const point of page.points) points.set(point.id, point);
  }
  const list = shuffled([...points.values()]);
  return { points: list, typical: alike(list.map((p) => p.vector)), facets: facetsOf(list) };
}

/* Numbers of pictures of the gallery, each once. */
export function someOfGallery(count) {
  const { images } = state.server.gallery || { images: 0 }, ids = new Set();
  while (ids.size < Math.min(count, images)) ids.add(Math.floor(Math.random() * images));
  return [...ids];
}

/* The gallery's vectors are not to be had: its thumbnails are embedded. */
async function ofGallery() {
  const form = new FormData();
  for (const id of someOfGallery(GALLERY)) form.append("file", await readBlob(ask("/v1/gallery/" + id + "/thumbnail")), id + ".jpg");
  const { results } = await readJson(ask("/v1/embed", { method: "POST", body: form }));
  return { points: [], typical: alike(results.map((r) => r.embedding)), facets: new Map() };
}

function gaussian() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function shuffled(list) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

/* The mean cosine of two different vectors. */
function alike(vectors) {
  const n = vectors.length;
  if (n < 3) return null;
  const sum = new Float64Array(vectors[0].length);
  for (const v of vectors) {
    const length = Math.hypot(...v) || 1;
    v.forEach((x, i) => { sum[i] += x / length; });
  }
  return (sum.reduce((a, x) => a + x * x, 0) - n) / (n * (n - 1));
}

/* The keys of the payloads, with the values that were met. */
function facetsOf(points) {
  const facets = new Map();
  for (const { payload } of points) {
    for (const [key, value] of values(payload)) {
      if (!facets.has(key)) facets.set(key, { type: typeof value, values: new Set() });
      facets.get(key).values.add(value);
    }
  }
  return facets;
}
