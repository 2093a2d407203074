// Instant Edit: a text changed where it stands, hunk by hunk. A hunk that is rejected is locked, and the rest solved again.

import { html, useState, useRef, useEffect } from "./vendor/preact.js";
import { post } from "./api.js";
import { Problem } from "./cells.js";
import { Knob } from "./knobs.js";
import { Editor, Merge } from "./editor.js";

const SAMPLES = {
  Text: "She dont like apples. They was here yesterday, and he have a old car.\n",
  Code: "def total(items):\n    t = 0\n    for i in range(0, len(items)):\n        t = t + items[i]\n    return t\n",
  Little: "Mia has a red ball. She went to the the park.\n",
};

const points = (text, at) => [...text.slice(0, at)].length; // UTF-16 units to characters, as the server counts them
const units = (text, at) => [...text].slice(0, at).join("").length;

export function Edit({ info, shown }) {
  const [text, setText] = useState(info.denoises && !info.chat ? SAMPLES.Little : SAMPLES.Text);
  const [preset, setPreset] = useState("grammar");
  const [values, setValues] = useState({});
  const chosen = info.presets.find((p) => p.name === preset);
  const [strength, setStrength] = useState(chosen.strength);
  const [locks, setLocks] = useState([]);
  const [doubts, setDoubts] = useState([]);
  const [selected, setSelected] = useState([0, 0]);
  const [edit, setEdit] = useState(null); // {source, hunks, states, rejected}
  const [busy, setBusy] = useState("");
  const [problem, setProblem] = useState("");
  const [side, setSide] = useState(false);
  const held = useRef(null);
  const items = useRef([]);

  const pick = (name) => {
    setPreset(name);
    setStrength(info.presets.find((p) => p.name === name).strength);
  };
  const doing = async (what, work) => {
    if (held.current) return;
    const abort = (held.current = new AbortController()), began = performance.now();
    const tick = setInterval(() => setBusy(`${what}, ${((performance.now() - began) / 1000).toFixed(0)} s`), 500);
    setBusy(what);
    setProblem("");
    try {
      await work(abort.signal);
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error.message);
    }
    clearInterval(tick);
    held.current = null;
    setBusy("");
  };
  const stop = () => held.current?.abort();

  /** rejected: spans of the source, in characters, whose text is to stay. */
  const solve = (rejected = []) => doing("Editing", async (signal) => {
    const spans = [...locks.map(([a, b]) => [points(text, a), points(text, b)]), ...rejected.flatMap(([a, b]) => [[a, b], [a, a], [b, b]])];
    const { instruction, ...rest } = values;
    const body = { document: text, preset, locks: spans, strength, values: Object.fromEntries(chosen.needs.filter((n) => n !== "instruction").map((n) => [n, rest[n] || ""])) };
    if (chosen.needs.includes("instruction")) body.instruction = instruction || "";
    const began = performance.now();
    const found = await post("/v1/instant-edit", body, signal);
    setDoubts([]);
    setEdit({ ...found, source: text, rejected, seconds: (performance.now() - began) / 1000, states: found.hunks.map(() => "accepted") });
    setTimeout(() => items.current[0]?.focus(), 50);
  });
  const doubt = () => doing("Looking for doubt", async (signal) => {
    const found = await post("doubt", { document: text }, signal);
    setDoubts(found.words.map(([a, b]) => [units(text, a), units(text, b)]));
    setProblem(found.words.length ? "" : "The model doubts nothing here.");
  });
  const reject = (n) => {
    const { start, end } = edit.hunks[n];
    solve([...edit.rejected, [start, end]]);
  };
  const toggle = (n, state) => setEdit({ ...edit, states: edit.states.map((old, i) => (i === n ? state : old)) });
  const result = () => {
    const letters = [...edit.source], out = [];
    let at = 0;
    edit.hunks.forEach((hunk, n) => {
      out.push(letters.slice(at, hunk.start).join(""), edit.states[n] === "accepted" ? hunk.after : hunk.before);
      at = hunk.end;
    });
    return out.join("") + letters.slice(at).join("");
  };
  const apply = () => {
    setText(result());
    setLocks([]);
    setEdit(null);
  };
  const lock = () => {
    const [a, b] = selected;
    if (a === b) return setLocks(locks.filter(([c, d]) => !(c <= a && a <= d)));
    setLocks([...locks.filter(([c, d]) => d <= a || b <= c), [a, b]].sort((x, y) => x[0] - y[0]));
  };
  const changed = (next, changes) => {
    setText(next);
    setLocks((old) => old.map(([a, b]) => [changes.mapPos(a, 1), changes.mapPos(b, -1)]).filter(([a, b]) => a < b));
    setDoubts([]);
    setEdit(null);
  };
  const keys = (event, n) => {
    const move = { j: n + 1, ArrowDown: n + 1, k: n - 1, ArrowUp: n - 1 }[event.key];
    if (move !== undefined) {
      event.preventDefault();
      items.current[move]?.focus();
    } else if (event.key === "a" || event.key === "Enter" && event.target === items.current[n]) toggle(n, "accepted");
    else if (event.key === "x") toggle(n, "rejected");
    else if (event.key === "r" && !busy) reject(n);
  };
  useEffect(() => {
    const down = (event) => {
      if (!shown) return;
      if (event.key === "Escape") stop();
      if (event.altKey && event.key === "l") {
        event.preventDefault();
        lock();
      }
    };
    addEventListener("keydown", down);
    return () => removeEventListener("keydown", down);
  });

  const ready = text.trim() && chosen.needs.every((need) => (values[need] || "").trim());
  return html`<div class="two"><section class="stack" aria-label="Edit">
    <div class="chips" role="group" aria-label="What to do">${info.presets.map((p) => html`
      <button type="button" class="chip" key=${p.name} aria-pressed=${preset === p.name ? "true" : "false"} onClick=${() => pick(p.name)}>${p.title}</button>`)}</div>
    ${chosen.needs.map((need) => html`<${Knob} id="need-${need}" label=${need === "instruction" ? "What should change" : need[0].toUpperCase() + need.slice(1)} help="">
      <input id="need-${need}" aria-describedby="need-${need}-help" value=${values[need] || ""} onInput=${(event) => setValues({ ...values, [need]: event.target.value })} /><//>`)}
    <${Editor} text=${text} label="Your text" onText=${changed} onSelect=${setSelected} locks=${locks} doubts=${doubts} numbers=${true} onRun=${() => ready && solve()} />
    <div class="row">
      ${busy ? html`<button type="button" class="stop" onClick=${stop}>Stop <kbd>Esc</kbd></button>`
        : html`<button type="button" class="main" disabled=${!ready} onClick=${() => solve()}>Edit <kbd>Ctrl ↵</kbd></button>`}
      <button type="button" onClick=${lock} disabled=${selected[0] === selected[1] && !locks.length}>${selected[0] === selected[1] ? "Unlock here" : "Lock selection"} <kbd>Alt L</kbd></button>
      <button type="button" onClick=${doubt} disabled=${!!busy || !text.trim()}>Show doubt</button>
      <span role="status" class="note">${busy}</span>
    </div>
    <${Problem} text=${problem} />
    ${edit && html`<div class="stack" aria-label="Changes">
      <h2>${edit.hunks.length ? `${edit.hunks.length} change${edit.hunks.length > 1 ? "s" : ""}` : "Nothing to change"}</h2>
      <ul class="hunks">${edit.hunks.map((hunk, n) => html`<li class="hunk" key=${n} data-state=${edit.states[n]} tabindex="0" ref=${(element) => { items.current[n] = element; }} onKeyDown=${(event) => keys(event, n)}>
        <div><del><span class="unseen">was: </span>${hunk.before || "∅"}</del> → <ins><span class="unseen">becomes: </span>${hunk.after || "∅"}</ins>
          <span class="note"> ${edit.states[n]}, ${Math.round(hunk.confidence * 100)}% sure</span></div>
        <div class="row"><button type="button" class="quiet" aria-pressed=${edit.states[n] === "accepted" ? "true" : "false"} onClick=${() => toggle(n, edit.states[n] === "accepted" ? "rejected" : "accepted")}>${edit.states[n] === "accepted" ? "Leave out" : "Take"}</button>
          <button type="button" class="quiet" disabled=${!!busy} onClick=${() => reject(n)}>Reject and solve again</button></div></li>`)}</ul>
      ${edit.hunks.length > 0 && html`<p class="note">Keys on a change: <kbd>a</kbd> take, <kbd>x</kbd> leave out, <kbd>r</kbd> reject and solve again, <kbd>j</kbd> <kbd>k</kbd> move.</p>`}
      <dl class="meter"><div><dt>calls</dt><dd>${edit.calls}</dd></div><div><dt>wall time</dt><dd>${edit.seconds.toFixed(2)} s</dd></div><div><dt>way</dt><dd>${edit.way}</dd></div></dl>
      ${[...edit.notes, ...edit.problems].map((note) => html`<p class="note">${note}</p>`)}
      ${edit.hunks.length > 0 && html`<div class="row"><button type="button" class="main" onClick=${apply}>Apply</button>
        <button type="button" onClick=${() => setEdit(null)}>Discard</button>
        <label class="switch"><input type="checkbox" checked=${side} onChange=${(event) => setSide(event.target.checked)} /> Side by side</label></div>`}
      ${side && html`<${Merge} before=${edit.source} after=${result()} />`}
    </div>`}
  </section>
  <aside aria-label="Settings of the edit" class="stack">
    <${Knob} id="strength" label="Strength: ${Math.round(strength * 100)}%" help="How much of the text starts as noise: 0 corrects what stands there, 100% writes it anew.">
      <input id="strength" type="range" min="0" max="1" step="0.05" value=${strength} aria-describedby="strength-help" onInput=${(event) => setStrength(Number(event.target.value))} /><//>
    <div><h2 class="small">Try it on</h2><div class="chips">${Object.entries(SAMPLES).map(([name, sample]) => html`<button type="button" class="chip" onClick=${() => { setText(sample); setLocks([]); setEdit(null); }}>${name === "Little" ? "A little story" : name}</button>`)}</div></div>
    ${locks.length > 0 && html`<p class="note">${locks.length} lock${locks.length > 1 ? "s" : ""}: underlined text stays, byte for byte.</p>`}
    ${doubts.length > 0 && html`<p class="note">Wavy: words that the model would not have expected there.</p>`}
  </aside></div>`;
}
