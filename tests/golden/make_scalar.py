r"""Make the golden arrays of the scalar and binary quantizers from vector-quantize-pytorch.

As ``make.py``, whose environment it needs::

    peers/bin/python tests/golden/make_scalar.py

Each file is checked against a recomputation in NumPy and float64 first. Inputs are multiples of
1/64, moved until none is near a threshold between two codes. Names starting with ``dz`` are
gradients of ``sum(cos(quantized)) + loss`` in training.

Where the peer differs from the papers, the arrays are those that it shares with them:

- ``vqt_fsq``: its tanh bound has 1 + eps and arctanh where the paper's listing has 1 - eps and tan:
  codes and indices are equal but for z next to a threshold, the gradients differ by 0.2 %.
- ``vqt_lfq``: its first bit is the most significant one.
- ``vqt_latent``: its values receive no gradient, and its indices and decoder are those of the
  initial values: so these are the initial ones, and of the loss only the number is compared.
"""

import numpy as np
from make import Arrays, finish, grid

LEVELS = {"fsq": [8, 5, 6, 3], "symmetric": [4, 3, 2, 5], "fsp": [4, 5, 3, 8]}
ROWS, BITS, WEIGHTS = 24, 4, {"entropy": 0.3, "gamma": 0.7, "beta": 0.25}
INVERSE_TEMPERATURES = {"lfq": 1.0, "bsq": 2.0}
LATENT, LATENT_WEIGHTS = [5, 3, 7], {"quantization": 0.2, "commitment": 0.7}


def inputs(seed: int, shape: tuple, scale: float, place=None) -> np.ndarray:
    """Multiples of 1/64; where ``place(z)`` is within 0.03 of a half-integer z is drawn again."""
    rng = np.random.default_rng(seed)
    z = grid(scale * rng.normal(size=shape))
    while place is not None and (near := np.abs(place(z) % 1 - 0.5) < 0.03).any():
        z = np.where(near, grid(scale * rng.normal(size=shape)), z)
    return z


def basis(levels) -> np.ndarray:
    return np.cumprod([1, *levels[:-1]])


def run(module, z, *args, **kwargs):
    """The outputs of a training step, and the gradient for z."""
    import torch

    z = torch.tensor(z[None]).requires_grad_()
    quantized, indices, *rest = module.train()(z, *args, **kwargs)
    loss = rest[0] if rest else 0.0
    (quantized.cos().sum() + loss).backward()
    numbers = (quantized, indices, torch.as_tensor(loss), z.grad)
    return tuple(x.detach().numpy()[0] if x.ndim else x.detach().numpy() for x in numbers)


def tanh_bound(z, levels):
    """The paper's listing, without rounding: digits around 0."""
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    return np.tanh(z + np.tan(offset / half)) * half - offset


def fsq() -> None:
    from vector_quantize_pytorch import FSP, FSQ

    got: Arrays = {f"levels_{name}": levels for name, levels in LEVELS.items()}
    want: Arrays = {}
    levels = np.array(LEVELS["fsq"])
    z = inputs(0, (ROWS, len(levels)), 1.5, lambda z: tanh_bound(z, levels))
    quantized, indices, _, _ = run(FSQ(LEVELS["fsq"]), z)
    got |= {"z_fsq": z, "quantized_fsq": quantized, "indices_fsq": indices}
    digits, half = np.round(tanh_bound(z, levels)), levels // 2
    want |= {"quantized_fsq": digits / half, "indices_fsq": (digits + half) @ basis(levels)}

    levels = np.array(LEVELS["symmetric"])
    z = inputs(1, (ROWS, len(levels)), 1.0, lambda z: (levels - 1) * (np.tanh(z) + 1) / 2)
    peer = FSQ(LEVELS["symmetric"], preserve_symmetry=True)
    quantized, indices, _, dz = run(peer, z)
    got |= {"z_symmetric": z, "quantized_symmetric": quantized, "indices_symmetric": indices}
    got["dz_symmetric"] = dz
    digits = np.floor((levels - 1) * (np.tanh(z) + 1) / 2 + 0.5)
    codes = 2 * digits / (levels - 1) - 1
    want |= {"quantized_symmetric": codes, "indices_symmetric": digits @ basis(levels)}
    want["dz_symmetric"] = -np.sin(codes) * (1 - np.tanh(z) ** 2)

    levels = np.array(LEVELS["fsp"])
    z = inputs(2, (ROWS, len(levels)), 1.0, lambda z: levels * (np.tanh(z) + 1) / 2 - 0.5)
    peer = FSP(LEVELS["fsp"], act_name="tanh", quantize_rate=1.0, vector_norm="none")
    quantized, indices, _, dz = run(peer, z)
    got |= {"z_fsp": z, "quantized_fsp": quantized, "indices_fsp": indices, "dz_fsp": dz}
    digits = np.floor(levels * (np.tanh(z) + 1) / 2)
    codes = ((digits + 0.5) / levels - 0.5) * 12**0.5
    want |= {"quantized_fsp": codes, "indices_fsp": digits @ basis(levels)}
    want["dz_fsp"] = -np.sin(codes) * (1 - np.tanh(z) ** 2) / 2 * 12**0.5
    finish("vqt_fsq", got, want, LEVELS)


