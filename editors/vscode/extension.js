// Starts `mezzotint lsp`, asks the user for what an edit needs, and shows inline completions, which version 9 of
// vscode-languageclient has no feature for.
"use strict";

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

function settings() {
  return vscode.workspace.getConfiguration("mezzotint");
}

function selector() {
  return settings().get("languages").flatMap((language) => [
    { scheme: "file", language },
    { scheme: "untitled", language },
  ]);
}

async function start() {
  const [command, ...args] = settings().get("command");
  client = new LanguageClient(
    "mezzotint",
    "Mezzotint",
    { command, args },
    {
      documentSelector: selector(),
      initializationOptions: { prompts: true, values: settings().get("values") },
    },
  );
  client.onRequest("mezzotint/input", async ({ name, title }) => {
    const answer = await vscode.window.showInputBox({ title, prompt: name, ignoreFocusOut: true });
    return answer || null;
  });
  await client.start();
}

function range(from) {
  const place = ({ line, character }) => ({ line, character });
  return { start: place(from.start), end: place(from.end) };
}

// A command of the server about the editor in view.
async function run(name, more = {}) {
  const editor = vscode.window.activeTextEditor;
  if (!editor || !client) return;
  const uri = client.code2ProtocolConverter.asUri(editor.document.uri);
  const told = { uri, version: editor.document.version, range: range(editor.selection), ...more };
  try {
    return await client.sendRequest("workspace/executeCommand", { command: `mezzotint.${name}`, arguments: [told] });
  } catch (error) {
    if (error.code !== -32801 && error.code !== -32800) client.warn(error.message); // changed, cancelled
  }
}

async function ask() {
  const instruction = await vscode.window.showInputBox({
    title: "Mezzotint",
    prompt: "What to change in the selection, or the paragraph",
  });
  if (instruction) await run("instruct", { instruction });
}

async function next() {
  const done = await run("nextEdit");
  const editor = vscode.window.activeTextEditor;
  if (done && done.applied && editor) {
    editor.revealRange(new vscode.Range(done.line, 0, done.line, 0), vscode.TextEditorRevealType.InCenterIfOutsideViewport);
  }
}

const completions = {
  async provideInlineCompletionItems(document, position, context, token) {
    if (!client || !client.isRunning()) return [];
    // VS Code counts Invoke 0 and Automatic 1, the protocol 1 and 2
    const params = {
      textDocument: { uri: client.code2ProtocolConverter.asUri(document.uri) },
      position: { line: position.line, character: position.character },
      context: { triggerKind: context.triggerKind + 1 },
    };
    try {
      const found = await client.sendRequest("textDocument/inlineCompletion", params, token);
      const at = new vscode.Range(position, position);
      return (found?.items ?? []).map((item) => new vscode.InlineCompletionItem(item.insertText, at));
    } catch {
      return []; // cancelled, or the text has changed
    }
  },
};

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("mezzotint.ask", ask),
    vscode.commands.registerCommand("mezzotint.next", next),
    vscode.commands.registerCommand("mezzotint.showDoubt", () => run("doubt")),
    vscode.commands.registerCommand("mezzotint.hideDoubt", () => run("clearDoubt")),
    vscode.commands.registerCommand("mezzotint.restart", async () => {
      await deactivate();
      await start();
    }),
    vscode.languages.registerInlineCompletionItemProvider(selector(), completions),
  );
  await start();
}

async function deactivate() {
  const old = client;
  client = undefined;
  if (old) await old.stop();
}

module.exports = { activate, deactivate };
