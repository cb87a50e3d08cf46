"""Training steps of GPT-2 124M by PyTorch: the peer of `farandole bench step`. It needs torch only.

  python3 pytorch_step.py [--device cpu|cuda] [--compile] [--batch 4] [--seq 64] [--threads 2] [--precision f32|bf16] [--steps 3]

The model is PyTorch's own functions as a user would put them together: fused attention, cross-entropy over all
logits, fused AdamW, a clipped gradient, bf16 by autocast; with --compile model and loss pass through torch.compile. A step is zero_grad,
forward, backward, clip, update, and ends with the loss on the host. float32 is not rounded to TF32. It prints one line of JSON.
PyTorch 1 lacks some of it, and gets the nearest that it has."""

import argparse, json, os, time

# Threads that wait should not spin: without this a step takes longer where other processes run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 50257, 1024, 12, 12, 768


def attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    t = q.shape[-2]  # PyTorch 1 has no fused one
    later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(later, float("-inf"))
    return F.softmax(weights, -1) @ v


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc, self.out = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (z.view(b, t, HEADS, -1).transpose(1, 2) for z in self.qkv(self.ln1(x)).split(WIDTH, 2))
        y = attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.lnf = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        logits = F.linear(self.lnf(self.blocks(x)), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--seq", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    p.add_argument("--steps", type=int, default=3)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = GPT2().to(a.device)
    losses = torch.compile(model) if a.compile else model
    # PyTorch 1 has an update for each tensor or, faster, for lists of them.
    fused = {"fused": True} if int(torch.__version__.split(".")[0]) > 1 else {"foreach": True}
    optim = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, **fused)
    tokens = torch.randint(VOCAB, (a.batch, a.seq), device=a.device)
    targets = torch.randint(VOCAB, (a.batch, a.seq), device=a.device)
    ms = []
    warmup = 3 if a.device == "cuda" else 1  # in the first, memory is allocated and code compiled
    for _ in range(warmup + a.steps):
        began = time.perf_counter()
        optim.zero_grad(set_to_none=True)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.precision == "bf16"):
            loss = losses(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        loss.item()
        ms.append(1000 * (time.perf_counter() - began))
    ms = sorted(ms[warmup:])
    median = ms[len(ms) // 2]
    print(json.dumps({"peer": f"pytorch {torch.__version__}", "device": a.device, "compiled": a.compile, "batch": a.batch, "seq": a.seq, "threads": a.threads, "precision": a.precision,
                      "ms_per_step": round(median, 1), "tokens_per_second": round(1000 * a.batch * a.seq / median, 1)}))


main()
