// Step 3: all jobs, newest first.
import { h, words, put, facts, number, when } from "./dom.js";
import { address, get, query } from "./api.js";
import { ended, every } from "./live.js";

const states = { queued: "waiting for its turn", training: "training", cancelling: "being cancelled", interrupted: "interrupted", completed: "completed", failed: "failed", cancelled: "cancelled" };
const signs = { queued: "○", training: "▶", cancelling: "◐", interrupted: "‖", completed: "✓", failed: "✗", cancelled: "–" };

export function badge(status, phase = "") {
  return h("span", { class: `badge ${status in states ? status : ""}` }, h("span", { "aria-hidden": "true" }, (signs[status] ?? "•") + " "), phase || (states[status] ?? status));
}

export function stepText(job) {
  if (job.status === "queued") return "not started";
  return job.total_steps ? `step ${job.current_step ?? 0} of ${job.total_steps}` : "getting ready";
}

// "exit 1; last words: ValueError: …": the words are what people can use.
const lastWords = (message) => message.split("; last words: ").at(-1);

export async function jobsPage({ params, signal }) {
  const status = params.get("status") ?? "", trail = (params.get("after") ?? "").split(",").filter(Boolean);
  const ask = () => get("jobs" + query({ status, limit: 20, after: trail.at(-1) }), signal);
  const list = h("ul", { class: "cards" }), empty = h("div"), pages = h("nav", { class: "actions", "aria-label": "Pages of jobs" }), cards = new Map();
  const draw = (page) => {
    sync(list, cards, page.jobs);
    empty.replaceChildren(...(page.jobs.length ? [] : [nothing(status)]));
    if (pages.dataset.next !== (page.next ?? "none")) pages.replaceChildren(...pager(status, trail, page.next));
    pages.dataset.next = page.next ?? "none";
    return !page.jobs.every(ended) ? 2000 : 10000;
  };
  const pause = draw(await ask());
  every(async () => draw(await ask()), signal, pause);
  return [h("h1", {}, "Jobs"), filter(status), list, empty, pages];
}

function filter(status) {
  const select = h("select", { id: "status", change: () => { location.hash = "#/jobs" + query({ status: select.value }); } },
    ["", ...Object.keys(states)].map((s) => h("option", { value: s, selected: s === status }, s ? states[s] : "all")));
  return h("p", { class: "filter" }, h("label", { for: "status" }, "Show"), select);
}

function nothing(status) {
  if (status) return h("p", { class: "empty" }, `No job is ${states[status] ?? status}. `, h("a", { href: "#/jobs" }, "Show all"), ".");
  return h("p", { class: "empty" }, "No job has been started yet. ", h("a", { href: "#/train" }, "Start one"), ": it takes a minute to fill in.");
}

function pager(status, trail, next) {
  const to = (cursors) => "#/jobs" + query({ status, after: cursors.join(",") });
  return [trail.length > 0 && h("a", { class: "button", href: to(trail.slice(0, -1)) }, "Newer"), next && h("a", { class: "button", href: to([...trail, next]) }, "Older")].filter(Boolean);
}

// Cards are changed in place, so that the focus stays where it is.
function sync(list, cards, jobs) {
  for (const job of jobs) {
    if (!cards.has(job.job_id)) cards.set(job.job_id, card(job));
    cards.get(job.job_id).update(job);
  }
  for (const [id, c] of cards) if (!jobs.some((j) => j.job_id === id)) { c.node.remove(); cards.delete(id); }
  jobs.forEach((job, i) => { const { node } = cards.get(job.job_id); if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null); });
}

function card(job) {
  const state = h("span"), step = h("span"), loss = h("span"), bar = h("progress", { max: "100", "aria-label": `Progress of ${job.job_name}` }), why = h("p", { class: "error" });
  const node = h("li", {}, h("h2", {}, h("a", { href: `#/${address("jobs", job.job_id)}` }, words(job.job_name)), " ", state), bar,
    facts([["Progress", step], ["Loss", loss], ["Created", when(job.created_at)]]), why);
  const update = (j) => {
    if (state.dataset.status !== j.status) { state.replaceChildren(badge(j.status)); state.dataset.status = j.status; }
    bar.value = j.progress ?? 0;
    put(step, `${stepText(j)}, ${number(j.progress ?? 0, 0)} %`);
    put(loss, number(j.loss));
    put(why, j.error_message ? `${lastWords(j.error_message).slice(0, 200)} (${j.error_code ?? "no code"})` : "");
  };
  return { node, update };
}
