// <mapo-judge api dataset>: shows pairs (or groups) of a dataset, takes what a person says about them, loses nothing.
//
// Attributes, all of which may change at any time:
//   api      where the contract's routes are, for example "/mapo/api"
//   dataset  whose pairs are judged
//   order    "spread" (default) or "useful": those first that teach most
//   view     "pairs" (default) or "rank": up to four pictures of a prompt, nine if the server gives more
//   lang     as in HTML: "zh", else English
//   theme    "light"; dark without it. Colours and font: the --mapo-* of style.js; height: --mapo-judge-height
//   keys     "inside": only while pointer or focus is in the element, for hosts whose own keys must keep working
// Slot "empty": what is shown when nothing is left to judge.
// Events: mapo-said (something was answered; detail: {sent}, false where the server need not hear of it),
// mapo-judged (detail: {judged, waiting, unsent}), mapo-empty, mapo-error (detail: the sentence).

import { queueFor } from "./answer-queue.js";
import { JudgingApi } from "./judging-api.js";
import { listen, stopListening, used } from "./key-bindings.js";
import { LOOK } from "./style.js";
import { PairView } from "./pair-view.js";
import { forgetImages, PictureFeed } from "./picture-feed.js";
import { PictureStage } from "./picture-stage.js";
import { RankView } from "./rank-view.js";
import { Surroundings } from "./frame.js";
import { SubmissionHistory } from "./submission-history.js";
import { inWords, speak } from "./i18n.js";

const SETTLING = 200; // ms in which a click on a new pair can only be the second half of a double click
const STATISTICS_EVERY = 1500; // ms at most
const LOOK_AGAIN = 5000; // ms, while there is nothing to judge
const GONE = 1000; // ms out of the document after which an element has not just been moved

class MapoJudge extends HTMLElement {
  static observedAttributes = ["api", "dataset", "order", "view", "lang"];

