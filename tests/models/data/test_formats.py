"""What each format says, value by value."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.data import open_set, physionet2012, physionet2019, read_all
from models.data.problems import from_admission, from_history
from models.signals import INDEX

MINUTE_MS = 60_000
HOUR_MS = 3_600_000


def parsed(*lines):
    head = ("Time,Parameter,Value", "00:00,RecordID,132539")
    return physionet2012.parse("132539.txt", "\n".join([*head, *lines]).encode())


def values(stay, row):
    """Signal name to value of one row."""
    names = {i: n for n, i in INDEX.items()}
    at = stay.row == row
    return {
        names[s]: round(float(v), 4)
        for s, v in zip(stay.signal[at].tolist(), stay.value[at].tolist(), strict=True)
    }


def test_2012_the_admission_form_is_read_and_minus_one_is_missing():
    """Demographics go to the case, not to the values."""
    stay = parsed(
        "00:00,Age,54",
        "00:00,Gender,0",
        "00:00,Height,-1",
        "00:00,ICUType,4",
        "00:00,Weight,76.5",
        "05:10,Weight,80",
        "05:10,HR,-1",
    )

    assert stay.record == "132539"
    assert (stay.case.age_years, stay.case.sex, stay.case.height_cm) == (54, "female", None)
    assert (stay.case.unit_type, stay.case.weight_kg) == ("surgical", 76.5)
    assert stay.times_ms.tolist() == [0, 310 * MINUTE_MS]
    assert stay.value.size == 0


def test_2012_every_distinct_minute_is_one_row_also_past_a_day():
    """Minutes are told apart, in order, up to the 48th hour."""
    stay = parsed("47:59,HR,80", "00:07,HR,70", "00:07,Temp,36.5", "48:00,HR,81")

    assert (stay.times_ms // MINUTE_MS).tolist() == [0, 7, 47 * 60 + 59, 2880]
    assert values(stay, 1) == {"hr": 70, "temp": 36.5}


def test_2012_the_arterial_line_wins_over_the_cuff_in_one_minute():
    """Whichever was written first; a cuff alone counts."""
    stay = parsed(
        "01:00,NISysABP,120",
        "01:00,SysABP,110",
        "02:00,SysABP,111",
        "02:00,NISysABP,121",
        "03:00,NISysABP,122",
    )

    assert [values(stay, row)["sbp"] for row in (1, 2, 3)] == [110, 111, 122]


def test_2012_urine_of_one_minute_adds_up_and_other_repeats_replace():
    """Two collections are one volume; of two readings the later counts."""
    stay = parsed("01:18,Urine,1030", "01:18,Urine,400", "01:18,HR,80", "01:18,HR,90")

    assert values(stay, 1) == {"urine_ml": 1430, "hr": 90}


def test_2012_units_are_those_of_the_catalogue():
    """A pH without its point and a percentage of oxygen are put right."""
    stay = parsed("01:00,pH,735", "01:00,FiO2,50", "02:00,FiO2,0.5", "02:00,TroponinT,0.4")

    assert values(stay, 1) == {"ph": 7.35, "fio2": 0.5}
    assert values(stay, 2) == {"fio2": 0.5, "troponin_t": 0.4}


def test_2012_deaths_come_from_the_outcome_file(recorded, tmp_path):
    """Also where only the archive was named and the outcomes lie beside it."""
    folder = recorded.physionet2012(tmp_path)
    stays = read_all("physionet2012", [folder / "set-a.tar.gz"], labels=True)

    assert [stay.labels.mortality for stay in stays] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_2019_a_row_is_an_hour_and_the_form_is_on_every_row():
    """Times start at admission; Unit1 is medical; HospAdmTime lies before."""
    text = "HR|FiO2|Age|Gender|Unit1|Unit2|HospAdmTime|ICULOS|SepsisLabel\n"
    text += "NaN|NaN|83.14|0|1|0|-1.5|1|0\n97|50|83.14|0|1|0|-1.5|3|1\n"
    stay = physionet2019.parse("p000001.psv", text.encode(), labels=True)

    assert stay.times_ms.tolist() == [0, 2 * HOUR_MS]
    assert values(stay, 0) == {}
    assert values(stay, 1) == {"hr": 97, "fio2": 0.5}
    assert (stay.case.age_years, stay.case.sex, stay.case.unit_type) == (83.14, "female", "medical")
    assert stay.case.hospital_admitted_ms == -5_400_000
    assert stay.labels.sepsis.tolist() == [0, 1]


def test_2019_a_file_without_labels_is_read():
    """Columns are found by name; the label need not be there."""
    stay = physionet2019.parse("p1.psv", b"ICULOS|HR\r\n1|80\r\n2|NaN\r\n")

    assert values(stay, 0) == {"hr": 80}
    assert stay.case.age_years is None
    assert physionet2019.parse("p1.psv", b"ICULOS|HR\n1|80\n", True).labels.sepsis is None


def test_2019_hours_that_do_not_rise_are_refused(tmp_path):
    """A record in disorder is left out rather than guessed at."""
    (tmp_path / "p1.psv").write_text("ICULOS|HR\n2|80\n1|80\n")
    opened = open_set("physionet2019", [tmp_path])

    assert list(opened) == []
    assert "ICULOS" in str(opened.bad[0])


cell = st.one_of(st.just(math.nan), st.floats(-1e4, 1e4, width=32))


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=30))
def test_2019_every_number_comes_back_where_it_stood(rows):
    """Writing a table and reading it gives the table."""
    lines = ["HR|Lactate|Temp|ICULOS"]
    lines += [f"{a!r}|{b!r}|{c!r}|{i + 1}" for i, (a, b, c) in enumerate(rows)]
    stay = physionet2019.parse("p1.psv", "\n".join(lines).encode())
    table = np.full((len(rows), 3), np.nan)
    order = [INDEX["hr"], INDEX["lactate"], INDEX["temp"]]
    for row, signal, value in zip(stay.row, stay.signal, stay.value, strict=True):
        table[row, order.index(signal)] = value

    np.testing.assert_array_equal(table, np.array(rows))
    assert len(stay.times_ms) == len(rows)


def test_eicu_zero_is_missing_and_oxygen_is_a_fraction(recorded, tmp_path):
    """A heart rate of 0 is none; 40 % is 0.4."""
    import pyarrow
    import pyarrow.parquet

    table = {"stay_id": [1, 1], "hour": [0, 3], "hr": [0.0, 80.0], "fio2": [40.0, 21.0]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "hourly.parquet")
    (stay,) = read_all("eicu-demo", [tmp_path])

    assert stay.times_ms.tolist() == [0, 3 * HOUR_MS]
    assert values(stay, 0) == {"fio2": 0.4}
    assert values(stay, 1) == {"hr": 80, "fio2": 0.21}


def test_eicu_the_case_holds_admission_and_history_but_no_later_diagnosis(recorded, tmp_path):
    """Charted diagnoses are labels."""
    stays = read_all("eicu-demo", [recorded.eicu(tmp_path)], labels=True)

    assert stays[0].case.age_years == 90
    assert stays[0].case.problems == ["ICD10:J18.9", "ICD10:J44.9"]
    assert stays[2].case.problems == ["ICD10:C25.9", "ICD10:J44.9"]
    assert stays[3].case.problems == ["ICD10:I21.9", "ICD10:J44.9"]
    assert stays[2].labels.diagnoses == ["oncology|GI tumors"]
    assert (stays[3].labels.mortality, stays[3].labels.hospital) == (1, "2")


def test_problems_are_only_what_the_words_say():
    """Other questions of the form are no diagnosis; a stroke is not a heart disease."""
    start = "admission diagnosis|All Diagnosis|Non-operative|Diagnosis|"

    assert from_admission("admission diagnosis|Elective|Yes") == ()
    assert from_admission(start + "Cardiovascular|Sepsis, pulmonary") == ("ICD10:A41.9",)
    assert from_admission(start + "Neurology|CVA, cerebrovascular accident/stroke") == (
        "ICD10:I63.9",
    )
    assert from_admission(start + "Cardiovascular|something unheard of") == ("ICD10:I51.9",)
    assert from_history("notes/Past History/Performed") == ()
    assert from_admission(start + "Neurology|Coma (for diabetic see X, cardiac arrest see Y)") == (
        "ICD10:R40.2",
    )
    assert from_admission(start + "Cardiovascular|Graft, all other bypass") == ("ICD10:I74.9",)


def test_a_cancer_of_the_past_is_personal_history_unless_it_spread_or_is_treated():
    """As a hospital codes it."""
    start = "notes/X/Organ Systems/Hematology/Oncology (R)/Cancer"

    assert from_history(start + "/Cancer-Primary Site/breast") == ("ICD10:Z85.3",)
    assert from_history(start + "/Metastases/lung") == ("ICD10:C78.0",)
    chemotherapy = " Therapy/Chemotherapy/chemotherapy within past mo."
    assert from_history(start + chemotherapy) == ("ICD10:Z51.1",)
    dementia = "notes/X/Organ Systems/Neurologic/Dementia/dementia"
    assert from_history(dementia) == ("ICD10:F03",)


def test_bidmc_the_pulse_stands_in_for_the_heart_rate(recorded, tmp_path):
    """Where the ECG says nothing the oximeter's pulse is taken."""
    stay = read_all("bidmc", [recorded.bidmc(tmp_path)])[0]

    assert values(stay, 3)["hr"] == 81
    assert stay.times_ms.tolist()[:3] == [0, 1_000, 2_000]
    assert (stay.case.age_years, stay.case.sex, stay.case.unit_type) == (88, "male", "medical")


def test_2009_a_row_is_a_minute_and_the_group_is_the_label(recorded, tmp_path):
    """H1 and C1 are told apart only in the labels."""
    stays = read_all("physionet2009", [recorded.physionet2009(tmp_path)], labels=True)

    assert [stay.labels.diagnoses for stay in stays] == [["H1"], ["C1"]]
    assert stays[0].times_ms.tolist()[:2] == [0, MINUTE_MS]
    assert set(stays[0].signal.tolist()) == {INDEX["map"]}
