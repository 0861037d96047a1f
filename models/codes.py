"""Problem codes, however a hospital writes them, and what they say of the specialties.

A list of problems does not tell what a patient came for from what he once had, and one code says
more than another: a metastasis more than a tumour taken out years ago, a myocardial infarction
more than treated hypertension. So each code belongs to a block, and a block has a weight for each
specialty; see `evidence`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

System = Literal["icd10", "icd9", "orpha"]

_ICD10: Final = re.compile(r"[A-Z]\d[\dAB](\.?[\dA-Z]{1,4})?[.\-]?")
_ICD9: Final = re.compile(r"(\d{1,3}\.\d{0,2}|\d{3,5}|V\d\d(\.?\d{1,2})?|E\d{3}(\.?\d)?)")
_ORPHA: Final = re.compile(r"ORPHA(?:NET|CODE)?[^\dA-Z]*(\d+)")
_SAYS_9: Final = re.compile(r"ICD[-_ ]?9|\bI9C?D?P?\b|113883\.6\.(103|42|2)\b")
_SAYS_10: Final = re.compile(r"ICD[-_ ]?10|113883\.6\.(90|3)\b|\^I10[A-Z]*\b")
_OTHER: Final = re.compile(
    r"SNOMED|\bSCT\b|LOINC|\bLN\b|113883\.6\.(96|1)\b|MEDDRA|MESH|OMIM|ICD[-_ ]?11"
)
_APART: Final = re.compile(r"[|:/#=_]")


@lru_cache(maxsize=65_536)
def parsed(problem: str) -> tuple[System, str] | None:
    """System and code without a dot, upper case; None where no code of a known system is found.

    Read are a code alone, `system:code`, `system|code` (FHIR), `code^text^system` (HL7 v2) and a
    code followed by words; systems by name, URL or OID. A code alone is ICD-9 where it is a number
    or begins with V, otherwise ICD-10.
    """
    text = problem.strip().upper()
    rare = _ORPHA.search(text)
    if rare is not None:
        return "orpha", rare[1]
    if _OTHER.search(text):
        return None
    nine, ten = _SAYS_9.search(text) is not None, _SAYS_10.search(text) is not None
    for word in text.split("^")[0].split():
        code = _APART.split(word)[-1].strip("\"'[](),;")
        if nine and not ten:
            if _ICD9.fullmatch(code):
                return "icd9", _plain9(code)
        elif _ICD10.fullmatch(code) and (ten or code[0] != "V"):
            return "icd10", code.rstrip("-.").replace(".", "")
        elif not ten and _ICD9.fullmatch(code):
            return "icd9", _plain9(code)
    return None


def _plain9(code: str) -> str:
    whole, dot, part = code.partition(".")
    # A spreadsheet takes leading zeros away: 38.9 is 038.9.
    return (whole.zfill(3) if dot and whole.isdigit() else whole) + part


_BLOCKS: Final[dict[str, tuple[str, str, tuple[float, float], tuple[float, float]]]] = {
    # block: (ICD-10, ICD-9, (oncology, more as the reason for admission), (the same, cardiology))
    "cancer": ("C00-C76 C80 D00-D09 D37-D49", "140-195 199 209 230-239", (2.0, 0.4), (-0.5, -0.7)),
    "cancer_spread": ("C77-C79 C800 C7B", "196-198 1990 2097", (2.0, 0.2), (-0.5, -0.1)),
    "cancer_blood": ("C81-C96", "200-208", (2.0, 0.4), (-0.3, -0.2)),
    "cancer_treated": ("Z510 Z511 Z5112 D701 T451", "V580 V581 9631", (0.8, 0.2), (-0.3, 0.0)),
    "cancer_benign": ("D10-D36", "210-229", (0.4, 0.3), (-0.3, -0.3)),
    "cancer_before": ("Z85 Z860 Z9221 Z923 Z08", "V10 V153 V8741", (1.7, 0.3), (-0.3, 0.0)),
    "failing_heart": (
        "I50 I42-I43 I110 I130 I132 I517 I0981",
        "428 425 40201 40211 40291",
        (0.0, -0.2),
        (0.2, 1.3),
    ),
    "infarction": ("I200 I21-I24", "410 4110-4118", (-0.2, 0.0), (1.5, 1.1)),
    "coronary": ("I20 I25 I51 I97", "413-414 9971", (-0.2, -0.3), (0.5, 1.1)),
    "rhythm": ("I44-I45 I47-I49 R000 R001 R002", "426-427 7850 7851", (-0.2, 0.0), (0.6, 1.3)),
    "arrest": ("I46 R570", "4275 78551", (0.0, 0.0), (1.2, 0.9)),
    "valve": ("I05-I08 I34-I39 I01 I09", "391-398 421 424", (-0.3, -0.1), (0.6, 0.8)),
    "pericardium": ("I30-I33 I40-I41", "420 422-423 429", (0.0, 0.0), (0.8, 0.6)),
    "hypertension": ("I10-I15", "401-405", (0.0, 0.0), (0.6, 0.0)),
    "crisis": ("I16 I674", "4010 4372", (0.0, 0.0), (1.0, 0.7)),
    "vessels": ("I65-I66 I70-I89 T82", "433 440-459", (-0.2, -0.3), (0.5, 1.0)),
    "lung_vessels": ("I26-I28", "415-417", (0.0, 0.0), (-0.5, -0.3)),
    "brain_vessels": ("I60-I64 I67-I69 G45-G46", "430-432 434-438", (-0.3, -0.3), (-0.4, 0.0)),
    "heart_before": (
        "I252 Z867 Z951 Z952 Z953 Z954 Z955 Z958 Z959 Z9861 Z941",
        "412 V125 V421 V422 V432 V433 V4581 V4582 V151",
        (0.2, 0.0),
        (0.2, 0.1),
    ),
    "pacemaker": ("Z950 Z9581 Z450", "V450 V533", (0.0, 0.0), (0.2, 0.2)),
    "chest_pain": ("R07", "7865", (0.0, 0.0), (0.8, 0.6)),
    "sepsis": ("A40-A41 R652 R578 R6521 R6520 R651", "038 9959 78552", (0.2, 0.2), (0.8, 0.0)),
    "shock": ("R57 I95 E86 T782", "7855 458 2765 9950", (-0.2, 0.0), (0.0, 0.2)),
    "infection": ("A00-A39 A42-B99", "001-037 039-139", (0.0, 0.0), (0.0, 0.0)),
    "lung": ("J00-J99 R04-R06 R09 Z99 Z942", "460-519 786", (0.0, 0.0), (-0.3, -0.4)),
    "nerves": ("G00-G44 G47-G99 R40-R47 R55-R56", "320-389 780-784", (-0.5, 0.0), (-0.3, -0.5)),
    "mind": ("F00-F99", "290-319", (-0.2, 0.0), (-1.0, -0.4)),
    "gut": ("K00-K95", "520-579", (0.2, 0.0), (-0.4, -0.7)),
    "diabetes": ("E08-E14", "249-250", (0.0, -0.4), (0.0, -1.6)),
    "metabolism": ("E00-E07 E15-E85 E87-E90", "240-248 251-279", (-0.3, 0.0), (-0.2, -0.5)),
    "kidney": ("N00-N99 R30-R39 Z940", "580-629 788 V420", (0.0, -0.2), (-0.4, -0.7)),
    "blood": ("D50-D89", "280-289", (0.3, 0.4), (0.0, -0.5)),
    "injury": ("S00-S99 T00-T35 T66-T79", "800-959", (0.0, 0.0), (-0.7, -0.6)),
    "poison": ("T36-T65", "960-989", (-0.2, -0.2), (-1.3, -1.1)),
    "joints": ("M00-M99 L00-L99", "680-739", (-0.4, 0.0), (0.0, -0.6)),
    "birth": ("O00-O99", "630-679", (-0.3, -0.3), (-0.8, -0.6)),
}


_FULL: Final = 5.0
"""Points that say all."""


def _table(which: Literal[0, 1]) -> dict[str, str]:
    found: dict[str, str] = {}
    for block, row in _BLOCKS.items():
        for spec in row[which].split():
            first, _, last = spec.partition("-")
            if not last:
                found[first] = block
            elif first.isdigit():
                for i in range(int(first), int(last) + 1):
                    found[str(i).zfill(len(first))] = block
            else:
                a, b = (ord(x[0]) * 100 + int(x[1:]) for x in (first, last))
                for i in range(a, b + 1):
                    found[f"{chr(i // 100)}{i % 100:02d}"] = block
    return found


_TABLES: Final = {"icd10": _table(0), "icd9": _table(1)}


@lru_cache(maxsize=65_536)
def block_of(problem: str) -> str | None:
    """Block of a problem code; "rare" for any Orphanet code, None where it says nothing here."""
    known = parsed(problem)
    if known is None:
        return None
    system, code = known
    if system == "orpha":
        return "rare"
    table = _TABLES[system]
    fit = (table.get(code[:n]) for n in range(len(code), 2, -1))
    return next((block for block in fit if block is not None), None)


def evidence(problems: Iterable[str]) -> tuple[float, float, float]:
    """How much problem codes speak for oncology, for cardiology and for a rare disease.

    The first two are from -1 to 1, 0 where nothing is said: points of the blocks that are there,
    more for that of the first code, which is the reason for admission where a hospital lists it
    first. The last is 1 for any Orphanet code.
    """
    blocks = [block_of(problem) for problem in problems]
    cancer = heart = 0.0
    for block, (_, _, oncology, cardiology) in _BLOCKS.items():
        if block in blocks:
            cancer += oncology[0]
            heart += cardiology[0]
    reason = _BLOCKS.get(blocks[0] or "") if blocks else None
    if reason is not None:
        _, _, oncology, cardiology = reason
        cancer += oncology[1]
        heart += cardiology[1]
    rare = 1.0 if "rare" in blocks else 0.0
    return _graded(cancer), _graded(heart), rare


def _graded(points: float) -> float:
    return min(max(points / _FULL, -1.0), 1.0)
