// Every request goes through here; what the server refuses becomes a Problem with its code.
import { h, shorten } from "./dom.js";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title);
    this.status = status;
    this.code = body.code ?? `http.${status}`;
    this.title = body.title ?? `The server answered ${status}`;
    this.detail = body.detail ?? "";
    this.entry = body.entry;
    this.row = body.row;
    this.errors = Array.isArray(body.errors) ? body.errors : [];
  }
}

const unreachable = () => new Problem(0, { code: "connection.lost", title: "The server cannot be reached", detail: "Nothing came back. Is vlrlbook serve still running? Try again in a moment." });

const tooSlow = () => new Problem(0, { code: "connection.slow", title: "The server did not answer in 30 seconds", detail: "It may be busy. Try again in a moment." });

export const address = (...parts) => parts.map(encodeURIComponent).join("/");

export const query = (values) => {
  const kept = Object.entries(values).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return kept.length ? "?" + new URLSearchParams(kept) : "";
};

export async function call(method, path, { json, headers, signal } = {}) {
  const limit = AbortSignal.timeout(30_000);
  const init = { method, headers: { Accept: "application/json", ...headers }, signal: signal ? AbortSignal.any([signal, limit]) : limit };
  if (json !== undefined) Object.assign(init, { body: JSON.stringify(json), headers: { ...init.headers, "Content-Type": "application/json" } });
  try {
    const reply = await fetch(path, init);
    if (reply.ok) return reply.status === 204 ? null : isJson(reply.headers.get("content-type")) ? await reply.json() : await reply.text();
    throw problem(reply.status, await reply.text());
  } catch (e) {
    if (e instanceof Problem || signal?.aborted) throw e;
    throw limit.aborted ? tooSlow() : unreachable();
  }
}

export const get = (path, signal) => call("GET", path, { signal });

const isJson = (type) => /json/.test(type ?? "");

function problem(status, text) {
  let body = {};
  try { body = JSON.parse(text) ?? {}; } catch { body = { title: `The server answered ${status}`, detail: shorten(text, 200) }; }
  const found = new Problem(status, body);
  if (status === 401) document.dispatchEvent(new CustomEvent("token-missing", { detail: found }));
  return found;
}

// XMLHttpRequest, because fetch does not tell how far an upload is.
export function upload(file, onProgress, signal, path) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file);
    request.open("POST", path);
    request.upload.addEventListener("progress", (e) => onProgress(e.loaded, e.total));
    request.addEventListener("load", () => request.status < 300 ? resolve(JSON.parse(request.responseText)) : reject(problem(request.status, request.responseText)));
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

// Any error in words, with its code; what is no Problem is a fault of this page and goes to the console too.
export function notice(error, errors = error.errors ?? []) {
  const p = error instanceof Problem ? error : new Problem(0, { code: "page.error", title: "The page made an error", detail: String(error?.message ?? error) });
  if (p !== error) console.error(error);
  return h("div", { class: "notice bad", role: "alert" },
    h("p", {}, h("strong", {}, p.title), " ", h("code", {}, p.code)),
    p.detail && h("p", {}, h("bdi", {}, p.detail)),
    (p.entry || p.row) && h("p", {}, p.entry && ["Entry: ", h("bdi", {}, p.entry), " "], p.row && `Row: ${p.row}`),
    errors.length > 0 && h("ul", {}, errors.slice(0, 20).map(errorLine)));
}

function errorLine(e) {
  const place = [e.field ?? e.entry, e.row && `row ${e.row}`].filter(Boolean).join(", ");
  return h("li", {}, place && [h("bdi", {}, place), ": "], h("bdi", {}, e.message ?? e.detail ?? ""), " ", e.code && h("code", {}, e.code));
}
