//! Which strategies tell most about the sinks of a model.

/// Names of strategies worth comparing on a model of `layers` layers and head size `dim`: OutRo and its halves, sweeps of
/// gamma and of the enhancement layer, Zero-K, sinks removed and doubled, each of the first `sinks` removed alone, pruning
/// where `media` can be pruned, and heads switched off from both ends of `heads`, which is ordered by sink score.
pub fn sweeps(
    heads: &[(usize, usize)],
    sinks: &[usize],
    layers: usize,
    dim: usize,
    media: bool,
) -> Vec<String> {
    let mut all: Vec<String> = ["baseline", "outro", "outro:relax=false", "outro:rotate=false"]
        .map(str::to_owned)
        .to_vec();
    all.extend(["0.5", "1", "2", "3", "4"].map(|gamma| format!("outro:gamma={gamma}")));
    let end = layers.saturating_sub(2).max(1);
    all.extend(
        (0..end)
            .step_by(end.div_ceil(8))
            .map(|l| format!("outro:layers={l}")),
    );
    let powers = |most: usize| (0..).map(|e| 1usize << e).take_while(move |n| *n <= most);
    all.extend(powers((dim / 2).min(32)).map(|n| format!("zero-k:top={n}")));
    for what in ["sink-value", "sink-attention"] {
        all.extend(["0", "2"].map(|scale| format!("{what}:scale={scale}")));
    }
    let alone = sinks.iter().take(4).filter(|_| sinks.len() > 1);
    all.extend(alone.map(|position| format!("sink-attention:scale=0,sinks={position}")));
    all.extend((media && layers > 2).then(|| format!("prune:layer={},keep=0.2", (layers / 7).max(1))));
    for n in powers((heads.len() / 4).min(32)) {
        let off = |list: &mut dyn Iterator<Item = &(usize, usize)>| {
            let names: Vec<String> = list.take(n).map(|(l, h)| format!("{l}.{h}")).collect();
            format!("heads:off={}", names.join("+"))
        };
        all.push(off(&mut heads.iter()));
        all.push(off(&mut heads.iter().rev()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use outro::OutRoConfig;
    use outro::strategy::Strategy;

    #[test]
    fn every_name_is_a_strategy() {
        let base = OutRoConfig::default();
        let all = sweeps(&[(0, 1), (0, 0), (1, 1), (1, 0)], &[0, 7], 4, 16, true);
        assert!(all.contains(&"heads:off=0.1".to_owned()) && all.contains(&"heads:off=1.0".to_owned()));
        assert!(all.contains(&"sink-attention:scale=0,sinks=7".to_owned()));
        assert!(all.iter().all(|name| Strategy::parse(name, &base).is_ok()));
        let text = sweeps(&[(0, 1)], &[0], 4, 16, false);
        assert!(!text.iter().any(|name| name.contains("prune")), "{text:?}");
    }
}
