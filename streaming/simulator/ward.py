"""A ward of simulated monitors: cases, the hours behind, one tick after the other. Time is given.

The same seed and the same calls give the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streaming.messages import Observation
from streaming.simulator.artefacts import Artefacts
from streaming.simulator.patients import HOUR_MS, admit
from streaming.simulator.physiology import GASES, LABS, MONITOR, Physiology

_MINUTE_MS: Final = 60_000
_NEAR_MS: Final = 2 * HOUR_MS
"""The last hours of history are kept each minute, those before each quarter of an hour."""
_QUARTER_MS: Final = 15 * _MINUTE_MS
_HELD_TICKS: Final = 3
_LABS_S: Final = 6 * 3_600
_GASES_S: Final = 4 * 3_600
_BEDSIDE_S: Final = 3_600
_TEMP_S: Final = 60

_FAST: Final = MONITOR[:6]
_WITH_TEMP: Final = MONITOR[:7]


class Ward:
    """Simulated beds. Call `cases`, then `history`, then `tick` with rising times. Not thread-safe.

    Args:
        beds: How many.
        seed: What makes this ward this ward.
        start_ms: When the monitors go live; history lies before it.
        history_h: Hours of history.
        artefacts: 0 for none at all, 1 for a usual ward.
    """

    def __init__(
        self, beds: int, seed: int, start_ms: int, history_h: float = 0.0, artefacts: float = 1.0
    ) -> None:
        if beds < 1:
            raise ValueError(f"beds: {beds}, expected at least 1")
        self.patients = admit(beds, seed)
        self._start_ms, self._history_h = start_ms, history_h
        self.cases = self.patients.cases(start_ms, history_h, seed)
        """Who lies in each bed, in the beds' order."""
        self._body = Physiology(self.patients, np.random.default_rng([seed, 3]))
        self._trouble = Artefacts(beds, np.random.default_rng([seed, 4]), artefacts)
        # Rounds do not reach every bed at once.
        self._round_s = np.random.default_rng([seed, 5]).uniform(0, _LABS_S, beds)
        self._case_ids = [case.case_id for case in self.cases]
        self._devices = [f"sim-{bed}" for bed in self.patients.bed_ids]
        self._seq = [0] * beds
        self._now_s: float | None = None
        self._held: list[tuple[int, Observation]] = []
        self._ticks = 0

    def history(self) -> Iterator[list[Observation]]:
        """What was seen before the start, step by step, every bed in each."""
        begin_ms = self._start_ms - int(self._history_h * HOUR_MS)
        at_ms = begin_ms
        while at_ms < self._start_ms:
            ts_ms = [at_ms] * len(self._seq)
            read = self._body.step(self._moved_s(at_ms), self._live_s(at_ms))
            step = self._messages(read, ts_ms, temp=True)
            yield step + self._rounds(at_ms)
            near = self._start_ms - at_ms <= _NEAR_MS
            at_ms += _MINUTE_MS if near else _QUARTER_MS

    def tick(self, now_ms: int, period_ms: int = 1_000) -> list[Observation]:
        """What all monitors send within a period, spread evenly over it in the beds' order.

        The first message's event time is `now_ms` (give or take the device's clock). Late ones and
        the laboratory's follow the monitors'.
        """
        beds = len(self._seq)
        live_s = self._live_s(now_ms)
        last_s = self._now_s
        dt_s = self._moved_s(now_ms)
        read = self._body.step(dt_s, live_s)
        temp = last_s is None or int(live_s // _TEMP_S) != int(last_s // _TEMP_S)
        sent, silent, twice, held = self._trouble.disturb(read, min(dt_s, 60.0), live_s)
        spread = now_ms + np.arange(beds) * period_ms // beds + self._trouble.skew_ms
        messages = self._messages(sent, spread.tolist(), temp)
        self._ticks += 1
        if silent.any() or twice.any() or held.any():
            messages = self._deliver(messages, silent.tolist(), twice.tolist(), held.tolist())
        released = [m for due, m in self._held if due <= self._ticks]
        if released:
            self._held = [(due, m) for due, m in self._held if due > self._ticks]
            messages += released
        return messages + self._rounds(now_ms, last_s)

    def _deliver(
        self, messages: list[Observation], silent: list[bool], twice: list[bool], held: list[bool]
    ) -> list[Observation]:
        out: list[Observation] = []
        for message, is_silent, is_twice, is_held in zip(
            messages, silent, twice, held, strict=True
        ):
            if is_silent:
                continue
            if is_held:
                self._held.append((self._ticks + _HELD_TICKS, message))
                continue
            out.append(message)
            if is_twice:
                out.append(message)
        return out

    def _messages(
        self, read: NDArray[np.float64], ts_ms: list[int], temp: bool
    ) -> list[Observation]:
        """One message a bed; a NaN reading is sent as null."""
        seq, cases, devices = self._seq, self._case_ids, self._devices
        ventilated = self.patients.ventilated.tolist()
        plain = _WITH_TEMP if temp else _FAST
        out: list[Observation] = []
        for i, (bed_id, row) in enumerate(zip(self.patients.bed_ids, read.tolist(), strict=True)):
            names = MONITOR if ventilated[i] else plain
            seq[i] += 1
            out.append(
                Observation(
                    bed_id,
                    ts_ms[i],
                    dict(zip(names, row, strict=False)),
                    cases[i],
                    devices[i],
                    seq[i],
                )
            )
        return out

    def _rounds(self, now_ms: int, last_s: float | None = None) -> list[Observation]:
        """Laboratory and bedside values of the beds whose round has come."""
        live_s = self._live_s(now_ms)
        if last_s is None:
            last_s = (
                live_s - (_QUARTER_MS if self._start_ms - now_ms > _NEAR_MS else _MINUTE_MS) / 1e3
            )
        out: list[Observation] = []
        for every_s, kind in ((_LABS_S, LABS), (_GASES_S, GASES), (_BEDSIDE_S, None)):
            then, now = (last_s + self._round_s) // every_s, (live_s + self._round_s) // every_s
            for i in np.flatnonzero(now > then).tolist():
                found = (
                    self._body.bedside(i, live_s)
                    if kind is None
                    else self._body.labs(i, kind, live_s)
                )
                out.append(Observation(self.patients.bed_ids[i], now_ms, found, self._case_ids[i]))
        return out

    def _live_s(self, now_ms: int) -> float:
        return (now_ms - self._start_ms) / 1_000

    def _moved_s(self, now_ms: int) -> float:
        """Seconds since the call before; remembers this one."""
        live_s = self._live_s(now_ms)
        before, self._now_s = self._now_s, live_s
        return 0.0 if before is None else max(0.0, live_s - before)
