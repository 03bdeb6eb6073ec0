import importlib.util
import json
import os
import shutil
import zipfile
from pathlib import Path

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.encoders.hub import HubLayer, fingerprint, sample_text_module

pytestmark = [
    # Keras's own conversion of TensorFlow tensors, under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

TEXTS = tf.constant(["a fine film", "dull", "", "Fine, fine film!"])


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def sample():
    return str(sample_text_module())


@pytest.fixture
def copied(sample, tmp_path):
    """A copy of the sample, for a test to break."""
    return Path(shutil.copytree(sample, tmp_path / "module"))


@pytest.fixture(scope="session")
def image_module(tmp_path_factory):
    """`y = scale * mean(image) + steps`, where each training call adds 1 to the untrained `steps`."""
    module = tf.train.Checkpoint()
    module.scale = tf.Variable(2.0, name="a/scale")
    module.steps = tf.Variable(0.0, trainable=False, name="b/scale")

    def apply(images, training=False):
        if training:
            module.steps.assign_add(1.0)
        return module.scale * tf.reduce_mean(images, axis=[1, 2, 3])[:, None] + module.steps

    function = tf.function(apply)
    for training in (False, True):
        function.get_concrete_function(tf.TensorSpec((None, 4, 4, 3), tf.float32), training=training)
    module.__call__ = function
    module.variables = [module.scale, module.steps]
    module.trainable_variables = [module.scale]
    penalty = tf.function(lambda: 0.5 * module.scale**2, input_signature=[])
    module.regularization_losses = [penalty]
    folder = tmp_path_factory.mktemp("image") / "module"
    tf.saved_model.save(module, str(folder))
    return str(folder)


def classifier(handle, trainable=True):
    keras.utils.set_random_seed(3)
    text = keras.Input((), dtype="string")
    return keras.Model(text, keras.layers.Dense(1)(HubLayer(handle, trainable=trainable, name="words")(text)))


def fitted(handle):
    model = classifier(handle)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(TEXTS, np.array([[1.0], [0.0], [0.0], [1.0]]), epochs=2, verbose=0)
    return model


def test_keras_and_the_module_share_one_storage(sample):
    layer = HubLayer(sample, trainable=True)
    variable = layer._module.embeddings
    layer.weights[0].assign(tf.fill((4096, 50), 3.0))
    assert variable.numpy()[7, 7] == 3.0
    variable.assign(tf.fill((4096, 50), 4.0))
    assert layer.weights[0].numpy()[7, 7] == 4.0
    # "a fine film" has three words: 3 * 4 / sqrt(3).
    np.testing.assert_allclose(layer(TEXTS).numpy()[0], 12 / np.sqrt(3), rtol=1e-6)


def test_two_layers_of_one_handle_share_nothing(sample):
    first, second = HubLayer(sample), HubLayer(sample)
    before = second.weights[0].numpy()
    first.weights[0].assign(tf.zeros((4096, 50)))
    np.testing.assert_array_equal(second.weights[0].numpy(), before)
    assert first.weights[0].path != second.weights[0].path


def test_training_changes_a_trainable_module_and_not_a_frozen_one(sample):
    for trainable, changed in ((True, True), (False, False)):
        model = classifier(sample, trainable)
        before = model.get_layer("words").weights[0].numpy()
        model.compile("adam", "mse")
        model.fit(TEXTS, np.ones((4, 1)), verbose=0)
        after = model.get_layer("words")._module.embeddings.numpy()
        assert (not np.array_equal(before, after)) is changed
        assert len(model.trainable_variables) == (3 if trainable else 2)


def test_trainable_can_be_switched_later(sample):
    layer = HubLayer(sample)
    assert (len(layer.trainable_variables), layer.weights[0].trainable) == (0, False)
    layer.trainable = True
    assert (len(layer.trainable_variables), layer.weights[0].trainable) == (1, True)
    layer.trainable = False
    assert len(layer.trainable_variables) == 0


def test_shapes_are_known_with_and_without_the_batch_size(sample, image_module, capsys):
    layer, images = HubLayer(sample), HubLayer(image_module)
    assert layer.compute_output_shape((None,)) == (None, 50)
    assert layer.compute_output_shape((8,)) == (8, 50)
    assert layer(keras.Input((), dtype="string")).shape == (None, 50)
    assert layer(keras.Input(batch_shape=(8,), dtype="string")).shape == (8, 50)
    assert images.compute_output_shape((None, 4, 4, 3)) == (None, 1)
    spec = layer.compute_output_spec(keras.KerasTensor((None,), dtype="string"))
    assert (spec.shape, spec.dtype) == ((None, 50), "float32")
    classifier(sample).summary()
    assert "(None, 50)" in capsys.readouterr().out


def test_a_training_argument_is_passed_on_and_a_frozen_module_stays_in_inference(image_module):
    images = np.ones((2, 4, 4, 3), "float32")
    layer = HubLayer(image_module, trainable=True)
    np.testing.assert_array_equal(layer(images).numpy(), [[2.0], [2.0]])
    np.testing.assert_array_equal(layer(images, training=True).numpy(), [[3.0], [3.0]])
    np.testing.assert_array_equal(layer(images).numpy(), [[3.0], [3.0]])
    layer.trainable = False
    np.testing.assert_array_equal(layer(images, training=True).numpy(), [[3.0], [3.0]])


def test_the_modules_lists_decide_what_is_trained_and_equal_names_are_distinguished(image_module):
    layer = HubLayer(image_module, trainable=True, name="image")
    assert [variable.path for variable in layer.trainable_variables] == ["image/a_scale"]
    assert [variable.path for variable in layer.non_trainable_variables] == ["image/b_scale"]


def test_regularization_counts_only_while_the_module_is_trained(image_module):
    images = np.ones((2, 4, 4, 3), "float32")
    layer = HubLayer(image_module, trainable=True)
    layer(images)
    assert [float(loss) for loss in layer.losses] == [2.0]  # 0.5 * 2 ** 2
    layer.trainable = False
    layer(images)
    assert layer.losses == []


def test_mixed_precision_casts_the_output_and_leaves_the_variables(sample, image_module):
    layer = HubLayer(sample, dtype="mixed_float16")
    assert (layer(TEXTS).dtype, layer.weights[0].dtype) == (tf.float16, "float32")
    assert layer(keras.Input((), dtype="string")).dtype == "float16"
    images = HubLayer(image_module, dtype="mixed_float16")
    assert images(np.ones((2, 4, 4, 3), "float16")).dtype == tf.float16


def test_a_saved_model_comes_back_with_its_fine_tuned_weights(sample, tmp_path):
    model = fitted(sample)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_array_equal(model.predict(TEXTS, verbose=0), again.predict(TEXTS, verbose=0))
    tuned = again.get_layer("words")
    np.testing.assert_array_equal(tuned._module.embeddings, model.get_layer("words").weights[0])
    assert not np.array_equal(tuned.weights[0], HubLayer(sample).weights[0])
    assert tuned.trainable
    assert tuned.fingerprint == fingerprint(sample)


def test_weights_alone_are_saved_and_loaded(sample, tmp_path):
    model, other = fitted(sample), classifier(sample)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.predict(TEXTS, verbose=0), other.predict(TEXTS, verbose=0))


