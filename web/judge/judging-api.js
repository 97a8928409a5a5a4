// How does the element speak to a server? JSON over HTTP, as trainer/preferences/api.py says it.

import { inWords } from "./i18n.js";

const PATIENCE = 20000; // ms; a server that takes longer is asked again

/**
 * What went wrong with a request, and what follows from it.
 * kind "away": nothing was decided, ask again later. "signed_out": likewise, after the person has signed in.
 * "refused": the server understood and said no; its sentence is the message.
 */
export class JudgingError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

export class JudgingApi {
  /** base: where the routes are, for example "/mapo/api". */
  constructor(base) {
    this.base = new URL(base.replace(/\/+$/, ""), document.baseURI).href;
  }

  /** {pairs: [{pair, prompt, purpose, left, right}], waiting}; exclude: pairs that are here already. */
  next(dataset, count, exclude, order, signal) {
    return this.#get("next", { dataset, count, exclude, order }, signal);
  }

  /** {groups: [{prompt, text, pictures}], waiting}; exclude: prompts that are here already. */
  groups(dataset, count, size, exclude, signal) {
    return this.#get("groups", { dataset, count, size, exclude }, signal);
  }

  statistics(dataset, signal) {
    return this.#get("statistics", { dataset }, signal);
  }

  /** kind: "answers", "rankings" or "undo". */
  send(kind, body) {
    return this.#json(`${this.base}/${kind}`, post(body, AbortSignal.timeout(PATIENCE)));
  }

  /** Sends while the page goes away; nobody hears the reply. Browsers carry at most 64 KiB so. */
  sendLeaving(kind, body) {
    fetch(`${this.base}/${kind}`, { ...post(body), keepalive: true }).catch(() => {});
  }

  /** The bytes of a picture. */
  async picture(id, signal, priority) {
    const reply = await this.#fetch(`${this.base}/picture/${encodeURIComponent(id)}`, { signal, priority });
    return reply.blob().catch((error) => {
      throw signal?.aborted ? error : new JudgingError("away", "The connection broke off.");
    });
  }

  #get(route, fields, signal) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(fields)) {
      if (value !== undefined && value !== null && String(value) !== "") query.set(name, String(value));
    }
    const patience = AbortSignal.timeout(PATIENCE);
    const either = signal && AbortSignal.any ? AbortSignal.any([signal, patience]) : signal ?? patience;
    return this.#json(`${this.base}/${route}?${query}`, { cache: "no-store", signal: either });
  }

  async #json(url, options) {
    const reply = await this.#fetch(url, options);
    try {
      return await reply.json();
    } catch (error) {
      throw new JudgingError("away", "Something else than MaPO answers there.");
    }
  }

  async #fetch(url, options) {
    let reply;
    try {
      reply = await fetch(url, { credentials: "same-origin", ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new JudgingError("away", "The server does not answer.");
    }
    if (reply.ok) return reply;
    throw await explained(reply);
  }
}

function post(body, signal) {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), credentials: "same-origin", signal };
}

async function explained(reply) {
  if (reply.status === 401 || reply.status === 403) return new JudgingError("signed_out", "Please sign in again.");
  if (reply.status >= 500 || [408, 425, 429].includes(reply.status)) {
    return new JudgingError("away", inWords("The server is in trouble ({status}).", reply));
  }
  const body = await reply.json().catch(() => null);
  if (typeof body?.error === "string") return new JudgingError("refused", body.error);
  // A route that is not there has no sentence: the studio is starting, or something else listens there now.
  if (reply.status === 404 || reply.status === 405) return new JudgingError("away", "MaPO is not there.");
  return new JudgingError("refused", inWords("The server cannot read this ({status}).", reply));
}
