r"""Make the golden arrays of this folder from two peer libraries.

The tests read only the ``.npz`` files. To make them again (Python 3.11)::

    python -m venv peers
    peers/bin/pip install torch==2.13.0 dm-haiku==0.0.17 jax==0.10.2 \
        vector-quantize-pytorch==1.32.0 numpy
    peers/bin/python tests/golden/make.py

Everything runs in float32 on a CPU. Each file is checked against a recomputation here, in plain
NumPy and float64 from the initial state on, which states the peer's recipe: indices must be equal
and all else close, or the file isn't written. Inputs are multiples of 1/64 (the files compress),
each nearer to its code than to any other by ``MARGIN`` (no rounding flips an index).

In every file ``peer`` and ``options`` (JSON) say what made it. Codebooks are [K, D] unless the
name ends in ``_dk``. Names starting with ``dz`` and ``dcodebook`` are gradients of
``sum(cos(quantized)) + loss``; ``_beta0`` is for ``betas[0]``, ``_beta1`` for ``betas[1]``.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

K, D, STEPS, BATCH = 16, 6, 20, 128
DECAY, EPSILON, BETAS = 0.9, 1e-5, (0.25, 3.0)
TOLERANCE, MARGIN = 2e-6, 1e-2
HAIKU = {"embedding_dim": D, "num_embeddings": K}
VQT = {"dim": D, "codebook_size": K, "rotation_trick": False, "threshold_ema_dead_code": 0}
PEERS = {"haiku": ["dm-haiku", "jax"], "vqt": ["vector-quantize-pytorch", "torch"]}
Arrays = dict[str, Any]


def grid(x):
    """``x`` rounded to multiples of 1/64, in float32."""
    return (np.round(64 * np.asarray(x)) / 64).astype(np.float32)


def clusters(seed: int, to_origin: bool) -> tuple[np.ndarray, np.ndarray]:
    """Batches [STEPS + 1, BATCH, D] around K drifting centres, and a codebook [K, D] near them."""
    # With to_origin the last code starts far from all data, and the first centre walks to 0.
    rng = np.random.default_rng(seed)
    start, drift = 1.4 * rng.normal(size=(K, D)), 0.04 * rng.normal(size=(K, D))
    batches = []
    for t in range(STEPS + 1):
        centres = start + t * drift
        centres[0] *= max(0.0, 1 - t / 8) if to_origin else 1
        which = rng.permutation(np.arange(BATCH) % K)
        batches.append(centres[which] + 0.35 * rng.normal(size=(BATCH, D)))
    codebook = start + 0.3 * rng.normal(size=(K, D))
    codebook[-1] = 8.0 if to_origin else codebook[-1]
    return grid(batches), grid(codebook)


def nearest(z, codebook):
    """Indices of the nearest codes, in float64; raises where two are nearly as near."""
    distance = np.square(z[..., None, :].astype(float) - codebook).sum(-1)
    margin = np.diff(np.sort(distance, -1)[..., :2]).min()
    if margin < MARGIN:
        raise ValueError(f"margin {margin:.1e}: choose another seed")
    return distance.argmin(-1)


def perplexity(indices):
    """exp of the entropy of this batch's usage, with Haiku's 1e-10 inside the logarithm."""
    p = np.bincount(indices.ravel(), minlength=K) / indices.size
    return np.exp(-np.sum(p * np.log(p + 1e-10)))


def sums(z, indices):
    """Hits per code [K] and sums of the inputs per code [K, D]."""
    one_hot = np.eye(K)[indices.ravel()]
    return one_hot.sum(0), one_hot.T @ z.reshape(-1, D)


def vq_reference(z, codebook, i, codebook_weight, commitment_weight):
    """Straight-through quantization of one batch: the loss and both gradients, for ``betas[i]``."""
    indices = nearest(z, codebook)
    codes, (count, total) = codebook.astype(float)[indices], sums(z, indices)
    pull = codebook_weight * 2 / z.size * (count[:, None] * codebook - total)
    push = commitment_weight * 2 / z.size * (z - codes)
    loss = (codebook_weight + commitment_weight) * np.square(z - codes).mean()
    out = {"indices": indices, "quantized": codes, f"loss_beta{i}": loss}
    return out | {f"dz_beta{i}": -np.sin(codes) + push, f"dcodebook_beta{i}": pull}


def ema_reference(batches, codebook, count, total, debias: bool):
    """Per step: indices and codes (before the update), averages, debiased ones, new codebook."""
    code = codebook.astype(float)
    for t, z in enumerate(batches, 1):
        indices = nearest(z, code)
        codes, (n, s) = code[indices], sums(z, indices)
        count, total = DECAY * count + (1 - DECAY) * n, DECAY * total + (1 - DECAY) * s
        divisor = 1 - DECAY**t if debias else 1.0
        average, norm = count / divisor, count.sum() / divisor
        smoothed = (average + EPSILON) / (norm + K * EPSILON) * norm
        code = total / divisor / smoothed[:, None]
        yield indices, codes, count, total, average, total / divisor, code


def columns(names, rows) -> Arrays:
    """The rows' columns, stacked over the steps."""
    return {k: np.stack(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}


def finish(name: str, got: Arrays, want: Arrays, options: dict) -> None:
    """Compare a file's arrays with the recomputed ones, and write it."""
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, TOLERANCE, TOLERANCE, err_msg=key)
        off = np.abs(value - got[key]).max()
        print(f"{name:10} {key:24} {np.shape(value)!s:16} {off:.1e} off at most")
    kinds = {k: np.int32 if k.endswith(("indices", "steps")) else np.float32 for k in got}
    arrays: Arrays = {k: np.asarray(v, kinds[k]) for k, v in got.items()}
    arrays["peer"] = np.array([f"{each} {version(each)}" for each in PEERS[name.split("_")[0]]])
    arrays["options"] = np.array(json.dumps(options))
    path = Path(__file__).with_name(f"{name}.npz")
    np.savez_compressed(path, **arrays)
    print(f"{name:10} inputs: {sorted(set(got) - set(want))}; {path.stat().st_size} bytes\n")


