"""A language server as an editor sees it: open a text, ask for what is missing at the cursor, take it."""

import asyncio
import sys

import pygls.lsp.client
from lsprotocol import types


async def ask() -> None:
    editor = pygls.lsp.client.LanguageClient("example", "1")
    await editor.start_io(sys.executable, "-m", "mezzotint", "lsp", "--model", "tiny")
    await editor.initialize_async(types.InitializeParams(types.ClientCapabilities()))
    editor.initialized(types.InitializedParams())

    text, uri = "\U0001f40e The blue horses run in the garden. They jump because they  happy.\n", "file:///horses.txt"
    editor.text_document_did_open(types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, "plaintext", 1, text)))
    column = text.index("  happy") + 1
    place = types.Position(0, column + 1)  # in UTF-16, where the horse counts twice
    found = await editor.text_document_inline_completion_async(
        types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
            types.TextDocumentIdentifier(uri), place,
        )
    )  # fmt: skip
    for item in found.items:
        print(f"{text[:column]}[{item.insert_text}]{text[column:]}", end="")
    await editor.shutdown_async(None)
    editor.exit(None)
    await editor.stop()


def main() -> None:
    asyncio.run(ask())


if __name__ == "__main__":
    main()
