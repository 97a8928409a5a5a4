// What is trained, on which base, and may it begin?

import { button, fill, make } from "./elements.js";
import { attempt, tell } from "./notifications.js";
import { plan, start } from "./runs.js";
import { kept, keep } from "./saved-state.js";
import { word } from "./i18n.js";

const AUTOMATIC = "automatic"; // as the server calls it
const THINKING = 300; // ms after the last change
const NUMBERS = [
  { name: "steps", step: 1, min: 1, says: () => word("steps"), hint: () => word("by_pairs") },
  { name: "rank", step: 1, min: 1, says: () => word("rank"), hint: () => word("by_preset") },
  { name: "learning_rate", step: "any", min: 0, says: () => word("learning_rate"), hint: () => word("by_preset") },
];

export class TrainForm {
  #dataset = null;
  #checkpoint = make("select", { id: "mapo-checkpoint" });
  #preset = make("select", { id: "mapo-preset" });
  #about = make("p", { class: "mapo-quiet" });
  #numbers = {};
  #takes = make("ul", { class: "mapo-takes", role: "status" });
  #start;
  #presets = [];
  #thinking = null;
  #asked = 0;

  constructor() {
    for (const list of [this.#checkpoint, this.#preset]) list.addEventListener("change", () => this.#changed());
    this.#start = button(word("start"), () => this.#begin(), { icon: "pi-play", look: "main" });
    const more = make("details", {}, make("summary", {}, word("more")), ...NUMBERS.map((one) => this.#number(one)));
    this.element = make(
      "form",
      { class: "mapo-form", onsubmit: (event) => event.preventDefault() },
      make("label", { for: "mapo-checkpoint" }, word("checkpoint")),
      this.#checkpoint,
      make("label", { for: "mapo-preset" }, word("preset")),
      this.#preset,
      this.#about,
      more,
      this.#takes,
      this.#start,
    );
  }

  /** state: what can be chosen, as runs.js has it. */
  offer({ checkpoints, presets, preset }) {
    const card = presets.find(({ name }) => name === preset);
    const says = card ? word("automatic_card", { preset: card.title }) : word("automatic");
    this.#presets = [{ name: AUTOMATIC, title: says, about: card?.about ?? "" }, ...presets];
    fill(this.#checkpoint, checkpoints.map((name) => ({ value: name, says: name })), kept("checkpoint"));
    const known = this.#presets.map(({ name, title, about }) => ({ value: name, says: title, title: about }));
    fill(this.#preset, known, kept("preset"));
    this.#changed();
  }

  /** On which judgements. */
  choose(dataset) {
    this.#dataset = dataset;
    this.#changed();
  }

  /** Say anew what a training takes: something was judged. */
  again() {
    clearTimeout(this.#thinking);
    this.#thinking = setTimeout(() => this.#plan(), THINKING);
  }

  #number({ name, step, min, says, hint }) {
    const field = make("input", { type: "number", step, min, placeholder: hint(), oninput: () => this.again() });
    this.#numbers[name] = field;
    return make("label", { class: "mapo-number" }, make("span", {}, says()), field);
  }

  get #wanted() {
    const said = Object.entries(this.#numbers).filter(([, field]) => field.value !== "");
    return {
      dataset: this.#dataset,
      checkpoint: this.#checkpoint.value,
      preset: this.#preset.value,
      ...Object.fromEntries(said.map(([name, field]) => [name, field.valueAsNumber])),
    };
  }

  #changed() {
    if (this.#checkpoint.value) keep("checkpoint", this.#checkpoint.value);
    if (this.#preset.value) keep("preset", this.#preset.value);
    this.#about.textContent = this.#presets.find(({ name }) => name === this.#preset.value)?.about ?? "";
    this.again();
  }

  async #plan() {
    const asked = (this.#asked += 1);
    this.#start.disabled = true;
    if (!this.#dataset || !this.element.checkVisibility()) return;
    if (!this.#checkpoint.value) return this.#say([word("no_checkpoint")], []);
    const said = await plan(this.#wanted).catch(({ message }) => ({ takes: [], problems: [message] }));
    if (asked !== this.#asked) return; // something else was chosen meanwhile
    this.#say(said.problems, said.takes);
    this.#start.disabled = said.problems.length > 0;
  }

  #say(problems, takes) {
    const wrong = problems.map((text) => make("li", { class: "mapo-problem" }, text));
    this.#takes.replaceChildren(...wrong, ...takes.map((text) => make("li", {}, text)));
  }

  async #begin() {
    this.#start.disabled = true;
    const begun = await attempt(() => start(this.#wanted));
    if (begun) tell("info", word("begun", { run: begun.name }), begun.waits);
    this.again();
  }
}
