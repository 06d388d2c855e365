"""Loads checkpoints of the constructed model with Hugging Face `transformers`, and compares tokens, logits and answers.

    NEEDLE_DUMP=DIR cargo test -p lacuna-runner --test needle_retrieval -- --ignored dump_for_transformers
    python runner/tests/needle_transformers.py DIR

Needs torch, transformers and safetensors. Exits with 1 if anything differs.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# In f32 the two forward passes differ by rounding only. In bf16 the dump computes with the stored weights in f32 and
# transformers in bf16 throughout: a coarser agreement, still far below the 10 between the best logit and the next.
MAX_LOGIT_DIFFERENCE = {"f32": 1e-2, "bf16": 2.0}
TEXTS = [
    *("", " ", "a\tb\r\n\n", "12 345 6789", "Record: the otter", '{"key": "0a1b"}'),
    "na\u00efve caf\u00e9 \u4f60\u597d \U0001f980",
]


def check(directory: pathlib.Path, prompts: list, dtype: str) -> bool:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    print(f"{dtype}: {type(tokenizer).__name__}, {type(model).__name__}, {model.dtype}, theta {theta(model.config)}")
    ok = all(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text for text in TEXTS)
    if not ok:
        print("  texts do not survive encoding and decoding")

    for prompt in prompts:
        same_tokens = tokenizer(prompt["text"]).input_ids == prompt["tokens"]
        tokens = torch.tensor([prompt["tokens"]])
        with torch.inference_mode():
            logits = model(tokens).logits[0].float()
            difference, right = 0.0, 0
            for question in prompt["questions"]:
                ours = torch.tensor(question["logits"])
                difference = max(difference, (logits[question["position"]] - ours).abs().max().item())
                start = tokens[:, : question["position"] + 1]
                everything = torch.ones_like(start)
                output = model.generate(start, attention_mask=everything, max_new_tokens=60, do_sample=False)
                answer = output[0, start.shape[1] :].tolist()
                right += answer == question["answer_tokens"] + [tokenizer.eos_token_id]
                right -= question["answer"] not in tokenizer.decode(answer)
        asked = len(prompt["questions"])
        good = same_tokens and right == asked and difference <= MAX_LOGIT_DIFFERENCE[dtype]
        ok &= good
        print(
            f"  {prompt['name']:22} tokens {'equal' if same_tokens else 'DIFFER'}, answers {right}/{asked}, "
            f"max logit difference {difference:.2e}{'' if good else '   <-- wrong'}"
        )
    return ok


def theta(config) -> float:
    """Where it is depends on the version of transformers."""
    return (getattr(config, "rope_parameters", None) or {}).get("rope_theta") or config.rope_theta


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    home = pathlib.Path(sys.argv[1])
    prompts = {dtype: json.loads((home / f"{dtype}.json").read_text()) for dtype in ("f32", "bf16")}
    results = [check(home / dtype, prompts[dtype], dtype) for dtype in prompts]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
