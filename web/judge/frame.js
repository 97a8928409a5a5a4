// What stands around the pictures: prompt, keys, counts, and what a person must know while there is no picture.

import { inWords } from "./i18n.js";

const REFUSAL_STAYS = 12000; // ms

export class Surroundings {
  #act;
  #parts;
  #paragraph;
  #refusal = null;
  #queued = "";

  /** stage: the element with the pictures; act: {press(action), again()}. */
  constructor(stage, act) {
    this.#act = act;
    const part = (name, tag = "div") => Object.assign(document.createElement(tag), { className: name });
    const parts = {};
    for (const name of ["judge", "top", "prompt", "counts", "middle", "notice", "bottom", "legend", "foot", "aloud"]) {
      parts[name] = part(name);
    }
    for (const name of ["sentence", "status"]) parts[name] = part(name, "span");
    this.#parts = parts;
    this.#paragraph = document.createElement("p");
    parts.more = this.#button("more", "", () => this.#open());
    parts.slot = Object.assign(document.createElement("slot"), { name: "empty" });
    parts.judge.tabIndex = -1;
    parts.judge.setAttribute("role", "group");
    parts.legend.setAttribute("role", "toolbar");
    parts.aloud.setAttribute("aria-live", "polite");
    parts.status.setAttribute("role", "status");

    parts.prompt.append(this.#paragraph, parts.more);
    parts.top.append(parts.prompt, parts.counts);
    parts.middle.append(stage, parts.notice);
    parts.foot.append(parts.sentence, parts.status);
    parts.bottom.append(parts.legend, parts.foot);
    parts.judge.append(parts.top, parts.middle, parts.bottom, parts.aloud);
    // A click takes the focus out of a text field elsewhere, so that keys judge again, but no button gets it: space
    // would press that button.
    parts.judge.addEventListener("mousedown", (event) => {
      if (event.composedPath().some((node) => node === this.#paragraph || node instanceof HTMLSlotElement)) return;
      event.preventDefault();
      parts.judge.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.#clamp()).observe(parts.prompt);
  }

  get element() {
    return this.#parts.judge;
  }

  /** Say what always stands here, in the language that is spoken now. */
  label() {
    const { slot, judge, legend, more } = this.#parts;
    slot.textContent = inWords("Nothing is left to judge here. New pairs show up by themselves.");
    judge.setAttribute("aria-label", inWords("Judge pictures"));
    legend.setAttribute("aria-label", inWords("Answers and their keys"));
    more.textContent = inWords("more");
  }

  /** Of a view: groups of {keys, says, aloud, name, clearly}. */
  legend(groups) {
    const made = groups.map((group) => {
      const buttons = group.map(({ keys, says, aloud, name, clearly = false }) => {
        const button = this.#button("", inWords(says), () => this.#act.press({ name, clearly }));
        const cap = Object.assign(document.createElement("kbd"), { textContent: keys });
        button.prepend(cap);
        button.title = inWords(aloud);
        button.setAttribute("aria-label", button.title);
        return button;
      });
      const row = document.createElement("div");
      row.append(...buttons);
      return row;
    });
    this.#parts.legend.replaceChildren(...made);
  }

  prompt(text) {
    this.#paragraph.textContent = text;
    this.#parts.prompt.classList.remove("open");
    this.#parts.more.textContent = inWords("more");
    requestAnimationFrame(() => this.#clamp());
  }

  /** A sentence where the pictures would be, with a button; null shows the pictures. how: "late" waits a moment. */
  notice(sentence, again = null, how = "") {
    const { notice } = this.#parts;
    notice.hidden = sentence === null;
    notice.className = `notice ${how}`;
    const words = Object.assign(document.createElement("p"), { textContent: inWords(sentence ?? "") });
    const button = again ? [this.#button("again", inWords(again), () => this.#act.again())] : [];
    notice.replaceChildren(words, ...button);
  }

  empty() {
    this.notice("");
    this.#parts.notice.replaceChildren(this.#parts.slot);
  }

  counts({ judged, waiting }) {
    const [first, second] = [document.createElement("span"), document.createElement("span")];
    first.append(bold(judged), ` ${inWords("judged")}`);
    second.append(bold(waiting), ` ${inWords("to go")}`);
    this.#parts.counts.replaceChildren(first, second);
  }

  /** What the server says of the dataset as a whole. */
  statistics({ sentence }) {
    this.#parts.sentence.textContent = this.#parts.sentence.title = sentence ?? "";
  }

  /** unsent: answers that wait here; trouble: why, or null. */
  queue(unsent, trouble) {
    const count = unsent.toLocaleString("en");
    const kept = inWords(unsent === 1 ? "1 answer is kept here" : "{count} answers are kept here", { count });
    this.#queued = trouble && unsent ? inWords("{trouble} {kept}.", { trouble: inWords(trouble), kept }) : "";
    if (!this.#refusal) this.#status(this.#queued, false);
  }

  refused(sentence) {
    clearTimeout(this.#refusal);
    this.#status(inWords(sentence), true);
    this.#refusal = setTimeout(() => {
      this.#refusal = null;
      this.#status(this.#queued, false);
    }, REFUSAL_STAYS);
  }

  /** While somebody types elsewhere, the keys of the legend do nothing. */
  dimKeys(dim) {
    this.#parts.legend.classList.toggle("dim", dim);
  }

  aloud(words) {
    this.#parts.aloud.textContent = inWords(words);
  }

  clear() {
    this.#parts.counts.replaceChildren();
    this.#parts.sentence.textContent = "";
    this.#status("", false);
    this.prompt("");
  }

  #status(words, refused) {
    const { status } = this.#parts;
    if (status.textContent !== words) status.textContent = words;
    status.classList.toggle("refused", refused);
  }

  #open() {
    const open = this.#parts.prompt.classList.toggle("open");
    this.#parts.more.textContent = inWords(open ? "less" : "more");
  }

  #clamp() {
    const { prompt, more } = this.#parts;
    const { scrollHeight, clientHeight } = this.#paragraph;
    more.hidden = !prompt.classList.contains("open") && scrollHeight <= clientHeight + 1;
  }

  #button(className, words, act) {
    const button = Object.assign(document.createElement("button"), { type: "button", className });
    button.append(words);
    button.addEventListener("click", act);
    return button;
  }
}

function bold(number) {
  return Object.assign(document.createElement("b"), { textContent: number.toLocaleString("en") });
}
