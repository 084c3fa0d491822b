/* A picture on a canvas, with what the model says about it. */

import { apply } from "./edit.js";
import { foreground, parts, shapes, tint } from "./saliency.js";

/* Draws `bitmap` at `size` (CSS pixels); with `look` ({map, answer, deviations, view, opacity, line, box, crop}) what
   the server said of it, and with `region` ([x, y, width, height] in pixels of the bitmap) the part to search for. */
export function draw(canvas, bitmap, [w, h], look, region) {
  const paint = canvas.getContext("2d"), dots = devicePixelRatio || 1;
  canvas.width = w * dots;
  canvas.height = h * dots;
  canvas.style.width = w + "px";
  canvas.style.height = h + "px";
  paint.scale(dots, dots);
  paint.drawImage(bitmap, 0, 0, w, h);
  if (look && look.view !== "none") overlay(paint, [w, h], look);
  if (region) outlined(paint, [w, h], region.map((v, i) => v * (i % 2 ? h / bitmap.height : w / bitmap.width)));
}

/* The size at which a picture fits; small ones are enlarged, so that their grid can be seen. */
export function fit(bitmap, room, tall) {
  const scale = Math.min(room / bitmap.width, tall / bitmap.height, 4);
  return [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
}

function stroke(paint, path, width, style) {
  paint.lineWidth = width;
  paint.strokeStyle = style;
  paint.stroke(path);
}

function overlay(paint, [w, h], { map, answer, deviations, view, opacity, line, box, crop: dark, strokes, scale }) {
  const c = answer.saliency.crop, sx = w / answer.width, sy = h / answer.height;
  const crop = [c.x * sx, c.y * sy, c.width * sx, c.height * sy];
  const cells = foreground(map, deviations), { squares, lines } = shapes(map, cells, crop);
  paint.globalAlpha = opacity;
  if (view === "mask" && strokes && strokes.length) return veil(paint, [w, h], crop, squares, strokes, scale, opacity);
  if (view === "heat") {
    paint.drawImage(tint(map), ...crop);
  } else {
    paint.fillStyle = "#000";
    paint.fill(squares);
  }
  paint.globalAlpha = 1;
  if (dark) shade(paint, [w, h], crop);
  if (line) {
    stroke(paint, lines, 3, "rgb(0 0 0 / .35)");
    stroke(paint, lines, 1.5, "#fff");
  }
  (box ? parts(map, cells) : []).forEach(([x, y, bw, bh], i) => {
    const path = new Path2D();
    path.rect(crop[0] + x * crop[2], crop[1] + y * crop[3], bw * crop[2], bh * crop[3]);
    paint.setLineDash(i ? [5, 4] : []);
    stroke(paint, path, 5, "rgb(0 0 0 / .5)");
    stroke(paint, path, 2.5, "#5eead4");
  });
  paint.setLineDash([]);
}

/* Darkens what a corrected mask leaves out. */
function veil(paint, [w, h], crop, squares, strokes, scale, opacity) {
  const dots = devicePixelRatio || 1, layer = () => {
    const made = new OffscreenCanvas(w * dots, h * dots).getContext("2d");
    made.scale(dots, dots);
    return made;
  };
  const mask = layer(), dark = layer();
  mask.fillRect(...crop);
  mask.globalCompositeOperation = "destination-out";
  mask.fill(squares);
  apply(mask, strokes, scale);
  dark.fillRect(0, 0, w, h);
  dark.globalCompositeOperation = "destination-out";
  dark.drawImage(mask.canvas, 0, 0, w, h);
  paint.globalAlpha = Math.max(opacity, 0.3);
  paint.drawImage(dark.canvas, 0, 0, w, h);
  paint.globalAlpha = 1;
}

/* Darkens what is not in the rectangle. */
function shade(paint, [w, h], rectangle) {
  const around = new Path2D();
  around.rect(0, 0, w, h);
  around.rect(...rectangle);
  paint.fillStyle = "rgb(0 0 0 / .55)";
  paint.fill(around, "evenodd");
}

function outlined(paint, size, rectangle) {
  shade(paint, size, rectangle);
  const path = new Path2D();
  path.rect(...rectangle);
  stroke(paint, path, 5, "rgb(0 0 0 / .6)");
  stroke(paint, path, 2.5, "#fb923c");
}
