/* A worker that reads the vectors of a collection and lays them out in two dimensions.

   It keeps every vector in 8 bits a number: for a map, which is not more exact than a pixel, that is plenty, and
   100,000 vectors of 512 numbers fit into 51 MB. */

const PAGE = 1000;
/* Points that the axes are computed from, and that are laid out by their neighbours; the others follow the nearest. */
const LANDMARKS = 1500;
/* Principal axes that neighbours are looked for in, and rounds of the iteration that finds them. */
const AXES = 16, ROUNDS = 8;
/* A first sketch is drawn of as many points, and another whenever there are twice as many. */
const SKETCH = 2000;
const NEIGHBOURS = 15, FOLLOWED = 4;

let vectors = null, dim = 0, count = 0;

/* Mulberry32: the same map every time. */
let seed = 1;
function random() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

/* Scripts come by addresses of this policy only, and it lets one pass. */
const library = { createScriptURL: (path) => (path === "vendor/umap-js.min.js" ? new URL(path, location.href).href : "") };
const policy = self.trustedTypes ? trustedTypes.createPolicy("occlude", library) : library;

const say = (type, values, transfer = []) => postMessage({ type, ...values }, transfer);

addEventListener("message", async ({ data }) => {
  try {
    importScripts(policy.createScriptURL("vendor/umap-js.min.js"));
    dim = data.dim;
    vectors = room(data.count * dim);
    await readAll(data);
    if (count < 3) return say("done", {});
    const some = landmarks(), reduced = project(some);
    say("laid", { layout: "axes", xy: plane(reduced) });
    say("laid", { layout: "neighbours", xy: await byNeighbours(some, reduced) });
    say("done", {});
  } catch (error) {
    say("failed", { message: error.message, hint: error.hint, id: error.id, status: error.status });
  }
});

function room(bytes) {
  try {
    return new Int8Array(bytes);
  } catch {
    throw Object.assign(new Error("The collection is too large for a map in this browser"), { hint: "it has no room for " + Math.round(bytes / 1e6) + " MB" });
  }
}

/* Reads page after page; the next is asked for before this one is parsed. */
async function readAll(asked) {
  let page = ask(asked, null);
  while (page) {
    const text = await page, next = JSON.parse(text.slice(text.lastIndexOf('"next":') + 7, text.lastIndexOf("}")));
    page = next === null ? null : ask(asked, next);
    if (page) page.catch(() => {});
    const ids = [];
    for (const { id, vector } of JSON.parse(text).points) {
      /* Points that were added in the meantime wait for the next map. */
      if (count === asked.count) break;
      keep(atob(vector));
      ids.push(id);
    }
    say("read", { ids, done: count });
    sketch();
  }
}

let sketched = SKETCH;

/* What was read so far, in two axes: something to see while the rest comes. */
function sketch() {
  if (count < sketched) return;
  sketched = count * 2;
  say("sketched", { xy: plane(project(landmarks(), 2)) });
}

async function ask({ url, key }, after) {
  const headers = { "content-type": "application/json", ...(key && { authorization: "Bearer " + key }) };
  const body = JSON.stringify({ limit: PAGE, with_vector: true, encoding_format: "int8", with_payload: false, ...(after !== null && { after }) });
  const answer = await fetch(url, { method: "POST", headers, body });
  if (answer.ok) return answer.text();
  const said = (await answer.json().catch(() => ({}))).error || {};
  throw Object.assign(new Error(said.message || "The server answered " + answer.status), { hint: said.hint, id: said.request_id, status: answer.status });
}

/* Signed bytes, each vector scaled by its largest: directions are compared, not lengths. */
function keep(bytes) {
  for (let i = 0; i < dim; i++) vectors[count * dim + i] = bytes.charCodeAt(i);
  count++;
}

