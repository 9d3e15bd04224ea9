"""The report page in a real Chromium, driven over the DevTools protocol through a pipe (standard library only)."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import signal
import time
from urllib.parse import unquote

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, make_supercell
from ase.cluster import Icosahedron, Octahedron

from thalweg.report import Confidence, Minimum, Progress, Reference, ReportData, write_report

ANSWER_WITHIN = 30.0  # seconds for one command; a cold browser on a busy machine takes several


class Chromium:
    """A headless browser; `page` opens a tab. Commands go to file descriptor 3 and answers come from 4, NUL-ended."""

    def __init__(self, binary: str, profile):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        # Away from 3 and 4, so that neither copy overwrites the other's source.
        child_in, child_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (to_read, from_write))
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, child_in, 3), (os.POSIX_SPAWN_DUP2, child_out, 4)]
        arguments = [
            *(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"),
        ]
        self.pid = os.posix_spawn(binary, arguments, os.environ, file_actions=quiet + pipes, setpgroup=0)
        for fd in (to_read, from_write, child_in, child_out):
            os.close(fd)
        self.write_fd, self.read_fd, self.pending, self.count = to_write, from_read, b"", 0
        self.events: list[dict] = []

    def send(self, method: str, session: str | None = None, **params) -> dict:
        """Result of one command; events that come first are kept in `events`."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_WITHIN
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self, end: float, waiting_for: str) -> dict:
        while b"\0" not in self.pending:
            ready = select.select([self.read_fd], [], [], max(0.0, end - time.monotonic()))[0]
            part = os.read(self.read_fd, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"Chromium gave no answer to {waiting_for}")
            self.pending += part
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def close(self):
        try:
            self.send("Browser.close")
        except (TimeoutError, OSError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.write_fd)
        os.close(self.read_fd)

    def page(self, path, width=1200, height=1000, dark=False, scripts=True) -> "Page":
        """A tab that has loaded the file."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        phone = width < 600
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        page.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.send("Page.navigate", url=path.as_uri())
        end = time.monotonic() + ANSWER_WITHIN
        while not any(e["method"] == "Page.loadEventFired" for e in page.events()):
            self.events.append(self._next(end, "the load of the page"))
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str, target: str):
        self.browser, self.session, self.target = browser, session, target

    def send(self, method: str, **params) -> dict:
        return self.browser.send(method, self.session, **params)

    def events(self) -> list[dict]:
        return [e for e in self.browser.events if e.get("sessionId") == self.session]

    def value(self, expression: str):
        """Value of a JavaScript expression, promises awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def painted(self):
        """Wait until what was asked for is on the canvas (two frames), then give the viewer's report of itself."""
        return self.value(
            "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() =>"
            " r(Object.assign({}, document.getElementById('viewer').dataset)))))"
        )

    def box(self, selector: str) -> dict:
        """Place of an element in the window, scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        return self.value(f"(r => ({{x: r.x, y: r.y, width: r.width, height: r.height}}))({element}.getBoundingClientRect())")

    def mouse(self, kind: str, x: float, y: float, **more):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str):
        """A click of the mouse, as a hand would do it."""
        b = self.box(selector)
        x, y = b["x"] + b["width"] / 2, b["y"] + b["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", buttons=1, clickCount=1)

    def pixels(self, selector: str) -> np.ndarray:
        """Screenshot of an element, (rows, columns, 3) bytes."""
        import matplotlib.image

        b = self.box(selector)
        scroll = self.value("[scrollX, scrollY]")
        clip = {**b, "x": b["x"] + scroll[0], "y": b["y"] + scroll[1], "scale": 1}
        png = base64.b64decode(self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])
        return (255 * matplotlib.image.imread(io.BytesIO(png))[..., :3]).round().astype(int)

    def trouble(self) -> list[str]:
        """Everything that went wrong or reached for the network."""
        found = []
        for e in self.events():
            if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(e["params"]))
            if e["method"] == "Network.requestWillBeSent":
                url = e["params"]["request"]["url"]
                if not url.startswith(("file:", "data:")):
                    found.append(url)
        return found

    def close(self):
        self.browser.send("Target.closeTarget", targetId=self.target)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        if os.environ.get("THALWEG_REQUIRE_BROWSER") == "1":
            pytest.fail("THALWEG_REQUIRE_BROWSER=1, but no Chromium on this machine")
        pytest.skip("no Chromium on this machine")
    chromium = Chromium(binary, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def alloy(seed: int) -> Minimum:
    """An Ag-Au icosahedron of 55 atoms with species at random; the energy is only a label."""
    atoms = Icosahedron("Au", 3)
    numbers = atoms.numbers.copy()
    numbers[np.random.default_rng(seed).permutation(55)[:20]] = 47
    return Minimum(-180.5 + 0.1 * seed, 9 - seed, 3, "swap", 1000, atoms.positions, numbers)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with three alloy icosahedra of 55 atoms and one truncated octahedron of 38."""
    octahedron = Octahedron("Au", 4, cutoff=1)
    minima = (*(alloy(k) for k in range(3)), Minimum(-178.0, 1, 1, "random", 5, octahedron.positions, octahedron.numbers))
    steps = np.array([10.0, 200.0, 5000.0])
    path = tmp_path_factory.mktemp("page") / "report.html"
    data = ReportData(
        title='Ag20Au35 </script><img src=x onerror="throw 1">',
        formula="Ag20Au35",
        n_atoms=55,
        minima=minima,
        progress=Progress(steps, steps / 100, np.array([-170.0, -178.0, -180.5]), steps / 5, np.array([1, 2, 4])),
        confidence=Confidence(3, 10, 0.02, "An estimator.", ("An assumption.",)),
        reference=Reference(-180.5, "nobody"),
    )
    write_report(path, data)
    return path, minima


