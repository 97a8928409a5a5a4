// Where are pairs judged: in the tab, or large, in a dialog over ComfyUI? It is one element, which is moved.

import { button, make } from "./elements.js";
import { judgeElement } from "./judge-element.js";
import { word } from "./i18n.js";

const SINGLE = new Set(["Delete", "Backspace", "Escape"]);

export class JudgingArea {
  #judge = null;
  #making = null;
  #dataset = null;
  #nothing;

  /** nothing: what is shown when every pair is judged. */
  constructor(nothing) {
    this.#nothing = nothing;
    this.element = make("div", { class: "mapo-judging" });
    this.element.addEventListener("keydown", keepFromComfy);
  }

  /** Judge the pairs of that dataset; asks for nothing before the area is in sight. */
  async judge(dataset) {
    this.#dataset = dataset;
    this.#making ??= judgeElement({ dataset });
    this.#judge = await this.#making;
    if (!this.#judge.isConnected) {
      this.#nothing.slot = "empty";
      this.#judge.append(this.#nothing);
      this.element.append(this.#judge);
    }
    if (this.#judge.getAttribute("dataset") !== this.#dataset) this.#judge.setAttribute("dataset", this.#dataset);
  }

  /** New pairs came into that dataset. */
  refresh(dataset) {
    if (dataset === this.#dataset) this.#judge?.refresh();
  }

  /** The keys judge from now on. */
  async focus() {
    (await this.#making)?.focus({ preventScroll: true });
  }

  /** With large pictures, until it is closed. */
  async large() {
    const judge = await this.#making;
    if (!judge || judge.closest("dialog")) return;
    const close = button("", () => dialog.close(), { icon: "pi-times", title: word("close") });
    const head = make("div", { class: "mapo-head" }, make("b", {}, this.#dataset), close);
    const dialog = make("dialog", { class: "mapo-large", "aria-label": word("judge_large") }, head);
    dialog.addEventListener("keydown", keepFromComfy);
    dialog.addEventListener("close", () => {
      judge.setAttribute("keys", "inside");
      this.element.append(judge);
      dialog.remove();
      this.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
    // Nothing else can be meant while the dialog is open.
    judge.removeAttribute("keys");
    dialog.append(judge);
    this.focus();
  }
}

/** ComfyUI's shortcuts of one key would close the tab or delete what is selected in the graph: not while judging. */
export function keepFromComfy(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key.length === 1 || SINGLE.has(event.key)) event.stopPropagation();
}
