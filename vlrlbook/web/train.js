// Step 2: the form, made from what GET /settings says.
import { h, announce, shorten } from "./dom.js";
import { address, call, get, notice, query } from "./api.js";

const upFront = ["model", "max_steps", "num_epochs", "learning_rate", "num_generations", "temperature"];

// What people choose between; everything else is folded away. Settings that a preset does not name are the server's defaults.
// How long the usual run is, in steps or in passes over the data, is the server's to say.
const presets = {
  tiny: (steps) => [["quick", "Quick look", "20 steps after a short start. Shows that everything works, not yet what can be learned.", { max_steps: "20", warm_steps: "100", eval_samples: "50" }],
    ["normal", "Normal", `${steps} steps, this server's defaults: enough to see it learn.`, {}],
    ["thorough", "Thorough", `${3 * steps} steps, three times as many.`, { max_steps: `${3 * steps}` }]],
  gpu: (passes) => [["quick", "Quick look", "Twice over the data. Shows that everything works, not yet what can be learned.", { num_epochs: "2", eval_samples: "50" }],
    ["normal", "Normal", `${passes} times over the data, this server's defaults.`, {}],
    ["thorough", "Thorough", `${2 * passes} times over the data, twice as often.`, { num_epochs: `${2 * passes}` }]],
};
const lengths = { tiny: "max_steps", gpu: "num_epochs" };
const trains = { tiny: ", which trains a tiny model on its CPU in minutes", gpu: ", which trains a full model on its GPU" };
const groups = ["training_config", "lora_config"];

export async function trainPage({ params, signal }) {
  const [page, server, format] = await Promise.all([get("files" + query({ limit: 200 }), signal), get("./", signal), get("data-format", signal)]);
  const wanted = params.get("file"), size = server.trains in presets ? server.trains : "tiny", place = h("div");
  if (wanted && wanted !== drawn && !page.files.some((f) => f.file_id === wanted)) page.files.unshift(await get(address("files", wanted), signal));
  // The form is the task's: what may be set, and with which defaults. With another task it is made anew.
  const show = async (task, given) => {
    const settings = await get("settings" + query({ task }), signal);
    const files = page.files.filter((f) => f.kind === format.tasks[task]);
    const again = async (next, kept) => {
      try {
        await show(next, kept);
        place.firstChild.dispatchEvent(new Event("input")); // the address forgets the settings of the task before
        document.getElementById(taskPath).focus();
        announce("The form has the settings of the other task");
      } catch (e) { if (!signal.aborted) place.replaceChildren(notice(e)); }
    };
    place.replaceChildren(makeForm({ settings, files, task, again, anything: page.files.length > 0 }, given, presetsOf(size, settings), signal));
  };
  const first = page.files.find((f) => f.file_id === wanted);
  await show(params.get(taskPath) ?? Object.keys(format.tasks).find((t) => first && format.tasks[t] === first.kind) ?? "counting", params);
  return [h("h1", {}, "Train"), h("p", { class: "lead" }, "Choose what it shall learn and how thoroughly, on this server", trains[server.trains] ?? "", ", and press ", h("b", {}, "Start training"), "."), place];
}

const taskPath = "training_config.task";
const drawn = "drawn"; // in the address and in the form, where a job has no upload; no upload has such a name

const presetsOf = (size, settings) => presets[size](settings[groups[0]].find((f) => f.name === lengths[size]).default);

function makeForm({ settings, files, task, again, anything }, params, choices, signal) {
  const fields = (group) => (settings[group] ?? []).filter((f) => `${group}.${f.name}` !== taskPath);
  const name = jobName(params, files, task), data = dataFile(files, params, task, anything);
  // What was typed as a name stays, and so does the data where the other task can have it.
  const kept = () => new Map([["file", files.length ? data.read() : params.get("file")], ["job_name", name.read() === name.first ? null : name.read()]]);
  const learns = taskChoice(settings[groups[0]].find((f) => f.name === "task"), task, (next) => again(next, kept()));
  const all = [name, learns, data, ...groups.flatMap((g) => fields(g).map((f) => control(g, f, params)))];
  const pick = (test) => all.filter(test).map((c) => c.node);
  const problems = h("div", { class: "problems" });
  const button = h("button", { class: "primary" }, "Start training");
  const choice3 = presetChoice(choices, all);
  const form = h("form", { novalidate: true, submit: (e) => { e.preventDefault(); submit(all, problems, button, key, signal); } }, problems,
    h("fieldset", {}, h("legend", {}, "Job"), pick((c) => !c.group)),
    choice3.node,
    h("div", { class: "actions" }, button),
    h("details", { class: "own" }, h("summary", {}, "All settings, for those who know them"),
      h("fieldset", {}, h("legend", {}, "Main settings"), pick((c) => upFront.includes(c.name) && c.group === groups[0])),
      more("More settings", pick((c) => c.group === groups[0] && !upFront.includes(c.name))),
      more("Adapter (LoRA)", pick((c) => c.group === groups[1]))));
  const key = { value: newKey() };
  form.addEventListener("input", () => { key.value = newKey(); remember(all); choice3.mark(); });
  choice3.mark();
  return form;
}