def periodic(atoms, energy: float) -> Minimum:
    """A minimum in a cell; all its atoms are moved, so that some lie outside."""
    return Minimum(energy, 2, 1, "swap", 9, atoms.positions + 0.4, atoms.numbers, atoms.cell.array, tuple(map(bool, atoms.pbc)))


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """A page with silicon in a cube of 64 atoms, a triclinic cell of two species and a slab."""
    silicon = bulk("Si", "diamond", a=5.431, cubic=True).repeat(2)
    mixture = make_supercell(bulk("Ar", "fcc", a=3.1), [[2, 0, 0], [1, 3, 0], [-1, 1, 4]])
    mixture.numbers[::4] = 10
    slab = fcc111("Cu", (4, 4, 3), vacuum=6.0, periodic=True)
    slab.pbc = (True, True, False)
    minima = tuple(periodic(a, -3.0 + k) for k, a in enumerate((silicon, mixture, slab)))
    path = tmp_path_factory.mktemp("crystals") / "report.html"
    write_report(path, ReportData(title="Crystals", formula="Si64", n_atoms=64, minima=minima))
    return path, minima


def test_crystals_are_drawn_in_their_cells(browser, crystals):
    """All atoms, the twelve edges, the cell in the download. Bonds: four for each silicon atom, twelve for copper within the
    slab and nine on its faces; those of the mixture depend on radii and are not counted."""
    page = browser.page(crystals[0])
    for k, (minimum, bonds) in enumerate(zip(crystals[1], (64 * 4 / 2, None, (16 * 12 + 32 * 9) / 2), strict=True)):
        page.click(f'button[data-show="{k}"]')
        seen = page.painted()
        assert (seen["atoms"], seen["edges"]) == (str(len(minimum.numbers)), "12")
        if bonds:
            assert int(seen["bonds"]) + int(seen["stubs"]) / 2 == bonds
        assert int(seen["stubs"]) > 0
        text = unquote(page.value("document.getElementById('download').href").partition(",")[2])
        atoms = next(ase.io.iread(io.StringIO(text), format="extxyz"))
        np.testing.assert_allclose(atoms.cell.array, minimum.cell, atol=1e-7)
        assert tuple(atoms.pbc) == minimum.pbc
        gaps = (atoms.positions - minimum.positions) @ np.linalg.inv(minimum.cell)
        np.testing.assert_allclose(gaps, np.round(gaps), atol=1e-6)
        assert "cell " in page.value("document.querySelector('#viewer figcaption').textContent")
        image = page.pixels("#viewer canvas")
        assert 0.05 < (np.abs(image - image[3, 3]).sum(-1) > 60).mean() < 0.9
    assert page.trouble() == []
    page.close()


@pytest.fixture
def page(browser, report):
    opened = browser.page(report[0])
    yield opened
    assert opened.trouble() == []
    assert opened.value("document.documentElement.dataset.errors || 'none'") == "none"
    opened.close()


def test_draws_every_atom_and_bond(page):
    """A 55-atom Mackay icosahedron has 234 nearest-neighbour contacts (Doye, Wales and Berry, doi:10.1063/1.470729)."""
    from ase.neighborlist import neighbor_list

    seen = page.painted()
    assert (seen["minimum"], seen["atoms"]) == ("1", "55")
    contacts = len(neighbor_list("i", Icosahedron("Au", 3), 1.25 * 2.884)) // 2
    assert int(seen["bonds"]) == contacts == 234


def test_picture_is_not_blank(page):
    page.painted()
    image = page.pixels("#viewer canvas")
    corner = image[3, 3]
    drawn = (np.abs(image - corner).sum(-1) > 60).mean()
    assert 0.15 < drawn < 0.9
    red, _, blue = np.moveaxis(image, -1, 0)
    assert ((red - blue) > 80).mean() > 0.02, "no gold (jmol #ffd123) in the picture"
    grey = (np.ptp(image, axis=-1) < 12) & (np.abs(image - corner).sum(-1) > 60)
    assert grey.mean() > 0.02, "no silver (jmol #c0c0c0) in the picture"


