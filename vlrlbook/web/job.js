// One job, live: progress, curves, the latest answers, the log, and what can be done with it.
import { h, words, put, announce, ask, facts, number, scrollable, when } from "./dom.js";
import { address, call, get, notice, query, upload } from "./api.js";
import { badge, stepText } from "./jobs.js";
import { chart } from "./chart.js";
import { card } from "./card.js";
import { ended, every, follow } from "./live.js";

export async function jobPage({ args: [id], signal }) {
  const job = await get(address("jobs", id), signal);
  const view = { id, signal, job, chart: chart(), head: header(job), actions: h("div", { class: "actions", role: "group", "aria-label": "What can be done" }), trouble: h("div"), hint: h("p", { class: "help" }) };
  view.answers = answersPart(view);
  view.log = logPart(view);
  view.outcome = outcomePart(view);
  update(view, job);
  start(view);
  return [h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs")), h("h1", {}, words(job.job_name)), view.outcome.node, view.head.node, view.trouble, view.actions, view.outcome.tryIt,
    section("curves", "The run so far", view.hint, view.chart.node), section("answers", "Latest answers", view.answers.node), view.log.node, notes(job), about(job)];
}

function notes(job) {
  const said = job.notes ?? [];
  return said.length ? h("details", { open: job.status === "queued" }, h("summary", {}, "What the server decided"), h("ul", {}, said.map((t) => h("li", {}, h("bdi", {}, t))))) : h("div");
}

const mostShown = 2; // groups of answers: a phone shows one at a time

