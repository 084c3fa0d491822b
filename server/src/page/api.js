/* Requests to this server, and what it says when something is wrong. */

import { $ } from "./dom.js";

/* An address below the page's own: a proxy may put the server below a path. */
export const below = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

export const key = () => sessionStorage.getItem("key");

export class Failure extends Error {
  constructor(message, hint, id, status) {
    super(message);
    Object.assign(this, { hint, id, status });
  }
}

/* Hints that name our programs are for whoever runs the server. */
const operators = /\bocclude-(export|serve|train)\b/;

const sentence = (words) => words[0].toUpperCase() + words.slice(1).replace(/[.?]?$/, (end) => end || ".");

/* Shows a failure of the server; anything else is an error of the page, and is thrown. */
export function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Failure)) throw error;
  $("what").textContent = sentence(error.message);
  $("hint").textContent = operators.test(error.hint) ? "Whoever runs this server can help." : error.hint ? sentence(error.hint) : "";
  $("id").textContent = error.id ? "Request " + error.id : "";
  $("error").hidden = error.status === 401 && !key();
  if (error.status === 401) {
    $("locked").hidden = false;
    $("key").focus();
  }
}

export function calm() {
  $("error").hidden = true;
}

/* Asks the server; a failure is thrown in the server's own words. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = "Bearer " + key();
  let answer;
  try {
    answer = await fetch(below(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server did not answer", "is it still running, and is the picture no larger than it accepts?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const { message, hint, request_id } = said.error || { message: "The server answered " + answer.status };
  throw new Failure(message, hint, request_id, answer.status);
}

/* What `ask` promises, read: a body that breaks off or makes no sense is a failure as well. */
async function body(asked, kind) {
  const answer = await asked;
  try {
    return await answer[kind]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server's answer cannot be read", "did the connection break off?");
  }
}

export const readJson = (asked) => body(asked, "json");
export const readBlob = (asked) => body(asked, "blob");

/* Sends JSON and reads JSON. */
export function json(path, sent, signal) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  return readJson(ask(path, { method: "POST", headers, body: JSON.stringify(sent), signal }));
}

/* The path of a collection's route. */
export const of = (name, route) => "/v1/collections/" + encodeURIComponent(name) + route;

/* Shows a picture of the server in an `img`, which cannot send a key itself. */
export async function thumbnail(path, img) {
  if (!key()) {
    img.loading = "lazy";
    img.src = below(path);
    return;
  }
  try {
    img.src = URL.createObjectURL(await readBlob(ask(path)));
    img.onload = () => URL.revokeObjectURL(img.src);
  } catch { /* The name and the number are there without it. */ }
}
