// From photographs to a data set without a table or a program: pictures are chosen, each gets its count, the page makes the ZIP.
import { h, announce, shorten } from "./dom.js";
import { notice } from "./api.js";
import { makeZip } from "./make_zip.js";

const most = 500; // photographs: more are better listed in a table
const readable = /^image\/(jpeg|png|webp|bmp|gif)$/; // an iPhone's HEIC would be skipped row by row after the counting

export function photoMaker(send, isBusy) {
  const rows = [], list = h("ul", { class: "gallery" }), said = h("div");
  const question = h("input", { id: "photo-question", value: "How many are there?", autocomplete: "off" });
  const choose = h("input", { type: "file", id: "photos", accept: "image/*", multiple: true, "aria-describedby": "photos-help", change: () => { add([...choose.files]); choose.value = ""; } });
  const make = h("button", { type: "button", class: "primary", click: () => finish() }, "Upload these photographs");
  const actions = h("p", { class: "actions" }, make, h("button", { type: "button", click: () => clear() }, "Begin anew"));
  const below = h("div", {}, h("div", { class: "field" }, h("label", { for: "photo-question" }, "The question, the same for all"), question), list, actions);
  below.hidden = true;

  function add(files) {
    const taken = files.filter((f) => readable.test(f.type)).slice(0, most - rows.length);
    const out = files.length - taken.length;
    said.replaceChildren(...(out ? [h("p", { class: "notice warn" }, `${out} of ${files.length} files ${out === 1 ? "was" : "were"} left out: not JPEG, PNG, WEBP, BMP or GIF (an iPhone's HEIC: save it as JPEG), or beyond ${most}.`)] : []));
    for (const file of taken) {
      const number = rows.length + 1, id = `photo-${number}`, url = URL.createObjectURL(file);
      const count = h("input", { id, inputmode: "numeric", autocomplete: "off" });
      rows.push({ file, count, url });
      list.append(h("li", {}, h("img", { src: url, alt: `Photograph ${number}`, width: "320", height: "320" }), h("label", { for: id }, `How many in ${shorten(file.name, 40)}?`), count));
    }
    below.hidden = rows.length === 0;
    rows.find((r) => !r.count.value)?.count.focus();
  }

  function clear() {
    for (const { url } of rows) URL.revokeObjectURL(url);
    rows.length = 0;
    list.replaceChildren();
    said.replaceChildren();
    below.hidden = true;
  }

  async function finish() {
    const empty = rows.find((r) => !/^\d{1,6}$/.test(r.count.value.trim()));
    if (empty || !question.value.trim()) {
      said.replaceChildren(h("p", { class: "notice bad", role: "alert" }, empty ? "Each photograph needs its true number, in digits." : "A question is needed."));
      (empty?.count ?? question).focus();
      return;
    }
    if (isBusy()) return;
    make.disabled = true;
    try {
      const named = rows.map((r, i) => ({ ...r, name: `images/${i + 1}${/\.\w{1,5}$/.exec(r.file.name)?.[0].toLowerCase() ?? ".jpg"}` }));
      const table = ["images_path,question,answer", ...named.map((r) => [r.name, quoted(question.value.trim()), r.count.value.trim()].join(","))].join("\n") + "\n";
      const zip = await makeZip([["main.csv", new Blob([table])], ...named.map((r) => [r.name, r.file])]);
      announce("The photographs are being uploaded");
      send(new File([zip], "photographs.zip", { type: "application/zip" }));
    } catch (e) { said.replaceChildren(notice(e)); }
    finally { make.disabled = false; }
  }

  return h("details", { class: "photos" }, h("summary", {}, "Only photographs? Make the data here"),
    h("p", { class: "help", id: "photos-help" }, "Choose photographs, type how many things are in each, and upload them. Thirty are a beginning; a few hundred are better."),
    h("div", { class: "drop small" }, choose, h("label", { for: "photos" }, "Choose photographs, or drop them here")), said, below);
}

const quoted = (text) => `"${text.replace(/"/g, '""')}"`;
