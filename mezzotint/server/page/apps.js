// Apps: a prompt becomes a page of one file. Its code and the running page, side by side; changes are made where they stand.

import { html, useState, useRef, useEffect } from "./vendor/preact.js";
import { post, text as fetchText } from "./api.js";
import { Cells, Meter, Problem, useRun } from "./cells.js";
import { Editor } from "./editor.js";
import { EXAMPLES, RULES } from "./examples.js";
import { Knobs, Models, asked, firstKnobs, request } from "./knobs.js";
import { save } from "./save.js";
import { Stage } from "./stage.js";

const LIVE = 800; // ms between two previews of a page that is being written

/** The page in an answer: what stands in its fence, or from its first tag on. */
export function pageOf(text) {
  const fence = /```[a-z]*[^\S\n]*\n([\s\S]*?)(?:\n```|$)/i.exec(text);
  if (fence) return fence[1];
  const at = text.search(/<!doctype|<html|<[a-z]/i);
  return at < 0 ? text : text.slice(at);
}

/** Where a line lies in a text, in UTF-16 units. Lines are counted from 1. */
function spanOf(text, line) {
  const lines = text.split("\n"), n = Math.min(line, lines.length) - 1;
  const from = lines.slice(0, n).reduce((sum, one) => sum + one.length + 1, 0);
  return [from, from + lines[n].length];
}
const lineAt = (text, at) => text.slice(0, at).split("\n").length;

/** Who wrote what stands in the editor, in words. */
const BY = { shipped: (by) => `Shipped example “${by.name}”, written by hand`, model: (by) => `Written by ${by.name}`, you: () => "Yours" };
function Label({ by }) {
  const more = [by.model && `changed by ${by.model}`, by.edited && by.who !== "you" && "changed by you"].filter(Boolean);
  return html`<p class="by" data-who=${by.who} data-testid="by"><span><b>${BY[by.who](by)}</b>${more.map((part) => `, ${part}`)}</span></p>`;
}

