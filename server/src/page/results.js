/* What was found, as cards: thumbnails, names, scores, and what can be done with each. */

import { $, el, span } from "./dom.js";
import { ask, fail, readBlob, thumbnail } from "./api.js";
import { addExample } from "./examples.js";
import { blobOf, brief, pictureOf, title } from "./payload.js";
import { sample } from "./sample.js";
import { place, state } from "./state.js";

/* Called with what somebody opens: set once, by main.js. */
export const opens = { point: () => {}, file: () => {} };

function score(cosine) {
  const how = span("how", "");
  how.style.setProperty("--cos", cosine);
  how.append(el("i"), cosine.toFixed(3));
  return how;
}

function picture(source) {
  if (!source) return span("none", "no picture");
  const img = el("img", { alt: "", decoding: "async" });
  if (source.startsWith("data:")) img.src = source;
  else thumbnail(source, img);
  return img;
}

/* A card: {name, where, facts, image, cosine, open, example}. */
function card({ name, where, facts = [], image, cosine, open, example }) {
  const button = el("button", { className: "open", title: where + ": search by this one", on: { click: open } });
  button.append(picture(image), span("what", name), ...(where === name ? [] : [span("where", where)]));
  button.append(...facts.map(([k, v]) => span("where", k + ": " + v)));
  if (cosine !== undefined) button.append(score(cosine));
  const li = el("li", { className: "hit" }, button);
  if (example) {
    const add = (sign) => () => addExample({ name: where, thumb: image, sign, ...example });
    const more = { className: "sign", textContent: "+", title: "More like this one", ariaLabel: "More like " + where, on: { click: add(1) } };
    const less = { className: "sign", textContent: "−", title: "Less like this one", ariaLabel: "Less like " + where, on: { click: add(-1) } };
    li.append(el("span", { className: "signs" }, el("button", more), el("button", less)));
  }
  return li;
}

/* A card of a point of a collection; `cosine` where it was found by a search. */
export function pointCard(collection, { id, payload, score: cosine }) {
  const image = pictureOf(payload), point = { collection, id, payload };
  const open = () => opens.point(point, image && blobOf(image));
  return card({ name: title(id, payload), where: id, facts: brief(id, payload), image, cosine, open, example: { point } });
}

/* A card of a picture of the gallery. */
export function galleryCard({ id, path, class: named, cosine, thumbnail: address }) {
  const where = path || "No. " + (id + 1);
  const fetch = () => readBlob(ask(address));
  const open = async () => {
    try {
      const blob = await fetch();
      const stem = path ? path.split("/").pop().replace(/\.[^.]*$/, "") : "picture-" + (id + 1);
      opens.file(new File([blob], stem + "-thumbnail.jpg", { type: blob.type }), id);
    } catch (error) { fail(error); }
  };
  /* Only collections are searched by examples. */
  const example = state.collections.length ? { fetch } : null;
  return card({ name: named || where.split("/").pop(), where, image: address, cosine, open, example });
}

/* Shows rows, or says why there are none. */
export async function found(rows, cosines, words = "Nothing is near.") {
  $("near-note").hidden = rows.length > 0;
  $("near-note").textContent = words;
  $("found").replaceChildren(...rows);
  $("scale").textContent = "";
  const asked = place(), typical = await scale($("found"), cosines, asked);
  if (typical === null || place() !== asked || !$("found").contains(rows[0])) return;
  $("scale").textContent = "Bars run from " + typical.toFixed(3) + ", the mean cosine of two pictures here, to 1.";
}

/* Bars begin where any two pictures of the place are, and end at 1: what lies below tells nothing apart. Gives that
   beginning, or null where it is unknown. */
export async function scale(list, cosines, name) {
  if (!cosines.length) return null;
  const least = Math.min(...cosines), set = (low) => list.style.setProperty("--low", Math.min(low, 0.9999));
  set(least - (1 - least) / 4);
  try {
    const { typical } = await sample(name);
    if (typical !== null) set(typical);
    return typical;
  } catch { return null; }
}
