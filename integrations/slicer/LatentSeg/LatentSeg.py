"""A module of 3D Slicer that talks to a latentseg server."""

import tempfile
from pathlib import Path

import ctk
import numpy as np
import qt
import slicer
import vtk
from latentseg_rest import Refused, Server, from_view, to_view
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

ABOUT = """Paint a structure on one slice, or a few, and press Find. Correct the slice that is most wrong, and
press Find again. What you accept becomes an example for the other scans of the server's project.
Start a server with `latentseg serve` and paste the address that it prints. For research use."""
SETTING = "LatentSeg/address"
POLL_MS = 500


class LatentSeg(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "latentseg"
        parent.categories = ["Segmentation"]
        parent.contributors = ["The latentseg authors"]
        parent.helpText = ABOUT


class LatentSegWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        """Build the panel."""
        super().setup()
        self.logic = LatentSegLogic()
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.poll)
        self.buildServer()
        self.buildWork()
        self.layout.addStretch(1)

    def cleanup(self):
        """Stop asking the server."""
        self.timer.stop()

    def buildServer(self):
        """Where the server is, and how to get one."""
        box = ctk.ctkCollapsibleButton()
        box.text = "Server"
        form = qt.QFormLayout(box)
        self.address = qt.QLineEdit(qt.QSettings().value(SETTING, ""))
        self.address.setPlaceholderText("http://127.0.0.1:8471/#token=...")
        form.addRow("Address", self.address)
        install = qt.QPushButton("Install dependencies")
        install.toolTip = "Installs latentseg into the Python of Slicer, to start a server from here."
        install.connect("clicked()", self.onInstall)
        form.addRow(install)
        self.layout.addWidget(box)

    def buildWork(self):
        """Scan, segmentation, and the buttons."""
        box = ctk.ctkCollapsibleButton()
        box.text = "Find"
        form = qt.QFormLayout(box)
        self.volume = self.selector("vtkMRMLScalarVolumeNode", form, "Scan")
        self.segmentation = self.selector("vtkMRMLSegmentationNode", form, "Segmentation")
        self.segment = slicer.qMRMLSegmentsTableView()
        self.segment.setMRMLScene(slicer.mrmlScene)
        self.segmentation.connect("currentNodeChanged(vtkMRMLNode*)", self.segment.setSegmentationNode)
        form.addRow(self.segment)
        self.findButton = self.button("Find the chosen segment in this scan", self.onFind, form)
        self.stopButton = self.button("Stop", self.onStop, form)
        self.acceptButton = self.button("Accept: use it as an example", self.onAccept, form)
        self.progress = qt.QProgressBar()
        form.addRow(self.progress)
        self.stopButton.enabled = False
        self.layout.addWidget(box)

    def selector(self, kind, form, name):
        """A list of the nodes of one class."""
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes = [kind]
        box.noneEnabled, box.addEnabled = True, kind == "vtkMRMLSegmentationNode"
        box.setMRMLScene(slicer.mrmlScene)
        form.addRow(name, box)
        return box

    def button(self, text, action, form):
        """A button in a form."""
        made = qt.QPushButton(text)
        made.connect("clicked()", action)
        form.addRow(made)
        return made

    def onInstall(self):
        """Install latentseg, after asking."""
        question = "Install latentseg and its dependencies (about 1 GB) into the Python of Slicer?"
        if slicer.util.confirmYesNoDisplay(question):
            with slicer.util.displayPythonShell(), slicer.util.WaitCursor():
                slicer.util.pip_install("latentseg[serve,dicom]")

    def onFind(self):
        """Send what was painted, and ask for the rest."""
        with slicer.util.tryWithErrorDisplay("latentseg", waitCursor=True):
            qt.QSettings().setValue(SETTING, self.address.text)
            self.logic.connect(self.address.text)
            self.logic.begin(self.volume.currentNode(), self.segmentation.currentNode(), self.chosen())
            self.stopButton.enabled, self.findButton.enabled = True, False
            self.timer.start()

    def onStop(self):
        """Stop the job."""
        with slicer.util.tryWithErrorDisplay("latentseg"):
            self.logic.stop()

    def onAccept(self):
        """Accept what stands."""
        with slicer.util.tryWithErrorDisplay("latentseg"):
            self.logic.accept()
            slicer.util.showStatusMessage("Accepted. Open scans of the project are searched again.", 5000)

    def chosen(self):
        """The segment that is selected."""
        ids = self.segment.selectedSegmentIDs()
        if not ids:
            raise Refused("Choose a segment in the table first.")
        return ids[0]

    def poll(self):
        """Ask how far the job is."""
        with slicer.util.tryWithErrorDisplay("latentseg"):
            try:
                job = self.logic.poll()
            except Refused:
                self.ended()  # else the same message would come twice a second
                raise
            self.progress.value = round(100 * job["fraction"])
            self.progress.format = job["stage"]
            if job["state"] in ("queued", "running"):
                return
            self.ended()
            if job["state"] == "failed":
                raise Refused(job["error"]["sentence"])
            if job["state"] == "done":
                self.logic.show()

    def ended(self):
        """Nothing is searched any more."""
        self.timer.stop()
        self.stopButton.enabled, self.findButton.enabled = False, True