// Three cards; the one whose values stand in the form is marked, none where a person has chosen other values.
function presetChoice(choices, all) {
  const own = all.filter((c) => c.group === groups[0]);
  const value = (c, values) => values[c.name] ?? c.start;
  const cards = choices.map(([id, title, what, values]) => {
    const input = h("input", { type: "radio", name: "preset", id: `preset-${id}`, value: id, "aria-describedby": `preset-${id}-help`, change: () => {
      for (const c of own) { c.input.value = value(c, values); c.say(""); }
      input.dispatchEvent(new Event("input", { bubbles: true }));
    } });
    return { input, values, node: h("div", { class: "preset" }, input, h("label", { for: input.id }, title), h("p", { class: "help", id: `preset-${id}-help` }, what)) };
  });
  const note = h("p", { class: "help" });
  const mark = () => {
    for (const card of cards) card.input.checked = own.every((c) => c.read() === value(c, card.values));
    note.textContent = cards.some((card) => card.input.checked) ? "" : "Your own settings, as they stand below.";
  };
  return { node: h("fieldset", { class: "presets" }, h("legend", {}, "How thoroughly"), cards.map((c) => c.node), note), mark };
}

const more = (title, nodes) => nodes.length > 0 && h("details", { class: "fieldset" }, h("summary", {}, title), h("div", {}, nodes));

// The same key makes a second press, or a retry after a lost reply, the same job; randomUUID is missing on plain http.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

function jobName(params, files, task) {
  const chosen = files.find((f) => f.file_id === params.get("file")) ?? files[0];
  const first = chosen ? shorten(chosen.filename.replace(/\.zip$/i, ""), 60) : `${task} in drawn pictures`;
  const input = h("input", { id: "job_name", value: params.get("job_name") ?? first, maxlength: "100", autocomplete: "off" });
  return wrap({ path: "job_name", label: "Name of the job", help: "Anything that helps you find it again", input, read: () => input.value.trim() || null, wrong: (t) => !t && "A name is needed", start: null, first });
}

function taskChoice(field, task, change) {
  const input = h("select", { id: taskPath, change: () => change(input.value) }, field.choices.map((t) => h("option", { value: t, selected: t === task }, field.choice_labels?.[t] ?? t)));
  return wrap({ path: taskPath, label: field.label, help: "Each has its own settings, rewards and data", input, read: () => input.value, wrong: () => false, start: "counting" });
}

// Without an upload the pictures are drawn, by the number that fixes chance.
function dataFile(files, params, task, anything) {
  const options = [...files.map((f) => [f.file_id, shorten(`${f.filename} (${f.valid_images} rows)`, 80)]), [drawn, "Drawn pictures, made for this job"]];
  const input = h("select", { id: "data_file_id" }, options.map(([value, said]) => h("option", { value, selected: value === params.get("file") }, said)));
  const help = files.length ? "" : [anything ? "None of the uploads is for this task. " : "There is no data to train on yet. ", task === "vqa" ? "Own questions are trained with vlrlbook grpo --task vqa; here pictures are drawn." : [h("a", { href: "#/data" }, "Upload some first"), ", or train on drawn pictures."]];
  return wrap({ path: "data_file_id", label: "Data", help, input, read: () => input.value, wrong: () => false, start: null });
}

function control(group, field, params) {
  const path = `${group}.${field.name}`, given = params.get(path), start = field.default === null || field.default === undefined ? "" : String(field.default);
  const options = field.choices ?? (field.type === "bool" ? ["true", "false"] : null);
  const input = options ? choice(path, field, options, given ?? start) : h("input", { id: path, value: given ?? start, autocomplete: "off", inputmode: field.type === "str" ? "text" : "decimal", spellcheck: "false" });
  return wrap({ group, name: field.name, path, label: field.label ?? field.name, code: field.name, help: hint(field), input, start, read: () => input.value.trim(), wrong: (t) => t !== "" && check(field, t), field });
}

function choice(id, field, options, value) {
  const unset = field.default === null || field.default === undefined ? [""] : [];
  return h("select", { id }, [...unset, ...options.map(String)].map((o) => h("option", { value: o, selected: o === value }, o || "by default")));
}

// A message that appears between press and release would move the button away from under the pointer.
let pressed = false;
for (const [kind, on] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) document.addEventListener(kind, () => { pressed = on; }, true);
const afterPress = (act) => pressed ? document.addEventListener("pointerup", () => setTimeout(act), { once: true }) : act();

