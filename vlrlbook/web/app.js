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
      h("p", { id: "token-help", class: "help" }, "A long row of letters and digits, such as q3Zx…8Lw. Upper and lower case matter.")),
    h("p", {}, h("button", { class: "primary" }, "Go on")));
  return [h("h1", {}, "This server needs its token"),
    tried && h("div", { class: "notice bad", role: "alert" }, h("p", {}, "That token was not accepted.")),
    h("p", { class: "lead" }, "The token is this server's password. It keeps others on your network from using the machine."),
    h("ul", {}, h("li", {}, h("b", {}, "Somebody else started the server?"), " Ask them for the address with the token in it, or for the token."),
      h("li", {}, h("b", {}, "You started it?"), " The window in which it runs shows an address that ends in ", h("code", {}, "?token=…"), ". Open that, or copy what stands behind the = sign."),
      h("li", {}, "It also stands in a small file named ", h("code", {}, "token"), " in the folder where the server keeps its data. Any text editor opens it.")),
    form, h("p", { class: "help" }, "This browser is asked once a week. Programs send the token with each request: ", h("code", {}, "Authorization: Bearer TOKEN"), "."), h("p", { class: "help" }, "The server says: ", problem.detail || problem.title, " ", h("code", {}, problem.code))].filter(Boolean);
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
// A file dropped beside a zone would replace the page. A file input takes its own.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (e) => { if (!e.target.matches?.("input[type=file]")) e.preventDefault(); });
window.addEventListener("hashchange", () => show());
backToGoal();
show(true);
