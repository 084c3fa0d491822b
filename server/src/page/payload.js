/* Payloads of points: which of their values are pictures, names or facts. */

const PICTURE = /^data:image\/(png|jpeg|webp|gif|bmp|avif);base64,/;

const isPicture = (value) => typeof value === "string" && PICTURE.test(value);

/* The first picture within a payload, as a data URL; null where there is none. */
export function pictureOf(payload) {
  return Object.values(payload || {}).find(isPicture) || null;
}

/* A data URL as a file. */
export function blobOf(url) {
  const [head, data] = [url.slice(5, url.indexOf(";")), url.slice(url.indexOf(",") + 1)];
  return new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], { type: head });
}

/* Longer values are cut. */
const LONG = 240;

function words(name, value) {
  /* Nanoseconds since 1970, as `occlude-serve index` writes them. */
  if (name === "modified" && typeof value === "number" && value > 1e15) return new Date(value / 1e6).toISOString().slice(0, 10);
  if (name === "bytes" && typeof value === "number") return Math.ceil(value / 1000) + " kB";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > LONG ? text.slice(0, LONG) + "…" : text;
}

/* Everything of a payload that can be read, as [name, words]. */
export function payloadRows(payload) {
  return Object.entries(payload || {}).filter(([, v]) => !isPicture(v)).map(([k, v]) => [k, words(k, v)]);
}

/* What a card calls a point. */
export function title(id, payload) {
  const named = ["title", "name", "class", "label"].map((k) => (payload || {})[k]).find((v) => typeof v === "string" && v);
  return named || id;
}

/* What a card says of a point besides its title and id. */
export function brief(id, payload) {
  const dull = ["path", "bytes", "modified"];
  return payloadRows(payload).filter(([k, v]) => !dull.includes(k) && v !== id && v !== title(id, payload)).slice(0, 3);
}

/* Every value that a filter could name, as [key, value]: dots lead into objects, arrays hold several. */
export function* values(payload, before = "") {
  for (const [name, value] of Object.entries(payload || {})) {
    const key = before + name;
    if (isPicture(value) || value === null) continue;
    if (Array.isArray(value)) {
      for (const v of value) if (typeof v !== "object") yield [key, v];
    } else if (typeof value === "object") {
      yield* values(value, key + ".");
    } else {
      yield [key, value];
    }
  }
}
