"""The model as the stream runs it: `streaming.model.Model` by structure.

On a CPU the serving engine (`models.native`) works a batch out in one call; on a GPU, and where the
engine was not built, PyTorch does. A row's numbers have the same bits in whatever batch it stands:
the engine lets no row depend on those beside it; PyTorch's features are made of correctly rounded
element-wise operations, and everything after them runs in blocks of one fixed shape, the last one
filled up with zeros, so that each row meets the same kernels.

Axes: B windows, S signals, R risks, E experts, K drivers, C scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models import checkpoint, explain, native
from models.config import GRID
from models.features import CaseCache, of_cases
from models.moe import EXPERTS, mixed, shares
from models.native.charts import Charts
from models.native.writer import Writer
from models.network import RISKS
from models.scores import SCORE_INPUTS, SCORES
from models.scores import score as score_of
from models.serving import Raw, Serving, routed
from models.signals import INDEX
from models.window_store import HostWindowStore, Windows

_BLOCK: Final = 8
"""Rows of a block on a CPU: one block costs little when few beds wait, and stays in the cache."""
_GPU_BLOCK: Final = 1024
_PACK: Final = 64
"""Variants of rows (`models.serving`) whose experts run at once."""
_GPU_PACK: Final = 16_384
_SPOKEN: Final = [INDEX[name] for name in ("hr", "spo2", "temp", "sbp", "map", "dbp", "resp")]


_SAID: Final = ("p", "low", "high", "positive", "share", "novelty", "driver_effect")
Engine = Literal["auto", "native", "torch"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model says of a batch; the fields of `streaming.model.Predictions`."""

    speaks: NDArray[np.bool_]
    p: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    positive: NDArray[np.bool_]
    share: NDArray[np.float64]
    novelty: NDArray[np.float64]
    score: NDArray[np.float64]
    score_missing: NDArray[np.uint32]
    input_value: NDArray[np.float32]
    input_age_ms: NDArray[np.int64]
    driver_signal: NDArray[np.int16]
    driver_effect: NDArray[np.float64]
    text: list[bytes] | None


class EngineMissing(RuntimeError):
    """The serving engine was asked for and was not built."""


class NoSuchDevice(ValueError):
    """A GPU that this machine does not have."""