  #around;
  #stage = new PictureStage((index, clearly, at) => this.#choose(index, clearly, at));
  #view = null;
  #api = null;
  #queue = null;
  #feed = null;
  #history = null;
  #current = null;
  #visibleSince = Infinity;
  #wasHidden = false;
  #settings = "";
  #statistics = { judged: null, since: 0, asked: 0, timer: null };
  #flipHeld = false;
  #seen = false;
  #polling = null;
  #sight = new IntersectionObserver((entries) => this.#sighted(entries.at(-1).isIntersecting));
  #onQueue = (event) => this.#heard(event);
  #onHidden = () => (this.#wasHidden ||= document.hidden);

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.append(Object.assign(document.createElement("style"), { textContent: LOOK }));
    this.#around = new Surroundings(this.#stage.element, {
      press: (action) => this.press({ ...action, at: performance.now() }),
      again: () => this.refresh(),
    });
    root.append(this.#around.element);
    this.addEventListener("pointerdown", () => used(this));
    this.addEventListener("focusin", () => used(this));
  }

  connectedCallback() {
    listen(this);
    this.#sight.observe(this);
    document.addEventListener("visibilitychange", this.#onHidden);
    this.#polling = setInterval(() => this.#lookAgain(), LOOK_AGAIN);
    this.#begin();
  }

  disconnectedCallback() {
    stopListening(this);
    this.#sight.disconnect();
    document.removeEventListener("visibilitychange", this.#onHidden);
    clearInterval(this.#polling);
    setTimeout(() => this.isConnected || this.#end(), GONE);
  }

  attributeChangedCallback() {
    // Several attributes are often set one after the other.
    queueMicrotask(() => this.#begin());
  }

  /** Asks the server again now; for hosts that know of new pairs. */
  refresh() {
    this.#queue?.hurry();
    this.#feed?.again();
    this.#tellState();
    this.#askStatistics();
  }

  /** The keys work from now on, wherever they worked before. */
  focus(options) {
    this.#around.element.focus(options);
  }

  // What key-bindings.js asks and tells.

  canTakeKeys(path) {
    if (!this.isConnected || !this.checkVisibility({ visibilityProperty: true })) return false;
    const box = this.getBoundingClientRect();
    if (!box.width || box.bottom <= 0 || box.top >= innerHeight) return false;
    const dialogs = [...document.querySelectorAll(":modal")];
    if (dialogs.some((dialog) => !contains(dialog, this))) return false;
    return this.getAttribute("keys") !== "inside" || path.includes(this) || this.matches(":hover");
  }

  knows(name) {
    return ["undo", "flip"].includes(name) || Boolean(this.#view?.knows(name));
  }

  /** action: {name, clearly, at}, at being when it was pressed; returns whether it meant something here. */
  press(action) {
    if (!this.#view) return false;
    if (action.name === "undo") return this.#undo();
    if (action.name === "flip") return (this.#flipHeld = this.#stage.flip());
    if (action.name === "zoom_in") return this.#stage.zoomIn();
    if (action.name === "zoom_out") return this.#stage.zoomOut();
    if (action.name === "reset") return this.#stage.reset();
    if (!this.#view.knows(action.name)) return false;
    // Who pressed before this pair was in sight meant none of what is here: not counted rather than guessed.
    if (this.#current && action.at >= this.#visibleSince) this.#view.press(action);
    return true;
  }

  typing(is) {
    this.#around.dimKeys(is);
  }

  release(name) {
    if (name !== "flip" || !this.#flipHeld) return;
    this.#flipHeld = false;
    this.#stage.endFlip();
  }

  #choose(index, clearly, at) {
    if (this.#current && at >= this.#visibleSince + SETTLING) this.#view.choose(index, clearly);
  }

  #begin() {
    const [api, dataset, order, kind, language] = MapoJudge.observedAttributes.map((name) => this.getAttribute(name) ?? "");
    const settings = JSON.stringify([api, dataset, order, kind, language]);
    if (!this.isConnected || !this.#seen || settings === this.#settings) return;
    this.#end();
    this.#settings = settings;
    speak(language);
    this.#around.label();
    const View = kind === "rank" ? RankView : PairView;
    this.#view = new View(this.#stage, (answer) => this.#submit(answer), () => this.#around.legend(this.#view.legend));
    this.#around.legend(this.#view.legend);
    if (!api || !dataset) {
      this.#around.notice("No dataset is chosen.");
      return;
    }
    this.#api = new JudgingApi(api);
    this.#queue = queueFor(api);
    for (const name of ["change", "sent", "refused"]) this.#queue.addEventListener(name, this.#onQueue);
    this.#history = new SubmissionHistory(`${this.#api.base}:${dataset}:${kind}`);
    this.#feed = new PictureFeed(this.#api, (count, keys, signal) => {
      return View.ask(this.#api, { dataset, order }, count, [...keys, ...this.#handled()], signal);
    });
    this.#feed.addEventListener("ready", () => this.#showNext());
    this.#feed.addEventListener("state", () => this.#tellState());
    this.#feed.addEventListener("left-out", () => this.#around.refused("Left out: a picture cannot be read."));
    this.#tellState();
    this.#tellQueue();
    this.#askStatistics();
  }

  #end() {
    for (const name of ["change", "sent", "refused"]) this.#queue?.removeEventListener(name, this.#onQueue);
    clearTimeout(this.#statistics.timer);
    this.#feed?.close();
    this.#feed?.items.forEach(forgetImages);
    this.#history?.forgetImages();
    this.#feed = this.#history = this.#queue = this.#view = this.#current = null;
    this.#statistics = { judged: null, since: 0, asked: 0, timer: null };
    this.#settings = "";
    this.#stage.clear();
    this.#around.clear();
  }

  /** Keys the server may think are still to be judged, because it has not heard of them yet. */
  #handled() {
    const unsent = this.#queue.unsent.map(({ kind, body }) => (kind === "rankings" ? body.prompt : body.pair));
    const skipped = this.#history.skipped;
    return [...new Set([...unsent, ...skipped].filter((key) => key !== undefined))];
  }

  #showNext() {
    if (this.#current || !this.#feed?.isReady) return;
    const item = this.#feed.take();
    this.#current = item;
    this.#around.notice(null);
    this.#around.prompt(item.prompt);
    this.#view.show(item);
    this.#visibleSince = Infinity;
    this.#wasHidden = document.hidden;
    const feed = this.#feed;
    requestAnimationFrame(() => {
      // After the frame that this callback prepares has been painted.
      setTimeout(() => {
        if (this.#current === item) this.#visibleSince = performance.now();
        feed.goOn();
      });
    });
  }

  #submit({ kind, body, said }) {
    const item = this.#current;
    const seconds = this.#wasHidden ? null : Math.round(performance.now() - this.#visibleSince) / 1000;
    const dataset = this.getAttribute("dataset");
    const made = kind ? this.#queue.add(kind, dataset, { ...body, seconds }) : null;
    this.#history.push(made, item);
    if (body.answer !== "skip" && made) this.#statistics.since += 1;
    this.#around.aloud(said);
    this.#goOn();
    this.#tell("mapo-said", { sent: Boolean(made) });
  }

  #undo() {
    if (this.#view.undo()) return true;
    const last = this.#history?.pop();
    if (!last) return true;
    if (last.made) {
      this.#queue.takeBack(last.made, this.getAttribute("dataset"));
      this.#statistics.since -= 1;
    }
    this.#feed.putBack(...[last.item, this.#current].filter(Boolean));
    this.#around.aloud("Undone");
    this.#goOn();
    return true;
  }

  #goOn() {
    this.#current = null;
    this.#showNext();
    this.#tellState();
    this.#tellCounts();
  }

  #tellState() {
    if (!this.#feed || this.#current) return;
    const { state, trouble } = this.#feed;
    this.#stage.clear();
    this.#around.prompt("");
    if (state === "empty") this.#around.empty();
    else if (state === "refused") this.#around.notice(trouble, "Try again");
    else if (state === "away") this.#around.notice(inWords("{trouble} Asking again by itself.", { trouble: inWords(trouble) }), "Ask now");
    else this.#around.notice("Waiting for the next pictures", null, "late");
    if (state === "empty") this.#tell("mapo-empty");
    if (state === "refused") this.#tell("mapo-error", trouble);
  }

  #heard(event) {
    if (event.type === "refused") this.#around.refused(inWords("An answer was not taken: {why}", { why: event.detail }));
    if (event.type === "sent") {
      if (this.#feed.state === "away") this.#feed.again();
      this.#soon(() => this.#askStatistics());
    }
    this.#tellQueue();
  }

  #soon(act) {
    const { timer, asked } = this.#statistics;
    clearTimeout(timer);
    this.#statistics.timer = setTimeout(act, Math.max(0, asked + STATISTICS_EVERY - performance.now()));
  }

  async #askStatistics() {
    const feed = this.#feed;
    if (!feed) return;
    this.#statistics.asked = performance.now();
    const reply = await this.#api.statistics(this.getAttribute("dataset")).catch(() => null);
    if (!reply || feed !== this.#feed) return;
    const dataset = this.getAttribute("dataset");
    const mine = this.#queue.unsent.filter((entry) => entry.dataset === dataset && entry.body.answer !== "skip");
    this.#statistics.judged = reply.judged;
    this.#statistics.since = mine.reduce((sum, { kind }) => sum + (kind === "undo" ? -1 : 1), 0);
    this.#statistics.waiting = reply.waiting;
    this.#around.statistics(reply);
    this.#tellCounts();
  }

  #tellCounts() {
    const { judged, waiting, since } = this.#statistics;
    if (judged === null) return;
    const counts = { judged: judged + since, waiting: Math.max(0, waiting - since), unsent: this.#queue.unsent.length };
    this.#around.counts(counts);
    this.#tell("mapo-judged", counts);
  }

  #tellQueue() {
    this.#around.queue(this.#queue.unsent.length, this.#queue.trouble);
  }

  #sighted(seen) {
    if (!seen) return;
    const first = !this.#seen;
    this.#seen = true;
    if (first) this.#begin();
    else this.#lookAgain();
  }

  #lookAgain() {
    const nothing = !this.#current && this.#feed?.state === "empty";
    if (nothing && this.checkVisibility() && !document.hidden) this.#feed.again();
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}

/** Whether `inner` is in `outer`, through shadow roots. */
function contains(outer, inner) {
  for (let node = inner; node; node = node.parentNode ?? node.host) if (node === outer) return true;
  return false;
}

if (!customElements.get("mapo-judge")) customElements.define("mapo-judge", MapoJudge);
