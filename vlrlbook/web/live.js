// What a running job says: a stream while there is one, questions every two seconds while there is none.
import { address, get, query } from "./api.js";

const slow = 15_000, quick = 2_000;

export const ended = (job) => ["completed", "failed", "cancelled"].includes(job.status);

const tell = (text) => document.dispatchEvent(new CustomEvent("connection", { detail: text }));

// Calls `act` again and again until the view is left; `act` may return the next pause.
export async function every(act, signal, pause) {
  let failures = 0, next = pause;
  for (;;) {
    await sleep(failures ? Math.min(quick * failures, 10_000) : next, signal);
    if (signal.aborted) return;
    if (document.hidden) continue;
    try {
      next = (await act()) ?? pause;
      if (failures) tell("");
      failures = 0;
    } catch (e) {
      if (signal.aborted || e.status === 401) return;
      failures += 1;
      tell(lost(e));
    }
  }
}

const lost = (e) => e.status ? `${e.title} (${e.code}). Trying again…` : "Connection lost. What you see may be old; trying again…";

function sleep(ms, signal) {
  return new Promise((done) => {
    const end = () => { clearTimeout(timer); signal.removeEventListener("abort", end); done(); };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}

// `on` holds status(job), metrics(rows), rollouts(step). Returns when the job has ended or the view is left.
export function follow(id, on, signal) {
  return new Follower(id, on, signal).run();
}

class Follower {
  constructor(id, on, signal) {
    Object.assign(this, { id, on, signal, step: -1, ended: false, stream: null, live: false, failures: 0, tried: 0 });
    document.addEventListener("visibilitychange", () => this.visibility(), { signal });
    signal.addEventListener("abort", () => this.close(), { once: true });
  }

  async run() {
    for (;;) {
      await this.poll();
      if (this.ended || this.signal.aborted) break;
      if (!this.stream && !document.hidden && Date.now() - this.tried > 5 * quick) this.open();
      await this.pause();
    }
    this.close();
  }

  pause() {
    return Promise.race([sleep(this.live || document.hidden ? slow : quick * Math.min(5, 1 + this.failures), this.signal), new Promise((wake) => { this.wake = wake; })]);
  }

  async poll() {
    try {
      const job = await get(address("jobs", this.id), this.signal);
      const page = await get(address("jobs", this.id, "metrics") + query({ after_step: this.step }), this.signal);
      if (page.rows.length) { this.metrics(page.rows); this.on.rollouts(this.step); }
      this.status(job);
      this.failures = 0;
      tell("");
    } catch (e) {
      if (this.signal.aborted) return;
      if (e.status === 404 || e.status === 401) { this.ended = true; this.on.gone(e); return; }
      this.failures += 1;
      tell(lost(e));
    }
  }

  // Browsers allow six connections to a server: a hidden page gives its stream back.
  visibility() {
    if (document.hidden) this.close();
    else { this.tried = 0; this.wake?.(); }
  }

  open() {
    this.tried = Date.now();
    const stream = this.stream = new EventSource(address("jobs", this.id, "events"));
    const listen = (kind, act) => stream.addEventListener(kind, (e) => act(JSON.parse(e.data)));
    stream.addEventListener("open", () => { this.live = true; tell(""); });
    stream.addEventListener("error", () => { this.close(); this.wake?.(); });
    listen("status", (job) => this.status(job));
    listen("metrics", (rows) => this.metrics(rows));
    listen("rollouts", (step) => this.on.rollouts(step));
    stream.addEventListener("end", () => { this.close(); this.wake?.(); });
  }

  close() {
    this.stream?.close();
    this.stream = null;
    this.live = false;
  }

  status(job) {
    // The stream may say the end a moment before a question is answered with the state of a second ago.
    if (this.ended) return;
    if (job.attempt !== (this.attempt ?? job.attempt)) this.anew();
    this.attempt = job.attempt;
    this.on.status(job);
    this.ended = ended(job);
    if (this.ended) this.wake?.();
  }

  // Another attempt begins at a checkpoint and writes the steps after it again.
  anew() {
    this.step = -1;
    this.close();
    this.wake?.();
  }

  metrics(rows) {
    this.step = rows.reduce((most, r) => Math.max(most, r.step), this.step);
    this.on.metrics(rows);
  }
}
