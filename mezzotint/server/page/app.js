// The shell: tabs, the model's name, and what holds for every panel. A panel is loaded when it is first opened.

import { html, render, useState, useEffect, useRef } from "./vendor/preact.js";
import { get, setKey } from "./api.js";
import { Chat } from "./chat.js";

const LATER = { Apps: "./apps.js", Edit: "./edit.js", Translate: "./translate.js", Race: "./race.js", Lab: "./lab.js", Trace: "./trace.js" };
const TABS = { Chat: "Chat", Apps: "Apps", Edit: "Instant Edit", Translate: "Translate", Race: "Race", Lab: "Canvas lab", Trace: "Trace" };

function Panel({ name, ...rest }) {
  const [found, set] = useState(() => (name === "Chat" ? { Part: Chat } : null));
  useEffect(() => {
    if (!found) import(LATER[name]).then((module) => set({ Part: module[name] }), (error) => set({ error }));
  }, []);
  if (found?.error) return html`<p class="problem" role="alert">This panel could not be loaded: ${String(found.error)}</p>`;
  return found ? html`<${found.Part} ...${rest} />` : html`<p class="waiting">Opening…</p>`;
}

function App() {
  const [info, setInfo] = useState(null);
  const [problem, setProblem] = useState("");
  const [needsKey, setNeedsKey] = useState(false);
  const [tab, setTab] = useState(TABS[location.hash.slice(1)] ? location.hash.slice(1) : "Chat");
  const [opened, setOpened] = useState([tab]);
  const [trace, setTrace] = useState(null);
  const system = useRef(matchMedia("(prefers-reduced-motion: reduce)"));
  const [calm, setCalm] = useState(() => localStorage.getItem("mezzotint-calm") === "1" || system.current.matches);
  const tabs = useRef({});

  const load = async () => {
    try {
      setInfo(await get("info"));
      setProblem("");
      setNeedsKey(false);
      performance.mark("interactive");
    } catch (error) {
      setNeedsKey(error.status === 401);
      setProblem(error.status === 503 ? "The model is being loaded…" : error.message);
      if (error.status !== 401) setTimeout(load, 700);
    }
  };
  useEffect(() => void load(), []);
  useEffect(() => {
    document.documentElement.classList.toggle("calm", calm);
    localStorage.setItem("mezzotint-calm", calm ? "1" : "0");
  }, [calm]);
  const go = (name, focus) => {
    setTab(name);
    setOpened((before) => (before.includes(name) ? before : [...before, name]));
    history.replaceState(null, "", `#${name}`);
    if (focus) tabs.current[name]?.focus();
  };
  const openTrace = (id) => {
    setTrace({ id });
    go("Trace");
  };
  const keys = (event) => {
    const names = Object.keys(TABS), at = names.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + names.length, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(names[to % names.length], true);
  };

  return html`<header>
      <h1><span class="plate" aria-hidden="true">▒</span>Mezzotint</h1>
      <p class="model">${info ? html`<b>${info.model}</b> · ${info.leads ? `${info.noise} diffusion, canvas of ${info.canvas}` : "verified decoding"}` : ""}</p>
      <label class="switch"><input type="checkbox" checked=${calm} onChange=${(event) => setCalm(event.target.checked)} /> Less motion</label>
    </header>
    <nav aria-label="Playground"><div class="tabs" role="tablist" aria-label="Panels" onKeyDown=${keys}>${Object.entries(TABS).map(([name, title]) => html`
      <button type="button" role="tab" id="tab-${name}" key=${name} ref=${(element) => { tabs.current[name] = element; }} aria-selected=${tab === name ? "true" : "false"}
        aria-controls=${opened.includes(name) ? `panel-${name}` : undefined} tabindex=${tab === name ? 0 : -1} onClick=${() => go(name)}>${title}</button>`)}</div></nav>
    <main>
      ${needsKey && html`<form class="key" onSubmit=${(event) => { event.preventDefault(); setKey(event.target.elements.key.value); load(); }}>
        <label for="key">This server asks for a key. It stays in this tab.</label>
        <input id="key" name="key" type="password" autocomplete="off" /><button class="main">Use it</button></form>`}
      ${problem && html`<p class="problem" role="status">${problem}</p>`}
      ${info && opened.map((name) => html`<div role="tabpanel" id="panel-${name}" key=${name} aria-labelledby="tab-${name}" hidden=${tab !== name}>
        <${Panel} name=${name} info=${info} calm=${calm} openTrace=${openTrace} trace=${trace} shown=${tab === name} /></div>`)}
    </main>`;
}

document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
