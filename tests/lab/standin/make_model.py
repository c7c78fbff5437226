# SPDX-License-Identifier: Apache-2.0
"""Makes the tiny language model under model/: random weights, a tokenizer trained on a few sentences.

Run by hand, in a virtual environment of its own (nothing is downloaded except the packages):

    python3 -m venv /tmp/export && /tmp/export/bin/pip install -r make_model_requirements.txt
    /tmp/export/bin/pip uninstall -y torchvision      # where a mismatched one came along, its import fails
    /tmp/export/bin/python make_model.py model

The result has the layout that OVMS's export_model.py leaves behind, without a graph.pbtxt: who serves the
model writes that. The seed is fixed, so the same package versions give the same model.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers

VOCABULARY_SIZE = 512
CONTEXT_TOKENS = 2048
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
# What the tokenizer learns its merges from: enough text that generated tokens look like words.
CORPUS = [
    "OpenVINO Model Server answers requests for large language models on processors and graphics cards.",
    "One instance of the server runs on each node of the machine, bound to its cores and to its memory.",
    "A balancer in front spreads the load, and takes out what does not answer any more.",
    "What is OpenVINO? A toolkit for running neural networks fast on the hardware that is there.",
    "The quick brown fox jumps over the lazy dog while twelve engines count tokens in the night.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<s>' + message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every input can be encoded, every token decoded."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(CORPUS, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=CONTEXT_TOKENS,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_network(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlamaForCausalLM:
    """A Llama with random weights: about 2.6 million parameters, one byte each after the export."""
    torch.manual_seed(20260821)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=416,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.LlamaForCausalLM(config).eval()


def export(source: pathlib.Path, destination: pathlib.Path) -> None:
    """Converts to OpenVINO IR with 8-bit weights and the tokenizer models, as export_model.py does."""
    command = ["optimum-cli", "export", "openvino", "--model", str(source)]
    command += ["--task", "text-generation-with-past", "--weight-format", "int8", str(destination)]
    tool = pathlib.Path(sys.executable).with_name("optimum-cli")
    subprocess.run([str(tool), *command[1:]], check=True)


def main() -> None:
    destination = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "model").absolute()
    with tempfile.TemporaryDirectory() as work:
        source = pathlib.Path(work, "torch")
        tokenizer = make_tokenizer()
        tokenizer.save_pretrained(source)
        make_network(tokenizer).save_pretrained(source)
        shutil.rmtree(destination, ignore_errors=True)
        export(source, destination)
    size_bytes = sum(path.stat().st_size for path in destination.iterdir())
    sys.stdout.write(f"{destination}: {size_bytes / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
