/* Something to try on an empty page. */

import { $ } from "./dom.js";
import { json, key, of } from "./api.js";
import { pictureOf } from "./payload.js";
import { galleryCard, pointCard } from "./results.js";
import { sample, someOfGallery } from "./sample.js";
import { collection, place, state } from "./state.js";

const SHOWN = 8;

let shown = null;
/* Where among them the cards begin. */
let from = 0;

/* Shows some pictures of what is chosen, by chance, until there is one to look at. */
export async function samples(again = false) {
  const wanted = [place(), (collection() || {}).count, (state.server.gallery || {}).images, key()].join();
  if (state.shown || !$("locked").hidden || (wanted === shown && !again)) return;
  shown = wanted;
  from = again ? from + SHOWN : 0;
  const name = place();
  let cards = [];
  if (name === "") {
    cards = someOfGallery(SHOWN).map((id) => galleryCard({ id, thumbnail: "/v1/gallery/" + id + "/thumbnail" }));
  } else if (name) {
    try {
      cards = (await pointsOf(name)).map(({ id, payload }) => pointCard(name, { id, payload }));
    } catch { /* Whatever is wrong is said where somebody asks for something. */ }
    if (wanted !== shown) return;
  }
  $("try").hidden = !cards.length || Boolean(state.shown);
  $("tries").replaceChildren(...cards);
}

async function pointsOf(name) {
  const { points } = await sample();
  const seen = points.filter((p) => pictureOf(p.payload)), list = seen.length ? seen : points;
  const first = from % list.length;
  if (list.length) return [...list.slice(first), ...list.slice(0, first)].slice(0, SHOWN);
  return (await json(of(name, "/points/scroll"), { limit: SHOWN })).points;
}
