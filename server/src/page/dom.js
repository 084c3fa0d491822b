/* Small helpers for the page's elements. Text is only ever set as text: nothing here makes markup of it. */

export const $ = (id) => document.getElementById(id);

/* An element with properties, attributes (`attrs`), listeners (`on`) and children. */
export function el(tag, { attrs = {}, on = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attrs)) made.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children);
  return made;
}

export const span = (className, textContent) => el("span", { className, textContent });

/* Fills a selection and keeps what is chosen where it is still there; one that is the same stays as it is, perhaps
   open. */
export function options(select, list) {
  if (JSON.stringify(list) === JSON.stringify([...select.options].map((o) => [o.value, o.text]))) return;
  const before = select.value;
  select.replaceChildren(...list.map(([value, text]) => new Option(text, value)));
  if (list.some(([value]) => value === before)) select.value = before;
}

/* Says something to those who hear the page. */
export function tell(words) {
  $("said").textContent = words;
}

/* The rows of a list of terms. */
export function terms(list, rows) {
  list.replaceChildren(...rows.flatMap(([k, v]) => [el("dt", { textContent: k }), el("dd", { textContent: v })]));
}

export const number = (n) => n.toLocaleString("en");

/* Saves bytes under a name. */
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  tell(name + " is saved");
}

/* Whether a pressed key is a shortcut of the browser: Alt and an arrow, Ctrl and a sign. */
export const shortcut = (e) => e.ctrlKey || e.metaKey || e.altKey;

/* Arrow keys, Home and End move between the cards of a grid. */
export function arrows(grid) {
  grid.addEventListener("keydown", (e) => {
    if (shortcut(e)) return;
    const cards = [...grid.querySelectorAll(".open")], at = cards.indexOf(document.activeElement);
    if (at < 0) return;
    const top = (c) => c.getBoundingClientRect().top, first = top(cards[0]);
    const columns = cards.findIndex((c) => top(c) > first + 1);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns > 0 ? columns : 1, ArrowUp: columns > 0 ? -columns : -1 }[e.key];
    const next = e.key === "Home" ? 0 : e.key === "End" ? cards.length - 1 : step === undefined ? -1 : at + step;
    if (next < 0 || next >= cards.length) return;
    e.preventDefault();
    cards[next].focus();
  });
}
