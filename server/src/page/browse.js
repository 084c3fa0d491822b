/* The pictures of a collection or of the gallery, page by page as somebody scrolls. */

import { $, arrows, number, tell } from "./dom.js";
import { ask, calm, fail, json, of, readJson } from "./api.js";
import { asFilter } from "./filters.js";
import { galleryCard, pointCard } from "./results.js";
import { collection, place, state } from "./state.js";

const PAGE = 48;

/* What is listed: place and filter, and where its next page begins; null at the end. A page that failed is not asked for
   again until somebody does. */
let listed = null, next = null, loading = false, failed = false, turn = 0;

/* Lists what is chosen, from the start unless it is listed already. */
export async function browse() {
  const wanted = JSON.stringify([place(), asFilter(), collection() && collection().count, (state.server.gallery || {}).images]);
  if (wanted === listed) return;
  listed = wanted;
  turn++;
  loading = failed = false;
  next = "";
  $("shelf").replaceChildren();
  $("shelf-note").hidden = false;
  $("shelf-note").textContent = place() === null ? "This server has neither a gallery nor collections." : "…";
  $("shelf-more").hidden = true;
  if (place() === null) return;
  count();
  await more();
}

async function count() {
  const mine = turn, { name, count: all } = collection() || {}, filter = asFilter();
  let words = number(all ?? state.server.gallery.images) + (name ? " points in " + name : " pictures in the gallery");
  if (name && filter) {
    $("shelf-title").textContent = "Counting…";
    try {
      words = number((await json(of(name, "/count"), { filter })).count) + " of " + words;
    } catch (error) {
      if (mine === turn) fail(error);
      return;
    }
  }
  if (mine !== turn) return;
  $("shelf-title").textContent = words;
  tell(words);
}

/* The next page of what is listed. */
async function more() {
  if (loading || next === null) return;
  const mine = turn;
  loading = true;
  try {
    const rows = collection() ? await points(mine) : await pictures(mine);
    if (mine !== turn) return;
    $("shelf").append(...rows);
    $("shelf-note").hidden = $("shelf").children.length > 0;
    $("shelf-note").textContent = asFilter() ? "Nothing fits the filter." : "There is nothing in it.";
    $("shelf-more").hidden = next === null;
  } catch (error) {
    if (mine !== turn) return;
    listed = null;
    failed = true;
    $("shelf-note").textContent = "The server did not list it.";
    $("shelf-more").hidden = false;
    fail(error);
  } finally {
    if (mine === turn) loading = false;
  }
  /* A tall window is not filled by one page. */
  if (mine === turn && next !== null && near()) more();
}

async function points(mine) {
  const { name } = collection(), filter = asFilter();
  const page = await json(of(name, "/points/scroll"), { limit: PAGE, ...(next && { after: next }), ...(filter && { filter }) });
  if (mine === turn) next = page.next;
  return page.points.map((point) => pointCard(name, point));
}

async function pictures(mine) {
  const page = await readJson(ask("/v1/gallery?from=" + (next || 0) + "&limit=" + PAGE));
  if (mine === turn) next = page.next;
  return page.pictures.map(galleryCard);
}

const near = () => !failed && !$("view-browse").hidden && $("shelf-more").getBoundingClientRect().top < innerHeight + 600;

export function start() {
  arrows($("shelf"));
  $("shelf-more").addEventListener("click", async () => {
    const had = $("shelf").children.length;
    failed = false;
    calm();
    await more();
    $("shelf").children[had]?.querySelector(".open").focus();
  });
  addEventListener("scroll", () => { if (near()) more(); }, { passive: true });
}
