use super::*;
use crate::hook::settings::{Form, SETTINGS, setting, settings_of};

/// The switches shown for a kind are those that it takes, with its defaults.
#[test]
fn kinds_are_as_they_are_described() {
    let base = OutRoConfig::default();
    for kind in &KINDS {
        let full = format!("{}:{}", kind.name, kind.switches());
        let full = Strategy::parse(full.trim_end_matches(':'), &base).unwrap();
        if let Ok(short) = Strategy::parse(kind.name, &base) {
            let short = Strategy {
                name: full.name.clone(),
                ..short
            };
            assert_eq!(full, short, "defaults of {}", kind.name);
        }
        let unknown = format!("{}:nothing=1", kind.name);
        let message = Strategy::parse(&unknown, &base).unwrap_err().to_string();
        assert!(
            message.contains(kind.name) || message.contains("nothing"),
            "{message}"
        );
    }
}

/// Every row of the table can be set by its name, refuses what it cannot be, and has the default that it says.
#[test]
fn the_table_of_settings_is_true() {
    let base = OutRoConfig::default();
    for of in ["outro", "vcd", "mod", "avcd", "farsight", "var"] {
        let rows = settings_of(of).filter(|s| !s.default.is_empty());
        let all: Vec<String> = rows.map(|s| format!("{}={}", s.name, s.default)).collect();
        // Of interval and layers one can be there.
        let all = all.join(",").replace("interval=default,", "");
        let [mut full, plain] =
            [format!("{of}:{all}"), of.to_owned()].map(|n| Strategy::parse(&n, &base).unwrap());
        full.name.clone_from(&plain.name);
        assert_eq!(full, plain, "defaults of {of}");
    }
    for row in SETTINGS {
        assert_eq!(
            setting(row.of, row.name).unwrap().help,
            row.help,
            "{} twice",
            row.name
        );
        let good = match row.form {
            Form::Flag => "true",
            Form::Heads => "0.1",
            Form::Word(words) => words[0],
            _ => "1",
        };
        let needed =
            settings_of(row.of).filter(|s| s.of != "var" && s.default.is_empty() && s.name != row.name);
        let needed = needed
            .filter(|s| s.name != "sinks")
            .map(|s| format!("{}=1", s.name));
        let mut switches: Vec<String> = needed.collect();
        switches.push(format!("{}={good}", row.name));
        let name = format!("{}:{}", row.of, switches.join(","));
        let read = Strategy::parse(&name, &base);
        assert!(read.is_ok(), "{name}: {read:?}");
        let wrong = name.replace(&format!("{}={good}", row.name), &format!("{}=x", row.name));
        let message = Strategy::parse(&wrong, &base).unwrap_err().to_string();
        assert!(
            message.contains(row.name) && message.contains(&row.form.words()),
            "{message}"
        );
        if row.name.len() > 3 {
            let slip = name.replace(&format!("{}=", row.name), &format!("{}s=", row.name));
            let message = Strategy::parse(&slip, &base).unwrap_err().to_string();
            assert!(message.contains(&format!("mean `{}`", row.name)), "{message}");
        }
        let outside: &[&str] = match row.form {
            Form::Number(f32::MIN, _) => &["nan", "inf"],
            Form::Number(_, 1.0) => &["-0.001", "1.001", "nan"],
            Form::Number(..) => &["-0.001", "inf"],
            Form::Above(_, 1.0) => &["0", "1e-60", "1.001"],
            Form::Above(..) => &["0", "1e-60", "1e-40", "inf"],
            Form::Whole(1, _) | Form::MaybeWhole(1, _) => &["0", "1.5"],
            Form::Whole(_, 999) => &["1000"],
            Form::Whole(..) | Form::MaybeWhole(..) | Form::List => &["-1", "1.5"],
            Form::Flag => &["1"],
            Form::Heads => &["3"],
            Form::Word(_) => &["neither"],
        };
        for value in outside {
            let wrong = name.replace(&format!("{}={good}", row.name), &format!("{}={value}", row.name));
            assert!(Strategy::parse(&wrong, &base).is_err(), "{wrong}");
        }
    }
}

#[test]
fn tokens_are_dropped_once() {
    let twice = "outro/prune:layer=1,keep=0.5/prune:layer=3,keep=0.5";
    let refused = Strategy::parse(twice, &OutRoConfig::default()).unwrap_err();
    assert!(refused.to_string().contains("prune is there twice"), "{refused}");
}

