"""What the fork server imports before the first job: all that a run imports, so that its forks find it there.

Imported by that server alone. Threads do not survive a fork and CUDA forbids one, so nothing here may start either. A
module that cannot be imported is left out: the job that needs it says why.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os

from medsam2.launch.worker import WARM

MODULES = (
    "torch",
    "monai.losses",  # seconds, and MONAI imports all of itself
    "medsam2.experiment",
    "medsam2.config_check",
    "medsam2.tasks.train",
    "medsam2.tasks.evaluate",
    "medsam2.losses",
    "medsam2.optim",
    "medsam2.data.chest_ct",
    "medsam2.data.images",
    "medsam2.data.volumes",
    "medsam2.doctor.survey",
    "medsam2.evaluation.metrics",
    "medsam2.methods.image",
    "medsam2.methods.volume",
    "medsam2.methods.memory_stream",
    "medsam2.modeling.sam2",
    "medsam2.modeling.lora",
    "medsam2.modeling.weights",
    "pandas.core.arrays.arrow.extension_types",
    "pandas.io.formats.csvs",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "torch.utils.serialization.config",
)

os.environ |= {  # jobs get the environment of the head again
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU does not start CUDA
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MLFLOW_DISABLE_TELEMETRY": "1",
}

for _name in (*MODULES, *filter(None, os.environ.get(WARM, "").split(","))):
    with contextlib.suppress(Exception):
        importlib.import_module(_name)

gc.collect()
gc.freeze()  # no collection of a job touches, and so copies, the pages that all share
