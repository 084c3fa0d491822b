/* What the controls say: how the model looks, and how the map is drawn. */

import { $ } from "./dom.js";
import { chosen, state } from "./state.js";

const deviations = () => Number(Number($("threshold").value).toFixed(2));

/* The slider's steps may miss the model's own value. */
const nearRule = () => Math.abs(deviations() - state.rule) < 0.026;

/* The threshold to ask for; null where it is the model's own. */
export const threshold = () => (nearRule() ? null : deviations());

/* The threshold that the map is drawn at. */
export const drawn = () => threshold() ?? state.rule;

/* What is asked for besides the server's defaults. */
export const looks = () => ({
  window: document.querySelector("[name=window]:checked").value === "whole" ? "whole" : null,
  mirror: $("mirror").checked || null,
  refine: $("refine").checked || null,
});

/* How the map is drawn. */
export const look = () => ({
  view: document.querySelector("[name=view]:checked").value,
  opacity: $("opacity").value / 100,
  line: $("line").checked,
  box: $("box").checked,
  crop: $("crop").checked,
  deviations: drawn(),
});

/* A path with those parameters that differ from the server's defaults. A collection has a model of its own. */
export function route(path, wanted) {
  const names = new URLSearchParams(Object.entries(wanted).filter(([, v]) => v !== null));
  if (!path.startsWith("/v1/collections/") && state.server.models.length > 1) names.set("model", chosen().name);
  return path + (names.size ? "?" + names : "");
}

/* Writes beside the sliders what they say. */
export function label() {
  const d = deviations();
  $("opacity-out").textContent = $("opacity").value + " %";
  $("threshold-out").textContent = d.toFixed(2).replace("-", "−") + (nearRule() ? " (the model's)" : "");
  $("threshold").setAttribute("aria-valuetext", d.toFixed(2) + " standard deviations from the mean");
}

/* The slider stays at the model's threshold as long as nobody has moved it. */
export function follow(rule) {
  if (rule === state.rule) return false;
  if (threshold() === null) $("threshold").value = rule;
  state.rule = rule;
  $("rule").textContent = String(rule).replace("-", "−");
  return true;
}
