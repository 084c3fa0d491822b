/* Keys for everything that is done often. */

import { $, shortcut } from "./dom.js";
import { addShown } from "./examples.js";
import { beside } from "./pictures.js";
import { mark } from "./region.js";
import { state } from "./state.js";

const VIEWS = { 1: "search", 2: "browse", 3: "map", 4: "models" }, DRAWN = { h: "heat", m: "mask", p: "none" };

/* Listens; `show` shows a picture, `go` a view. */
export function start(show, go) {
  const dialog = $("help");
  $("help-open").addEventListener("click", () => dialog.showModal());
  addEventListener("keydown", (e) => {
    const writing = e.target.closest("input:not([type=radio], [type=checkbox], [type=range]), select, textarea, dialog[open]");
    if (shortcut(e) || writing || e.defaultPrevented) return;
    if (press(e.key, show, go)) e.preventDefault();
  });
}

/* Whether the key means something. */
function press(key, show, go) {
  if (key === "?") $("help").showModal();
  else if (VIEWS[key]) go(VIEWS[key]);
  else if (key === "o") $("file").click();
  else if (key === "/" && !$("filters").hidden) $("filter-key").focus();
  else if (key === "s" && !$("sources").hidden) $("source").focus();
  else return state.shown && !$("view-search").hidden ? onPicture(key, show) : false;
  return true;
}

function onPicture(key, show) {
  const next = { j: 1, k: -1 }[key];
  if (next && beside(next)) show(beside(next));
  else if (DRAWN[key]) document.querySelector("[name=view][value=" + DRAWN[key] + "]").click();
  else if (key === "[" || key === "]") nudge(key === "]" ? 0.05 : -0.05);
  else if (key === "e") addShown(1);
  else if (key === "x") addShown(-1);
  else if (key === "b") $("arm").click();
  else if (key === "w" && !state.shown.point) $("edit").click();
  else if (key === "Escape" && state.shown.box) mark(null);
  else return false;
  return true;
}

let rest = 0;

/* Moves the threshold; once it rests the server is asked. */
function nudge(step) {
  $("threshold").value = Number($("threshold").value) + step;
  $("threshold").dispatchEvent(new Event("input"));
  clearTimeout(rest);
  rest = setTimeout(() => $("threshold").dispatchEvent(new Event("change")), 400);
}
