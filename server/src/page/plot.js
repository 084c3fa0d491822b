/* Points on a canvas, up to some hundred thousand: drawn pixel by pixel, moved, enlarged and picked. */

import { shortcut } from "./dom.js";

const BACK = 0;

/* Colours of the groups, told apart in both schemes; the last is for everything else. */
export const COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#c4a000", "#17a2a2", "#ff7fa7", "#9c755f", "#6f5bd0", "#2ca0dd", "#8c8c85"];

const abgr = (hex) => {
  const v = parseInt(hex.slice(1), 16);
  return (0xff000000 | (v & 0xff) << 16 | (v & 0xff00) | v >> 16) >>> 0;
};

/* A plot; `on` has what is called: pick(index or -1), open(index), selected(indices). */
export class Plot {
  constructor(canvas, on) {
    Object.assign(this, { canvas, on, xy: new Float32Array(0), groups: null, lit: null, zoom: 1, touched: false, x: 0, y: 0, hot: -1, box: null, selecting: false });
    this.ink = COLOURS.map(abgr);
    this.pointers = new Map();
    this.listen();
  }

  get count() { return this.xy.length / 2; }

  /* Shows other points, all of them in view. */
  show(xy) {
    this.xy = xy;
    this.heat(-1);
    this.home();
  }

