// What does a press say about up to nine pictures of a prompt: which is best, or the whole order?

import { inWords } from "./i18n.js";

const SIZE = 4; // of what is asked for; a server that has one group only may give more
const PLACES = ["", "1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];
const REMEMBERED = "mapo-judge:full-order";

export class RankView {
  #stage;
  #submit;
  #changed;
  #item = null;
  #picked = [];
  #full = remembered();

  /** changed(): the legend reads differently now. */
  constructor(stage, submit, changed) {
    this.#stage = stage;
    this.#submit = submit;
    this.#changed = changed;
  }

  static async ask(api, { dataset }, count, keys, signal) {
    const { groups } = await api.groups(dataset, count, SIZE, keys.join(","), signal);
    return groups.map(({ prompt, text, pictures }) => ({ key: prompt, prompt: text, pictures }));
  }

  get legend() {
    const pictures = this.#item?.pictures ?? [];
    const picks = pictures.map((_, index) => {
      const aloud = inWords(this.#full ? "Picture {number} comes next" : "Picture {number} is the best", {
        number: index + 1,
      });
      // Five and more need the space for their numbers.
      const says = pictures.length > SIZE ? "" : this.#full ? "next" : "best";
      return { keys: String(index + 1), says, aloud, name: `pick${index + 1}` };
    });
    const confirm = { keys: "enter", says: "done", aloud: "The order is done", name: "confirm" };
    return [
      picks,
      [
        ...(this.#full ? [confirm] : []),
        { keys: "space", says: "skip", aloud: "Skip these pictures", name: "skip" },
        { keys: "z", says: "undo", aloud: "Undo", name: "undo" },
        { keys: "f", says: "flip", aloud: "Show one picture at a time in place", name: "flip" },
        { keys: "+", says: "zoom", aloud: "Zoom into all", name: "zoom_in" },
      ],
      [
        {
          keys: "o",
          says: this.#full ? "full order" : "best only",
          aloud: this.#full ? "Full order; change to best only" : "Best only; change to full order",
          name: "order",
        },
      ],
    ];
  }

  show(item) {
    const before = this.#item?.pictures.length;
    this.#item = item;
    this.#picked = [];
    const numbers = item.pictures.map((_, index) => String(index + 1));
    const names = numbers.map((number) => inWords("picture {number}", { number }));
    this.#stage.show(item.pictures, item.images, names, numbers);
    this.#marks();
    if (before !== item.pictures.length) this.#changed();
  }

  knows(name) {
    return /^pick\d$/.test(name) || ["skip", "confirm", "order"].includes(name);
  }

  choose(index) {
    return this.press({ name: `pick${index + 1}` });
  }

  press({ name }) {
    if (name === "order") return this.#toggle();
    if (name === "skip") return this.#say(null, "Skipped");
    if (name === "confirm") return this.#confirm();
    const index = /^pick\d$/.test(name) ? Number(name.slice(4)) - 1 : -1;
    if (index < 0) return false;
    if (index >= this.#item.pictures.length) return true;
    if (!this.#full) {
      this.#stage.glow([index], "clearly");
      return this.#say(this.#tiers([index]), inWords("Picture {number} is the best", { number: index + 1 }));
    }
    // Once more on the last one that was picked: the order is done.
    if (this.#picked.at(-1) === index) return this.#confirm();
    if (this.#picked.includes(index)) return true;
    this.#picked.push(index);
    // What is left over comes last of itself.
    const rest = this.#item.pictures.findIndex((_, one) => !this.#picked.includes(one));
    if (this.#picked.length === this.#item.pictures.length - 1) this.#picked.push(rest);
    this.#marks();
    return true;
  }

  /** Takes back the last pick of an order that has not been confirmed. */
  undo() {
    if (!this.#picked.length) return false;
    if (this.#picked.length === this.#item.pictures.length) this.#picked.pop();
    this.#picked.pop();
    this.#marks();
    return true;
  }

  #confirm() {
    if (!this.#full || !this.#picked.length) return this.#full;
    this.#stage.glow(this.#picked.slice(0, 1), "clearly");
    return this.#say(this.#tiers(this.#picked), "Order kept");
  }

  #toggle() {
    this.#full = !this.#full;
    this.#picked = [];
    remember(this.#full);
    this.#marks();
    this.#changed();
    return true;
  }

  /** Picked ones a tier each, best first; those that were not picked share the last. */
  #tiers(picked) {
    const { pictures } = this.#item;
    const rest = pictures.filter((_, index) => !picked.includes(index)).map(({ id }) => id);
    return [...picked.map((index) => [pictures[index].id]), ...(rest.length ? [rest] : [])];
  }

  #say(tiers, said) {
    // A skip says nothing of any picture: the server need not hear of it.
    this.#submit({ kind: tiers && "rankings", body: { prompt: this.#item.key, tiers }, said });
    return true;
  }

  #marks() {
    this.#item.pictures.forEach((_, index) => {
      const place = this.#picked.indexOf(index) + 1;
      const word = this.#full ? inWords(PLACES[place]) : "";
      this.#stage.mark(index, word);
    });
  }
}

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED) === "yes";
  } catch {
    return false;
  }
}

function remember(full) {
  try {
    localStorage.setItem(REMEMBERED, full ? "yes" : "no");
  } catch {
    // It is asked anew on the next page.
  }
}
