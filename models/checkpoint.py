"""One file holds the model: weights, calibration, thresholds and what they were measured to do.

safetensors, with the configuration and the card's digest as metadata. The digest of the tensors is
in the metadata too and is checked at load, so that a file that was cut or edited does not predict.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models import derived
from models.calibration import Calibration
from models.config import GRID
from models.network import RISKS, Network, NetworkConfig, Said, flat
from models.trees import Trees

FORMAT: Final = "vitalstream-5"
NAME: Final = "vitalstream-moe"
EDITION: Final = "1.0.0"
SHIPPED: Final = Path(__file__).parent / "weights" / "model.safetensors"
CARD: Final = "card.json"


class BadCheckpoint(ValueError):
    """A file that is no model, of another grid, or changed since it was written."""


class Calibrated(nn.Module):
    """The network, the trees and their calibration: what a checkpoint holds."""

    def __init__(self, config: NetworkConfig | None = None, trees: Trees | None = None) -> None:
        super().__init__()
        self.network = Network(config)
        self.trees = Trees(len(RISKS)) if trees is None else trees
        self.calibration = Calibration(len(RISKS))

    def forward(self, signals: Tensor, minutes: Tensor, case: Tensor) -> tuple[Tensor, Said]:
        """Calibrated log-odds, float64[B, R], and what the network says, of features."""
        said: Said = self.network(signals, minutes, case)
        trees = self.trees(flat(signals, minutes, case))
        return self.calibration.log_odds(said.logits, trees, case), said


def digest(tensors: dict[str, Tensor], config: str) -> str:
    """SHA-256 over the configuration and every tensor's name, type, shape and bytes."""
    said = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        said.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        said.update(tensor.numpy().tobytes())
    return said.hexdigest()


def version_of(tensor_digest: str) -> str:
    """The model's version: edition and weights."""
    return f"{EDITION}+{tensor_digest[:8]}"


def _config(model: Calibrated) -> str:
    said = {
        "format": FORMAT,
        "grid": GRID.digest,
        "network": model.network.config.as_json(),
        "trees": model.trees.shape,
        "asked": derived.EDITION,
    }
    return json.dumps(said, sort_keys=True)


def version(model: Calibrated) -> str:
    """The version that saving this model would give it."""
    return version_of(digest(model.state_dict(), _config(model)))


def save(model: Calibrated, path: Path, card: dict[str, Any] | None = None) -> str:
    """Write the model, and its card beside it; returns the version."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    config = _config(model)
    tensor_digest = digest(tensors, config)
    metadata = {"config": config, "digest": tensor_digest}
    path.parent.mkdir(parents=True, exist_ok=True)
    if card is not None:
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        path.with_name(CARD).write_text(text, "utf-8")
        metadata["card"] = hashlib.sha256(text.encode()).hexdigest()
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    part.replace(path)
    return version_of(tensor_digest)


def load(path: Path) -> tuple[Calibrated, str]:
    """The model of a file, and its version.

    Raises:
        BadCheckpoint: It is not what `save` wrote, or not for this grid.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{path}: {error}") from error
    config = metadata.get("config", "{}")
    said = json.loads(config)
    if said.get("format") != FORMAT:
        raise BadCheckpoint(f"{path}: not of format {FORMAT}")
    if said["grid"] != GRID.digest:
        raise BadCheckpoint(f"{path}: made for another grid of windows")
    if said.get("asked", derived.EDITION) != derived.EDITION:
        raise BadCheckpoint(f"{path}: its trees ask for other features")
    if digest(tensors, config) != metadata.get("digest"):
        raise BadCheckpoint(f"{path}: the weights are not those that were written")
    card = path.with_name(CARD)
    if "card" in metadata and card.exists():
        found = hashlib.sha256(card.read_bytes()).hexdigest()
        if found != metadata["card"]:
            raise BadCheckpoint(f"{card}: not the card of {path.name}")
    trees = Trees(len(RISKS), *said["trees"])
    model = Calibrated(NetworkConfig.of_json(said["network"]), trees)
    model.load_state_dict(tensors)
    return model.eval(), version_of(metadata["digest"])


def card(path: Path | None) -> dict[str, Any]:
    """The model card beside a checkpoint; empty where there is none."""
    beside = (path or SHIPPED).with_name(CARD)
    if not beside.exists():
        return {}
    said: dict[str, Any] = json.loads(beside.read_text("utf-8"))
    return said
