"""What requests and answers look like; the OpenAPI description is made of these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCAN_ID = "3f2a91c04b7d"


class Strict(BaseModel):
    """A body in which unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid")


class Code(BaseModel):
    """A coded concept."""

    scheme: str = Field(description="Coding scheme; SCT is SNOMED CT.", examples=["SCT"])
    value: str = Field(description="Code in that scheme.", examples=["10200004"])
    meaning: str = Field(description="The same in words.", examples=["Liver"])


class TargetRow(BaseModel):
    """What is looked for."""

    id: int = Field(description="Number of the target, also in drawings.", examples=[1])
    name: str = Field(description="What it is called.", examples=["liver"])
    color: str = Field(description="Color on the page.", examples=["#ef6c5c"])
    prompt: str = Field(description="Words by which it is found; empty where it is shown.", examples=[""])
    code: Code


class NewTarget(Strict):
    """A target to be added."""

    name: str = Field(min_length=1, max_length=100, examples=["liver"])
    prompt: str = Field("", max_length=200, description="Words instead.", examples=["liver tumor"])


class TargetChange(Strict):
    """What is changed of a target."""

    name: str = Field("", max_length=100, examples=["liver"])
    color: str = Field("", pattern="^(#[0-9a-fA-F]{6})?$", examples=["#5c9cf6"])


class ScanTarget(BaseModel):
    """One target in one scan."""

    target: int
    drawn: list[int] = Field(description="Slices z that a person drew or checked.")
    found: bool = Field(description="Whether there is a result.")
    verdict: Literal["accepted", "rejected", "none"]
    presence: float | None = Field(None, description="Score that the target is in the scan at all.")
    volume_ml: float | None = None
    doubt: float | None = Field(None, description="How much a look is worth; more is more.")
    why: str | None = Field(None, description="The reasons to look, in words.")
    worst_slice: int | None = Field(None, description="Slice z to look at first.")
    agreement: float | None = Field(None, description="Dice with the result before.")
    at: str | None = Field(None, description="When it was found.")
    seconds: float | None = None
    examples: list[str] | None = Field(None, description="Digests of the examples it was found by.")


class ScanRow(BaseModel):
    """One scan, as the list shows it."""

    id: str = Field(examples=[SCAN_ID])
    name: str = Field(examples=["ct"])
    added: str
    modality: str = Field(examples=["CT"])
    shape: tuple[int, int, int] = Field(description="Voxels along right, front, head.")
    spacing_mm: tuple[float, float, float]
    dicom: bool = Field(description="Whether a DICOM SEG can refer to it.")
    window: tuple[float, float] = Field(description="Values shown as black and white at first.")
    doubt: float | None = Field(description="The largest doubt of its targets; null where all are judged.")
    targets: list[ScanTarget]


class ProjectRow(BaseModel):
    """The project."""

    name: str
    version: str
    user: str
    targets: list[TargetRow]
    folders: list[str] = Field(description="Folders from which scans may be opened.")


class NewScan(Strict):
    """A scan to be added by its path."""

    path: str = Field(max_length=4096, description="A file, or a folder of one DICOM series.")
    name: str = Field("", max_length=200, description="What it is called; its file name by default.")


class Entry(BaseModel):
    """One entry of a folder."""

    name: str
    path: str
    kind: Literal["folder", "scan"]


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    what: str
    where: str
    fix: str
    sentence: str


class JobRow(BaseModel):
    """Targets to be found in one scan."""

    id: str
    scan: str
    targets: list[int]
    background: bool
    who: str
    state: Literal["queued", "running", "done", "failed", "stopped"]
    stage: str = Field(examples=["finding liver"])
    fraction: float = Field(description="How much is done, from 0 to 1.")
    seconds_left: float | None
    starts: int
    error: JobError | None
    warnings: list[str]
    made: str
    ended: str


class NewJob(Strict):
    """Targets to be found."""

    scans: list[str] = Field(min_length=1, max_length=10_000, examples=[[SCAN_ID]])
    targets: list[int] = Field(min_length=1, max_length=64, examples=[[1]])
    background: bool = False


class VerdictChange(Strict):
    """What a person says of a result."""

    verdict: Literal["accepted", "rejected", "none"]
    learn: bool = Field(True, description="Whether open scans are run again with the new example.")


class Judged(BaseModel):
    """A scan after a verdict, and what runs because of it."""

    scan: ScanRow
    jobs: list[JobRow]


class Undone(BaseModel):
    """What was taken back."""

    target: int | None = Field(description="Null where there was nothing to take back.")
    slices: list[int]


class Comparison(BaseModel):
    """Two results of one target."""

    dice: float = Field(description="Dice of the two.")
    before_ml: float
    after_ml: float
    before_at: str
    after_at: str


class Profile(BaseModel):
    """One target along the slices of a scan."""

    held: list[int] = Field(description="1 where the slice holds the target.")
    doubt: list[int] = Field(description="How much the model doubts on the slice, from 0 to 100.")


class Health(BaseModel):
    """A sign of life."""

    status: Literal["ok"]
    version: str


class Event(BaseModel):
    """One entry of the journal."""

    model_config = ConfigDict(extra="allow")

    number: int
    at: str
    who: str
    what: str
