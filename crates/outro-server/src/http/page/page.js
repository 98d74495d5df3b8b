"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, text, more) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, more);

// Settings of the method, with the published values; the model's own come first.
const METHOD = [
  ["gamma", "Strength of the rotation", "3"],
  ["gate_temperature", "Temperature of its gate", "0.1"],
  ["abs_threshold", "Least activation of a sink", "100"],
  ["median_multiple", "... in medians of its layer", "1000"],
  ["start_layer", "First layer that is looked at", "0"],
  ["end_layer", "Layer before which that ends", "layers - 2"],
  ["interval", "Relax at every N-th layer", "layers / 7"],
];
const SWITCHES = [["rotate", "Rotate head outputs"], ["relax", "Relax the mask for sinks"], ["once", "... once for each sink"], ["rescale", "Keep lengths of outputs"]];
const SAMPLING = [
  ["max_tokens", "Most tokens", "the model's"],
  ["temperature", "Temperature (0: the likeliest)", "the model's"],
  ["top_p", "Nucleus", "the model's"],
  ["seed", "Seed", "0"],
];

function fields(place, list) {
  for (const [name, words, usual] of list) {
    const label = make("label", words);
    label.append(make("input", "", { id: name, placeholder: usual, inputMode: "decimal", autocomplete: "off" }));
    $(place).append(label);
  }
}
fields("method", METHOD);
for (const [name, words] of SWITCHES) {
  const label = make("label");
  label.append(make("input", "", { id: name, type: "checkbox", checked: true, style: "width:auto" }), " " + words);
  $("method").append(label);
}
fields("sampling", SAMPLING);

const key = $("key");
key.value = sessionStorage.getItem("key") ?? "";
key.addEventListener("change", () => { sessionStorage.setItem("key", key.value); models(); });
const headers = (more) => ({ ...(key.value ? { authorization: "Bearer " + key.value } : {}), ...more });

function say(words, wrong) {
  $("said").textContent = words;
  $("said").classList.toggle("wrong", Boolean(wrong));
}

async function call(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!reply.ok) {
    const body = await reply.json().catch(() => null);
    const words = body?.error?.message ?? "The server answers " + reply.status + ".";
    throw new Error(reply.status === 401 ? "The server asks for a key: type it at the top." : words);
  }
  return reply;
}

async function models() {
  try {
    const list = await (await call("/v1/models", { headers: headers() })).json();
    $("model").replaceChildren(...list.data.map((m) => make("option", m.id)));
    say("");
  } catch (e) {
    say(e.message, true);
  }
}
models();

// What is shown, and where the server has it.
let shown = null;
let messages = [];
let abort = null;
let last = null;

function show(file) {
  const kind = file.type.split("/")[0];
  if (!["video", "audio", "image"].includes(kind)) return say("That is no video, sound or picture.", true);
  if (shown) URL.revokeObjectURL(shown.url);
  shown = { file, kind, url: URL.createObjectURL(file), id: null, sent: false };
  const node = make({ video: "video", audio: "audio", image: "img" }[kind], "", { src: shown.url });
  if (kind === "image") node.alt = "the picture that is asked about: " + file.name;
  else Object.assign(node, { controls: true, preload: "metadata" }), node.setAttribute("aria-label", file.name);
  $("media").replaceChildren(node);
  $("timeline").hidden = true;
  messages = [];
  $("talk").replaceChildren();
  say(file.name + " is ready. Ask about it.");
}
$("file").addEventListener("change", (e) => e.target.files[0] && show(e.target.files[0]));
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(name, (e) => {
    e.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name === "drop" && e.dataTransfer.files[0]) show(e.dataTransfer.files[0]);
  });
}