def haiku_vq() -> None:
    import haiku as hk
    import jax
    import jax.numpy as jnp

    def objective(params, z, beta):
        module = hk.transform(lambda z: hk.nets.VectorQuantizer(D, K, beta)(z, True))
        out = module.apply(params, None, z)
        return jnp.sum(jnp.cos(out["quantize"])) + out["loss"], out

    rng = np.random.default_rng(0)
    codebook = grid(0.4 * rng.normal(size=(K, D)))
    z = grid(codebook[rng.permutation(20) % K] + 0.15 * rng.normal(size=(20, D))).reshape(4, 5, D)
    got: Arrays = {"z": z, "codebook": codebook, "codebook_dk": codebook.T, "betas": BETAS}
    want: Arrays = {}
    params = {"vector_quantizer": {"embeddings": jnp.asarray(codebook.T)}}
    for i, beta in enumerate(BETAS):
        (dparams, dz), out = jax.grad(objective, (0, 1), has_aux=True)(params, z, beta)
        got |= {"indices": out["encoding_indices"], "quantized": out["quantize"]}
        got |= {"perplexity": out["perplexity"], f"loss_beta{i}": out["loss"], f"dz_beta{i}": dz}
        got[f"dcodebook_beta{i}"] = dparams["vector_quantizer"]["embeddings"].T
        # Loss: the mean squared error over all N * D entries, twice; beta weighs commitment only.
        want |= vq_reference(z, codebook, i, 1.0, beta)
        want["perplexity"] = perplexity(want["indices"])
    finish("haiku_vq", got, want, HAIKU | {"commitment_cost": BETAS})


def haiku_ema() -> None:
    import haiku as hk
    import jax

    options = HAIKU | {"commitment_cost": 0.25, "decay": DECAY, "epsilon": EPSILON}
    module = hk.transform_with_state(lambda *x: hk.nets.VectorQuantizerEMA(**options)(*x))
    top = "vector_quantizer_ema"
    batches, codebook = clusters(2, to_origin=True)
    _, state = module.init(jax.random.PRNGKey(0), batches[0], True)
    state[top]["embeddings"] = codebook.T
    emas = [(e, part) for part in ("hidden", "average") for e in ("ema_cluster_size", "ema_dw")]
    hidden = ["_".join(ema) for ema in emas]
    names, rows = ("indices", "loss", "perplexity", *hidden, "codebook_after"), []
    for t, z in enumerate(batches):  # the last one in evaluation
        out, state = module.apply({}, state, None, z, t < STEPS)
        ema = (state[f"{top}/~/{e}"][part].T for e, part in emas)
        row = out["encoding_indices"], out["loss"], out["perplexity"], *ema
        rows.append((*row, state[top]["embeddings"].T))
    got = columns(names, rows) | {"eval_quantized": out["quantize"]}
    rows, reference = [], ema_reference(batches, codebook, 0.0, 0.0, debias=True)
    for z, (indices, codes, *rest) in zip(batches, reference, strict=True):
        rows.append((indices, 0.25 * np.square(codes - z).mean(), perplexity(indices), *rest))
    want = columns(names, rows) | {"eval_quantized": codes}
    for each in (got, want):
        each |= {f"eval_{name}": each[name][-1] for name in names[:3]}
        each |= {name: each[name][:-1] for name in names}
        each |= {name: each[name][[0, 1, -1]] for name in hidden}
    got |= {"batches": batches[:-1], "eval_z": batches[-1]}
    got |= {"codebook": codebook, "ema_steps": (1, 2, STEPS)}
    first = (want["indices"] == K - 1).any(1).tolist().index(True)
    if first < 3 or got["codebook_after"][:first, K - 1].any():
        raise ValueError("the last code must be exactly 0 until it is hit, for 3 steps or more")
    print(f"haiku_ema  code {K - 1} is exactly 0 after steps 1 to {first}, and first hit after")
    finish("haiku_ema", got, want, options)


