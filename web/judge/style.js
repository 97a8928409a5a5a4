// How does the element look? Near black and without colour around pictures; one accent. A host's theme sets --mapo-*.

export const LOOK = `
:host {
  --background: var(--mapo-background, #0f0f10);
  --raised: var(--mapo-raised, #1b1b1d);
  --text: var(--mapo-text, #d6d6d8);
  --muted: var(--mapo-muted, #8b8b90);
  --line: var(--mapo-line, #2c2c30);
  --accent: var(--mapo-accent, #e3b25f);
  --warning: var(--mapo-warning, #e08a6d);
  display: block;
  box-sizing: border-box;
  block-size: var(--mapo-judge-height, 100%);
  min-block-size: min(30rem, 100dvh);
  color-scheme: dark;
}
:host([theme="light"]) {
  --background: var(--mapo-background, #f4f4f3);
  --raised: var(--mapo-raised, #ffffff);
  --text: var(--mapo-text, #26262a);
  --muted: var(--mapo-muted, #66666d);
  --line: var(--mapo-line, #d5d5d8);
  --accent: var(--mapo-accent, #b0750b);
  --warning: var(--mapo-warning, #b4451f);
  color-scheme: light;
}
:host([hidden]) { display: none; }
* { box-sizing: border-box; margin: 0; }

.judge {
  container: judge / inline-size;
  /* Whatever display a host gives the element. */
  inline-size: 100%;
  block-size: 100%;
  min-block-size: inherit;
  display: flex;
  flex-direction: column;
  padding: 10px 12px 8px;
  gap: 8px;
  color: var(--text);
  background: var(--background);
  font: 14px/1.45 var(--mapo-font, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif);
  outline: none;
  -webkit-tap-highlight-color: transparent;
}

/* Always two lines high: pictures must not jump from pair to pair. */
.top { display: flex; gap: 16px; position: relative; z-index: 1; }
.prompt { flex: 1; min-inline-size: 0; block-size: 2.9em; display: flex; align-items: flex-start; gap: 8px; }
.prompt p {
  min-inline-size: 0;
  overflow: hidden;
  display: -webkit-box;
  -webkit-box-orient: vertical;
  -webkit-line-clamp: 2;
  overflow-wrap: anywhere;
  white-space: pre-line;
}
.prompt.open { block-size: auto; min-block-size: 2.9em; max-block-size: 50cqh; position: relative; }
.prompt.open p {
  position: absolute;
  inset: -6px 56px auto -8px;
  display: block;
  max-block-size: min(45dvh, 24rem);
  overflow: auto;
  padding: 6px 8px;
  background: var(--raised);
  border-radius: 6px;
  box-shadow: 0 0 0 1px var(--line), 0 8px 24px rgb(0 0 0 / 0.35);
}
.prompt .more { margin-inline-start: auto; }
.prompt .more[hidden] { display: none; }
.counts {
  color: var(--muted);
  font-size: 12px;
  text-align: end;
  white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
.counts b { color: var(--text); font-weight: 500; }
.counts span { display: block; }

.middle { flex: 1; min-block-size: 0; position: relative; display: grid; }
.stage {
  min-inline-size: 0;
  min-block-size: 0;
  display: grid;
  gap: 8px;
  grid-template: repeat(var(--rows, 1), minmax(0, 1fr)) / repeat(var(--columns, 2), minmax(0, 1fr));
}
.stage.alone .cell { grid-area: 1 / 1; }
.stage.alone .away { visibility: hidden; }
.cell { container-type: size; display: grid; align-items: center; }
.picture {
  position: relative;
  overflow: hidden;
  aspect-ratio: var(--ratio);
  inline-size: min(100cqi, 100cqb * var(--ratio));
  border-radius: 6px;
  background: var(--raised);
  cursor: pointer;
  user-select: none;
  -webkit-user-select: none;
  -webkit-touch-callout: none;
  touch-action: pan-y;
  outline: none;
}
.zoomed .picture { touch-action: none; cursor: grab; }
.shown, .light { position: absolute; inset: 0; }
.shown img {
  display: block;
  inline-size: 100%;
  block-size: 100%;
  object-fit: contain;
  transform: translate(var(--x, 0), var(--y, 0)) scale(var(--zoom, 1));
  pointer-events: none;
}
/* A frame that lies on the picture, so that it costs no space and no colour shows through at the edge. */
.picture::after {
  content: "";
  position: absolute;
  inset: 0;
  border-radius: inherit;
  box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--text) 14%, transparent);
  pointer-events: none;
}
@media (hover: hover) {
  .picture:hover::after { box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--text) 42%, transparent); }
}
.picture:focus-visible::after { box-shadow: inset 0 0 0 2px var(--accent); }
.light {
  opacity: 0;
  border-radius: inherit;
  pointer-events: none;
  z-index: 1;
  box-shadow: inset 0 0 0 3px var(--accent);
}
.light[data-how="clearly"] { box-shadow: inset 0 0 0 6px var(--accent); }
.light[data-how="tie"] { box-shadow: inset 0 0 0 2px var(--text); }
.light[data-how="bad"] { box-shadow: inset 0 0 0 3px var(--warning); }
.badge, .caption {
  position: absolute;
  z-index: 1;
  inset: 10px auto auto 10px;
  padding: 1px 9px;
  border-radius: 999px;
  color: #f2f2f2;
  background: rgb(15 15 16 / 0.6);
  font-size: 12px;
  pointer-events: none;
}
.badge { color: #14110a; background: var(--accent); font-weight: 600; }
.caption { inset: 10px 10px auto auto; }
.badge:empty, .caption:empty { display: none; }

.notice {
  position: absolute;
  inset: 0;
  display: flex;
  flex-direction: column;
  align-items: center;
  justify-content: center;
  gap: 14px;
  padding: 24px;
  text-align: center;
  text-wrap: balance;
  color: var(--muted);
}
.notice[hidden] { display: none; }
.notice.late > * { animation: appear 0.2s 0.25s backwards; }
@keyframes appear { from { opacity: 0; } }

.bottom { display: flex; flex-direction: column; gap: 6px; }
.legend { display: grid; grid-template-columns: 1fr auto 1fr; gap: 4px 12px; align-items: center; }
.legend > div { display: flex; flex-wrap: wrap; gap: 2px; justify-content: center; }
.legend > div:first-child { justify-content: flex-start; }
.legend > div:last-child { justify-content: flex-end; }
button {
  font: inherit;
  color: var(--muted);
  background: none;
  border: 0;
  border-radius: 6px;
  padding: 4px 7px;
  cursor: pointer;
  white-space: nowrap;
}
button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
@media (hover: hover) { button:hover { color: var(--text); background: var(--raised); } }
button:active { background: var(--line); }
.legend button { font-size: 12px; display: inline-flex; align-items: center; gap: 6px; }
kbd {
  font: inherit;
  font-size: 11px;
  line-height: 1;
  min-inline-size: 20px;
  padding: 4px 5px;
  text-align: center;
  color: var(--text);
  border: 1px solid var(--line);
  border-radius: 4px;
  background: var(--raised);
}
.dim kbd { opacity: 0.35; }
.more { font-size: 12px; padding: 1px 6px; }
.again { color: var(--text); border: 1px solid var(--line); padding: 7px 16px; }
.foot {
  display: flex;
  flex-wrap: wrap;
  gap: 0 16px;
  justify-content: space-between;
  min-block-size: 1.45em;
  font-size: 12px;
  color: var(--muted);
}
.sentence { min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.status:empty { display: none; }
.status { color: var(--text); }
.status.refused { color: var(--warning); }
.aloud {
  position: absolute;
  inline-size: 1px;
  block-size: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}

@media (pointer: coarse) {
  .legend button {
    min-block-size: 44px;
    min-inline-size: 44px;
    justify-content: center;
    padding: 4px 10px;
    font-size: 14px;
  }
}
@container judge (max-width: 900px) {
  .legend { grid-template-columns: 1fr 1fr; }
  .legend > div:nth-child(2) { grid-column: 1 / -1; grid-row: 2; justify-content: space-between; }
}
@container judge (max-width: 480px) {
  .top { flex-direction: column; gap: 2px; }
  .prompt { flex: none; font-size: 13px; }
  .counts { text-align: start; }
  .counts span { display: inline; }
  .counts span + span::before { content: " · "; }
  /* Two lines always, as above: what is cut off is the half that matters. */
  .foot { min-block-size: 2.9em; }
  .sentence { white-space: normal; }
  .legend { gap: 2px; }
  .legend > div { flex-wrap: nowrap; }
  .legend button { flex-direction: column; padding: 3px 4px; gap: 2px; font-size: 11px; line-height: 1.2; }
}
@container judge (max-width: 300px) {
  .legend > div { flex-wrap: wrap; }
  .legend > div:nth-child(2) { justify-content: space-evenly; }
  .legend button { padding: 3px 2px; }
}
`;
