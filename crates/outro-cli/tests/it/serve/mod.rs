//! `outro serve`, asked over loopback as other programs ask it.

mod client;
mod hostile;
mod load;
mod programs;

use serde_json::{Value, json};

use crate::support::outro;
use client::{QUESTION, Server, about_clip, clip};

pub(crate) fn fixture(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name);
    path.display().to_string()
}

/// What `outro ask` says.
fn asked(strategy: &str) -> Value {
    let clip = fixture("shapes.mp4");
    let args = [
        "ask",
        "--json",
        "--strategy",
        strategy,
        "--greedy",
        "--video",
        &clip,
        QUESTION,
    ];
    serde_json::from_str(&outro(args).ok().stdout).unwrap()
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The text of choice `i` of a stream.
fn streamed(events: &[Value], i: u64) -> String {
    let pieces = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
    let own = pieces.filter(|c| c["index"] == i);
    own.filter_map(|c| c["delta"]["content"].as_str()).collect()
}

#[test]
fn answers_are_those_of_ask_streamed_or_not_and_from_the_cache() {
    let server = Server::start(&[]);
    for strategy in ["outro", "baseline", "vcd"] {
        let want = asked(strategy);
        let want_text = want["answers"][0]["text"].as_str().unwrap();
        let more = json!({"outro": {"strategy": strategy}, "temperature": 0});
        let whole = server.post("/v1/chat/completions", &about_clip(&more)).ok();
        assert_eq!(content(&whole), want_text);
        assert_eq!(whole["outro"]["strategy"], strategy);
        assert_eq!(whole["usage"]["prompt_tokens"], want["prompt_tokens"]["total"]);
        assert_eq!(
            whole["usage"]["prompt_tokens_details"]["audio_tokens"],
            want["prompt_tokens"]["audio"]
        );
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["warnings"], json!([]));
        let more = json!({
            "outro": {"strategy": strategy}, "temperature": 0, "stream": true,
            "stream_options": {"include_usage": true}
        });
        let events = server.post("/v1/chat/completions", &about_clip(&more)).events();
        assert_eq!(streamed(&events, 0), want_text);
        assert_eq!(
            events[0]["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        let usage = events.last().unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(
            usage["usage"]["completion_tokens"],
            whole["usage"]["completion_tokens"]
        );
        let cached = &usage["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert!(
            cached.as_u64().unwrap() > 100,
            "the media were encoded before: {cached}"
        );
    }
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("outro:mm_cache_hits_total 5"), "{metrics}");
    assert!(metrics.contains("outro:mm_cache_queries_total 6"), "{metrics}");
    // A third question by the plain model: rows that two prompts shared are not run again, and no bit differs.
    let other = json!({"outro": {"strategy": "baseline"}, "temperature": 0});
    let again = server.post("/v1/chat/completions", &about_clip(&other)).ok();
    assert_eq!(content(&again), asked("baseline")["answers"][0]["text"]);
}

#[test]
fn the_plain_answer_beside_and_why() {
    let server = Server::start(&["--model", &fixture("omni-tiny")]);
    let own = json!({"strategy": "outro:gamma=2", "compare": true, "explain": true});
    let more = json!({"outro": own, "max_tokens": 6, "temperature": 0});
    let whole = server.post("/v1/chat/completions", &about_clip(&more)).ok();
    let plain = json!({"outro": {"strategy": "baseline"}, "max_tokens": 6, "temperature": 0});
    let alone = server.post("/v1/chat/completions", &about_clip(&plain)).ok();
    assert_eq!(
        whole["outro"]["compare"]["text"],
        alone["choices"][0]["message"]["content"]
    );
    assert_eq!(whole["outro"]["strategy"], "outro:gamma=2");
    for explain in [&whole["outro"]["explain"], &whole["outro"]["compare"]["explain"]] {
        let kinds = explain["attention"]["kinds"].as_object().unwrap();
        let all: f64 = kinds.values().map(|v| v.as_f64().unwrap()).sum();
        assert!(all > 0.2 && all <= 1.0001, "{kinds:?}");
        let sum = |key: &str| -> f64 {
            let list = explain["attention"][key].as_array().unwrap();
            list.iter().map(|x| x["share"].as_f64().unwrap()).sum()
        };
        assert!((sum("frames") - kinds["video"].as_f64().unwrap()).abs() < 1e-9);
        assert!((sum("sound") - kinds["audio"].as_f64().unwrap()).abs() < 1e-9);
        assert!(explain["first_token"]["entropy"].as_f64().unwrap() > 0.0);
        assert_eq!(explain["first_token"]["top"].as_array().unwrap().len(), 5);
        let frames = explain["attention"]["frames"].as_array().unwrap();
        assert!(frames.iter().all(|f| f["second"].is_number()), "{frames:?}");
    }
    assert!(whole["outro"]["explain"]["sinks"].is_array());
    // To look changes nothing.
    let unseen = json!({"outro": {"strategy": "outro:gamma=2"}, "max_tokens": 6, "temperature": 0});
    let unseen = server.post("/v1/chat/completions", &about_clip(&unseen)).ok();
    assert_eq!(content(&whole), content(&unseen));
    let more = json!({"outro": own, "max_tokens": 6, "temperature": 0, "stream": true});
    let events = server.post("/v1/chat/completions", &about_clip(&more)).events();
    assert_eq!(streamed(&events, 0), content(&whole));
    let beside = events
        .iter()
        .filter_map(|e| e["outro"]["compare"]["delta"].as_str());
    assert_eq!(
        beside.collect::<String>(),
        whole["outro"]["compare"]["text"].as_str().unwrap()
    );
    let last = events.last().unwrap();
    assert_eq!(last["outro"]["explain"], whole["outro"]["explain"]);
}