#[test]
fn numbers_are_held_against_the_model() {
    let model = crate::spec::shapes::config("qwen2.5-omni-3b").unwrap().text;
    let base = OutRoConfig::default();
    let check = |name: &str| {
        let strategy = Strategy::parse(name, &base)?;
        strategy.check(&model)
    };
    for good in [
        "baseline",
        "outro:layers=0,5",
        "outro:layers=0+35",
        "prune:layer=5,keep=0.2",
        "heads:off=35.15",
        "var",
        "zero-k:top=128",
    ] {
        check(good).unwrap();
    }
    for (bad, part) in [
        ("outro:layers=99", "0 to 35"),
        ("vcd+outro:start_layer=36", "0 to 35"),
        ("prune:layer=35,keep=0.2", "0 to 35"),
        ("heads:off=99.0", "0 to 35"),
        ("heads:off=0.99", "0 to 15"),
        ("zero-k:top=129", "128"),
        ("var:start=36", "0 to 35"),
        ("var:dims=458+2048", "0 to 2047"),
    ] {
        let error = check(bad).unwrap_err().to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
}

#[test]
fn slips_and_contradictions_are_named() {
    let base = OutRoConfig::default();
    let error = |name: &str| Strategy::parse(name, &base).unwrap_err().to_string();
    for (bad, part) in [
        ("otro", "mean `outro`"),
        ("vdc+outro", "mean `vcd`"),
        ("outro:gama=2", "mean `gamma`"),
        ("vcd:alpa=2", "mean `alpha`"),
        ("outro:gamma=2,gamma=3", "twice"),
        ("vcd:alpha=1,alpha=1", "twice"),
        ("outro:layers=0,interval=2", "decide the same"),
    ] {
        assert!(error(bad).contains(part), "{bad}: {}", error(bad));
    }
    let outro = outro_switches("vcd+outro:layers=0,5,gamma=2/prune:layer=1,keep=1").unwrap();
    assert_eq!(
        outro,
        [("layers".into(), "0+5".into()), ("gamma".into(), "2".into())]
    );
    assert_eq!(outro_switches("vcd").unwrap(), []);
}

#[test]
fn plus_and_slash_join() {
    let base = OutRoConfig::default();
    let read = |name: &str| Strategy {
        name: String::new(),
        ..Strategy::parse(name, &base).unwrap()
    };
    assert_eq!(read("vcd+outro"), read("outro/vcd"));
    let s = read("vcd:alpha=0.5,seed=7+outro:layers=0+5,gamma=2+heads:off=1.0+1.1/farsight");
    assert_eq!(s.method.as_ref().unwrap().layers, Some(vec![0, 5]));
    assert_eq!((s.extras.len(), s.hooks(&[]).len()), (2, 3));
    let Some(Contrast::Vcd(vcd)) = s.contrast else {
        panic!("{:?}", s.contrast)
    };
    assert_eq!((vcd.alpha, vcd.beta, vcd.noise.seed), (0.5, 0.1, 7));
    let error = Strategy::parse("vcd:gamma=2", &base).unwrap_err().to_string();
    assert!(error.contains("vcd:gamma") && error.contains("alpha"), "{error}");
}

#[test]
fn names_are_read() {
    let base = OutRoConfig {
        gamma: 1.5,
        ..OutRoConfig::default()
    };
    let plain = Strategy::parse("baseline", &base).unwrap();
    assert!(plain.uses_prefix() && plain.hooks(&[]).is_empty());
    assert_eq!(
        Strategy::parse("outro", &base).unwrap().method,
        Some(base.clone())
    );
    let s = Strategy::parse("outro:relax=false,layers=3+1", &base).unwrap();
    let want = OutRoConfig {
        relax: false,
        layers: Some(vec![1, 3]),
        ..base.clone()
    };
    assert_eq!(
        (s.name.as_str(), s.method),
        ("outro:relax=false,layers=3+1", Some(want))
    );
    let s = Strategy::parse("outro:gamma=2/prune:layer=5,keep=0.2/zero-k:top=3", &base).unwrap();
    let prune = PruneConfig { layer: 5, keep: 0.2 };
    assert_eq!(
        s.extras,
        [
            Extra::Prune(prune),
            Extra::Change(Change::ZeroK { top: 3, sinks: None })
        ]
    );
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<Strategy>(&json).unwrap(), s);
    for bad in [
        "",
        "vcdd",
        "vcd:alpha=-1",
        "vcd:alpha=nan",
        "vcd:beta=2",
        "vcd:gamma=1",
        "vcd:steps=1000",
        "vcd+mod",
        "outro++vcd",
        "outro+",
        "mod:keep=x",
        "avcd:entropy",
        "farsight:sigma=-1",
        "farsight:sigma=inf",
        "var:dims=1,x",
        "baseline+baseline",
        "baseline:gamma=1",
        "outro:gamma",
        "outro:gama=1",
        "outro:gamma=x",
        "outro/outro",
        "outro/baseline",
        "prune",
        "prune:layer=1,keep=0",
        "heads:off=1",
    ] {
        assert!(Strategy::parse(bad, &base).is_err(), "{bad}");
    }
}

/// The older key of the gate's temperature is read, and names of runs have today's.
#[test]
fn older_keys_are_names_of_today() {
    for (old, today) in [
        ("", ""),
        ("vcd+outro", "vcd+outro"),
        ("outro:temperature=0.2", "outro:gate_temperature=0.2"),
        (
            "vcd:alpha=1+outro:gamma=2, temperature=0.2,layers=0+5/prune:layer=1,keep=0.5",
            "vcd:alpha=1+outro:gamma=2,gate_temperature=0.2,layers=0+5/prune:layer=1,keep=0.5",
        ),
    ] {
        assert_eq!(canonical_name(old), today);
        assert_eq!(canonical_name(today), today);
    }
    let base = OutRoConfig::default();
    let parsed = |name| Strategy::parse(name, &base).unwrap();
    assert_eq!(
        parsed("outro:temperature=0.2"),
        parsed("outro:gate_temperature=0.2")
    );
}
