"""Any quantizer from the command line: by name, by the text of a call, by a file."""

import dataclasses

import jax
import numpy as np
import pytest
from test_bad_input import refused
from test_train import EVERY, config, data, final_state, no_figures  # noqa: F401

import vqvae_jax as vj
from vqvae_commands import evaluate, tokenize
from vqvae_commands.run import autoencoder, first_codes
from vqvae_commands.run.changes import CHANGEABLE, ConfigChanged, check_same_run
from vqvae_commands.run.quantizer_choice import CHOICES, OPTIONAL, help_text, make_quantizer
from vqvae_commands.run.recipe import make_model
from vqvae_commands.run.run_folder import to_plain
from vqvae_jax.training.step import init_state

CONSTANT = {"schedule": "constant"}
CHANGED = ("codes", "dim", "beta", "decay", "reset")
SETTINGS = autoencoder.Config(codes=(6,), dim=8, beta=0.5, decay=0.8, reset=0.2)


def settings(quantizer: str, **more) -> autoencoder.Config:
    """Settings that the quantizer depends on."""
    known = CHOICES[quantizer].options if quantizer in CHOICES else ()
    changed = {name: getattr(SETTINGS, name) for name in known if name in CHANGED}
    return autoencoder.Config(quantizer=quantizer, **changed | more)


@pytest.mark.parametrize("name", CHOICES)
def test_a_name_makes_its_quantizer(name):
    q = make_quantizer(settings(name), 6)
    z = jax.ShapeDtypeStruct((2, 5, q.dim), np.float32)
    step = lambda key, z: q.apply(*q.init(key), z, train=True, key=key)[0].indices  # noqa: E731
    assert jax.eval_shape(step, jax.random.key(0), z).shape == (2, 5, len(q.vocab))
    options = CHOICES[name].options
    if "codes" in options:
        assert set(q.vocab) == {6} and q.dim == 8
    assert ("beta" in options) == ("beta=0.5" in repr(q))
    assert ("decay" in options) == ("decay=0.8" in repr(q))
    assert ("reset" in options) == ("underused(share=0.2" in repr(q))


@pytest.mark.parametrize(
    ("name", "options", "vocab"),
    [
        ("fsq", {"levels": (8, 5)}, (40,)),
        ("fsp", {"levels": (4,)}, (4,)),
        ("latent_vq", {"levels": (3, 3)}, (9,)),
        ("lfq", {"bits": 5}, (32,)),
        ("bsq", {"bits": 4}, (16,)),
        ("residual", {"stages": 3}, (6, 6, 6)),
        ("grouped", {"stages": 2}, (6, 6)),
    ],
)
def test_its_own_options_reach_it(name, options, vocab):
    q = make_quantizer(settings(name, **options), 6)
    assert q.vocab == vocab


def test_the_help_has_a_line_for_each():
    lines = help_text().splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == list(CHOICES)
    assert {option for c in CHOICES.values() for option in c.options} >= set(OPTIONAL)


def test_a_file_and_a_text_name_any_quantizer(tmp_path):
    q = vj.project(vj.grouped(vj.lfq(3), vj.vq(8, 4)), 16)
    (tmp_path / "q.json").write_text(vj.to_json(q))
    for text in (str(tmp_path / "q.json"), repr(q)):
        assert make_quantizer(settings(text), 6) == q


def test_the_model_has_the_width_of_the_quantizer():
    images, vectors = np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 5), np.float32)
    scalars = settings("fsq", width=8, depth=1)
    for example in (images, vectors):
        assert make_model(scalars, example).quantizer.dim == 4
    levels = make_model(dataclasses.replace(scalars, model="vqvae2"), images).quantizers
    assert levels == (vj.fsq((8, 5, 5, 5)),) * 2


BAD = {
    "nope": "expected one of ema_vq, vq,",
    "vq(": "expected a call such as vq(512, 64)",
    "kmeans(3)": "expected a quantizer, found Init",
    "none.json": "none.json",
    "fsq --stages 2": "--stages has no effect on --quantizer fsq",
    "vq(8,4) --bits 2": "--bits has no effect on --quantizer vq(8,4)",
    "residual --stages 0": "n must be an integer >= 1, got 0",
    "fsq --codes 64": "--codes has no effect on --quantizer fsq",
    "lfq --beta 0.1": "--beta has no effect on --quantizer lfq",
    "grouped --stages 3": "grouped needs a dim that 3 stages divide, got 64",
    "fsq --levels 1": "levels",
}


@pytest.mark.parametrize("words", BAD)
def test_a_wrong_quantizer_is_one_line(words, data, tmp_path, capsys):  # noqa: F811
    where = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--quantizer", *words.split()]
    assert BAD[words] in refused(capsys, autoencoder.train_autoencoder, autoencoder.Config, where)
    assert not (tmp_path / "runs").exists()


def run(c: autoencoder.Config) -> dict[str, float]:
    return autoencoder.train_autoencoder(c)[0]


def test_a_residual_quantizer_is_trained_and_tokenizes(data, tmp_path, no_figures):  # noqa: F811
    c = config(data, tmp_path, quantizer="residual", stages=3, steps=4)
    table = run(c)
    assert table["bits_uniform"] == 9 * 3 * 4 and {"0/used", "1/used", "2/used"} <= set(table)
    found = tokenize.main(tokenize.Config(tmp_path / c.name))
    assert found["test"]["codes"] == 27


