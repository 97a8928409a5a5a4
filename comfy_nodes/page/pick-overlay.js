// How does one pick look? Two pictures, or a few, as large as the window, over everything else.

import { judgeElement } from "./judge-element.js";
import { address, ask } from "./server.js";
import { word } from "./i18n.js";

const STILL_TYPING = 700; // ms without a key after which somebody who typed elsewhere has seen the pictures
const TYPED_INTO = "input, textarea, select, [contenteditable]";

let quietUntil = 0;

// Heard before the judging element hears it: a word that somebody was typing when the pictures came is no answer.
addEventListener("keydown", (event) => {
  const now = performance.now();
  if (now >= quietUntil) return;
  quietUntil = now + STILL_TYPING;
  event.preventDefault();
  event.stopImmediatePropagation();
}, true);

/** act: {hidden(), done()}: it was put aside by the person; what it asked may be over, to be looked up. */
export class PickOverlay {
  #dialog = document.createElement("dialog");
  #act;
  #parts = {};
  #due = null;
  #clock = null;
  #said = false;
  #closing = false;

  constructor(pick, act) {
    this.pick = pick;
    this.#act = act;
    for (const name of ["time", "more", "trouble"]) {
      this.#parts[name] = Object.assign(document.createElement("span"), { className: name });
    }
    const title = Object.assign(document.createElement("h1"), { textContent: word(`pick_title_${pick.view}`) });
    const dataset = Object.assign(document.createElement("span"), { className: "dataset", textContent: pick.dataset });
    const later = button(word("pick_later"), word("pick_later_tooltip"), () => this.#putAside());
    const cancel = button(word("pick_cancel"), word("pick_cancel_tooltip"), () => this.#cancel());
    cancel.append(Object.assign(document.createElement("kbd"), { textContent: "esc" }));
    const header = document.createElement("header");
    header.append(title, dataset, this.#parts.trouble, this.#parts.time, this.#parts.more, later, cancel);

    this.#dialog.className = "mapo-pick";
    this.#dialog.setAttribute("aria-label", title.textContent);
    this.#dialog.append(header);
    // ComfyUI's keys are for the graph, which is covered.
    this.#dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.#cancel();
    });
    this.#dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#cancel();
    });
    this.#dialog.addEventListener("close", () => this.#closing || this.#putAside());
  }

  /** Whether it was answered here: nobody needs to be told then how it ended. */
  get said() {
    return this.#said;
  }

  async open() {
    const { key, dataset, view, seconds_left: left } = this.pick;
    const attributes = { api: address(`/mapo/pick/${key}`), dataset, view, keys: null };
    const judge = await judgeElement(attributes);
    if (this.#closing) return;
    const after = Object.assign(document.createElement("p"), { slot: "empty", textContent: word("pick_gone") });
    judge.append(after);
    judge.addEventListener("mapo-said", ({ detail }) => {
      this.#said = true;
      after.textContent = word("pick_kept");
      if (!detail.sent) this.#tell("skip");
    });
    judge.addEventListener("mapo-empty", () => this.#said || this.#act.done());
    if (document.activeElement?.matches(TYPED_INTO)) quietUntil = performance.now() + STILL_TYPING;
    this.#dialog.append(judge);
    document.body.append(this.#dialog);
    this.#dialog.showModal();
    judge.focus({ preventScroll: true }); // no button has the focus then: space would press it
    this.#due = left === null ? null : performance.now() + left * 1000;
    this.#clock = setInterval(() => this.#tick(), 500);
    this.#tick();
  }

  close() {
    this.#closing = true;
    clearInterval(this.#clock);
    this.#dialog.close();
    this.#dialog.remove();
  }

  /** How many others wait for this person. */
  more(count) {
    this.#parts.more.textContent = count ? word(count === 1 ? "pick_one_more" : "pick_more", { count }) : "";
  }

  #tick() {
    if (this.#due === null) return;
    const seconds = Math.max(0, Math.ceil((this.#due - performance.now()) / 1000));
    const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    this.#parts.time.textContent = word(`pick_left_${this.pick.otherwise}`, { time });
    this.#parts.time.classList.toggle("soon", seconds <= 10);
  }

  #cancel() {
    if (!this.#said) this.#tell("cancel");
  }

  async #tell(what) {
    this.#said = true;
    try {
      await ask(`/mapo/pick/${this.pick.key}/${what}`, {});
    } catch (error) {
      this.#said = false;
      this.#parts.trouble.textContent = error.message;
    }
    this.#act.done();
  }

  #putAside() {
    this.close();
    this.#act.hidden();
  }
}

function button(words, says, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: words, title: says });
  made.addEventListener("click", act);
  return made;
}
