"""A GPT-2 in numpy and float64, its weights in Hugging Face's layout, and the logits that it gives: the oracle of
TestLogitsAgree. With --torch, PyTorch's float32 functions compute the same model, and the two must agree.

  python3 reference.py OUT.safetensors OUT.json [--torch] [--seed N] [--dtype F32|F16|BF16] [--prefix] [--masks] [--head]

The file has random weights in the form that the options ask for; the JSON has tokens and logits of every position.
testdata/reference.safetensors and .json were made with --torch alone. Without it, only numpy is needed."""

import argparse, json, struct
import numpy as np

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 37, 13, 2, 3, 12


def weights(seed):
    r = np.random.default_rng(seed)
    def normal(*shape, std=0.3, mean=0.0):
        return (mean + std * r.standard_normal(shape)).astype(np.float32)
    w = {"wte.weight": normal(VOCAB, WIDTH), "wpe.weight": normal(CONTEXT, WIDTH)}
    for i in range(LAYERS):
        h = f"h.{i}."
        for n in "ln_1", "ln_2":
            w[h + n + ".weight"], w[h + n + ".bias"] = normal(WIDTH, mean=1.0), normal(WIDTH)
        for n, a, b in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
            w[h + n + ".weight"], w[h + n + ".bias"] = normal(a * WIDTH, b * WIDTH), normal(b * WIDTH)
    w["ln_f.weight"], w["ln_f.bias"] = normal(WIDTH, mean=1.0), normal(WIDTH)
    return w


def encode(x, dtype):
    """The bytes of x as dtype, and the values that they stand for."""
    if dtype == "F32":
        return x.tobytes(), x
    if dtype == "F16":
        y = x.astype(np.float16)
        return y.tobytes(), y.astype(np.float32)
    u = x.view(np.uint32)
    u = (u + 0x7FFF + (u >> 16 & 1)) >> 16  # to nearest, ties to even
    return u.astype(np.uint16).tobytes(), (u << 16).astype(np.uint32).view(np.float32)


def store(path, w, dtype, prefix, masks, head):
    """Write w as Python's safetensors does (by name, no gaps), and give the values that the file stands for."""
    tensors, values = {}, {}
    for name, x in w.items():
        data, values[name] = encode(x, dtype)
        tensors[prefix + name] = dtype, x.shape, data
    if head:
        tensors["lm_head.weight"] = tensors[prefix + "wte.weight"]
    if masks:
        for i in range(LAYERS):
            mask = np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.uint8))
            tensors[f"{prefix}h.{i}.attn.bias"] = "U8", mask.shape, mask.tobytes()
            tensors[f"{prefix}h.{i}.attn.masked_bias"] = "F32", (), struct.pack("<f", -1e4)
    order = {"F32": 0, "BF16": 1, "F16": 1, "U8": 2}  # wide types first, so that all are aligned
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(tensors, key=lambda n: (order[tensors[n][0]], n)):
        kind, shape, b = tensors[name]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + len(b)]}
        data += b
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return values


def norm(x, g, b):
    m = x.mean(-1, keepdims=True)
    return (x - m) / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5) * g + b


def logits(w, tokens):
    w = {n: x.astype(np.float64) for n, x in w.items()}
    t = len(tokens)
    x = w["wte.weight"][tokens] + w["wpe.weight"][:t]
    for i in range(LAYERS):
        at = lambda n: (w[f"h.{i}.{n}.weight"], w[f"h.{i}.{n}.bias"])
        linear = lambda x, n: x @ at(n)[0] + at(n)[1]
        q, k, v = (z.reshape(t, HEADS, -1).swapaxes(0, 1) for z in np.split(linear(norm(x, *at("ln_1")), "attn.c_attn"), 3, -1))
        z = q @ k.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
        z = np.exp(np.where(np.tril(np.ones((t, t), bool)), z, -np.inf))
        x = x + linear((z / z.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(t, WIDTH), "attn.c_proj")
        f = linear(norm(x, *at("ln_2")), "mlp.c_fc")
        f = 0.5 * f * (1 + np.tanh(np.sqrt(2 / np.pi) * (f + 0.044715 * f**3)))
        x = x + linear(f, "mlp.c_proj")
    return norm(x, w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T


def torch_logits(w, tokens):
    """The same by PyTorch's functions in float32."""
    import torch
    import torch.nn.functional as F

    w = {n: torch.from_numpy(x) for n, x in w.items()}
    t = len(tokens)
    x = F.embedding(torch.tensor(tokens), w["wte.weight"]) + w["wpe.weight"][:t]
    for i in range(LAYERS):
        at = lambda n: (w[f"h.{i}.{n}.weight"], w[f"h.{i}.{n}.bias"])
        linear = lambda x, n: torch.addmm(at(n)[1], x, at(n)[0])
        q, k, v = (z.view(1, t, HEADS, -1).transpose(1, 2) for z in linear(F.layer_norm(x, (WIDTH,), *at("ln_1")), "attn.c_attn").split(WIDTH, 1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(t, WIDTH)
        x = x + linear(y, "attn.c_proj")
        x = x + linear(F.gelu(linear(F.layer_norm(x, (WIDTH,), *at("ln_2")), "mlp.c_fc"), approximate="tanh"), "mlp.c_proj")
    return (F.layer_norm(x, (WIDTH,), w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T).numpy()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file")
    p.add_argument("json")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--dtype", default="F32", choices=["F32", "F16", "BF16"])
    p.add_argument("--prefix", action="store_true", help="names begin with transformer.")
    p.add_argument("--masks", action="store_true", help="with the buffers that are no weights")
    p.add_argument("--head", action="store_true", help="with lm_head.weight, equal to wte.weight")
    p.add_argument("--torch", action="store_true", help="compare with PyTorch")
    a = p.parse_args()
    w = store(a.file, weights(a.seed), a.dtype, "transformer." if a.prefix else "", a.masks, a.head)
    tokens = [int(t) for t in np.random.default_rng(a.seed + 1).integers(0, VOCAB, CONTEXT)]
    want = logits(w, tokens)
    if a.torch and not np.allclose(want, peer := torch_logits(w, tokens), rtol=0, atol=1e-4):
        raise SystemExit(f"numpy and torch differ by {abs(want - peer).max()}")
    with open(a.json, "w") as f:
        json.dump({"vocab": VOCAB, "context": CONTEXT, "layers": LAYERS, "heads": HEADS, "width": WIDTH, "torch": a.torch,
                   "tokens": tokens, "logits": [[float(f"{v:.9g}") for v in row] for row in want]}, f)
        f.write("\n")


main()
