// Step 1: upload, what came of it, and a look at the pictures.
import { h, words, put, announce, ask, bytes, count, facts, scrollable, when } from "./dom.js";
import { photoMaker } from "./photos.js";
import { Problem, address, call, get, notice, query, upload } from "./api.js";

const mostSkipped = 200;

export async function dataPage({ signal }) {
  const [files, format] = await Promise.all([get("files" + query({ limit: 50 }), signal), get("data-format", signal)]);
  return [h("h1", {}, "Data"),
    h("p", { class: "lead" }, "Pictures, a question about each, and the true answer: the model learns to answer better by trying."),
    uploader(format.limits ?? {}, format.kinds ?? {}, signal), layout(format), fileList(files, signal)];
}

// An upload goes on while other views are looked at; its place on the page is kept here.
let going = null;

// What the answers of a table are; the tasks counting and zoom need numbers, pointing needs boxes.
const kindWords = { counting: "Numbers (counting, zoom)", pointing: "Boxes (pointing)" };

function uploader(limits, kinds, signal) {
  const status = going ?? h("div", { class: "upload-status" }), disabled = going !== null;
  const input = h("input", { type: "file", id: "zip", accept: ".zip,application/zip", disabled, "aria-describedby": "zip-help", change: () => {
    if (input.files[0]) start(input.files[0]);
    input.value = "";
  } });
  const strict = h("input", { type: "checkbox", id: "strict", disabled });
  const download = h("a", { download: "sample.zip" }, "Download them, to see the format");
  const show = () => { download.href = "sample-data" + query({ kind: chosen.value === "counting" ? "" : chosen.value }); };
  const chosen = h("select", { id: "kind", disabled, change: show }, Object.keys(kinds).map((k) => h("option", { value: k }, kindWords[k] ?? k)));
  const sample = h("button", { type: "button", id: "sample", disabled, click: () => withSample(download.href, status, signal, start) }, "Use 60 drawn pictures instead");
  const start = (file, kind = chosen.value) => {
    if (going) return;
    if (file.size > limits.upload_bytes) status.replaceChildren(notice(tooLarge(file, limits)));
    else send(file, { strict: strict.checked || "", kind: kind === "counting" ? "" : kind }, status);
  };
  show();
  return h("section", { "aria-labelledby": "upload-title" }, h("h2", { id: "upload-title" }, "Upload"),
    h("div", { class: "field" }, h("label", { for: "kind" }, "What the answers are"), chosen),
    dropZone(start, input, h("label", { for: "zip" }, "Choose a ZIP file, or drop it here"),
      h("p", { id: "zip-help", class: "help" }, "main.csv and a folder of pictures", limits.upload_bytes ? `, at most ${bytes(limits.upload_bytes)}` : "", "; details below.")),
    h("p", { class: "check" }, strict, h("label", { for: "strict" }, "Refuse the file when a single row is bad, instead of skipping that row")),
    photoMaker((file) => start(file, "counting"), () => going !== null),
    h("p", { class: "actions" }, sample, download),
    status);
}

const tooLarge = (file, limits) => new Problem(413, { code: "upload.size", title: "The file is too large", detail: `It has ${bytes(file.size)}; this server takes at most ${bytes(limits.upload_bytes)}. Nothing was sent.` });

function dropZone(start, ...children) {
  const over = (on) => (e) => { e.preventDefault(); zone.classList.toggle("over", on); };
  const zone = h("div", { class: "drop", dragenter: over(true), dragover: over(true), dragleave: over(false), drop: (e) => {
    over(false)(e);
    if (e.dataTransfer.files[0]) start(e.dataTransfer.files[0]);
  } }, children);
  return zone;
}

async function withSample(path, status, signal, start) {
  status.replaceChildren(h("p", {}, "Fetching the drawn pictures…"));
  try {
    const reply = await fetch(path, { signal });
    if (!reply.ok) throw new Problem(reply.status, { title: "There are no drawn pictures on this server" });
    start(new File([await reply.blob()], "sample.zip", { type: "application/zip" }));
  } catch (e) { if (!signal.aborted) status.replaceChildren(notice(e)); }
}

