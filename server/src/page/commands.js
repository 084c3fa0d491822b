/* The same requests as commands: exactly those that were made, the newest first. */

import { $, options } from "./dom.js";
import { below, key } from "./api.js";
import { state } from "./state.js";

/* Keeps a request: {path, headers, picture, small, save} for a file, with `wrap` where JSON goes around it, {path,
   json, name} for JSON alone, or {path, get, name} for nothing. */
export function remember(request) {
  const made = { ...request, key: Boolean(key()), title: (request.picture ? request.picture.name : request.name) + " → " + request.path };
  state.requests = [made, ...state.requests.filter((r) => r.title !== made.title)].slice(0, 8);
  options($("made"), state.requests.map((r, i) => [String(i), r.title]));
  $("made").value = "0";
  $("requests").hidden = state.requests.length < 2;
  $("same-note").hidden = true;
  $("code").hidden = false;
  commands();
}

const quote = (s) => "'" + s.replaceAll("'", "'\\''") + "'";

/* JSON as the body, with the picture's base64 in it where there is a picture. */
function wrapped(r) {
  const fields = JSON.stringify(r.wrap).slice(1).replaceAll("\\", "\\\\").replaceAll("%", "%%");
  return "printf " + quote('{"image": "%s", ' + fields) + ' "$(base64 -w0 ' + quote(r.picture.name) + ')" | ';
}

const headersOf = (r) => (r.get ? [] : r.json || r.wrap ? [["content-type", "application/json"]] : Object.entries(r.headers));

function curl(r) {
  const headers = headersOf(r);
  const data = r.json ? JSON.stringify(r.json) : r.wrap ? "@-" : r.get ? "" : "@" + r.picture.name;
  const parts = ["curl -sS --fail-with-body" + (r.get ? "" : " --data-binary " + quote(data)), ...headers.map(([k, v]) => "-H " + quote(k + ": " + v))];
  if (r.key) parts.push('-H "authorization: Bearer $OCCLUDE_KEY"');
  parts.push(quote(below(r.path)));
  if (r.save) parts.push("-o " + quote(r.save));
  return (r.wrap ? wrapped(r) : "") + parts.join(" \\\n  ");
}

function python(r) {
  const s = JSON.stringify, reads = !r.save;
  const open = r.picture && "open(" + s(r.picture.name) + ', "rb").read()';
  const data = r.json ? "json.dumps(json.loads(" + s(s(r.json)) + ")).encode()"
    : r.wrap ? "json.dumps({**json.loads(" + s(s(r.wrap)) + '), "image": base64.b64encode(' + open + ").decode()}).encode()" : open;
  const uses = [r.wrap && "base64", (reads || r.json || r.wrap) && "json", r.key && "os", "urllib.request"].filter(Boolean);
  const lines = headersOf(r).map(([k, v]) => s(k) + ": " + s(v));
  if (r.key) lines.push('"authorization": "Bearer " + os.environ["OCCLUDE_KEY"]');
  return "import " + uses.join(", ") + "\n\nrequest = urllib.request.Request(\n    " + s(below(r.path)) + "" + (r.get ? "" : ",\n    data=" + data)
    + ",\n    headers={" + lines.join(", ") + "},\n)\nwith urllib.request.urlopen(request) as answer:\n    "
    + (reads ? "print(json.load(answer))" : "open(" + s(r.save) + ', "wb").write(answer.read())');
}

/* The request that is chosen. */
export const request = () => state.requests[Number($("made").value)];

/* Shows the request that is chosen. */
export function commands() {
  const r = request();
  if (!r) return;
  $("curl").textContent = curl(r);
  $("python").textContent = python(r);
  $("key-note").hidden = !r.key;
  $("small-note").hidden = !r.small;
  $("part-note").hidden = !r.part;
}

/* Copies a command, also where the page is no secure context and has no clipboard. */
export async function copy(button) {
  const word = button.firstChild, source = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  word.textContent = "Copied";
  setTimeout(() => { word.textContent = "Copy"; }, 1500);
}
