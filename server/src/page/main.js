/* The page's beginning: what belongs to each control. */

import { $, arrows } from "./dom.js";
import { calm } from "./api.js";
import { start as startBrowse, browse } from "./browse.js";
import { commands, copy } from "./commands.js";
import { compare } from "./compare.js";
import { canvasOf, start as startEdit } from "./edit.js";
import { addShown, changed, clearExamples } from "./examples.js";
import { applied, refresh, start as startFilters } from "./filters.js";
import { start as startKeys } from "./keys.js";
import { add, addPoint, draw, look, show } from "./look.js";
import { map, start as startMap } from "./map.js";
import { stem } from "./pictures.js";
import { drawable, marks } from "./region.js";
import { opens } from "./results.js";
import { samples } from "./samples.js";
import { save } from "./saves.js";
import { searchExamples } from "./search.js";
import { describeServer, findCollections, news, watch } from "./server.js";
import { place, state } from "./state.js";

/* Milliseconds after which the page is shown even without an answer. */
const LATE = 600;

const VIEWS = ["search", "browse", "map", "models"];

/* The address names a view, and after a slash the collection: `#browse/photos`. */
const named = () => location.hash.slice(1).split("/");
const view = () => (VIEWS.includes(named()[0]) ? named()[0] : "search");

/* Keeps a place that somebody chose in the address, and in the links to the other views. */
function keepPlace() {
  if (!state.picked) return;
  const rest = place() ? "/" + place() : "";
  for (const link of document.querySelectorAll("nav a")) link.hash = "#" + link.hash.slice(1).split("/")[0] + rest;
  if (rest || named()[1]) history.replaceState(null, "", "#" + view() + rest);
}

/* Chooses the place that the address names, once it is known. */
function takePlace() {
  const wanted = "/" + (named()[1] || ""), { options, value } = $("source");
  if (!named()[1] || value === wanted || ![...options].some((o) => o.value === wanted)) return;
  $("source").value = wanted;
  state.picked = true;
  news.places(true);
}

/* Shows the view that the address names. */
function turnTo() {
  const now = view();
  for (const name of VIEWS) $("view-" + name).hidden = name !== now;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash.slice(1).split("/")[0] === now) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = now;
  if (now === "search") {
    draw();
    samples();
  }
  if (now === "browse") browse();
  if (now === "map") map();
  if (now === "models") compare();
}

function go(name) {
  if (view() === name) turnTo();
  else location.hash = name + (state.picked && place() ? "/" + place() : "");
}

/* Searches by the picture on show, whatever was searched for before. */
function byPicture() {
  state.query = "picture";
  look();
}

/* Searches again for whatever was searched for. */
function again() {
  if (state.query === "examples") searchExamples();
  else if (state.shown) look();
}

function given(files, number = null) {
  if (!files.length) return;
  go("search");
  add(files, number);
}

function files() {
  for (const id of ["pick", "again"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    given([...$("file").files]);
    $("file").value = "";
  });
  addEventListener("paste", (e) => {
    if (!e.clipboardData.files.length) return;
    e.preventDefault();
    given([...e.clipboardData.files]);
  });
  addEventListener("dragover", (e) => {
    e.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (e) => {
    e.preventDefault();
    document.body.classList.remove("over");
    given([...e.dataTransfer.files]);
  });
}

function looking() {
  const asks = () => { if (state.shown) look(); };
  /* While the slider moves the page computes; once it rests the server is asked. */
  $("threshold").addEventListener("input", draw);
  $("threshold").addEventListener("change", asks);
  $("reset").addEventListener("click", () => {
    $("threshold").value = state.rule;
    draw();
    asks();
  });
  for (const control of [...document.querySelectorAll("[name=window]"), $("mirror"), $("refine")]) control.addEventListener("change", asks);
  for (const id of ["opacity", "line", "box", "crop"]) $(id).addEventListener("input", draw);
  for (const radio of document.querySelectorAll("[name=view]")) radio.addEventListener("change", draw);
  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => save(button.dataset.save));
  const armed = () => $("arm").getAttribute("aria-pressed") === "true";
  $("arm").addEventListener("click", () => $("arm").setAttribute("aria-pressed", String(!armed())));
  drawable($("canvas"), armed);
  Object.assign(marks, { draw, search: byPicture });
  canvasOf.draw = draw;
  startEdit();
  addEventListener("resize", draw);
}

/* Whoever opens a card goes on at the picture: the card is gone with the next results. */
function atStage() {
  $("drop").hidden = true;
  $("stage").hidden = false;
  $("stage").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function searching() {
  $("which").addEventListener("change", () => {
    describeServer(state.server);
    if (state.shown) look();
    if (view() === "models") compare();
  });
  $("source").addEventListener("change", () => {
    state.picked = true;
    news.places(true);
  });
  news.places = (moved) => {
    if (!state.picked && named()[1]) {
      const had = place();
      takePlace();
      if (place() !== had) return;
    } else {
      keepPlace();
    }
    refresh(!moved);
    if (moved) {
      calm();
      again();
    }
    if (view() !== "search" || !state.shown) turnTo();
  };
  news.rule = draw;
  news.models = () => { if (view() === "models") compare(); };
  applied.call = () => {
    again();
    if (view() !== "search") turnTo();
  };
  opens.point = (point, blob) => {
    go("search");
    addPoint(point, blob);
    atStage();
  };
  opens.file = (file, number) => {
    given([file], number);
    atStage();
  };
  changed.call = () => { if (state.query === "examples" && state.examples.length) searchExamples(); };
  $("inspect").addEventListener("click", () => {
    const { blob, name } = state.shown;
    add([new File([blob], stem(name) + "-thumbnail.jpg", { type: blob.type })]);
  });
  $("example").addEventListener("click", () => addShown(1));
  $("by-examples").addEventListener("click", () => {
    go("search");
    searchExamples();
  });
  $("no-examples").addEventListener("click", () => {
    clearExamples();
    if (state.query === "examples" && state.shown) byPicture();
  });
  $("more").addEventListener("click", () => {
    state.limit = Math.min(state.limit * 4, 1000);
    again();
  });
  $("try-more").addEventListener("click", () => samples(true));
  for (const id of ["found", "tries", "map-near"]) arrows($(id));
}

function start() {
  files();
  looking();
  searching();
  startBrowse();
  startFilters();
  startMap();
  startKeys(show, go);
  $("made").addEventListener("change", commands);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  $("locked").addEventListener("submit", (e) => {
    e.preventDefault();
    sessionStorage.setItem("key", $("key").value.trim());
    $("key").value = "";
    $("locked").hidden = true;
    calm();
    (state.shown ? $("again") : $("pick")).focus();
    findCollections();
    turnTo();
    if (state.shown) look();
  });
  document.querySelector(".skip").addEventListener("click", (e) => {
    e.preventDefault();
    $("work").focus();
  });
  addEventListener("hashchange", () => {
    takePlace();
    turnTo();
    keepPlace();
  });
  /* On a narrow page the neighbours come before the controls, which are folded. */
  if (matchMedia("(max-width: 860px)").matches) for (const details of document.querySelectorAll("#controls details")) details.open = false;
  draw();
  turnTo();
  /* What the server says decides what is there: nothing is shown that would move a moment later. */
  const known = Promise.all([watch(), findCollections()]), late = new Promise((done) => setTimeout(done, LATE));
  Promise.race([known, late]).then(() => {
    document.body.classList.add("started");
    if (!$("locked").hidden) $("key").focus();
  });
}

start();
