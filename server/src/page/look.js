/* What the model says about the picture on show. */

import { $, tell, terms } from "./dom.js";
import { calm, fail, Failure, readJson } from "./api.js";
import { remember } from "./commands.js";
import { label, look as looking, looks, route, threshold } from "./controls.js";
import { draw as paint, fit } from "./draw.js";
import { editing, isEdited } from "./edit.js";
import { decode, made, release, shrink, strip } from "./pictures.js";
import { payloadRows } from "./payload.js";
import { chips } from "./region.js";
import { read, refined } from "./saliency.js";
import { clear, search } from "./search.js";
import { headersOf, send } from "./send.js";
import { answerOf, chosen, fits, place, state } from "./state.js";

/* Below it the map and the mirror image's hardly agree. */
const TRUST = 0.5;

/* Counts what is asked, so that a slow answer never replaces a newer one. */
let turn = 0;
let stop = new AbortController();

/* Draws the picture on show as the controls say. */
export function draw() {
  label();
  const { shown, map } = state;
  if (!shown || !shown.bitmap) return;
  /* On a phone the neighbours begin on the first screen. */
  const room = $("well").clientWidth, tall = Math.max(220, Math.min(innerHeight * (innerWidth < 861 ? 0.36 : 0.5), 480));
  const size = fit(shown.bitmap, room, tall), edits = { strokes: shown.strokes, scale: size[0] / shown.bitmap.width };
  paint($("canvas"), shown.bitmap, size, map && { ...looking(), ...edits, map, answer: shown.answer }, shown.box);
}

/* Adds pictures and shows the first of them; a `number` is that of the gallery's picture that the only one is of. */
export async function add(list, number = null) {
  const files = [...list];
  if (!files.length) return;
  const fresh = files.map((blob) => made(blob, blob.name || "pasted.png", null, number));
  state.pictures.push(...fresh);
  const first = show(fresh[0]);
  for (const picture of fresh.slice(1)) {
    await decode(picture);
    release(picture);
  }
  strip(show);
  await first;
}

/* Shows a point of a collection, to search by it; one that was shown before is shown again. */
export async function addPoint(point, blob) {
  const known = state.pictures.find((p) => p.point && p.point.id === point.id && p.point.collection === point.collection);
  const picture = known || made(blob, point.id, point);
  if (!known) state.pictures.push(picture);
  await show(picture);
}

export async function show(picture) {
  const before = state.shown;
  state.shown = picture;
  state.query = "picture";
  turn++;
  release(before);
  if (!picture.bitmap) await decode(picture);
  if (state.shown !== picture) {
    release(picture);
    return;
  }
  $("drop").hidden = $("try").hidden = true;
  $("stage").hidden = false;
  $("name").textContent = picture.name;
  $("canvas").hidden = !picture.bitmap;
  $("bare").hidden = Boolean(picture.bitmap);
  $("bare").textContent = picture.point ? "This point has no picture with it." : "This browser cannot show the file.";
  for (const id of ["map-tools", "map-looks", "map-draws", "edit"]) $(id).hidden = Boolean(picture.point);
  if (editing() && picture.point) $("edit").click();
  $("undo").disabled = !isEdited(picture);
  $("inspect").hidden = !picture.point || !picture.bitmap;
  blank();
  clear("They appear here once the server has looked at the picture.");
  strip(show);
  await look();
}

/* Looks at the picture on show with the settings as they are, and searches by it unless examples are searched by. */
export async function look() {
  const picture = state.shown, mine = ++turn;
  if (!picture) return;
  stop.abort();
  stop = new AbortController();
  calm();
  $("busy").hidden = false;
  const { signal } = stop;
  let still = () => mine === turn;
  try {
    if (picture.point) pointFacts(picture);
    else await analyze({ picture, signal, still });
    /* Examples may be searched by in the meantime. */
    still = () => mine === turn && state.query === "picture";
    if (still()) await search({ picture, signal, still });
  } catch (error) {
    if (!still() || error.name === "AbortError") return;
    if (!(error instanceof Failure)) throw error;
    if (!answerOf(picture)) blank();
    if (state.query === "picture") clear("The server has no answer about this picture.");
    fail(error);
  } finally {
    if (mine === turn) $("busy").hidden = true;
  }
}

