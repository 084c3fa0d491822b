/* The pictures that were given: decoded, made smaller, and the strip below the one on show. */

import { $, el } from "./dom.js";
import { state } from "./state.js";

/* Files of more bytes are sent as a smaller copy, whose short side is this many times what the model takes. */
const LARGE = 262144, SPARE = 2;

export function made(blob, name, point = null, number = null) {
  return { blob, small: null, name, bitmap: null, thumb: null, path: null, answer: null, point, number, box: null };
}

/* Only the picture on show is kept decoded: a hundred photos would fill the memory. */
export function release(picture) {
  if (!picture || picture === state.shown || !picture.bitmap) return;
  picture.bitmap.close();
  picture.bitmap = null;
}

export async function decode(picture) {
  if (!picture.blob) return;
  try {
    picture.bitmap = await createImageBitmap(picture.blob);
  } catch { return; }
  const side = 56 * (devicePixelRatio || 1), scale = side / Math.min(picture.bitmap.width, picture.bitmap.height);
  const [w, h] = [picture.bitmap.width * scale, picture.bitmap.height * scale];
  picture.thumb = el("canvas", { width: side, height: side });
  picture.thumb.getContext("2d").drawImage(picture.bitmap, (side - w) / 2, (side - h) / 2, w, h);
}

/* A smaller copy of a large file, with more than the models take of it; never a larger one. Colours stay as they are in
   the file, as the server reads them. */
export async function shrink(picture) {
  const side = SPARE * Math.max(0, ...state.server.models.map((m) => m.preprocess.resize));
  if (!side || !picture.bitmap || picture.blob.size <= LARGE) return null;
  if (picture.small && picture.smallSide === side) return picture.small;
  const { width, height } = picture.bitmap, scale = side / Math.min(width, height);
  if (scale >= 1) return null;
  const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  try {
    const size = { resizeWidth: canvas.width, resizeHeight: canvas.height, resizeQuality: "high" };
    const bitmap = await createImageBitmap(picture.blob, { ...size, colorSpaceConversion: "none" });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    const type = picture.blob.type === "image/jpeg" ? "image/jpeg" : "image/png";
    const small = await canvas.convertToBlob({ type, quality: 0.95 });
    if (small.size >= picture.blob.size) return null;
    Object.assign(picture, { small, smallSide: side });
    return small;
  } catch { return null; }
}

/* The part of the picture that its box marks, as a file of its own. */
export async function cut(picture) {
  const [x, y, w, h] = picture.box.map(Math.round), canvas = new OffscreenCanvas(Math.max(1, w), Math.max(1, h));
  canvas.getContext("2d").drawImage(picture.bitmap, x, y, w, h, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  return { blob, name: stem(picture.name) + "-box.png" };
}

export const stem = (name) => name.split("/").pop().replace(/\.[^.]*$/, "");

/* The strip of all pictures; `show` is called with the one that is chosen. */
export function strip(show) {
  $("strip").hidden = state.pictures.length < 2;
  const had = [...$("strip").children].findIndex((li) => li.contains(document.activeElement));
  $("strip").replaceChildren(...state.pictures.map((picture) => {
    const button = el("button", { title: picture.name, ariaLabel: picture.name, on: { click: () => show(picture) } });
    button.append(picture.thumb || "?");
    if (picture === state.shown) button.setAttribute("aria-current", "true");
    return el("li", {}, button);
  }));
  if (had >= 0) $("strip").children[had].firstChild.focus();
}

/* The picture before or after the one on show. */
export function beside(step) {
  return state.pictures[state.pictures.indexOf(state.shown) + step];
}