#[test]
fn choosing_tokens() {
    let server = Server::start(&[]);
    let chat = |more: Value| server.post("/v1/chat/completions", &about_clip(&more));
    let several = chat(json!({"n": 3, "temperature": 30.0, "top_k": 0, "seed": 7, "max_tokens": 8})).ok();
    let texts: Vec<&Value> = several["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["message"]["content"])
        .collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "{texts:?}");
    // The second of them has the next seed.
    let second = chat(json!({"temperature": 30.0, "top_k": 0, "seed": 8, "max_tokens": 8})).ok();
    assert_eq!(content(&second), texts[1].as_str().unwrap());
    let events =
        chat(json!({"n": 3, "temperature": 30.0, "top_k": 0, "seed": 7, "max_tokens": 8, "stream": true}))
            .events();
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(&streamed(&events, i as u64), text.as_str().unwrap());
    }
    let stopped = chat(json!({"temperature": 0, "stop": ["circle"]})).ok();
    assert_eq!(content(&stopped), "I see a blue ");
    let chosen = chat(json!({"temperature": 0, "guided_choice": ["No", "Yes", "Yes, both"]})).ok();
    assert!(["No", "Yes", "Yes, both"].contains(&content(&chosen)), "{chosen}");
    let forced = chat(json!({"response_format": {"type": "choice", "choice": ["purple"]}})).ok();
    assert_eq!(content(&forced), "purple");
    let short = chat(json!({"temperature": 0, "max_completion_tokens": 2})).ok();
    assert_eq!(
        (
            short["usage"]["completion_tokens"].as_u64(),
            &short["choices"][0]["finish_reason"]
        ),
        (Some(2), &json!("length"))
    );
    let long = chat(json!({"temperature": 0, "ignore_eos": true, "max_tokens": 40})).ok();
    assert_eq!(long["usage"]["completion_tokens"], 40);
    let logs = chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 3, "max_tokens": 4})).ok();
    let entries = logs["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(entries.len(), 4);
    let joined: String = entries.iter().map(|e| e["token"].as_str().unwrap()).collect();
    assert_eq!(joined, content(&logs));
    assert!(
        entries.iter().all(
            |e| e["top_logprobs"].as_array().unwrap().len() == 3 && e["logprob"].as_f64().unwrap() <= 0.0
        )
    );
    let events =
        chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 3, "max_tokens": 4, "stream": true}))
            .events();
    let told = events
        .iter()
        .filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(told.flatten().cloned().collect::<Vec<_>>(), entries);
}

#[test]
fn plain_prompts_and_tokens() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({"prompt": "Is it red?"})).ok();
    let ids = tokens["tokens"].clone();
    assert_eq!(tokens["count"], ids.as_array().unwrap().len());
    let back = server.post("/detokenize", &json!({"tokens": ids})).ok();
    assert_eq!(back["prompt"], "Is it red?");
    let pieces = server
        .post(
            "/tokenize",
            &json!({"content": "Is it red?", "with_pieces": true}),
        )
        .ok();
    assert_eq!(pieces["tokens"][0]["id"], ids[0]);
    let one = server
        .post(
            "/v1/completions",
            &json!({"prompt": "Is it red?", "max_tokens": 4}),
        )
        .ok();
    let other = server
        .post("/v1/completions", &json!({"prompt": ids, "max_tokens": 4}))
        .ok();
    assert_eq!(one["choices"], other["choices"]);
    assert_eq!(one["object"], "text_completion");
    let two = server
        .post(
            "/v1/completions",
            &json!({"prompt": ["Is it red?", "Is it blue?"], "max_tokens": 4, "logprobs": 2}),
        )
        .ok();
    assert_eq!(two["choices"].as_array().unwrap().len(), 2);
    assert_eq!(two["choices"][0]["text"], one["choices"][0]["text"]);
    let counted = server
        .post("/v1/chat/completions/input_tokens", &about_clip(&json!({})))
        .ok();
    let listed = server.post("/tokenize", &about_clip(&json!({}))).ok();
    assert_eq!(counted["input_tokens"], listed["count"]);
    assert_eq!(counted["input_tokens_details"]["video"], 36);
    server
        .post("/detokenize", &json!({"tokens": [999_999]}))
        .fails(400, &["999999"]);
    let props = server.get("/props").ok();
    assert_eq!(
        props["modalities"],
        json!({"vision": true, "video": true, "audio": true})
    );
    let document = server.get("/openapi.json").ok();
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|m| *m == "get") {
            let reply = server.send(
                &method.to_uppercase(),
                &path.replace("{id}", "outro-tiny"),
                &[],
                b"",
            );
            assert!(
                reply.status != 405 && (reply.status != 404 || path.contains("files")),
                "{method} {path}: {}",
                reply.status
            );
        }
    }
}