@pytest.mark.parametrize("selector", ['button[data-show="3"]', 'g.level[data-show="3"] .value'])
def test_click_shows_another_minimum(page, selector):
    first = page.painted()
    page.click(selector)
    seen = page.painted()
    assert (first["minimum"], seen["minimum"]) == ("1", "4")
    assert seen["atoms"] == str(len(Octahedron("Au", 4, cutoff=1))) != first["atoms"]
    assert "−178.000000" in page.value("document.querySelector('#viewer figcaption').textContent")
    assert page.value("document.querySelector('button[data-show=\"3\"]').getAttribute('aria-pressed')") == "true"


def test_download_is_the_structure_shown(page, report):
    for k, minimum in enumerate(report[1]):
        page.click(f'button[data-show="{k}"]')
        page.painted()
        kind, _, text = page.value("document.getElementById('download').href").partition(",")
        assert kind == "data:chemical/x-xyz;charset=utf-8"
        atoms = next(ase.io.iread(io.StringIO(unquote(text)), format="extxyz"))
        np.testing.assert_array_equal(atoms.numbers, minimum.numbers)
        np.testing.assert_allclose(atoms.positions, minimum.positions, rtol=0, atol=1e-8)
        assert atoms.get_potential_energy() == pytest.approx(minimum.energy, abs=1e-9)
        assert f"minimum-{k + 1}.xyz" in page.value("document.getElementById('download').download")


def test_drag_turns_and_wheel_zooms(page):
    before, b = page.painted(), page.box("#viewer canvas")
    x, y = b["x"] + b["width"] / 2, b["y"] + b["height"] / 2
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    assert page.painted()["zoom"] == before["zoom"], "the wheel zooms before a click: the page cannot be scrolled"
    y = page.box("#viewer canvas")["y"] + b["height"] / 2
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", x + 80, y + 30, button="left", buttons=1)
    page.mouse("mouseReleased", x + 80, y + 30, button="left", clickCount=1)
    after = page.painted()
    old, new = (np.array(s["turn"].split(), float).reshape(3, 3) for s in (before, after))
    np.testing.assert_allclose(new @ new.T, np.eye(3), atol=1e-3)
    assert np.linalg.det(new) == pytest.approx(1, abs=1e-3)
    angle = np.arccos((np.trace(new @ old.T) - 1) / 2)
    assert angle == pytest.approx(np.hypot(0.8, 0.3), abs=0.03), "0.01 rad per pixel dragged"
    front = new @ old.T @ [0, 0, 1]
    assert front[0] > 0.6, "what is in front does not follow the hand to the right"
    assert front[1] < -0.15, "what is in front does not follow the hand downwards"
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    assert float(page.painted()["zoom"]) > 1.2
    page.click('button[data-do="reset"]')
    assert page.painted()["turn"] == before["turn"]


def test_scale_switch_and_tooltip(page):
    shows = "['log', 'linear'].map(k => getComputedStyle(document.querySelector('svg.' + k)).display)"
    assert page.value(shows) == ["block", "none"]
    page.click('label[for="x-linear"]')
    assert page.value(shows) == ["none", "block"]
    b = page.box("svg.linear .step:nth-of-type(3) rect")
    for nudge in range(20):  # a busy machine may lay the page out once more after the first motion, which hides the tip
        page.mouse("mouseMoved", b["x"] + b["width"] / 2, b["y"] + 40 + nudge % 2)
        if not page.value("document.getElementById('tip').hidden"):
            break
    assert "5,000 evaluations" in page.value("document.getElementById('tip').textContent")
    assert not page.value("document.getElementById('tip').hidden")


def test_phone_in_the_dark(browser, report):
    page = browser.page(report[0], width=400, height=800, dark=True)
    before = page.painted()
    assert page.value("document.documentElement.scrollWidth") <= 400, "the page is wider than the phone"
    assert page.pixels("#viewer canvas")[3, 3].max() < 60, "the picture has no dark ground"
    b = page.box("#viewer canvas")
    x, y = b["x"] + b["width"] / 2, b["y"] + b["height"] / 2
    for kind, apart in (("touchStart", 40), ("touchMove", 50), ("touchMove", 80), ("touchEnd", None)):
        fingers = [] if apart is None else [{"x": x + sign * apart, "y": y, "id": k} for k, sign in enumerate((-1, 1))]
        page.send("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
    after = page.painted()
    assert after["turn"] == before["turn"]
    assert 1.2 < float(after["zoom"]) / float(before["zoom"]) < 2.1, "a pinch from 80 to 160 pixels"
    assert page.trouble() == []
    page.close()


def test_without_scripts_a_still_picture(browser, report):
    page = browser.page(report[0], scripts=False)
    page.send("DOM.enable")
    root = page.send("DOM.getDocument", depth=1)["root"]["nodeId"]
    find = lambda s: page.send("DOM.querySelectorAll", nodeId=root, selector=s)["nodeIds"]
    assert len(find("#viewer svg.still circle")) == 55
    hidden = page.send("DOM.getAttributes", nodeId=find("#viewer canvas")[0])["attributes"]
    assert "hidden" in hidden
    page.close()