class Predictor:
    """One device's copy of the network with its calibration, scores and drivers.

    Args:
        model: The network and its calibration; moved to the device.
        version: What names these weights.
        device: `cpu`, or `cuda:N`.
        threads: Threads of the network on a CPU; PyTorch keeps one number for the process.
        engine: What computes on a CPU; `auto` is `native` where that was built.

    Attributes:
        engine: What computes: `native` or `torch`.

    Raises:
        EngineMissing: `native` was asked for and is not there.
    """

    name = checkpoint.NAME
    grid_digest = GRID.digest
    risks = RISKS
    experts = EXPERTS
    scores = SCORES
    score_inputs = SCORE_INPUTS
    length_buckets = (4, 12, 24, 48, 72)

    def __init__(
        self,
        model: checkpoint.Calibrated,
        version: str,
        device: str = "cpu",
        threads: int = 1,
        engine: Engine = "auto",
    ) -> None:
        self.version = version
        self.device = device
        self._threads = threads
        self._model = model.to(device).eval().requires_grad_(False)
        self._block = _BLOCK if device == "cpu" else _GPU_BLOCK
        pack = _PACK if device == "cpu" else _GPU_PACK
        self._serving = Serving(self._model, self._block, pack)
        self._cases = CaseCache()
        there = device == "cpu" and native.available()
        if engine == "native" and not there:
            raise EngineMissing(f"no serving engine for {device}: `make install` builds it")
        self._native = native.Native(self._model, threads) if there and engine != "torch" else None
        self._writer = Writer() if self._native is not None else None
        self._score = Charts() if self._native is not None else score_of
        self.engine = "torch" if self._native is None else "native"

    def store(self, capacity: int) -> HostWindowStore:
        """A window store on this model's grid."""
        return HostWindowStore(GRID, capacity)

    def predict(self, windows: Windows) -> Predictions:
        """Predict a gathered batch. Blocks; called in the device's thread."""
        static = np.stack([self._cases(case) for case in windows.cases])
        case = of_cases(static, windows.newest_ms, windows.phase_ms)
        if self._native is not None:
            out = self._native.predict(windows, case)
        else:
            if self.device == "cpu" and torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            with torch.inference_mode():
                out = self._network(windows, case)
        scale = np.array([getattr(c, "spo2_scale", None) or 1 for c in windows.cases], np.int64)
        score, missing = self._score(windows.newest_value, scale)
        said = {
            "speaks": (windows.newest_age_ms[:, _SPOKEN] >= 0).sum(1) > 0,
            **{name: out[name] for name in _SAID},
            "driver_signal": out["driver_signal"].astype(np.int16),
            "score": score,
            "score_missing": missing,
            "input_value": windows.newest_value,
            "input_age_ms": windows.newest_age_ms,
        }
        return Predictions(**said, text=None if self._writer is None else self._writer(said))

    def _network(self, windows: Windows, case: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """PyTorch's answer of every row, by the names of `Predictions`."""
        size = len(windows.cases)
        features, block = self._model.network.features, self._block
        raws: list[Raw] = []
        for start in range(0, size, block):
            rows = slice(start, min(start + block, size))
            made = features.of_windows(windows, rows)
            there = torch.from_numpy(case[rows]).to(self.device)
            count = rows.stop - rows.start
            signals, minutes, cases = (
                torch.cat([x, x.new_zeros(block - count, *x.shape[1:])]) if count < block else x
                for x in (*made, there)
            )
            raws.append(self._serving(signals, minutes, cases, count))
        return self._said(raws, size)

    def _said(self, raws: list[Raw], size: int) -> dict[str, NDArray[Any]]:
        """From blocks to numbers, element-wise over whole blocks: the exponential of a vector's
        tail has other bits.
        """
        calibration = self._model.calibration
        novelty = torch.cat([r.novelty for r in raws])
        strange = torch.cat([r.strange for r in raws])
        share = shares(routed(torch.cat([r.gate for r in raws]), strange))
        block = self._block
        own = torch.cat([r.logits[:block] for r in raws])
        other = torch.cat([r.logits[block:] for r in raws])
        row = torch.cat([r.row[block:] + i * block for i, r in enumerate(raws)])
        signal = torch.cat([r.signal for r in raws])
        trees = [r.trees for r in raws if r.trees is not None]
        own_trees = torch.cat([t[:block] for t in trees]) if trees else None
        other_trees = torch.cat([t[block:] for t in trees]) if trees else None
        case = torch.cat([r.case for r in raws])
        log_odds = calibration.log_odds(mixed(own, share), own_trees, case)
        without = calibration.log_odds(mixed(other, share[row]), other_trees, case[row])
        p, low, high = calibration.bounds(log_odds, novelty)
        driver, effect = explain.strongest(calibration, log_odds, without, row, signal)
        exact = share.double()
        total = exact[:, 0] + exact[:, 1] + exact[:, 2] + exact[:, 3]
        said = {
            "p": p,
            "low": low,
            "high": high,
            "positive": p >= calibration.threshold,
            "share": exact / total.unsqueeze(1),
            "novelty": novelty.double(),
            "driver_signal": driver,
            "driver_effect": effect,
        }
        return {name: tensor[:size].cpu().numpy() for name, tensor in said.items()}


def load(path: Path | None = None, device: str = "cpu", threads: int = 1) -> Predictor:
    """The model of a file, the shipped one by default, on a device.

    Raises:
        models.checkpoint.BadCheckpoint: The file is not a model for this program.
        NoSuchDevice: The device is a GPU that is not there.
    """
    there(device)
    model, version = checkpoint.load(path or checkpoint.SHIPPED)
    return Predictor(model, version, device, threads)


def there(device: str) -> str:
    """A device's name again. Raises NoSuchDevice for a GPU that this machine has not."""
    if device.startswith("cuda"):
        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            raise NoSuchDevice(f"{device!r} is not allowed: this machine has {count} GPUs")
    return device
