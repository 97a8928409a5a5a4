// How does an answer reach the server, whatever happens to the server, the network or the page?
//
// Every submission is in localStorage before its promise of being sent is believed, one entry each, and leaves it when
// the server has said that it has it. The server counts (client, sequence) once, so sending twice is harmless: an entry
// that another page left behind is sent by whoever finds it. A client is one load of a page; its submissions have
// even numbers, and taking back number n is always n + 1, so that two pages that remember the same submission (a
// duplicated tab does) cannot say different things under one number.

import { JudgingApi } from "./judging-api.js";

const AT_ONCE = 50; // entries in one request
const GATHER = 250; // ms; what is answered within it goes out together
const ORPHANED = 10000; // ms after which another page would have sent an entry itself
const LOOK_FOR_ORPHANS = 30000; // ms
const LONGEST_PAUSE = 15000; // ms between attempts
const LEAVING_BYTES = 60000;

const client = newClient();
// One count for all queues of this page: the server knows a submission by (client, sequence), wherever it was made.
let count = 0;
const queues = new Map();

/** The one queue of this page for an api; several elements share it. */
export function queueFor(api) {
  const { base } = new JudgingApi(api);
  if (!queues.has(base)) queues.set(base, new AnswerQueue(base));
  return queues.get(base);
}

/** Events: "change" (something was added or is gone, or the connection changed), "sent", "refused" (detail: why). */
export class AnswerQueue extends EventTarget {
  #api;
  #prefix;
  #entries = [];
  #last = 0;
  #made = new Map(); // of what this load of the page added and is unsent: entry -> {client, sequence}
  #sending = false;
  #atOnce = AT_ONCE;
  #failures = 0;
  #wake = null;
  #flying = 0;

  /** null while the server answers; else the sentence that says why not. */
  trouble = null;

  constructor(base) {
    super();
    this.#api = new JudgingApi(base);
    this.#prefix = `mapo-judge:${base}:`;
    this.#adopt(0);
    addEventListener("online", () => this.hurry());
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => this.hurry());
    setInterval(() => this.#adopt(ORPHANED), LOOK_FOR_ORPHANS);
    this.#send();
  }

  /** What has not been acknowledged, oldest first: [{kind, dataset, body}]. */
  get unsent() {
    return this.#entries;
  }

  /** Appends a judgement and returns what takes it back: {client, sequence}. kind: "answers" or "rankings". */
  add(kind, dataset, body) {
    const made = nextNumber();
    this.#made.set(this.#append(kind, dataset, { ...body, ...made }), made);
    return made;
  }

  /** Takes back a submission, of this load of the page or an earlier one. */
  takeBack(made, dataset) {
    this.#append("undo", dataset, { client: made.client, sequence: made.sequence + 1, undoes: made.sequence });
  }

  /** Tries now instead of at the end of the pause. */
  hurry() {
    this.#wake?.();
  }

  #append(kind, dataset, body) {
    // Never twice the same time: after a reload it is what says which came first.
    const at = (this.#last = Math.max(Date.now(), this.#last + 1));
    const entry = { kind, dataset, at, body, name: `${this.#prefix}${at}:${body.client}:${body.sequence}` };
    write(entry);
    this.#entries.push(entry);
    this.#changed();
    this.#send();
    return entry;
  }