def test_an_exported_model_works_without_the_layer(sample, tmp_path):
    model = fitted(sample)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(TEXTS), model.predict(TEXTS, verbose=0), rtol=1e-6)


def test_safe_mode_refuses_the_module_and_shows_how_to_load_it(sample, tmp_path):
    model = classifier(sample)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"runs the graph of the module .* load with safe_mode=False"):
        keras.models.load_model(tmp_path / "model.keras")
    config = model.get_layer("words").get_config()
    with pytest.raises(ValueError, match="safe mode forbids"):
        HubLayer.from_config(config)
    assert HubLayer.from_config(config, safe_mode=False).handle == sample
    with pytest.raises(ValueError, match="safe mode forbids"):
        keras.models.clone_model(model)


def test_a_module_that_was_exchanged_is_refused_before_it_runs(copied, image_module, tmp_path):
    classifier(str(copied)).save(tmp_path / "model.keras")
    shutil.rmtree(copied)
    shutil.copytree(image_module, copied)
    with pytest.raises(ValueError, match="not the one this model was saved with: its fingerprint is"):
        keras.models.load_model(tmp_path / "model.keras", safe_mode=False)


def test_the_config_is_plain_json(sample, tmp_path):
    classifier(sample).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    config = next(layer["config"] for layer in layers if layer["class_name"] == "HubLayer")
    assert (config["handle"], config["trainable"]) == (sample, True)
    assert config["fingerprint"] == fingerprint(sample)


def test_a_missing_folder_is_named():
    with pytest.raises(FileNotFoundError, match="handle='no/such/module', which does not exist; expected a"):
        HubLayer("no/such/module")


def test_a_folder_that_is_not_a_saved_model_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is not a SavedModel: it has no saved_model.pb \(it holds: notes.txt\)"):
        HubLayer(str(tmp_path))


