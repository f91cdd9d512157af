r"""Make vqt_residual.npz from the peer's ResidualVQ: training steps, then one batch in evaluation.

The tests read only the ``.npz`` file. To make it again (Python 3.11)::

    python -m venv peers
    peers/bin/pip install torch==2.13.0 vector-quantize-pytorch==1.32.0 numpy
    peers/bin/python tests/golden/make_residual.py

Float32 on a CPU, checked against a recomputation in plain NumPy and float64, which states the
peer's recipe: indices must be equal and all else close, or the file isn't written. Inputs are
multiples of 1/64, every row is nearer to its code than to any other by ``MARGIN`` in every stage,
and every code is used in every step (the peer moves an unused one a little).

``dz`` is the gradient of ``sum(cos(quantized)) + sum(losses)``. The peer adds up the stages'
straight-through outputs without one for the sum: the gradient of the task arrives n times.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import ResidualVQ

STAGES, K, D, STEPS, ROWS = 3, 6, 4, 4, 48
DECAY, EPSILON, BETA = 0.8, 1e-5, 0.25
OPTIONS = {
    "dim": D,
    "num_quantizers": STAGES,
    "codebook_size": K,
    "decay": DECAY,
    "eps": EPSILON,
    "commitment_weight": BETA,
    "kmeans_init": False,
    "rotation_trick": False,
    "threshold_ema_dead_code": 0,
    "shared_codebook": False,
}
TOLERANCE, MARGIN = 3e-6, 1e-4


def grid(x):
    """x rounded to multiples of 1/64, in float32."""
    return (np.round(64 * np.asarray(x)) / 64).astype(np.float32)


def inputs(seed: int):
    """Batches [STEPS + 1, ROWS, D], and codebooks [STAGES, K, D] of falling scale."""
    rng = np.random.default_rng(seed)
    scale = np.array([1.2, 0.7, 0.4])[:, None, None]
    return grid(rng.normal(size=(STEPS + 1, ROWS, D))), grid(
        scale * rng.normal(size=(STAGES, K, D))
    )


def chain(z, codebooks):
    """The residuals [STAGES, N, D] and indices [N, STAGES] of one batch; the sum of the codes."""
    r, rests, indices = z.astype(float), [], []
    for e in codebooks:
        distance = np.square(r[:, None] - e).sum(-1)
        if np.diff(np.sort(distance, -1)[:, :2]).min() < MARGIN:
            raise ValueError("two codes are nearly as near")
        rests.append(r)
        indices.append(distance.argmin(-1))
        r = r - e[indices[-1]]
    return np.stack(rests), np.stack(indices, -1), z - r


def reference(batches, codebooks):
    """What each training step gives, and the state after it."""
    e, counts, sums = codebooks.astype(float), np.ones((STAGES, K)), codebooks.astype(float)
    for z in batches:
        rests, indices, quantized = chain(z, e)
        errors = [rests[i] - e[i][indices[:, i]] for i in range(STAGES)]
        dz = -STAGES * np.sin(quantized) + sum(2 * BETA * error / z.size for error in errors)
        hot = np.stack([np.eye(K)[indices[:, i]] for i in range(STAGES)])
        if (hot.sum(1) == 0).any():
            raise ValueError("a code is not used")
        counts = DECAY * counts + (1 - DECAY) * hot.sum(1)
        sums = DECAY * sums + (1 - DECAY) * np.einsum("qnk,qnd->qkd", hot, rests)
        total = counts.sum(-1, keepdims=True)
        e = sums / ((counts + EPSILON) / (total + K * EPSILON) * total)[..., None]
        losses = [BETA * np.square(error).mean() for error in errors]
        yield indices, quantized, losses, dz, counts, sums, e


def peer(batches, codebooks):
    """The same of the peer, then its evaluation of the last batch."""
    module = ResidualVQ(**OPTIONS).train()
    for layer, codebook in zip(module.layers, codebooks, strict=True):
        for each in (layer._codebook.embed, layer._codebook.embed_avg):
            each.data.copy_(torch.tensor(codebook)[None])
    rows = []
    for batch in batches[:-1]:
        z = torch.tensor(batch)[None].requires_grad_()
        quantized, indices, losses = module(z)
        (quantized.cos().sum() + losses.sum()).backward()
        names = "cluster_size", "embed_avg", "embed"
        state = [torch.cat([getattr(q._codebook, name) for q in module.layers]) for name in names]
        row = indices[0], quantized[0], losses.flatten(), z.grad[0], *state
        rows.append([x.detach().numpy().copy() for x in row])
    quantized, indices, _ = module.eval()(torch.tensor(batches[-1])[None])
    return rows, quantized[0].detach().numpy(), indices[0].numpy()


def find_inputs():
    """The first seed whose rows are all far from ties, with every code used."""
    for seed in range(100_000):
        batches, codebooks = inputs(seed)
        try:
            rows = list(reference(batches[:-1], codebooks))
            return batches, codebooks, rows, chain(batches[-1], rows[-1][-1])
        except ValueError:
            continue
    raise ValueError("no seed")


def main() -> None:
    batches, codebooks, want, (_, indices, quantized) = find_inputs()
    rows, eval_quantized, eval_indices = peer(batches, codebooks)
    names = ("indices", "quantized", "losses", "dz", "counts", "sums", "codebooks_after")
    arrays = {"batches": batches, "codebooks": codebooks}
    pairs = [(eval_indices, indices), (eval_quantized, quantized)]
    arrays |= {"eval_indices": eval_indices.astype(np.int32), "eval_quantized": eval_quantized}
    columns = zip(*rows, strict=True), zip(*want, strict=True)
    for name, got, expected in zip(names, *columns, strict=True):
        kind = np.int32 if name == "indices" else np.float32
        arrays[name] = np.stack(got).astype(kind)
        pairs.append((arrays[name], np.stack(expected)))
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, TOLERANCE, TOLERANCE)
    peers = ("vector-quantize-pytorch", "torch")
    arrays["peer"] = np.array([f"{name} {version(name)}" for name in peers])
    arrays["options"] = np.array(json.dumps(OPTIONS))
    path = Path(__file__).with_name("vqt_residual.npz")
    np.savez_compressed(path, **arrays)
    print(path.name, {k: v.shape for k, v in arrays.items()}, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