class LatentSegLogic(ScriptedLoadableModuleLogic):
    """One scan, one segment and one job at a time."""

    def __init__(self):
        super().__init__()
        self.server = None
        self.scans = {}  # rows of the server, by the id of the volume
        self.seen = {}  # what the server and Slicer agree on, by (volume, target)
        self.now = None

    def connect(self, address):
        """Take an address; what was uploaded to another server does not count."""
        if self.server is None or (self.server.base, self.server.token) != (
            Server(address).base,
            Server(address).token,
        ):
            self.server, self.scans, self.seen = Server(address), {}, {}
        self.server.json("GET", "/api/project")

    def begin(self, volume, segmentation, segment):
        """Upload the scan where it is new, send the slices that changed, and start a job."""
        if volume is None or segmentation is None:
            raise Refused("Choose a scan and a segmentation first.")
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        ras = slicer.util.arrayFromVTKMatrix(matrix)
        if volume.GetID() not in self.scans:
            self.scans[volume.GetID()] = self.upload(volume)
        scan = self.scans[volume.GetID()]
        name = segmentation.GetSegmentation().GetSegment(segment).GetName()
        target = self.server.target(name)
        painted = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume)
        mask = to_view(painted, ras) > 0
        before = self.seen.get((volume.GetID(), target), np.zeros_like(mask))
        changed = np.flatnonzero((mask != before).any((0, 1)))
        if changed.size:
            self.server.draw(scan["id"], target, {int(z): mask[:, :, z] for z in changed})
        (job,) = self.server.find([scan["id"]], target)
        self.now = (volume, segmentation, segment, ras, scan, target, job["id"])

    def upload(self, volume):
        """Send a volume as NIfTI."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scan.nii.gz"
            slicer.util.saveNode(volume, str(path))
            return self.server.upload(volume.GetName() + ".nii.gz", path.read_bytes())

    def poll(self):
        """How far the job is."""
        return self.server.job(self.now[-1])

    def stop(self):
        """Stop the job."""
        if self.now:
            self.server.stop(self.now[-1])

    def accept(self):
        """Accept what stands."""
        if not self.now:
            raise Refused("Press Find first.")
        self.server.judge(self.now[4]["id"], self.now[5], "accepted")

    def show(self):
        """Put what was found into the segment."""
        volume, segmentation, segment, ras, scan, target, _ = self.now
        mask = self.server.mask(scan["id"], target, tuple(scan["shape"]))
        self.seen[volume.GetID(), target] = mask
        voxels = from_view(mask, ras).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, segment, volume)


class LatentSegTest(ScriptedLoadableModuleTest):
    """What can be tested without a server."""

    def runTest(self):
        """The way to the view frame and back."""
        rng = np.random.default_rng(0)
        array = rng.integers(0, 9, (3, 4, 5))
        ras = np.diag([-1.0, -1.0, 2.0, 1.0])
        assert np.array_equal(from_view(to_view(array, ras), ras), array)
        self.delayDisplay("The way to the view frame and back is exact")
