"""The command line: one verb a need. Data goes to stdout, progress and summaries to stderr.

Exit codes: 0 done; 1 something failed (file, network, disk, broken weights); 2 bad input or usage; 3 training diverged;
129, 130, 143 stopped by SIGHUP, Ctrl-C, SIGTERM; 141 the reader of our output went away. Heavy imports happen inside the
verbs: `mezzotint --help` starts without torch.
"""

from __future__ import annotations

import sys

import typer

from mezzotint.commands.bench import bench_app
from mezzotint.commands.data import data_app
from mezzotint.commands.edit import edit, infill
from mezzotint.commands.eval import eval_report, evaluate
from mezzotint.commands.generate import chat, generate
from mezzotint.commands.live import lsp, transcribe, translate
from mezzotint.commands.models import card, convert, doctor, models, pull
from mezzotint.commands.serve import demo, serve
from mezzotint.commands.shared import INTERRUPTED, NamesInHelp
from mezzotint.commands.train import adapt, finetune, train, train_report
from mezzotint.commands.watch import replay, watch

app = typer.Typer(
    help="Text that resolves out of noise: generate, edit and watch it.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip

# --help lists them in this order
app.command(cls=NamesInHelp)(generate)
app.command(cls=NamesInHelp)(chat)
app.command()(edit)
app.command(cls=NamesInHelp)(infill)
app.command()(serve)
app.command()(demo)
app.command()(lsp)
app.command()(translate)
app.command()(transcribe)
app.command(cls=NamesInHelp)(watch)
app.command()(replay)
app.command()(train)
app.command()(pull)
app.command()(models)
app.command()(card)
app.command()(convert)
app.command()(doctor)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
app.command("eval", cls=NamesInHelp)(evaluate)
app.command("eval-report")(eval_report)
app.command("train-report")(train_report)
app.command()(adapt)
app.command()(finetune)


def main() -> None:
    """Entry point of the `mezzotint` command."""
    try:
        app()
    except KeyboardInterrupt:  # before a verb began
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
