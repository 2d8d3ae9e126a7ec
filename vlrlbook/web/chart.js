// Three curves of a run, drawn as core.plot_run draws them: raw values faint, smoothed ones strong.
import { h, svg, number, put, scrollable } from "./dom.js";

const W = 360, H = 200, box = { left: 52, right: 350, top: 12, bottom: 172 };
const panels = [
  { column: "reward", colour: "blue", caption: "Mean reward of the answers. It should rise; worry when it falls, or stands still from the first step." },
  { column: "loss", colour: "orange", caption: "Of the policy; it wanders around nought and need not fall. Worry when it leaps or is no number." },
  { column: "silent", title: "silent groups", colour: "green", range: [0, 1], caption: "Share of groups whose answers all earned the same: they teach nothing. Worry when it nears 1." },
];
const most = 300, mostDrawn = 1500;

export function chart() {
  const rows = new Map(), parts = panels.map(panel), table = valueTable(rows);
  const draw = () => {
    const sorted = [...rows.values()].sort((a, b) => a.step - b.step);
    parts.forEach((p) => p.draw(sorted));
    table.draw(sorted);
  };
  const add = (more) => { more.forEach((r) => rows.set(r.step, r)); draw(); };
  draw();
  return { node: h("div", {}, h("div", { class: "panels" }, parts.map((p) => p.node)), table.node), add, get rows() { return rows.size; } };
}

function smooth(values, weight = 0.8) {
  let total = 0, norm = 0;
  return values.map((v) => {
    total = weight * total + (1 - weight) * v;
    norm = weight * norm + (1 - weight);
    return total / norm;
  });
}

function panel({ column, title = column, colour, range, caption }) {
  const name = svg("title", { id: `chart-${column}` }), said = svg("desc", { id: `chart-${column}-desc` }), inside = svg("g");
  const readout = h("span", { class: "readout" });
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-labelledby": `chart-${column}`, "aria-describedby": `chart-${column}-desc`, class: `chart ${colour}` }, name, said, inside);
  const heading = h("h3");
  const node = h("figure", {}, heading, picture, h("figcaption", {}, readout, caption));
  const draw = (rows) => {
    const points = rows.filter((r) => Number.isFinite(r[column])).map((r) => [r.step, r[column]]);
    put(heading, `${title} (n = ${points.length})`);
    put(name, title);
    put(said, describe(points));
    put(readout, points.length ? `Latest ${number(points.at(-1)[1])}. ` : "");
    inside.replaceChildren(...(points.length ? curves(points, range) : [svg("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, "no step logged yet")]));
  };
  return { node, draw };
}

// Not Math.min(...): a long run has more rows than a call may have arguments.
const least = (values) => values.reduce((a, b) => Math.min(a, b));
const greatest = (values) => values.reduce((a, b) => Math.max(a, b));

function describe(points) {
  if (!points.length) return "No step has been logged yet.";
  const values = points.map((p) => p[1]), means = smooth(values);
  return `${points.length} logged steps, from step ${points[0][0]} to ${points.at(-1)[0]}. First ${number(values[0])}, latest ${number(values.at(-1))}, lowest ${number(least(values))}, highest ${number(greatest(values))}; smoothed it went from ${number(means[0])} to ${number(means.at(-1))}.`;
}

function curves(points, range) {
  const steps = points.map((p) => p[0]), values = points.map((p) => p[1]), stride = Math.ceil(points.length / mostDrawn);
  const [low, high] = range ?? padded(values), first = steps[0], last = Math.max(steps.at(-1), first + 1);
  const x = (s) => box.left + ((s - first) / (last - first)) * (box.right - box.left);
  const y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
  const drawn = (vs) => vs.flatMap((v, i) => i % stride && i < vs.length - 1 ? [] : `${x(steps[i]).toFixed(1)},${y(v).toFixed(1)}`);
  const line = (vs, name) => svg("polyline", { class: name, points: drawn(vs).join(" ") });
  const means = smooth(values);
  return [...yAxis(low, high, y), ...xAxis(first, last, x), line(values, "raw"), line(means, "mean"), svg("circle", { class: "last", cx: x(steps.at(-1)), cy: y(means.at(-1)), r: 3.5 })];
}

function padded(values) {
  const low = least(values), high = greatest(values), room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  return [low - room, high + room];
}

function ticks(low, high, wanted = 6) {
  const rough = (high - low) / wanted, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= rough);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(10)));
  return out;
}

const yAxis = (low, high, y) => ticks(low, high).flatMap((t) => [
  svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) }),
  svg("text", { x: box.left - 6, y: y(t) + 4, "text-anchor": "end" }, tickText(t))]);

const tickText = (t) => (String(t).length > 6 ? t.toExponential() : String(t)).replace(/-/g, "−");

function xAxis(first, last, x) {
  const whole = ticks(first, last).filter(Number.isInteger);
  return [svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    ...whole.map((t) => svg("text", { x: x(t), y: box.bottom + 15, "text-anchor": "middle" }, String(t))),
    svg("text", { x: (box.left + box.right) / 2, y: H - 1, "text-anchor": "middle" }, "step")];
}

function valueTable(rows) {
  const body = h("tbody"), note = h("p", { class: "help" });
  const names = ["step", ...panels.map((p) => p.column)];
  const head = h("thead", {}, h("tr", {}, names.map((n) => h("th", { scope: "col", class: "num" }, n))));
  let latest = [];
  const fillIn = () => {
    body.replaceChildren(...latest.slice(-most).reverse().map((r) => h("tr", {}, names.map((n) => h("td", { class: "num" }, number(r[n]))))));
    put(note, latest.length > most ? `The latest ${most} of ${latest.length} rows, newest first.` : "Newest first.");
  };
  const node = h("details", { toggle: () => node.open && fillIn() }, h("summary", {}, "The numbers as a table"), note, scrollable("Numbers of the run", h("table", {}, head, body)));
  return { node, draw: (sorted) => { latest = sorted; if (node.open) fillIn(); } };
}
