"""Matrix products by PyTorch on a CPU: the peer of `farandole bench gemm`. It needs torch only.

  python3 pytorch_gemm.py [-m 256] [-n 2304] [-k 768] [--threads 2] [--iters 60]

Weights are n×k, as in a linear layer. The products write into memory that is there already; the weight gradient adds to it. Figures are medians.
It prints one line of JSON."""

import argparse, json, os, statistics, time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("m", 256), ("n", 2304), ("k", 768)):
        p.add_argument("-" + name, type=int, default=value)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--iters", type=int, default=60)
    a = p.parse_args()
    if min(a.m, a.n, a.k, a.threads, a.iters) < 1:
        p.error("sizes, threads and iterations are at least 1")
    torch.set_num_threads(a.threads)
    x, w, dout = torch.randn(a.m, a.k), torch.randn(a.n, a.k), torch.randn(a.m, a.n)
    out, dx, dw = torch.empty(a.m, a.n), torch.empty(a.m, a.k), torch.zeros(a.n, a.k)
    products = {
        "forward": lambda: torch.mm(x, w.t(), out=out),
        "input": lambda: torch.mm(dout, w, out=dx),
        "weight": lambda: dw.addmm_(dout.t(), x),
    }
    gflops = {}
    for name, f in products.items():
        seconds = []
        for i in range(5 + a.iters):
            began = time.perf_counter()
            f()
            seconds.append(time.perf_counter() - began)
        gflops[name] = round(2e-9 * a.m * a.n * a.k / statistics.median(seconds[5:]), 1)
    print(json.dumps({"peer": "pytorch " + torch.__version__, "m": a.m, "n": a.n, "k": a.k, "threads": a.threads, "gflops": gflops}))


if __name__ == "__main__":
    main()
