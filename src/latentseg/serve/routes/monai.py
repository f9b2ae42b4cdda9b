"""The protocol of MONAI Label, as its clients in 3D Slicer and OHIF speak it."""

from __future__ import annotations

import hmac
import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from latentseg.errors import UsageError
from latentseg.serve import monai
from latentseg.serve.missing import NotHere
from latentseg.serve.paths import safe_name
from latentseg.serve.problems import problem
from latentseg.serve.routes.common import Bench, User
from latentseg.serve.routes.scans import BINARY
from latentseg.serve.scan import Scan
from latentseg.serve.workbench import Workbench

router = APIRouter(prefix="/monai", tags=["monai"])
Image = Annotated[str, Query(max_length=200, description="Id or name of an image.")]
Params = Annotated[str, Form(max_length=100_000, description="A JSON object.")]
Tag = Annotated[str, Query(max_length=80)]
NIFTI = "application/octet-stream"


@router.get("/auth/")
def auth_enabled(request: Request) -> dict[str, bool]:
    """Whether a client has to log in; not where its address holds the token."""
    return {"enabled": not request.scope.get("latentseg.known", False)}


@router.post("/auth/token")
def auth_token(bench: Bench, password: Annotated[str, Form(max_length=500)]) -> JSONResponse:
    """Log in: any user name, with the token of the server as the password."""
    if not hmac.compare_digest(password.encode(), bench.options.token.encode()):
        return problem(401, "the password is not the token of this server", fix="take it from the address")
    return JSONResponse({"access_token": bench.options.token, "token_type": "bearer"})


@router.get("/auth/token/valid")
def auth_valid() -> dict[str, bool]:
    """Whether the token of this request is right: only then there is an answer."""
    return {"valid": True}


@router.get("/info/")
def info(bench: Bench) -> dict[str, Any]:
    """Models, labels, strategies and the datastore."""
    return monai.info(bench)


def the_image(model: str, bench: Bench, image: Image = "", session_id: Image = "") -> Scan:
    """The scan that a request for inference is about."""
    if model != monai.MODEL:
        raise NotHere("no such model", where=model[:80], fix=f"take {monai.MODEL}")
    if not image and not session_id:
        raise UsageError("no image was given", fix="give image= or session_id=")
    return monai.scan_of(bench, session_id or image)


@router.post("/infer/{model}", response_class=Response, responses=BINARY)
def infer(
    scan: Annotated[Scan, Depends(the_image)],
    bench: Bench,
    who: User,
    output: Literal["image", "json", "all", ""] = "",
    params: Params = "{}",
) -> Response:
    """Find targets in an image, and wait for the label map."""
    targets = monai.infer(bench, scan, monai.read_params(params), who=who)
    said = {"label_names": {target.name: number for number, target in enumerate(targets, start=1)}}
    if output == "json":
        return JSONResponse(said)
    label = monai.label_bytes(scan, targets)
    name = f"{scan.id}.nii.gz"
    if output == "image":
        heads = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(label, media_type=NIFTI, headers=heads)
    return two_parts(bytes(JSONResponse(said).body), label, name)


@router.post("/activelearning/{strategy}")
def next_sample(strategy: str, bench: Bench) -> dict[str, Any]:
    """The scan that is most in doubt, whatever strategy is named."""
    del strategy
    return monai.next_sample(bench)


@router.get("/train/", response_model=None)
def train_status(bench: Bench, check_if_running: bool = False) -> Response:
    """Whether scans are run again with new examples."""
    running = [job for job in bench.queue.all() if job.background and job.state in ("queued", "running")]
    if check_if_running and not running:
        return problem(404, "nothing is running")
    return JSONResponse({"status": "RUNNING" if running else "DONE", "details": [job.id for job in running]})


@router.post("/train/")
@router.post("/train/{model}")
def train(bench: Bench, who: User, model: str = monai.MODEL) -> dict[str, Any]:
    """Run open scans again with the newest examples; there is nothing else to train."""
    del model
    return {"status": "RUNNING", "details": [job.id for job in bench.relearn(who=who)]}


@router.delete("/train/")
def train_stop(bench: Bench) -> dict[str, Any]:
    """Stop what runs in the background."""
    bench.queue.stop_background()
    return {"status": "STOPPED"}


