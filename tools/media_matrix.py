"""Makes 200 videos of many codecs, containers, rates, lengths and sounds, and compares what OutRo reads of each with ffmpeg's own frames and samples.

    cargo build --release -p outro-media --example checksums
    python tools/media_matrix.py target/release/examples/checksums --work /tmp/matrix

Needs ffmpeg with the usual encoders on the PATH; OUTRO_FFMPEG names another one that reads (also this script's own reading then). Frames: the
number of all, and each picked one byte by byte (Adler-32), by two samplings. Sound: number, rate and bytes of the samples, channels averaged.
A difference is printed and counted, unless docs/media.md has a row for it (EXPECTED). Exit status 1 where one is left. --decord prints
beside it what decord counts, where it is installed.
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

READER = os.environ.get("OUTRO_FFMPEG") or "ffmpeg"

# name: (ending, encoder and its settings, containers). Small pictures: what is tested is numbers and order, not size.
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
PICTURES = {
    "h264": (H264 + ["-bf", "2", "-g", "30"], ["mp4", "mov", "mkv", "ts", "avi", "flv", "nut", "mxf", "3gp"]),
    "h264 open gop": (H264 + ["-bf", "3", "-g", "25", "-x264-params", "open-gop=1"], ["mp4", "mkv", "ts"]),
    "h264 intra refresh": (H264 + ["-x264-params", "intra-refresh=1:keyint=20"], ["mp4", "mkv"]),
    "h264 10 bit": (["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"], ["mp4", "mkv"]),
    "h264 4:4:4": (["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p"], ["mp4", "mkv"]),
    "h264 interlaced": (H264 + ["-flags", "+ilme+ildct", "-x264-params", "tff=1"], ["mp4", "ts"]),
    "h264 full range": (H264[:-1] + ["yuvj420p"], ["mp4"]),
    "hevc": (["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p"], ["mp4", "mkv", "ts"]),
    "hevc 10 bit": (["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"], ["mkv"]),
    "vp8": (["-c:v", "libvpx", "-deadline", "realtime", "-b:v", "200k"], ["webm", "mkv"]),
    "vp8 altref": (["-c:v", "libvpx", "-deadline", "good", "-cpu-used", "5", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k"], ["webm"]),
    "vp9": (["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "200k"], ["webm", "mp4"]),
    "vp9 altref": (["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "5", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k"], ["webm"]),
    "av1": (["-c:v", "libsvtav1", "-preset", "12"], ["mp4", "mkv"]),
    "mpeg4": (["-c:v", "mpeg4", "-bf", "2", "-q:v", "5"], ["avi", "mp4", "mkv"]),
    "xvid": (["-c:v", "libxvid", "-bf", "2", "-q:v", "5"], ["avi"]),
    "mpeg2": (["-c:v", "mpeg2video", "-bf", "2", "-q:v", "5"], ["mpg", "ts", "mkv"]),
    "mpeg1": (["-c:v", "mpeg1video", "-q:v", "5"], ["mpg"]),
    "mjpeg": (["-c:v", "mjpeg", "-q:v", "5", "-pix_fmt", "yuvj420p"], ["avi", "mov", "mkv"]),
    "prores": (["-c:v", "prores_ks"], ["mov"]),
    "ffv1": (["-c:v", "ffv1"], ["mkv", "avi"]),
    "theora": (["-c:v", "libtheora"], ["ogv"]),
    "wmv2": (["-c:v", "wmv2", "-q:v", "5"], ["wmv", "avi"]),
    "flv1": (["-c:v", "flv", "-q:v", "5"], ["flv"]),
    "rawvideo": (["-c:v", "rawvideo", "-pix_fmt", "yuv420p"], ["avi", "nut"]),
    "gif": (["-c:v", "gif"], ["gif"]),
    "bare h264": (H264 + ["-bf", "2"], ["h264"]),
    "bare mpeg4": (["-c:v", "mpeg4"], ["m4v"]),
}
# What comes after the picture is encoded, in containers that can have it.
FORMS = {
    "mp4": [[], ["-movflags", "+faststart"], ["-movflags", "frag_keyframe+empty_moov+delay_moov"]],
    "mkv": [[], ["piped"]],
    "webm": [[], ["piped"]],
}
SOUNDS = {
    "aac": (["-c:a", "aac"], ["mp4", "mov", "mkv", "ts", "avi", "flv", "nut", "3gp"]),
    "mp3": (["-c:a", "libmp3lame"], ["mp4", "mkv", "avi", "ts", "flv"]),
    "ac3": (["-c:a", "ac3"], ["mp4", "mkv", "ts", "mpg", "avi"]),
    "mp2": (["-c:a", "mp2"], ["mpg", "ts", "avi", "mkv"]),
    "opus": (["-c:a", "libopus"], ["webm", "mkv", "mp4"]),
    "vorbis": (["-c:a", "libvorbis"], ["webm", "mkv", "ogv"]),
    "flac": (["-c:a", "flac"], ["mkv", "mp4", "ogv"]),
    "alac": (["-c:a", "alac"], ["mov", "mp4"]),
    "pcm": (["-c:a", "pcm_s16le"], ["avi", "mov", "mkv", "nut", "mxf"]),
    "wma": (["-c:a", "wmav2"], ["wmv"]),
}
# Rates that each codec can have, where not all.
RATES = {"opus": [48000, 16000, 8000], "ac3": [48000, 44100, 32000], "mp2": [48000, 44100, 32000], "mp3": [44100, 48000, 22050, 16000, 8000],
         "aac": [44100, 48000, 96000, 22050, 16000, 8000], "wma": [44100, 48000], "vorbis": [44100, 48000, 8000], "flac": [44100, 192000, 8000, 96000],
         "alac": [44100, 48000, 96000], "pcm": [48000, 192000, 44100, 8000, 11025]}
CHANNELS = {"mp3": [2, 1], "mp2": [2, 1], "wma": [2, 1], "alac": [2, 1, 8], "ac3": [2, 6, 1], "opus": [2, 1, 6], "mxf": [1]}
FRAME_RATES = ["25", "30", "24000/1001", "30000/1001", "10", "50", "60", "15", "5", "1", "120", "vfr"]
MPEG_RATES = ["25", "30", "24000/1001", "30000/1001", "50", "60"]
LENGTHS = [1, 2, 4, 7, 3, 11, 5, 20, 60]
# How the sound lies beside the picture.
PLACES = ["equal", "late", "shorter", "longer", "two tracks"]

# Rows of docs/media.md: what may differ, and why that is right.
EXPECTED = {}


def run(command, **more):
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, **more)


def cycle(values, state, key):
    state[key] = state.get(key, -1) + 1
    return values[state[key] % len(values)]


def plan(count):
    """The videos: every codec in every container in turn, everything else going round beside it."""
    pairs = [(name, ending) for name, (_, endings) in PICTURES.items() for ending in endings]
    state, videos = {}, []
    while len(videos) < count:
        name, ending = pairs[len(videos) % len(pairs)]
        round_ = len(videos) // len(pairs)
        rates = MPEG_RATES if ending in ("mpg", "mxf") or name in ("mpeg1", "mpeg2") else FRAME_RATES
        video = {"name": name, "ending": ending, "rate": cycle(rates, state, ("rate", len(rates))), "seconds": cycle(LENGTHS, state, "length")}
        if video["rate"] == "vfr" and ending in ("avi", "gif", "h264", "m4v", "mpg", "ogv", "mxf", "flv", "wmv", "3gp"):
            video["rate"] = "25"
        if video["rate"] == "1":
            video["seconds"] = max(video["seconds"], 5)
        video["form"] = cycle(FORMS.get(ending, [[]]), state, ("form", ending))
        sounds = [s for s, (_, endings) in SOUNDS.items() if ending in endings]
        if sounds and round_ != 1:
            sound = cycle(sounds, state, ("sound", ending))
            video["sound"] = sound
            video["hertz"] = cycle(RATES[sound], state, ("hertz", sound)) if ending not in ("mxf", "flv", "3gp") else {"flv": 44100, "3gp": 16000}.get(ending, 48000)
            channels = CHANNELS.get(ending) or CHANNELS.get(sound) or [2, 1, 6, 8, 3]
            video["channels"] = 1 if ending in ("3gp", "flv") else cycle(channels, state, ("channels", sound))
            # ALAC and AAC of more channels exist in some layouts alone; ffmpeg's encoders know these.
            if sound in ("aac", "vorbis", "alac") and video["channels"] == 3:
                video["channels"] = 2
            video["place"] = cycle(PLACES, state, "place") if ending in ("mp4", "mov", "mkv", "nut", "ts") else "equal"
        videos.append(video)
    # Long ones: up to 20 minutes, from which a few frames are sought.
    for i, (minutes, name, ending) in enumerate([(20, "h264", "mp4"), (20, "h264 open gop", "mkv"), (10, "hevc", "mp4"), (10, "vp9", "webm"), (10, "mpeg4", "avi"), (5, "h264", "ts")]):
        videos[-1 - i] = {"name": name, "ending": ending, "rate": "25", "seconds": 60 * minutes, "form": [], "sound": "vorbis" if ending == "webm" else "mp3",
                          "hertz": 44100, "channels": 1, "place": "equal"}
    return videos


def make(video, path):
    seconds, name = video["seconds"], video["name"]
    rate = "25" if video["rate"] == "vfr" else video["rate"]
    source = f"testsrc2=s=96x64:r={rate}:d={seconds}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source]
    if "sound" in video:
        lasts = {"shorter": max(seconds / 2, 0.5), "longer": seconds * 1.5}.get(video["place"], seconds)
        offset = ["-itsoffset", "0.7"] if video["place"] == "late" else []
        layout = {1: "mono", 2: "stereo", 3: "2.1", 6: "5.1", 8: "7.1"}[video["channels"]]
        tones = "|".join(f"0.2*sin({2 * math.pi * (300 + 110 * c):.4f}*t)+0.1*sin(7*t*t)" for c in range(video["channels"]))
        tone = f"aevalsrc=exprs={tones}:s={video['hertz']}:d={lasts}:c={layout}"
        command += offset + ["-f", "lavfi", "-i", tone]
        if video["place"] == "two tracks":
            command += ["-f", "lavfi", "-i", f"sine=f=880:r=44100:d={seconds}", "-map", "0", "-map", "1", "-map", "2", "-disposition:a:0", "0", "-disposition:a:1", "default"]
    command += PICTURES[name][0]
    if video["rate"] == "vfr":
        command += ["-vf", "select='not(between(mod(n,7),2,4))'", "-vsync", "vfr"]
    if "sound" in video:
        command += SOUNDS[video["sound"]][0] + ["-strict", "-2"]
        if video["place"] == "two tracks" and video["sound"] in ("pcm",):
            command += ["-ar", video["hertz"]]
    if video["ending"] == "3gp":
        command += ["-f", "3gp"]
    if "altref" in name:
        # Packets that are never shown are made when the encoder has seen all of the file before.
        log = ["-passlogfile", path.with_suffix(".pass")]
        run(command + ["-an", "-pass", "1", *log, "-f", "null", "-"])
        command += ["-pass", "2", *log]
    if video["form"] == ["piped"]:
        made = run(command + ["-f", "matroska" if video["ending"] == "mkv" else "webm", "-"])
        if made.returncode == 0:
            path.write_bytes(made.stdout)
    else:
        made = run(command + video["form"] + [path])
    if made.returncode != 0:
        sys.exit(f"{path.name}: ffmpeg cannot make it: {made.stderr.decode()[-600:]}\n{' '.join(map(str, command))}")


def passthrough():
    return ["-fps_mode", "passthrough"] if b"-fps_mode" in run([READER, "-hide_banner", "-h", "long"]).stdout else ["-vsync", "0"]


def own_frames(path, size, wanted, keep):
    """ffmpeg's own frames: how many, and checksums of those wanted."""
    command = [READER, "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:v:0", *keep, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    sums, count = {}, 0
    with subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        while frame := child.stdout.read(size):
            if count in wanted:
                sums[count] = zlib.adler32(frame)
            count += 1
    return count, sums


def own_sound(path):
    """ffmpeg's own samples of the track that it takes itself, channels averaged as f32."""
    out = run([READER, "-v", "error", "-nostdin", "-i", f"file:{path}", "-vn", "-sn", "-dn", "-f", "wav", "-c:a", "pcm_f32le", "-"]).stdout
    at, channels, rate = 12, 0, 0
    while out[at:at + 4] != b"data":
        if at + 8 > len(out):
            return None
        size = int.from_bytes(out[at + 4:at + 8], "little")
        if out[at:at + 4] == b"fmt ":
            channels, rate = int.from_bytes(out[at + 10:at + 12], "little"), int.from_bytes(out[at + 12:at + 16], "little")
        at += 8 + size + size % 2
    import numpy as np

    samples = np.frombuffer(out[at + 8:len(out) - (len(out) - at - 8) % (4 * channels)], "<f4").reshape(-1, channels)
    mono = samples[:, 0].copy()
    for c in range(1, channels):
        mono += samples[:, c]
    mono /= np.float32(channels)
    return {"samples": len(mono), "rate": rate, "sum": zlib.adler32(np.ascontiguousarray(mono).tobytes())}


def differences(video, path, reader, keep):
    read = run([reader, path, 0, 4])
    if read.returncode != 0:
        return [f"refused: {read.stderr.decode().strip()[-300:]}"], {}
    got = json.loads(read.stdout)
    found, first = [], got["pictures"][0]
    wanted = {i for p in got["pictures"] for i in p["indices"]}
    count, sums = own_frames(path, first["height"] * first["width"] * 3, wanted, keep)
    for p in got["pictures"]:
        # A file whose frames were sought is not counted to its end.
        if p["total"] != count:
            found.append(f"{p['total']} frames, ffmpeg has {count}")
        wrong = [i for i, s in zip(p["indices"], p["sums"]) if sums.get(i) != s]
        if wrong:
            found.append(f"frames {wrong[:8]} of {len(p['indices'])} differ")
    own = own_sound(path)
    if (own and own["samples"] and own) != got["sound"]:
        found.append(f"sound {got['sound']}, ffmpeg has {own}")
    planned = (got["file"]["audio"] or {}).get("duration")
    # Two packets, of MP3 at 8 kHz: of the first a part is skipped, and of the last ffmpeg 9 cuts the padding.
    if own and own["samples"] and abs(planned - own["samples"] / own["rate"]) > 2 * 0.072:
        found.append(f"sound of {planned:.3f} s is planned, {own['samples'] / own['rate']:.3f} s heard")
    # Frames that are held back at a low rate begin some tenths of a second late; more than that was not made here.
    late = [n["text"] for n in got["notes"] if n["kind"] == "sound_offset" and video.get("place") != "late"]
    found += [f"note: {text}" for text in late if float(text.split("begins ")[1].split(" s ")[0]) > 0.5]
    return found, got


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", help="the example `checksums`")
    parser.add_argument("--work", default="/tmp/outro-media-matrix", help="where the videos are made and kept")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--decord", action="store_true", help="count with decord, too")
    args = parser.parse_args()
    if not shutil.which(args.reader):
        sys.exit(f"{args.reader} is not there: cargo build --release -p outro-media --example checksums")
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    keep, bad, notes, counts = passthrough(), 0, {}, []
    for number, video in enumerate(plan(args.count)):
        words = [video["name"], video["ending"], video["rate"], f"{video['seconds']} s", " ".join(video["form"])]
        words += [f"{video['sound']} {video['channels']} x {video['hertz']} {video['place']}"] if "sound" in video else ["silent"]
        label = f"{number:3} " + ", ".join(w for w in words if w)
        path = work / f"{number:03}.{video['ending']}"
        stamp = path.with_suffix(".made")
        if not (stamp.exists() and stamp.read_text() == json.dumps(video)):
            make(video, path)
            stamp.write_text(json.dumps(video))
        found, got = differences(video, path, args.reader, keep)
        for note in got.get("notes", []):
            notes[note["kind"]] = notes.get(note["kind"], 0) + 1
        why = EXPECTED.get((video["name"], video["ending"]))
        for text in found:
            print(f"{label}: {text}" + (f" (expected: {why})" if why else ""), flush=True)
        bad += bool(found) and not why
        if args.decord and got:
            try:
                from decord import VideoReader

                theirs = len(VideoReader(str(path)))
            except Exception as e:  # noqa: BLE001 - whatever it raises, it has no number
                theirs = str(e).strip().splitlines()[-1][:80]
            if theirs != got["pictures"][0]["total"]:
                print(f"{label}: decord counts {theirs}, ffmpeg {got['pictures'][0]['total']}", flush=True)
        counts.append(bool(found))
        if any(n["kind"] == "recounted" for n in got.get("notes", [])):
            print(f"{label}: {got['file']['video']['frames']} frames predicted, {got['pictures'][0]['total']} decoded", flush=True)
    print(f"{len(counts)} videos read by {READER}, {bad} with a difference that nothing justifies; notes: {notes}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
