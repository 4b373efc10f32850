"""The embedded model with and without guesses: the same text, ids and log-probabilities, in fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixmill.llm import LLM, Params

CODE = "def total(items):\n    result = 0\n    for item in items:\n        result += item.price\n    return result\n"
PROMPTS = [
    f"# The code:\n{CODE}\n# The same code again:\n{CODE}\n# The same code again:\n",
    "red green blue yellow black white " * 6,
    "Once upon a time there was a miller who",
]
WISHES = [
    Params(max_tokens=48, temperature=0.0, logprobs=2, ignore_eos=True),
    Params(max_tokens=48, temperature=0.7, top_p=0.9, seed=11, logprobs=2),
    Params(max_tokens=32, temperature=0.6, seed=5, repetition_penalty=1.1, presence_penalty=0.3, min_tokens=32, n=2),
]


def answers(speculation: str) -> tuple[list[object], dict[str, int]]:
    """Every prompt with every wish, one at a time and then all together."""
    with LLM("smollm2-135m-instruct", max_total_tokens=8192, speculation=speculation) as llm:
        pairs = [(prompt, wish) for prompt in PROMPTS for wish in WISHES]
        single = [llm.generate(prompt, wish, progress=False)[0].choices for prompt, wish in pairs]
        together = llm.generate([p for p, _ in pairs], [w for _, w in pairs], progress=False)
        return [single, [answer.choices for answer in together]], llm.stats()


@pytest.mark.weights
def test_guesses_save_steps_and_change_nothing(smollm2: Path) -> None:
    plain, off = answers("off")
    assert plain[0] == plain[1] and off["drafted"] == 0
    for speculation in ("ngram", "auto"):
        said, stats = answers(speculation)
        assert said == plain
        assert stats["device_steps"] <= off["device_steps"], "how many `auto` saves depends on the clock"
        if speculation == "ngram":
            assert stats["accepted"] > 50 and stats["device_steps"] < off["device_steps"] - 50
