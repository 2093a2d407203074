// CodeMirror, as the panels use it: one document, marks on it, no style of its own that the policy would not allow.

import { html, useEffect, useRef } from "./vendor/preact.js";
import * as cm from "./vendor/codemirror.js";

const nonce = document.querySelector("meta[name=csp-nonce]").content;
const mark = { lock: cm.Decoration.mark({ class: "cm-lock" }), doubt: cm.Decoration.mark({ class: "cm-doubt" }) };
const setMarks = cm.StateEffect.define();
const marks = cm.StateField.define({
  create: () => cm.Decoration.none,
  update(found, change) {
    let next = found.map(change.changes);
    for (const effect of change.effects) if (effect.is(setMarks)) next = effect.value;
    return next;
  },
  provide: (field) => cm.EditorView.decorations.from(field),
});

export const language = (text) => (/^\s*<(!doctype|html|head|body|div|script)/i.test(text) ? [cm.html()] : /^\s*(def |class |import |from |@)/m.test(text) ? [cm.python()] : []);

export function extensions(label, more = []) {
  return [cm.EditorView.cspNonce.of(nonce), cm.history(), cm.EditorView.lineWrapping, cm.drawSelection(), marks,
    cm.syntaxHighlighting(cm.defaultHighlightStyle), cm.keymap.of([...cm.defaultKeymap, ...cm.historyKeymap]),
    cm.EditorView.contentAttributes.of({ "aria-label": label, tabindex: "0" }), ...more];
}

/** locks, doubts: [start, end] in UTF-16 units. goTo: {span}, a new object each time: what to select and bring into view. */
export function Editor({ text, label, onText, onSelect, locks = [], doubts = [], numbers = false, readOnly = false, onRun, goTo }) {
  const place = useRef(null), view = useRef(null), calls = useRef({});
  calls.current = { onText, onSelect, onRun };
  useEffect(() => {
    const run = { key: "Mod-Enter", run: () => (calls.current.onRun?.(), true) };
    view.current = new cm.EditorView({
      doc: text, parent: place.current,
      extensions: [cm.keymap.of([run]), extensions(label, [
        ...(numbers ? [cm.lineNumbers()] : []), ...language(text), cm.EditorState.readOnly.of(readOnly),
        cm.EditorView.updateListener.of((update) => {
          if (update.docChanged) calls.current.onText?.(update.state.doc.toString(), update.changes);
          if (update.selectionSet || update.docChanged) {
            const { from, to } = update.state.selection.main;
            calls.current.onSelect?.([from, to]);
          }
        })])],
    });
    return () => view.current.destroy();
  }, []);
  useEffect(() => {
    const now = view.current.state.doc.toString();
    if (now !== text) view.current.dispatch({ changes: { from: 0, to: now.length, insert: text } });
  }, [text]);
  useEffect(() => {
    const size = view.current.state.doc.length;
    const spans = (found, as) => found.map(([a, b]) => [a, Math.min(b, size)]).filter(([a, b]) => a < b).map(([a, b]) => as.range(a, b)); // no mark may be empty
    view.current.dispatch({ effects: setMarks.of(cm.Decoration.set([...spans(locks, mark.lock), ...spans(doubts, mark.doubt)], true)) });
  }, [JSON.stringify(locks), JSON.stringify(doubts), text]);
  useEffect(() => {
    if (!goTo) return;
    const [anchor, head] = goTo.span.map((n) => Math.min(n, view.current.state.doc.length));
    view.current.dispatch({ selection: { anchor, head }, scrollIntoView: true });
    view.current.focus();
  }, [goTo]);
  return html`<div class="editor" ref=${place}></div>`;
}

/** before and after side by side, or under each other where there is no room; read only. */
export function Merge({ before, after }) {
  const place = useRef(null);
  useEffect(() => {
    const side = (label) => [extensions(label, [cm.EditorState.readOnly.of(true), ...language(before)])];
    const view = new cm.MergeView({ a: { doc: before, extensions: side("Before") }, b: { doc: after, extensions: side("After") }, parent: place.current, highlightChanges: true, gutter: true });
    return () => view.destroy();
  }, [before, after]);
  return html`<div class="editor merge" ref=${place}></div>`;
}