// Recording, where the browser can.
if (navigator.mediaDevices?.getUserMedia && window.MediaRecorder) {
  const button = $("record");
  let recorder = null;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
      const pieces = [];
      recorder = new MediaRecorder(stream);
      recorder.addEventListener("dataavailable", (e) => pieces.push(e.data));
      recorder.addEventListener("stop", () => {
        stream.getTracks().forEach((t) => t.stop());
        const type = recorder.mimeType.split(";")[0];
        recorder = null;
        button.textContent = "record";
        show(new File(pieces, "recording." + type.split("/")[1], { type }));
      });
      recorder.start();
      button.textContent = "stop recording";
    } catch {
      say("There is no camera, or it may not be used.", true);
    }
  });
}

const base64 = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => done(reader.result));
  reader.addEventListener("error", () => failed(new Error("The file cannot be read any more. Choose it again.")));
  reader.readAsDataURL(file);
});

// Sent once and named by its id; inside the request where uploads are refused.
async function part() {
  const wrap = (url) => ({ type: shown.kind + "_url", [shown.kind + "_url"]: { url } });
  if (!shown.id) {
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", shown.file, shown.file.name);
    try {
      const reply = await call("/v1/files", { method: "POST", headers: headers(), body: form, signal: abort.signal });
      shown.id = (await reply.json()).id;
    } catch (e) {
      if (e.name === "AbortError") throw e;
      return wrap(await base64(shown.file));
    }
  }
  return wrap(shown.id);
}

function strategy() {
  const own = METHOD.map(([name]) => [name, $(name).value.trim()]).filter(([, v]) => v);
  for (const [name] of SWITCHES) if (!$(name).checked) own.push([name, "false"]);
  return "outro" + (own.length ? ":" + own.map(([k, v]) => k + "=" + v).join(",") : "");
}

async function request(question) {
  const content = [];
  if (shown && !messages.length) content.push(await part());
  content.push({ type: "text", text: question });
  const body = {
    model: $("model").value || undefined,
    messages: [...messages, { role: "user", content }],
    stream: true,
    outro: { strategy: strategy(), compare: true, explain: true },
  };
  for (const [name] of SAMPLING) if ($(name).value.trim()) body[name] = Number($(name).value);
  return body;
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const all = rest.split("\n\n");
    rest = all.pop();
    for (const event of all) {
      const data = event.startsWith("data: ") ? event.slice(6) : "[DONE]";
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

$("form").addEventListener("submit", async (e) => {
  e.preventDefault();
  const question = $("question").value.trim();
  if (!question || abort) return;
  abort = new AbortController();
  $("ask").disabled = true;
  $("stop").disabled = false;
  for (const id of ["outro", "plain"]) {
    $(id).textContent = "";
    $(id + "-first").hidden = true;
  }
  say("Reading ...");
  try {
    const body = await request(question);
    last = body;
    const reply = await call("/v1/chat/completions", {
      method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body), signal: abort.signal,
    });
    let end = null;
    for await (const chunk of events(reply)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) $("outro").textContent += text;
      if (chunk.outro?.compare?.delta) $("plain").textContent += chunk.outro.compare.delta;
      if (chunk.outro?.explain) end = chunk;
      if (text) say("Answering ...");
    }
    messages = [...body.messages, { role: "assistant", content: $("outro").textContent }];
    const turn = make("li", question);
    turn.append(make("div", $("outro").textContent));
    $("talk").append(turn);
    const warnings = end?.warnings ?? [];
    say(warnings.length ? "Note: " + warnings.join("; ") : "Done.");
    if (end) explain(end.outro);
  } catch (e) {
    say(e.name === "AbortError" ? "Stopped." : e.message, e.name !== "AbortError");
  } finally {
    abort = null;
    $("ask").disabled = false;
    $("stop").disabled = true;
  }
});
$("stop").addEventListener("click", () => abort?.abort());
$("fresh").addEventListener("click", () => {
  messages = [];
  $("talk").replaceChildren();
  say("A new conversation" + (shown ? " about " + shown.file.name : "") + ".");
});
$("question").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey) {
    e.preventDefault();
    $("form").requestSubmit();
  }
});