export function Apps({ info, calm, shown, openTrace }) {
  const [knobs, setKnobs] = useState(() => ({ ...firstKnobs(info), max_tokens: Math.min(info.most, 2048, Math.floor(info.context * 0.75)) }));
  const [prompt, setPrompt] = useState(EXAMPLES[0].prompt);
  const [chosen, setChosen] = useState(EXAMPLES[0]);
  const [code, setCode] = useState("");
  const [by, setBy] = useState({ who: "you" });
  const [before, setBefore] = useState([]); // what Undo goes back to
  const [job, setJob] = useState(null);
  const [devices, setDevices] = useState(false);
  const [log, setLog] = useState([]);
  const [feature, setFeature] = useState("");
  const [made, setMade] = useState(null); // of the last edit
  const [busy, setBusy] = useState("");
  const [problem, setProblem] = useState("");
  const [selected, setSelected] = useState([0, 0]);
  const [goTo, setGoTo] = useState(null);
  const [now, start, stopWriting] = useRun();
  const [remote, setRemote] = useState("");
  const held = useRef(null), number = useRef(0), last = useRef(0);

  const show = (page, withDevices = devices) => {
    setLog([]);
    setJob({ number: ++number.current, html: page, devices: withDevices });
  };
  const halt = (why = "") => {
    setJob(null);
    setProblem(why);
  };
  const put = (next, who) => {
    if (code.trim()) setBefore((old) => [...old.slice(-19), { code, by }]);
    setCode(next);
    setBy(who);
  };
  const typed = (next) => {
    if (next === code) return; // it was put there
    setCode(next);
    setBy((old) => (next.trim() ? { ...old, edited: true } : { who: "you" }));
    setMade(null);
  };
  const undo = () => {
    const old = before.at(-1);
    setBefore(before.slice(0, -1));
    setCode(old.code);
    setBy(old.by);
    setMade(null);
    if (job) show(old.code);
  };

  const choose = (example) => {
    setChosen(example);
    setPrompt(example.prompt);
    setFeature(example.feature || "");
  };
  const open = async (example) => {
    try {
      const page = await fetchText(`files/apps/${example.file}.html`);
      put(page, { who: "shipped", name: example.name });
      setMade(null);
      setProblem("");
      setDevices(false);
      show(page, false);
    } catch (error) {
      setProblem(error.message);
    }
  };
  const lead = `<!doctype html>\n<!-- ${prompt.replaceAll("--", "-")} -->\n`; // for a model that only continues text
  const chats = !!remote || info.chat, writer = remote || info.model;
  const whole = (text) => (chats ? pageOf(text) : lead + text);
  const write = async () => {
    if (!prompt.trim() || now.busy) return;
    setProblem("");
    setMade(null);
    const answer = await answered(prompt);
    if (!answer.text.trim() && !answer.error && !answer.stopped) setProblem(`${writer} ended at once and wrote nothing. Another seed or wording may do.`);
    if (!answer.text.trim()) return;
    put(whole(answer.text), { who: "model", name: writer });
    show(whole(answer.text));
  };
  const answered = async (question) => {
    const messages = [{ role: "system", content: RULES }, { role: "user", content: question }];
    const answer = await start(remote ? asked(remote, knobs, messages) : { ...(info.chat ? { messages } : { prompt: lead }), ...request(knobs) });
    if (answer.error) setProblem(answer.error);
    return answer;
  };
  /** A remote model edits nothing in place: it is shown the page, and writes it anew. */
  const anew = async () => {
    setProblem("");
    setMade(null);
    const answer = await answered(`${feature}\n\nChange this page so, keep all the rest of it, and answer with the whole page:\n\n\`\`\`html\n${code}\n\`\`\``);
    const page = pageOf(answer.text);
    if (answer.error || answer.stopped || !page.trim()) return show(code); // half a page would take the place of a whole one
    put(page, { ...by, model: remote });
    show(page);
  };
  useEffect(() => {
    if (!now.busy || calm || now.text.length < 80 || performance.now() - last.current < LIVE) return;
    last.current = performance.now();
    show(whole(now.text));
  }, [now.text.length]);

  /** lines: [first, last] that alone may change, or null. */
  const edit = async (what, instruction, lines) => {
    if (held.current) return;
    const abort = (held.current = new AbortController()), began = performance.now();
    setBusy(what);
    setProblem("");
    try {
      const body = { document: code, preset: "feature", instruction, ...(lines && { lines: lines.join("-"), strength: 0.5, budget: 1 }) };
      const found = await post("/v1/instant-edit", body, abort.signal);
      setMade({ ...found, seconds: (performance.now() - began) / 1000 });
      if (found.changed) {
        put(found.text, { ...by, model: info.model });
        show(found.text);
      }
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error.message);
    }
    held.current = null;
    setBusy("");
  };
  const stop = () => {
    stopWriting();
    held.current?.abort();
  };
  useEffect(() => {
    const escape = (event) => shown && event.key === "Escape" && stop();
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  });
  const add = () => {
    const [a, b] = selected;
    if (remote) return anew();
    edit("Adding it", feature, a === b ? null : [lineAt(code, a), lineAt(code, b)]);
  };

  const ran = job?.html === code, errors = ran ? log.filter((entry) => entry.kind === "error" && entry.line) : [];
  const writing = now.busy, working = writing || !!busy;
  return html`<section class="stack" aria-label="Apps">
    <div class="chips" role="group" aria-label="Examples">${EXAMPLES.map((example) => html`
      <button type="button" class="chip" key=${example.name} aria-pressed=${chosen === example ? "true" : "false"} onClick=${() => choose(example)}>${example.name}${example.file && html` <small>draft</small>`}</button>`)}</div>
    <form class="ask" onSubmit=${(event) => { event.preventDefault(); write(); }}>
      <label class="unseen" for="app-prompt">What the app should be</label>
      <textarea id="app-prompt" rows="2" value=${prompt} onInput=${(event) => setPrompt(event.target.value)}
        onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); write(); } }}></textarea>
      ${working ? html`<button type="button" class="stop" onClick=${stop}>Stop <kbd>Esc</kbd></button>`
        : html`<button class="main" disabled=${!prompt.trim()}>Let ${writer} write it</button>`}
      ${chosen.file && html`<button type="button" disabled=${working} onClick=${() => open(chosen)}>Open the shipped draft</button>`}
    </form>
    <details><summary>How the model writes</summary><div class="wide"><${Knobs} info=${info} knobs=${knobs} set=${setKnobs} prefix="apps" remote=${remote} /></div></details>
    <${Models} id="apps-model" info=${info} value=${remote} set=${setRemote} disabled=${working} />
    <p class="note">A small model seldom writes a page that works. The drafts were written by hand, to be run and changed; the line above the code says who wrote what.</p>
    <${Problem} text=${problem} />
    <div class="half">
      <div class="stack tight code-editor"><${Label} by=${writing ? { who: "model", name: `${writer}, which is at it` } : by} />
        ${writing ? html`<div class="card code live" aria-busy="true">${whole(now.text)}${!calm && html`<${Cells} cells=${now.cells} />`}</div>`
          : html`<${Editor} text=${code} label="The page’s code" numbers=${true} onText=${typed} onSelect=${setSelected} doubts=${errors.map((entry) => spanOf(code, entry.line))} goTo=${goTo} onRun=${() => show(code)} />`}
        <div class="row">
          <button type="button" class="main" disabled=${!code.trim() || writing} onClick=${() => show(code)}>Run <kbd>Ctrl ↵</kbd></button>
          <button type="button" class="quiet" disabled=${!before.length || working} onClick=${undo}>Undo</button>
          <button type="button" class="quiet" disabled=${!code.trim()} onClick=${() => save("app.html", code, "text/html")}>Save file</button>
          ${now.id && !writing && html`<button type="button" class="quiet" onClick=${() => openTrace(now.id)}>See every step</button>`}</div>
        <${Meter} of=${now.calls ? now : null} />
      </div>
      <div class="stack tight"><div class="row"><b class="grow">Preview</b>
          <button type="button" id="devices" aria-pressed=${devices ? "true" : "false"} class="chip" onClick=${() => { setDevices(!devices); if (code.trim()) show(code, !devices); }}>Camera and microphone${devices ? ": on" : ""}</button>
          <button type="button" class="stop" disabled=${!job} onClick=${() => halt()}>Stop the page</button></div>
        <${Stage} job=${job} shown=${shown} onStop=${halt} onLog=${(said) => setLog((old) => [...old, said])} />
        ${log.length > 0 && html`<ul class="log" aria-label="Console of the page">${log.slice(-20).map((entry, n) => html`<li key=${n} class=${entry.kind}>
          <span>${entry.kind}${entry.line ? `, line ${entry.line}` : ""}: ${entry.text}</span>
          ${ran && entry.kind === "error" && entry.line > 0 && html`<span class="row"><button type="button" class="quiet" onClick=${() => setGoTo({ span: spanOf(code, entry.line) })}>Show line ${entry.line}</button>
            <button type="button" class="quiet" disabled=${working} onClick=${() => edit(`Rewriting line ${entry.line}`, `a repair of this error: ${entry.text}`, [entry.line, entry.line])}>Denoise line ${entry.line} again</button></span>`}</li>`)}</ul>`}
      </div>
    </div>
    <form class="ask" onSubmit=${(event) => { event.preventDefault(); add(); }}>
      <div class="grow"><label for="app-feature"><b>Add a feature</b> <span class="note">${remote ? `${remote} writes the whole page anew` : `in place${selected[0] !== selected[1] ? ", in the selected lines alone" : ""}`}</span></label>
        <input id="app-feature" value=${feature} placeholder="a button that …" onInput=${(event) => setFeature(event.target.value)} /></div>
      <button disabled=${working || !feature.trim() || !code.trim()}>Add it</button></form>
    <p role="status" class="note">${busy && `${busy}…`}${made && !busy && (made.changed ? `${made.hunks.length} change${made.hunks.length === 1 ? "" : "s"} by ${info.model} in ${made.seconds.toFixed(1)} s, ${made.calls} calls, way ${made.way}. Undo takes them back.` : `${info.model} changed nothing in ${made.seconds.toFixed(1)} s.`)}</p>
    ${made && html`<ul class="hunks">${made.hunks.slice(0, 12).map((hunk) => html`<li class="hunk"><del><span class="unseen">was: </span>${hunk.before || "∅"}</del> → <ins><span class="unseen">becomes: </span>${hunk.after || "∅"}</ins></li>`)}</ul>
      ${[...made.notes, ...made.problems].map((note) => html`<p class="note">${note}</p>`)}`}
  </section>`;
}
