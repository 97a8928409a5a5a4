// Which pair (or group) comes next, and are its pictures decoded already?
//
// What is shown is an item: {key, prompt, purpose, pictures: [{id, width, height}], images: [HTMLImageElement], ...}.
// A dozen items are known ahead, the pictures of the first few are decoded, so that a press only has to swap them.

import { pauseAfter } from "./answer-queue.js";

const KNOWN_AHEAD = 12; // items
const ASK_BELOW = 9; // items
const DECODED_AHEAD = 8; // items
const AT_A_TIME = 4; // downloads; a browser opens six connections, and answers need one
const SHORT_PAUSE = 3000; // ms until a server that had few pairs is asked again

/** Events: "ready" (the first item may be shown), "state" (see `state` and `trouble`). */
export class PictureFeed extends EventTarget {
  #api;
  #ask;
  #stop = new AbortController();
  #asking = false;
  #loading = 0;
  #failures = 0;
  #few = 0;
  #broken = new Set();
  #taken = [];
  #sleepers = new Set();

  items = [];
  /** "loading", "ready", "empty", "away" (asks again by itself) or "refused". */
  state = "loading";
  trouble = null;

  /** ask(count, keys, signal) -> new items, none whose key is in `keys`: those are here already. */
  constructor(api, ask) {
    super();
    this.#api = api;
    this.#ask = ask;
    this.#more();
  }

  get isReady() {
    return Boolean(this.items[0]?.images);
  }

  /** The first item, whose pictures are decoded; goOn() is to follow when they have been painted. */
  take() {
    const item = this.items.shift();
    this.#taken = [item.key];
    return item;
  }

  /** Prepares what comes next: not before the taken pictures are in sight, for both need the processor. */
  goOn() {
    // A browser may have thrown away what it decoded a while ago.
    this.items[0]?.images?.forEach((image) => image.decode().catch(() => {}));
    this.#more();
  }

  /** Puts items that were shown before in front again. */
  putBack(...items) {
    this.items = [...items, ...this.items.filter((item) => items.every(({ key }) => key !== item.key))];
    this.#set("ready");
    this.#more();
  }

  /** Asks the server again now: after an error, or when there may be new pairs. */
  again() {
    this.#few = 0;
    this.#sleepers.forEach((wake) => wake());
    if (this.state === "refused" || this.state === "away") this.#set("loading");
    this.#more();
  }

  close() {
    this.#stop.abort();
  }

  #more() {
    if (this.#stop.signal.aborted) return;
    this.#load();
    if (!this.#asking && this.items.length < ASK_BELOW && this.state !== "refused") this.#next();
  }

  async #next() {
    if (this.items.length && Date.now() < this.#few + SHORT_PAUSE) return;
    this.#asking = true;
    try {
      await this.#askOnce();
      this.#failures = 0;
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.trouble = error.message;
      this.#set(error.kind === "refused" ? "refused" : "away");
      this.#failures += 1;
      if (this.state === "away") await this.#pause(pauseAfter(this.#failures));
    }
    this.#asking = false;
    // After a short reply the server has no more: the next press asks again.
    if (this.#few) this.#load();
    else this.#more();
  }

  async #askOnce() {
    const count = KNOWN_AHEAD - this.items.length;
    const here = [...this.#taken, ...this.items.map((item) => item.key), ...this.#broken];
    const asked = await this.#ask(count, here, this.#stop.signal);
    if (this.#stop.signal.aborted) return;
    // Between question and reply an undo may have brought one of them back.
    const fresh = asked.filter(({ key }) => this.items.every((item) => item.key !== key));
    this.items.push(...fresh);
    this.#few = asked.length < count ? Date.now() : 0;
    this.trouble = null;
    this.#set(this.items.length ? "ready" : "empty");
  }

  /** Keeps a few downloads going, in the order in which the items will be shown. */
  #load() {
    for (const item of this.items.slice(0, DECODED_AHEAD)) {
      if (this.#loading >= AT_A_TIME) return;
      if (!item.images && !item.loading) this.#loadItem(item);
    }
  }

  async #loadItem(item) {
    item.loading = true;
    this.#loading += item.pictures.length;
    const priority = item === this.items[0] ? "high" : "low";
    try {
      const images = item.pictures.map(({ id }) => this.#image(id, priority));
      item.images = await Promise.all(images);
      item.attempts = 0;
    } catch (error) {
      item.attempts = (item.attempts ?? 0) + 1;
      if (this.#stop.signal.aborted) return;
      if (error.kind === "away" || error.kind === "signed_out") {
        this.trouble = error.message;
        this.#set("away");
        await this.#pause(pauseAfter(item.attempts));
      } else {
        this.#leaveOut(item);
      }
    } finally {
      item.loading = false;
      this.#loading -= item.pictures.length;
    }
    if (this.isReady) {
      this.#set("ready");
      this.dispatchEvent(new Event("ready"));
    }
    this.#more();
  }

  async #image(id, priority) {
    const image = new Image();
    image.draggable = false;
    // With "async" a frame may be painted without the picture.
    image.decoding = "sync";
    image.src = URL.createObjectURL(await this.#api.picture(id, this.#stop.signal, priority));
    await image.decode();
    return image;
  }

  /** A picture that is missing or broken stays so: its pair cannot be judged here. */
  #leaveOut(item) {
    this.#broken.add(item.key);
    this.items = this.items.filter((other) => other !== item);
    this.dispatchEvent(new CustomEvent("left-out"));
    if (!this.items.length) this.#set("loading");
  }

  async #pause(length) {
    let wake;
    await new Promise((done) => {
      wake = done;
      this.#sleepers.add(wake);
      setTimeout(wake, length);
    });
    this.#sleepers.delete(wake);
  }

  #set(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

/** Gives back the memory of an item's pictures; they are loaded again when it is shown again. */
export function forgetImages(item) {
  item.images?.forEach((image) => URL.revokeObjectURL(image.src));
  delete item.images;
}
