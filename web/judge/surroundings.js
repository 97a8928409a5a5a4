// What stands around the pictures: prompt, keys, counts, and what a person must know while there is no picture.

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
    parts.more = this.#button("more", "more", () => this.#open());
    parts.slot = Object.assign(document.createElement("slot"), { name: "empty" });
    parts.slot.textContent = "Nothing is left to judge here. New pairs show up by themselves.";
    parts.judge.tabIndex = -1;
    parts.judge.setAttribute("role", "group");
    parts.judge.setAttribute("aria-label", "Judge pictures");
    parts.legend.setAttribute("role", "toolbar");
    parts.legend.setAttribute("aria-label", "Answers and their keys");
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

  /** Of a view: groups of {keys, says, aloud, name, clearly}. */
  legend(groups) {
    const made = groups.map((group) => {
      const buttons = group.map(({ keys, says, aloud, name, clearly = false }) => {
        const button = this.#button("", says, () => this.#act.press({ name, clearly }));
        const cap = Object.assign(document.createElement("kbd"), { textContent: keys });
        button.prepend(cap);
        button.setAttribute("aria-label", aloud);
        button.title = aloud;
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
    this.#parts.more.textContent = "more";
    requestAnimationFrame(() => this.#clamp());
  }

  /** A sentence where the pictures would be, with a button; null shows the pictures. how: "late" waits a moment. */
  notice(sentence, again = null, how = "") {
    const { notice } = this.#parts;
    notice.hidden = sentence === null;
    notice.className = `notice ${how}`;
    const words = Object.assign(document.createElement("p"), { textContent: sentence ?? "" });
    const button = again ? [this.#button("again", again, () => this.#act.again())] : [];
    notice.replaceChildren(words, ...button);
  }

  empty() {
    this.notice("");
    this.#parts.notice.replaceChildren(this.#parts.slot);
  }

  counts({ judged, waiting }) {
    const [first, second] = [document.createElement("span"), document.createElement("span")];
    first.append(bold(judged), " judged");
    second.append(bold(waiting), " to go");
    this.#parts.counts.replaceChildren(first, second);
  }

  /** What the server says of the dataset as a whole. */
  statistics({ sentence }) {
    this.#parts.sentence.textContent = this.#parts.sentence.title = sentence ?? "";
  }

  /** unsent: answers that wait here; trouble: why, or null. */
  queue(unsent, trouble) {
    const kept = unsent === 1 ? "1 answer is kept here" : `${unsent} answers are kept here`;
    this.#queued = trouble && unsent ? `${trouble} ${kept}.` : "";
    if (!this.#refusal) this.#status(this.#queued, false);
  }

  refused(sentence) {
    clearTimeout(this.#refusal);
    this.#status(sentence, true);
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
    this.#parts.aloud.textContent = words;
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
    this.#parts.more.textContent = open ? "less" : "more";
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