/* Asks for the map, and for neighbours where the gallery is searched by the whole picture. */
async function analyze({ picture, signal, still }) {
  if (chosen() && !chosen().maps) return blank();
  const gallery = state.server.gallery && place() === "" && fits() && !picture.box && picture.number === null;
  const path = route("/v1/analyze", { k: gallery ? state.limit : null, threshold: threshold(), ...looks() });
  const small = await shrink(picture);
  if (!still()) return;
  const request = { picture, path, small, headers: headersOf(picture, "application/json") };
  if (picture.path !== path || !answerOf(picture)) {
    const answer = await readJson(send(request, signal));
    Object.assign(picture, { path, answer: answer.results[0], identity: answer.model.identity });
  } else {
    remember(request);
  }
  if (still()) await take(picture.answer, path.includes("refine="), still);
}

/* Takes away what was said of the picture. */
function blank() {
  state.map = null;
  $("facts").hidden = true;
  $("canvas").setAttribute("aria-label", state.shown.name);
  chips([]);
  draw();
}

/* Shows an answer; `fine` where its mask was refined. */
export async function take(answer, fine, still = () => true) {
  const pixels = fine ? await refined(answer.saliency, answer) : null;
  if (!still()) return;
  state.map = read(answer.saliency.grid, pixels);
  facts(answer);
  draw();
  const parts = answer.saliency.boxes.length;
  const words = state.shown.name + ": " + Math.round(answer.saliency.foreground_ratio * 100) + " % foreground in " + parts
    + (parts === 1 ? " part" : " parts") + (answer.saliency.confidence < TRUST ? "; do not trust this map" : "");
  $("canvas").setAttribute("aria-label", words);
  tell(words + (answer.neighbours ? ", " + answer.neighbours.length + " nearest pictures" : ""));
  /* The server may have seen a copy: boxes in pixels of the picture itself. */
  const full = (state.shown.bitmap || answer).width / answer.width;
  chips(answer.saliency.boxes.slice(0, 6).map((b) => [b.x, b.y, b.width, b.height].map((v) => v * full)));
}

function facts(answer) {
  const s = answer.saliency, parts = s.boxes.length, { map } = state;
  const { bitmap, blob, small } = state.shown, whole = bitmap || answer, kB = (b) => Math.ceil(b.size / 1000) + " kB";
  const rows = [
    ["Size", whole.width + " × " + whole.height + " " + answer.format],
    ["Foreground", Math.round(s.foreground_ratio * 100) + " % of " + (map.pixels ? "the pixels" : s.grid.width + " × " + s.grid.height + " cells")],
    ["Parts", parts ? parts + (parts > 1 ? ", largest " + Math.round(s.boxes[0].ratio * 100) + " %" : "") : "none"],
  ];
  if (s.confidence !== undefined) rows.push(["Confidence", s.confidence.toFixed(2) + (s.confidence < TRUST ? ": do not trust this map" : "")]);
  const full = (v) => Math.round(v * whole.width / answer.width);
  if (s.box) rows.push(["Box", [s.box.x, s.box.y, s.box.width, s.box.height].map(full).join(", ")]);
  rows.push(["Embedding", answer.embedding.length + " numbers"]);
  if (small) rows.push(["Sent", answer.width + " × " + answer.height + ", " + kB(small) + " of " + kB(blob)]);
  if (answer.notes.length) rows.push(["Notes", answer.notes.join(", ").replaceAll("_", " ")]);
  about("Picture", rows, true);
}

function pointFacts({ point }) {
  $("canvas").setAttribute("aria-label", "the thumbnail of " + point.id);
  about("Point of " + point.collection, [["Id", point.id], ...payloadRows(point.payload)], false);
}

function about(title, rows, saves) {
  $("facts-title").textContent = title;
  terms($("list"), rows);
  $("saves").hidden = !saves;
  $("facts").hidden = false;
}
