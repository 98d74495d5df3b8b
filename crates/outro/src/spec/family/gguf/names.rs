//! What the tensors of llama.cpp's files are called beside those of a family's checkpoint.

use crate::spec::config::{AudioConfig, Config, VisionConfig};
use crate::weights::checkpoint::Renames;
use crate::weights::checkpoint::gguf::Gguf;

/// Parts of a decoder layer, behind `blk.N.` and `layers.N.`.
const DECODER: [(&str, &str); 15] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];

/// The audio tower's tensors, behind `a.` and `Names::audio`.
const AUDIO: [(&str, &str); 15] = [
    ("conv1d.1", "conv1"),
    ("conv1d.2", "conv2"),
    ("conv2d.1", "conv2d1"),
    ("conv2d.2", "conv2d2"),
    ("conv2d.3", "conv2d3"),
    ("conv_out", "conv_out"),
    ("post_ln", "ln_post"),
    ("blk.*.ln1", "layers.*.self_attn_layer_norm"),
    ("blk.*.attn_q", "layers.*.self_attn.q_proj"),
    ("blk.*.attn_k", "layers.*.self_attn.k_proj"),
    ("blk.*.attn_v", "layers.*.self_attn.v_proj"),
    ("blk.*.attn_out", "layers.*.self_attn.out_proj"),
    ("blk.*.ln2", "layers.*.final_layer_norm"),
    ("blk.*.ffn_up", "layers.*.fc1"),
    ("blk.*.ffn_down", "layers.*.fc2"),
];

/// What turns its rows into tokens.
const AUDIO_PROJECTOR: [(&str, &str); 3] = [
    ("mm.a.fc", "proj"),
    ("mm.a.mlp.1", "proj1"),
    ("mm.a.mlp.2", "proj2"),
];

/// The table of a model; `towers` are its files of towers.
pub(super) fn of(config: &Config, towers: Option<&Gguf>) -> Renames {
    let names = &config.names;
    let head = names.lm_head.strip_suffix(".weight").unwrap_or(names.lm_head);
    let mut rows = vec![
        ["token_embd".to_owned(), format!("{}embed_tokens", names.text)],
        ["output_norm".to_owned(), format!("{}norm", names.text)],
        ["output".to_owned(), head.to_owned()],
    ];
    let layer = |(theirs, ours): &(&str, &str)| {
        [
            format!("blk.*.{theirs}"),
            format!("{}layers.*.{ours}", names.text),
        ]
    };
    rows.extend(DECODER.iter().map(layer));
    let Some(towers) = towers else {
        return Renames(rows);
    };
    if let Some(vision) = &config.vision {
        see(config, vision, towers, &mut rows);
    }
    if let Some(AudioConfig { .. }) = &config.audio {
        let tower = AUDIO
            .iter()
            .map(|(theirs, ours)| [format!("a.{theirs}"), format!("{}{ours}", names.audio)]);
        let last = AUDIO_PROJECTOR
            .iter()
            .map(|(theirs, ours)| [(*theirs).to_owned(), format!("{}{ours}", names.audio)]);
        rows.extend(tower.chain(last));
    }
    Renames(rows)
}

/// The vision tower's tensors.
fn see(config: &Config, vision: &VisionConfig, towers: &Gguf, rows: &mut Vec<[String; 2]>) {
    let (prefix, merger, n) = (config.names.vision, config.names.merger, &vision.names);
    let mut add = |theirs: &str, ours: String| rows.push([theirs.to_owned(), ours]);
    add("v.patch_embd", format!("{prefix}{}", n.patch));
    add("v.position_embd", format!("{prefix}{}", n.positions));
    add("v.post_ln", format!("{prefix}{}", n.norm));
    for (theirs, ours) in ["mm.0", "mm.2"].into_iter().zip(n.merge) {
        add(theirs, format!("{merger}{ours}"));
    }
    let mut block = |theirs: &str, ours: &str| {
        let ours = format!("{prefix}{}*.{ours}", n.blocks);
        add(&format!("v.blk.*.{theirs}"), ours);
    };
    block("ln1", n.norms[0]);
    block("ln2", n.norms[1]);
    block("attn_out", n.proj);
    match n.qkv {
        [q, k, v] => {
            for (theirs, ours) in [("attn_q", q), ("attn_k", k), ("attn_v", v)] {
                block(theirs, ours);
            }
        }
        fused => block("attn_qkv", fused.first().unwrap_or(&"")),
    }
    match n.mlp {
        [up, down] => {
            // Files of old converters have the two names the wrong way round.
            let swapped = matches!(towers.shape("v.blk.0.ffn_down.weight"), Some([out, inp]) if *inp == vision.hidden && out != inp);
            let (first, second) = if swapped {
                ("ffn_down", "ffn_up")
            } else {
                ("ffn_up", "ffn_down")
            };
            block(first, up);
            block(second, down);
        }
        gated => {
            let mlp = gated.first().unwrap_or(&"");
            for part in ["gate", "up", "down"] {
                block(&format!("ffn_{part}"), &format!("{mlp}.{part}_proj"));
            }
        }
    }
    for (i, layer) in vision.deepstack.iter().enumerate() {
        let parts = [("norm", n.deepstack[1]), ("fc1", n.merge[0]), ("fc2", n.merge[1])];
        for (theirs, ours) in parts {
            rows.push([
                format!("v.deepstack.{layer}.{theirs}"),
                format!("{prefix}{}{i}.{ours}", n.deepstack[0]),
            ]);
        }
    }
}
