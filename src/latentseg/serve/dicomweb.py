"""Series from a DICOMweb server, and results back to it: QIDO to list, WADO to fetch, STOW to store.

The server is the one that was named at the start; no request chooses another.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentseg.errors import InputError, UsageError
from latentseg.serve.settings import Limits

TAGS = {
    "patient": "00100020",
    "date": "00080020",
    "modality": "00080060",
    "description": "0008103E",
    "study": "0020000D",
    "series": "0020000E",
    "instances": "00201209",
}
NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "RTPLAN")
MOST_LISTED = 200


class Archive:
    """A DICOMweb server.

    Args:
        address: Root of its services, such as ``http://127.0.0.1:8042/dicom-web``.
        limits: What is refused.
    """

    def __init__(self, address: str, limits: Limits) -> None:
        self.address, self.limits = address, limits

    def client(self) -> Any:
        """A client for it.

        Raises:
            UsageError: dicomweb-client is not installed.
        """
        try:
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            fix = "pip install 'latentseg[serve]'"
            raise UsageError("DICOMweb needs dicomweb-client", fix=fix) from error
        made = DICOMwebClient(url=self.address)
        made.set_http_retry_params(retry=False)  # somebody waits, and would wait half a minute
        return made

    def series(self, *, patient: str = "") -> list[dict[str, Any]]:
        """The series with images, of one patient or of all.

        Raises:
            InputError: The server does not answer.
        """
        wanted = {"PatientID": patient} if patient else {}
        with answering(self.address):
            found = self.client().search_for_series(
                search_filters=wanted,
                fields=["PatientID", "StudyDate", "SeriesDescription", "NumberOfSeriesRelatedInstances"],
                limit=MOST_LISTED,
            )
        rows = [{name: value_of(row, tag) for name, tag in TAGS.items()} for row in found]
        return [row for row in rows if row["modality"] not in NO_IMAGES]

    def fetch(self, study: str, series: str, folder: Path) -> Path:
        """Fetch a series as one archive of DICOM files.

        Raises:
            InputError: The server does not answer, has no such series, or the series is too large.
        """
        path, total = folder / f"{series}.zip", 0
        with answering(self.address), zipfile.ZipFile(path, "w") as archive:
            for number, dataset in enumerate(self.client().iter_series(study, series)):
                stream = io.BytesIO()
                dataset.save_as(stream, enforce_file_format=True)
                total += len(stream.getvalue())
                if total > self.limits.upload_bytes:
                    raise InputError("the series is too large", where=series, fix="raise --max-upload-mb")
                archive.writestr(f"{number}.dcm", stream.getvalue())
        if not total:
            raise InputError("the server has no such series", where=series, fix="list its series again")
        return path

    def store(self, content: bytes) -> None:
        """Store one DICOM object.

        Raises:
            InputError: The server does not answer, or refuses it.
        """
        import pydicom

        dataset = pydicom.dcmread(io.BytesIO(content))
        with answering(self.address):
            answer = self.client().store_instances([dataset])
        if getattr(answer, "FailedSOPSequence", None):
            raise InputError("the DICOMweb server refused the object", where=self.address, fix="see its log")


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Turn what a client raises into one sentence.

    Raises:
        InputError: The server does not answer as it should.
    """
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except InvalidDicomError as error:  # Orthanc's answer for a series that it does not have
        what, fix = "the DICOMweb server sent no DICOM", "list its series again"
        raise InputError(what, where=address, fix=fix) from error
    except OSError as error:  # as all errors of requests are
        what = f"the DICOMweb server does not answer as it should ({type(error).__name__})"
        raise InputError(what, where=address, fix="check --dicomweb and the server") from error


def value_of(row: dict[str, Any], tag: str) -> str:
    """The first value of an attribute of DICOM JSON, as text."""
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])