async function send(file, options, status) {
  const stop = new AbortController();
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  const text = h("p", { role: "status" }, "Uploading ", words(file.name), "…");
  status.replaceChildren(text, bar, h("button", { type: "button", click: () => stop.abort() }, "Stop the upload"));
  hold(status);
  try {
    const report = await upload(file, (sent, all) => progress(bar, text, sent, all), stop.signal, "upload-data" + query(options));
    announce(`${file.name}: ${summary(report)}`);
    if (status.isConnected) location.hash = `#/${address("data", report.file_id)}`;
  } catch (e) {
    status.replaceChildren(stop.signal.aborted ? h("p", { role: "status" }, "The upload was stopped; nothing was kept.") : notice(e));
    if (!status.isConnected) announce(`The upload of ${file.name} failed: ${e.title ?? "it was stopped"}`);
  } finally { hold(null); }
}

function hold(status) {
  going = status;
  for (const control of document.querySelectorAll("#zip, #strict, #kind, #sample")) control.disabled = Boolean(status);
  window[status ? "addEventListener" : "removeEventListener"]("beforeunload", warn);
}

const warn = (e) => e.preventDefault();

function progress(bar, text, sent, all) {
  bar.value = sent / all;
  const tenth = Math.floor((10 * sent) / all) * 10;
  put(text, sent < all ? `Uploading: ${tenth} % of ${bytes(all)}` : "Uploaded. The server is looking through it…");
  if (sent >= all) bar.removeAttribute("value");
}

function layout({ columns = {}, kinds = {}, example = [], pictures = [], limits = {} }) {
  return h("details", {}, h("summary", {}, "What the ZIP must look like"),
    h("p", {}, "A table, ", h("code", {}, "main.csv"), ", and the pictures that it names. Its columns:"),
    facts(Object.entries(columns).map(([name, what]) => [h("code", {}, name), what])),
    h("pre", {}, example.join("\n")),
    h("p", {}, "An answer depends on what is learned:"), facts(Object.entries(kinds).map(([kind, what]) => [kindWords[kind] ?? kind, what])),
    h("p", {}, `Pictures: ${pictures.join(", ")}. `, limits.rows && `At most ${count(limits.rows, "row")}. `,
      "A row whose picture is missing or broken is skipped and listed. All limits and error codes: ", h("a", { href: "data-format" }, "data format"), "."));
}

function fileList(first, signal) {
  const list = h("ul", { class: "cards" });
  const more = h("p");
  const add = (page) => {
    list.append(...page.files.map((f) => fileCard(f, signal)));
    more.replaceChildren(...(page.next ? [moreButton(page.next)] : []));
  };
  const moreButton = (after) => h("button", { type: "button", click: async () => {
    try { add(await get("files" + query({ limit: 50, after }), signal)); } catch (e) { more.replaceChildren(notice(e)); }
  } }, "Show more");
  add(first);
  return h("section", { "aria-labelledby": "files-title" }, h("h2", { id: "files-title" }, "Uploaded data"),
    first.files.length ? list : h("p", { class: "empty" }, "Nothing yet. Upload a ZIP above, or use the drawn pictures; then this list offers to train on it."), more);
}

function fileCard(file, signal) {
  const path = address("data", file.file_id);
  const trouble = h("div");
  const card = h("li", {},
    h("h3", {}, h("a", { href: `#/${path}` }, words(file.filename))),
    facts([["Rows kept", `${file.valid_images} of ${file.csv_rows}`], ["Answers", kindWords[file.kind] ?? file.kind], ["Size", bytes(file.size_bytes ?? 0)], ["Uploaded", when(file.upload_time)]]),
    h("p", { class: "actions" }, h("a", { class: "button", href: `#/train${query({ file: file.file_id })}` }, "Train on it"),
      h("button", { type: "button", "aria-label": `Remove ${file.filename}`, click: () => remove(file, card, trouble, signal) }, "Remove")), trouble);
  return card;
}

