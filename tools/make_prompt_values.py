"""Makes crates/latent-models/tests/fixtures/prompts.json: weights and chunks of prompts from their published rules.

    python tools/make_prompt_values.py

Independent of the Rust code and of the programs whose rules it follows; needs numpy and transformers (its CLIPTokenizer
alone, on the vocabulary that the project carries).
Weights: AUTOMATIC1111 stable-diffusion-webui's emphasis "Original" (states times weights, then times the mean before over the
mean after, both over all texts that are encoded at once) and ComfyUI's (the difference to the states of the empty text, times
the weight), on random states.
Chunks: A1111's (75 tokens; a full chunk ends behind a comma that is at most 20 tokens old) and ComfyUI's (text of one weight
and fewer than 8 tokens is not cut). A prompt is given as runs of text with their weights, so that no grammar is needed here.
"""
import itertools
import json
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

MODELS = Path(__file__).parents[1] / "crates/latent-models"
TOKENIZER = CLIPTokenizer.from_pretrained(MODELS / "assets/sd1/tokenizer")
COMMA = TOKENIZER.convert_tokens_to_ids(",</w>")
ROOM = 75

COLOURS = "red green blue white black grey brown pink"
LONG = ", ".join(f"a {colour} fox in deep snow under old trees" for colour in COLOURS.split())
PROMPTS = [
    [("a photo of a fox", 1.0)],
    [(LONG, 1.0)],
    [(LONG.replace(",", ""), 1.0)],
    [("word " * 60, 1.0), (", at dawn", 1.0), (" and more of it" * 12, 1.25)],
    [("word " * 74, 1.0), (", ", 1.0), ("comma first in the next", 0.5)],
    [("word " * 75, 1.0), (",", 1.0), (" comma first in the next", 1.0)],
    [("one, " * 28, 1.0), ("(tail)" * 10, 1.5)],
    [("a", 1.0), "BREAK", ("b " * 80, 0.8), "BREAK", "BREAK", ("c", 1.0)],
    [("word " * 71, 1.0), ("five tokens of one weight", 1.3), (" rest", 1.0)],
    [("word " * 71, 1.0), ("nine tokens of one weight are cut right here", 1.3), (" rest", 1.0)],
    [("word " * 75, 1.0), ("seven tokens make no long text", 1.1), ("word " * 70, 0.9), (" end", 1.0)],
]


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def a1111_chunks(runs):
    chunks, chunk, comma = [], [], None
    for run in runs:
        if run == "BREAK":
            chunks.append(chunk)
            chunk, comma = [], None
            continue
        text, weight = run
        for token in ids_of(text):
            if token == COMMA:
                comma = len(chunk)
            elif len(chunk) == ROOM and comma is not None and len(chunk) - comma <= 20:
                chunks.append(chunk[: comma + 1])
                chunk, comma = chunk[comma + 1:], None
            if len(chunk) == ROOM:
                chunks.append(chunk)
                chunk, comma = [], None
            chunk.append((token, weight))
    return chunks + [chunk] if chunk or not chunks else chunks


def comfyui_chunks(runs):
    chunks = [[]]
    for text, weight in runs:
        group = [(token, weight) for token in ids_of(text)]
        if len(group) < 8 and len(chunks[-1]) + len(group) > ROOM:
            chunks.append([])
        while group:
            if len(chunks[-1]) == ROOM:
                chunks.append([])
            free = ROOM - len(chunks[-1])
            chunks[-1] += group[:free]
            group = group[free:]
    return chunks


def written(runs):
    """The prompt with its weights in brackets, whose text must hold none."""
    mark = {"(": "\\(", ")": "\\)"}
    texts = []
    for run in runs:
        if run == "BREAK":
            texts.append(" BREAK ")
            continue
        text, weight = run
        text = "".join(mark.get(letter, letter) for letter in text)
        texts.append(text if weight == 1.0 else f"({text}:{weight})")
    return "".join(texts)


def joined(runs):
    """A1111 joins neighbours of one weight before it looks for tokens."""
    found = []
    for run in runs:
        if found and run != "BREAK" and found[-1] != "BREAK" and found[-1][1] == run[1]:
            found[-1] = (found[-1][0] + run[0], run[1])
        else:
            found.append(run)
    return found


def chunk_cases():
    for runs in PROMPTS:
        yield {"prompt": written(runs), "grammar": "a1111", "chunks": a1111_chunks(joined(runs))}
        if "BREAK" not in runs:
            # Brackets cut a prompt into runs, so neighbours of weight 1 are one here too.
            yield {"prompt": written(runs), "grammar": "comfyui", "chunks": comfyui_chunks(joined(runs))}


def arithmetic():
    random = np.random.default_rng(11)
    tokens, channels = 5, 4
    states = random.standard_normal((3, tokens, channels)).astype(np.float32) + np.float32(0.25)
    empty = random.standard_normal((tokens, channels)).astype(np.float32)
    weights = np.array([[1, 1.3, 0.5, 1, 1], [1, 1, 1, 1, 1], [1, -0.4, 0, 2.5, 1]], np.float32)
    counts = [1, 3, 2]
    batch = np.repeat(np.arange(3), counts)
    multiplied = states * weights[..., None]
    restored = multiplied * (states[batch].mean(dtype=np.float64) / multiplied[batch].mean(dtype=np.float64))
    alone = multiplied * (states.mean((1, 2), dtype=np.float64) / multiplied.mean((1, 2), dtype=np.float64))[:, None, None]
    between = (states - empty) * weights[..., None] + empty
    flat = lambda values: [[float(f"{v:.8g}") for v in one.ravel()] for one in values]
    return {
        "tokens": tokens, "counts": counts, "weights": weights.tolist(), "states": flat(states), "empty": flat([empty])[0],
        "a1111": flat(restored), "a1111_alone": flat(alone), "comfyui": flat(between),
    }


def main():
    chunks = []
    for case in chunk_cases():
        chunks.append({
            "prompt": case["prompt"], "grammar": case["grammar"],
            "ids": [[token for token, _ in chunk] for chunk in case["chunks"]],
            "weights": [[[weight, len(list(same))] for weight, same in runs_of(chunk)] for chunk in case["chunks"]],
        })
    out = MODELS / "tests/fixtures/prompts.json"
    lines = ",\n".join(json.dumps(case) for case in chunks)
    out.write_text('{"arithmetic": ' + json.dumps(arithmetic()) + ',\n"chunks": [\n' + lines + "\n]}\n")


def runs_of(chunk):
    return itertools.groupby(weight for _, weight in chunk)


if __name__ == "__main__":
    main()
