// The router: a view for each hash, and what all views share.
import { h } from "./dom.js";
import { notice } from "./api.js";
import { dataPage, filePage } from "./data.js";
import { trainPage } from "./train.js";
import { jobsPage } from "./jobs.js";
import { jobPage } from "./job.js";

const routes = [
  [/^\/data$/, "Data", dataPage],
  [/^\/data\/([^/]+)$/, "Data", filePage],
  [/^\/train$/, "Train", trainPage],
  [/^\/jobs$/, "Jobs", jobsPage],
  [/^\/jobs\/([^/]+)$/, "Jobs", jobPage],
];
const main = document.getElementById("main");
let leaving = new AbortController();

function where() {
  const [path, search] = location.hash.slice(1).split("?");
  return [decodeURIComponent(path) || "/data", new URLSearchParams(search)];
}

async function show(first = false) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, params] = where();
  const [pattern, name, page] = routes.find(([r]) => r.test(path)) ?? [/(.*)/, "", nowhere];
  mark(name);
  connection("");
  try {
    const view = await page({ args: path.match(pattern).slice(1), params, signal });
    if (!signal.aborted) enter(view, first);
  } catch (e) {
    if (!signal.aborted && e.status !== 401) enter([h("h1", {}, "This cannot be shown"), notice(e), again()], first);
  }
}

const again = () => h("p", {}, h("button", { type: "button", click: () => show() }, "Try again"));

function enter(view, first) {
  main.replaceChildren(...[view].flat());
  const title = main.querySelector("h1");
  document.title = `${title.textContent} · vlrlbook`;
  title.tabIndex = -1;
  if (first) return;
  window.scrollTo(0, 0);
  title.focus();
}

function mark(name) {
  for (const a of document.querySelectorAll("header nav a")) {
    if (a.querySelector("span").textContent === name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
}

function nowhere() {
  return [h("h1", {}, "There is no such page"), h("p", {}, "Go on with ", h("a", { href: "#/data" }, "the data"), " or ", h("a", { href: "#/jobs" }, "the jobs"), ".")];
}

function connection(text) {
  const note = document.getElementById("connection");
  if (note.textContent !== text) note.textContent = text;
}

function tokenPage(problem) {
  const tried = sessionStorage.getItem("token-tried");
  sessionStorage.removeItem("token-tried");
  const field = h("input", { id: "token", type: "password", autocomplete: "off", required: true, "aria-describedby": "token-help" });
  const form = h("form", { submit: (e) => { e.preventDefault(); enterToken(field.value); } },
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), field,
      h("p", { id: "token-help", class: "help" }, "The part after token= in the address that the server printed. It also lies in the file named token in the server's data directory.")),
    h("p", {}, h("button", { class: "primary" }, "Go on")));
  return [h("h1", {}, "This server needs its token"),
    tried && h("div", { class: "notice bad", role: "alert" }, h("p", {}, "That token was not accepted.")),
    h("p", {}, "Open the address that ", h("code", {}, "vlrlbook serve"), " printed when it started, or paste the token here. A browser is asked once."),
    form, h("p", { class: "help" }, "The server says: ", problem.detail || problem.title, " ", h("code", {}, problem.code))].filter(Boolean);
}

function enterToken(token) {
  sessionStorage.setItem("token-tried", "yes");
  sessionStorage.setItem("token-goal", location.hash);
  location.assign("?" + new URLSearchParams({ token: token.trim() }));
}

function backToGoal() {
  const goal = sessionStorage.getItem("token-goal");
  sessionStorage.removeItem("token-goal");
  if (goal && !location.hash) history.replaceState(null, "", goal);
}

document.addEventListener("token-missing", (e) => {
  if (leaving.signal.aborted) return;
  leaving.abort();
  enter(tokenPage(e.detail), true);
});
document.addEventListener("connection", (e) => connection(e.detail));
document.getElementById("skip").addEventListener("click", (e) => { e.preventDefault(); main.focus(); main.scrollIntoView(); });
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (e) => e.preventDefault());
window.addEventListener("hashchange", () => show());
backToGoal();
show(true);
