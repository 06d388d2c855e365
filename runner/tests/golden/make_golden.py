"""Makes the golden checkpoints of runner/tests/golden.rs: small random Llama models with the logits that
Hugging Face transformers computes for them in f32.

Needs torch, transformers, safetensors. Regenerate with

    python runner/tests/golden/make_golden.py

Each directory holds config.json, generation_config.json, model.safetensors and
  golden.json           prompt, positions and the library versions
  logits.safetensors    "logits" [tokens, vocab_size] f32
"""

import json
import pathlib

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent

COMMON = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    rms_norm_eps=1e-5,
    max_position_embeddings=2048,
    bos_token_id=1,
    attention_bias=False,
    mlp_bias=False,
)

LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

# name, configuration, prompt length, first position, whether config.json has rope_theta and rope_scaling (as written before
# transformers 5) rather than rope_parameters
CASES = [
    (
        "mha_d16_tied",
        dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16, tie_word_embeddings=True, eos_token_id=2),
        37,
        0,
        False,
    ),
    (
        "gqa2_d32_bias_linear",
        dict(
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            attention_bias=True,
            mlp_bias=True,
            eos_token_id=[2, 5],
            rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0),
        ),
        131,
        0,
        True,
    ),
    (
        "gqa4_d64_llama3",
        dict(
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=64,
            num_hidden_layers=1,
            tie_word_embeddings=True,
            eos_token_id=2,
            rope_parameters=dict(LLAMA3, rope_theta=500000.0),
        ),
        67,
        301,
        False,
    ),
    (
        "mha_d128_llama3",
        dict(
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=128,
            num_hidden_layers=1,
            eos_token_id=2,
            rope_parameters=dict(LLAMA3, rope_theta=500000.0),
        ),
        203,
        0,
        True,
    ),
]


def old_style(config: dict) -> dict:
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def main() -> None:
    for seed, (name, options, length, first_position, old) in enumerate(CASES):
        torch.manual_seed(seed)
        out = HERE / name
        model = LlamaForCausalLM(LlamaConfig(**{**COMMON, **options})).float()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                # Large enough that attention is peaked and every term shows in the logits.
                if parameter.dim() == 1:
                    centre = 1.0 if "norm" in key else 0.0
                    parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
                else:
                    parameter.copy_(1.2 * torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
        model.save_pretrained(out)
        if old:
            path = out / "config.json"
            path.write_text(json.dumps(old_style(json.loads(path.read_text())), indent=2) + "\n")

        model = LlamaForCausalLM.from_pretrained(out, attn_implementation="eager", dtype=torch.float32)
        tokens = torch.randint(0, COMMON["vocab_size"], (length,))
        positions = torch.arange(first_position, first_position + length)
        with torch.no_grad():
            logits = model(input_ids=tokens[None], position_ids=positions[None]).logits[0]
        safetensors.torch.save_file({"logits": logits.contiguous()}, out / "logits.safetensors")
        golden = dict(
            seed=seed,
            tokens=tokens.tolist(),
            position_ids=positions.tolist(),
            torch=torch.__version__,
            transformers=transformers.__version__,
            safetensors=safetensors.__version__,
        )
        (out / "golden.json").write_text(json.dumps(golden) + "\n")
        print(name, sum(f.stat().st_size for f in out.iterdir()), "bytes, logits up to", logits.abs().max().item())


if __name__ == "__main__":
    main()
