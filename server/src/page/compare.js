/* The picture on show as each model sees it, side by side. */

import { $, el, tell, terms } from "./dom.js";
import { ask, fail, json, of, readJson } from "./api.js";
import { look, looks } from "./controls.js";
import { draw, fit } from "./draw.js";
import { foreground, read, refined } from "./saliency.js";
import { headersOf } from "./send.js";
import { decode, shrink } from "./pictures.js";
import { galleryCard, pointCard, scale } from "./results.js";
import { state } from "./state.js";

const K = 6;

let turn = 0, done = null;

/* Asks every model about the picture on show, each at its own threshold. */
export async function compare() {
  const { shown, server } = state, { models } = server;
  if (shown && !shown.bitmap) await decode(shown);
  const usable = shown && shown.bitmap && !shown.point;
  $("models-note").hidden = Boolean(usable);
  $("models-note").textContent = "Choose a picture under Search first: it is then shown here as each model sees it.";
  if (!usable) {
    done = null;
    turn++;
    $("agree").textContent = "";
    return $("columns").replaceChildren();
  }
  const wanted = JSON.stringify([shown.name, shown.blob.size, state.pictures.indexOf(shown), models.map((m) => m.identity), looks(), look()]);
  if (wanted === done) return;
  done = wanted;
  const mine = ++turn, columns = models.map(column);
  $("columns").replaceChildren(...columns.map((c) => c.section));
  $("agree").textContent = "";
  const small = await shrink(shown);
  const asked = models.map((model, i) => fill(columns[i], model, shown, small).catch((error) => {
    if (mine === turn) {
      /* Whoever comes back asks again. */
      done = null;
      columns[i].note.textContent = error.message;
    }
    if (error.status === 401) fail(error);
    return null;
  }));
  const masks = await Promise.all(asked);
  if (mine === turn) agreement(models, masks);
}

function column(model) {
  const canvas = el("canvas", { attrs: { role: "img", "aria-label": "as " + model.name + " sees it" } });
  const list = el("dl"), note = el("p", { className: "soft", textContent: "looking…" }), near = el("ol", { className: "grid small-cards" });
  const section = el("section", { className: "card" }, el("h2", { className: "model", textContent: model.name }), el("div", { className: "well" }, canvas), list, note, near);
  return { section, canvas, list, note, near };
}

async function fill({ canvas, list, note, near }, model, picture, small) {
  const names = Object.entries(looks()).filter(([, v]) => v !== null);
  const gallery = state.server.gallery && model.identity === state.server.models[0].identity;
  const query = new URLSearchParams([...names, ["model", model.name], ...(gallery ? [["k", K]] : [])]);
  const body = small || picture.blob, [w, h] = fit(picture.bitmap, 360, 300);
  const headers = { ...headersOf(picture, "application/json"), ...(body.type.startsWith("image/") && { "content-type": body.type }) };
  const path = (model.maps ? "/v1/analyze?" : "/v1/embed?") + (model.maps ? query : new URLSearchParams({ model: model.name }));
  const start = performance.now();
  const answer = (await readJson(ask(path, { method: "POST", headers, body }))).results[0];
  const rows = [["Encoder", model.encoder], ["Numbers", String(answer.embedding.length)], ["Time", Math.round(performance.now() - start) + " ms"]];
  let mask = null;
  if (answer.saliency) {
    const map = read(answer.saliency.grid, looks().refine ? await refined(answer.saliency, answer) : null);
    mask = { cells: foreground(map, answer.saliency.deviations), grid: map.pixels || map, crop: answer.saliency.crop, answer };
    draw(canvas, picture.bitmap, [w, h], { ...look(), deviations: answer.saliency.deviations, map, answer });
    rows.unshift(["Foreground", Math.round(answer.saliency.foreground_ratio * 100) + " %"], ["Parts", String(answer.saliency.boxes.length)]);
    rows.push(["Map", model.saliency.rule || ""]);
  } else {
    draw(canvas, picture.bitmap, [w, h], null);
  }
  terms(list, rows.filter(([, v]) => v));
  note.textContent = "";
  await neighbours({ note, near }, model, answer);
  return mask;
}

/* The nearest of the gallery, where it is this model's, else of the model's first collection. */
async function neighbours({ note, near }, model, answer) {
  const own = state.collections.filter((c) => c.identity === model.identity && c.count);
  const chosen = own.find((c) => "/" + c.name === $("source").value) || own[0];
  if (answer.neighbours && !(chosen && "/" + chosen.name === $("source").value)) {
    note.textContent = "Nearest in the gallery";
    near.replaceChildren(...answer.neighbours.map(galleryCard));
    scale(near, answer.neighbours.map((n) => n.cosine), "");
  } else if (chosen) {
    const { hits } = await json(of(chosen.name, "/search"), { vector: answer.embedding, identity: model.identity, limit: K });
    note.textContent = "Nearest in " + chosen.name;
    near.replaceChildren(...hits.map((hit) => pointCard(chosen.name, hit)));
    scale(near, hits.map((hit) => hit.score), chosen.name);
  } else {
    note.textContent = "Nothing here is searched by this model.";
  }
}

/* Whether a point of the picture, in fractions, is foreground; null where the model does not see it. */
function at({ cells, grid, crop, answer }, x, y) {
  const u = (x * answer.width - crop.x) / crop.width, v = (y * answer.height - crop.y) / crop.height;
  if (u < 0 || v < 0 || u >= 1 || v >= 1) return null;
  return cells[Math.floor(v * grid.height) * grid.width + Math.floor(u * grid.width)];
}

/* How far the models' foregrounds agree: intersection over union where both see the picture. */
function agreement(models, masks) {
  const words = [], N = 96;
  for (let a = 0; a < masks.length; a++) {
    for (let b = a + 1; b < masks.length; b++) {
      if (!masks[a] || !masks[b]) continue;
      let both = 0, either = 0;
      for (let i = 0; i < N * N; i++) {
        const p = [(i % N + 0.5) / N, (Math.floor(i / N) + 0.5) / N], [s, t] = [at(masks[a], ...p), at(masks[b], ...p)];
        if (s === null || t === null) continue;
        both += s && t ? 1 : 0;
        either += s || t ? 1 : 0;
      }
      words.push("The foregrounds of " + models[a].name + " and " + models[b].name + " agree to " + Math.round((either ? both / either : 1) * 100) + " % (intersection over union).");
    }
  }
  $("agree").textContent = words.join(" ");
  tell(words.join(" ") || models.length + " models");
}
