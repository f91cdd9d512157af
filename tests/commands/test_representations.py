"""Inputs of probes: histograms and one-hot codes by hand, untrained codes, the VAE."""

import numpy as np
from coders import IMAGES, coder_of, plain_model

import vqvae_jax as vj
from vqvae_commands.code_meaning.representations import (
    Pair,
    histogram,
    one_hot,
    trimmed,
    untrained,
    vae_of,
)


def test_histograms_and_one_hot_codes_by_hand():
    quantizers = [vj.vq(2, 3), vj.grouped(vj.vq(3, 2), vj.vq(4, 2))]
    top = np.array([1, 1]).reshape(1, 1, 2, 1)
    low = np.array([[2, 0], [2, 3]]).reshape(1, 1, 2, 2)
    assert histogram(quantizers, (top, low)).tolist() == [[0, 2, 0, 0, 2, 1, 0, 0, 1]]
    found = one_hot(quantizers, (top, low)).toarray()[0]
    expected = np.concatenate([np.eye(k)[i].ravel() for k, i in ((2, [1, 1]), (3, [2, 2]),
                                                                  (4, [0, 3]))])  # fmt: skip
    assert found.tolist() == expected.tolist()


def test_features_of_a_codebook_that_is_implicit_have_the_columns_that_occur():
    quantizers, k = [vj.fsq([4] * 14)], np.array([[5, 2**28 - 1], [5, 7]]).reshape(2, 1, 2, 1)
    pair = Pair(histogram(quantizers, (k[:1],)), histogram(quantizers, (k[1:],)))
    assert [x.toarray().tolist() for x in trimmed(pair)] == [[[1, 1]], [[1, 0]]]
    small = Pair(*[one_hot([vj.vq(8, 3)], (k % 8,))] * 2)
    assert trimmed(small) is small


def test_untrained_codes_come_from_a_first_batch(coder):
    model = plain_model(vj.ema_vq(8, 3, init=vj.inits.kmeans()))
    new = untrained(coder_of(model, 8, 8, 1), IMAGES, 0)
    seen, (stream,) = new.look(IMAGES), new.streams
    k = stream.of(seen.indices)
    assert len(np.unique(k)) == 8  # all are in use, as those of random places are not
    error = np.square(seen.z_q[0] - seen.z_e[0]).mean()
    assert error < 0.3 * seen.z_e[0].var(axis=(0, 1, 2)).mean()


def test_the_vae_has_the_means_of_the_finest_level(coder, deep):
    for found, dim, channels in ((coder, 3, 1), (deep, 5, 1)):
        vae = vae_of(found.model)
        assert (vae.encoder.dim, vae.decoder.dim, vae.decoder.channels) == (2 * dim, dim, channels)
    assert vae_of(vj.VQVAE(vj.MLP(4), vj.vq(8, 4), vj.MLP(2))) is None
