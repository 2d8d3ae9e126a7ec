// One job, live: progress, curves, the latest answers, the log, and what can be done with it.
import { h, words, put, announce, ask, facts, number, when } from "./dom.js";
import { address, call, get, notice, query } from "./api.js";
import { badge, stepText } from "./jobs.js";
import { chart } from "./chart.js";
import { card } from "./card.js";
import { ended, every, follow } from "./live.js";

const resumable = ["interrupted", "failed", "cancelled"];

export async function jobPage({ args: [id], signal }) {
  const job = await get(address("jobs", id), signal);
  const view = { id, signal, job, chart: chart(), head: header(job), actions: h("div", { class: "actions", role: "group", "aria-label": "What can be done" }), trouble: h("div"), hint: h("p", { class: "help" }) };
  view.answers = answersPart(view);
  view.log = logPart(view);
  update(view, job);
  start(view);
  return [h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs")), h("h1", {}, words(job.job_name)), view.head.node, view.trouble, notes(job), view.actions,
    section("curves", "The run so far", view.hint, view.chart.node), section("answers", "Latest answers", view.answers.node), section("log", "Log", view.log.node), about(job)];
}

function notes(job) {
  const said = job.notes ?? [];
  return said.length ? h("details", { open: job.status === "queued" }, h("summary", {}, "What the server decided"), h("ul", {}, said.map((t) => h("li", {}, h("bdi", {}, t))))) : h("div");
}

