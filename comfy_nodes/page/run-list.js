// How does each training stand, and what can be done with it?

import { button, make } from "./elements.js";
import { insertLora } from "./graph-nodes.js";
import { attempt } from "./notifications.js";
import { install, resume, stop } from "./runs.js";
import { word } from "./i18n.js";

const PHASES = {
  waiting: () => word("phase_waiting"),
  running: () => word("phase_running"),
  finished: () => word("phase_finished"),
  stopped: () => word("phase_stopped"),
  failed: () => word("phase_failed"),
  died: () => word("phase_died"),
};

export class RunList {
  #cards = new Map();
  #none = make("p", { class: "mapo-quiet" }, word("no_runs"));

  constructor() {
    this.element = make("div", { class: "mapo-runs" }, this.#none);
  }

  /** runs: newest first, as the server tells them. A card stays the same element, so that no focus is lost. */
  show(runs) {
    this.#none.hidden = runs.length > 0;
    const names = new Set(runs.map(({ name }) => name));
    for (const [name, card] of this.#cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    runs.forEach((run, place) => {
      if (!this.#cards.has(run.name)) this.#cards.set(run.name, new RunCard(run.name));
      const card = this.#cards.get(run.name);
      card.show(run);
      // The first child is what is said where there is none.
      if (this.element.children[place + 1] !== card.element) {
        this.element.insertBefore(card.element, this.element.children[place + 1] ?? null);
      }
    });
  }
}

class RunCard {
  #name;
  #run = null;
  #parts = {
    phase: make("span", { class: "mapo-phase" }),
    bar: make("progress", { max: 1 }),
    line: make("p", { class: "mapo-quiet" }),
    agreement: make("p", {}),
    message: make("p", { class: "mapo-message" }),
    actions: make("div", { class: "mapo-actions" }),
  };
  #offered = "";

  constructor(name) {
    this.#name = name;
    const { phase, ...rest } = this.#parts;
    this.#parts.bar.setAttribute("aria-label", name);
    const head = make("header", {}, make("b", { title: name }, name), phase);
    this.element = make("article", { class: "mapo-run", "data-run": name }, head, ...Object.values(rest));
  }

  show(run) {
    this.#run = run;
    const { phase, bar, line, agreement, message } = this.#parts;
    const goes = run.phase === "running";
    this.element.dataset.phase = run.phase;
    phase.textContent = PHASES[run.phase]();
    bar.hidden = !goes && run.phase !== "waiting";
    if (goes && run.steps) bar.value = run.step / run.steps;
    else bar.removeAttribute("value"); // it is being prepared: nobody knows how long
    line.textContent = [run.dataset, run.base, steps(run), goes ? left(run.seconds_left) : ""].filter(Boolean).join(" · ");
    agreement.textContent = run.agreement === null ? "" : agrees(run);
    message.textContent = (run.phase === "waiting" ? run.behind : "") || run.message || "";
    this.#offer();
  }

  /** The buttons; made anew only when others are needed. */
  #offer() {
    const { phase, lora, step } = this.#run;
    const made = phase === "finished" || (phase === "stopped" && step > 0);
    const wanted = [
      phase === "running" || phase === "waiting" ? "stop" : "",
      phase === "stopped" || phase === "died" || phase === "failed" ? "resume" : "",
      made && !lora ? "install" : "",
      lora ? "insert" : "",
    ].filter(Boolean);
    if (wanted.join() === this.#offered) return;
    this.#offered = wanted.join();
    this.#parts.actions.replaceChildren(...wanted.map((action) => this.#button(action)));
  }

  #button(action) {
    const [says, icon, act] = {
      stop: [word("stop"), "pi-stop", () => stop(this.#name)],
      resume: [word("resume"), "pi-play", () => resume(this.#name)],
      install: [word("install"), "pi-download", () => install(this.#name)],
      insert: [word("insert"), "pi-plus", () => insertLora(this.#run.lora)],
    }[action];
    const pressed = async () => {
      made.disabled = true; // until the server says how it stands
      await attempt(act);
      made.disabled = false;
    };
    const made = button(says, pressed, { icon });
    return made;
  }
}

/** With its 95 % interval: of few pairs a share alone says more than is known. */
function agrees({ agreement, agreement_low: low, agreement_high: high, agreement_pairs: pairs }) {
  const [share, from, to] = [agreement, low ?? 0, high ?? 1].map((part) => Math.round(part * 100));
  return word("agreement", { share, from, to, pairs: pairs ?? "?" });
}

function steps({ phase, step, steps: all }) {
  if (!all || phase === "waiting") return "";
  return word("step_of", { step, steps: all });
}

function left(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return word("seconds_left", { seconds: Math.round(seconds) });
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return word("minutes_left", { minutes });
  return word("hours_left", { hours: (minutes / 60).toFixed(1) });
}
