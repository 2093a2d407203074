// Chat: the answer denoises inside its own bubble.

import { html, useState, useRef, useEffect, useMemo } from "./vendor/preact.js";
import { Cells, Legend, Meter, Problem, Spoken, useRun } from "./cells.js";
import { Knobs, Models, asked, firstKnobs, request } from "./knobs.js";

let markdown = null;
const loading = import("./vendor/markdown.js").then(({ MarkdownIt, DOMPurify }) => {
  const parser = new MarkdownIt({ html: false, linkify: false });
  DOMPurify.addHook("afterSanitizeAttributes", (node) => {
    if (node.tagName === "A") node.setAttribute("rel", "noopener noreferrer");
  });
  markdown = (text) => DOMPurify.sanitize(parser.render(text), { FORBID_TAGS: ["style", "img", "form", "input"], FORBID_ATTR: ["style"] });
});

export function Markdown({ text }) {
  const [ready, set] = useState(!!markdown);
  useEffect(() => void loading.then(() => set(true)), []);
  const made = useMemo(() => (ready ? markdown(text) : ""), [text, ready]);
  return ready ? html`<div class="prose" dangerouslySetInnerHTML=${{ __html: made }}></div>` : html`<div class="prose plain">${text}</div>`;
}

function Bubble({ turn, calm, openTrace }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(turn.text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<div class="bubble answer" aria-busy=${turn.busy ? "true" : "false"}>
    ${turn.busy
      ? html`<div class="live" data-frame=${turn.frame}>${turn.text}${!calm && html`<${Cells} cells=${turn.cells} />`}${!turn.text && !turn.cells.length && html`<span class="waiting">waiting for its turn…</span>`}</div>`
      : html`<${Markdown} text=${turn.text} />`}
    ${turn.remote && html`<p class="note">Written by <b>${turn.remote}</b></p>`}
    <${Problem} text=${turn.error} />
    ${turn.stopped && html`<p class="note">Stopped. What was committed stays.</p>`}
    ${turn.notes?.length > 0 && html`<p class="note">${turn.notes.join("; ")}</p>`}
    <${Meter} of=${turn} />
    ${!turn.busy && turn.id && html`<div class="row">
      <button type="button" class="quiet" onClick=${() => openTrace(turn.id)}>See every step</button>
      <button type="button" class="quiet" onClick=${copy}>${copied ? "Copied" : "Copy text"}</button>
      <span class="note">seed ${turn.seed}</span></div>`}
  </div>`;
}

export const STARTS = {
  true: ["Write a haiku about fog.", "Explain what a mezzotint is, in two sentences.", "Write a Python function that reverses a string."],
  false: ["Mia has a red ball. She", "There was an old cat who", "Use this method to", "Tom went to the shop to"],
};

export function Chat({ info, calm, openTrace }) {
  const [knobs, setKnobs] = useState(() => firstKnobs(info));
  const [turns, setTurns] = useState([]);
  const [draft, setDraft] = useState("");
  const [remote, setRemote] = useState("");
  const [now, start, stop] = useRun();
  const chats = !!remote || info.chat;
  const end = useRef(null), box = useRef(null);
  const live = now.busy;

  const ask = async (text) => {
    if (!text.trim() || live) return;
    setDraft("");
    const before = turns;
    setTurns([...before, { user: text }]);
    const messages = before.flatMap((turn) => (turn.user ? [{ role: "user", content: turn.user }] : [{ role: "assistant", content: turn.text }]));
    const said = [...messages, { role: "user", content: text }];
    const made = await start(remote ? asked(remote, knobs, said) : { ...(info.chat ? { messages: said } : { prompt: text }), ...request(knobs) });
    setTurns([...before, { user: text }, { ...made, remote }]);
    box.current?.focus();
  };
  useEffect(() => {
    const escape = (event) => event.key === "Escape" && stop();
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  }, []);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [turns.length, Math.floor(now.text.length / 80)]);

  const all = live ? [...turns, { ...now, remote }] : turns;
  return html`<div class="two">
    <section class="talk" aria-label="Conversation">
      ${!all.length && html`<div class="hello"><h2>See it denoise</h2>
        <p>${info.leads
          ? "Ask, and the answer appears everywhere at once out of noise, and sharpens."
          : info.denoises
          ? "The canvas drafts several tokens at once and the model checks them left to right: the text is what it would write alone. Choose diffusion among the knobs to see the canvas by itself."
          : "This model has not learnt to denoise yet. Its answers are drafted from noise and checked left to right, so the text is right and the picture honest; serve “tiny” to see real diffusion."}
          ${!info.chat && " This model has no chat training: it continues your text."}</p>
        <div class="chips">${STARTS[info.chat].map((text) => html`<button type="button" class="chip" onClick=${() => ask(text)}>${text}</button>`)}</div></div>`}
      ${all.map((turn, n) => turn.user
        ? html`<div class="bubble user" key=${n}><span class="unseen">You: </span>${turn.user}</div>`
        : html`<${Bubble} key=${n} turn=${turn} calm=${calm} openTrace=${openTrace} />`)}
      <${Spoken} text=${now.text} busy=${live} />
      <div ref=${end}></div>
      <form class="ask" onSubmit=${(event) => { event.preventDefault(); ask(draft); }}>
        <label class="unseen" for="ask">${chats ? "Your message" : "Text to continue"}</label>
        <textarea id="ask" ref=${box} rows="2" value=${draft} placeholder=${chats ? "Ask something. Enter sends, Shift+Enter breaks the line." : "Begin a text. Enter sends it."}
          onInput=${(event) => setDraft(event.target.value)}
          onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(draft); } }}></textarea>
        ${live ? html`<button type="button" class="stop" onClick=${stop}>Stop <kbd>Esc</kbd></button>`
          : html`<button type="submit" class="main" disabled=${!draft.trim()}>Send</button>`}
      </form>
    </section>
    <aside aria-label="Settings of the answer">
      <${Models} id="chat-model" info=${info} value=${remote} set=${setRemote} disabled=${live} />
      <${Knobs} info=${info} knobs=${knobs} set=${setKnobs} prefix="chat" remote=${remote} />
      ${turns.length > 0 && html`<button type="button" class="quiet" onClick=${() => setTurns([])} disabled=${live}>Start over</button>`}
      <h2 class="small">How to read the cells</h2><${Legend} />
    </aside>
  </div>`;
}
