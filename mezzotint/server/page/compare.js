// Two traces at the same step, and their texts beside each other.

import { html, useState, useEffect } from "./vendor/preact.js";
import { Cells, Meter } from "./cells.js";

function Side({ trace, at, name, pick, picked }) {
  const n = Math.min(at, trace.frames.length - 1), frame = trace.frames[n];
  return html`<section class="card" aria-label=${name}><h2 class="small">${name}, step ${n + 1} of ${trace.frames.length}</h2>
    <div class="strip"><span class="note">${trace.text.slice(0, frame.text)}</span><${Cells} cells=${frame.cells} from=${frame.at} pick=${pick} picked=${picked} /></div><${Meter} of=${trace} label="What ${name} took" /></section>`;
}

/** at: a step of both; the shorter one stays at its end. pick: called with the number of a cell of the first. */
export function Compare({ a, b, at, pick, picked }) {
  const [Merge, set] = useState(null);
  useEffect(() => void import("./editor.js").then((editor) => set(() => editor.Merge)), []);
  let same = 0;
  while (same < a.text.length && a.text[same] === b.text[same]) same++;
  const equal = a.text === b.text;
  return html`<div class="stack" data-testid="compare"><div class="half"><${Side} trace=${a} at=${at} name="This trace" pick=${pick} picked=${picked} /><${Side} trace=${b} at=${at} name="The other" /></div>
    <p role="status" class="note">${equal ? "The texts are the same, letter for letter." : `The texts are the same for ${same} characters, then they differ.`}</p>
    ${!equal && Merge && html`<${Merge} before=${a.text} after=${b.text} />`}</div>`;
}