function wrap(c) {
  const ids = { help: `${c.path}-help`, error: `${c.path}-error` };
  c.error = h("p", { class: "error", id: ids.error });
  c.input.setAttribute("aria-describedby", `${ids.error} ${ids.help}`);
  c.input.addEventListener("change", () => afterPress(() => c.say(c.wrong(c.read() ?? ""))));
  c.say = (text) => {
    c.error.textContent = text || "";
    if (text) c.input.setAttribute("aria-invalid", "true");
    else c.input.removeAttribute("aria-invalid");
  };
  c.node = h("div", { class: "field" }, h("label", { for: c.path }, c.label, c.code && [" ", h("code", { class: "variable" }, c.code)]), c.input, c.error, h("p", { class: "help", id: ids.help }, c.help));
  return c;
}

function hint(field) {
  const range = bounds(field), start = field.default;
  return [field.help, range && `Range: ${range}.`, start !== null && start !== undefined && start !== "" && `Default: ${start}.`].filter(Boolean).map((t) => t.replace(/[^.]$/, "$&.")).join(" ");
}

function bounds({ minimum: low, maximum: high }) {
  const has = (v) => v !== null && v !== undefined, say = (v) => v >= 10_000 ? v.toLocaleString("en-GB") : v;
  return has(low) && has(high) ? `${say(low)} to ${say(high)}` : has(low) ? `${say(low)} or more` : has(high) ? `at most ${say(high)}` : "";
}

function check(field, text) {
  if (field.type !== "int" && field.type !== "float") return false;
  const value = Number(text);
  if (!Number.isFinite(value)) return `“${shorten(text, 30)}” is not a number`;
  if (field.type === "int" && !Number.isInteger(value)) return `${shorten(text, 30)}: a whole number is needed`;
  const low = field.minimum ?? -Infinity, high = field.maximum ?? Infinity;
  return (value < low || value > high) && `${shorten(text, 30)} is outside the range ${bounds(field)}`;
}

function typed(field, text) {
  if (field.type === "bool") return text === "true";
  return field.type === "str" ? text : Number(text);
}

function changed(all, group) {
  const mine = all.filter((c) => c.group === group && c.read() !== "" && c.read() !== c.start);
  return Object.fromEntries(mine.map((c) => [c.name, typed(c.field, c.read())]));
}

// What was filled in stands in the address, so that a reload keeps it.
function remember(all) {
  const pairs = all.filter((c) => c.start === null || c.read() !== c.start).map((c) => [c.path === "data_file_id" ? "file" : c.path, c.read()]);
  history.replaceState(null, "", `#/train${query(Object.fromEntries(pairs))}`);
}

async function submit(all, problems, button, key, signal) {
  const wrong = all.filter((c) => { const text = c.wrong(c.read() ?? ""); c.say(text); return text; });
  if (wrong.length) return summarise(problems, wrong);
  const of = (path) => all.find((c) => c.path === path).read();
  const json = { job_name: of("job_name"), data_file_id: of("data_file_id") === drawn ? null : of("data_file_id"), training_config: { task: of(taskPath), ...changed(all, groups[0]) }, lora_config: changed(all, groups[1]) };
  button.disabled = true;
  problems.replaceChildren();
  try {
    const job = await call("POST", "train", { json, headers: { "Idempotency-Key": key.value }, signal });
    announce("The job is in the queue");
    location.hash = `#/${address("jobs", job.job_id)}`;
  } catch (e) {
    if (!signal.aborted) refuse(all, problems, e);
  } finally { button.disabled = false; }
}

function refuse(all, problems, error) {
  const listed = error.errors?.length ? error.errors : [{ field: error.code, message: error.detail }];
  const place = (e) => all.find((c) => c.path === (e.field ?? e.code));
  const placed = listed.filter(place), rest = listed.filter((e) => !place(e));
  placed.forEach((e) => place(e).say(`${e.message ?? error.detail} (${e.code ?? error.code})`));
  summarise(problems, [...new Set(placed.map(place))], rest.length ? notice(error, error.errors?.length ? rest : []) : null);
}

function summarise(problems, wrong, said) {
  const go = (c) => (e) => { e.preventDefault(); reveal(c); };
  const links = h("ul", {}, wrong.map((c) => h("li", {}, h("a", { href: `#${c.path}`, click: go(c) }, c.label, ": ", c.error.textContent))));
  const title = wrong.length === 1 ? "One field needs another value" : `${wrong.length} fields need other values`;
  problems.replaceChildren(said ?? h("div", { class: "notice bad", role: "alert" }, h("p", {}, h("strong", {}, title))));
  if (wrong.length) problems.firstChild.append(links);
  if (wrong.length) reveal(wrong[0]);
  else problems.scrollIntoView({ block: "center" });
}

function reveal(c) {
  for (let d = c.node.closest("details"); d; d = d.parentElement.closest("details")) d.setAttribute("open", "");
  c.input.focus();
}
