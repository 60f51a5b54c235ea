"""python vllm_logprobs.py MODEL SEQUENCES.npz OUT.npz: log-probabilities of whole sequences by a fresh vLLM engine."""

import sys

import numpy as np
from vllm import LLM, SamplingParams


def main(model: str, sequences: str, out: str) -> None:
    engine = LLM(
        model,
        dtype="float32",
        max_model_len=64,
        enforce_eager=True,
        enable_chunked_prefill=False,
        logprobs_mode="raw_logprobs",
    )
    with np.load(sequences) as stored:
        prompts = [{"prompt_token_ids": sequence.tolist()} for sequence in stored.values()]
    answers = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    logprobs = []
    for prompt, answer in zip(prompts, answers, strict=True):
        following = zip(answer.prompt_logprobs[1:], prompt["prompt_token_ids"][1:], strict=True)
        logprobs.append(np.array([position[token].logprob for position, token in following], np.float32))
    np.savez(out, *logprobs)


if __name__ == "__main__":
    main(*sys.argv[1:])
