// Canvas lab: a canvas to type into while it denoises. What is typed is locked, and the rest goes on around it from the step that was seen.

import { html, useState, useEffect, useRef } from "./vendor/preact.js";
import { get, run, Refused } from "./api.js";
import { Legend, Meter, Problem, Spoken, STATES } from "./cells.js";
import { Knob, Knobs, firstKnobs, request } from "./knobs.js";
import { Other } from "./other.js";

const FAST = 21; // of the pace slider: as it comes
const SAMPLES = ["Mia has a [[3]] ball. She [[6]] the park.", "Tom went to the [[2]] and saw [[5]]. He was [[2]].", "There was an old"];
const HOLE = /\[\[ *[0-9]* *\]\]/;
const label = (text, state) => text.trim() || (state === "mask" ? "mask" : "space");

/** A film: frames by number, those that were sent while it ran, and all of them when it is over. */
const blank = () => ({ id: "", seed: 0, frames: [], over: false, text: "", meter: null, typed: [] });

/** Which cells hold what was typed: offsets in the answer. A typed text goes on over cells until all of it was seen. */
function typedCells(film, frame) {
  const found = new Set();
  for (const { at, text } of film.typed) {
    let rest = text.length;
    for (let n = at - frame.at; rest > 0 && n >= 0 && n < frame.cells.length; n++) {
      found.add(n);
      rest -= frame.cells[n][0].length || 1;
    }
  }
  return found;
}

