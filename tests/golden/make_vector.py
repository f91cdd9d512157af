r"""Make vqt_cosine.npz, vqt_simvq.npz and vqt_kmeans.npz from a peer.

The tests read only the ``.npz`` files. To make them again (Python 3.11)::

    python -m venv peers
    peers/bin/pip install torch==2.13.0 vector-quantize-pytorch==1.32.0 numpy
    peers/bin/python tests/golden/make_vector.py

- ``vqt_cosine``: training steps of VectorQuantize with use_cosine_sim and moving averages.
- ``vqt_simvq``: SimVQ, straight-through and with the rotation trick.
- ``vqt_kmeans``: its functions kmeans (from given means), rotate_to and orthogonal_loss_fn.

Float32 on a CPU, checked against a recomputation in plain NumPy and float64, which states the
peer's recipe: indices must be equal and all else close, or no file is written. Inputs are multiples
of 1/64, and every row is nearer to its code than to any other by ``MARGIN``. ``dz`` and
``dweight`` are gradients of ``sum(cos(quantized)) + loss``.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans, orthogonal_loss_fn, rotate_to

K, D, STEPS, ROWS = 6, 4, 4, 24
DECAY, EPSILON, BETA = 0.8, 1e-5, 0.25
TOLERANCE, MARGIN = 3e-6, 2e-3
COSINE = {
    "dim": D,
    "codebook_size": K,
    "use_cosine_sim": True,
    "decay": DECAY,
    "eps": EPSILON,
    "commitment_weight": BETA,
    "rotation_trick": False,
    "threshold_ema_dead_code": 0,
}


def grid(x):
    """x rounded to multiples of 1/64, in float32."""
    return (np.round(64 * np.asarray(x)) / 64).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def nearest(z, e):
    """The nearest codes, in float64; raises where two are nearly as near."""
    distance = np.square(z[:, None].astype(float) - e).sum(-1)
    if np.diff(np.sort(distance, -1)[:, :2]).min() < MARGIN:
        raise ValueError("two codes are nearly as near")
    return distance.argmin(-1)


def first_seed(attempt):
    """attempt(rng) of the first seed for which it does not raise a ValueError."""
    for seed in range(100_000):
        try:
            return attempt(np.random.default_rng(seed))
        except ValueError:
            continue
    raise ValueError("no seed")


def rotation(u, v):
    """|v| / |u| R, with R the rotation that turns u onto v."""
    a, b = unit(u.astype(float)), unit(v.astype(float))
    r = unit(a + b)
    turn = np.eye(len(u)) - 2 * np.outer(r, r) + 2 * np.outer(b, a)
    return np.linalg.norm(v) / np.linalg.norm(u) * turn


def save(name, inputs, got, want, options):
    """Compares what the peer gave with the recomputed arrays, and writes them."""
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, TOLERANCE, TOLERANCE, err_msg=key)
    kinds = {k: np.int32 if k.endswith("indices") else np.float32 for k in inputs | got}
    arrays = {k: np.asarray(v).astype(kinds[k]) for k, v in (inputs | got).items()}
    peers = ("vector-quantize-pytorch", "torch")
    arrays["peer"] = np.array([f"{each} {version(each)}" for each in peers])
    arrays["options"] = np.array(json.dumps(options))
    path = Path(__file__).with_name(f"{name}.npz")
    np.savez_compressed(path, **arrays)
    print(path.name, {k: v.shape for k, v in arrays.items()}, path.stat().st_size, "bytes")
    if missing := set(got) - set(want):
        raise ValueError(f"not recomputed: {missing}")


def cosine_reference(batches, codebook):
    """What each training step gives, and the state after it."""
    e, counts, sums = codebook.astype(float), np.ones(K), codebook.astype(float)
    for z in batches:
        u, length = unit(z.astype(float)), np.linalg.norm(z, axis=-1, keepdims=True)
        k = nearest(u, e)
        codes, hot = e[k], np.eye(K)[k]
        du = -np.sin(codes) + BETA * 2 * (u - codes) / z.size
        dz = (du - u * (u * du).sum(-1, keepdims=True)) / length
        loss = BETA * np.square(u - codes).mean()
        counts = DECAY * counts + (1 - DECAY) * hot.sum(0)
        sums = DECAY * sums + (1 - DECAY) * hot.T @ u
        smoothed = (counts + EPSILON) / (counts.sum() + K * EPSILON) * counts.sum()
        e = unit(sums / smoothed[:, None])
        yield k, codes, loss, dz, counts, sums, e


def cosine_peer(batches, codebook):
    module = VectorQuantize(**COSINE).train()
    book = module._codebook
    for each in (book.embed, book.embed_avg):
        each.data.copy_(torch.tensor(codebook)[None])
    for batch in batches:
        z = torch.tensor(batch)[None].requires_grad_()
        quantized, indices, loss = module(z)
        (quantized.cos().sum() + loss).backward()
        state = book.cluster_size[0], book.embed_avg[0], book.embed[0]
        row = indices[0], quantized[0], loss, z.grad[0], *state
        yield tuple(x.detach().numpy().copy() for x in row)


def cosine() -> None:
    def attempt(rng):
        batches = grid(rng.normal(size=(STEPS, ROWS, D)))
        codebook = unit(rng.normal(size=(K, D))).astype(np.float32)
        return batches, codebook, list(cosine_reference(batches, codebook))

    names = ("indices", "quantized", "loss", "dz", "counts", "sums", "codebook_after")
    batches, codebook, want = first_seed(attempt)

    def columns(rows):
        return dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))

    inputs = {"batches": batches, "codebook": codebook}
    save("vqt_cosine", inputs, columns(cosine_peer(batches, codebook)), columns(want), COSINE)


def simvq() -> None:
    def attempt(rng):
        z, frozen = grid(rng.normal(size=(ROWS, D))), grid(rng.normal(size=(K, D)))
        weight = grid(0.5 * rng.normal(size=(D, D)))
        return z, frozen, weight, nearest(z, frozen.astype(float) @ weight.T)

    z, frozen, weight, k = first_seed(attempt)
    codes = (frozen.astype(float) @ weight.T)[k]
    loss = (1 + BETA) * np.square(z - codes).mean()
    pull = 2 * BETA * (z - codes) / z.size
    turns = np.stack([rotation(*pair) for pair in zip(z, codes, strict=True)])
    dweight = 2 / z.size * (codes - z).T @ frozen[k].astype(float)
    want = {}
    for name, back in (("straight", np.eye(D)[None].repeat(ROWS, 0)), ("rotated", turns)):
        dz = np.einsum("nij,ni->nj", back, -np.sin(codes)) + pull
        each = {"indices": k, "quantized": codes, "loss": loss, "dz": dz, "dweight": dweight}
        want |= {f"{name}_{key}": value for key, value in each.items()}
    got, options = {}, {"dim": D, "codebook_size": K, "input_to_quantize_commit_loss_weight": BETA}
    for name in ("straight", "rotated"):
        module = SimVQ(rotation_trick=name == "rotated", **options)
        module.frozen_codebook.copy_(torch.tensor(frozen))
        module.code_transform.weight.data.copy_(torch.tensor(weight))
        x = torch.tensor(z)[None].requires_grad_()
        quantized, indices, value = module(x)
        (quantized.cos().sum() + value).backward()
        each = {"indices": indices[0], "quantized": quantized[0], "loss": value, "dz": x.grad[0]}
        each["dweight"] = module.code_transform.weight.grad
        got |= {f"{name}_{key}": x.detach().numpy() for key, x in each.items()}
    save("vqt_simvq", {"z": z, "frozen": frozen, "weight": weight}, got, want, options)


def lloyd(z, means):
    """One step; a mean without rows stays."""
    k = nearest(z, means)
    return np.stack([z[k == j].mean(0) if (k == j).any() else means[j] for j in range(len(means))])


def functions() -> None:
    def attempt(rng):
        z, means = grid(rng.normal(size=(ROWS, D))), grid(rng.normal(size=(K, D)))
        means[-1] = 9.0  # no row is near it
        steps = [means.astype(float)]
        for _ in range(5):
            steps.append(lloyd(z.astype(float), steps[-1]))
        return z, means, steps, *grid(rng.normal(size=(3, ROWS, D)))

    z, means, steps, src, tgt, dout = first_seed(attempt)
    got, want = {}, {"kmeans1": steps[1], "kmeans5": steps[5]}
    rows, start = torch.tensor(z)[None], torch.tensor(means)[None]
    for n in (1, 5):
        got[f"kmeans{n}"] = kmeans(rows, K, n, sample_fn=lambda *_: start)[0][0]
    x = torch.tensor(src).requires_grad_()
    rotated = rotate_to(x, torch.tensor(tgt))
    (rotated * torch.tensor(dout)).sum().backward()
    got |= {"rotated": rotated.detach().numpy(), "dsrc": x.grad.numpy()}
    turns = np.stack([rotation(*pair) for pair in zip(src, tgt, strict=True)])
    want |= {"rotated": tgt, "dsrc": np.einsum("nij,ni->nj", turns, dout)}
    e = torch.tensor(means).requires_grad_()
    loss = orthogonal_loss_fn(e[None])
    loss.backward()
    u = unit(means.astype(float))
    du = 4 / K**2 * (u @ u.T) @ u
    de = (du - u * (u * du).sum(-1, keepdims=True)) / np.linalg.norm(means, axis=-1, keepdims=True)
    got |= {"orthogonal": loss.detach().numpy(), "dmeans": e.grad.numpy()}
    want |= {"orthogonal": np.square(u @ u.T).sum() / K**2 - 1 / K, "dmeans": de}
    inputs = {"z": z, "means": means, "src": src, "tgt": tgt, "dout": dout}
    save("vqt_kmeans", inputs, got, want, {"num_iters": [1, 5]})


if __name__ == "__main__":
    for make in (cosine, simvq, functions):
        make()
