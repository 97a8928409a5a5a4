// How are two pictures compared that lie on each other? A line is drawn across them: left of it one, right the other.

import { button, make } from "./elements.js";
import { address } from "./server.js";
import { word } from "./i18n.js";

const STEP = 2; // percent that an arrow key moves the line, five times that with Shift
const MIDDLE = 50;

/** Shows pairs {prompt, base, lora}, pictures by their SHA-256, one at a time. */
export class Wipe {
  #pairs = [];
  #at = 0;
  #line = MIDDLE;
  #base = picture("mapo-wipe-base");
  #lora = picture("mapo-wipe-lora");
  #names = [make("span", { class: "mapo-wipe-name" }), make("span", { class: "mapo-wipe-name" })];
  #prompt = make("p", { class: "mapo-quiet" });
  #count = make("span", { class: "mapo-quiet" });
  #strip = make("div", { class: "mapo-wipe-strip", role: "group" });
  #stage;

  constructor() {
    this.#stage = make(
      "div",
      { class: "mapo-wipe", role: "slider", tabindex: 0, "aria-label": word("compare_line"), "aria-valuemin": 0, "aria-valuemax": 100 },
      this.#base,
      this.#lora,
      make("i", { class: "mapo-wipe-line" }),
      ...this.#names,
    );
    this.#stage.addEventListener("pointerdown", (event) => this.#grab(event));
    this.#stage.addEventListener("keydown", (event) => this.#press(event));
    const back = button("", () => this.#show(this.#at - 1), { icon: "pi-chevron-left", title: word("compare_back") });
    const on = button("", () => this.#show(this.#at + 1), { icon: "pi-chevron-right", title: word("compare_next") });
    const bar = make("div", { class: "mapo-wipe-bar" }, back, this.#count, on, this.#prompt);
    this.element = make("div", { class: "mapo-looking" }, this.#stage, bar, this.#strip);
  }

  /** names: of what is left of the line and what is right of it. */
  fill(pairs, names) {
    const before = this.#pairs[this.#at]?.lora;
    this.#pairs = pairs;
    this.#names.forEach((label, index) => (label.textContent = names[index]));
    this.#strip.replaceChildren(...pairs.map((pair, index) => this.#thumbnail(pair, index)));
    this.#show(Math.max(0, pairs.findIndex(({ lora }) => lora === before)));
  }

  #thumbnail({ lora }, index) {
    const small = make("img", { src: pictureAddress(lora), alt: "", loading: "lazy", draggable: "false" });
    const title = word("compare_pair", { number: index + 1 });
    return make("button", { type: "button", title, "aria-label": title, onclick: () => this.#show(index) }, small);
  }

  #show(index) {
    if (!this.#pairs.length) return;
    this.#at = (index + this.#pairs.length) % this.#pairs.length;
    const { prompt, base, lora } = this.#pairs[this.#at];
    this.#base.src = pictureAddress(base);
    this.#lora.src = pictureAddress(lora);
    this.#prompt.textContent = this.#prompt.title = prompt;
    this.#count.textContent = `${this.#at + 1} / ${this.#pairs.length}`;
    [...this.#strip.children].forEach((one, number) => one.setAttribute("aria-pressed", String(number === this.#at)));
    this.#strip.children[this.#at].scrollIntoView({ block: "nearest", inline: "nearest" });
    this.#draw(this.#line);
  }

  #draw(percent) {
    this.#line = Math.min(100, Math.max(0, percent));
    this.#stage.style.setProperty("--line", `${this.#line}%`);
    this.#stage.setAttribute("aria-valuenow", String(Math.round(this.#line)));
  }

  #grab(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#stage.focus({ preventScroll: true });
    const move = ({ clientX }) => {
      const { left, width } = this.#stage.getBoundingClientRect();
      this.#draw((100 * (clientX - left)) / width);
    };
    const end = () => {
      this.#stage.removeEventListener("pointermove", move);
      this.#stage.removeEventListener("lostpointercapture", end);
    };
    this.#stage.setPointerCapture(event.pointerId);
    this.#stage.addEventListener("pointermove", move);
    this.#stage.addEventListener("lostpointercapture", end);
    move(event);
  }

  #press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = event.shiftKey ? 5 * STEP : STEP;
    const acts = {
      ArrowLeft: () => this.#draw(this.#line - step),
      ArrowRight: () => this.#draw(this.#line + step),
      ArrowUp: () => this.#show(this.#at - 1),
      ArrowDown: () => this.#show(this.#at + 1),
      Home: () => this.#draw(0),
      End: () => this.#draw(100),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // the node would move, or another be chosen
    acts[event.key]();
  }
}

function picture(look) {
  return make("img", { class: look, alt: "", draggable: "false" });
}

function pictureAddress(sha256) {
  return address(`/mapo/api/picture/${sha256}`);
}
