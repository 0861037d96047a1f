"""Tiny made-up recorded sets in the published formats, written on the fly: no patient's data.

Each writer makes a folder as a user would download it and returns it. Values are random but
plausible; septic and dying patients are told apart by their numbers, so that a network can learn
something from them.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

COLUMNS_2019 = [
    "HR",
    "O2Sat",
    "Temp",
    "SBP",
    "MAP",
    "DBP",
    "Resp",
    "EtCO2",
    "BaseExcess",
    "HCO3",
    "FiO2",
    "pH",
    "PaCO2",
    "SaO2",
    "AST",
    "BUN",
    "Alkalinephos",
    "Calcium",
    "Chloride",
    "Creatinine",
    "Bilirubin_direct",
    "Glucose",
    "Lactate",
    "Magnesium",
    "Phosphate",
    "Potassium",
    "Bilirubin_total",
    "TroponinI",
    "Hct",
    "Hgb",
    "PTT",
    "WBC",
    "Fibrinogen",
    "Platelets",
    "Age",
    "Gender",
    "Unit1",
    "Unit2",
    "HospAdmTime",
    "ICULOS",
    "SepsisLabel",
]
_USUAL = {
    "HR": (85, 12),
    "O2Sat": (97, 2),
    "Temp": (36.9, 0.5),
    "SBP": (122, 15),
    "MAP": (82, 10),
    "DBP": (64, 8),
    "Resp": (18, 3),
    "FiO2": (0.4, 0.1),
    "pH": (7.38, 0.05),
    "Lactate": (1.6, 0.5),
    "WBC": (10, 3),
    "Creatinine": (1.1, 0.4),
    "Platelets": (210, 60),
}


def physionet2019(folder: Path, patients: int = 6, hours: int = 12, seed: int = 0) -> Path:
    """Two zips, one a hospital; every third patient turns septic and shows it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for hospital, first in (("A", 1), ("B", 100001)):
        with zipfile.ZipFile(folder / f"training_set{hospital}.zip", "w") as archive:
            for k in range(patients):
                septic = k % 3 == 2
                text = patient2019(rng, hours, onset=hours // 2 if septic else None)
                archive.writestr(f"training_set{hospital}/p{first + k:06d}.psv", text)
    return folder


def patient2019(rng: np.random.Generator, hours: int, onset: int | None = None) -> str:
    """One patient's file."""
    age, gender, adm = round(rng.uniform(20, 90), 2), rng.integers(0, 2), -rng.uniform(0, 40)
    unit = rng.integers(0, 3)
    units = ("NaN|NaN", "1|0", "0|1")[unit]
    lines = ["|".join(COLUMNS_2019)]
    for hour in range(hours):
        sick = 0.0 if onset is None else max(0.0, (hour - onset + 6) / 6)
        cells = []
        for column in COLUMNS_2019[:34]:
            if column not in _USUAL or rng.random() < 0.3:
                cells.append("NaN")
                continue
            mean, spread = _USUAL[column]
            lean = {"HR": 2.0, "Resp": 2.0, "Temp": 2.0, "MAP": -2.0, "SBP": -1.5, "Lactate": 3.0}
            value = mean + spread * (rng.normal() + sick * lean.get(column, 0.0))
            cells.append(f"{min(value, 100) if column == 'O2Sat' else value:.4g}")
        label = int(onset is not None and hour >= onset)
        cells += [str(age), str(gender), units, f"{adm:.2f}", str(hour + 1), str(label)]
        lines.append("|".join(cells))
    return "\n".join(lines) + "\n"


def physionet2012(folder: Path, stays: int = 8, seed: int = 0) -> Path:
    """`set-a.tar.gz` and `Outcomes-a.txt`; every fourth patient dies and looks ill."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    with tarfile.open(folder / "set-a.tar.gz", "w:gz") as archive:
        for k in range(stays):
            record, died = 132539 + k, k % 4 == 3
            content = stay2012(rng, record, died).encode()
            entry = tarfile.TarInfo(f"set-a/{record}.txt")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            outcomes.append(f"{record},6,1,5,-1,{int(died)}")
    (folder / "Outcomes-a.txt").write_text("\n".join(outcomes) + "\n")
    return folder


def stay2012(rng: np.random.Generator, record: int, died: bool) -> str:
    """One stay's file: 48 h, a reading about every hour."""
    lines = [
        "Time,Parameter,Value",
        f"00:00,RecordID,{record}",
        f"00:00,Age,{rng.integers(20, 90)}",
        f"00:00,Gender,{rng.integers(0, 2)}",
        "00:00,Height,-1",
        f"00:00,ICUType,{record % 4 + 1}",
        f"00:00,Weight,{rng.uniform(50, 110):.1f}",
    ]
    for hour in range(48):
        at = f"{hour:02d}:{rng.integers(1, 60):02d}"
        lines += [
            f"{at},HR,{rng.normal(115 if died else 80, 8):.0f}",
            f"{at},NISysABP,{rng.normal(92 if died else 125, 8):.0f}",
            f"{at},NIDiasABP,{rng.normal(60, 5):.0f}",
            f"{at},NIMAP,{rng.normal(62 if died else 85, 5):.2f}",
        ]
        if hour % 6 == 0:
            lines += [
                f"{at},GCS,{6 if died else 15}",
                f"{at},Urine,{rng.integers(10, 400)}",
                f"{at},Temp,{rng.normal(36.9, 0.3):.1f}",
                f"{at},Lactate,{rng.normal(5 if died else 1.4, 0.3):.1f}",
            ]
    return "\n".join(lines) + "\n"


def eicu(folder: Path, stays: int = 6, hours: int = 10, seed: int = 0) -> Path:
    """`hourly.parquet` and the admission's tables; stay 3 has cancer, stay 4 a heart attack."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.repeat(np.arange(1001, 1001 + stays, dtype=np.int32), hours)
    table: dict[str, object] = {
        "stay_id": ids,
        "hour": np.tile(np.arange(hours, dtype=np.int32), stays),
    }
    for name, mean in {
        "hr": 85,
        "sbp": 120,
        "map": 80,
        "resp": 18,
        "o2sat": 97,
        "fio2": 40,
    }.items():
        values = rng.normal(mean, 3, len(ids)).astype(np.float32)
        values[rng.random(len(ids)) < 0.2] = np.nan
        table[name] = values
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "hourly.parquet")
    patients = [
        "patientunitstayid,gender,age,hospitalid,admissionheight,hospitaladmitoffset,"
        "hospitaldischargestatus,unittype,admissionweight"
    ]
    diagnoses = ["patientunitstayid,diagnosisstring"]
    admissions = ["patientunitstayid,admitdxpath"]
    histories = ["patientunitstayid,pasthistorypath"]
    start = "admission diagnosis|All Diagnosis|Non-operative|Diagnosis|"
    for k in range(stays):
        stay = 1001 + k
        status = "Expired" if k % 4 == 3 else "Alive"
        patients.append(
            f"{stay},Female,{'> 89' if k == 0 else 60 + k},{k % 2 + 1},165,-90,{status},MICU,70"
        )
        name = {
            2: "Gastrointestinal|Cancer, pancreatic",
            3: "Cardiovascular|Infarction, acute myocardial (MI)",
        }
        admissions.append(f'{stay},"{start}{name.get(k, "Respiratory|Pneumonia, bacterial")}"')
        histories.append(f"{stay},notes/Past History/Organ Systems/Pulmonary/COPD/COPD  - severe")
        diagnoses.append(f"{stay},{'oncology|GI tumors' if k == 2 else 'pulmonary|pneumonia'}")
    for name, rows in (
        ("patient", patients),
        ("admissionDx", admissions),
        ("pastHistory", histories),
        ("diagnosis", diagnoses),
    ):
        (folder / f"{name}.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    return folder


def bidmc(folder: Path, patients: int = 2, seconds: int = 30, seed: int = 0) -> Path:
    """`bidmc_numerics.zip`: 1 Hz numerics and a form each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "bidmc_numerics.zip", "w") as archive:
        archive.writestr("bidmc_csv/LICENSE", "made up")
        for k in range(1, patients + 1):
            archive.writestr(
                f"bidmc_csv/bidmc_{k:02d}_Fix.txt",
                f"bidmc_{k:02d}\nAge: 88\nGender: M\nLocation: micu\n",
            )
            rows = ["Time [s], HR, PULSE, RESP, SpO2"]
            for second in range(seconds):
                heart = "NaN" if second % 10 == 3 else f"{rng.normal(80, 2):.0f}"
                rows.append(f"{second},{heart},81,{rng.normal(16, 1):.0f},97")
            archive.writestr(f"bidmc_csv/bidmc_{k:02d}_Numerics.csv", "\n".join(rows))
    return folder


def physionet2009(folder: Path, minutes: int = 90, seed: int = 0) -> Path:
    """`map_1min.zip`: one record with an episode of low pressure, one without."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "map_1min.zip", "w") as archive:
        for name, low in (("H1_1", True), ("C1_1", False)):
            pressure = rng.normal(75, 2, minutes)
            if low:
                pressure[minutes // 2 :] -= 25
            rows = [f"{i},{v:.1f}" for i, v in enumerate(pressure)]
            archive.writestr(f"map_1min/{name}.csv", "\n".join(["minute,map_mmHg", *rows]))
    return folder


WRITERS = {
    "physionet2012": physionet2012,
    "physionet2019": physionet2019,
    "eicu-demo": eicu,
    "bidmc": bidmc,
    "physionet2009": physionet2009,
}