/** Typed words take a space before them where the cell's own text had one, or is not known yet. */
function spaced(text, [stood, state], first) {
  if (first || /^[\s.,;:!?')\]]/.test(text)) return text;
  return state === "mask" || stood.startsWith(" ") ? ` ${text}` : text;
}

function Entry({ value, onDone, onCancel }) {
  const box = useRef(null), over = useRef(false);
  useEffect(() => {
    box.current.focus();
    box.current.setSelectionRange(value.length, value.length);
  }, []);
  const done = () => {
    if (over.current) return;
    over.current = true;
    onDone(box.current.value);
  };
  const keys = (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && !event.isComposing) done();
    if (event.key === "Escape") {
      over.current = true;
      onCancel();
    }
  };
  return html`<input class="entry" ref=${box} defaultValue=${value} size="8" aria-label="Write here; Enter locks it, Escape leaves it" onKeyDown=${keys} onBlur=${done} />`;
}

function Board({ film, frame, number, change }) {
  const [entry, setEntry] = useState(null); // {n, value, frame}
  const [open, setOpen] = useState(null); // the cell whose alternatives are shown
  const [focus, setFocus] = useState(0);
  const cells = useRef([]), waiting = useRef(0);
  const typed = typedCells(film, frame);
  const begin = (n, value) => {
    setOpen(null);
    setEntry({ n, value, number, at: frame.at + n, cell: frame.cells[n] });
  };
  const look = (n, delay) => {
    clearTimeout(waiting.current);
    waiting.current = setTimeout(() => setOpen(n === null ? null : { n, number, trace: film.id }), delay);
  };
  const put = (n, from, text) => change({ at: frame.at + n, text }, from);
  const keys = (event, n) => {
    const to = { ArrowRight: n + 1, ArrowLeft: n - 1, Home: 0, End: frame.cells.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      cells.current[Math.max(0, Math.min(to, frame.cells.length - 1))]?.focus();
    } else if (event.key === "ArrowDown" && open?.n === n) {
      event.preventDefault();
      document.querySelector(".other button")?.focus();
    } else if (event.key === "Backspace" || event.key === "Delete") {
      event.preventDefault();
      put(n, number, "");
    } else if (event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      begin(n, event.key);
    }
  };
  return html`<div class="board" role="group" aria-label="Canvas" data-testid="board" onMouseLeave=${() => look(null, 300)}>${frame.cells.map(([text, state], n) => {
    const at = frame.at + n, mine = typed.has(n);
    if (entry?.at === at) {
      return html`<${Entry} key=${at} value=${entry.value} onCancel=${() => { setEntry(null); setTimeout(() => cells.current[n]?.focus()); }}
        onDone=${(value) => { setEntry(null); if (value.trim()) change({ at, text: spaced(value, entry.cell, at === 0 && !film.before) }, entry.number); }} />`;
    }
    return html`<span class="place" key=${at} onMouseEnter=${() => look(n, 200)}><button type="button" class="cell ${state} ${mine ? "typed" : ""}" ref=${(element) => { cells.current[n] = element; }}
        tabindex=${n === Math.min(focus, frame.cells.length - 1) ? 0 : -1} title=${mine ? "typed by you" : STATES[state]} aria-label="cell ${at}: ${label(text, state)}, ${mine ? "typed by you" : state}"
        onFocus=${() => { setFocus(n); look(n, 200); }} onKeyDown=${(event) => keys(event, n)} onClick=${() => begin(n, "")}>${state === "mask" ? "░░" : text.replaceAll("\n", "⏎") || "·"}</button>
      ${open?.n === n && !entry && html`<${Other} key="${open.trace} ${open.number} ${n}" trace=${open.trace} frame=${open.number} cell=${n} back=${() => cells.current[n]?.focus()}
        pick=${(text) => { setOpen(null); put(n, open.number, text); }} />`}</span>`;
  })}</div>`;
}

export function Lab({ info, calm, shown, openTrace }) {
  const [knobs, setKnobs] = useState(() => ({ ...firstKnobs(info), decode: "diffusion", max_tokens: Math.min(24, info.canvas || 24) }));
  const [text, setText] = useState(SAMPLES[info.chat ? 2 : 0]);
  const [pace, setPace] = useState(4);
  const [keep, setKeep] = useState(true);
  const [head, setHead] = useState(0);
  const [, redraw] = useState(0);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const film = useRef(blank()), root = useRef(null), abort = useRef(null);

  const stop = () => abort.current?.abort();
  useEffect(() => stop, []);
  const go = async (body, before) => {
    stop();
    const mine = (abort.current = new AbortController());
    const now = (film.current = { ...blank(), typed: before?.typed || [], before: text.split(HOLE)[0].replace(/ +$/, "") });
    if (!before) root.current = now;
    setProblem("");
    setBusy(true);
    setHead(0);
    let known = "";
    try {
      for await (const event of run(body, mine.signal)) {
        if (mine !== abort.current) return;
        if (event.id) Object.assign(now, { id: event.id, seed: event.seed });
        known += event.text || "";
        if (event.cells?.length) now.frames[event.frame] = { cells: event.cells, at: event.tokens, text: known };
        if (event.done) now.meter = event;
        redraw((n) => n + 1);
      }
      const whole = await get(`traces/${now.id}`);
      if (mine !== abort.current) return;
      now.frames = whole.frames.map((frame) => (frame.cells.length ? { ...frame, text: whole.text.slice(0, frame.text) } : undefined));
      Object.assign(now, { over: true, text: whole.text });
    } catch (error) {
      if (mine !== abort.current) return;
      if (error.name !== "AbortError") setProblem(error instanceof Refused ? error.message : String(error));
    }
    setBusy(false);
    redraw((n) => n + 1);
  };
  const begin = () => {
    const { max_tokens, ...rest } = request(knobs);
    go({ ...rest, canvas: HOLE.test(text) ? text : `${text.replace(/ +$/, "")} [[${max_tokens}]]` });
  };
  /** Something was typed into the canvas as it stood at a frame. */
  const change = (place, number) => {
    const was = film.current;
    const typed = [...was.typed.filter((old) => old.at !== place.at), ...(place.text ? [place] : [])];
    const branch = keep ? { trace: was.id, frame: number, typed: [place] } : { trace: root.current.id, frame: 0, typed };
    go({ messages: [], seed: was.seed, branch }, { typed });
  };

  useEffect(() => {
    const escape = (event) => shown && event.key === "Escape" && stop();
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  });

  const now = film.current, last = now.frames.length - 1;
  const fast = pace >= FAST || calm;
  useEffect(() => {
    if (!shown || fast || head >= last) return;
    const timer = setTimeout(() => setHead((n) => n + 1), 1000 / pace);
    return () => clearTimeout(timer);
  }, [head, last, pace, shown, fast]);
  let number = fast ? last : Math.min(head, last);
  while (number > 0 && !now.frames[number]) number--;
  const frame = now.frames[number] || now.frames.find(Boolean);
  const playing = busy || !fast && head < last;
  return html`<div class="two"><section class="stack" aria-label="Canvas lab">
    <div><label for="lab-text"><b>Text with holes</b></label>
      <textarea id="lab-text" rows="2" value=${text} aria-describedby="lab-help" onInput=${(event) => setText(event.target.value)}
        onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (text.trim()) begin(); } }}></textarea>
      <p class="help" id="lab-help"><code>[[4]]</code> is a hole of four tokens. Without a hole the text is continued.</p></div>
    <div class="row">${busy ? html`<button type="button" class="stop" onClick=${stop}>Stop</button>` : html`<button type="button" class="main" disabled=${!text.trim()} onClick=${begin}>Denoise</button>`}
      ${SAMPLES.map((sample) => html`<button type="button" class="chip" key=${sample} onClick=${() => setText(sample)}>${sample}</button>`)}</div>
    <${Problem} text=${problem} />
    ${frame && html`<div class="card" aria-busy=${playing ? "true" : "false"}><div class="live"><span>${now.before}${frame.text}</span><${Board} film=${now} frame=${frame} number=${Math.max(0, now.frames.indexOf(frame))} change=${change} /></div></div>
      <div class="row"><span class="note grow">Step ${number + 1} of ${last + 1}${playing ? ", going on" : ""}. Press a cell and type: it is locked, and the rest adapts.</span>
        ${!fast && last > 0 && html`<button type="button" class="quiet" onClick=${() => setHead(0)}>From the first step</button>`}
        ${now.over && html`<button type="button" class="quiet" onClick=${() => openTrace(now.id)}>See every step</button>`}</div>`}
    ${now.over && html`<${Meter} of=${now.meter} />`}
    <${Spoken} text=${now.over && !playing ? now.before + now.text : ""} busy=${false} />
  </section><aside aria-label="Settings of the lab" class="stack">
    <${Knob} id="lab-pace" label="Pace: ${pace >= FAST ? "as it comes" : `${pace} ${pace === 1 ? "step" : "steps"} a second`}" help="How fast steps are shown; typing takes the step you saw.">
      <input id="lab-pace" type="range" min="1" max=${FAST} value=${pace} aria-describedby="lab-pace-help" disabled=${calm} onInput=${(event) => setPace(Number(event.target.value))} /><//>
    <label class="switch"><input type="checkbox" checked=${keep} onChange=${(event) => setKeep(event.target.checked)} /> Keep what was decided</label>
    <p class="note">Off: only what you typed stays, and all the rest is noise again.</p>
    <p class="note">Keys on a cell: type to write, <kbd>Del</kbd> makes it a hole again, <kbd>←</kbd> <kbd>→</kbd> move, <kbd>↓</kbd> goes to what else could stand there.</p>
    <details><summary>How it decodes</summary><${Knobs} info=${info} knobs=${knobs} set=${setKnobs} prefix="lab" /></details>
    <h2 class="small">How to read the cells</h2><${Legend} /></aside></div>`;
}
