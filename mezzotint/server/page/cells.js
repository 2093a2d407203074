// Cells of a canvas, told apart by shape as well as shade; the meter under an answer; a run as it goes on.

import { html, useState, useRef, useEffect } from "./vendor/preact.js";
import { run, Refused } from "./api.js";

export const STATES = {
  mask: "noise: nothing is known yet",
  guess: "a guess, still noise to the model",
  draft: "accepted; it may still change",
  overwritten: "decided, then decided otherwise",
  locked: "given; nothing writes there",
  committed: "text for good",
};

const shown = (text) => text.replaceAll("\n", "⏎\n");

/** One cell a token. pick: called with a cell's number; was: the cells of the step before, to show what was overwritten. */
export function Cells({ cells, from = 0, pick, picked }) {
  return html`<span class="cells" aria-hidden=${pick ? undefined : "true"}>${cells.map(([text, state], n) => pick
    ? html`<button type="button" class="cell ${state}" aria-pressed=${picked === n} title=${STATES[state]}
        aria-label="cell ${from + n}: ${text.trim() || (state === "mask" ? "mask" : "space")}, ${state}" onClick=${() => pick(n)}>${state === "mask" ? "░░" : shown(text) || "·"}</button>`
    : html`<span key=${n} class="cell ${state}">${state === "mask" ? "░░" : shown(text)}</span>`)}</span>`;
}

export function Legend() {
  return html`<ul class="legend" aria-label="How to read the cells">${Object.entries(STATES).map(([state, means]) => html`
    <li><span class="cell ${state}" aria-hidden="true">${state === "mask" ? "░░" : state}</span> <span class="means">${state === "mask" ? "mask: " : ""}${means}</span></li>`)}</ul>`;
}

const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });

export function Meter({ of: m, label = "What this answer took" }) {
  if (!m || !m.calls && !m.tokens) return null;
  const rate = m.seconds ? m.tokens / m.seconds : 0;
  const parts = [[number(rate, 1), "tokens/s"], [m.tokens, "tokens"], [m.calls, "calls"],
    [number(m.calls ? m.tokens / m.calls : 0, 2), "tokens/call"], [`${number(m.seconds, 2)} s`, "wall time"]];
  return html`<dl class="meter" aria-label=${label}>${parts.map(([value, name]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export const NOTHING = { text: "", cells: [], busy: false };

/** State of one answer, and the functions that start and stop it. Pictures are drawn once a frame of the screen; older ones drop. */
export function useRun() {
  const [state, set] = useState(NOTHING);
  const held = useRef({ abort: null, next: null, due: 0 });
  const paint = (next) => {
    held.current.next = next;
    held.current.due ||= requestAnimationFrame(() => {
      held.current.due = 0;
      set(held.current.next);
    });
  };
  const stop = () => held.current.abort?.abort();
  useEffect(() => stop, []);
  const start = async (body) => {
    stop();
    const abort = (held.current.abort = new AbortController());
    let now = { ...NOTHING, busy: true };
    paint(now);
    try {
      for await (const event of run(body, abort.signal)) {
        if (abort !== held.current.abort) return now;
        now = { ...now, ...event, text: now.text + (event.text || ""), cells: event.done ? [] : event.cells || now.cells };
        if (event.cells) now.drafts = (now.drafts || 0) + (event.cells.length > 0);
        paint(now);
      }
      now = { ...now, busy: false };
    } catch (error) {
      if (abort !== held.current.abort) return now;
      const stopped = error.name === "AbortError";
      now = { ...now, busy: false, cells: [], stopped, error: stopped ? "" : error instanceof Refused ? error.message : String(error) };
    }
    paint(now);
    return now;
  };
  return [state, start, stop, set];
}

/** Whole sentences of an answer, for screen readers, as they are committed. */
export function Spoken({ text, busy }) {
  const end = busy ? Math.max(...[". ", "! ", "? ", "\n"].map((mark) => text.lastIndexOf(mark))) + 1 : text.length;
  return html`<p class="unseen" aria-live="polite">${text.slice(0, end)}</p>`;
}

export function Problem({ text }) {
  return text ? html`<p class="problem" role="alert">${text}</p>` : null;
}