  home() {
    this.touched = false;
    let [l, t, r, b] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < this.xy.length; i += 2) {
      l = Math.min(l, this.xy[i]); r = Math.max(r, this.xy[i]);
      t = Math.min(t, this.xy[i + 1]); b = Math.max(b, this.xy[i + 1]);
    }
    const { clientWidth: w, clientHeight: h } = this.canvas;
    this.zoom = 0.92 * Math.min(w / (r - l || 1), h / (b - t || 1));
    this.x = w / 2 - this.zoom * (l + r) / 2;
    this.y = h / 2 - this.zoom * (t + b) / 2;
    this.draw();
  }

  /* Draws once, however often it is asked before the next frame. */
  draw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas, xy, count } = this, dots = Math.min(devicePixelRatio || 1, 2);
    const w = Math.round(canvas.clientWidth * dots), h = Math.round(canvas.clientHeight * dots);
    if (!w || !h) return;
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
      this.image = new ImageData(w, h);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.pixels.fill(BACK);
    const paint = canvas.getContext("2d"), zoom = this.zoom * dots, dx = this.x * dots, dy = this.y * dots;
    const size = Math.max(1, Math.round((count > 20000 ? 1.5 : count > 4000 ? 2.5 : 4) * dots)), half = size >> 1;
    /* A stride through all of them, so that the last in the alphabet do not cover the others. */
    const step = stride(count), { groups, lit, pixels } = this, inks = Uint32Array.from(this.ink), dim = inks.map((v) => v & 0x00ffffff | 0x28000000);
    const ox = dx - half + 0.5, oy = dy - half + 0.5, right = w - size, low = h - size;
    for (let n = 0, i = 0; n < count; n++) {
      const fx = xy[i * 2] * zoom + ox, fy = xy[i * 2 + 1] * zoom + oy;
      if (fx >= 0 && fy >= 0 && fx < right && fy < low) {
        const group = groups ? groups[i] : 0, ink = lit && !lit[i] ? dim[group] : inks[group];
        for (let b = 0, at = (fy | 0) * w + (fx | 0); b < size; b++, at += w) {
          for (let a = 0; a < size; a++) pixels[at + a] = ink;
        }
      }
      i += step;
      if (i >= count) i -= count;
    }
    paint.putImageData(this.image, 0, 0);
    this.marks(paint, dots);
  }

  /* The point under the pointer, the box that is drawn, and the middle for those who use keys. */
  marks(paint, dots) {
    const ink = getComputedStyle(this.canvas).color;
    paint.strokeStyle = ink;
    paint.lineWidth = 2 * dots;
    if (this.hot >= 0) {
      paint.beginPath();
      paint.arc((this.xy[this.hot * 2] * this.zoom + this.x) * dots, (this.xy[this.hot * 2 + 1] * this.zoom + this.y) * dots, 7 * dots, 0, 7);
      paint.stroke();
    }
    if (this.box) {
      const [x, y, w, h] = this.box.map((v) => v * dots);
      paint.setLineDash([6, 4]);
      paint.strokeRect(x, y, w, h);
      paint.setLineDash([]);
    }
    if (this.canvas.matches(":focus-visible")) {
      const [x, y] = [this.canvas.width / 2, this.canvas.height / 2];
      paint.beginPath();
      paint.moveTo(x - 9 * dots, y); paint.lineTo(x + 9 * dots, y);
      paint.moveTo(x, y - 9 * dots); paint.lineTo(x, y + 9 * dots);
      paint.stroke();
    }
  }

  /* The point nearest to a place on the canvas, within `reach` pixels; -1 for none. */
  nearest(x, y, reach) {
    let best = reach * reach, found = -1;
    for (let i = 0; i < this.count; i++) {
      if (this.lit && !this.lit[i]) continue;
      const dx = this.xy[i * 2] * this.zoom + this.x - x, dy = this.xy[i * 2 + 1] * this.zoom + this.y - y;
      const d = dx * dx + dy * dy;
      if (d < best) { best = d; found = i; }
    }
    return found;
  }

  within([x, y, w, h]) {
    const found = [];
    for (let i = 0; i < this.count; i++) {
      const px = this.xy[i * 2] * this.zoom + this.x, py = this.xy[i * 2 + 1] * this.zoom + this.y;
      if (px >= x && px <= x + w && py >= y && py <= y + h && !(this.lit && !this.lit[i])) found.push(i);
    }
    return found;
  }

  /* Enlarges around a place on the canvas. */
  scale(by, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    this.touched = true;
    this.zoom *= by;
    this.x = x - (x - this.x) * by;
    this.y = y - (y - this.y) * by;
    this.draw();
  }

  move(dx, dy) {
    this.touched = true;
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  heat(index, x, y) {
    if (index === this.hot) return;
    this.hot = index;
    this.draw();
    this.on.pick(index, x, y);
  }

  listen() {
    const { canvas } = this, at = (e) => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.scale(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016)), ...at(e));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      this.pointers.set(e.pointerId, at(e));
      this.moved = false;
      if (this.selecting || e.shiftKey) this.from = at(e);
    });
    canvas.addEventListener("pointermove", (e) => this.drag(e, at(e)));
    canvas.addEventListener("pointerup", (e) => this.lift(e, at(e)));
    canvas.addEventListener("pointercancel", (e) => this.pointers.delete(e.pointerId));
    canvas.addEventListener("pointerleave", () => { if (!this.pointers.size) this.heat(-1); });
    canvas.addEventListener("keydown", (e) => this.press(e));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    /* All points stay in view as long as nobody has moved them. */
    new ResizeObserver(() => (this.touched ? this.draw() : this.home())).observe(canvas);
  }

  drag(e, [x, y]) {
    const before = this.pointers.get(e.pointerId);
    if (!before) return this.heat(this.nearest(x, y, 14), x, y);
    if (this.from) {
      const [a, b] = this.from;
      this.box = [Math.min(a, x), Math.min(b, y), Math.abs(a - x), Math.abs(b - y)];
      this.moved = true;
      return this.draw();
    }
    const [dx, dy] = [x - before[0], y - before[1]];
    if (this.pointers.size === 2) this.pinch(e.pointerId, before, [x, y]);
    else if (this.moved || Math.hypot(dx, dy) > 3) this.move(dx, dy);
    else return undefined;
    this.moved = true;
    return this.pointers.set(e.pointerId, [x, y]);
  }

  /* Two fingers. */
  pinch(id, before, now) {
    const [, other] = [...this.pointers].find(([key]) => key !== id);
    const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(now[0] - other[0], now[1] - other[1]);
    this.scale(is / (was || 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  lift(e, [x, y]) {
    this.pointers.delete(e.pointerId);
    if (this.from) {
      const box = this.box;
      this.from = this.box = null;
      this.draw();
      if (box) this.on.selected(this.within(box));
    } else if (!this.moved) {
      const found = this.nearest(x, y, 14);
      if (found >= 0 && (e.pointerType !== "touch" || found === this.hot)) this.on.open(found);
      else this.heat(found, x, y);
    }
  }

  press(e) {
    if (shortcut(e)) return;
    const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
    const [x, y] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2], middle = () => this.nearest(x, y, 60);
    if (step) this.move(...step);
    else if (e.key === "+" || e.key === "=") this.scale(1.3);
    else if (e.key === "-") this.scale(1 / 1.3);
    else if (e.key === "0") this.home();
    else if (e.key === "Enter" && middle() >= 0) this.on.open(middle());
    else return;
    e.preventDefault();
    if (e.key !== "Enter") this.heat(middle(), x, y);
  }
}

/* A step that meets every one of `count` places once. */
function stride(count) {
  const gcd = (a, b) => (b ? gcd(b, a % b) : a);
  let step = Math.max(1, Math.round(count * 0.618));
  while (count > 1 && gcd(step, count) !== 1) step++;
  return step;
}