function first(id, explained) {
  const table = $(id + "-first");
  const rows = explained.first_token.top.map((t) => {
    const row = make("tr");
    row.append(make("td", JSON.stringify(t.text)), make("td", (100 * t.probability).toFixed(1) + " %"));
    return row;
  });
  const entropy = make("tr");
  entropy.append(make("td", "entropy"), make("td", explained.first_token.entropy.toFixed(2) + " nats"));
  table.tBodies[0].replaceChildren(...rows, entropy);
  table.hidden = false;
}

function jump(second) {
  const player = $("media").firstChild;
  if (player && "currentTime" in player) player.currentTime = second;
}

function explain(own) {
  first("outro", own.explain);
  if (own.compare?.explain) first("plain", own.compare.explain);
  const lanes = [];
  const frames = own.explain.attention.frames;
  const sounds = own.explain.attention.sound;
  const seconds = [...frames, ...sounds].map((x) => x.second ?? 0);
  const length = Math.max(1, ...seconds) + 1;
  const lane = (name, cells, kind) => {
    if (!cells.length) return;
    const most = Math.max(...cells.map((c) => c.share), 1e-9);
    const node = make("div", "", { className: "lane" });
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", name);
    for (const cell of cells) {
      const words = name + ", " + (cell.second ?? 0).toFixed(1) + " s: " + (100 * cell.share).toFixed(1) + " % of the attention";
      const button = make("button", "", { type: "button", title: words });
      button.setAttribute("aria-label", words);
      button.append(make("span", "", { style: "height:" + (100 * cell.share / most).toFixed(1) + "%" }));
      button.addEventListener("click", () => { jump(cell.second ?? 0); $("where").textContent = words; });
      node.append(button);
    }
    for (const sink of own.explain.sinks.filter((s) => s.kind === kind && s.second != null)) {
      const place = cells.length ? sink.second / (cells.at(-1).second - cells[0].second + (cells[1]?.second - cells[0]?.second || 1)) : sink.second / length;
      node.append(make("i", "", { style: "left:" + (100 * Math.min(place, 0.995)).toFixed(2) + "%", title: "sink in layers " + sink.layers.join(", ") }));
    }
    lanes.push(make("div", name), node);
  };
  lane("Frames", frames, "video");
  lane("Sound", sounds, "audio");
  const sinks = own.explain.sinks;
  const kinds = Object.entries(own.explain.attention.kinds).map(([k, v]) => k + " " + (100 * v).toFixed(0) + " %").join(", ");
  lanes.push(make("p", sinks.length + " sinks: " + (sinks.map((s) => s.kind + (s.second == null ? "" : " at " + s.second.toFixed(1) + " s")).slice(0, 12).join(", ") || "none") + ". Attention: " + kinds + "."));
  $("rows").replaceChildren(...lanes);
  $("where").textContent = "";
  $("timeline").hidden = false;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const body = structuredClone(last ?? { model: $("model").value, messages: [{ role: "user", content: $("question").value }] });
    delete body.stream;
    for (const p of body.messages.flatMap((m) => (Array.isArray(m.content) ? m.content : []))) {
      for (const k of ["video_url", "audio_url", "image_url"]) if (p[k]?.url?.startsWith("data:")) p[k].url = "data:...";
    }
    const { outro, ...rest } = body;
    const text = button.dataset.copy === "curl"
      ? "curl " + location.origin + "/v1/chat/completions -H 'content-type: application/json' \\\n  -H \"authorization: Bearer $OUTRO_API_KEY\" -d '" + JSON.stringify(body).replaceAll("'", "'\\''") + "'"
      : "import json\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=\"" + location.origin + "/v1\", api_key=\"none\")\nrequest = json.loads(" + JSON.stringify(JSON.stringify(rest)) + ")\nreply = client.chat.completions.create(**request, extra_body={\"outro\": json.loads(" + JSON.stringify(JSON.stringify(outro ?? {})) + ")})\nprint(reply.choices[0].message.content)\n";
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    } catch {
      say("The browser does not let this page copy.", true);
    }
  });
}
