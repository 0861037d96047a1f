"""Problem codes in the ways hospitals write them, and what they say of the specialties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codes import block_of, evidence, parsed

LUNG = [
    "ICD10:C34.1",
    "icd10:c34.1",
    "ICD-10-CM:C34.1",
    "ICD-10-CM: C34.1",
    "icd10cm/c341",
    "C341",
    " C34.1 ",
    "C34.1 Malignant neoplasm of upper lobe",
    "http://hl7.org/fhir/sid/icd-10-cm|C34.1",
    "urn:oid:2.16.840.1.113883.6.90:C34.1",
    "C34.1^Malignant neoplasm of upper lobe^I10",
]
INFARCTION = ["ICD9:410.71", "41071", "410.71", "ICD-9-CM 410.71", "410.71^AMI^I9C"]
INFARCTION += ["http://hl7.org/fhir/sid/icd-9-cm|410.71", "urn:oid:2.16.840.1.113883.6.103|410.71"]


@pytest.mark.parametrize("problem", LUNG)
def test_a_code_is_read_however_it_is_written(problem: str) -> None:
    """System by name, URL or OID or not at all, with a dot or without, in either case."""
    assert parsed(problem) == ("icd10", "C341")


@pytest.mark.parametrize("problem", INFARCTION)
def test_icd_9_is_read_however_it_is_written(problem: str) -> None:
    """The same for the older edition."""
    assert parsed(problem) == ("icd9", "41071")


@pytest.mark.parametrize("problem", ["ORPHA:558", "orpha558", "ORPHAcode: 558", "Orphanet_558"])
def test_any_orphanet_code_is_a_rare_disease(problem: str) -> None:
    """Also as the address of the ontology's entry."""
    for written in (problem, f"http://www.orpha.net/ORDO/{problem}"):
        assert block_of(written) == "rare"


def test_the_same_letters_mean_what_their_system_says() -> None:
    """V10 is a history of cancer in ICD-9 and a cyclist's accident in ICD-10."""
    assert block_of("V10.11") == block_of("ICD9:V10") == "cancer_before"
    assert block_of("ICD10:V10.1") is None
    assert block_of("38.9") == block_of("ICD9:038.9") == "sepsis"
    assert block_of("E11.9") == "diabetes"
    assert block_of("I25.2") == block_of("V45.81") == block_of("Z95.1") == "heart_before"
    assert block_of("I25.1") == "coronary"
    assert block_of("C78.0") == "cancer_spread"


@pytest.mark.parametrize("problem", ["", ":", "x", "SNOMED:363346000", "lung cancer", "12", "C3"])
def test_what_is_no_code_says_nothing(problem: str) -> None:
    """Nor does a code of another system."""
    assert parsed(problem) is None
    assert evidence([problem]) == (0.0, 0.0, 0.0)


@given(st.lists(st.text(max_size=24), max_size=6))
def test_any_text_is_borne(problems: list[str]) -> None:
    """Evidence stays in its bounds whatever is written."""
    cancer, heart, rare = evidence(problems)
    assert -1.0 <= cancer <= 1.0 and -1.0 <= heart <= 1.0 and rare in (0.0, 1.0)


def test_evidence_is_graded() -> None:
    """A cancer with metastases says more than one alone, that more than a history of one."""
    steps = (["D36.9"], ["Z85.3"], ["C50.9"], ["C50.9", "C79.5"])
    cancer = [evidence(problems)[0] for problems in steps]
    assert cancer == sorted(cancer) and len(set(cancer)) == len(cancer) and cancer[0] > 0.0
    steps = (["E11.9"], ["I10"], ["Z95.1", "I10"], ["I48.9"], ["I21.4"])
    heart = [evidence(problems)[1] for problems in steps]
    assert heart == sorted(heart) and len(set(heart)) == len(heart) and heart[0] < 0.0


def test_the_first_code_is_the_reason_for_admission() -> None:
    """A failing heart counts more as what a patient came for than as what he has."""
    assert evidence(["I50.9", "J18.9"])[1] > evidence(["J18.9", "I50.9"])[1]


def test_a_code_twice_counts_once() -> None:
    """Neither do more codes of one block."""
    assert evidence(["I10", "I10"]) == evidence(["I10", "I11.9"]) == evidence(["I10"])
