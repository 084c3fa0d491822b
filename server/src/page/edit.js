/* Correcting a mask by hand: strokes that add to it or take from it, in pixels of the picture. */

import { $, tell } from "./dom.js";
import { state } from "./state.js";

/* Called to draw the picture again: set once, by main.js. */
export const canvasOf = { draw: () => {} };

export const editing = () => $("edit").getAttribute("aria-pressed") === "true";

/* The strokes of the picture on show: {erase, size, points}. */
const strokes = () => (state.shown.strokes = state.shown.strokes || []);

export const isEdited = (picture) => Boolean(picture.strokes && picture.strokes.length);

/* Paints strokes over a mask whose foreground is opaque; `scale` is its size by that of the picture. */
export function apply(paint, list, scale) {
  paint.lineCap = paint.lineJoin = "round";
  paint.strokeStyle = "#fff";
  for (const { erase, size, points } of list) {
    paint.globalCompositeOperation = erase ? "destination-out" : "source-over";
    paint.lineWidth = size * scale;
    paint.beginPath();
    points.forEach(([x, y], i) => (i ? paint.lineTo(x * scale, y * scale) : paint.moveTo(x * scale, y * scale)));
    /* A dot is a line to where it began. */
    if (points.length === 1) paint.lineTo(points[0][0] * scale, points[0][1] * scale + 0.01);
    paint.stroke();
  }
  paint.globalCompositeOperation = "source-over";
}

/* A stroke that follows a pointer; gives how to go on with it. `dots` is pixels of the picture by those of the screen. */
export function begin(point, dots) {
  const stroke = { erase: $("erase").checked, size: Number($("size").value) * dots, points: [point] };
  strokes().push(stroke);
  list();
  return (next) => stroke.points.push(next);
}

function list() {
  const count = strokes().length;
  $("undo").disabled = !count;
  tell(count === 1 ? "1 stroke" : count + " strokes");
  canvasOf.draw();
}

/* The server's mask of a picture (a bitmap of white on black, of the picture's size) with the strokes over it, as a
   canvas whose foreground is opaque and nothing else. */
export function corrected(bitmap, picture) {
  const { width, height } = bitmap, canvas = new OffscreenCanvas(width, height);
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  paint.drawImage(bitmap, 0, 0);
  const image = paint.getImageData(0, 0, width, height), { data } = image;
  for (let i = 0; i < data.length; i += 4) data[i + 3] = data[i] > 127 ? 255 : 0;
  paint.putImageData(image, 0, 0);
  apply(paint, picture.strokes, 1);
  return canvas;
}

/* Whether each pixel is foreground, row by row. */
export function pixels(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Uint8Array.from({ length: canvas.width * canvas.height }, (_, i) => Number(data[i * 4 + 3] > 127));
}

/* A mask as a picture, white on black. */
export function png(cells, width, height) {
  const canvas = new OffscreenCanvas(width, height), image = new ImageData(width, height), all = new Uint32Array(image.data.buffer);
  for (let i = 0; i < cells.length; i++) all[i] = cells[i] ? 0xffffffff : 0xff000000;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

export function start() {
  $("edit").addEventListener("click", () => {
    const on = !editing();
    $("edit").setAttribute("aria-pressed", String(on));
    $("brush").hidden = !on;
    if (!on) return canvasOf.draw();
    $("undo").disabled = !strokes().length;
    document.querySelector("[name=view][value=mask]").click();
    return canvasOf.draw();
  });
  $("undo").addEventListener("click", () => {
    strokes().pop();
    list();
  });
}
