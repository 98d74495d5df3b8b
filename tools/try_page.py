"""Uses the page of a running `outro serve` in headless Chromium, as a person would, and says what is wrong with it.

    python3 -m venv v && v/bin/pip install websocket-client
    v/bin/python tools/try_page.py http://127.0.0.1:8000 fixtures/shapes.mp4 [FOLDER FOR SCREENSHOTS]

CHROMIUM names the browser, else `chromium`.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket


class Browser:
    def __init__(self, folder):
        words = [os.environ.get("CHROMIUM", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        port = Path(folder, "DevToolsActivePort")
        for _ in range(300):
            if port.exists() and port.read_text().count("\n"):
                break
            time.sleep(0.1)
        number = port.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as reply:
            page = next(p for p in json.load(reply) if p["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
        self.number, self.seen = 0, []
        for domain in ["Page", "Runtime", "Network", "Log", "DOM"]:
            self.call(domain + ".enable")

    def call(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.seen.append(message)

    def eval(self, code):
        made = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    def wait(self, code, what, seconds=60):
        end = time.time() + seconds
        while not self.eval(code):
            assert time.time() < end, f"{what}: not within {seconds} s; the page says: {self.eval('document.body.innerText')}"
            time.sleep(0.1)

    def shoot(self, path):
        if path:
            picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
            Path(path).write_bytes(base64.b64decode(picture["data"]))


def view(browser, width, dark):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])


CONTRAST = """(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (c) => { const [r, g, b] = rgb(c).map((x) => { x /= 255; return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255,255,255)"; };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(e);
    if (!own || !e.checkVisibility() || e.disabled || ["SCRIPT", "OPTION"].includes(e.tagName)) continue;
    const [a, b] = [light(style.color), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(e.tagName + " " + ratio.toFixed(2) + " " + e.textContent.slice(0, 30));
  }
  return bad;
})()"""


def main(base, clip, shots=None):
    question = "What do you see and hear?"
    name = lambda what: shots and os.path.join(shots, what + ".png")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        try:
            view(browser, 1280, False)
            browser.call("Page.navigate", url=base + "/")
            browser.wait("document.querySelector('#model')?.options.length > 0", "the list of models")
            unnamed = browser.eval("[...document.querySelectorAll('input,textarea,select')].filter((e) => !e.labels?.length).map((e) => e.id)")
            assert not unnamed, f"without a label: {unnamed}"
            place = browser.call("DOM.querySelector", nodeId=browser.call("DOM.getDocument")["root"]["nodeId"], selector="#file")
            browser.call("DOM.setFileInputFiles", files=[os.path.abspath(clip)], nodeId=place["nodeId"])
            browser.wait("document.querySelector('#media video')?.readyState > 0 || document.querySelector('#said').textContent.includes('ready')", "the clip")
            # By the keyboard alone: on from the question to the button.
            browser.eval("document.querySelector('#question').focus()")
            for kind in ["keyDown", "keyUp"]:
                browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            assert browser.eval("document.activeElement.id") == "ask", browser.eval("document.activeElement.outerHTML")
            for kind in ["keyDown", "keyUp"]:
                browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r" if kind == "keyDown" else "")
            browser.wait("document.querySelector('#said').textContent.startsWith('Done') || document.querySelector('#said').textContent.startsWith('Note') || document.querySelector('#said.wrong')", "the answers")
            said = browser.eval("document.querySelector('#said').textContent")
            assert not browser.eval("Boolean(document.querySelector('#said.wrong'))"), said
            data = "data:video/mp4;base64," + base64.b64encode(Path(clip).read_bytes()).decode()
            content = [{"type": "video_url", "video_url": {"url": data}}, {"type": "text", "text": question}]
            body = json.dumps({"messages": [{"role": "user", "content": content}], "outro": {"strategy": "outro", "compare": True}}).encode()
            with urllib.request.urlopen(urllib.request.Request(base + "/v1/chat/completions", body, {"content-type": "application/json"})) as reply:
                want = json.load(reply)
            shown = browser.eval("[document.querySelector('#outro').textContent, document.querySelector('#plain').textContent]")
            assert shown == [want["choices"][0]["message"]["content"], want["outro"]["compare"]["text"]], (shown, want)
            lanes = browser.eval("[...document.querySelectorAll('.lane')].map((l) => l.querySelectorAll('button').length)")
            assert len(lanes) == 2 and min(lanes) > 1, lanes
            browser.eval("document.querySelector('.lane button:last-of-type').click()")
            assert browser.eval("document.querySelector('#where').textContent"), "a click on the timeline says nothing"
            assert browser.eval("document.querySelectorAll('#outro-first tr').length") == 6
            browser.eval("document.querySelectorAll('details').forEach((d) => d.open = true)")
            for width in (1280, 390):
                for dark in (False, True):
                    view(browser, width, dark)
                    wide = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                    assert wide <= 0, f"{width} pixels: {wide} too wide"
                    assert not (bad := browser.eval(CONTRAST)), f"contrast at {width}, dark {dark}: {bad}"
                    browser.shoot(name(f"{width}-{'dark' if dark else 'light'}"))
            # A second turn, about the same clip; and a stop.
            browser.eval("document.querySelector('#question').value = 'How many beeps?'; document.querySelector('#form').requestSubmit()")
            browser.wait("document.querySelectorAll('#talk li').length === 2", "a second turn")
            # A click that is no gesture of a person may not be let copy: the page says so in words, then.
            browser.eval("document.querySelector('[data-copy=python]').click()")
            browser.wait("/^Copied|does not let/.test(document.querySelector('#said').textContent)", "words about copying", 5)
        finally:
            browser.process.kill()
            browser.process.wait()
    for message in browser.seen:
        kind, p = message.get("method"), message.get("params", {})
        assert kind != "Runtime.exceptionThrown", p
        assert not (kind == "Log.entryAdded" and p["entry"]["level"] == "error"), p
        if kind == "Network.requestWillBeSent":
            url = p["request"]["url"]
            assert url.startswith((base, "blob:", "data:", "about:")), f"asks elsewhere: {url}"
    print("fine")


main(*sys.argv[1:])
