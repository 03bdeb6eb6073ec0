"""A package that is missing is named with the command that installs it.

All are installed where the tests run. `sys.modules[name] = None` hides one as Python itself defines it: it is not
found, and importing it raises a ModuleNotFoundError.
"""

import sys

import keras
import pytest
from keras import layers

import lightkeras as lk
from lightkeras.testing import TwoMoons

TENSORFLOW = pytest.mark.backends("tensorflow", reason="these formats are written from it")


@pytest.fixture
def hidden(request, monkeypatch):
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


@pytest.mark.parametrize(
    ("hidden", "format", "command"),
    [
        pytest.param("onnx", "onnx", "pip install 'lightkeras[export-onnx]'", marks=TENSORFLOW),
        pytest.param("tf2onnx", "onnx", "pip install 'lightkeras[export-onnx]'", marks=TENSORFLOW),
        pytest.param("onnxruntime", "onnx", "pip install 'lightkeras[export-onnx]'", marks=TENSORFLOW),
        pytest.param("ai_edge_litert", "litert", "pip install 'lightkeras[export-litert]'", marks=TENSORFLOW),
        pytest.param("openvino", "openvino", "pip install 'lightkeras[export-openvino]'", marks=TENSORFLOW),
    ],
    indirect=["hidden"],
)
def test_what_an_export_lacks_is_named(hidden, format, command, tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(lk.ExportError) as error:
        lk.export(model, format, tmp_path / "export")
    assert f"--format {format} needs " in str(error.value)
    assert hidden in str(error.value)
    assert f"Type: {command}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("hidden", "logger"),
    [("mlflow", lk.loggers.MLflow), ("wandb", lambda: lk.loggers.WandB(mode="offline"))],
    ids=["mlflow", "wandb"],
    indirect=["hidden"],
)
def test_what_a_logger_lacks_is_named_before_anything_is_written(hidden, logger, tmp_path):
    with pytest.raises(ImportError) as error:
        lk.Runner(max_epochs=1, run_dir=tmp_path / "run", loggers=[logger()]).fit(TwoMoons())
    assert f'pip install "lightkeras[{hidden}]"' in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.any_backend
@pytest.mark.parametrize("hidden", ["ray"], indirect=True)
def test_what_a_search_on_a_cluster_lacks_is_named(hidden, tmp_path):
    with pytest.raises(ImportError, match=r"needs Ray, which is not installed: pip install 'lightkeras\[ray\]'"):
        lk.Tuner(TwoMoons, trials=1, pool="ray", run_dir=tmp_path / "search").search()


@pytest.mark.any_backend
@pytest.mark.parametrize("hidden", ["pyarrow"], indirect=True)
def test_what_a_table_in_parquet_lacks_is_named(hidden, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r'python -m pip install "lightkeras\[parquet\]"'):
        lk.data.Table(tmp_path / "rows.parquet", "price").prepare(lk.Lookup())


@pytest.mark.any_backend
@pytest.mark.parametrize("hidden", ["pandas"], indirect=True)
def test_tables_and_runs_need_no_pandas(hidden, tmp_path):
    (tmp_path / "rows.csv").write_text("rooms,price\n1,2.0\n2,4.0\n3,6.0\n")
    table = lk.data.Table(tmp_path / "rows.csv", "price", test=0, validation=0)
    table.prepare(lk.Lookup())
    assert table.train().examples == 3