@router.get("/scoring/")
def scoring_status() -> dict[str, Any]:
    """Nothing is scored: presence and doubt come with every result."""
    return {"status": "DONE", "details": []}


@router.post("/scoring/{method}")
def scoring(method: str) -> dict[str, Any]:
    """Nothing is scored: presence and doubt come with every result."""
    del method
    return {"status": "DONE", "details": []}


@router.get("/datastore/")
def datastore(bench: Bench, output: Literal["train", "stats", "all", ""] = "stats") -> Any:
    """Images and labels."""
    if output == "all":
        return monai.objects(bench)
    return monai.status(bench)["train"] if output == "train" else monai.status(bench)


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    bench: Bench, who: User, file: Annotated[UploadFile, File()], image: Image = ""
) -> dict[str, str]:
    """Upload an image."""
    return {"image": add(bench, file, name=image, who=who)}


@router.get("/datastore/image", response_class=Response, responses=BINARY)
@router.head("/datastore/image", include_in_schema=False)
def download_image(bench: Bench, image: Image) -> Response:
    """An image as NIfTI on its own grid."""
    return Response(monai.image_bytes(monai.scan_of(bench, image)), media_type=NIFTI)


@router.get("/datastore/image/info")
def image_info(bench: Bench, image: Image) -> dict[str, Any]:
    """What is known of an image."""
    return monai.image_info(monai.scan_of(bench, image))


@router.put("/datastore/label")
def save_label(
    bench: Bench,
    who: User,
    image: Image,
    label: Annotated[UploadFile, File()],
    params: Params = "{}",
    tag: Tag = "",
) -> dict[str, str]:
    """Submit a label map: it is accepted, becomes an example, and open scans are run again."""
    scan = monai.scan_of(bench, image)
    file = received(bench, label)
    try:
        monai.submit(bench, scan, file, monai.read_params(params), who=who)
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
    return {"image": scan.id, "label": scan.id, "tag": tag or "final"}


@router.get("/datastore/label", response_class=Response, responses=BINARY)
def download_label(bench: Bench, label: Image, tag: Tag = "final") -> Response:
    """What stands in an image, as one label map."""
    del tag
    scan = monai.scan_of(bench, label)
    content = monai.label_bytes(scan, bench.project.targets)
    heads = {"Content-Disposition": f'attachment; filename="{scan.id}.nii.gz"'}
    return Response(content, media_type=NIFTI, headers=heads)


@router.put("/session/")
def create_session(bench: Bench, who: User, files: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
    """Upload an image for a session, which is a scan of the project like any other."""
    scan = add(bench, files[0], who=who)
    return {"session_id": scan, "session_info": {"image": scan}}


@router.get("/session/{session}")
def get_session(session: str, bench: Bench) -> dict[str, Any]:
    """A session."""
    return {"image": monai.scan_of(bench, session).id}


@router.delete("/session/{session}")
def remove_session(session: str, bench: Bench, who: User) -> dict[str, Any]:
    """End a session and take its scan out of the project."""
    scan = monai.scan_of(bench, session)
    bench.project.remove_scan(scan.id, who=who)
    bench.engine.drop(scan.id)
    bench.tell_project()
    return {"image": scan.id}


def add(bench: Workbench, upload: UploadFile, *, who: str, name: str = "") -> str:
    """Add an uploaded image and return its id."""
    file = received(bench, upload)
    try:
        scan = bench.project.add_scan(file, who=who, name=name, uploaded=True)
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
    bench.tell_project()
    return scan.id


def received(bench: Workbench, upload: UploadFile) -> Path:
    """Write an uploaded file to a folder of its own."""
    name = safe_name(upload.filename or "image.nii.gz")
    folder = bench.project.incoming / secrets.token_hex(8)
    folder.mkdir()
    with (folder / name).open("wb") as out:
        shutil.copyfileobj(upload.file, out)
    return folder / name


def two_parts(said: bytes, label: bytes, name: str) -> Response:
    """A form of two fields, ``params`` and ``image``."""
    edge = secrets.token_hex(16)
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    )
    middle = (
        f'\r\n--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + said + middle.encode() + label + f"\r\n--{edge}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={edge}")
