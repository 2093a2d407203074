// Runs before anything else of a previewed page. It tells the playground of errors and signs of life, and takes away what no policy can:
// WebRTC, whose packets a content security policy does not stop, and frames inside the page, which would bring it back.
// What it needs later it holds itself, since the page may replace any built-in. The server joins its lines; so each ends whole.
(() => {
  const up = parent.postMessage.bind(parent), say = (said) => up({ mezzotint: said }, "*");
  const place = (stack, n) => {
    const line = String(stack || "").split("\n").filter((one) => one.includes(location.pathname))[n] || "";
    const found = /:(\d+):(\d+)\)?$/.exec(line);
    return found ? { line: +found[1], column: +found[2] } : { line: 0, column: 0 };
  };
  addEventListener("error", (event) => event.message && say({ kind: "error", text: String(event.message), line: event.lineno, column: event.colno }), true);
  addEventListener("unhandledrejection", (event) => say({ kind: "error", text: String(event.reason), ...place(event.reason && event.reason.stack, 0) }));
  addEventListener("securitypolicyviolation", (event) => say({ kind: "error", line: event.lineNumber || 0, column: event.columnNumber || 0,
    text: "not allowed here (" + event.effectiveDirective + "): " + String(event.blockedURI).slice(0, 200) }));
  for (const kind of ["log", "warn", "error"]) {
    const old = console[kind];
    console[kind] = (...said) => {
      const text = said.map(String).join(" ").slice(0, 2000);
      say({ kind, text, ...(kind === "error" ? place(Error().stack, 1) : { line: 0 }) });
      old(...said);
    };
  }
  setInterval(() => say({ kind: "alive" }), 500);
  say({ kind: "alive" });

  for (const name of ["RTCPeerConnection", "webkitRTCPeerConnection", "mozRTCPeerConnection", "RTCDataChannel"]) delete self[name];
  const { apply } = Reflect, { remove, attachShadow } = Element.prototype, { querySelectorAll } = DocumentFragment.prototype;
  const frames = [], shadows = [];
  for (const tag of ["iframe", "frame", "object", "embed", "fencedframe"]) frames[frames.length] = document.getElementsByTagName(tag);
  const clear = () => {
    for (let n = 0, all; (all = frames[n]); n++) while (all[0]) apply(remove, all[0], []);
    for (let n = 0, root; (root = shadows[n]); n++) {
      const found = apply(querySelectorAll, root, ["iframe, frame, object, embed, fencedframe"]);
      for (let m = 0, one; (one = found[m]); m++) apply(remove, one, []);
    }
  };
  const watch = new MutationObserver(clear), { observe } = watch, all = { childList: true, subtree: true };
  watch.observe(document, all);
  Element.prototype.attachShadow = function (kind) {
    const root = apply(attachShadow, this, [kind]);
    shadows[shadows.length] = root;
    apply(observe, watch, [root, all]);
    return root;
  };
  // Markup that makes shadows by itself would hide frames from all this.
  for (const where of [Element.prototype, ShadowRoot.prototype]) { delete where.setHTMLUnsafe; delete where.setHTML; }
  delete Document.parseHTMLUnsafe;
  for (const name of ["write", "writeln", "open"]) delete Document.prototype[name];
})();
