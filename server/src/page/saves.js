/* Files to keep: the mask, the drawing, the embedding, and masks as COCO's annotations. */

import { $, download } from "./dom.js";
import { ask, calm, fail, readBlob, readJson } from "./api.js";
import { request } from "./commands.js";
import { looks, route, threshold } from "./controls.js";
import { corrected, isEdited, pixels, png } from "./edit.js";
import { stem } from "./pictures.js";
import { headersOf, send } from "./send.js";
import { state } from "./state.js";

/* Saves what a button of that name promises, always of the file itself. */
export async function save(what) {
  const picture = state.shown;
  calm();
  try {
    if (what === "coco") return await saveCoco();
    if (what === "part") {
      /* Of the request that is shown: the box on the picture may be another by now. */
      const { blob, name } = request().picture;
      return download(blob, name);
    }
    const [path, accept, end] = {
      mask: [route("/v1/saliency", { view: "mask", threshold: threshold(), ...looks() }), "image/png", "-mask.png"],
      overlay: [route("/v1/saliency", { view: "overlay", opacity: $("opacity").value / 100, ...looks() }), "image/png", "-overlay.png"],
      embedding: [route("/v1/embed", { window: looks().window }), "application/x-npy", ".npy"],
    }[what];
    const name = stem(picture.name) + end;
    if (what === "mask" && isEdited(picture)) {
      const { cells, width, height } = await mask(picture);
      download(await png(cells, width, height), name);
      return;
    }
    download(await readBlob(send({ picture, path, headers: headersOf(picture, accept), save: name })), name);
  } catch (error) { fail(error); }
}

/* The mask of a picture as it was corrected, at the picture's own size. */
async function mask(picture) {
  const path = route("/v1/saliency", { view: "mask", threshold: threshold(), ...looks() });
  const body = { method: "POST", body: picture.blob, headers: headersOf(picture, "image/png") };
  const bitmap = await createImageBitmap(await readBlob(ask(path, body)));
  const { width, height } = bitmap, cells = pixels(corrected(bitmap, picture));
  bitmap.close();
  return { cells, width, height };
}

/* The masks of all pictures that were given, at the threshold of the moment. */
async function saveCoco() {
  const pictures = state.pictures.filter((p) => p.blob && !p.point), path = route("/v1/saliency", { mask: "polygons", threshold: threshold(), ...looks() });
  const answers = [];
  for (const picture of pictures) {
    const body = { method: "POST", body: picture.blob, headers: headersOf(picture, "application/json") };
    const answer = (await readJson(ask(path, body))).results[0];
    answers.push(isEdited(picture) ? { ...answer, edited: await mask(picture) } : answer);
  }
  const name = pictures.length > 1 ? "masks.coco.json" : stem(pictures[0].name) + ".coco.json";
  download(new Blob([JSON.stringify(coco(pictures.map((p) => p.name), answers), null, 1)], { type: "application/json" }), name);
}

/* COCO's file of instances: one annotation for the foreground of each picture that has one. */
export function coco(names, answers) {
  const images = answers.map((a, i) => ({ id: i + 1, file_name: names[i], width: a.width, height: a.height }));
  const annotations = [];
  answers.forEach((answer, i) => {
    const known = { id: annotations.length + 1, image_id: i + 1, category_id: 1, iscrowd: 0 };
    if (answer.edited) {
      const { area, ...rest } = runs(answer.edited);
      if (area) annotations.push({ ...known, area, ...rest });
      return;
    }
    const segmentation = answer.saliency.mask.polygons;
    if (!segmentation.length) return;
    const area = segmentation.reduce((sum, polygon) => sum + areaOf(polygon), 0);
    annotations.push({ ...known, area, bbox: around(segmentation), segmentation });
  });
  return { images, annotations, categories: [{ id: 1, name: "foreground" }] };
}

/* A mask of pixels: COCO's run lengths go down the columns, and begin with the background. */
function runs({ cells, width, height }) {
  const counts = [];
  let [last, run, area] = [0, 0, 0], [l, t, r, b] = [width, height, 0, 0];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const v = cells[y * width + x];
      if (v !== last) {
        counts.push(run);
        [last, run] = [v, 0];
      }
      run++;
      if (!v) continue;
      area++;
      l = Math.min(l, x); r = Math.max(r, x + 1);
      t = Math.min(t, y); b = Math.max(b, y + 1);
    }
  }
  counts.push(run);
  return { area, bbox: [l, t, r - l, b - t], segmentation: { size: [height, width], counts } };
}

/* The polygons of a mask do not overlap and have no holes: their areas add up. */
function areaOf(polygon) {
  let twice = 0;
  for (let i = 0; i < polygon.length; i += 2) {
    const j = (i + 2) % polygon.length;
    twice += polygon[i] * polygon[j + 1] - polygon[j] * polygon[i + 1];
  }
  return Math.abs(twice) / 2;
}

function around(polygons) {
  let [l, t, r, b] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const polygon of polygons) {
    for (let i = 0; i < polygon.length; i += 2) {
      l = Math.min(l, polygon[i]); r = Math.max(r, polygon[i]);
      t = Math.min(t, polygon[i + 1]); b = Math.max(b, polygon[i + 1]);
    }
  }
  return [l, t, r - l, b - t];
}
