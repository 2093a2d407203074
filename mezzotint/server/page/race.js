// Race: the same weights, the same prompt, decoded left to right and by diffusion; or this model and one on another server.
// One after the other, so that neither slows the other.

import { html, useState } from "./vendor/preact.js";
import { Cells, Meter, Problem, useRun } from "./cells.js";
import { Knobs, asked, firstKnobs, request } from "./knobs.js";

function Lane({ title, now, calm, most }) {
  const rate = now.seconds ? (now.tokens / now.seconds).toFixed(1) : "–";
  return html`<section class="card" aria-label=${title} aria-busy=${now.busy ? "true" : "false"}><h2>${title}</h2>
    <div class="bar" aria-hidden="true"><i style=${{ width: `${Math.min(100, 100 * (now.tokens || 0) / most)}%` }}></i></div>
    <p class="note">${rate} tokens/s</p>
    <div class="live">${now.text}${now.busy && !calm && html`<${Cells} cells=${now.cells} />`}</div>
    <${Problem} text=${now.error} /><${Meter} of=${now} label="What ${title} took" /></section>`;
}

export function Race({ info, calm }) {
  const other = info.leads ? "diffusion" : "verified";
  const [knobs, setKnobs] = useState(() => ({ ...firstKnobs(info), seed: "0", max_tokens: 96 }));
  const [prompt, setPrompt] = useState(info.chat ? "Explain why the sky is blue." : "Mia has a red ball. She");
  const [first, startFirst, stopFirst] = useRun(), [second, startSecond, stopSecond] = useRun();
  const [running, setRunning] = useState(false);
  const [rival, setRival] = useState("");
  const lanes = rival ? [other, rival] : ["left to right", other];
  const go = async () => {
    setRunning(true);
    const body = { ...request(knobs), ...(info.chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }) };
    const { quality, policy, ...plain } = body;
    const made = await startFirst(rival ? { ...body, decode: other } : { ...plain, decode: "ar" });
    if (!made.stopped) await startSecond(rival ? asked(rival, knobs, [{ role: "user", content: prompt }]) : { ...body, decode: other });
    setRunning(false);
  };
  const stop = () => (stopFirst(), stopSecond());
  const both = !running && first.done && second.done;
  const rate = (run) => run.tokens / run.seconds;
  return html`<div class="two"><section class="stack" aria-label="Race">
    <label for="race-prompt"><b>Prompt for both</b></label>
    <textarea id="race-prompt" rows="2" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} onKeyDown=${(event) => event.key === "Escape" && stop()}></textarea>
    <div class="row">${running ? html`<button type="button" class="stop" onClick=${stop}>Stop</button>` : html`<button type="button" class="main" disabled=${!prompt.trim()} onClick=${go}>Race</button>`}
      <span class="note">${rival ? "This model, then the other: its seconds hold the way there and its queue." : "The same weights twice, one run after the other, so that neither slows the other."}</span></div>
    ${info.remotes.length > 0 && html`<div class="row"><label for="race-rival">Against</label>
      <select id="race-rival" value=${rival} disabled=${running} onInput=${(event) => setRival(event.target.value)}><option value="">itself, left to right</option>${info.remotes.map((name) => html`<option>${name}</option>`)}</select></div>`}
    <div class="half"><${Lane} title=${lanes[0]} now=${first} calm=${calm} most=${knobs.max_tokens} /><${Lane} title=${lanes[1]} now=${second} calm=${calm} most=${knobs.max_tokens} /></div>
    ${both && html`<p role="status" class="card"><b>${lanes[1]} wrote ${(rate(second) / rate(first)).toFixed(2)} times as many tokens a second</b>${second.calls > 0 && `, in ${second.calls} calls against ${first.calls}`}.
      ${first.text === second.text ? " The texts are the same, letter for letter." : " The texts differ: speed alone says nothing of which is better."}</p>`}
  </section><aside aria-label="Settings of the race"><${Knobs} info=${info} knobs=${{ ...knobs, decode: other }} set=${setKnobs} prefix="race" without=${["decode"]} /></aside></div>`;
}
