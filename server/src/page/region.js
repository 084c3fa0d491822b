/* Marking the part of a picture to search for: a box drawn with mouse, pen or finger, or one of the parts that the map
   found. */

import { $, el, tell } from "./dom.js";
import { begin, editing } from "./edit.js";
import { state } from "./state.js";

/* Boxes of fewer pixels on the screen are clicks. */
const LEAST = 8;

/* Set once, by main.js: draws, and searches. */
export const marks = { draw: () => {}, search: () => {} };

/* Boxes of the map's parts, in pixels of the picture. */
let boxes = [];

export function chips(found) {
  boxes = found;
  list();
}

/* The parts as buttons, for those who do not draw. */
function list() {
  const { shown } = state, mine = shown && shown.box;
  const choice = (words, box, pressed) => el("button", {
    textContent: words, className: "chip", on: { click: () => mark(box) }, attrs: { "aria-pressed": String(pressed) },
  });
  const equal = (a, b) => Boolean(a) && a.every((v, i) => Math.abs(v - b[i]) < 0.5);
  const known = boxes.some((b) => equal(mine, b));
  $("parts").hidden = !shown || !shown.bitmap;
  $("parts").replaceChildren(
    choice("Whole picture", null, !mine),
    ...boxes.map((b, i) => choice(boxes.length > 1 ? "Part " + (i + 1) : "Its part", b, equal(mine, b))),
    ...(mine && !known ? [choice("Drawn box", mine, true)] : []),
  );
}

/* Searches for a box of the picture on show; null for all of it. */
export function mark(box) {
  if (!state.shown || !state.shown.bitmap) return;
  state.shown.box = box;
  list();
  marks.draw();
  tell(box ? "Searching for the marked part" : "Searching for the whole picture");
  marks.search();
}

/* Lets a canvas be drawn on: boxes, or strokes while the mask is edited. A finger scrolls the page unless `armed()`. */
export function drawable(canvas, armed) {
  let start = null, before = null, go = null;
  const at = (e) => {
    const r = canvas.getBoundingClientRect(), { bitmap } = state.shown;
    const inside = (v, most) => Math.min(Math.max(v, 0), most);
    return [inside((e.clientX - r.left) / r.width, 1) * bitmap.width, inside((e.clientY - r.top) / r.height, 1) * bitmap.height];
  };
  const box = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)];
  canvas.addEventListener("pointerdown", (e) => {
    if (e.button || !state.shown || !state.shown.bitmap || (e.pointerType === "touch" && !armed() && !editing())) return;
    e.preventDefault();
    canvas.setPointerCapture(e.pointerId);
    if (editing()) {
      go = begin(at(e), state.shown.bitmap.width / canvas.getBoundingClientRect().width);
      return;
    }
    start = at(e);
    before = state.shown.box;
  });
  canvas.addEventListener("pointermove", (e) => {
    if (go) {
      go(at(e));
      marks.draw();
    }
    if (!start) return;
    state.shown.box = box(start, at(e));
    marks.draw();
  });
  const end = (e) => {
    go = null;
    if (!start) return;
    const made = box(start, at(e)), dots = state.shown.bitmap.width / canvas.getBoundingClientRect().width;
    start = null;
    state.shown.box = before;
    if (e.type === "pointerup" && made[2] >= LEAST * dots && made[3] >= LEAST * dots) mark(made);
    else marks.draw();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
}
