// What is on the node MaPO Compare? Its pairs, judged blind; then, or when the person asks, both pictures to look at.

import { app } from "../../scripts/app.js";
import { button, make } from "./elements.js";
import { judgeElement } from "./judge-element.js";
import { keepFromComfy } from "./judging-area.js";
import { ask } from "./server.js";
import { Wipe } from "./image-slider.js";
import { loadWords, word } from "./i18n.js";

const HEIGHT = 560; // px, at least: below it the pictures of a pair are too small to judge
const SIZE = [560, 820];
const SETTLING = 400; // ms after an answer in which the server has it
const KEPT = "mapo_comparison"; // in the node's properties: which comparison it showed when it was saved

app.registerExtension({
  name: "MaPO.Compare",
  async setup() {
    const look = { rel: "stylesheet", href: new URL("./compare.css", import.meta.url).href };
    document.head.append(Object.assign(document.createElement("link"), look));
  },
  nodeCreated(node) {
    if (node.comfyClass !== "MaPOCompare") return;
    const panel = new Panel((name) => (node.properties[KEPT] = name));
    const show = (name, alike = 0) => name && panel.show(name, alike);
    const given = { serialize: false, getMinHeight: () => HEIGHT };
    node.addDOMWidget("comparison", "mapo-compare", panel.element, given).serialize = false; // nor in workflows
    node.setSize(SIZE.map((least, side) => Math.max(least, node.size[side])));
    after(node, "onExecuted", (output) => show(output?.[KEPT]?.[0], output?.mapo_alike?.[0]));
    after(node, "onConfigure", () => show(node.properties[KEPT]));
    after(node, "onRemoved", () => panel.end());
  },
});

class Panel {
  #kept;
  #name = "";
  #alike = 0;
  #report = null;
  #judge = null;
  #wipe = null;
  #looking = false;
  #timer = null;
  #result = make("p", { class: "mapo-result", role: "status" });
  #stage = make("div", { class: "mapo-compare-stage" });
  #switch = null;

  /** kept: told which comparison is shown. */
  constructor(kept) {
    this.#kept = kept;
    this.element = make("div", { class: "mapo-compare" });
    this.element.addEventListener("keydown", keepFromComfy);
    for (const name of ["pointerdown", "pointermove", "pointerup"]) this.element.addEventListener(name, keepTheNode);
    loadWords()
      .catch(() => {}) // their names are shown then
      .then(() => {
        this.#switch = button("", () => this.#turn(!this.#looking), {});
        this.#switch.hidden = true;
        this.element.append(make("div", { class: "mapo-compare-head" }, this.#result, this.#switch), this.#stage);
        this.#draw();
      });
  }

  /** The comparison of that name; one that is shown is read anew. alike: pairs left out, as both pictures are the same. */
  async show(name, alike) {
    this.#alike = alike;
    const other = name !== this.#name;
    this.#name = name;
    if (other) this.#looking = false;
    await this.#read();
    if (this.#name !== name || !this.#report) return;
    this.#kept(name);
    if (other && this.#report.pairs && this.#report.judged === this.#report.pairs) this.#looking = true;
    this.#draw();
    if (!other) this.#judge?.refresh();
  }

  end() {
    clearTimeout(this.#timer);
  }

  async #read() {
    const name = this.#name;
    try {
      const report = await ask(`/mapo/comparisons/${encodeURIComponent(name)}`);
      if (name === this.#name) this.#report = report;
    } catch (error) {
      if (name !== this.#name) return;
      this.#report = null;
      this.#result.textContent = error.message;
    }
  }

  #turn(looking) {
    this.#looking = looking;
    this.#draw();
  }

  async #draw() {
    if (!this.#switch) return;
    const report = this.#report;
    this.#switch.hidden = !report?.pairs;
    if (!report) {
      if (!this.#name) this.#result.textContent = word("compare_begin");
      return;
    }
    this.#say();
    this.#switch.lastChild?.remove();
    this.#switch.append(make("span", {}, word(this.#looking ? "compare_judge" : "compare_look")));
    this.#switch.title = word(this.#looking ? "compare_judge_tooltip" : "compare_look_tooltip");
    if (this.#looking) {
      this.#wipe ??= new Wipe();
      this.#wipe.fill(report.duels, [report.other, report.lora]);
      this.#stage.replaceChildren(this.#wipe.element);
      return;
    }
    const judge = await this.#judging();
    if (this.#looking || judge.getAttribute("dataset") !== this.#name) return;
    if (!this.#stage.contains(judge)) this.#stage.replaceChildren(judge);
  }

  #say() {
    const { judged, pairs, sentence } = this.#report;
    const left = this.#alike ? ` (${word("compare_alike", { count: this.#alike })})` : "";
    this.#result.textContent = `${this.#report.name}: ${sentence}${left}`;
    this.#result.title = word("compare_judged", { judged, pairs });
  }

  async #judging() {
    if (!this.#judge) {
      const making = judgeElement({ dataset: this.#name });
      this.#judge = await making;
      const done = make("div", { class: "mapo-empty", slot: "empty" }, make("h3", {}, word("compare_done")));
      done.append(button(word("compare_look"), () => this.#turn(true), { look: "main" }));
      this.#judge.append(done);
      this.#judge.addEventListener("mapo-judged", () => this.#soon());
    }
    this.#judge.setAttribute("dataset", this.#name);
    return this.#judge;
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      await this.#read();
      if (this.#report) this.#say();
    }, SETTLING);
  }
}

/** Where something is dragged on the node, the node is not; the middle button moves the whole graph, as everywhere. */
function keepTheNode(event) {
  if (event.button !== 1 && !(event.buttons & 4)) event.stopPropagation();
}

/** Do something else as well when ComfyUI calls this of the node. */
function after(node, name, act) {
  const before = node[name];
  node[name] = function (...given) {
    const reply = before?.apply(this, given);
    act(...given);
    return reply;
  };
}
