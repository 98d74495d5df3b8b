"""Many clients at once on a running `outro serve`: failures, tokens a second, time between tokens.

    outro serve --max-queue 64 &
    python3 tools/load.py http://127.0.0.1:8000 --clients 16 --seconds 180 --clip fixtures/shapes.mp4

Each client asks one thing after the other: about the clip, about a part of it, about its sound alone, in words alone, streamed, by OutRo and
without it, and goes away in the middle of every tenth answer. A 503 is waited for as it says; anything else that is no answer is a failure.
"""

import argparse
import base64
import http.client
import json
import random
import threading
import time
from urllib.parse import urlparse


def body(draw, clip, long):
    parts = []
    kind = draw.randrange(4)
    if kind < 3:
        parts.append({"type": "video_url", "video_url": {"url": clip}})
    parts.append({"type": "text", "text": draw.choice(["What do you see and hear?", "How many beeps?", "Is there a red circle?"])})
    made = {"messages": [{"role": "user", "content": parts}], "stream": True, "temperature": 0, "max_tokens": draw.choice([8, 24, 48])}
    made["outro"] = {"strategy": draw.choice(["outro", "baseline"]), "compare": draw.random() < 0.2}
    if kind == 1:
        made["mm_processor_kwargs"] = {"num_frames": 2}
    if kind == 2:
        made["use_audio_in_video"] = False
    if long:
        made |= {"ignore_eos": True, "max_tokens": long}
    return made


class Load:
    def __init__(self, words):
        self.words = words
        self.host = urlparse(words.base).netloc
        self.clip = "data:video/mp4;base64," + base64.b64encode(open(words.clip, "rb").read()).decode()
        self.end = time.time() + words.seconds
        self.lock = threading.Lock()
        self.done, self.busy, self.left, self.tokens = 0, 0, 0, 0
        self.failed, self.first, self.between = [], [], []

    def one(self, draw):
        connection = http.client.HTTPConnection(self.host, timeout=600)
        began = time.time()
        connection.request("POST", "/v1/chat/completions", json.dumps(body(draw, self.clip, self.words.long)), {"content-type": "application/json"})
        reply = connection.getresponse()
        if reply.status == 503:
            with self.lock:
                self.busy += 1
            time.sleep(float(reply.headers["retry-after"]) * draw.random())
            return
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read()[:300]}")
        leaves = not self.words.long and draw.random() < 0.1
        last, gaps, ended, first = None, [], False, None
        for line in reply:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                ended = True
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk))
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                now = time.time()
                if last:
                    gaps.append(now - last)
                else:
                    first = now - began
                last = now
                if leaves:
                    connection.close()
                    with self.lock:
                        self.left += 1
                    return
        if not ended:
            raise RuntimeError("a stream broke off")
        with self.lock:
            self.done += 1
            self.tokens += len(gaps) + 1
            self.between += gaps
            self.first += [first] if first else []

    def client(self, number):
        draw = random.Random(number)
        while time.time() < self.end:
            try:
                self.one(draw)
            except Exception as e:
                with self.lock:
                    self.failed.append(repr(e))

    def run(self):
        since = time.time()
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(self.words.clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        spent = time.time() - since
        part = lambda times, p: round(sorted(times)[int(p * (len(times) - 1))], 4) if times else None
        print(json.dumps({
            "clients": self.words.clients, "seconds": round(spent, 1), "answers": self.done, "failed": len(self.failed), "went_away": self.left,
            "busy": self.busy, "tokens_per_second": round(self.tokens / spent, 2), "first_token_median": part(self.first, 0.5),
            "between_median": part(self.between, 0.5), "between_p99": part(self.between, 0.99), "failures": self.failed[:5],
        }))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clip", default="fixtures/shapes.mp4")
    parser.add_argument("--long", type=int, default=0, help="answers of exactly so many tokens")
    Load(parser.parse_args()).run()
