/* Arithmetic on saliency maps, the same as the server's; nothing here touches the page. */

const COLOURS = [[10, 10, 40], [72, 20, 110], [158, 42, 99], [226, 89, 52], [249, 166, 40], [252, 250, 170]];

/* Longest side of the cells that a refined mask is drawn by. */
const CELLS = 256;

function colour(v) {
  const at = Math.min(Math.max(v, 0), 1) * (COLOURS.length - 1), i = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[i].map((c, k) => c + (COLOURS[i + 1][k] - c) * (at - i));
}

/* A map of the server's as the page uses it; `pixels` is the refined mask, or null. */
export function read(grid, pixels) {
  const values = grid.values.map(Math.fround), n = values.length;
  const low = Math.min(...values), span = Math.max(...values) - low;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / n);
  const unit = values.map((v) => (span > 0 ? (v - low) / span : 1));
  return { ...grid, pixels, values, mean, deviation, unit };
}

/* The foreground of a refined map is pixels: the part of the server's mask that the model saw, as cells. */
export async function refined({ mask, crop }, { width, height }) {
  const bytes = Uint8Array.from(atob(mask.png), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const scale = Math.min(1, CELLS / Math.max(crop.width, crop.height));
  const [w, h] = [crop.width, crop.height].map((side) => Math.max(1, Math.round(side * scale)));
  const paint = new OffscreenCanvas(w, h).getContext("2d");
  paint.imageSmoothingEnabled = false;
  const [x, y] = [bitmap.width / width, bitmap.height / height];
  paint.drawImage(bitmap, crop.x * x, crop.y * y, crop.width * x, crop.height * y, 0, 0, w, h);
  bitmap.close();
  const { data } = paint.getImageData(0, 0, w, h);
  return { width: w, height: h, cells: Array.from({ length: w * h }, (_, i) => data[i * 4] > 127) };
}

/* The saliency of the crop at n x n points, bilinear as the server's own pictures. */
function field({ width: w, height: h, unit }, n) {
  const out = new Float32Array(n * n);
  const tap = (i, cells) => {
    const p = Math.min(Math.max((i + 0.5) / n * cells - 0.5, 0), cells - 1), l = Math.floor(p);
    return [l, Math.min(l + 1, cells - 1), p - l];
  };
  for (let y = 0; y < n; y++) {
    const [t, b, v] = tap(y, h);
    for (let x = 0; x < n; x++) {
      const [l, r, u] = tap(x, w), at = (a, c) => unit[a * w + c];
      out[y * n + x] = (at(t, l) * (1 - u) + at(t, r) * u) * (1 - v) + (at(b, l) * (1 - u) + at(b, r) * u) * v;
    }
  }
  return out;
}

/* The map as a square picture. */
export function tint(map) {
  const n = 448, values = field(map, n), made = new OffscreenCanvas(n, n), paint = made.getContext("2d");
  const pixels = paint.createImageData(n, n);
  for (let i = 0; i < n * n; i++) pixels.data.set([...colour(values[i]), 255], i * 4);
  paint.putImageData(pixels, 0, 0);
  return made;
}

/* The cells that the server calls foreground: at or above mean + deviations * deviation, in the same arithmetic; of a
   refined map what it said last. */
export function foreground(map, deviations) {
  if (map.pixels) return map.pixels.cells;
  const limit = map.mean + deviations * map.deviation;
  return map.values.map((v) => v >= limit);
}

/* Columns and rows of what foreground() gives. */
const grid = (map) => map.pixels || map;

/* The boxes around the 4-connected parts of the cells, largest first, in fractions of the crop. */
export function parts(map, cells) {
  const { width: w, height: h } = grid(map), seen = new Uint8Array(w * h), found = [];
  for (let start = 0; start < w * h; start++) {
    const part = [], stack = [start];
    while (stack.length) {
      const i = stack.pop();
      if (seen[i] || !cells[i]) continue;
      seen[i] = 1;
      part.push(i);
      const x = i % w;
      if (x > 0) stack.push(i - 1);
      if (x + 1 < w) stack.push(i + 1);
      if (i >= w) stack.push(i - w);
      if (i + w < w * h) stack.push(i + w);
    }
    if (part.length) found.push(part);
  }
  return found.sort((a, b) => b.length - a.length).map((part) => {
    let [l, t, r, b] = [w, h, 0, 0];
    for (const i of part) {
      const x = i % w, y = (i - x) / w;
      l = Math.min(l, x); r = Math.max(r, x); t = Math.min(t, y); b = Math.max(b, y);
    }
    return [l / w, t / h, (r + 1 - l) / w, (b + 1 - t) / h];
  });
}

/* The background's runs of cells, and the lines between foreground and background. */
export function shapes(map, cells, [left, top, width, height]) {
  const { width: w, height: h } = grid(map), squares = new Path2D(), lines = new Path2D();
  const x = (c) => left + c * width / w, y = (r) => top + r * height / h;
  const line = (a, b, c, d) => { lines.moveTo(x(a), y(b)); lines.lineTo(x(c), y(d)); };
  const at = (r, c) => r >= 0 && c >= 0 && r < h && c < w && cells[r * w + c];
  for (let r = 0; r <= h; r++) {
    for (let c = 0; c <= w; c++) {
      if (r < h && c < w && !at(r, c) && (c === 0 || at(r, c - 1))) {
        let end = c;
        while (end < w && !at(r, end)) end++;
        squares.rect(x(c), y(r), (end - c) * width / w + 0.5, height / h + 0.5);
      }
      if (at(r, c) !== at(r - 1, c)) line(c, r, c + 1, r);
      if (at(r, c) !== at(r, c - 1)) line(c, r, c, r + 1);
    }
  }
  return { squares, lines };
}