def vqt_steps(codebook, batches, **options):
    """Per training forward and backward: indices, loss, quantized, dz, and the state after it."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(**options).train()
    book = module._codebook
    for each in (book.embed, book.embed_avg):
        each.data.copy_(torch.tensor(codebook)[None])
    rows = [(book.cluster_size[0].numpy().copy(), book.embed_avg[0].numpy().copy())]
    for batch in batches:
        z = torch.tensor(batch).requires_grad_()
        quantized, indices, loss = module(z)
        (quantized.cos().sum() + loss).backward()
        row = indices, loss, quantized, z.grad, book.cluster_size[0], book.embed_avg[0]
        last = book.embed[0] if book.embed.grad is None else book.embed.grad[0]
        rows.append(tuple(x.detach().numpy().copy() for x in (*row, last)))
    return rows


def vqt_vq() -> None:
    options = VQT | {"learnable_codebook": True, "ema_update": False}
    batches, codebook = clusters(4, to_origin=False)
    z = batches[:1, :32]
    got: Arrays = {"z": z, "codebook": codebook, "betas": BETAS}
    want: Arrays = {}
    for i, beta in enumerate(BETAS):
        row = vqt_steps(codebook, z[None], **options, commitment_weight=beta)[1]
        got |= {"indices": row[0], f"loss_beta{i}": row[1], "quantized": row[2]}
        got |= {f"dz_beta{i}": row[3], f"dcodebook_beta{i}": row[6]}
        # Loss: beta times one mean squared error with no stop_gradient: gradients as of two terms.
        want |= vq_reference(z, codebook, i, beta, beta)
        want[f"loss_beta{i}"] /= 2
    finish("vqt_vq", got, want, options | {"commitment_weight": BETAS})


def vqt_ema() -> None:
    options = VQT | {"decay": DECAY, "eps": EPSILON}
    batches, codebook = clusters(3, to_origin=False)
    batches = batches[:STEPS, None]
    states = ("cluster_size_after", "embed_avg_after", "codebook_after")
    names = ("indices", "loss_beta0", "quantized", "dz_beta0", *states)
    (count, total), *rows = vqt_steps(codebook, batches, **options, commitment_weight=BETAS[0])
    other = vqt_steps(codebook, batches[:1], **options, commitment_weight=BETAS[1])[1]
    got = columns(names, rows) | {"cluster_size": count, "embed_avg": total}
    got |= {"loss_beta1_first": other[1], "dz_beta1_first": other[3]}
    got |= {"batches": batches, "codebook": codebook, "betas": BETAS}
    rows, reference = [], ema_reference(batches, codebook, 1.0, codebook, debias=False)
    for z, (indices, codes, count, total, _, _, code) in zip(batches, reference, strict=True):
        loss, dz = BETAS[0] * np.square(codes - z).mean(), BETAS[0] * 2 * (z - codes) / z.size
        rows.append((indices, loss, codes, -np.sin(codes) + dz, count, total, code))
    want = columns(names, rows) | {"cluster_size": np.ones(K), "embed_avg": codebook}
    first = vq_reference(batches[0], codebook, 1, 0.0, BETAS[1])
    want |= {f"{name}_first": first[name] for name in ("loss_beta1", "dz_beta1")}
    for each in (got, want):  # of the two large ones only these steps
        each |= {"quantized_last": each["quantized"][-1], "dz_beta0_first": each.pop("dz_beta0")[0]}
        each["quantized_first"] = each.pop("quantized")[0]
    print("vqt_ema    hit per batch:", *(np.unique(each).size for each in want["indices"]))
    finish("vqt_ema", got, want, options | {"commitment_weight": BETAS})


if __name__ == "__main__":
    for make in (haiku_vq, haiku_ema, vqt_vq, vqt_ema):
        make()
