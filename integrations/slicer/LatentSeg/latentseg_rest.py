"""The REST interface of a latentseg server, with the standard library and numpy alone, and the view frame."""

import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

PATIENCE_S = 120  # an upload of a large scan takes some time


class Refused(Exception):  # noqa: N818 - the name says what happened
    """The server refused; the text is its sentence."""


class Server:
    """A server that `latentseg serve` started.

    Args:
        address: The printed address, with the token after `#token=`.
    """

    def __init__(self, address):
        base, _, token = address.strip().partition("#token=")
        self.base, self.token = base.rstrip("/"), token
        if not self.base.startswith(("http://", "https://")):
            raise Refused("This is not the address of a server. Paste what latentseg serve printed.")

    def ask(self, method, path, body=None, kind="application/json"):
        """The bytes of an answer."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        request = urllib.request.Request(self.base + path, data=data, method=method)  # noqa: S310 - http
        request.add_header("Authorization", "Bearer " + self.token)
        if data is not None:
            request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - http
                return answer.read()
        except urllib.error.HTTPError as error:
            try:
                sentence = json.loads(error.read())["sentence"]
            except (ValueError, KeyError):
                sentence = f"The server answered {error.code}."
            raise Refused(sentence) from error
        except (OSError, ValueError) as error:
            raise Refused(
                "The server does not answer. Is latentseg serve running at this address?"
            ) from error

    def json(self, method, path, body=None):
        """An answer that is JSON."""
        content = self.ask(method, path, body)
        return json.loads(content) if content else None

    def upload(self, name, content):
        """Upload a scan and return its row."""
        path = "/api/scans/upload?name=" + urllib.parse.quote(name)
        return json.loads(self.ask("POST", path, content, "application/octet-stream"))

    def target(self, name):
        """The number of a target; it is added where there is none of that name."""
        for row in self.json("GET", "/api/project")["targets"]:
            if row["name"].casefold() == name.casefold():
                return row["id"]
        return self.json("POST", "/api/targets", {"name": name})["id"]

    def draw(self, scan, target, slices):
        """Send slices as a person drew them: masks (X, Y) by z, in the view frame."""
        numbers = sorted(slices)
        voxels = b"".join(slices[z].astype(np.uint8).tobytes(order="F") for z in numbers)
        path = f"/api/scans/{scan}/drawings/{target}?slices={','.join(map(str, numbers))}"
        return json.loads(self.ask("PUT", path, voxels, "application/octet-stream"))

    def find(self, scans, target):
        """Ask for a target in scans and return the jobs."""
        return self.json("POST", "/api/jobs", {"scans": scans, "targets": [target]})

    def job(self, name):
        """How far a job is."""
        return self.json("GET", "/api/jobs/" + name)

    def stop(self, name):
        """Stop a job."""
        return self.json("DELETE", "/api/jobs/" + name)

    def judge(self, scan, target, verdict):
        """Accept or reject what stands."""
        return self.json("PUT", f"/api/scans/{scan}/verdicts/{target}", {"verdict": verdict})

    def mask(self, scan, target, shape):
        """What stands, (X, Y, Z) in the view frame."""
        content = self.ask("GET", f"/api/scans/{scan}/masks/{target}")
        box = np.frombuffer(content[:24], "<u4").reshape(3, 2).astype(int)
        mask = np.zeros(shape, bool)
        inside = np.frombuffer(content[24:], np.uint8)
        at = tuple(slice(low, high) for low, high in box)
        mask[at] = inside.reshape([high - low for low, high in box], order="F")
        return mask


def view_axes(ijk_to_ras):
    """Which axis of the voxels runs along R, A and S, and whether it runs the other way."""
    from itertools import permutations

    cosines = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda p: round(sum(abs(cosines[w, p[w]]) for w in range(3)), 9))
    return best, tuple(axis for axis in range(3) if cosines[axis, best[axis]] < 0)


def to_view(array_kji, ijk_to_ras):
    """Voxels as Slicer has them, (K, J, I), in the view frame of the server, (X, Y, Z)."""
    axes, flips = view_axes(np.asarray(ijk_to_ras, float))
    return np.flip(np.transpose(np.transpose(array_kji), axes), flips)


def from_view(array_xyz, ijk_to_ras):
    """The reverse of to_view."""
    axes, flips = view_axes(np.asarray(ijk_to_ras, float))
    return np.ascontiguousarray(np.transpose(np.transpose(np.flip(array_xyz, flips), np.argsort(axes))))
