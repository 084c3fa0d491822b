/* What the page knows. Every part of it reads and writes this one object. */

export const state = {
  /* All pictures that were given, and the one on show: {blob, small, name, bitmap, thumb, path, answer, identity, point,
     number, box}; `identity` is of the model that gave the answer. A picture with a `point` is a point of a collection: {collection, id, payload}; one with a `number` is the
     thumbnail of that picture of the gallery. `box` is the part of the picture that
     is searched for, [x, y, width, height] in its pixels; null is all of it. */
  pictures: [],
  shown: null,
  /* Grid, mean and deviation of the picture on show; its mask, where the server refined it. */
  map: null,
  /* The threshold of the model that is chosen. */
  rule: -0.6,
  /* What `/readyz` says, and the collections. */
  server: { gallery: null, models: [] },
  collections: [],
  /* The requests that were made, the newest first. */
  requests: [],
  /* Whether somebody has chosen where to search. */
  picked: false,
  /* How many neighbours are asked for. */
  limit: 12,
  /* What is searched for: "picture" (the one on show) or "examples". */
  query: "picture",
  /* {name, sign, thumb, and a point, a blob, or how to fetch one}; `sign` is 1 for more like it, -1 for less. */
  examples: [],
  /* Conditions on payloads: {key, op, value}. */
  filters: [],
};

/* What is searched: "" is the gallery, a name that collection, null nothing at all. */
export function place() {
  const source = document.getElementById("source");
  return source.options.length ? source.value.slice(1) : null;
}

/* The collection that is chosen. */
export const collection = () => state.collections.find((c) => c.name === place());

/* The model that is chosen. */
export function chosen() {
  const { models } = state.server;
  return models.find((m) => m.name === document.getElementById("which").value) || models[0];
}

/* The gallery is the first model's; vectors of another are not comparable. */
export const fits = () => !chosen() || chosen().identity === state.server.models[0].identity;

/* What the model that is chosen said of a picture; another may have been chosen since, or put in its place. */
export const answerOf = ({ answer, identity }) => (answer && chosen() && identity === chosen().identity ? answer : null);
