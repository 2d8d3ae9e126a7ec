// The rollout card, as core.rollout_card draws it: picture, question, answers, reward parts, advantage as a signed bar.
import { h, svg, words } from "./dom.js";

export function card(group, step, task) {
  const names = Object.keys(group.answers[0]?.parts ?? {});
  const reach = Math.max(1.2, 1.1 * Math.max(0, ...group.answers.map((a) => Math.abs(a.advantage || 0))));
  const silent = new Set(group.answers.map((a) => a.parts.overall)).size < 2;
  return h("article", { class: task === "zoom" ? "rollout wide" : "rollout" },
    h("div", { class: "asked" }, h("h3", {}, words(group.question)), picture(group, task), h("p", {}, "truth: ", words(group.truth)),
      silent && h("p", { class: "silent" }, "A silent group: all answers earned the same, so there is nothing to learn.")),
    answers(group, names, reach, step));
}

const alts = { pointing: "The picture asked about, with the true boxes and those of the answers", zoom: "The picture asked about; what answers looked at is framed, and enlarged beside it" };

function picture(group, task) {
  const src = String(group.image ?? "");
  return src && h("img", { src: src.startsWith("data:") ? src : src.replace(/^\/+/, ""), alt: alts[task] ?? "The picture asked about" });
}

// Roles are written out because the narrow layout takes a table's display away.
function answers(group, names, reach, step) {
  const cell = (role, props, ...children) => h(role === "columnheader" ? "th" : "td", { role, ...props }, children);
  const head = h("tr", { role: "row" }, ["answer", ...names, "advantage"].map((n, i) => cell("columnheader", { scope: "col", class: i ? "num" : "" }, n)));
  const row = ({ a, times }) => h("tr", { role: "row" }, cell("cell", { class: "text" }, turns(a.text), times > 1 && h("span", { class: "times" }, ` × ${times}`)),
    names.map((n) => cell("cell", { class: n === "overall" ? "num overall" : "num", "data-name": n }, Number.isFinite(a.parts[n]) ? a.parts[n].toFixed(2) : "–")),
    cell("cell", { class: "num bar", "data-name": "advantage" }, bar(a.advantage || 0, reach), h("span", {}, signed(a.advantage))));
  return h("table", { role: "table", "aria-label": `Answers at step ${step}` }, h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, merged(group.answers).map(row)));
}

// An answer with a second look has turns: the call, the picture or the refusal that came back, the answer.
function turns(text) {
  const parts = String(text ?? "").split(" → ");
  return parts.length < 2 ? words(text) : parts.map((turn, i) => h("span", { class: "turn" }, i > 0 && "→ ", words(turn)));
}

// Equal answers earn the same and stand together; the first keeps its place.
function merged(answers) {
  const seen = new Map();
  for (const a of answers) {
    const key = JSON.stringify([a.text, a.parts, a.advantage]);
    if (seen.has(key)) seen.get(key).times += 1;
    else seen.set(key, { a, times: 1 });
  }
  return [...seen.values()];
}

const signed = (v) => Number.isFinite(v) ? (v > 0 ? "+" : "") + v.toFixed(2).replace("-", "−") : "–";

function bar(value, reach) {
  const width = (50 * Math.abs(value)) / reach;
  return svg("svg", { viewBox: "0 0 100 14", class: "signed", "aria-hidden": "true", preserveAspectRatio: "none" },
    svg("rect", { class: value >= 0 ? "plus" : "minus", x: value >= 0 ? 50 : 50 - width, y: 1, width, height: 12 }),
    svg("line", { x1: 50, x2: 50, y1: 0, y2: 14 }));
}
