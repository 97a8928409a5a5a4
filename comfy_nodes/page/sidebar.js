// What is in the sidebar tab "MaPO"? A dataset, its pairs to judge, and trainings on it.

import { app } from "../../scripts/app.js";
import { button, fill, make } from "./elements.js";
import { insertCollect } from "./graph-nodes.js";
import { JudgingArea } from "./judging-area.js";
import { keep, kept } from "./saved-state.js";
import { attempt } from "./notifications.js";
import { RunList } from "./run-list.js";
import { offers, runs } from "./runs.js";
import { hear } from "./server.js";
import { TrainForm } from "./train-form.js";
import { word } from "./i18n.js";

const ID = "mapo";

let open = null; // what is in the tab while it is open: nothing is asked for while it is not
let opened = withResolvers();

/** For ComfyUI's registerSidebarTab. */
export function sidebarTab() {
  hear("mapo.runs", (told) => open?.showRuns(told.runs));
  hear("mapo.datasets", () => open?.refresh());
  hear("mapo.collected", ({ dataset }) => open?.collected(dataset));
  return { id: ID, icon: "pi pi-heart", title: "MaPO", tooltip: word("tab_tooltip"), type: "custom", render, destroy };
}

/** Open the tab at "judge" or "train". what is in it. */
export async function show(view) {
  keep("view", view);
  const tabs = app.extensionManager.sidebarTab;
  if (tabs.activeSidebarTabId !== ID) tabs.toggleSidebarTab(ID);
  const content = await opened.promise;
  content.turnTo(view);
  return content;
}

/** Something was changed elsewhere, as the workspace in the settings. */
export function refresh() {
  open?.refresh();
}

/** ComfyUI calls it again whenever it draws the side bar. */
function render(into) {
  if (open?.element.parentNode === into) return;
  open ??= new Content();
  into.replaceChildren(open.element);
  opened.resolve(open);
}

function destroy() {
  open?.element.remove();
  open = null;
  opened = withResolvers();
}

class Content {
  #dataset = make("select", { "aria-label": word("dataset"), onchange: () => this.#chosen() });
  #nothingLeft = make("div", { class: "mapo-empty" }, make("p", {}, word("nothing_left")));
  #judging = new JudgingArea(this.#nothingLeft);
  #form = new TrainForm();
  #runs = new RunList();
  #views;
  #tabs;
  #ready;

  constructor() {
    this.#nothingLeft.append(button(word("train"), () => this.turnTo("train"), { look: "main" }));
    const large = button("", () => this.large(), { icon: "pi-window-maximize", title: word("judge_large") });
    const head = make("div", { class: "mapo-head" }, this.#dataset, large);
    const training = make("div", { class: "mapo-training" }, this.#form.element, make("h3", {}, word("runs")));
    training.append(this.#runs.element);
    this.#views = { judge: this.#judging.element, train: training };
    this.#tabs = { judge: this.#tab("judge", word("judge")), train: this.#tab("train", word("train")) };
    const row = make("div", { class: "mapo-tabs", role: "tablist" }, ...Object.values(this.#tabs));
    row.addEventListener("keydown", (event) => this.#walk(event));
    this.full = make("div", { class: "mapo-full" }, head, row, ...Object.values(this.#views));
    this.empty = emptyState();
    this.element = make("section", { class: "mapo-sidebar", "aria-label": "MaPO" }, this.full, this.empty);
    this.element.addEventListener("mapo-judged", () => this.#form.again());
    this.full.hidden = this.empty.hidden = true;
    this.turnTo(kept("view") === "train" ? "train" : "judge");
    this.#ready = this.refresh();
    attempt(async () => this.showRuns(await runs()));
  }

  /** Ask what there is to choose from. */
  async refresh() {
    const state = await attempt(offers);
    if (!state) return;
    const names = state.datasets.map(({ name }) => ({ value: name, says: name }));
    this.full.hidden = !names.length;
    this.empty.hidden = Boolean(names.length);
    fill(this.#dataset, names, kept("dataset"));
    this.#form.offer(state);
    if (names.length) this.#chosen();
  }

  collected(dataset) {
    const known = [...this.#dataset.options].some(({ value }) => value === dataset);
    if (known) this.#judging.refresh(dataset);
    else this.refresh();
  }

  showRuns(all) {
    this.#runs.show(all);
    const going = all.find(({ phase }) => phase === "running");
    const share = going?.steps ? ` ${Math.floor((100 * going.step) / going.steps)} %` : "";
    this.#tabs.train.textContent = word("train") + share;
  }

  turnTo(view) {
    keep("view", view);
    for (const [name, element] of Object.entries(this.#views)) {
      element.hidden = name !== view;
      this.#tabs[name].setAttribute("aria-selected", String(name === view));
      this.#tabs[name].tabIndex = name === view ? 0 : -1;
    }
    if (view === "train") this.#form.again();
  }

  async focus() {
    await this.#ready;
    await this.#judging.focus();
  }

  async large() {
    await this.#ready;
    await this.#judging.large();
  }

  #tab(name, says) {
    return make("button", { type: "button", role: "tab", onclick: () => this.turnTo(name) }, says);
  }

  #walk(event) {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = this.#views.judge.hidden ? "judge" : "train";
    this.turnTo(other);
    this.#tabs[other].focus();
  }

  #chosen() {
    keep("dataset", this.#dataset.value);
    this.#dataset.title = this.#dataset.value;
    attempt(() => this.#judging.judge(this.#dataset.value));
    this.#form.choose(this.#dataset.value);
  }
}

function emptyState() {
  const add = button(word("add_collect"), () => attempt(() => insertCollect()), { icon: "pi-plus", look: "main" });
  const steps = [word("empty_collect"), word("empty_judge"), word("empty_train")].map((text) => make("li", {}, text));
  return make("div", { class: "mapo-empty" }, make("h3", {}, word("empty_title")), make("ol", {}, ...steps), add);
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}
