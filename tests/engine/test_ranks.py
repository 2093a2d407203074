"""One scheduler over a network that is split over ranks says what one process says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import led_ranks
import pytest

import mezzotint as mz

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_ranks_that_are_led_say_what_one_process_says(tmp_path):
    command = [sys.executable, str(HERE / "led_ranks.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    engine = mz.Engine(mz.load("tiny"))
    alone = [engine.generate(request)[0].text for request in led_ranks.REQUESTS]
    assert found["texts"] == [*alone, alone[1]]
    assert "split over ranks" in found["refused"]