def test_codes_start_from_enough_rows(tmp_path, no_figures, capsys):  # noqa: F811
    """A batch of 8 vectors has 8 rows for 16 codes: with these alone, at most 8 differ."""
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32))
    assert run(config(tmp_path / "v.npy", tmp_path, steps=1, eval_every=1))["used"] > 8 / 16
    assert "some start equal" not in capsys.readouterr().out


def test_first_codes_are_those_of_one_large_batch():
    model = vj.VQVAE(vj.MLP(4, 8, 1), vj.ema_vq(16, 4, init=vj.inits.kmeans(3)), vj.MLP(2, 8, 1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 2)).astype(np.float32)
    state = init_state(model, autoencoder.make_optimizer(SETTINGS), jax.random.key(0), x)
    batches = first_codes.first_batches(model, state, lambda i: x[8 * i : 8 * i + 8], 12)
    assert len(batches) == 6  # 3 rows for each of 16 codes
    few = first_codes.first_batches(model, state, lambda i: x[8 * i : 8 * i + 8], 2)
    assert len(few) == 2 and first_codes.with_first_codes(model, state, few[:1]) is state
    begun = first_codes.with_first_codes(model, state, batches)
    f = vj.as_functions(model)
    z = f.encode(state.variables, x[:48])
    used = np.unique(f.tokenize(begun.variables, x[:48]))
    assert len(used) == 16 and len(np.unique(np.asarray(z), axis=0)) == 48
    jax.tree.map(np.testing.assert_array_equal, begun.params, state.params)
    assert not first_codes.from_data(begun.collections)
    plain = model.clone(quantizer=vj.ema_vq(16, 4))
    assert not first_codes.from_data(
        init_state(plain, autoencoder.make_optimizer(SETTINGS), jax.random.key(0), x).collections
    )


def test_a_constant_rate_can_be_lengthened(data, tmp_path, no_figures):  # noqa: F811
    long = config(data, tmp_path, name="long", schedule="constant", steps=6)
    short = dataclasses.replace(long, name="short", steps=4)
    longer = dataclasses.replace(short, steps=6, log_every=2, eval_every=3, save_every=2)
    run(long), run(short), run(longer)
    jax.tree.map(np.testing.assert_array_equal, final_state(long), final_state(longer))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"schedule": "constant"}, {"schedule": "constant", "steps": 9}, None),
        (
            {"schedule": "constant"},
            {"schedule": "constant", "steps": 7},
            "use --name. steps: 8 there",
        ),
        ({"schedule": "constant"}, {"steps": 9}, "use --name. "),
        ({}, {"steps": 9}, "a run with --schedule constant can be lengthened, others can't"),
        ({}, {"log_every": 1, "eval_every": 2, "parts": 2, "name": "b"}, None),
        ({"stages": None}, {"stages": 2}, "stages: None there, 2 now"),
    ],
)
def test_what_may_change(old, new, line, tmp_path):
    """Options that did not exist when the run began have their defaults."""
    before = to_plain(autoencoder.Config(steps=8, **old))
    for name in {"levels", "bits", "stages", "schedule", "start"} - {*old}:
        del before[name]
    config = autoencoder.Config(**{"steps": 8, **new})
    check = lambda: check_same_run(tmp_path, before, config, to_plain(config))  # noqa: E731
    if line is None:
        return check()
    with pytest.raises(ConfigChanged, match=line):
        check()


def test_what_may_change_are_options():
    known = {f.name for f in dataclasses.fields(autoencoder.Config)} | {"run"}
    assert known >= CHANGEABLE >= {*EVERY} - {"steps"}


def test_a_run_starts_from_the_weights_of_another(data, tmp_path, no_figures, capsys):  # noqa: F811
    first = config(data, tmp_path, name="first", learning_rate=1e-2)
    then = {"start": tmp_path / "first", "steps": 1, "learning_rate": 1e-9}
    second = config(data, tmp_path, name="second", **then)
    run(first), run(second)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        *(final_state(c).params for c in (first, second)),
    )
    other = config(data, tmp_path, name="other", **then | {"codes": (32,)})
    with pytest.raises(ValueError, match=r"expected .*\(32.*, found \(16"):
        run(other)
    assert not (tmp_path / "other").exists()


def test_a_model_of_ones_own_script_is_evaluated_with_its_data(data, tmp_path, capsys):  # noqa: F811
    model = vj.VQVAE(
        vj.Encoder(1, 4, width=8), vj.fsq([3, 3, 3, 3]), vj.Decoder(1, 4, width=8), vj.pixels()
    )
    variables = vj.as_functions(model).init(jax.random.key(0), np.load(data)[:1])
    vj.save_model(tmp_path / "own", model, variables)
    words = [str(tmp_path / "own")]
    assert "--data" in refused(capsys, evaluate.main, evaluate.Config, words)
    assert evaluate.main(evaluate.Config(tmp_path / "own", data=str(data)))["seen"] == 90
    found = tokenize.main(tokenize.Config(tmp_path / "own", data=str(data)))
    assert found["train"]["items"] == 90
