// What else could stand in a cell, likeliest first, under it.

import { html, useState, useEffect } from "./vendor/preact.js";
import { post } from "./api.js";

/** back: where the focus goes on Escape. pick: called with the text of the one that is wanted. */
export function Other({ trace, frame, cell, pick, back }) {
  const [found, set] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    post("alternatives", { trace, frame, cell }, abort.signal).then((answer) => set(answer.alternatives), (error) => error.name !== "AbortError" && set([]));
    return () => abort.abort();
  }, []);
  const keys = (event) => {
    event.stopPropagation();
    const next = { ArrowDown: event.target.nextElementSibling, ArrowUp: event.target.previousElementSibling }[event.key];
    if (event.key === "Escape") back();
    else if (next !== undefined) {
      event.preventDefault();
      (next || (event.key === "ArrowUp" ? { focus: back } : event.target)).focus();
    }
  };
  if (!found?.length) return null;
  return html`<span class="other" role="group" aria-label="What else could stand here" onKeyDown=${keys}>${found.filter(([text]) => text !== "■").map(([text, chance]) => html`
    <button type="button" tabindex="-1" key=${text} onClick=${() => pick(text)}><code>${JSON.stringify(text).slice(1, -1)}</code> <span>${(100 * chance).toFixed(1)}%</span></button>`)}</span>`;
}