/* Numbers of some points, by chance. */
function landmarks() {
  const all = Uint32Array.from({ length: count }, (_, i) => i), n = Math.min(count, LANDMARKS);
  for (let i = 0; i < n; i++) {
    const j = i + Math.floor(random() * (count - i));
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all.slice(0, n);
}

/* One point, of length 1. */
function unit(i, into) {
  let sum = 0;
  for (let d = 0; d < dim; d++) sum += vectors[i * dim + d] ** 2;
  const scale = 1 / Math.sqrt(sum || 1);
  for (let d = 0; d < dim; d++) into[d] = vectors[i * dim + d] * scale;
}

/* All points in the principal axes of some, by power iteration: (count, axes). */
function project(some, most = AXES) {
  const n = some.length, rows = new Float32Array(n * dim), mean = new Float32Array(dim), row = new Float32Array(dim);
  some.forEach((i, r) => {
    unit(i, row);
    rows.set(row, r * dim);
    for (let d = 0; d < dim; d++) mean[d] += row[d] / n;
  });
  for (let r = 0; r < n; r++) for (let d = 0; d < dim; d++) rows[r * dim + d] -= mean[d];
  const axes = iterate(rows, n, most), a = axes.length, out = new Float32Array(count * a);
  for (let i = 0; i < count; i++) {
    unit(i, row);
    for (let k = 0; k < a; k++) {
      const axis = axes[k];
      let sum = 0;
      for (let d = 0; d < dim; d++) sum += (row[d] - mean[d]) * axis[d];
      out[i * a + k] = sum;
    }
    if (most === AXES && i % 20000 === 19999) say("progress", { words: "Projecting " + (i + 1).toLocaleString("en") + " points" });
  }
  return { values: out, axes: a };
}

/* The principal axes of centred rows, largest first. */
function iterate(rows, n, most) {
  const axes = Array.from({ length: Math.min(most, dim, n) }, () => Float32Array.from({ length: dim }, () => random() - 0.5));
  for (let round = 0; round < ROUNDS; round++) {
    for (let k = 0; k < axes.length; k++) {
      const next = new Float32Array(dim);
      for (let r = 0; r < n; r++) {
        let sum = 0;
        for (let d = 0, at = r * dim; d < dim; d++) sum += rows[at + d] * axes[k][d];
        for (let d = 0, at = r * dim; d < dim; d++) next[d] += sum * rows[at + d];
      }
      axes[k] = next;
    }
    orthonormal(axes);
    if (most === AXES) say("progress", { words: "Finding axes, " + Math.round((round + 1) / ROUNDS * 100) + " %" });
  }
  return axes;
}

/* Gram and Schmidt's way. */
function orthonormal(axes) {
  for (let k = 0; k < axes.length; k++) {
    for (let j = 0; j < k; j++) {
      let dot = 0;
      for (let d = 0; d < dim; d++) dot += axes[k][d] * axes[j][d];
      for (let d = 0; d < dim; d++) axes[k][d] -= dot * axes[j][d];
    }
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += axes[k][d] ** 2;
    const scale = 1 / (Math.sqrt(sum) || 1);
    for (let d = 0; d < dim; d++) axes[k][d] *= scale;
  }
}

/* The first two axes: (count, 2). */
function plane({ values, axes }) {
  return Float32Array.from({ length: count * 2 }, (_, i) => (i % 2 < axes ? values[(i >> 1) * axes + (i & 1)] : 0));
}

/* Some points laid out so that neighbours stay neighbours (UMAP), the others where the nearest of those are. */
async function byNeighbours(some, { values, axes }) {
  const rows = [...some].map((i) => [...values.subarray(i * axes, (i + 1) * axes)]);
  const umap = new self.UMAP.UMAP({ nNeighbors: Math.min(NEIGHBOURS, rows.length - 1), minDist: 0.1, random });
  const epochs = umap.initializeFit(rows);
  for (let epoch = 0; epoch < epochs; epoch++) {
    umap.step();
    if (epoch % 25 === 0) say("progress", { words: "Laying out, " + Math.round(epoch / epochs * 100) + " %" });
  }
  const laid = umap.getEmbedding(), xy = new Float32Array(count * 2), own = new Int32Array(count).fill(-1);
  some.forEach((i, l) => { own[i] = l; });
  const flat = Float32Array.from(rows.flat());
  for (let i = 0; i < count; i++) {
    const [x, y] = own[i] >= 0 ? laid[own[i]] : follow(values.subarray(i * axes, (i + 1) * axes), flat, laid);
    xy[i * 2] = x;
    xy[i * 2 + 1] = y;
    if (i % 5000 === 4999) say("progress", { words: "Placing " + (i + 1).toLocaleString("en") + " of " + count.toLocaleString("en") });
  }
  return xy;
}

/* The place among the nearest landmarks, the nearer the more. */
function follow(point, flat, laid) {
  const axes = point.length, best = new Float64Array(FOLLOWED).fill(Infinity), which = new Int32Array(FOLLOWED);
  for (let l = 0; l < laid.length; l++) {
    let sum = 0;
    for (let k = 0, at = l * axes; k < axes && sum < best[FOLLOWED - 1]; k++) sum += (point[k] - flat[at + k]) ** 2;
    if (sum >= best[FOLLOWED - 1]) continue;
    let at = FOLLOWED - 1;
    for (; at > 0 && best[at - 1] > sum; at--) {
      best[at] = best[at - 1];
      which[at] = which[at - 1];
    }
    best[at] = sum;
    which[at] = l;
  }
  let [x, y, all] = [0, 0, 0];
  for (let f = 0; f < FOLLOWED && best[f] < Infinity; f++) {
    const weight = 1 / (best[f] + 1e-6);
    x += weight * laid[which[f]][0];
    y += weight * laid[which[f]][1];
    all += weight;
  }
  return [x / all, y / all];
}
