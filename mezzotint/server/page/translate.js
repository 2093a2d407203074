// Translate: what you type is translated as you type. Committed text stays; the draft, grey and dotted, may still change.

import { html, useState, useRef, useEffect } from "./vendor/preact.js";
import { socket } from "./api.js";
import { Problem } from "./cells.js";
import { Knob } from "./knobs.js";
import { Microphone } from "./microphone.js";

const SAMPLE = "The old museum by the sea was closed for five years. It opens again on Sunday, and children pay nothing.";
const RULES = {
  agreement: "A word is committed when the drafts of the last two sources agree on it.",
  stability: "A word is committed when it has not changed for two updates.",
  probability: "A word is committed when no token up to it is less likely than 90%.",
};
const FRESH = { committed: "", draft: "", rev: 0, erased: 0, calls: 0, ms: 0 };
const PACE = 300; // ms a word of the sample

/** What a speaker might say, hypothesis by hypothesis: now and then the last words are misheard, and taken back. */
function heard(text) {
  const words = text.split(" "), said = [];
  words.forEach((_, n) => {
    if (n % 7 === 4) said.push([...words.slice(0, n), "uh", "the"].join(" "));
    said.push(words.slice(0, n + 1).join(" "));
  });
  return said;
}

export function Translate({ info, shown }) {
  const [text, setText] = useState("");
  const [now, setNow] = useState(FRESH);
  const [done, setDone] = useState([]);
  const [busy, setBusy] = useState(false);
  const [playing, setPlaying] = useState(false);
  const [problem, setProblem] = useState(info.chat ? "" : `${info.model} reads no instructions: it continues your text instead of translating it.`);
  const [knobs, setKnobs] = useState({ source_language: "English", target_language: "French", rule: "agreement", limit: "" });
  const line = useRef({ socket: null, begun: false, sent: 0, timer: 0 });
  const change = (name) => (event) => setKnobs({ ...knobs, [name]: event.target.value });

  const take = (event) => {
    const told = JSON.parse(event.data);
    if (told.of === line.current.sent) setBusy(false);
    if (told.error) return setProblem(told.error.message);
    if (told.final) {
      setDone((before) => [...before, told.committed].slice(-20));
      setNow(FRESH);
    } else setNow((before) => ({ ...told, erased: before.erased + told.erased, calls: before.calls + told.calls }));
  };
  const open = () => {
    const held = line.current;
    if (held.socket && held.socket.readyState <= WebSocket.OPEN) return held.socket;
    held.begun = false;
    const made = (held.socket = socket("/v1/translate/live"));
    made.onmessage = take;
    made.onclose = (event) => {
      if (held.socket !== made) return;
      held.socket = null;
      setBusy(false);
      if (event.code !== 1000) setProblem(event.reason ? `The line was closed: ${event.reason}.` : "The line to the server broke off. Go on typing to begin anew.");
    };
    return made;
  };
  const say = (source, final = false) => {
    const to = open(), held = line.current;
    const { limit, ...told } = knobs;
    if (limit !== "") told.max_replaced = Number(limit);
    const message = JSON.stringify({ source, final, rev: (held.sent += 1), ...(held.begun ? {} : told) });
    held.begun = !final;
    setProblem("");
    setBusy(true);
    if (to.readyState === WebSocket.OPEN) to.send(message);
    else to.addEventListener("open", () => to.send(message), { once: true });
  };
  const typed = (event) => {
    setText(event.target.value);
    say(event.target.value);
  };
  const end = () => {
    halt();
    say(text, true);
    setText("");
  };
  const halt = () => {
    clearInterval(line.current.timer);
    setPlaying(false);
  };
  const play = () => {
    const said = heard(SAMPLE);
    setPlaying(true);
    line.current.timer = setInterval(() => {
      const next = said.shift();
      if (next === undefined) return halt();
      setText(next);
      say(next);
    }, PACE);
  };
  useEffect(() => () => {
    clearInterval(line.current.timer);
    line.current.socket?.close(1000);
  }, []);
  useEffect(() => void (shown || halt()), [shown]);

  const part = Boolean(now.rev);
  return html`<div class="two"><section class="stack" aria-label="Translate">
    <label for="live-source"><b>${knobs.source_language || "Source"}, as it comes</b></label>
    <textarea id="live-source" rows="4" value=${text} readonly=${playing} onInput=${typed} onKeyDown=${(event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && text.trim()) end();
      else if (event.key === "Escape") halt();
    }}></textarea>
    <div class="row">
      <button type="button" class="main" disabled=${!text.trim()} onClick=${end}>End the text <kbd>Ctrl ↵</kbd></button>
      ${playing ? html`<button type="button" class="stop" onClick=${halt}>Stop <kbd>Esc</kbd></button>`
        : html`<button type="button" onClick=${play}>Play a speaker</button>`}
      <span class="note" role="status">${busy ? "Translating…" : ""}</span>
    </div>
    <${Problem} text=${problem} />
    <${Microphone} target=${knobs.target_language} shown=${shown} />
    <section class="card" aria-label="Translation" aria-busy=${busy ? "true" : "false"}>
      <h2>${knobs.target_language || "Translation"}</h2>
      ${done.map((whole, n) => html`<p class="captions" key=${n}>${whole}</p>`)}
      <p class="captions" data-testid="captions"><span class="said" data-testid="committed" aria-live="polite">${now.committed}</span><span class="open" data-testid="draft">${now.draft}</span></p>
      ${part && html`<dl class="meter" aria-label="What this text took"><div><dt>updates</dt><dd>${now.rev}</dd></div><div><dt>calls</dt><dd>${now.calls}</dd></div>
        <div><dt>characters taken back</dt><dd>${now.erased}</dd></div><div><dt>last update</dt><dd>${now.ms.toFixed(0)} ms</dd></div></dl>`}
    </section>
    <ul class="legend" aria-label="How to read the translation"><li><span class="said">plain</span> <span class="means">committed: it will not change</span></li>
      <li><span class="open">grey, italic, dotted</span> <span class="means">draft: it may still change</span></li></ul>
  </section>
  <aside aria-label="Settings of the translation" class="stack">
    <${Knob} id="live-from" label="From" help="The language that comes in."><input id="live-from" value=${knobs.source_language} aria-describedby="live-from-help" onInput=${change("source_language")} /><//>
    <${Knob} id="live-to" label="To" help="The language wanted."><input id="live-to" value=${knobs.target_language} aria-describedby="live-to-help" onInput=${change("target_language")} /><//>
    <${Knob} id="live-rule" label="Commit by" help=${RULES[knobs.rule]}>
      <select id="live-rule" value=${knobs.rule} aria-describedby="live-rule-help" onInput=${change("rule")}>${Object.keys(RULES).map((name) => html`<option>${name}</option>`)}</select><//>
    <${Knob} id="live-limit" label="Flicker limit" help="Most characters taken back at once; 0 shows no draft. Empty: no limit.">
      <input id="live-limit" type="number" min="0" step="1" placeholder="none" value=${knobs.limit} aria-describedby="live-limit-help" onInput=${change("limit")} /><//>
    <p class="note">Settings count from the next text on.</p>
  </aside></div>`;
}