const section = (id, title, ...children) => h("section", { "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), children);

function start(view) {
  view.following?.abort();
  view.following = new AbortController();
  view.answers.load(-1);
  follow(view.id, {
    status: (job) => update(view, job),
    metrics: (rows) => { view.chart.add(rows); view.chart.node.hidden = false; put(view.hint, ""); },
    rollouts: (step) => view.answers.load(step),
    gone: (e) => e.status === 404 && view.trouble.replaceChildren(notice(e)),
  }, AbortSignal.any([view.signal, view.following.signal]));
}

function header() {
  const stage = h("p", { class: "help" }), stageBar = h("progress", { max: "1", class: "stage", "aria-label": "Progress of getting ready" });
  const state = h("span"), step = h("span"), loss = h("span"), attempt = h("span"), bar = h("progress", { max: "100", "aria-label": "Progress" }), why = h("div");
  const times = { updated: h("span"), ended: h("span") };
  const node = h("section", { "aria-label": "State" }, h("p", { class: "state" }, state, " ", step), bar, stage, stageBar, why,
    facts([["Loss", loss], ["Attempt", attempt], ["Updated", times.updated], ["Ended", times.ended]]));
  times.ended.closest("div").hidden = true;
  stageBar.hidden = true;
  state.dataset.phase = "";
  return { node, stage, stageBar, state, step, loss, attempt, bar, why, times };
}

function update(view, job) {
  const { head } = view, old = view.job;
  if (head.state.dataset.status !== job.status) changeState(view, job);
  if (view.actions.dataset.offer !== offerKey(job)) offer(view, job);
  head.bar.value = job.progress ?? 0;
  put(head.step, `${stepText(job)}, ${number(job.progress ?? 0, 0)} %`);
  showStage(head, job);
  view.chart.node.hidden = !view.chart.rows && !ended(job);
  view.outcome.load(job);
  put(head.loss, number(job.loss));
  put(head.attempt, `${job.attempt ?? 1}${job.resumed_from ? `, from ${job.resumed_from}` : ""}`);
  head.times.updated.replaceChildren(when(job.updated_at));
  head.times.ended.replaceChildren(when(job.ended_at));
  head.times.ended.closest("div").hidden = !job.ended_at;
  head.times.updated.closest("div").hidden = Boolean(job.ended_at);
  view.answers.choice.hidden = ended(job);
  // not in the update that brings a new state: the state is said, and a second announcement would wipe it away
  const moved = Math.floor((job.progress ?? 0) / 10) > Math.floor((old.progress ?? 0) / 10);
  if (moved && job.status === old.status) announce(`${number(job.progress, 0)} %, ${stepText(job)}`);
  view.job = job;
  if (head.node.isConnected) document.title = `${ended(job) ? job.status : `${number(job.progress ?? 0, 0)} %`} · ${job.job_name} · vlrlbook`;
}

// Before the first step and after the last one there is work of which the steps tell nothing.
function showStage(head, job) {
  const { stage } = job, between = Boolean(stage) && !(job.current_step > 0 && job.current_step < job.total_steps);
  // Getting ready is a state of its own: its name stands in the badge, and its bar is the only one.
  const before = between && !(job.current_step > 0), phase = before ? "getting ready" : "";
  head.bar.hidden = before;
  head.stageBar.hidden = !between;
  if (before && job.total_steps) put(head.step, `${job.total_steps} steps of training follow`);
  if (head.state.dataset.phase !== phase) {
    head.state.dataset.phase = phase;
    head.state.replaceChildren(badge(job.status, phase));
  }
  if (between) head.stageBar.value = stage.of ? stage.done / stage.of : 0;
  const names = { "warm start": "Getting ready: the untrained model is given a start" };
  put(head.stage, between ? `${names[stage.name] ?? (stage.name || "At work")}, ${stage.done} of ${stage.of}` : "");
}

function changeState(view, job) {
  const { head } = view;
  if (head.state.dataset.status) announce(`The job is ${job.status}`);
  head.state.dataset.status = job.status;
  head.state.replaceChildren(badge(job.status));
  head.why.replaceChildren(...explain(job));
  put(view.hint, view.chart.rows || ended(job) ? "" : "The curves begin with the first logged step. An untrained model is first given a start of some supervised steps.");
}

function explain(job) {
  if (job.error_message) return [whyItEnded(job)];
  if (job.status === "completed") return [h("p", { class: "help" }, "The download holds the adapter, its settings, the run log and the notebook.")];
  if (job.status === "interrupted") return [h("p", { class: "notice warn" }, "It was stopped before its end. It goes on by itself from its newest whole checkpoint, or at once by Resume where that is offered.")];
  return [];
}

const reasons = {
  "trainer.out_of_memory": "The machine ran out of memory. A smaller batch, smaller pictures or a smaller model may do.",
  "trainer.disk_full": "The disk is full. Make room, then let it go on.",
  "trainer.parameters": "One of the settings cannot be used.",
  "trainer.killed": "Something on the machine ended the training.",
  "trainer.no_artefact": "The training ended without an adapter.",
  "trainer.start": "The training could not be started.",
  "trainer.exit": "The training stopped at an error.",
};

// One sentence and the program's last words; what only programmers read is folded.
function whyItEnded(job) {
  const [first, ...rest] = job.error_message.trim().split("\n"), said = first.split("; last words: "), last = rest.length ? rest.at(-1) : said[1] ?? said[0];
  const detail = rest.length || said.length > 1 ? h("details", {}, h("summary", {}, "The message as the program wrote it"), h("pre", {}, job.error_message)) : null;
  // The program's words go on the sentence: they seldom begin with a capital.
  const reason = reasons[job.error_code] ?? "", begin = last && reason.endsWith("at an error.") ? `${reason.slice(0, -1)}:` : reason;
  return h("div", { class: "notice bad" }, h("p", {}, h("strong", {}, "Why it ended: "), begin, " ", last && h("bdi", {}, last), " ", job.error_code && h("code", {}, job.error_code)), detail);
}

// What came of it stands first: a word, a sentence, the questions behind them. Green is for "better" alone.
function outcomePart(view) {
  const node = h("div"), tryIt = h("div");
  let asked = false;
  const load = async (job) => {
    if (asked || job.status !== "completed") return;
    asked = true;
    try {
      const found = await get(address("jobs", view.id, "verdict"), view.signal);
      node.replaceChildren(h("section", { class: `outcome notice ${found.outcome === "better" ? "good" : found.outcome === "not measured" ? "plain" : "warn"}`, "aria-labelledby": "outcome-title" },
        h("h2", { id: "outcome-title" }, "Did it get better?"), h("p", { class: "sentence" }, h("bdi", {}, found.sentence)),
        found.figures?.length > 0 && h("details", {}, h("summary", {}, "Before and after, in figures"), figures(found.figures)),
        found.questions.length > 0 && h("details", {}, h("summary", {}, `The ${found.questions.length} questions behind this`), h("ul", { class: "questions" }, found.questions.map(question)))));
    } catch (e) { if (!view.signal.aborted && e.code !== "ask.failed") node.replaceChildren(notice(e)); }
    tryIt.replaceChildren(trial(view));
  };
  return { node, tryIt, load };
}

// The measures of the task on held-out pictures; of boxes their overlap comes first.
function figures(rows) {
  const signed = (v) => (v > 0 ? "+" : "") + number(v);
  const head = h("tr", {}, ["Asked", "Measure", "Before", "After", "Gain", "95 % interval"].map((t, i) => h("th", { scope: "col", class: i > 1 ? "num" : "" }, t)));
  const row = (r) => h("tr", {}, h("td", {}, r.asked), h("td", {}, r.words), [number(r.before), number(r.after), signed(r.gain), r.ci95 ? `${signed(r.ci95[0])} to ${signed(r.ci95[1])}` : "–"].map((t) => h("td", { class: "num" }, t)));
  return scrollable("Figures before and after", h("table", {}, h("thead", {}, head), h("tbody", {}, rows.map(row))));
}

const marks = { yes: "✓", no: "✗", "cannot tell": "?" };
const question = (q) => h("li", {}, h("span", { "aria-hidden": "true" }, `${marks[q.answer] ?? "–"} `), h("bdi", {}, q.question), " ", h("strong", {}, q.answer), q.detail && h("span", { class: "help" }, " ", h("bdi", {}, q.detail)));

// What a task's drawn pictures are asked; a tiny model knows no other question.
const asks = { pointing: "Where is the disc?", zoom: "How many discs are there?", vqa: "How many discs are there?" };

// One picture of one's own, shown to the model before and after.
function trial(view) {
  const chosen = h("p", { class: "help", id: "try-chosen" }, "JPEG, PNG, WEBP, BMP or GIF"), words_ = h("input", { id: "try-question", value: asks[view.job.parameters?.task] ?? "How many are there?", autocomplete: "off", required: true });
  const file = h("input", { type: "file", id: "try-picture", accept: "image/*", "aria-describedby": "try-chosen", change: () => put(chosen, file.files[0]?.name ?? "") });
  const out = h("div", { role: "status" }), button = h("button", {}, "Ask the model");
  const form = h("form", { submit: async (e) => {
    e.preventDefault();
    if (!file.files[0]) { put(chosen, "Choose a picture first."); file.focus(); return; }
    const stop = new AbortController(), leave = () => stop.abort();
    view.signal.addEventListener("abort", leave);
    button.disabled = true;
    out.replaceChildren(h("p", {}, "The model is loaded and asked; this takes from seconds to minutes."));
    try { out.replaceChildren(replies(await upload(file.files[0], () => {}, stop.signal, address("jobs", view.id, "ask") + query({ question: words_.value })))); }
    catch (error) { if (!view.signal.aborted) out.replaceChildren(notice(error)); }
    finally { button.disabled = false; view.signal.removeEventListener("abort", leave); }
  } }, h("div", { class: "drop small" }, file, h("label", { for: "try-picture" }, "Choose a picture, or drop it here"), chosen),
    h("div", { class: "field" }, h("label", { for: "try-question" }, "Your question"), words_), h("p", { class: "actions" }, button), out);
  return section("try", "Try it", h("p", { class: "help" }, "A picture that it has not seen, a question, and what the model says before and after its training."), form);
}

function replies(said) {
  const drawn = { pointing: "The picture, with the boxes of this answer", zoom: "The picture, with what this answer looked at framed and enlarged beside it" };
  // What the answer says in the form of its task, where that is not the answer itself.
  const understood = (given) => given.read === null ? h("p", { class: "help" }, "This answer could not be read.") : given.read && given.read !== given.greedy && h("p", { class: "help" }, "Read as: ", words(given.read));
  const one = (title, given) => given && h("div", {}, h("h3", {}, title), given.picture && h("img", { src: given.picture, alt: drawn[said.task] ?? "The picture" }), h("p", { class: "answer" }, words(given.greedy)), understood(given), given.sampled.length > 0 && h("p", { class: "help" }, "Further tries: ", given.sampled.map((t, i) => [i ? ", " : "", words(t)])));
  return h("div", { class: "replies" }, one("Before training", said.before), one("After training", said.after));
}

// There is a notebook to read as soon as a step is logged.
const readable = (job) => job.current_step > 0 || ended(job);
const offerKey = (job) => `${job.status} ${readable(job)} ${job.can_resume}`;

function offer(view, job) {
  view.actions.dataset.offer = offerKey(job);
  const to = (...parts) => address("jobs", job.job_id, ...parts), had = view.actions.contains(document.activeElement);
  const button = (text, act, kind) => h("button", { type: "button", class: kind, click: act }, text);
  view.actions.replaceChildren(...[
    job.status === "completed" && h("a", { class: "button primary", href: to("download"), download: "" }, "Download"),
    !ended(job) && job.status !== "cancelling" && button("Cancel", () => cancel(view, job)),
    job.can_resume && button("Resume", () => act(view, "POST", to("resume"), "The job goes on"), "primary"),
    ["failed", "cancelled"].includes(job.status) && !job.can_resume && h("a", { class: "button primary", href: `#/train${query({ file: job.data_file_id ?? "drawn", job_name: job.job_name, "training_config.task": job.parameters?.task })}` }, "Start again"),
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
    try { cards.replaceChildren(...groups(await get(address("jobs", view.id, "rollouts"), view.signal), view.job.parameters?.task)); shown = step; }
    catch (e) { if (!view.signal.aborted && e.status) cards.replaceChildren(notice(e)); }
    finally { busy = false; }
    if (wanted !== step && !view.signal.aborted) load();
  };
  return { node, load, choice };
}

const groups = (found, task) => !found.groups?.length ? [empty()] :
  [h("p", { class: "help" }, `Step ${found.step}: what the model answered, what each answer earned, and its advantage over the others of its group.`), ...found.groups.slice(0, mostShown).map((g) => card(g, found.step, task)),
    found.groups.length > mostShown && h("details", {}, h("summary", {}, `${found.groups.length - mostShown} more questions of this step`), found.groups.slice(mostShown).map((g) => card(g, found.step, task)))].filter(Boolean);

const empty = () => h("p", { class: "empty" }, "No answers yet: they appear with the first logged step.");

function logPart(view) {
  const text = h("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "Last lines of the log" }, "…");
  // A first load that fails is made up for by the next one, three seconds later; `every` tells of lasting trouble.
  const node = h("details", { class: "section", toggle: () => { if (node.open) load().catch(() => {}); } }, h("summary", {}, h("h2", {}, "Log")), text);
  const load = async () => {
    if (!node.open) return 3000;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 20;
    put(text, (await get(address("jobs", view.id, "log") + query({ tail: 100 }), view.signal)) || "Nothing yet.");
    if (atEnd) text.scrollTop = text.scrollHeight;
    return ended(view.job) ? 15_000 : 3000;
  };
  every(load, view.signal, 3000);
  return { node };
}

function about(job) {
  const settings = job.parameters ?? {};
  return h("details", {}, h("summary", {}, "About this job"),
    facts([["Job", job.job_id], ["Data", job.data_file_id === null ? "drawn pictures" : h("a", { href: `#/${address("data", job.data_file_id)}` }, job.data_file_id)], ["Created", when(job.created_at)], ["Output", words(job.output_dir)],
      ...Object.entries(settings).map(([k, v]) => [k, words(typeof v === "object" ? JSON.stringify(v) : v)])]));
}