def joint(y, codes, inv_temperature):
    """softmax over codes of -|y - c|^2 times the inverse temperature, in float64."""
    scores = -inv_temperature * np.square(y[:, None, :] - codes).sum(-1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def lfq() -> None:
    from vector_quantize_pytorch import LFQ

    got: Arrays = {"bits": BITS, **WEIGHTS}
    want: Arrays = {}
    place = np.arange(2**BITS)[:, None] >> np.arange(BITS - 1, -1, -1) & 1  # first bit: 2^(D - 1)
    for name, scale in (("lfq", 0.3), ("bsq", 1.0)):
        z = inputs(3, (ROWS, BITS), scale)
        z[z == 0] = 1 / 64
        peer = LFQ(
            codebook_size=2**BITS,
            dim=BITS,
            entropy_loss_weight=WEIGHTS["entropy"],
            diversity_gamma=WEIGHTS["gamma"],
            commitment_loss_weight=WEIGHTS["beta"],
            spherical=name == "bsq",
        )
        tau = INVERSE_TEMPERATURES[name]
        quantized, indices, loss, dz = run(peer, z, inv_temperature=tau)
        got |= {f"z_{name}": z, f"quantized_{name}": quantized, f"indices_{name}": indices}
        got |= {f"loss_{name}": loss, f"dz_{name}": dz, f"tau_{name}": tau}
        y, codes = z.astype(float), 2.0 * place - 1
        if name == "bsq":
            y, codes = y / np.linalg.norm(y, axis=-1, keepdims=True), codes / BITS**0.5
        k = (y > 0) @ (2 ** np.arange(BITS - 1, -1, -1))
        p = joint(y, codes, tau)
        if p.min() < 1e-5:
            raise ValueError(f"{name}: the peer has log(max(p, 1e-5)), and p is {p.min():.1e}")
        terms = entropy(p).mean() - WEIGHTS["gamma"] * entropy(p.mean(0))
        commitment = np.square(y - codes[k]).mean()
        want |= {f"indices_{name}": k, f"quantized_{name}": codes[k]}
        want[f"loss_{name}"] = WEIGHTS["entropy"] * terms + WEIGHTS["beta"] * commitment
    finish("vqt_lfq", got, want, WEIGHTS | {"bits": BITS})


def latent() -> None:
    import torch
    from vector_quantize_pytorch import LatentQuantize

    d = len(LATENT)
    z = inputs(4, (ROWS, d), 0.4, lambda z: (z + 0.5) * (np.array(LATENT) - 1))
    peer = LatentQuantize(
        LATENT,
        dim=d,
        quantization_loss_weight=LATENT_WEIGHTS["quantization"],
        commitment_loss_weight=LATENT_WEIGHTS["commitment"],
    ).train()
    x = torch.tensor(z.T[None].copy()).requires_grad_()  # channels first
    quantized, indices, loss = peer(x)
    loss.backward()
    if any(v.grad is not None and v.grad.any() for v in peer.values_per_latent):
        raise ValueError("the peer's values received a gradient: compare it")
    got: Arrays = {"z": z, "levels": LATENT, "quantized": quantized.detach().numpy()[0].T}
    got |= {"indices": indices.numpy()[0], "loss": loss.detach().numpy(), **LATENT_WEIGHTS}
    top = np.array(LATENT) - 1
    digits = np.clip(np.round((z + 0.5) * top), 0, top)
    codes = digits / top - 0.5
    want: Arrays = {"quantized": codes, "indices": digits @ basis(LATENT)}
    want["loss"] = sum(LATENT_WEIGHTS.values()) * np.square(z - codes).mean()
    with torch.no_grad():  # what its decoder makes of values that have been moved
        for values in peer.values_per_latent:
            values.mul_(1.5)
    moved, k, _ = peer.eval()(x)
    decoded = peer.indices_to_codes(k)
    print(f"vqt_latent moved values: decode is off by {(decoded - moved).abs().max():.2f}")
    finish("vqt_latent", got, want, {"levels": LATENT} | LATENT_WEIGHTS)


if __name__ == "__main__":
    for make in (fsq, lfq, latent):
        make()