function remove(file, card, trouble, signal) {
  ask("Remove this data?", "The uploaded pictures and rows are deleted from the server. Finished jobs keep their results.", "Remove", async () => {
    try {
      await call("DELETE", address("files", file.file_id), { signal });
      const next = card.nextElementSibling ?? card.previousElementSibling;
      card.remove();
      announce("Removed");
      (next?.querySelector("a") ?? document.querySelector("h1")).focus();
    } catch (e) { trouble.replaceChildren(notice(e)); }
  });
}

const skippedCount = (f) => f.skipped_rows ?? f.skipped?.length ?? 0;

const summary = (f) => `${count(f.valid_images, "row")} of ${f.csv_rows} kept, ${skippedCount(f) || "none"} skipped`;

export async function filePage({ args: [id], params, signal }) {
  const trail = (params.get("after") ?? "").split(",").filter(Boolean);
  const [file, page] = await Promise.all([get(address("files", id), signal), get(address("files", id, "rows") + query({ limit: 24, after: trail.at(-1) }), signal)]);
  return [h("p", { class: "crumbs" }, h("a", { href: "#/data" }, "Data")), h("h1", {}, words(file.filename)), report(file),
    h("p", { class: "actions" }, h("a", { class: "button primary", href: `#/train${query({ file: id })}` }, "Train on this data")),
    gallery(id, page, trail, file)];
}

function report(file) {
  const skipped = file.skipped ?? [], all = skippedCount(file);
  return h("section", { "aria-labelledby": "report-title" }, h("h2", { id: "report-title" }, "What was read"),
    h("p", { class: skipped.length ? "notice warn" : "notice good" }, summary(file), "."),
    (file.notes ?? []).length > 0 && h("ul", { class: "help" }, file.notes.map((t) => h("li", {}, words(t)))),
    facts([["Size", bytes(file.size_bytes ?? 0)], ["Uploaded", when(file.upload_time)]]),
    skipped.length > 0 && h("details", { open: skipped.length <= 10 }, h("summary", {}, `Skipped rows (${all})`), skippedTable(skipped, all)));
}

function skippedTable(skipped, all) {
  const head = h("tr", {}, ["Row", "Picture", "Why"].map((t) => h("th", { scope: "col" }, t)));
  const rows = skipped.slice(0, mostSkipped).map((s) => h("tr", {}, h("td", { class: "num" }, s.row), h("td", { class: "file" }, words(s.image)), h("td", {}, h("bdi", {}, s.message), " ", h("code", {}, s.code))));
  return [scrollable("Skipped rows", h("table", {}, h("thead", {}, head), h("tbody", {}, rows))),
    all > rows.length && h("p", { class: "help" }, `The first ${rows.length} of ${all} are shown.`)];
}

function gallery(id, page, trail, file) {
  const to = (cursors) => `#/${address("data", id)}${query({ after: cursors.join(",") })}`;
  return h("section", { "aria-labelledby": "gallery-title" }, h("h2", { id: "gallery-title" }, "Pictures, questions, answers"),
    h("ul", { class: "gallery" }, page.rows.map(picture)),
    h("nav", { class: "actions", "aria-label": "Pages of pictures" },
      trail.length > 0 && h("a", { class: "button", href: to(trail.slice(0, -1)) }, "Previous"),
      h("span", {}, `Page ${trail.length + 1} of ${Math.max(1, Math.ceil(file.valid_images / 24))}`),
      page.next && h("a", { class: "button", href: to([...trail, page.next]) }, "Next")));
}

const picture = (row) => h("li", {},
  h("a", { href: row.image.replace(/^\//, "") + "?size=1024", target: "_blank", rel: "noopener", "aria-label": `Picture of row ${row.row}, larger, in a new tab` },
    h("img", { src: row.image.replace(/^\//, "") + "?size=320", alt: `Picture of row ${row.row}`, loading: "lazy", width: "320", height: "320" })),
  h("p", {}, words(row.question)), h("p", { class: "answer" }, words(row.answer)), h("p", { class: "help" }, `row ${row.row}`));