def test_a_corrupt_graph_is_named(copied):
    file = copied / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"is damaged: saved_model\.pb cannot be read"):
        HubLayer(str(copied))


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_a_missing_variables_file_is_named(copied, name):
    (copied / "variables" / name).unlink()
    with pytest.raises(ValueError, match=f"is damaged: variables/{name} is missing"):
        HubLayer(str(copied))


def test_corrupt_variables_are_not_loaded(copied):
    file = copied / "variables" / "variables.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[5000] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be loaded from .* files are corrupt"):
        HubLayer(str(copied))


def test_variables_that_were_cut_short_are_not_loaded(copied):
    os.truncate(copied / "variables" / "variables.data-00000-of-00001", 5000)
    with pytest.raises(ValueError, match=r"cannot be loaded from .* files are corrupt"):
        HubLayer(str(copied))


def test_a_tf1_hub_module_is_refused(copied):
    (copied / "tfhub_module.pb").write_bytes(b"\x08\x03")
    with pytest.raises(ValueError, match="is in the TF1 format"):
        HubLayer(str(copied))


def test_a_tf1_saved_model_is_refused(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "old"))
        tf.constant(1.0)
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()
    with pytest.raises(ValueError, match="is in the TF1 format"):
        HubLayer(str(tmp_path / "old"))


def test_a_saved_model_without_a_call_function_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "mute"))
    with pytest.raises(ValueError, match=r"cannot be called: .*TFSMLayer"):
        HubLayer(str(tmp_path / "mute"))


def test_numbers_into_a_text_module_are_refused(sample, image_module):
    with pytest.raises(TypeError, match=r"takes string of shape \(None,\); received float32 .*dtype='string'"):
        HubLayer(sample)(np.zeros(3, "float32"))
    with pytest.raises(TypeError, match="takes string"):
        HubLayer(sample)(keras.Input((), dtype="int32"))
    with pytest.raises(TypeError, match=r"takes float32 .* received uint8 .* Cast it first"):
        HubLayer(image_module)(np.zeros((2, 4, 4, 3), "uint8"))


def test_input_of_the_wrong_shape_is_refused(sample):
    with pytest.raises(ValueError, match=r"takes input of shape \(None,\); received shape \(None, 1\)"):
        HubLayer(sample)(keras.Input((1,), dtype="string"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_another_backend_it_is_built_and_saved_and_shows_what_to_do_when_it_is_called(sample, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    script = """
import sys, keras, numpy as np
from lightkeras.encoders.hub import HubLayer
text = keras.Input((), dtype="string")
layer = HubLayer(sys.argv[1], trainable=True, name="words")
model = keras.Model(text, keras.layers.Dense(1)(layer(text)))
print(len(layer.trainable_variables), layer.variables[0].shape == (4096, 50))
layer.variables[0].assign(layer.variables[0] + 1)
model.save(sys.argv[2])
print(keras.models.load_model(sys.argv[2], safe_mode=False).layers[1].fingerprint == layer.fingerprint)
try:
    layer(np.array(["text"], dtype=object))
except RuntimeError as error:
    print(error)
"""
    file = str(tmp_path / "model.keras")
    done = forked.run(["-c", script, sample, file], env={**os.environ, "KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stderr
    sizes, same, refused = done.stdout.splitlines()
    assert (sizes, same) == ("1 True", "True")
    assert f"Keras runs on {backend!r}" in refused
    assert "return lk.TextEncoder(handle) from Task.build_encoder" in refused
    loaded = keras.models.load_model(file, safe_mode=False)
    np.testing.assert_allclose(
        loaded.get_layer("words").weights[0].numpy(), HubLayer(sample).weights[0].numpy() + 1, rtol=1e-6
    )
    assert loaded(tf.constant(["a text"])).shape == (1, 1)


def test_a_layer_made_while_a_graph_is_traced_has_eager_variables(sample):
    made = []

    @tf.function(autograph=False)
    def trace(texts):
        made.append(HubLayer(sample))
        return made[0](texts)

    np.testing.assert_array_equal(trace(TEXTS), made[0](TEXTS))


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("LIGHTKERAS_DATA_DIR"), reason="needs LIGHTKERAS_DATA_DIR")
def test_the_glove_module_trains_and_comes_back_from_a_file(tmp_path):
    model = fitted(str(Path(os.environ["LIGHTKERAS_DATA_DIR"], "hub", "glove-6b-50d").resolve()))
    assert model.get_layer("words").weights[0].shape == (13331, 50)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_array_equal(model.predict(TEXTS, verbose=0), again.predict(TEXTS, verbose=0))
