// Elements are made here and nowhere else, and text only ever goes in as text.
const SVG = "http://www.w3.org/2000/svg";

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

function set(node, name, value) {
  if (typeof value === "function") node.addEventListener(name, value);
  else if (value === true) node.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
}

// Words of clients: on one line, and no direction mark in them turns the words around them.
export const words = (text, most = 200) => h("bdi", {}, shorten(String(text ?? ""), most));

export function shorten(text, most) {
  const line = [...text.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ")];
  return line.length <= most ? line.join("") : line.slice(0, most - 1).join("") + "…";
}

// Changes a text only where it differs, so that screen readers and selections are left alone.
export function put(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

// Emptied first, so that the same words are read out again.
export function announce(text) {
  const live = document.getElementById("live");
  live.textContent = "";
  setTimeout(() => put(live, text), 50);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = Number.isInteger(value) ? String(value) : Math.abs(value) >= 1e-3 || !digits ? value.toFixed(digits) : value.toExponential(1);
  return text.replace(/-/g, "−");
}

export function bytes(n) {
  const units = ["bytes", "KB", "MB", "GB"];
  const i = Math.min(units.length - 1, Math.floor(Math.log(Math.max(1, n)) / Math.log(1000)));
  return `${i ? (n / 1000 ** i).toFixed(1) : n} ${units[i]}`;
}

export const count = (n, one, many = one + "s") => `${n.toLocaleString("en-GB")} ${n === 1 ? one : many}`;

export function when(value) {
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  if (!value || Number.isNaN(date.getTime())) return "–";
  const text = date.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return h("time", { datetime: date.toISOString() }, text);
}

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, v))));

// A wide table may be scrolled by itself, also from the keyboard.
export const scrollable = (label, ...children) => h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, children);

export function ask(question, detail, yes, act) {
  const close = () => dialog.close();
  const dialog = h("dialog", { "aria-labelledby": "ask-title", close: () => dialog.remove() },
    h("h2", { id: "ask-title" }, question), h("p", {}, detail),
    h("div", { class: "actions" },
      h("button", { type: "button", click: close }, "No, go back"),
      h("button", { type: "button", class: "danger", click: () => { close(); act(); } }, yes)));
  document.body.append(dialog);
  dialog.showModal();
}
