//! Damages of a model's files: values of JSON, bits, and ends.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::{Map, Number, Value, json};

/// The numbers of one run.
pub(super) fn random(seed: u64, run: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ run)
}

/// One of `values`, of which there are some.
pub(super) fn one_of<'v, V>(random: &mut Rng, values: &'v [V]) -> &'v V {
    &values[random.usize(..values.len())]
}

/// Does one to three damages to files of the model; what they are.
pub(super) fn damage(model: &Path, random: &mut Rng) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    files.sort();
    let mut done = Vec::new();
    for _ in 0..=random.usize(..3) {
        let path = one_of(random, &files).clone();
        let name = path.strip_prefix(model).unwrap_or(&path).display().to_string();
        let Ok(content) = fs::read(&path) else { continue };
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let (said, damaged) = match (is_json, random.usize(..8)) {
            (_, 0) => {
                fs::remove_file(&path)?;
                done.push(format!("{name} removed"));
                continue;
            }
            (true, 1..=6) => match serde_json::from_slice(&content) {
                Ok(value) => in_json(value, random),
                Err(_) => in_bytes(content, random),
            },
            _ => in_bytes(content, random),
        };
        fs::write(&path, damaged).with_context(|| format!("`{}`", path.display()))?;
        done.push(format!("{name}: {said}"));
    }
    Ok(done)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("`{}`", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// Another value at some place, or none, or one more.
fn in_json(mut value: Value, random: &mut Rng) -> (String, Vec<u8>) {
    let said = change(&mut value, String::new(), random);
    (said, value.to_string().into_bytes())
}

/// Changes a value within `here`, whose path is `at`, or `here` itself; what was done.
fn change(here: &mut Value, mut at: String, random: &mut Rng) -> String {
    let goes_deeper = at.is_empty() || random.usize(..4) > 0;
    match here {
        Value::Object(fields) if !fields.is_empty() && goes_deeper => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = one_of(random, &keys);
            at = format!("{at}.{key}");
            if random.usize(..6) == 0 {
                fields.shift_remove(key);
                return format!("{at} removed");
            }
            change(fields.get_mut(key).expect("it is one of the keys"), at, random)
        }
        Value::Array(items) if !items.is_empty() && goes_deeper => {
            let place = random.usize(..items.len());
            at = format!("{at}[{place}]");
            if random.usize(..6) == 0 {
                let again = items[place].clone();
                items.extend(std::iter::repeat_n(again, 1 + random.usize(..3)));
                return format!("{at} repeated");
            }
            change(&mut items[place], at, random)
        }
        _ => {
            *here = other_value(here, random);
            let shown: String = here.to_string().chars().take(40).collect();
            format!("{at} is {shown}")
        }
    }
}

/// A value that a reader may not expect, often of the kind that was there.
fn other_value(old: &Value, random: &mut Rng) -> Value {
    if let (Some(number), true) = (old.as_i64(), random.usize(..2) == 0) {
        let near = [
            number.wrapping_add(1),
            number.wrapping_sub(1),
            number.wrapping_mul(2),
            number / 2,
            number.wrapping_neg(),
            number << 20,
        ];
        return json!(*one_of(random, &near));
    }
    if let (Some(text), true) = (old.as_str(), random.usize(..2) == 0) {
        let texts =
            [String::new(), text.to_uppercase(), text.repeat(3), format!("{text}\u{0}"), "x".repeat(100_000), "../../x".into()];
        return Value::String(one_of(random, &texts).clone());
    }
    let numbers: [f64; 12] =
        [0.0, -1.0, 1.0, 0.5, 1e-30, 1e30, 1e308, 2_147_483_647.0, 2_147_483_648.0, 4_294_967_295.0, 4_294_967_296.0, 1e18];
    match random.usize(..8) {
        0 => Value::Null,
        1 => Value::Bool(random.usize(..2) == 0),
        2 => Value::String("x".repeat(random.usize(..50))),
        3 => json!([old.clone(), old.clone()]),
        4 => Value::Object(Map::from_iter([("x".to_owned(), old.clone())])),
        5 => (0..random.usize(..200)).fold(old.clone(), |inner, _| json!([inner])),
        _ => {
            let number = *one_of(random, &numbers);
            // Whole ones as a file has them, without a point.
            if number.fract() == 0.0 && number.abs() < 9e18 { json!(number as i64) } else { Number::from_f64(number).into() }
        }
    }
}

/// Bits that flip, most of them near the beginning where a header is; bytes of ones; another end.
fn in_bytes(mut content: Vec<u8>, random: &mut Rng) -> (String, Vec<u8>) {
    const HEADER: usize = 4096;
    if content.is_empty() {
        return ("16 bytes in an empty file".into(), vec![0; 16]);
    }
    let near = content.len().min(HEADER);
    let span = if random.usize(..3) > 0 { near } else { content.len() };
    match random.usize(..4) {
        0 | 1 => {
            let n = 1 + random.usize(..8);
            for _ in 0..n {
                let place = random.usize(..span);
                content[place] ^= 1 << random.usize(..8);
            }
            (format!("{n} bits of the first {span} bytes"), content)
        }
        2 => {
            let start = random.usize(..span);
            let end = (start + 8).min(content.len());
            content[start..end].fill(if random.usize(..2) == 0 { 0xff } else { 0 });
            (format!("bytes {start} to {end} filled"), content)
        }
        _ => {
            let n = random.usize(..content.len() + content.len() / 4 + 1);
            let said = format!("{n} bytes instead of {}", content.len());
            content.resize(n, 0);
            (said, content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damages_follow_from_seed_and_number_and_change_something() {
        let config = json!({"hidden_size": 32, "rope": {"theta": 1e4, "type": "linear"}, "ids": [1, 2]}).to_string();
        let run = |seed, number| {
            let directory = tempfile::tempdir().unwrap();
            let [config_file, weights] = ["config.json", "model.safetensors"].map(|name| directory.path().join(name));
            fs::write(&config_file, &config).unwrap();
            fs::write(&weights, [7; 100]).unwrap();
            let done = damage(directory.path(), &mut random(seed, number)).unwrap();
            (done, [config_file, weights].map(|path| fs::read(path).ok()))
        };
        let before = [Some(config.clone().into_bytes()), Some(vec![7; 100])];
        let changed = (0..200).filter(|&number| run(1, number).1 != before).count();
        assert!(changed > 190, "{changed} of 200 changed something");
        assert_eq!(run(1, 5), run(1, 5));
        assert_ne!(
            (0..20).map(|number| run(1, number)).collect::<Vec<_>>(),
            (0..20).map(|number| run(2, number)).collect::<Vec<_>>()
        );
    }
}