  #adopt(age) {
    const known = new Set(this.#entries.map((entry) => entry.name));
    const found = read(this.#prefix).filter((entry) => !known.has(entry.name) && Date.now() - entry.at >= age);
    if (!found.length) return;
    // What is being sent stays in front: its reply takes it from there.
    const adopted = found.map((entry) => ({ ...entry, adopted: true }));
    const waiting = [...this.#entries.splice(this.#flying), ...adopted].sort((one, other) => one.at - other.at);
    this.#entries.push(...waiting);
    this.#changed();
    this.#send();
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    await this.#pause(GATHER);
    while (this.#entries.length) {
      this.#forgetWhatOthersSent();
      const batch = this.#batch();
      if (!batch.length) continue;
      this.#flying = batch.length;
      const left = await this.#deliver(batch);
      this.#flying = 0;
      this.#entries = this.#entries.filter((entry) => !batch.includes(entry) || left.includes(entry));
      this.#changed();
      if (this.#failures) await this.#pause(pauseAfter(this.#failures));
    }
    this.#sending = false;
  }

  /** Sends a batch and returns those of it that must be sent again. */
  async #deliver(batch) {
    const { kind } = batch[0];
    const bodies = batch.map((entry) => entry.body);
    let refused = [];
    try {
      const reply = await this.#api.send(kind, kind === "undo" ? bodies[0] : { [kind]: bodies });
      refused = reply.refused ?? [];
    } catch (error) {
      if (error.kind !== "refused") {
        this.#failures += 1;
        this.trouble = error.message;
        return batch;
      }
      // One bad entry makes the server refuse the whole request: halve it until the bad one stands alone.
      this.#atOnce = Math.ceil(batch.length / 2);
      if (batch.length > 1) return batch;
      refused = [{ sequence: bodies[0].sequence, why: error.message }];
    }
    this.#atOnce = Math.min(AT_ONCE, this.#atOnce * 2);
    this.#failures = 0;
    this.trouble = null;
    const taken = new Set(refused.filter((one) => one.taken).map((one) => one.sequence));
    const again = kind === "undo" ? [] : batch.filter((entry) => taken.has(entry.body.sequence) && !entry.renumbered);
    const numbers = new Set(again.map((entry) => entry.body.sequence));
    batch.filter((entry) => !again.includes(entry)).forEach((entry) => (erase(entry), this.#made.delete(entry)));
    again.forEach((entry) => this.#renumber(entry));
    for (const { why } of refused.filter((one) => !numbers.has(one.sequence))) {
      this.dispatchEvent(new CustomEvent("refused", { detail: why }));
    }
    this.dispatchEvent(new Event("sent"));
    return again;
  }

  /** The server has something else under an entry's number: another one, also for what takes it back. */
  #renumber(entry) {
    const { client: before, sequence } = entry.body;
    const made = Object.assign(this.#made.get(entry) ?? {}, nextNumber());
    this.#rewrite(entry, { ...made, renumbered: true });
    for (const later of this.#entries) {
      if (later.kind !== "undo" || later.body.client !== before || later.body.undoes !== sequence) continue;
      this.#rewrite(later, { client, sequence: made.sequence + 1, undoes: made.sequence });
    }
  }

  #rewrite(entry, { renumbered = entry.renumbered, ...numbers }) {
    erase(entry);
    const body = { ...entry.body, ...numbers };
    Object.assign(entry, { body, renumbered, name: `${this.#prefix}${entry.at}:${body.client}:${body.sequence}` });
    write(entry);
  }

  /** The next entries that fit in one request: of one kind and one client, in order. */
  #batch() {
    const [first] = this.#entries;
    if (!first) return [];
    const most = first.kind === "undo" ? 1 : this.#atOnce;
    const other = this.#entries.findIndex((e) => e.kind !== first.kind || e.body.client !== first.body.client);
    return this.#entries.slice(0, Math.min(most, other < 0 ? Infinity : other));
  }

  #forgetWhatOthersSent() {
    this.#entries = this.#entries.filter((entry) => !entry.adopted || isWritten(entry));
  }

  /** The page goes: hands over one request. An undo must not overtake its answer, so the rest waits here. */
  #leave() {
    const batch = this.#batch();
    while (batch.length && JSON.stringify(batch).length > LEAVING_BYTES) batch.pop();
    if (!batch.length) return;
    const bodies = batch.map((entry) => entry.body);
    const { kind } = batch[0];
    this.#api.sendLeaving(kind, kind === "undo" ? bodies[0] : { [kind]: bodies });
  }

  #pause(length) {
    return new Promise((done) => {
      const timer = setTimeout(done, length);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Of milliseconds, doubled by every failure; uneven, so that a team's pages do not all come back at once. */
export function pauseAfter(failures) {
  return Math.min(LONGEST_PAUSE, 500 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
}

function nextNumber() {
  return { client, sequence: 2 * ++count };
}

function newClient() {
  // crypto.randomUUID is missing where a tablet opens the studio by http and address.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Where a browser keeps nothing for a page (private windows, full storage), entries still wait in memory.

function write(entry) {
  try {
    localStorage.setItem(entry.name, JSON.stringify(entry));
  } catch (error) {
    console.warn("MaPO: this browser does not keep answers over a reload:", error.message);
  }
}

function erase(entry) {
  try {
    localStorage.removeItem(entry.name);
  } catch {}
}

function isWritten(entry) {
  try {
    return localStorage.getItem(entry.name) !== null;
  } catch {
    return true;
  }
}

function read(prefix) {
  const found = [];
  try {
    for (const name of Object.keys(localStorage)) {
      if (!name.startsWith(prefix)) continue;
      try {
        const entry = JSON.parse(localStorage.getItem(name));
        if (entry?.body) found.push({ ...entry, name });
      } catch {
        localStorage.removeItem(name);
      }
    }
  } catch {}
  return found.sort((one, other) => one.at - other.at);
}
