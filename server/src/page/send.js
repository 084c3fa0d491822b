/* Sending a picture, or its smaller copy. */

import { ask, json, readJson } from "./api.js";
import { remember } from "./commands.js";

export const headersOf = (picture, accept) => ({
  "content-type": picture.blob.type.startsWith("image/") ? picture.blob.type : "application/octet-stream",
  accept,
});

/* Sends a request about a picture ({path, picture, headers, small}), and keeps it for the commands. */
export async function send(request, signal) {
  remember(request);
  const body = request.small || request.picture.blob, headers = { ...request.headers };
  if (body.type.startsWith("image/")) headers["content-type"] = body.type;
  return ask(request.path, { method: "POST", headers, body, signal });
}

/* Sends JSON, and keeps it for the commands; `name` is what it is about. */
export async function sendJson(path, body, name, signal) {
  remember({ path, json: body, name });
  return json(path, body, signal);
}

/* Asks for JSON, and keeps the request for the commands. */
export function getJson(path, name, signal) {
  remember({ path, get: true, name });
  return readJson(ask(path, { signal }));
}

/* Sends a picture within JSON, for what a bare file cannot say. */
export async function sendWrapped(request, signal) {
  remember(request);
  return json(request.path, { ...request.wrap, image: await base64(request.small || request.picture.blob) }, signal);
}

/* Bytes as a data URL. */
function base64(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
