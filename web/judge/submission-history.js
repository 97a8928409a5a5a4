// What did this tab say last, so that it can be taken back, also after a reload?

import { forgetImages } from "./picture-feed.js";

const KEPT = 40; // submissions
const WITH_IMAGES = 8; // of them, those whose pictures stay in memory

export class SubmissionHistory {
  #name;
  #made = [];

  constructor(name) {
    this.#name = `mapo-judge:said:${name}`;
    try {
      this.#made = JSON.parse(sessionStorage.getItem(this.#name)) ?? [];
    } catch {
      // Nothing is remembered, or what is there is not ours.
    }
  }

  /** made: {client, sequence}, or null for what the server need not hear of; item: what was shown. */
  push(made, item) {
    this.#made.push({ made, item });
    if (this.#made.length > KEPT) this.#made.shift();
    const old = this.#made[this.#made.length - 1 - WITH_IMAGES];
    if (old) forgetImages(old.item);
    this.#keep();
  }

  /** The last {made, item}, or undefined. */
  pop() {
    const last = this.#made.pop();
    this.#keep();
    return last;
  }

  /** Keys of what was skipped without a word to the server. */
  get skipped() {
    return this.#made.filter(({ made }) => !made).map(({ item }) => item.key);
  }

  forgetImages() {
    this.#made.forEach(({ item }) => forgetImages(item));
  }

  #keep() {
    const plain = this.#made.map(({ made, item: { images, loading, attempts, ...item } }) => ({ made, item }));
    try {
      sessionStorage.setItem(this.#name, JSON.stringify(plain));
    } catch {
      // A reload will not be able to undo; everything else works.
    }
  }
}