const section = (id, title, ...children) => h("section", { "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), children);

function start(view) {
  view.following?.abort();
  view.following = new AbortController();
  view.answers.load(-1);
  follow(view.id, {
    status: (job) => update(view, job),
    metrics: (rows) => { view.chart.add(rows); put(view.hint, ""); },
    rollouts: (step) => view.answers.load(step),
    gone: (e) => e.status === 404 && view.trouble.replaceChildren(notice(e)),
  }, AbortSignal.any([view.signal, view.following.signal]));
}

function header() {
  const state = h("span"), step = h("span"), loss = h("span"), attempt = h("span"), bar = h("progress", { max: "100", "aria-label": "Progress" }), why = h("div");
  const times = { updated: h("span"), ended: h("span") };
  const node = h("section", { "aria-label": "State" }, h("p", { class: "state" }, state, " ", step), bar, why,
    facts([["Loss", loss], ["Attempt", attempt], ["Updated", times.updated], ["Ended", times.ended]]));
  times.ended.closest("div").hidden = true;
  return { node, state, step, loss, attempt, bar, why, times };
}

function update(view, job) {
  const { head } = view, old = view.job;
  if (head.state.dataset.status !== job.status) changeState(view, job);
  if (view.actions.dataset.offer !== offerKey(job)) offer(view, job);
  head.bar.value = job.progress ?? 0;
  put(head.step, `${stepText(job)}, ${number(job.progress ?? 0, 0)} %`);
  put(head.loss, number(job.loss));
  put(head.attempt, `${job.attempt ?? 1}${job.resumed_from ? `, from ${job.resumed_from}` : ""}`);
  head.times.updated.replaceChildren(when(job.updated_at));
  head.times.ended.replaceChildren(when(job.ended_at));
  head.times.ended.closest("div").hidden = !job.ended_at;
  view.answers.choice.hidden = ended(job);
  // not in the update that brings a new state: the state is said, and a second announcement would wipe it away
  const moved = Math.floor((job.progress ?? 0) / 10) > Math.floor((old.progress ?? 0) / 10);
  if (moved && job.status === old.status) announce(`${number(job.progress, 0)} %, ${stepText(job)}`);
  view.job = job;
  if (head.node.isConnected) document.title = `${ended(job) ? job.status : `${number(job.progress ?? 0, 0)} %`} · ${job.job_name} · vlrlbook`;
}

function changeState(view, job) {
  const { head } = view;
  if (head.state.dataset.status) announce(`The job is ${job.status}`);
  head.state.dataset.status = job.status;
  head.state.replaceChildren(badge(job.status));
  head.why.replaceChildren(...explain(job));
  put(view.hint, view.chart.rows || ended(job) ? "" : "The curves begin with the first logged step. An untrained model is first given a start of some supervised steps; the log below tells.");
}

function explain(job) {
  if (job.error_message) return [h("div", { class: "notice bad" }, h("p", {}, h("strong", {}, "Why it ended: "), h("bdi", {}, job.error_message), " ", job.error_code && h("code", {}, job.error_code)))];
  if (job.status === "completed") return [h("p", { class: "notice good" }, "Done. The download holds the adapter, its settings, the run log and the notebook.")];
  if (job.status === "interrupted") return [h("p", { class: "notice warn" }, "It was stopped before its end. It goes on from its newest whole checkpoint: by itself, or at once by Resume.")];
  return [];
}

// There is a notebook to read as soon as a step is logged.
const readable = (job) => job.current_step > 0 || ended(job);
const offerKey = (job) => `${job.status} ${readable(job)}`;

function offer(view, job) {
  view.actions.dataset.offer = offerKey(job);
  const to = (...parts) => address("jobs", job.job_id, ...parts), had = view.actions.contains(document.activeElement);
  const button = (text, act, kind) => h("button", { type: "button", class: kind, click: act }, text);
  view.actions.replaceChildren(...[
    job.status === "completed" && h("a", { class: "button primary", href: to("download"), download: "" }, "Download"),
    !ended(job) && job.status !== "cancelling" && button("Cancel", () => cancel(view, job)),
    resumable.includes(job.status) && button("Resume", () => act(view, "POST", to("resume"), "The job goes on"), "primary"),
    readable(job) && h("a", { class: "button", href: to("notebook"), target: "_blank", rel: "noopener" }, "Notebook", h("span", { class: "unseen" }, " (opens a new tab)")),
    ended(job) && button("Remove", () => purge(view, job)),
  ].filter(Boolean));
  if (had) view.actions.querySelector("a, button")?.focus();
}

function cancel(view, job) {
  ask("Cancel this job?", "It stops within seconds. It can be resumed from its newest checkpoint, if it has one.", "Cancel the job", () => act(view, "DELETE", address("jobs", job.job_id), "The job is being cancelled"));
}

function purge(view, job) {
  ask("Remove this job?", "Its adapter, checkpoints, notebook and log are deleted from the server.", "Remove", () => act(view, "DELETE", address("jobs", job.job_id) + "?purge=true", "The job was removed"));
}

async function act(view, method, path, said) {
  view.trouble.replaceChildren();
  try {
    const job = await call(method, path, { signal: view.signal });
    announce(said);
    if (!job) { location.hash = "#/jobs"; return; }
    update(view, job);
    if (!ended(job)) start(view);
    if (document.activeElement === document.body) view.actions.querySelector("a, button")?.focus();
  } catch (e) { if (!view.signal.aborted) view.trouble.replaceChildren(notice(e)); }
}

function answersPart(view) {
  const cards = h("div", {}, empty()), box = h("input", { type: "checkbox", id: "newest", checked: true, change: () => load() });
  const choice = h("p", { class: "check" }, box, h("label", { for: "newest" }, "Show each new step; take the tick away to read in peace")), node = h("div", {}, choice, cards);
  let shown = null, wanted = null, busy = false;
  const load = async (step = wanted) => {
    wanted = step;
    if (busy || step === shown || !box.checked) return;
    busy = true;
    try { cards.replaceChildren(...groups(await get(address("jobs", view.id, "rollouts"), view.signal))); shown = step; }
    catch (e) { if (!view.signal.aborted && e.status) cards.replaceChildren(notice(e)); }
    finally { busy = false; }
    if (wanted !== step && !view.signal.aborted) load();
  };
  return { node, load, choice };
}

const groups = (found) => !found.groups?.length ? [empty()] :
  [h("p", { class: "help" }, `Step ${found.step}: what the model answered, what each answer earned, and its advantage over the others of its group.`), ...found.groups.map((g) => card(g, found.step))];

const empty = () => h("p", { class: "empty" }, "No answers yet: they appear with the first logged step.");

function logPart(view) {
  const text = h("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "Last lines of the log" }, "…");
  const load = async () => {
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 20;
    put(text, (await get(address("jobs", view.id, "log") + query({ tail: 100 }), view.signal)) || "Nothing yet.");
    if (atEnd) text.scrollTop = text.scrollHeight;
    return ended(view.job) ? 15_000 : 3000;
  };
  every(load, view.signal, 10);
  return { node: text };
}

function about(job) {
  const settings = job.parameters ?? {};
  return h("details", {}, h("summary", {}, "About this job"),
    facts([["Job", job.job_id], ["Data", job.data_file_id && h("a", { href: `#/${address("data", job.data_file_id)}` }, job.data_file_id)], ["Created", when(job.created_at)], ["Output", words(job.output_dir)],
      ...Object.entries(settings).map(([k, v]) => [k, words(typeof v === "object" ? JSON.stringify(v) : v)])]));
}
