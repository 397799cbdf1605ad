"""docs/scoring.md: its Python runs as it stands, ending in a GRPO run rewarded by the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_factories.tiny_models import make_decoder
from tests.scoring.stage import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
#: What the page leaves to its reader.
SET_UP = """
import os, warnings
warnings.simplefilter("ignore")
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
adapter_id = os.environ["ADAPTER"]
policy = AutoModelForCausalLM.from_pretrained("policy")
tokenizer = AutoTokenizer.from_pretrained("policy")
prompts = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": f"please tell me about {w} ?"}]} for w in
     ("tea", "cars", "birds", "maps")]
)
settings = dict(
    output_dir="out", max_steps=2, per_device_train_batch_size=4, num_generations=4,
    max_completion_length=6, use_cpu=True, bf16=False, report_to="none", logging_steps=1,
    save_strategy="no", learning_rate=1e-3, disable_tqdm=True, gradient_checkpointing=False,
)
"""
TEAR_DOWN = """
rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
print("rewards", len(rewards), any(rewards))
"""


@pytest.mark.train
def test_page_runs_as_it_stands(stage: Stage, tmp_path: Path) -> None:
    make_decoder(tmp_path / "policy")
    program = tmp_path / "page.py"
    program.write_text("\n".join([SET_UP, *BLOCKS, TEAR_DOWN]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
    environment |= {
        "PLAUDIT_URL": str(stage.client.base_url),
        "PLAUDIT_API_KEY": stage.key,
        "ADAPTER": stage.chat,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rewards 2 True" in done.stdout