#[test]
fn errors_have_openai_s_form() {
    let server = Server::start(&[
        "--api-key",
        "sesame",
        "--limit-mm-per-prompt",
        "video=1",
        "--max-model-len",
        "300",
    ]);
    assert_eq!(server.get("/health").status, 200);
    server.get("/v1/models").fails(401, &["Bearer"]);
    let key = [("authorization", "Bearer sesame")];
    let with = |body: &Value| server.send("POST", "/v1/chat/completions", &key, body.to_string().as_bytes());
    server
        .send("GET", "/v1/models", &[("authorization", "Bearer sesam")], b"")
        .fails(401, &[]);
    assert_eq!(
        server.send("GET", "/v1/models/outro-tiny", &key, b"").ok()["id"],
        "outro-tiny"
    );
    server
        .send("GET", "/v1/models/other", &key, b"")
        .fails(404, &["other"]);
    server.send("GET", "/nothing", &key, b"").fails(404, &[]);
    server
        .send("GET", "/v1/chat/completions", &key, b"")
        .fails(405, &[]);
    with(&json!({"model": "gpt", "messages": [{"role": "user", "content": "x"}]}))
        .fails(404, &["gpt", "outro-tiny"]);
    let strategy =
        with(&json!({"outro": {"strategy": "nonsense"}, "messages": [{"role": "user", "content": "x"}]}));
    assert_eq!(strategy.fails(400, &["nonsense"])["param"], "outro.strategy");
    server
        .send("POST", "/v1/chat/completions", &key, b"{")
        .fails(400, &["no JSON"]);
    server
        .send("POST", "/v1/chat/completions", &key, b"")
        .fails(400, &["empty"]);
    let deep = "[".repeat(100_000);
    server
        .send("POST", "/v1/chat/completions", &key, deep.as_bytes())
        .fails(400, &["no JSON"]);
    let twice = json!({"messages": [{"role": "user", "content": [
        {"type": "video_url", "video_url": {"url": clip()}}, {"type": "video_url", "video_url": {"url": clip()}},
    ]}]});
    with(&twice).fails(400, &["1 videos"]);
    let long = "word ".repeat(2000);
    with(&json!({"messages": [{"role": "user", "content": long}]})).fails(413, &["300"]);
    let broken = json!({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAGGZ0eXBtcDQy"}}, {"type": "text", "text": "?"}]}]});
    let reply = with(&broken);
    assert!([415, 422].contains(&reply.status), "{}", reply.text());
    assert!(!reply.text().contains("/tmp"), "{}", reply.text());
    with(&json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]}))
        .fails(403, &[]);
}

#[test]
fn several_models_one_at_a_time() {
    let other = fixture("qwen2-5-vl-tiny");
    let server = Server::start(&[
        "--model",
        "outro-tiny",
        "--model",
        &other,
        "--served-model-name",
        "first",
        "--served-model-name",
        "second",
    ]);
    let ask = |model: &str| {
        let body = json!({"model": model, "temperature": 0, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]});
        server.post("/v1/chat/completions", &body).ok()
    };
    let loaded = || -> Vec<bool> {
        let list = server.get("/v1/models").ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["loaded"] == true)
            .collect()
    };
    let before = ask("first");
    assert_eq!(loaded(), [true, false]);
    assert_eq!(ask("second")["model"], "second");
    assert_eq!(loaded(), [false, true]);
    assert_eq!(content(&ask("first")), content(&before));
}

/// What boards and scalers of deploy/serve ask for is what the server counts.
#[test]
fn boards_ask_for_what_is_counted() {
    let server = Server::start(&[]);
    let counted = server.get("/metrics").text();
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/serve");
    let mut seen = 0;
    for file in ["grafana.json", "keda.yaml"] {
        let text = std::fs::read_to_string(deploy.join(file))
            .unwrap()
            .replace("\\\"", "\"");
        for name in text.split("__name__=\"").skip(1) {
            let name = name.split('"').next().unwrap();
            assert!(counted.contains(name), "{file}: {name}");
            seen += 1;
        }
    }
    assert!(seen > 12, "{seen}");
}
