// Trace: every step of an answer. Scrub, play, ask a cell what else it could be, type into one, go on from any step, take it away.

import { html, useState, useEffect, useRef } from "./vendor/preact.js";
import { get, post, text as fetchText } from "./api.js";
import { Cells, Legend, Meter, Problem, useRun } from "./cells.js";
import { Compare } from "./compare.js";
import { animated } from "./picture.js";
import { save } from "./save.js";

const named = (trace) => `seed ${trace.header.seed ?? "?"}, ${trace.header.decode || "a trace"}: ${trace.text.trim().slice(0, 32)}…`;

export function Trace({ info, trace: wanted, shown, calm }) {
  const [trace, set] = useState(null);
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [picked, setPicked] = useState(null);
  const [other, setOther] = useState(null);
  const [typed, setTyped] = useState("");
  const [seed, setSeed] = useState("1");
  const [told, setTold] = useState("");
  const [seen, setSeen] = useState([]); // every trace that was open, the latest first
  const [beside, setBeside] = useState(null);
  const [problem, setProblem] = useState("");
  const [now, start, stop] = useRun();
  const file = useRef(null);

  const show = (made) => {
    set(made);
    setBeside((old) => (old?.id && old.id === made.id ? null : old));
    setSeen((old) => [made, ...old.filter((one) => !made.id || one.id !== made.id)].slice(0, 8));
    setAt(0);
    setPicked(null);
    setProblem("");
    setPlaying(!calm);
  };
  const load = (id) => get(`traces/${id}`).then(show, (error) => setProblem(error.message));
  useEffect(() => void (wanted?.id && load(wanted.id)), [wanted]);
  const last = trace ? trace.frames.length - 1 : 0;
  useEffect(() => {
    if (!playing || !shown) return;
    const timer = setInterval(() => setAt((n) => (n >= last ? (setPlaying(false), n) : n + 1)), 160);
    return () => clearInterval(timer);
  }, [playing, shown, last]);
  const open = async (event) => {
    const chosen = event.target.files[0];
    if (!chosen) return;
    try {
      show(await post("traces/open", { lines: await chosen.text() }));
    } catch (error) {
      setProblem(error.message);
    }
  };
  const frame = trace?.frames[at];
  const pick = async (n) => {
    setPlaying(false);
    setPicked(n);
    setOther(null);
    if (!trace.id) return;
    try {
      setOther((await post("alternatives", { trace: trace.id, frame: at, cell: n })).alternatives);
    } catch (error) {
      setProblem(error.message);
    }
  };
  const branch = async (places) => {
    setPlaying(false);
    const made = await start({ messages: [], seed: Number(seed) || 0, branch: { trace: trace.id, frame: at, typed: places, instruction: told } });
    if (made.done) load(made.id);
    else setProblem(made.error);
  };
  const put = (text) => branch([{ at: frame.at + picked, text }]);
  if (!trace) {
    return html`<section class="hello"><h2>Every step of an answer</h2><p>Press “See every step” under an answer, or open a saved trace.</p>
      <label for="trace-file">A trace file</label> <input id="trace-file" ref=${file} type="file" accept=".jsonl" onChange=${open} /><${Problem} text=${problem} /></section>`;
  }
  return html`<div class="two"><section class="stack" aria-label="Trace">
    ${beside ? html`<${Compare} a=${trace} b=${beside} at=${at} pick=${pick} picked=${picked} />`
      : html`<div class="card"><div class="strip" data-testid="strip"><span class="note">${trace.text.slice(0, frame.text)}</span><${Cells} cells=${frame.cells} from=${frame.at} pick=${pick} picked=${picked} /></div></div>`}
    <label for="scrub">Step ${at + 1} of ${last + 1}: ${frame.kind}, ${frame.seconds.toFixed(2)} s</label>
    <input id="scrub" type="range" min="0" max=${last} value=${at} onInput=${(event) => { setPlaying(false); setPicked(null); setAt(Number(event.target.value)); }} />
    <div class="row"><button type="button" class="main" id="play" onClick=${() => { if (at >= last) setAt(0); setPicked(null); setPlaying(!playing); }}>${playing ? "Pause" : "Play"}</button>
      ${trace.id && html`<label for="branch-seed">Seed</label><input id="branch-seed" class="short" type="number" value=${seed} onInput=${(event) => setSeed(event.target.value)} />
        <label class="unseen" for="branch-told">Another instruction; empty, the same</label>
        <input id="branch-told" class="told" value=${told} placeholder="another instruction" onInput=${(event) => setTold(event.target.value)} />
        <button type="button" onClick=${() => branch([])} disabled=${now.busy}>Go on from here</button>
        ${now.busy && html`<button type="button" class="stop" onClick=${stop}>Stop</button>`}
        <button type="button" class="quiet" onClick=${async () => save("trace.jsonl", await fetchText(`traces/${trace.id}/file`), "application/jsonl")}>Save trace</button>`}
      <button type="button" class="quiet" onClick=${() => save("trace.svg", animated(trace), "image/svg+xml")}>Save picture</button></div>
    ${seen.length > 1 && html`<div class="row"><label for="beside">Compare with</label><select id="beside" class="told" value=${String(seen.indexOf(beside))} onInput=${(event) => setBeside(seen[event.target.value] || null)}>
      <option value="-1">nothing</option>${seen.map((one, n) => one !== trace && html`<option value=${String(n)}>${named(one)}</option>`)}</select></div>`}
    ${picked !== null && html`<div class="card stack"><h2>Cell ${frame.at + picked}</h2>
      ${other && html`<div class="chips" role="group" aria-label="What the model would write here">${other.map(([text, chance]) => html`<button type="button" class="chip" onClick=${() => put(text)}><code>${JSON.stringify(text).slice(1, -1)}</code> ${(100 * chance).toFixed(1)}%</button>`)}</div>`}
      ${trace.id && html`<form class="row" onSubmit=${(event) => { event.preventDefault(); put(typed); }}><label for="typed">Write here; it is locked, and the rest adapts. Empty: decide it again.</label>
        <input id="typed" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><button class="main">Go on with it</button></form>`}</div>`}
    <${Problem} text=${problem} />
    <details><summary>The whole text</summary><p class="live" data-testid="whole">${trace.text}</p></details>
    <${Meter} of=${trace} />
  </section><aside aria-label="How to read a trace"><h2 class="small">How to read the cells</h2><${Legend} />
    <p class="note">Press a cell to see what else the model would write there. Go on from here: what was decided by this step stays, the rest is written with the seed and the
      instruction beside the button.</p>
    <label for="trace-file"><b>Open a saved trace</b></label><input id="trace-file" ref=${file} type="file" accept=".jsonl" onChange=${open} /></aside></div>`;
}
