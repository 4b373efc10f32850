"""python gguf_convert.py LLAMA_CPP {f32,f16,bf16} FOLDER OUT [FOLDER OUT …]: llama.cpp's own converters, in a process of their own.

LLAMA_CPP: its source, as the sdist of llama-cpp-python has it under vendor/llama.cpp. Two things are set aside: which
tokenizer a checkpoint has (a tiny one has none that is known), and the sentencepiece files that some families must have.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(source: Path, outtype: str, pairs: list[str]) -> None:
    sys.path[:0] = [str(source / "gguf-py"), str(source)]
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, TextModel, get_model_architecture

    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    for folder, out in zip(pairs[::2], pairs[1::2], strict=True):
        settings = ModelBase.load_hparams(Path(folder), False)
        made = get_model_class(get_model_architecture(settings, ModelType.TEXT), mmproj=False)
        made.set_vocab = TextModel._set_vocab_gpt2
        with torch.inference_mode():
            made(Path(folder), gguf.LlamaFileType[kinds[outtype]], Path(out)).write()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
