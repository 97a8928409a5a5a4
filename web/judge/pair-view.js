// What does a press say about two pictures?

import { inWords } from "./i18n.js";

const SAID = {
  left: "Left",
  right: "Right",
  tie: "Tie",
  both_bad: "Both bad",
  skip: "Skipped",
};
const ANSWER = { pick1: "left", pick2: "right", ...Object.fromEntries(Object.keys(SAID).map((name) => [name, name])) };

export class PairView {
  #stage;
  #submit;
  #item = null;

  /** submit({kind, body, said}) takes what was answered. */
  constructor(stage, submit) {
    this.#stage = stage;
    this.#submit = submit;
  }

  /** What a feed asks, for `order` of the queue. */
  static async ask(api, { dataset, order }, count, keys, signal) {
    const { pairs } = await api.next(dataset, count, keys.join(","), order, signal);
    return pairs.map(({ pair, prompt, purpose, left, right }) => {
      return { key: pair, prompt, purpose, pictures: [left, right] };
    });
  }

  get legend() {
    return [
      [
        { keys: "⇧ ←", says: "clearly", aloud: "Left picture is clearly better", name: "left", clearly: true },
        { keys: "←", says: "better", aloud: "Left picture is better", name: "left" },
      ],
      [
        { keys: "↓", says: "tie", aloud: "Tie", name: "tie" },
        { keys: "x", says: "both bad", aloud: "Both are bad", name: "both_bad" },
        { keys: "space", says: "skip", aloud: "Skip this pair", name: "skip" },
        { keys: "z", says: "undo", aloud: "Undo the last answer", name: "undo" },
        { keys: "f", says: "flip", aloud: "Flip between the two in place", name: "flip" },
        { keys: "+", says: "zoom", aloud: "Zoom into both", name: "zoom_in" },
      ],
      [
        { keys: "→", says: "better", aloud: "Right picture is better", name: "right" },
        { keys: "⇧ →", says: "clearly", aloud: "Right picture is clearly better", name: "right", clearly: true },
      ],
    ];
  }

  show(item) {
    this.#item = item;
    this.#stage.show(item.pictures, item.images, [inWords("left picture"), inWords("right picture")], ["←", "→"]);
  }

  knows(name) {
    return name in ANSWER;
  }

  choose(index, clearly) {
    return this.press({ name: index === 0 ? "left" : "right", clearly });
  }

  press({ name, clearly }) {
    const answer = ANSWER[name];
    if (!answer) return false;
    const { key: pair, purpose, pictures } = this.#item;
    const sided = answer === "left" || answer === "right";
    const strength = sided && !clearly ? "slightly" : "clearly";
    const said = sided && clearly ? `${SAID[answer]}, clearly` : SAID[answer];
    if (sided) this.#stage.glow([answer === "left" ? 0 : 1], clearly ? "clearly" : "chosen");
    else if (answer !== "skip") this.#stage.glow([0, 1], answer === "tie" ? "tie" : "bad");
    this.#submit({ kind: "answers", body: { pair, left: pictures[0].id, answer, strength, purpose }, said });
    return true;
  }

  undo() {
    return false;
  }
}
