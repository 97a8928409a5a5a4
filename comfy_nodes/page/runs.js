// What trainings are there in the workspace, and what can be asked of one? All of it is the server's.

import { ask } from "./server.js";

/** What can be chosen: {datasets, checkpoints, presets, preset, shares_card, queue, ...}. */
export function offers() {
  return ask("/mapo/state");
}

/** Every run of the workspace, whoever began it, newest first. */
export async function runs() {
  return (await ask("/mapo/runs")).runs;
}

/** wanted: {dataset, checkpoint, preset, steps, rank, learning_rate}; {name, steps, takes, problems}. */
export function plan(wanted) {
  return ask("/mapo/runs/plan", wanted);
}

/** Begin it. {name, waits}: what it waits for, in a sentence, or "". */
export function start(wanted) {
  return ask("/mapo/runs", wanted);
}

export function stop(name) {
  return ask(`${of(name)}/stop`, {});
}

export function resume(name) {
  return ask(`${of(name)}/resume`, {});
}

/** Put its LoRA into ComfyUI's folder; its name in ComfyUI's list. */
export async function install(name) {
  return (await ask(`${of(name)}/install`, {})).lora;
}

function of(name) {
  return `/mapo/runs/${encodeURIComponent(name)}`;
}
